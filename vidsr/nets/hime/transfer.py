"""Transfer of features from reference photographs: HIME's extractor, alignment and aggregation (dissertation, 5.3).

Equation numbers are those of Xiang's dissertation; `nets/hime` tells what it leaves open.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.blocks import ResidualBlock, active3x3, conv3x3, leaky_relu
from vidsr.nets.layers.deformable import DeformableConv

INITIAL_NO_REFERENCE = -2.0  # its sigmoid is 0.12, a quarter of the weight that a reference has at first
SMALLEST_SUM = 1e-12  # of weights; below it the references count nothing


class References(NamedTuple):
    """What is computed once of references: F^ref, and the contribution of F^refL to the guide of the alignment.

    Both are B x n x width x h x w and independent of the small image.
    """

    high: Tensor
    low: Tensor


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

    def __init__(self, width: int, guide_stages: int, reference_stages: int, kernel: int, groups: int) -> None:
        """`width` channels. `guide_stages` deformable convolutions refine the guide, others sample the reference."""
        super().__init__()
        self.guide = active3x3(2 * width, width)
        self.refine = nn.ModuleList(DeformableConv(width, kernel, groups) for _ in range(guide_stages))
        self.sample = nn.ModuleList(DeformableConv(width, kernel, groups) for _ in range(reference_stages))

    def of_reference(self, low: Tensor) -> Tensor:
        """The contribution of F^refL, B x width x h x w, to the convolution of both features in (5.2): same shape."""
        return F.conv2d(low.to(self.guide.weight.dtype), self.guide.weight[:, : low.shape[1]], padding=1)

    def of_content(self, low: Tensor) -> Tensor:
        """The contribution of F^L, which is the same for all references."""
        weight = self.guide.weight[:, -low.shape[1] :]
        return F.conv2d(low.to(weight.dtype), weight, self.guide.bias, padding=1)

    def forward(self, reference: Tensor, of_reference: Tensor, of_content: Tensor) -> Tensor:
        """(5.2) and (5.3): F^ref and both contributions, all B x width x h x w, to F^refA."""
        guide = leaky_relu(of_reference + of_content)
        for deformable in self.refine:
            guide = deformable(guide, guide)
        for deformable in self.sample:
            reference = deformable(reference, guide)
        return reference


class Aggregation(nn.Module):
    """Content-conditioned feature aggregation (5.3.3): the weighted mean of any number of aligned references."""

    def __init__(self, width: int, no_reference: bool) -> None:
        """`width` channels; with `no_reference`, "no reference" has a weight too, which is learned (ours)."""
        super().__init__()
        self.of_reference = conv3x3(width, width)
        self.of_content = conv3x3(width, width)
        self.no_reference = nn.Parameter(torch.tensor(INITIAL_NO_REFERENCE)) if no_reference else None

    def forward(self, aligned: Tensor, low: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
        """(5.4) to (5.6): F^refA, B x n x width x h x w, and F^L to F_a and the weights, B x n x h x w.

        `present`, B x n or B x n x h x w, is 1 or true where a reference exists, else 0 or false; None means it does
        everywhere. Results are float32 at least.
        """
        key = self.of_reference(aligned.flatten(0, 1)).view(aligned.shape)
        product = (key * self.of_content(low)[:, None]).sum(2)
        score = torch.sigmoid(product if product.dtype == torch.float64 else product.float())
        if present is not None:
            score = score * present.to(score.dtype).view(*present.shape[:2], *(present.shape[2:] or (1, 1)))
        total = score.sum(1, keepdim=True)
        if self.no_reference is not None:
            total = total + torch.sigmoid(self.no_reference).to(score.dtype)
        weights = score / total.clamp(min=SMALLEST_SUM)
        return (weights[:, :, None] * aligned.to(weights.dtype)).sum(1), weights
