"""The losses of MPENet's branches and of its GAN (Zhang and Liu, 3.1 and 3.2), by the numbers of its equations.

Squared norms are means over all values, so that no weight depends on the size of a crop; the paper prints sums.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.train.losses import reconstruction_loss


def steps_loss(images: Sequence[Tensor], truth: Tensor, epsilon: float) -> Tensor:
    """(9): the mean of the losses of all steps' images against `truth`, B x 3 x H x W; `epsilon` 0 as printed."""
    return torch.stack([reconstruction_loss(image, truth, epsilon) for image in images]).mean()


def heatmap_loss(found: Tensor, truth: Tensor) -> Tensor:
    """(5): the mean squared difference of heatmaps of the same shape."""
    return (found - truth).square().mean()


def unit_weights(rates: Tensor) -> Tensor:
    """w_i below (7) of units that occur at these `rates`, U above 0: rare ones count more, their sum is U."""
    inverse = 1 / rates
    return inverse * len(rates) / inverse.sum()


def unit_cross_entropy(scores: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """(6), of scores before the sigmoid and labels 0 or 1, both B x U: the sum over units, averaged over the batch.

    The paper prints y^ log y^ + (1 - y) log(1 - y^), whose first term would not depend on the label; y log y^ is meant.
    """
    entropy = F.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    return (entropy * weights).sum(1).mean()


def unit_dice(scores: Tensor, labels: Tensor, weights: Tensor, smooth: float) -> Tensor:
    """(7) with its smooth term epsilon, of the same values as (6)."""
    found = torch.sigmoid(scores)
    overlap = (2 * labels * found + smooth) / (labels.square() + found.square() + smooth)
    return ((1 - overlap) * weights).sum(1).mean()


def unit_loss(scores: Tensor, labels: Tensor, weights: Tensor, smooth: float) -> Tensor:
    """(8): cross-entropy plus Dice coefficient loss."""
    return unit_cross_entropy(scores, labels, weights) + unit_dice(scores, labels, weights, smooth)
