"""Resampling of images on centered grids, and the banded matrix product that it uses. Values are not clamped.

A resampling along one axis is a matrix whose rows are the kernel's weights. Only a narrow band of it is not zero, so
it is stored and applied as small dense blocks on that band: on two cores 320x180 to 1280x720 takes about 2 ms, instead
of 9 ms with one dense matrix per axis.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from vidsr.nets.layers.keys import RADIUS, keys_weights

Kernel = Literal["bicubic", "lanczos3", "area"]

_RADIUS: dict[Kernel, float] = {"bicubic": RADIUS, "lanczos3": 3.0}
# Rows per block. On the CPU 64 was the fastest of 32 to 256; a larger block saves launches on an accelerator.
_ROWS_CPU, _ROWS_OTHER = 64, 256


class Band(NamedTuple):
    """Rows `out_start` to `out_stop` of a banded matrix: `matrix` acts on the inputs `in_start` to `in_stop`."""

    out_start: int
    out_stop: int
    in_start: int
    in_stop: int
    matrix: Tensor


def resize(image: Tensor, size: tuple[int, int], kernel: Kernel = "bicubic", antialias: bool = True) -> Tensor:
    """Resamples an image: (..., H, W) to (..., *size), same type and device, differentiable.

    Grids share their center and edges are mirrored (c b a | a b c), as in MATLAB's imresize. "bicubic" is Keys' cubic
    with a = -0.5; "area" is the mean over the part of the input that an output pixel covers. With `antialias` a kernel
    is widened by the factor of a reduction; enlargements do not change, and "area" requires it. Values may leave the
    input's range, so the caller clamps. At the same size the image itself is returned. Half types are computed in
    float32, also under autocast; on CUDA keep torch's float32 matmul precision at "highest", because TF32 would cost
    about a quarter of an 8-bit level. Raises ValueError for an empty size, TypeError for integer images.
    """
    if not image.is_floating_point():
        raise TypeError(f"resize takes floating-point images, not {image.dtype}")
    height, width = image.shape[-2:]
    if min(height, width, *size) < 1:
        raise ValueError(f"cannot resize {width}x{height} to {size[1]}x{size[0]}: every side needs at least one pixel")
    if kernel == "area" and not antialias:
        raise ValueError("the area kernel has no form without antialiasing")
    if (height, width) == tuple(size):
        return image
    work = image if image.dtype in (torch.float32, torch.float64) else image.float()
    axes = [(-1, width, size[1]), (-2, height, size[0])]
    axes.sort(key=lambda axis: axis[2] / axis[1])  # the axis that shrinks more first, to save work
    for axis, old, new in axes:
        if old != new:
            work = apply_bands(work, _resize_bands(old, new, kernel, antialias, work.dtype, work.device), axis)
    return work.to(image.dtype)


def apply_bands(values: Tensor, bands: tuple[Band, ...], axis: int) -> Tensor:
    """The banded matrix times `values` along `axis`; the bands must have the values' type and device."""
    axis %= values.ndim
    shape = list(values.shape)
    shape[axis] = bands[-1].out_stop
    if axis == values.ndim - 1:
        rows = values.reshape(-1, values.shape[axis])
        result = rows.new_empty(rows.shape[0], shape[axis])
    else:
        rows = values.reshape(math.prod(shape[:axis]), values.shape[axis], math.prod(shape[axis + 1 :]))
        result = rows.new_empty(rows.shape[0], shape[axis], rows.shape[2])
    with torch.autocast(values.device.type, enabled=False):  # bfloat16 weights do not even keep a constant
        for band in bands:
            source = rows[:, band.in_start : band.in_stop]
            product = source @ band.matrix.T if rows.ndim == 2 else band.matrix @ source
            result[:, band.out_start : band.out_stop] = product
    return result.reshape(shape)


def bands_of(index: Tensor, weight: Tensor, dtype: torch.dtype, device: torch.device) -> tuple[Band, ...]:
    """The bands of the matrix with `weight[i, k]` added at row i, column `index[i, k]`. Both are rows x taps.

    Usable in training even if first called under inference mode.
    """
    with torch.inference_mode(False):
        step = _ROWS_CPU if device.type == "cpu" else _ROWS_OTHER
        bands = []
        for start in range(0, len(index), step):
            rows, values = index[start : start + step].clone(), weight[start : start + step].clone()
            used = rows[values != 0]
            low, high = int(used.min()), int(used.max()) + 1
            matrix = torch.zeros(len(rows), high - low, dtype=torch.float64)
            matrix.scatter_add_(1, (rows - low).clamp_(0, high - low - 1), values)  # clamped positions have weight 0
            bands.append(Band(start, start + len(rows), low, high, matrix.to(device, dtype)))
        return tuple(bands)


@lru_cache(maxsize=64)
def _resize_bands(
    old: int, new: int, kernel: Kernel, antialias: bool, dtype: torch.dtype, device: torch.device
) -> tuple[Band, ...]:
    index, weight = _area_taps(old, new) if kernel == "area" else _kernel_taps(old, new, kernel, antialias)
    weight = weight / weight.sum(1, keepdim=True)
    index = index.remainder(2 * old)
    index = torch.where(index >= old, 2 * old - 1 - index, index)
    return bands_of(index, weight, dtype, device)


def _kernel_taps(old: int, new: int, kernel: Kernel, antialias: bool) -> tuple[Tensor, Tensor]:
    """Input positions (not yet mirrored) and float64 weights (not yet normalized), each new x taps."""
    widening = max(old / new, 1.0) if antialias else 1.0
    radius = _RADIUS[kernel] * widening
    center = (2 * torch.arange(new) + 1) * old / torch.tensor(2.0 * new, dtype=torch.float64) - 0.5
    index = (center - radius).floor().long()[:, None] + torch.arange(math.ceil(2 * radius) + 2)
    distance = ((center[:, None] - index) / widening).abs()
    weight = torch.sinc(distance) * torch.sinc(distance / 3) if kernel == "lanczos3" else keys_weights(distance)
    return index, weight * (distance < _RADIUS[kernel])


def _area_taps(old: int, new: int) -> tuple[Tensor, Tensor]:
    """As `_kernel_taps`, with the overlap of each input pixel with the output pixel as weight; integers, so exact."""
    low = torch.arange(new) * old
    index = low.div(new, rounding_mode="floor")[:, None] + torch.arange(math.ceil(old / new) + 1)
    shared = torch.minimum((low + old)[:, None], (index + 1) * new) - torch.maximum(low[:, None], index * new)
    return index, shared.clamp(min=0).double()
