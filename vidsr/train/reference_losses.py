"""Losses that teach SECNet's branch of references to align photographs, and to tell whether they fit (ours).

With the loss of the result alone a new branch learns nothing: as long as photographs are not aligned, using them makes
the result worse, and as long as they are not used, their alignment gets no gradient.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from vidsr.nets.secnet.references import Referred, box_mean, luma_of

DETAIL = 13  # side in pixels of the surroundings whose mean is not detail
WINDOW, STRIDE = 12, 4  # in which the correlation is computed, and distance of the windows, in pixels
SMALLEST = 1e-5  # added to squares of detail; noise is above it, a flat image below


class ReferenceLosses(NamedTuple):
    """The losses of `reference_losses`, each a scalar."""

    align: Tensor
    match: Tensor


def detail_correlation(images: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """How well the details of references and truth agree around each low-resolution pixel of a network of scale 4.

    `images` is B x n x H x W, `truth` B x 3 x H x W. The results are the normalized correlation, -1..1, and the amount
    of detail of the truth, both B x n x H/4 x W/4.
    """
    batch, count = images.shape[:2]
    wanted = _detail(luma_of(truth))[:, None].expand(-1, count, -1, -1, -1).flatten(0, 1)
    found = _detail(images.flatten(0, 1)[:, None])
    products = wanted * found, wanted.square(), found.square()
    both, first, second = (
        F.avg_pool2d(each, WINDOW, STRIDE, (WINDOW - STRIDE) // 2, count_include_pad=False) for each in products
    )
    correlation = both / ((first + SMALLEST) * (second + SMALLEST)).sqrt()
    size = batch, count, *correlation.shape[-2:]
    return correlation.view(size), first.sqrt().view(size)


def reference_losses(referred: Referred, truth: Tensor, strangers: Tensor) -> ReferenceLosses:
    """`truth` is B x 3 x H x W as the images of `referred`; `strangers`, B x n, tells who shows somebody else.

    `align`: 1 minus the correlation of the aligned photographs of the person with the truth, weighted by the amount of
    detail. `match`: the cross-entropy of the scores with its square, and with 0 for strangers, weighted likewise.
    """
    correlation, amount = detail_correlation(referred.aligned, truth)
    is_right = (~strangers.bool()).to(correlation.dtype)[..., None, None]
    weight = amount * referred.covered
    align = ((1 - correlation) * weight * is_right).sum() / (weight * is_right).sum().clamp(min=1e-3)
    wanted = correlation.detach().clamp(0, 1).square() * is_right
    entropy = F.binary_cross_entropy_with_logits(referred.logits, wanted, reduction="none")
    return ReferenceLosses(align, (entropy * weight).sum() / weight.sum().clamp(min=1e-3))


def _detail(image: Tensor) -> Tensor:
    return image - box_mean(image, DETAIL)
