"""Accuracy and jitter of landmarks: NME, STD and SDD of the dissertation, (3.1) to (3.3).

A path is N x K x 2: K landmarks in N frames, in pixels, without NaN. Where the text leaves something open:
- d, "the distance between outer corners of eyes", needs corners. Of five points only the pupils are known, so d is the
  distance between the eyes there ("inter pupil distance", as in older papers; it is smaller, so figures are larger).
- (3.1) is for one face in one frame; of a path it is the mean over the frames, each with its own d.
- (3.2) and (3.3) have one d for a path: the mean over its frames.
- (3.2) gives "an array composed of the standard deviation of each landmark coordinate"; one figure is the root of the
  mean of its squares, so that halving all noise halves it.
- (3.2) holds for "an unmoved face". For a moving face without ground truth, `std_moving` (ours) is the same for the
  residual of a local parabola. Slow drift and lag do not count there, so read it together with NME.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Landmarks: TypeAlias = NDArray[np.float64]

PARABOLA_FRAMES = 9


def eye_distance(truth: Landmarks, left: int = 0, right: int = 1) -> NDArray[np.float64]:
    """The distance of two landmarks, by default the eyes of five points, in each of N frames."""
    distance: NDArray[np.float64] = np.hypot(*(truth[:, left] - truth[:, right]).T)
    return distance


def nme(found: Landmarks, truth: Landmarks, distance: NDArray[np.float64]) -> float:
    """Normalized mean error (3.1), mean over the frames; `distance` is d in each frame."""
    _check(found, 1)
    _check(truth, 1)
    return float((np.linalg.norm(found - truth, axis=2).mean(1) / distance).mean())


def std(found: Landmarks, distance: float) -> NDArray[np.float64]:
    """Standard deviation (3.2) of each coordinate, K x 2, of a face that does not move; `distance` is d."""
    _check(found, 2)
    deviation: NDArray[np.float64] = found.std(0, ddof=1) / distance
    return deviation


def sdd(found: Landmarks, truth: Landmarks, distance: float) -> NDArray[np.float64]:
    """Standard deviation of difference (3.3) of each coordinate, K x 2; `distance` is d."""
    _check(truth, 2)
    return std(found - truth, distance)


def std_moving(found: Landmarks, distance: float) -> NDArray[np.float64]:
    """STD (3.2) of a moving face, K x 2, ours: of the residual of a parabola over 9 frames, at its center.

    Scaled so that white noise gives its own standard deviation. Needs at least 10 frames.
    """
    _check(found, PARABOLA_FRAMES + 1)
    reach = PARABOLA_FRAMES // 2
    powers = np.vander(np.arange(-reach, reach + 1, dtype=np.float64), 3, increasing=True)
    weights = np.linalg.pinv(powers)[0]
    windows = np.lib.stride_tricks.sliding_window_view(found, PARABOLA_FRAMES, axis=0)
    rest = windows[..., reach] - windows @ weights
    deviation: NDArray[np.float64] = np.sqrt(np.square(rest).mean(0) / (1 - weights[reach])) / distance
    return deviation


def overall(deviations: NDArray[np.float64]) -> float:
    """One figure for the coordinates of a face: the root of the mean of the squares."""
    return float(np.sqrt(np.square(deviations).mean()))


def _check(path: Landmarks, frames: int) -> None:
    if path.ndim != 3 or path.shape[2] != 2 or len(path) < frames:
        raise ValueError(f"a path is N x K x 2 with N at least {frames}, not {path.shape}")
    if not np.isfinite(path).all():
        raise ValueError("a path must not hold NaN or infinity: leave such frames out and count them")
