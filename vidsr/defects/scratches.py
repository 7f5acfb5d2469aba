"""Finds vertical scratches, which stay at one column of the film for many frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.defects.film import LINES
from vidsr.defects.motion import Look, Plane
from vidsr.defects.repair import Patch
from vidsr.types import Defect

# The frame is cut into this many bands; a band averages grain over its rows.
BANDS = 24
# A scratch is narrower than half of this, and differs from the columns around by at least these many levels, and by
# this many times the usual difference in the frame.
REACH, LEAST_LEVELS, LEAST_NOISE = 9, 3.0, 3.0
# The share of the bands that a scratch crosses in the same direction (lighter or darker), averaged over frames.
LEAST_COVERAGE = 0.7
# The average forgets like 0.5 ** (1 / 12) a frame. A column must have been seen for this many frames.
MEMORY, LEAST_FRAMES = 1 - 0.5 ** (1 / 12), 20
# By how many pixels (at 480 lines) the image must have moved sideways under the scratch in these frames: only this
# tells it from a pole or a window frame.
LEAST_SHIFT = 6.0
MAX_SCRATCHES = 3
# Half the width that is replaced, without the fading, in pixels at 480 lines.
HALF_WIDTH = 2


@dataclass(frozen=True, slots=True)
class Line:
    """A lasting vertical scratch in one frame."""

    defect: Defect
    column: int


@dataclass(slots=True)
class ScratchState:
    """What has been seen so far: the mean coverage of each column, for light and dark, and how far images moved."""

    coverage: NDArray[np.float64] | None = None
    frames: int = 0
    shift: float = 0.0


class ScratchFinder:
    """Averages over time how much of each column is a thin line; cuts do not matter, as the scratch is on the film."""

    def start(self) -> ScratchState:
        """The state before the first image."""
        return ScratchState()

    def step(self, look: Look, flow: Plane | None, state: ScratchState) -> list[Line]:
        """The scratches of the next image. `flow` is the motion to the image before; None if it is unknown."""
        height, width = look.gray.shape
        unit = max(1.0, min(height, width) / LINES)
        strength = line_strength(look.smooth, unit)
        covered = coverage(strength)
        if state.coverage is None:
            state.coverage = np.zeros_like(covered)
        # A scratch sways by a pixel from frame to frame.
        near = np.asarray(cv2.dilate(covered, np.ones((1, 3), np.uint8)))
        state.coverage += MEMORY * (near - state.coverage)
        state.frames += 1
        moved = 2 * LEAST_SHIFT * unit if flow is None else abs(float(np.median(flow[::4, ::4, 0])))
        state.shift = (1 - MEMORY) * state.shift + min(moved, LEAST_SHIFT * unit)
        if state.frames < LEAST_FRAMES or state.shift < LEAST_SHIFT * unit:
            return []
        return self._lines(covered, strength, state.coverage, unit, height)

    def _lines(
        self, covered: NDArray[np.float64], strength: Plane, lasting: NDArray[np.float64], unit: float, height: int
    ) -> list[Line]:
        found: list[tuple[float, Line]] = []
        half = round(HALF_WIDTH * unit)
        for row, sign in ((0, 1), (1, -1)):
            score = np.where(lasting[row] >= LEAST_COVERAGE, covered[row], 0)
            while score.max() >= LEAST_COVERAGE / 2:
                best = float(score.max())
                columns = np.flatnonzero(score == best)
                column = int(columns[np.argmax(sign * strength[:, columns].mean(0))])
                contrast = float(np.abs(strength[:, column]).mean())
                defect = Defect(
                    "scratch", sign > 0, column - half, 0, 2 * half + 1, height, float(column), (height - 1) / 2,
                    (2 * half + 1) * height, float(height), float(2 * half + 1), 0.0, contrast,
                )  # fmt: skip
                found.append((best * contrast, Line(defect, column)))
                score[max(0, column - 3 * half) : column + 3 * half + 1] = 0
        found.sort(key=lambda entry: -entry[0])
        return [line for _, line in found[:MAX_SCRATCHES]]


def line_strength(image: Plane, unit: float = 1.0) -> Plane:
    """How much lighter each column of each band is than the columns around: BANDS x W, in levels."""
    height, width = image.shape
    bands = np.asarray(cv2.resize(image, (width, min(BANDS, height)), interpolation=cv2.INTER_AREA), np.float32)
    side = 2 * (round(REACH * unit) // 2) + 1
    padded = np.pad(bands, ((0, 0), (side // 2, side // 2)), mode="reflect")
    around = np.median(np.lib.stride_tricks.sliding_window_view(padded, side, axis=1), axis=2)
    return np.asarray(bands - around, np.float32)


def coverage(strength: Plane) -> NDArray[np.float64]:
    """The share of bands in which each column is lighter (first row) or darker (second) than those around: 2 x W."""
    noise = 1.4826 * float(np.median(np.abs(strength)))
    least = max(LEAST_LEVELS, LEAST_NOISE * noise)
    return np.stack([(strength >= least).mean(0), (strength <= -least).mean(0)]).astype(np.float64)


def bridge(image: NDArray[np.float32], line: Line) -> Patch | None:
    """The repair of a scratch: each row interpolated between both sides; None at the edge of the frame.

    `image` is H x W x 3, 0..1. Both sides are means over three rows and two columns, so that grain does not streak.
    """
    height, width = image.shape[:2]
    unit = max(1.0, min(height, width) / LINES)
    half = round(HALF_WIDTH * unit)
    left, right = line.column - half - 2, line.column + half + 1
    if left < 0 or right + 2 > width:
        return None
    sides: Any = [cv2.blur(image[:, at : at + 2].mean(1, keepdims=True), (1, 3)) for at in (left, right)]
    # The middle of a side is 1.5 columns from the first replaced one.
    weight = ((np.arange(2 * half + 1, dtype=np.float32) + 1.5) / (2 * half + 3))[None, :, None]
    sides = [side.reshape(height, 1, 3) for side in sides]
    pixels = (1 - weight) * sides[0] + weight * sides[1]
    opacity = np.ones((height, 2 * half + 1), np.float32)
    opacity[:, [0, -1]] = 0.5
    return Patch(line.column - half, 0, pixels.astype(np.float32), opacity)
