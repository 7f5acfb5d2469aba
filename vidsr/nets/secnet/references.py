"""The branch of reference photographs (ours): details of a known face, added to a result of SECNet.

What it takes from HIME (dissertation, section 5.3): one channel of a photograph in place of three, folded by
space-to-depth (5.3.1); an alignment whose offsets depend on both images (5.3.2); an aggregation of any number of
references by content (5.3.3). Where it differs, and why:

- Photographs stay images until they are aligned. A pixel of a folded feature holds the 16 of a square; between two such
  pixels there is nothing to interpolate, so that aligning features to a fraction of a pixel destroys the detail that is
  to be transferred. Here the pose of the face and the offsets act on the photograph at full size, in one sampling, and
  the sample is folded afterwards.
- The guide of the alignment sees the result of the network, which has more detail than the small frame.
- Detail is relative to the luma around it (Weber contrast), and is multiplied by that of the result where it is added:
  a photograph that was taken in other light has other brightness and shading.
- Weights do not sum to 1: what no photograph gets stays with the result. From scores s_k in 0..1, which training makes
  probabilities that photograph k fits, its weight is s_k^2 / sum_j s_j. The sum of the weights is a mean of the scores,
  so that photographs that do not fit count little, however many there are.
- The branch follows the network, whose weights, memory and past results do not change. It starts without effect.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.blocks import LEAKY_SLOPE, active3x3, conv3x3, depth_to_space, leaky_relu, run, space_to_depth
from vidsr.nets.layers.fused_conv import ActivatedConv2d

LUMA = (0.299, 0.587, 0.114)
SURROUNDINGS = 9  # side in low-resolution pixels of the surroundings whose mean luma is subtracted
DARK = 0.1  # added to the mean luma by which detail is divided, so that noise of dark regions stays small
MEDIUM = 0.55  # mean luma plus DARK of an image of medium brightness
CONTRAST = 4.0  # at medium brightness detail is multiplied by this, to have about the size of the features
SMALLEST_SUM = 1e-6  # of scores; below it the references count nothing
COARSE_REACH = 8.0  # full-size pixels by which a coarse offset of 1 moves a sample; a fine one moves it by `scale`


class PosedReferences(NamedTuple):
    """Reference photographs, and where a frame finds them.

    `details`, B x n x 1 x S x S, is the result of `describe`. `poses`, B x n x 2 x 3, act on columns (x, y, 1) of
    pixels of the small frame, from its upper left corner, and give those of the photographs' canvas at low resolution.
    `present`, B x n, is 1 where a reference exists, else 0; None means that all do.
    """

    details: Tensor
    poses: Tensor
    present: Tensor | None = None


class Referred(NamedTuple):
    """A result with what the references add, and what is known about them.

    `image` is B x 3 x H x W, not clamped. `weights` of the references and `covered`, 1 where the canvas of an existing
    one covers the middle of a pixel, else 0, are B x n x h x w. `logits`, of the same size, are the scores behind the
    weights; `aligned`, B x n x H x W, are the samples.
    """

    image: Tensor
    weights: Tensor
    covered: Tensor
    logits: Tensor
    aligned: Tensor


class ReferenceBranch(nn.Module):
    """Adds details of reference photographs to a result."""

    def __init__(self, width: int, scale: int) -> None:
        """`width` channels; `scale` of the network."""
        super().__init__()
        self.scale = scale
        phases = scale**2
        self.content = nn.Sequential(active1x1(3 * phases, width), active3x3(width, width))
        self.guide_content, self.guide_reference = conv3x3(width, width), conv3x3(phases, width)
        self.coarse = nn.Sequential(
            active3x3(width, width, stride=2), active3x3(width, width), active3x3(width, width), conv3x3(width, 2)
        )
        self.fine = conv3x3(width, 2)
        self.extract = active3x3(phases, width)
        self.score = nn.Sequential(active1x1(2 * width, width), conv3x3(width, 1))
        self.join, self.out = active3x3(width, width), conv3x3(width, 3 * phases)
        for layer in (self.coarse[-1], self.fine, self.out):
            assert isinstance(layer, nn.Conv2d) and layer.bias is not None
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def describe(self, photographs: Tensor) -> Tensor:
        """The details of photographs, B x n x 3 x S x S in 0..1: B x n x 1 x S x S. They serve all frames."""
        luma = luma_of(photographs.flatten(0, 1))
        side = SURROUNDINGS * self.scale // 2 * 2 + 1
        return relative_detail(luma, box_mean(luma, side)).view(*photographs.shape[:2], 1, *photographs.shape[-2:])

    def scale_by(self, strength: float) -> None:
        """Multiplies what references add by `strength`."""
        assert self.out.bias is not None
        with torch.no_grad():
            self.out.weight *= strength
            self.out.bias *= strength

    def forward(self, result: Tensor, references: PosedReferences) -> Referred:
        """`result` is B x 3 x H x W in 0..1, float32."""
        details, poses, present = references
        batch, count = details.shape[:2]
        folded = space_to_depth(result, self.scale)
        mean = box_mean(luma_of(F.avg_pool2d(result, self.scale)), SURROUNDINGS)
        content = _run_all(self.content, relative_detail(folded, mean))
        height, width = content.shape[-2:]
        images = details.flatten(0, 1)
        matrices = _wide(poses.flatten(0, 1)) * (2 * self.scale / _size_of(images)[..., 0])
        places = positions(matrices, height, width, self.scale)
        posed = space_to_depth(sample(images, places), self.scale)
        of_content = run(self.guide_content, content)
        guide = leaky_relu(_add_to_each(run(self.guide_reference, posed), of_content))
        aligned = sample(images, places + self._offsets(guide, images))
        inside = positions(matrices, height, width).abs().amax(1) <= 1
        covered = inside.to(places.dtype).view(batch, count, height, width)
        if present is not None:
            covered = covered * present.to(covered.dtype)[..., None, None]
        features = run(self.extract, space_to_depth(aligned, self.scale))
        logits = _wide(self._scores(features, content)).view(batch, count, height, width)
        scored = torch.sigmoid(logits) * covered
        weights = scored.square() / scored.sum(1, keepdim=True).clamp(min=SMALLEST_SUM)
        total = weights.sum(1, keepdim=True)
        found = (weights[:, :, None] * features.view(batch, count, -1, height, width).to(weights.dtype)).sum(1)
        change = run(self.out, run(self.join, content.to(weights.dtype) * total + found)).to(weights.dtype) * total
        image = result + depth_to_space(change * (mean + DARK) / MEDIUM, self.scale)
        return Referred(image, weights, covered, logits, aligned.view(batch, count, *aligned.shape[-2:]))

    def _scores(self, features: Tensor, content: Tensor) -> Tensor:
        """The scores of both together, of which the contribution of the content is the same for all references."""
        first, last = self.score
        assert isinstance(first, nn.Conv2d) and isinstance(last, nn.Conv2d)
        width = content.shape[1]
        of_feature = F.conv2d(features, first.weight[:, :width])
        of_content = F.conv2d(content, first.weight[:, width:], first.bias)
        return run(last, leaky_relu(_add_to_each(of_feature, of_content)))

    def _offsets(self, guide: Tensor, images: Tensor) -> Tensor:
        """How far samples are moved, N x 2 x H x W in the units of `positions`."""
        size = [self.scale * side for side in guide.shape[-2:]]
        unit = 2 / _size_of(images)
        coarse, fine = COARSE_REACH * _wide(_run_all(self.coarse, guide)), self.scale * _wide(run(self.fine, guide))
        # Planar, because torch interpolates two interleaved channels four times as slowly.
        planes = ((each * unit).contiguous() for each in (coarse, fine))
        first, second = (F.interpolate(each, size=size, mode="bilinear") for each in planes)
        return first + second


def active1x1(in_channels: int, out_channels: int) -> ActivatedConv2d:
    """A convolution of single pixels followed by a leaky ReLU."""
    return ActivatedConv2d(in_channels, out_channels, 1, slope=LEAKY_SLOPE)


def relative_detail(image: Tensor, mean: Tensor) -> Tensor:
    """The difference of an image from its local mean luma in relation to that luma, so that light divides out."""
    return CONTRAST * MEDIUM * (image - mean) / (mean + DARK)


def luma_of(images: Tensor) -> Tensor:
    """The luma, N x 1 x H x W, of RGB images N x 3 x H x W."""
    red, green, blue = (weight * images[:, k : k + 1] for k, weight in enumerate(LUMA))
    return red + green + blue


def box_mean(image: Tensor, side: int) -> Tensor:
    """The mean over a square with an odd `side` around each pixel of N x 1 x H x W, as far as it is inside."""
    rows = F.avg_pool2d(image, (side, 1), 1, (side // 2, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, side // 2), count_include_pad=False)


def positions(matrices: Tensor, height: int, width: int, scale: int = 1) -> Tensor:
    """Where the pixels of a frame at `scale` times height x width lie on the canvas: N x 2 x H x W, x first.

    -1..1 is the whole width and height, as grid sampling counts. `matrices`, N x 2 x 3, act on columns (x, y, 1) of
    pixels at scale 1 and give half widths and half heights from the upper left corner.
    """
    matrix = matrices[..., None, None]
    x = (torch.arange(width * scale, device=matrix.device, dtype=matrix.dtype) + 0.5) / scale
    y = (torch.arange(height * scale, device=matrix.device, dtype=matrix.dtype)[:, None] + 0.5) / scale
    return matrix[:, :, 0] * x + (matrix[:, :, 1] * y + (matrix[:, :, 2] - 1))


def sample(images: Tensor, places: Tensor) -> Tensor:
    """Bilinear samples of images N x C x S x S at `places`, N x 2 x H x W in the units of `positions`; 0 outside."""
    grid = places.permute(0, 2, 3, 1)  # planes stay separate in memory, as in `warp`
    return F.grid_sample(images.to(places.dtype), grid, padding_mode="zeros", align_corners=False)


def _run_all(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Applies convolutions one after another, in the precision of their weights."""
    first = layers[0]
    assert isinstance(first, nn.Conv2d)
    out: Tensor = layers[1:](run(first, x))
    return out


def _size_of(images: Tensor) -> Tensor:
    """Width and height of images in float32 at least: 2 x 1 x 1."""
    dtype = torch.promote_types(images.dtype, torch.float32)
    return torch.tensor(images.shape[:-3:-1], device=images.device, dtype=dtype)[:, None, None]


def _wide(x: Tensor) -> Tensor:
    """In float32 at least: bf16 has too few bits for positions and weights."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _add_to_each(features: Tensor, content: Tensor) -> Tensor:
    """Features (B * n) x C x h x w plus the content B x C x h x w of their frame."""
    each = features.view(len(content), -1, *features.shape[1:])
    return (each + content[:, None]).flatten(0, 1)
