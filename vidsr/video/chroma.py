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


def enlarge_rows(plane: Tensor, out: Tensor, siting: Siting) -> None:
    """Doubles the rows of (..., h, w) into `out` (..., 2h, w)."""
    count = plane.shape[-2]
    even, odd = out[..., 0::2, :], out[..., 1::2, :]
    if siting == "cosited":
        even.copy_(plane)
        torch.add(plane[..., :-1, :], plane[..., 1:, :], out=odd[..., :-1, :]).mul_(0.5)
        odd[..., -1, :] = plane[..., -1, :]
        return
    padded = _pad_rows(plane, 2, 2, "half")
    taps = [padded[..., i : i + count, :] for i in range(5)]
    far, near, main, other = _CUBIC
    torch.mul(taps[2], main, out=even)
    even.add_(taps[1], alpha=near).add_(taps[3], alpha=other).add_(taps[0], alpha=far)
    torch.mul(taps[2], main, out=odd)
    odd.add_(taps[3], alpha=near).add_(taps[1], alpha=other).add_(taps[4], alpha=far)


def reduce_rows(plane: Tensor, siting: Siting) -> Tensor:
    """Halves the rows of (..., h, w), to h / 2 rounded up."""
    rows = plane.shape[-2]
    count = (rows + 1) // 2
    if siting == "cosited":
        padded = _pad_rows(plane, 2, 2 + rows % 2, "whole")
        even, odd = padded[..., 0::2, :], padded[..., 1::2, :]
        inner = odd[..., :count, :] + odd[..., 1 : count + 1, :]
        inner.mul_(0.25).add_(even[..., 1 : count + 1, :], alpha=0.75)
        return inner.add_(even[..., :count, :], alpha=-0.125).add_(even[..., 2 : count + 2, :], alpha=-0.125)
    padded = _pad_rows(plane, 3, 3 + rows % 2, "half")
    even, odd = padded[..., 0::2, :], padded[..., 1::2, :]
    out = (odd[..., 1 : count + 1, :] + even[..., 2 : count + 2, :]).mul_(_DUAL[0])
    out.add_(even[..., 1 : count + 1, :], alpha=_DUAL[1]).add_(odd[..., 2 : count + 2, :], alpha=_DUAL[1])
    out.add_(odd[..., :count, :], alpha=_DUAL[2]).add_(even[..., 3 : count + 3, :], alpha=_DUAL[2])
    return out.add_(even[..., :count, :], alpha=_DUAL[3]).add_(odd[..., 3 : count + 3, :], alpha=_DUAL[3])


def _pad_rows(plane: Tensor, before: int, after: int, symmetry: Literal["half", "whole"]) -> Tensor:
    """Mirrors rows at both ends: about the edge ("half", the edge row comes twice) or about the edge row ("whole")."""
    rows = plane.shape[-2]
    if rows == 1:
        return plane.expand(*plane.shape[:-2], 1 + before + after, plane.shape[-1])
    turn = 2 * rows - 1 if symmetry == "half" else 2 * rows - 2
    period = 2 * rows if symmetry == "half" else turn
    wanted = [i % period for i in (*range(-before, 0), *range(rows, rows + after))]
    edges = [plane[..., j : j + 1, :] for j in (i if i < rows else turn - i for i in wanted)]
    return torch.cat((*edges[:before], plane, *edges[before:]), dim=-2)
