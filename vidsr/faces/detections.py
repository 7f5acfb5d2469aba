"""Detected faces of one image as arrays, with the operations on them: scale, rotate, concatenate, suppress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

LANDMARKS = 5


@dataclass(frozen=True, slots=True)
class Detections:
    """N faces: `boxes` N x 4 (left, top, width, height), `landmarks` N x 5 x 2 (x first), `scores` N in 0..1."""

    boxes: Array
    landmarks: Array
    scores: Array

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls) -> Detections:
        """An empty list of faces."""
        return cls(np.zeros((0, 4)), np.zeros((0, LANDMARKS, 2)), np.zeros(0))

    @classmethod
    def join(cls, parts: Sequence[Detections]) -> Detections:
        """All faces of several lists in one."""
        if not parts:
            return cls.none()
        return cls(
            np.concatenate([part.boxes for part in parts]),
            np.concatenate([part.landmarks for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Detections:
        """The faces selected by an index array or a mask."""
        return Detections(self.boxes[rows], self.landmarks[rows], self.scores[rows])

    def scaled(self, x: float, y: float) -> Detections:
        """The same faces after the image has become x times as wide and y times as high."""
        factors = np.array([x, y])
        return Detections(self.boxes * np.tile(factors, 2), self.landmarks * factors, self.scores)

    def turned(self, quarters: int, width: float, height: float) -> Detections:
        """The same faces after an image of this size was rotated counterclockwise by `quarters` quarter turns."""
        corners = np.stack([self.boxes[:, :2], self.boxes[:, :2] + self.boxes[:, 2:]], axis=1)
        corners = rotate_points(corners, quarters, width, height)
        low, high = corners.min(axis=1), corners.max(axis=1)
        landmarks = rotate_points(self.landmarks, quarters, width, height)
        return Detections(np.concatenate([low, high - low], axis=1), landmarks, self.scores)

    def ordered(self) -> Detections:
        """Sorts by descending score, ties by position, so that the result does not depend on the input order."""
        keys = (*self.landmarks.reshape(len(self), 2 * LANDMARKS).T[::-1], *self.boxes.T[::-1], -self.scores)
        return self.take(np.lexsort(keys))

    def suppressed(self, overlap: float) -> Detections:
        """Greedy non-maximum suppression at an IoU threshold of `overlap`; returns the faces kept, best first."""
        ranked = self.ordered()
        rest = np.arange(len(ranked))
        kept = []
        while len(rest):
            best, rest = rest[0], rest[1:]
            kept.append(best)
            rest = rest[pairwise_iou(ranked.boxes[best][None], ranked.boxes[rest])[0] <= overlap]
        return ranked.take(np.array(kept, dtype=np.intp))


def rotate_points(points: Array, quarters: int, width: float, height: float) -> Array:
    """Points (... x 2) of an image of this size after its counterclockwise rotation by `quarters` quarter turns."""
    for _ in range(quarters % 4):
        points = np.stack([points[..., 1], width - points[..., 0]], axis=-1)
        width, height = height, width
    return points


def pairwise_iou(first: Array, second: Array) -> Array:
    """Intersection over union of each box of `first` (N x 4) with each of `second` (M x 4): N x M."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, :2] + first[:, None, 2:], second[None, :, :2] + second[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0.0, None), axis=2)
    areas = np.prod(first[:, None, 2:], axis=2) + np.prod(second[None, :, 2:], axis=2)
    ratios: Array = shared / np.maximum(areas - shared, np.finfo(float).tiny)
    return ratios
