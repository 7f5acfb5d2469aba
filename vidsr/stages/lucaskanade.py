"""Points followed from one frame to the next by pyramidal Lucas-Kanade, there and back. What to make of it: landmarks.

Dissertation, section 3.3.2: optical flow gives the points of the first frame in the second, F_t^2(p1) (3.11), and "is
used again on these predicted points but in a reverse way", F_t^1(F_t^2(p1)). The text names neither the algorithm nor
its settings. Ours: cv2.calcOpticalFlowPyrLK in a patch around the face, which is reduced or enlarged so that the
landmarks always have the same spread. So window and pyramid mean the same for a face of 16 and of 400 pixels, the cost
does not depend on the frame's size, a face's result on no other face, and only the patch need be kept between frames.
"""

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
