"""MPENet: face super-resolution with progressive embedding of multi-scale face priors (Zhang and Liu, section 3).

A face of about 16 pixels is enlarged by 8 in several steps. Each step feeds its result back into the next one, together
with what two branches know of faces: heatmaps of landmarks, found in the image of the first step, and action units,
found in that of the second. The paper gives no sizes of layers but 48 channels and 6 groups. This is what was chosen:

- The recurrent block is SRFBN's feedback block without its first convolution (Li et al., CVPR 2019): kernels of 8 with
  a stride of 4 between features of twice and of eight times the image's size, one PReLU slope a layer, and no
  normalization. So the shallow features, which a pixel shuffle enlarges by 2, have the size that the block needs.
- Each step has its own 1x1 and 3x3 convolution that fuse its inputs, since their number differs: the first has neither
  feedback nor prior. Between them is a leaky ReLU. All else is shared by the steps.
- Landmarks are embedded from the second step on, action units from the third on, in their place.
- The bilinear enlargement of (4) has centered grids; edge pixels are repeated.

| part | parameters with 48 channels, 6 groups, 68 points, 12 units |
|---|---|
| shallow extraction, fusions, recurrent block, reconstruction | 5,376, 77,856, 1,876,583, 148,804 |
| alignment branch, action unit branch | see alignment.py, 11,182,668 |

Ours, for videos: the second step becomes time. `advance` enlarges a frame in one step that starts from the feedback and
the heatmaps of the frame before, moved along with the face. No weight is added for it.

No code of the authors is known, and none was read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.base import Network
from vidsr.nets.layers.blocks import conv3x3, start_near_zero
from vidsr.nets.layers.fused_conv import can_fuse, convolve_and_rectify
from vidsr.nets.mpenet.alignment import AlignmentBranch, read_heatmaps
from vidsr.nets.mpenet.config import MPENetConfig
from vidsr.nets.mpenet.units import UnitClassifier, unit_maps

SHALLOW = 2  # how much larger features are than the image; the recurrent block enlarges by the rest
KERNEL, STRIDE, PADDING = 8, 4, 2
INITIAL_SLOPE, FUSION_SLOPE = 0.2, 0.2


class Feedback(NamedTuple):
    """What a frame hands on: F_fb, B x width x 2h x 2w, and the heatmaps of its result, B x points x 2h x 2w."""

    feature: Tensor
    heatmaps: Tensor


class Restored(NamedTuple):
    """The image of every step, each B x 3 x H x W float32, not clamped, and what the branches found on the way.

    `heatmaps`, B x points x 2h x 2w, are those of the image of the first step, or in `advance` of its only one;
    `units`, B x units, are the scores of the action units. Both are None without their branches. `feature` is F_fb.
    """

    images: tuple[Tensor, ...]
    heatmaps: Tensor | None
    units: Tensor | None
    feature: Tensor


class _Projection(nn.Module):
    """A convolution or deconvolution and a PReLU with one slope; one pass where torch supports it (fused_conv.py)."""

    def __init__(self, conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
        super().__init__()
        self.conv, self.activate = conv, nn.PReLU(1, INITIAL_SLOPE)
        _keep_variance(conv, INITIAL_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        if not can_fuse(x, self.conv.weight):
            result: Tensor = self.activate(self.conv(x))
            return result
        slope = float(self.activate.weight)
        if isinstance(self.conv, nn.Conv2d):
            return convolve_and_rectify(x, self.conv, slope)
        return F.leaky_relu(self.conv(x), slope, inplace=True)


def _keep_variance(conv: nn.Conv2d | nn.ConvTranspose2d, slope: float) -> None:
    """He's initial weights for an activation of this slope; with torch's, nothing of the image would get far.

    An output of a deconvolution is a sum over the few inputs that reach it, not over its whole kernel.
    """
    terms = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
    if isinstance(conv, nn.ConvTranspose2d):
        terms //= conv.stride[0] * conv.stride[1]
    nn.init.normal_(conv.weight, std=(2 / ((1 + slope**2) * terms)) ** 0.5)
    assert conv.bias is not None
    nn.init.zeros_(conv.bias)


def _enlarging(width: int) -> _Projection:
    return _Projection(nn.ConvTranspose2d(width, width, KERNEL, STRIDE, PADDING))


class RecurrentBlock(nn.Module):
    """The prior-embedded recurrent block behind its fusion (2): groups of a projection up and one down again.

    Each projection sees, through a 1x1 convolution, all results of its size so far; the first up sees the input.
    """

    def __init__(self, width: int, groups: int) -> None:
        """`width` channels, `groups` projections in each direction."""
        super().__init__()

        def joining(parts: int) -> _Projection:
            return _Projection(nn.Conv2d(parts * width, width, 1))

        self.up = nn.ModuleList(_enlarging(width) for _ in range(groups))
        self.down = nn.ModuleList(_Projection(nn.Conv2d(width, width, KERNEL, STRIDE, PADDING)) for _ in range(groups))
        self.join_low = nn.ModuleList(joining(group + 1) for group in range(1, groups))
        self.join_high = nn.ModuleList(joining(group + 1) for group in range(1, groups))
        self.join_all = joining(groups)

    def forward(self, fused: Tensor) -> Tensor:
        """B x width x h x w to F_fb of the same shape."""
        low, high = [fused], []
        for group, (up, down) in enumerate(zip(self.up, self.down, strict=True)):
            high.append(up(self.join_low[group - 1](torch.cat(low, dim=1)) if group else fused))
            low.append(down(self.join_high[group - 1](torch.cat(high, dim=1)) if group else high[0]))
        result: Tensor = self.join_all(torch.cat(low[1:], dim=1))
        return result


class Reconstruction(nn.Module):
    """The residual image of a step (3): a deconvolution and a 3x3 convolution, whose initial weights are small."""

    def __init__(self, width: int) -> None:
        """`width` channels in, 3 out at four times the size."""
        super().__init__()
        self.enlarge, self.last = _enlarging(width), conv3x3(width, 3)
        start_near_zero(self.last)

    def forward(self, feature: Tensor) -> Tensor:
        """B x width x 2h x 2w to B x 3 x H x W."""
        result: Tensor = self.last(self.enlarge(feature))
        return result


class Fusion(nn.Module):
    """Fuses the inputs of a step (3.1): a 1x1 and a 3x3 convolution."""

    def __init__(self, channels: int, width: int) -> None:
        """From `channels` of all inputs to `width`."""
        super().__init__()
        self.mix, self.spread = nn.Conv2d(channels, width, 1), conv3x3(width, width)
        _keep_variance(self.mix, FUSION_SLOPE)
        _keep_variance(self.spread, 1.0)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Inputs B x ... x 2h x 2w to B x width x 2h x 2w."""
        result: Tensor = self.spread(F.leaky_relu(self.mix(torch.cat(inputs, dim=1)), FUSION_SLOPE))
        return result


class MPENet(Network):
    """The complete network. `forward` enlarges images B x 3 x h x w in 0..1 to B x 3 x H x W float32, not clamped."""

    def __init__(self, config: MPENetConfig) -> None:
        """Builds the network of `config`."""
        super().__init__()
        self.config: MPENetConfig = config
        width = config.width
        self.shallow = conv3x3(3, width * SHALLOW**2)
        _keep_variance(self.shallow, 1.0)
        self.fusions = nn.ModuleList(Fusion(self._fused(step), width) for step in range(config.steps))
        self.recurrent = RecurrentBlock(width, config.groups)
        self.reconstruction = Reconstruction(width)
        sizes = config.alignment_width, config.hourglasses, config.hourglass_depth
        self.alignment = AlignmentBranch(config.points, *sizes) if config.points else None
        self.units = UnitClassifier(len(config.units)) if config.units else None

    def _fused(self, step: int) -> int:
        """The number of channels that a step fuses; steps are counted from 0."""
        config = self.config
        if step == 0:
            return config.width
        prior = len(config.units) if config.units and step > 1 else config.points
        return 2 * config.width + prior

    def forward(self, image: Tensor) -> Tensor:
        """The image of the last step; sides must be multiples of `multiple_of` in the configuration."""
        return self.restore(image).images[-1]

    def restore(self, image: Tensor) -> Restored:
        """All steps on images B x 3 x h x w in 0..1, which start afresh."""
        config, shallow, base = self.config, self._shallow(image), self._enlarged(image)
        feature = self.recurrent(self.fusions[0](shallow))
        images = [self._image(feature, base)]
        heatmaps = None if self.alignment is None else self.alignment(images[0].to(image.dtype))
        units = None
        for step in range(1, config.steps):
            if self.units is not None and step == 2:
                units = self.units(images[1].to(image.dtype))
            prior = heatmaps if units is None else self._unit_maps(units, heatmaps, shallow)
            inputs = [shallow, feature] if prior is None else [shallow, feature, prior.to(shallow.dtype)]
            feature = self.recurrent(self.fusions[step](*inputs))
            images.append(self._image(feature, base))
        return Restored(tuple(images), heatmaps, units, feature)

    def advance(self, image: Tensor, feedback: Feedback) -> Restored:
        """One step on the next frame, B x 3 x h x w, from the feedback of the frame before (see `moved`).

        Raises ValueError for a network of a single step, which has no weights for it.
        """
        if self.config.steps < 2:
            raise ValueError("a network of one step takes no feedback")
        shallow, base = self._shallow(image), self._enlarged(image)
        prior = [feedback.heatmaps.to(shallow.dtype)] if self.alignment is not None else []
        feature = self.recurrent(self.fusions[1](shallow, feedback.feature.to(shallow.dtype), *prior))
        result = self._image(feature, base)
        heatmaps = None if self.alignment is None else self.alignment(result.to(image.dtype))
        return Restored((result,), heatmaps, None, feature)

    def feedback(self, restored: Restored) -> Feedback:
        """What a frame hands on to the next one. Heatmaps are those of its last image."""
        feature = restored.feature
        if self.alignment is None:
            return Feedback(feature, feature[:, :0])
        if len(restored.images) == 1 and restored.heatmaps is not None:
            return Feedback(feature, restored.heatmaps)
        return Feedback(feature, self.alignment(restored.images[-1].to(feature.dtype)))

    def _shallow(self, image: Tensor) -> Tensor:
        return F.pixel_shuffle(self.shallow(image), SHALLOW)

    def _enlarged(self, image: Tensor) -> Tensor:
        image = image if image.dtype == torch.float64 else image.float()
        return F.interpolate(image, scale_factor=float(self.config.scale), mode="bilinear", align_corners=False)

    def _image(self, feature: Tensor, base: Tensor) -> Tensor:
        residual: Tensor = self.reconstruction(feature)
        return base + residual.to(base.dtype)

    def _unit_maps(self, scores: Tensor, heatmaps: Tensor | None, like: Tensor) -> Tensor:
        """The probability of each unit as a map, with `unit_maps` only in its own part of the face."""
        height, width = like.shape[-2:]
        values = torch.sigmoid(scores)[..., None, None].expand(-1, -1, height, width)
        if not self.config.has_unit_maps or heatmaps is None:
            return values
        maps = unit_maps(read_heatmaps(heatmaps.detach()), self.config.units, height, width)
        return values * maps.to(values.dtype)


def moved(feedback: Feedback, motion: Tensor, size: tuple[int, int] | None = None) -> Feedback:
    """Feedback moved along with the face, for an image of `size` (height, width), by default that of the one before.

    `motion`, B x 2 x 3, brings a place in the current image to the same place of the face in the frame before, both in
    pixels of the small images, whose first pixel has its center at (0.5, 0.5). Beyond the border edge values are
    repeated.
    """
    both = torch.cat((feedback.feature, feedback.heatmaps.to(feedback.feature.dtype)), dim=1)
    before_height, before_width = both.shape[-2:]
    height, width = both.shape[-2:] if size is None else (SHALLOW * side for side in size)
    motion = motion.to(both.device, torch.float64 if both.dtype == torch.float64 else torch.float32)
    x = (torch.arange(width, device=both.device, dtype=motion.dtype) + 0.5) / SHALLOW
    y = (torch.arange(height, device=both.device, dtype=motion.dtype) + 0.5) / SHALLOW
    a, b, c, d, e, f = (motion[:, i, j, None, None] for i in range(2) for j in range(3))
    across = (a * x + b * y[:, None] + c) * (2 * SHALLOW / before_width) - 1
    down = (d * x + e * y[:, None] + f) * (2 * SHALLOW / before_height) - 1
    grid = torch.stack((across, down), dim=-1)
    sampled = F.grid_sample(both.to(grid.dtype), grid, padding_mode="border", align_corners=False).to(both.dtype)
    channels = feedback.feature.shape[1]
    return Feedback(sampled[:, :channels], sampled[:, channels:])
