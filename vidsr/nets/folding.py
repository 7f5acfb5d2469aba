"""Folded pictures on their way back to full size: what a stream does at its end, strip by strip. No network."""

from __future__ import annotations

import torch
from torch import Tensor

STRIP_VALUES = 1 << 18  # of a folded picture that are worked on at a time on a CPU
_ROW_TYPES = {2: torch.complex64, 4: torch.complex128}


def unfold_sum(base: Tensor, residuals: tuple[Tensor, ...], scale: int) -> Tensor:
    """`depth_to_space` of a float32 base and its residuals in any type, clamped to 0..1. Nothing can be learnt from it.

    All are B x (3 * scale^2) x h x w; the result, B x 3 x H x W, lies plane by plane. On a CPU in strips that stay in
    its cache: 2.4 instead of 5.2 ms for 1280x720.
    """
    batch, channels, height, width = base.shape
    planes = channels // scale**2
    rows = max(1, STRIP_VALUES // (batch * channels * width)) if base.device.type == "cpu" else height
    picture = base.new_empty(batch, planes, height, scale, width, scale)
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        first, *others = (residual[:, :, strip].float() for residual in residuals)
        total = base[:, :, strip] + first
        for other in others:
            total += other
        pixels = total.clamp_(0, 1).permute(0, 2, 3, 1).contiguous().view(batch, -1, width, planes, scale, scale)
        source, target = pixels.permute(0, 3, 1, 4, 2, 5), picture[:, :, strip]
        if scale in _ROW_TYPES:  # the `scale` neighbours in a row move as one number
            source, target = source.view(_ROW_TYPES[scale]), target.view(_ROW_TYPES[scale])
        target.copy_(source)
    return picture.view(batch, planes, height * scale, width * scale)
