"""How well a neighbor of a frame explains a candidate: filling from it, the same thing nearby, and its color."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.defects.motion import Plane, smoothed_within, warp

Mask = NDArray[np.bool_]

# By how many pixels the motion around a candidate is corrected, so that the neighbor fits best there.
CORRECTION = 4
# A correction must make the squared error around the candidate smaller than this share of it, and needs this many
# pixels around.
LEAST_BETTER, LEAST_GROUND = 0.9, 24
# How far a path may deviate from a straight one of constant speed: this many pixels and this share of the step.
BEND, BEND_SHARE = 3, 0.25


def flow_behind(flow: Plane, rows: slice, columns: slice, hole: Mask) -> Plane:
    """The motion of a block as if the pixels of `hole`, of the block's size, moved like those around them."""
    return smoothed_within(flow[rows, columns], hole, max(4, min(hole.shape) // 2))


def corrected(image: Plane, neighbor: Plane, flow: Plane, place: tuple[int, int], ground: Mask) -> Plane:
    """The flow of a block plus the translation that makes the neighbor fit the block best on `ground`.

    `image` is the block, h x w, `neighbor` the whole neighbor with its brightness corrected, `flow` h x w x 2, `place`
    the left column and the top row of the block, `ground` h x w: the pixels that show no defect.
    """
    if int(ground.sum()) < LEAST_GROUND:
        return flow
    reach = CORRECTION
    wide = np.asarray(cv2.copyMakeBorder(flow, reach, reach, reach, reach, cv2.BORDER_REPLICATE), np.float32)
    sampled = np.asarray(warp(neighbor, wide, place[0] - reach, place[1] - reach), np.float32)
    weight = ground.astype(np.float32)
    errors: Any = cv2.matchTemplate(sampled, image, cv2.TM_SQDIFF, mask=weight)
    _, _, (x, y), _ = cv2.minMaxLoc(errors)
    if errors[y, x] >= LEAST_BETTER * errors[reach, reach]:
        return flow
    shift = np.array([x - reach + _vertex(errors[y], x), y - reach + _vertex(errors[:, x], y)], np.float32)
    return flow + shift


def _vertex(values: NDArray[Any], at: int) -> float:
    """How far the vertex of the parabola through three values lies from the middle one, the least: -0.5 to 0.5."""
    if not 0 < at < len(values) - 1:
        return 0.0
    before, here, after = (float(value) for value in values[at - 1 : at + 2])
    bend = before - 2 * here + after
    return float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend > 0 else 0.0


def match_maps(template: Plane, areas: Sequence[Plane]) -> list[Plane]:
    """The sum of squared differences of a template to each place of each area, relative to its sum of squares.

    0 is an exact copy, 1 is nothing at all. Areas are larger than the template by twice the reach of the search.
    """
    energy = max(float(np.square(template).sum()), 1e-6)
    maps: list[Any] = [cv2.matchTemplate(area, template, cv2.TM_SQDIFF) for area in areas]
    return [np.maximum(each, 0) / np.float32(energy) for each in maps]


def path_match(before: Plane, after: Plane) -> float:
    """How badly a candidate is explained as something that passes through: 0 is an exact copy in both neighbors.

    `before` and `after` are maps of the same odd side, as from `match_maps`. What passes through a frame is on opposite
    sides of it in its neighbors, at about the same distance; each map may be better elsewhere by chance.
    """
    opposite = np.ascontiguousarray(before[::-1, ::-1])
    reach = len(before) // 2
    best = np.inf
    # Longer steps may deviate farther; the distance is that of the longer coordinate.
    y, x = np.ogrid[-reach : reach + 1, -reach : reach + 1]
    distance = np.maximum(abs(x), abs(y))
    for low, high in ((0, reach // 4), (reach // 4, reach // 2), (reach // 2, reach + 1)):
        bend = BEND + round(BEND_SHARE * low)
        near = np.asarray(cv2.erode(opposite, np.ones((2 * bend + 1, 2 * bend + 1), np.uint8)))
        both = np.maximum(near, after)[(distance >= low) & (distance < high)]
        best = min(best, float(both.min()))
    return best


def tint(shown: NDArray[Any], behind: NDArray[Any], contrast: float) -> float:
    """How much of a difference is color that dirt cannot have: 0 for dirt, about 1 for a thing of a pure color.

    `shown` and `behind` are the color (red and blue minus gray) of the candidate and of what is behind it, in levels;
    `contrast` is the difference in gray. Dirt is gray: where it covers something, it can only take color away.
    """
    change, square = shown - behind, float(behind @ behind)
    taken = float(np.clip(-(change @ behind) / square, 0, 1)) if square > 0 else 0.0
    return float(np.hypot(*(change + taken * behind))) / max(contrast, 1e-6)
