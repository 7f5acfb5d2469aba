"""Where overlapping tiles lie along one axis of a picture, and how their results are joined. No engine lives here."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Strip:
    """One tile's place along an axis: its first input pixel, its output pixels, and how far it counts in each.

    `share` says how far it replaces what the strips before it left there, 0..1 in float64.
    """

    start: int
    place: slice
    share: Tensor

    def blend(self, canvas: Tensor, tile: Tensor) -> None:
        """Moves `canvas` (3 x all output pixels x any) towards `tile`; where all tiles agree, not a bit is changed."""
        target = canvas[:, self.place]
        target.add_((tile - target).mul_(self.share[:, None].to(tile)))


def lay_strips(length: int, side: int, overlap: int, step: int, scale: int) -> list[Strip]:
    """Evenly spread strips of `side` input pixels over `length`, to be blended in this order.

    Neighbours share at least `overlap` pixels. All start on multiples of `step` (an untiled engine's grid) but the
    last. The outer 3/8 of an overlap count nothing: a tile lacks its surroundings there. In the middle quarter shares
    rise linearly, so that what still differs between two tiles becomes no visible line. Against an untiled recurrent
    network of 12 layers and an overlap of 16 the largest error was 0.00004, with a ramp over the whole overlap 0.004.
    """
    margin, ramp = overlap * scale * 3 / 8, max(overlap * scale / 4, 1.0)
    centre = torch.arange(side * scale, dtype=torch.float64) + 0.5
    total = torch.zeros(length * scale, dtype=torch.float64)
    strips = []
    for start in _starts(length, side, overlap, step):
        weight = torch.ones(side * scale, dtype=torch.float64)
        if start > 0:
            weight = weight.minimum(((centre - margin) / ramp).clamp(0.0, 1.0))
        if start + side < length:
            weight = weight.minimum(((side * scale - centre - margin) / ramp).clamp(0.0, 1.0))
        place = slice(start * scale, (start + side) * scale)
        total[place] += weight
        strips.append(Strip(start, place, torch.where(weight > 0, weight / total[place], 0.0)))
    return strips


def _starts(length: int, side: int, overlap: int, step: int) -> list[int]:
    if side >= length:
        return [0]
    # Rounding a start down by up to step - 1 pixels must not eat into the overlap on its right.
    stride = max(1, side - overlap - (step - 1))
    count = math.ceil((length - side) / stride) + 1
    starts = [(length - side) * index // (count - 1) for index in range(count)]
    return [start // step * step for start in starts[:-1]] + starts[-1:]
