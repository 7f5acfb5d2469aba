"""Pyramidal Lucas-Kanade tracking of points between frames, and the motion of a whole face from a grid of points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]
Grey: TypeAlias = NDArray[np.uint8]

# In pixels of a patch. Five landmarks with spread 20 have eyes about 30 apart. The patch reaches 2.4 spreads to each
# side: room for the landmarks (1.5), half a window, and what the prediction of the motion misses.
PATCH_SIDE = 96
PATCH_SPREAD = 20.0
WINDOW = 21
PYRAMID_LEVELS = 2
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.005)


@dataclass(frozen=True, slots=True)
class Patch:
    """A square cut out of a frame and resized: `image` is PATCH_SIDE x PATCH_SIDE, uint8, and owns its memory.

    `left` and `top` are the frame's column and row of its corner pixel, `side` its side, all in pixels of the frame.
    """

    image: Grey
    left: int
    top: int
    side: int

    def inner(self, points: Points) -> Points:
        """Points of the frame in pixels of the patch; a whole number is the middle of a pixel in both."""
        return (points - (self.left, self.top) + 0.5) * (PATCH_SIDE / self.side) - 0.5

    def outer(self, points: Points) -> Points:
        """Points of the patch in pixels of the frame."""
        return (points + 0.5) * (self.side / PATCH_SIDE) - 0.5 + (self.left, self.top)


def spread(points: Points) -> float:
    """Root of the mean squared distance to the middle, in pixels: about 0.65 of the distance of the eyes.

    Unlike that distance it does not vanish in a profile. NaN points do not count; at least 1.
    """
    known = points[np.isfinite(points).all(1)]
    return max(1.0, float(np.sqrt(np.square(known - known.mean(0)).sum(1).mean()))) if len(known) else 1.0


def patch_side(points: Points) -> int:
    """The side, in pixels of the frame, of a patch for these landmarks."""
    return max(2, round(PATCH_SIDE * spread(points) / PATCH_SPREAD))


def cut_patch(grey: Grey, centre: Points, side: int) -> Patch:
    """The square of this side around `centre` (x, y); beyond the frame its edge pixels are repeated."""
    height, width = grey.shape
    # A prediction may lie anywhere; the square must keep at least a pixel of the frame to repeat.
    left = int(np.clip(round(float(centre[0]) - side / 2), 1 - side, width - 1))
    top = int(np.clip(round(float(centre[1]) - side / 2), 1 - side, height - 1))
    rows, columns = slice(max(0, top), min(height, top + side)), slice(max(0, left), min(width, left + side))
    part = cv2.copyMakeBorder(
        np.ascontiguousarray(grey[rows, columns]),
        rows.start - top,
        top + side - rows.stop,
        columns.start - left,
        left + side - columns.stop,
        cv2.BORDER_REPLICATE,
    )
    kind = cv2.INTER_AREA if side > PATCH_SIDE else cv2.INTER_LINEAR
    return Patch(np.asarray(cv2.resize(part, (PATCH_SIDE, PATCH_SIDE), interpolation=kind)), left, top, side)


def track(before: Patch, now: Patch, points: Points) -> tuple[Points, Points]:
    """The points (K x 2, in the frame of `before`) in the frame of `now`, and these tracked back: F^2(p), F^1(F^2(p)).

    NaN where a point is NaN, where Lucas-Kanade finds no texture to hold on to, or where it leaves the patch. The
    search starts at the same place of both patches, so the caller cuts them where it expects the face.
    """
    forth = np.full_like(points, np.nan)
    back = np.full_like(points, np.nan)
    start = before.inner(points)
    known = np.flatnonzero(_inside(start))
    if len(known) == 0:
        return forth, back
    there, found = _follow(before.image, now.image, start[known])
    again, found_again = _follow(now.image, before.image, there)
    good = found & found_again & _inside(there) & _inside(again)
    forth[known[good]] = now.outer(there[good])
    back[known[good]] = before.outer(again[good])
    return forth, back


def _follow(source: Grey, target: Grey, points: Points) -> tuple[Points, NDArray[np.bool_]]:
    start = points.astype(np.float32).reshape(-1, 1, 2)
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        source, target, start, np.zeros_like(start), winSize=(WINDOW, WINDOW), maxLevel=PYRAMID_LEVELS, criteria=_STOP
    )
    return np.asarray(found, np.float64).reshape(-1, 2), np.asarray(status).reshape(-1) == 1


def _inside(points: Points) -> NDArray[np.bool_]:
    return np.asarray(((points >= 0) & (points <= PATCH_SIDE - 1)).all(1))


GRID = 7  # points in a row
REACH = 1.5  # from the middle to the outermost points, in spreads; farther out lies what is behind the face
NEEDED = 8  # points that come home, for a motion to be believed
ROUNDS = 8


def homecoming(back: Points, points: Points, tolerance: float) -> NDArray[np.float64]:
    """exp(-(c / tolerance)^2) for each point, c being its forward-backward consistency in pixels; 0 for a lost one."""
    distance = np.nan_to_num(np.hypot(*(back - points).T), nan=np.inf)
    trust: NDArray[np.float64] = np.exp(-np.square(distance / tolerance))
    return trust


def carry(before: Patch, now: Patch, points: Points, tolerance: float) -> tuple[Points, NDArray[np.float64]]:
    """The points (K x 2, in the frame of `before`) where the face's motion takes them in the frame of `now`.

    And how far that is to be believed, 0 to 1, the same for all K: the mean over the grid of what comes home to within
    `tolerance` pixels. NaN and 0 if there is no telling; a point that is NaN remains so.
    """
    known = points[np.isfinite(points).all(1)]
    lost = np.full_like(points, np.nan), np.zeros(len(points))
    if len(known) == 0:
        return lost
    middle = known.mean(0)
    steps = np.linspace(-REACH, REACH, GRID) * spread(points)
    grid = middle + np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    there, back = track(before, now, grid)
    trust = homecoming(back, grid, tolerance)
    home = trust > np.exp(-1.0)
    if home.sum() < NEEDED:
        return lost
    # A point of the plane as one complex number: a similarity is then a product and a sum.
    turn, shift = _similarity(_complex(grid[home] - middle), _complex(there[home] - middle), trust[home])
    carried = turn * _complex(points - middle) + shift
    return middle + np.stack((carried.real, carried.imag), axis=1), np.full(len(points), trust.mean())


def _similarity(
    source: NDArray[np.complex128], target: NDArray[np.complex128], weights: NDArray[np.float64]
) -> tuple[complex, complex]:
    """The a and b for which a * source + b is nearest to target; what lies far from it counts less (Cauchy)."""
    moves = target - source
    turn, shift = complex(1), complex(np.median(moves.real), np.median(moves.imag))
    for _ in range(ROUNDS):
        distances = np.abs(turn * source + shift - target)
        usual = max(1e-6, 1.4826 * float(np.median(distances)))  # a standard deviation, if they are normal
        shares = weights / (1 + np.square(distances / usual))
        total = shares.sum()
        from_middle, to_middle = (shares * source).sum() / total, (shares * target).sum() / total
        centred = source - from_middle
        turn = complex((shares * centred.conj() * (target - to_middle)).sum() / (shares * np.abs(centred) ** 2).sum())
        shift = complex(to_middle - turn * from_middle)
    return turn, shift


def _complex(points: Points) -> NDArray[np.complex128]:
    return points[:, 0] + 1j * points[:, 1]
