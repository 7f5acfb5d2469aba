"""HIME: headshot image super-resolution with multiple exemplars (Xiang, dissertation, chapter 5).

A small image of a face is enlarged with any number of larger photographs of the same person as references. These should
show the face in about the same place and pose; offsets between pixels of the small image are learned, a few pixels far.

The text gives neither the width nor the layers of the alignment. 28 residual blocks of 64 channels alone would have
more than twice the printed parameters. This reading, and how it compares with table 5.1:

| | parameters x4, x8 | GMAC for 32x32 x4, 64x64 x4, 16x16 x8 with three references |
|---|---|---|
| printed | 0.87 M, 0.90 M | 1.86, 7.48, 0.49 |
| here | 866,124, 909,276 | 1.93, 7.72, 0.50 |

- Width 32. All convolutions are 3x3, except the one behind the space-to-depth operation, which is 1x1. Residual blocks
  have two convolutions and a ReLU between them, without normalization.
- Alignment as in TDAN, which the text cites: one convolution of the two low-resolution features makes a guide, two
  modulated deformable convolutions refine it, and two more sample the reference with offsets that the guide predicts.
  So all offsets come from low-resolution features, as (5.2) demands. 8 groups of channels have their own offsets.
- g_1 and g_2 of (5.6) are one convolution each, though 5.3.3 calls this step parameter-free.
- Behind the residual blocks comes one convolution, then one to 3 * scale^2 channels and the pixel shuffle. ICNR's
  initial weights are small, so that training starts at the bicubic enlargement.

Ours, as an option: a learned weight for "no reference" in the sum of (5.4), so that references which show somebody else
can be ignored. Without it they cannot, because the sum of their weights is always 1.

No code of the authors is known, and none was read.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.base import Network
from vidsr.nets.hime.config import HIMEConfig
from vidsr.nets.layers.blocks import (
    BicubicPhases,
    BicubicReduction,
    ResidualBlock,
    active3x3,
    conv3x3,
    depth_to_space,
    start_near_zero,
)
from vidsr.nets.layers.deformable import DeformableConv

INITIAL_NO_REFERENCE = -2.0  # its sigmoid is 0.12, a quarter of the weight that a reference has at first
SMALLEST_SUM = 1e-12  # of weights; below it the references count nothing


class References(NamedTuple):
    """Features of the references, F^ref and F^refL, both B x n x width x h x w; independent of the small image."""

    high: Tensor
    low: Tensor


class Restored(NamedTuple):
    """An enlarged image, B x 3 x H x W float32, not clamped, and the weight of each reference, B x n x h x w in 0..1.

    The weights of a pixel sum up to 1, or less if the network has a weight for "no reference".
    """

    image: Tensor
    weights: Tensor


class HighExtractor(nn.Module):
    """F^ref (5.3.1): one channel instead of three, space-to-depth, a convolution and residual blocks."""

    def __init__(self, width: int, blocks: int, scale: int) -> None:
        """From images at `scale` times the size of the features, which have `width` channels."""
        super().__init__()
        self.scale = scale
        self.mono = conv3x3(3, 1)
        self.first = nn.Conv2d(scale**2, width, 1)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))

    def forward(self, image: Tensor) -> Tensor:
        """B x 3 x H x W in 0..1 to B x width x h x w."""
        feature: Tensor = self.body(self.first(F.pixel_unshuffle(self.mono(image), self.scale)))
        return feature


class Alignment(nn.Module):
    """Reference feature alignment (5.3.2): brings a reference's feature to the content of the small image."""

    def __init__(self, config: HIMEConfig) -> None:
        """Sizes as in the configuration."""
        super().__init__()
        width, arguments = config.width, (config.width, config.kernel, config.groups)
        self.guide = active3x3(2 * width, width)
        self.refine = nn.ModuleList(DeformableConv(*arguments) for _ in range(config.guide_stages))
        self.sample = nn.ModuleList(DeformableConv(*arguments) for _ in range(config.reference_stages))

    def forward(self, reference: Tensor, reference_low: Tensor, low: Tensor) -> Tensor:
        """(5.2) and (5.3): F^ref, F^refL and F^L, all B x width x h x w, to F^refA."""
        guide = self.guide(torch.cat((reference_low, low), dim=1))
        for deformable in self.refine:
            guide = deformable(guide, guide)
        for deformable in self.sample:
            reference = deformable(reference, guide)
        return reference


class Aggregation(nn.Module):
    """Content-conditioned feature aggregation (5.3.3): the weighted mean of any number of aligned references."""

    def __init__(self, width: int, no_reference: bool) -> None:
        """`width` channels; `no_reference` as in the configuration."""
        super().__init__()
        self.of_reference = conv3x3(width, width)
        self.of_content = conv3x3(width, width)
        self.no_reference = nn.Parameter(torch.tensor(INITIAL_NO_REFERENCE)) if no_reference else None

    def forward(self, aligned: Tensor, low: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """(5.4) to (5.6): F^refA, B x n x width x h x w, and F^L to F_a and the weights, B x n x h x w.

        `present` as in `HIME.restore`. Results are float32 at least.
        """
        key = self.of_reference(aligned.flatten(0, 1)).view(aligned.shape)
        product = (key * self.of_content(low)[:, None]).sum(2)
        score = torch.sigmoid(product if product.dtype == torch.float64 else product.float())
        if present is not None:
            score = score * present.to(score.dtype)[..., None, None]
        total = score.sum(1, keepdim=True)
        if self.no_reference is not None:
            total = total + torch.sigmoid(self.no_reference).to(score.dtype)
        weights = score / total.clamp(min=SMALLEST_SUM)
        return (weights[:, :, None] * aligned.to(weights.dtype)).sum(1), weights


class Reconstruction(nn.Module):
    """The residual of the result (5.3.4): residual blocks, a convolution, and one sub-pixel enlargement."""

    def __init__(self, width: int, blocks: int, scale: int) -> None:
        """`width` channels in, 3 out at `scale` times the size."""
        super().__init__()
        self.scale = scale
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)), conv3x3(width, width))
        self.enlarge = conv3x3(width, 3 * scale**2)
        start_near_zero(self.enlarge)
        with torch.no_grad():  # ICNR: the pixels of a block start equal
            first = self.enlarge.weight[:: scale**2].clone()
            self.enlarge.weight.copy_(first.repeat_interleave(scale**2, dim=0))

    def forward(self, feature: Tensor) -> Tensor:
        """B x width x h x w to B x 3 x H x W."""
        return F.pixel_shuffle(self.enlarge(self.body(feature)), self.scale)


class HIME(Network):
    """The complete network. `forward` enlarges images with references; `restore` takes features of the references.

    Without references it is a plain network for single images ("non-ref" in table 5.4): F_f is F^L.
    """

    def __init__(self, config: HIMEConfig) -> None:
        """Builds the network of `config`."""
        super().__init__()
        self.config: HIMEConfig = config
        width, scale = config.width, config.scale
        self.low = nn.Sequential(conv3x3(3, width), *(ResidualBlock(width) for _ in range(config.low_blocks)))
        self.high = HighExtractor(width, config.high_blocks, scale)
        self.alignment = Alignment(config)
        self.aggregation = Aggregation(width, config.no_reference)
        self.reconstruction = Reconstruction(width, config.reconstruction_blocks, scale)
        self.bicubic, self.reduction = BicubicPhases(scale), BicubicReduction(scale)

    def forward(self, image: Tensor, references: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """Images B x 3 x h x w in 0..1 and references as in `describe` to B x 3 x H x W float32, not clamped."""
        described = None if references is None else self.describe(references)
        return self.restore(image, described, present).image

    def describe(self, references: Tensor) -> References:
        """The features of references, B x n x 3 x H x W in 0..1, at `scale` times the size of the images to enlarge.

        Raises ValueError for sides that are no multiples of `scale`.
        """
        if any(side % self.config.scale for side in references.shape[-2:]):
            raise ValueError(f"the sides of references must be multiples of {self.config.scale}")
        images = references.flatten(0, 1)
        if not len(images):
            height, width = (side // self.config.scale for side in references.shape[-2:])
            nothing = references.new_zeros(*references.shape[:2], self.config.width, height, width)
            return References(nothing, nothing)
        features = self.high(images), self.low(self.reduction(images))
        return References(*(feature.view(*references.shape[:2], *feature.shape[1:]) for feature in features))

    def restore(self, image: Tensor, references: References | None = None, present: Tensor | None = None) -> Restored:
        """Enlarges images B x 3 x h x w in 0..1 with the features of n references each; None for none.

        `present`, B x n of booleans, or of 0 and 1, tells which of the references exist, so that images with different
        numbers of references can share a batch; None means all.
        """
        low = fused = self.low(image)
        weights = image.new_zeros(image.shape[0], 0, *image.shape[-2:])
        if references is not None and references.high.shape[1]:
            content = low[:, None].expand(references.low.shape).flatten(0, 1)
            aligned = self.alignment(references.high.flatten(0, 1), references.low.flatten(0, 1), content)
            transferred, weights = self.aggregation(aligned.view(references.high.shape), low, present)
            fused = transferred.to(low.dtype) + low
        base = depth_to_space(self.bicubic(image), self.config.scale)
        return Restored(base + self.reconstruction(fused).to(base.dtype), weights)
