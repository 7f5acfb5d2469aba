"""Chroma planes to full size and back, with the samples where the file says they are. No matrix and no range here.

A chroma sample of a halved axis lies either on the even luma sample ("cosited") or between two of them ("centred").
For each case the two directions are a pair: reducing what was enlarged gives the plane back (exactly when cosited,
within 0.002 of its range when centred), so that a film that is only passed through keeps its colours.

- cosited: linear up, 5/3 wavelet filter down;
- centred: Keys cubic (a = -1/2) up, its dual of eight taps down.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Siting = Literal["cosited", "centred"]

_SITINGS: dict[str, tuple[Siting, Siting]] = {
    "left": ("cosited", "centred"),
    "center": ("centred", "centred"),
    "topleft": ("cosited", "cosited"),
    "top": ("centred", "cosited"),
    "bottomleft": ("cosited", "centred"),
    "bottom": ("centred", "centred"),
}

# Keys' kernel at the distances 7/4, 3/4, 1/4 and 5/4.
_CUBIC = (-0.0234375, 0.2265625, 0.8671875, -0.0703125)
# Least squares of "down after up is the identity" over eight symmetric taps, scaled to sum 1; inner tap first.
_DUAL = (0.5600, 0.0272, -0.1414, 0.0542)


def is_known_location(location: str) -> bool:
    """False for the two bottom locations, whose rows are taken as centred (no encoder we know writes them)."""
    return not location.startswith("bottom")


def sitings(location: str, matrix: str) -> tuple[Siting, Siting]:
    """The horizontal and the vertical siting for FFmpeg's name; "unknown" is left, and top left for BT.2020."""
    return _SITINGS.get(location) or _SITINGS["topleft" if matrix == "bt2020nc" else "left"]


def upsample_rows(plane: Tensor, out: Tensor, siting: Siting) -> None:
    """Doubles the rows of (..., h, w) into `out` (..., 2h, w)."""
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
    """Halves the rows of (..., h, w), to h / 2 rounded up."""
    before, after = _margins(plane.shape[-2], siting)
    padded = _pad(plane, before, after, siting, -2)
    return _downsample(padded[..., 0::2, :], padded[..., 1::2, :], siting, -2)


def downsample_columns(plane: Tensor, siting: Siting) -> Tensor:
    """Halves the columns of (..., h, w), to w / 2 rounded up."""
    before, after = _margins(plane.shape[-1], siting)
    padded = _pad(plane, before, after, siting, -1)
    # Apart in memory: every pass over each second sample would take several times as long.
    return _downsample(padded[..., 0::2].contiguous(), padded[..., 1::2].contiguous(), siting, -1)


def _margins(size: int, siting: Siting) -> tuple[int, int]:
    """How many samples the reducing filter needs beyond both ends."""
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
    """Mirrors samples at both ends: about the edge sample if cosited, else about the edge (that sample comes twice)."""
    size = plane.shape[axis]
    if size == 1:
        shape = list(plane.shape)
        shape[axis] = 1 + before + after
        return plane.expand(shape)
    turn = 2 * size - 2 if siting == "cosited" else 2 * size - 1
    period = turn if siting == "cosited" else 2 * size
    wanted = [i % period for i in (*range(-before, 0), *range(size, size + after))]
    edges = [plane.narrow(axis, i if i < size else turn - i, 1) for i in wanted]
    return torch.cat((*edges[:before], plane, *edges[before:]), dim=axis)
