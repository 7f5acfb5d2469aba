"""Pictures folded to low resolution and unfolded again, as a stream does it: strip by strip. No network."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor

from vidsr.nets.layers.blocks import space_to_depth
from vidsr.nets.layers.warp import warp

STRIP_VALUES = 1 << 19  # of a folded picture that are worked on at a time on a CPU
# The `scale` neighbours in a row move as one number.
_ROW_TYPES = {2: torch.complex64, 4: torch.complex128}


def fold_warped(image: Tensor, flow: Tensor, base: Tensor, scale: int, dtype: torch.dtype) -> Tensor:
    """What an image has that `base` has not: `space_to_depth` of it, warped (bilinear) by `flow`, less `base`.

    `image` is B x C x H x W, `flow` B x 2 x H x W as `warp` wants it, `base` float32 and, like the result in `dtype`,
    B x (C * scale^2) x h x w. On a CPU, where nothing is to be learnt, in as many bands of rows as there are threads,
    since torch samples one picture in one of them, and in strips that stay in its cache.
    """
    batch, channels, height, width = base.shape
    streams = not torch.is_grad_enabled() and not torch.onnx.is_in_onnx_export()  # a graph serves any size
    if not streams or image.device.type != "cpu":
        return (space_to_depth(warp(image, flow), scale) - base).to(dtype)
    bands = gcd(height, torch.get_num_threads()) if batch == 1 else 1
    pictures = warp(image, flow, bands=bands)
    folded = base.new_empty(batch, height, width, channels, dtype=dtype)
    sources, targets = (
        x.reshape(len(pictures), height // bands, width, -1) for x in (base.permute(0, 2, 3, 1), folded)
    )
    rows = max(1, STRIP_VALUES // (len(pictures) * channels * width))
    for top in range(0, height // bands, rows):
        strip = slice(top, top + rows)
        part = _fold(pictures[:, :, top * scale : (top + rows) * scale], scale)
        targets[:, strip].copy_(part.sub_(sources[:, strip]))
    return folded.permute(0, 3, 1, 2)


def _fold(picture: Tensor, scale: int) -> Tensor:
    """`space_to_depth` of float32, but B x h x w x (C * scale^2)."""
    if scale not in _ROW_TYPES:
        return space_to_depth(picture, scale).permute(0, 2, 3, 1)
    batch, channels, height, width = picture.shape
    rows = picture.view(_ROW_TYPES[scale]).view(batch, channels, height // scale, scale, width // scale)
    pixels = rows.permute(0, 2, 4, 1, 3).contiguous().view(picture.dtype)
    return pixels.view(batch, height // scale, width // scale, -1)


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
        total = base[:, :, strip] + residuals[0][:, :, strip]
        for residual in residuals[1:]:
            total += residual[:, :, strip]
        pixels = total.clamp_(0, 1).permute(0, 2, 3, 1).contiguous().view(batch, -1, width, planes, scale, scale)
        source, target = pixels.permute(0, 3, 1, 4, 2, 5), picture[:, :, strip]
        if scale in _ROW_TYPES:
            source, target = source.view(_ROW_TYPES[scale]), target.view(_ROW_TYPES[scale])
        target.copy_(source)
    return picture.view(batch, planes, height * scale, width * scale)
