"""HIME: headshot image super-resolution with multiple exemplars (Xiang, dissertation, chapter 5).

A small image of a face is enlarged with any number of larger photographs of the same person as references. These should
show the face in about the same place and pose; offsets between pixels of the small image are learned, a few pixels far.

The text gives neither the width nor the layers of the alignment. 28 residual blocks of 64 channels alone would have
more than twice the printed parameters. This reading, and how it compares with table 5.1:

| | parameters x4, x8 | GMAC for 32x32 x4, 64x64 x4, 16x16 x8 with three references |
|---|---|---|
| printed | 0.87 M, 0.90 M | 1.86, 7.48, 0.49 |
| here | 866,124, 909,276 | 1.91, 7.64, 0.49 |

- Width 32. All convolutions are 3x3, except the one behind the space-to-depth operation, which is 1x1. Residual blocks
  have two convolutions and a ReLU between them, without normalization.
- Alignment as in TDAN, which the text cites: one convolution of the two low-resolution features makes a guide, two
  modulated deformable convolutions refine it, and two more sample the reference with offsets that the guide predicts.
  So all offsets come from low-resolution features, as (5.2) demands. 8 groups of channels have their own offsets. The
  first convolution is a sum of two, so that the contribution of the image is computed once for all references.
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
from vidsr.nets.hime.transfer import Aggregation, Alignment, HighExtractor, References
from vidsr.nets.layers.blocks import (
    BicubicPhases,
    BicubicReduction,
    ResidualBlock,
    conv3x3,
    depth_to_space,
    start_near_zero,
)


class Restored(NamedTuple):
    """An enlarged image, B x 3 x H x W float32, not clamped, and the weight of each reference, B x n x h x w in 0..1.

    The weights of a pixel sum up to 1, or less if the network has a weight for "no reference".
    """

    image: Tensor
    weights: Tensor


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
        stages = config.guide_stages, config.reference_stages
        self.alignment = Alignment(width, *stages, config.kernel, config.groups)
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
        features = self.high(images), self.alignment.of_reference(self.low(self.reduction(images)))
        return References(*(feature.view(*references.shape[:2], *feature.shape[1:]) for feature in features))

    def restore(self, image: Tensor, references: References | None = None, present: Tensor | None = None) -> Restored:
        """Enlarges images B x 3 x h x w in 0..1 with the features of n references each; None for none.

        `present`, B x n of booleans, or of 0 and 1, tells which of the references exist, so that images with different
        numbers of references can share a batch; None means all.
        """
        low = fused = self.low(image)
        weights = image.new_zeros(image.shape[0], 0, *image.shape[-2:])
        if references is not None and references.high.shape[1]:
            content = self.alignment.of_content(low)[:, None].expand(references.low.shape).flatten(0, 1)
            aligned = self.alignment(references.high.flatten(0, 1), references.low.flatten(0, 1), content)
            transferred, weights = self.aggregation(aligned.view(references.high.shape), low, present)
            fused = transferred.to(low.dtype) + low
        base = depth_to_space(self.bicubic(image), self.config.scale)
        return Restored(base + self.reconstruction(fused).to(base.dtype), weights)
