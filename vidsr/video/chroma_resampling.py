"""Chroma resampling: planes upsampled by two and downsampled by two, at the chroma location that the file names.

On a subsampled axis, a chroma sample lies either on the even luma sample ("cosited") or halfway between two luma
samples ("centered"). The filters of both directions form a pair: downsampling an upsampled plane restores it, exactly
if cosited and within 0.002 of its range if centered. So a video that is only passed through keeps its colors.

- cosited: linear up, 5/3 wavelet low-pass down;
- centered: Keys cubic (a = -1/2) up, its dual of eight taps down.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Siting = Literal["cosited", "centered"]

_SITINGS: dict[str, tuple[Siting, Siting]] = {
    "left": ("cosited", "centered"),
    "center": ("centered", "centered"),
    "topleft": ("cosited", "cosited"),
    "top": ("centered", "cosited"),
    "bottomleft": ("cosited", "centered"),
    "bottom": ("centered", "centered"),
}

# Keys' kernel at the distances 7/4, 3/4, 1/4 and 5/4.
_CUBIC = (-0.0234375, 0.2265625, 0.8671875, -0.0703125)
# Eight symmetric taps, fitted by least squares so that down after up is the identity; scaled to sum 1; inner tap first.
_DUAL = (0.5600, 0.0272, -0.1414, 0.0542)


def is_known_location(location: str) -> bool:
    """False for the two bottom locations, whose rows are converted as centered (no encoder known to us writes them)."""
    return not location.startswith("bottom")


def sitings(location: str, matrix: str) -> tuple[Siting, Siting]:
    """(horizontal, vertical) siting of FFmpeg's chroma location; "unknown" is left, or top left for BT.2020."""
    return _SITINGS.get(location) or _SITINGS["topleft" if matrix == "bt2020nc" else "left"]


def upsample_rows(plane: Tensor, out: Tensor, siting: Siting) -> None:
    """Upsamples the rows of a plane (..., h, w) by two, into `out` (..., 2h, w)."""
    count = plane.shape[-2]
    even, odd = out[..., 0::2, :], out[..., 1::2, :]
    if siting == "cosited":
        even.copy_(plane)
        torch.add(plane[..., :-1, :], plane[..., 1:, :], out=odd[..., :-1, :]).mul_(0.5)
        odd[..., -1, :] = plane[..., -1, :]
        return
    padded = _pad(plane, 2, 2, siting, -2)
    taps = [padded[..., i : i + count, :] for i in range(5)]
    far, near, main, other = _CUBIC
    torch.mul(taps[2], main, out=even)
    even.add_(taps[1], alpha=near).add_(taps[3], alpha=other).add_(taps[0], alpha=far)
    torch.mul(taps[2], main, out=odd)
    odd.add_(taps[3], alpha=near).add_(taps[1], alpha=other).add_(taps[4], alpha=far)


def downsample_rows(plane: Tensor, siting: Siting) -> Tensor:
    """Downsamples the rows of a plane (..., h, w) by two, to h / 2 rounded up."""
    before, after = _margins(plane.shape[-2], siting)
    padded = _pad(plane, before, after, siting, -2)
    return _downsample(padded[..., 0::2, :], padded[..., 1::2, :], siting, -2)


def downsample_columns(plane: Tensor, siting: Siting) -> Tensor:
    """Downsamples the columns of a plane (..., h, w) by two, to w / 2 rounded up."""
    before, after = _margins(plane.shape[-1], siting)
    padded = _pad(plane, before, after, siting, -1)
    # Contiguous copies, because passes over every second sample take several times as long.
    return _downsample(padded[..., 0::2].contiguous(), padded[..., 1::2].contiguous(), siting, -1)


def _margins(size: int, siting: Siting) -> tuple[int, int]:
    """(before, after): how many samples the downsampling filter needs beyond each end."""
    reach = 2 if siting == "cosited" else 3
    return reach, reach + size % 2


def _downsample(even: Tensor, odd: Tensor, siting: Siting, axis: int) -> Tensor:
    count = even.shape[axis] - (2 if siting == "cosited" else 3)

    def at(samples: Tensor, first: int) -> Tensor:
        return samples.narrow(axis, first, count)

    if siting == "cosited":
        inner = (at(odd, 0) + at(odd, 1)).mul_(0.25).add_(at(even, 1), alpha=0.75)
        return inner.add_(at(even, 0), alpha=-0.125).add_(at(even, 2), alpha=-0.125)
    out = (at(odd, 1) + at(even, 2)).mul_(_DUAL[0])
    out.add_(at(even, 1), alpha=_DUAL[1]).add_(at(odd, 2), alpha=_DUAL[1])
    out.add_(at(odd, 0), alpha=_DUAL[2]).add_(at(even, 3), alpha=_DUAL[2])
    return out.add_(at(even, 0), alpha=_DUAL[3]).add_(at(odd, 3), alpha=_DUAL[3])


def _pad(plane: Tensor, before: int, after: int, siting: Siting, axis: int) -> Tensor:
    """Pads with mirrored samples: about the edge sample if cosited, else about the edge, so that it is repeated."""
    size = plane.shape[axis]
    if size == 1:
        shape = list(plane.shape)
        shape[axis] = 1 + before + after
        return plane.expand(shape)
    turn = 2 * size - 2 if siting == "cosited" else 2 * size - 1
    period = turn if siting == "cosited" else 2 * size
    indices = [i % period for i in (*range(-before, 0), *range(size, size + after))]
    edges = [plane.narrow(axis, i if i < size else turn - i, 1) for i in indices]
    return torch.cat((*edges[:before], plane, *edges[before:]), dim=axis)
