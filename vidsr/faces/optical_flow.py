"""Pyramidal Lucas-Kanade tracking of points between frames, and the motion of a whole face from a grid of points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Points: TypeAlias = NDArray[np.float64]
GrayImage: TypeAlias = NDArray[np.uint8]

# In pixels of a patch. The eyes of five landmarks with a spread of 20 are about 30 apart. The patch reaches 2.4 spreads
# to each side: room for the landmarks (1.5), half a search window, and the error of the motion prediction.
PATCH_SIDE = 96
PATCH_SPREAD = 20.0
WINDOW = 21
PYRAMID_LEVELS = 2
_STOP = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 30, 0.005)


@dataclass(frozen=True, slots=True)
class TrackingPatch:
    """A square crop of a frame, resized for tracking: `image` is PATCH_SIDE x PATCH_SIDE, uint8, and owns its memory.

    `left` and `top` are the column and row of its corner pixel, `side` its side, all in pixels of the frame.
    """

    image: GrayImage
    left: int
    top: int
    side: int

    def to_patch(self, points: Points) -> Points:
        """Converts points from frame pixels to patch pixels; integer coordinates are pixel centers in both."""
        return (points - (self.left, self.top) + 0.5) * (PATCH_SIDE / self.side) - 0.5

    def to_frame(self, points: Points) -> Points:
        """Converts points from patch pixels to frame pixels."""
        return (points + 0.5) * (self.side / PATCH_SIDE) - 0.5 + (self.left, self.top)


def spread(points: Points) -> float:
    """Root of the mean squared distance of the points to their center, in pixels: about 0.65 of the eye distance.

    Unlike the eye distance it does not vanish in profile views. NaN points are ignored; the result is at least 1.
    """
    known = points[np.isfinite(points).all(1)]
    return max(1.0, float(np.sqrt(np.square(known - known.mean(0)).sum(1).mean()))) if len(known) else 1.0


def patch_side(points: Points) -> int:
    """The side, in pixels of the frame, of a patch for these landmarks."""
    return max(2, round(PATCH_SIDE * spread(points) / PATCH_SPREAD))


def cut_patch(gray: GrayImage, center: Points, side: int) -> TrackingPatch:
    """Cuts the square of this side around `center` (x, y); edge pixels are repeated beyond the frame."""
    height, width = gray.shape
    # A prediction may lie anywhere, but the square must contain at least one pixel of the frame to repeat.
    left = int(np.clip(round(float(center[0]) - side / 2), 1 - side, width - 1))
    top = int(np.clip(round(float(center[1]) - side / 2), 1 - side, height - 1))
    rows, columns = slice(max(0, top), min(height, top + side)), slice(max(0, left), min(width, left + side))
    part = cv2.copyMakeBorder(
        np.ascontiguousarray(gray[rows, columns]),
        rows.start - top,
        top + side - rows.stop,
        columns.start - left,
        left + side - columns.stop,
        cv2.BORDER_REPLICATE,
    )
    kind = cv2.INTER_AREA if side > PATCH_SIDE else cv2.INTER_LINEAR
    return TrackingPatch(np.asarray(cv2.resize(part, (PATCH_SIDE, PATCH_SIDE), interpolation=kind)), left, top, side)


def track(before: TrackingPatch, now: TrackingPatch, points: Points) -> tuple[Points, Points]:
    """Tracks points (K x 2, in the frame of `before`) to the frame of `now` and back: F^2(p), F^1(F^2(p)).

    NaN where a point is NaN, where Lucas-Kanade finds too little texture, or where a point leaves the patch. The search
    starts at the same position in both patches, so the caller cuts them where it expects the face.
    """
    forth = np.full_like(points, np.nan)
    back = np.full_like(points, np.nan)
    start = before.to_patch(points)
    known = np.flatnonzero(_inside(start))
    if len(known) == 0:
        return forth, back
    there, found = _follow(before.image, now.image, start[known])
    again, found_again = _follow(now.image, before.image, there)
    good = found & found_again & _inside(there) & _inside(again)
    forth[known[good]] = now.to_frame(there[good])
    back[known[good]] = before.to_frame(again[good])
    return forth, back


def _follow(source: GrayImage, target: GrayImage, points: Points) -> tuple[Points, NDArray[np.bool_]]:
    start = points.astype(np.float32).reshape(-1, 1, 2)
    found, status, _ = cv2.calcOpticalFlowPyrLK(
        source, target, start, np.zeros_like(start), winSize=(WINDOW, WINDOW), maxLevel=PYRAMID_LEVELS, criteria=_STOP
    )
    return np.asarray(found, np.float64).reshape(-1, 2), np.asarray(status).reshape(-1) == 1


def _inside(points: Points) -> NDArray[np.bool_]:
    return np.asarray(((points >= 0) & (points <= PATCH_SIDE - 1)).all(1))


GRID = 7  # points in a row
REACH = 1.5  # from the center to the outermost points, in spreads; farther out lies the background
MIN_CONSISTENT = 8  # consistent points needed to trust a motion
ITERATIONS = 8


def forward_backward_confidence(back: Points, points: Points, tolerance: float) -> NDArray[np.float64]:
    """Confidence of each point: exp(-(c / tolerance)^2), c its forward-backward error in pixels; 0 if it was lost."""
    distance = np.nan_to_num(np.hypot(*(back - points).T), nan=np.inf)
    confidence: NDArray[np.float64] = np.exp(-np.square(distance / tolerance))
    return confidence


def propagate_landmarks(
    before: TrackingPatch, now: TrackingPatch, points: Points, tolerance: float
) -> tuple[Points, NDArray[np.float64]]:
    """Moves points (K x 2, in the frame of `before`) to the frame of `now` by the motion of the whole face.

    Also returns the confidence, 0 to 1, the same for all K: the mean of `forward_backward_confidence` over the grid,
    with `tolerance` in pixels. NaN points and zero confidence if tracking fails; a NaN point stays NaN.
    """
    known = points[np.isfinite(points).all(1)]
    lost = np.full_like(points, np.nan), np.zeros(len(points))
    if len(known) == 0:
        return lost
    center = known.mean(0)
    steps = np.linspace(-REACH, REACH, GRID) * spread(points)
    grid = center + np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    there, back = track(before, now, grid)
    confidence = forward_backward_confidence(back, grid, tolerance)
    is_consistent = confidence > np.exp(-1.0)
    if is_consistent.sum() < MIN_CONSISTENT:
        return lost
    # With points as complex numbers, a similarity transform is a product and a sum.
    rotation, shift = _similarity(
        _complex(grid[is_consistent] - center), _complex(there[is_consistent] - center), confidence[is_consistent]
    )
    carried = rotation * _complex(points - center) + shift
    return center + np.stack((carried.real, carried.imag), axis=1), np.full(len(points), confidence.mean())


def _similarity(
    source: NDArray[np.complex128], target: NDArray[np.complex128], weights: NDArray[np.float64]
) -> tuple[complex, complex]:
    """The a and b that bring a * source + b nearest to target: least squares with Cauchy weights against outliers."""
    moves = target - source
    rotation, shift = complex(1), complex(np.median(moves.real), np.median(moves.imag))
    for _ in range(ITERATIONS):
        distances = np.abs(rotation * source + shift - target)
        scale = max(1e-6, 1.4826 * float(np.median(distances)))  # the standard deviation of normally distributed errors
        robust = weights / (1 + np.square(distances / scale))
        total = robust.sum()
        from_center, to_center = (robust * source).sum() / total, (robust * target).sum() / total
        centered = source - from_center
        rotation = complex(
            (robust * centered.conj() * (target - to_center)).sum() / (robust * np.abs(centered) ** 2).sum()
        )
        shift = complex(to_center - rotation * from_center)
    return rotation, shift


def _complex(points: Points) -> NDArray[np.complex128]:
    return points[:, 0] + 1j * points[:, 1]
