"""Pictures and the faces in them, moved together: similarity transforms, mirror images. No randomness here.

Places are continuous: a pixel of column c reaches from c to c + 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.stages.detections import Array
from vidsr.train.face_labels import Faces

Picture = NDArray[np.uint8]
Window = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside
# Left and right in the picture change places: eyes and corners of the mouth.
MIRRORED = (1, 0, 2, 4, 3)
# Smaller than this, and the picture is reduced by a filter before it is turned.
_LEAST_WARP = 0.75


@dataclass(frozen=True, slots=True)
class Move:
    """Brings `source` (x, y) to `target`, enlarged by `scale`, turned clockwise by `angle`, mirrored before that."""

    source: tuple[float, float]
    target: tuple[float, float]
    scale: float
    angle: float = 0.0
    mirrored: bool = False

    def matrix(self) -> Array:
        """2 x 3, of places."""
        cosine, sine = self.scale * math.cos(self.angle), self.scale * math.sin(self.angle)
        way = -1.0 if self.mirrored else 1.0
        linear = np.array([[cosine * way, -sine], [sine * way, cosine]])
        return np.column_stack([linear, np.array(self.target) - linear @ np.array(self.source)])

    def points(self, points: Array) -> Array:
        """Where points, ... x 2, come to."""
        matrix = self.matrix()
        moved: Array = points @ matrix[:, :2].T + matrix[:, 2]
        return moved

    def faces(self, faces: Faces) -> Faces:
        """Where faces come to. A box that is turned is that of the ellipse within it, as a detector draws it."""
        landmarks = self.points(faces.landmarks)
        if self.mirrored:
            landmarks = landmarks[:, MIRRORED]
        middles = self.points(faces.boxes[:, :2] + faces.boxes[:, 2:] / 2)
        cosine, sine = abs(math.cos(self.angle)), abs(math.sin(self.angle))
        width, height = faces.boxes[:, 2] * self.scale, faces.boxes[:, 3] * self.scale
        sizes = np.stack([np.hypot(width * cosine, height * sine), np.hypot(width * sine, height * cosine)], axis=1)
        return Faces(np.concatenate([middles - sizes / 2, sizes], axis=1), landmarks, faces.is_sure)


def warp(
    picture: Picture, move: Move, window: Window, reduction: int | None = None, border: int = cv2.BORDER_CONSTANT
) -> Picture:
    """What of the moved picture lies in `window`; `reduction` is OpenCV's filter for making it smaller, if any."""
    left, top, right, bottom = window
    matrix = move.matrix()
    matrix[:, 2] -= left, top
    if reduction is not None and move.scale < _LEAST_WARP:
        size = tuple(max(1, round(side * move.scale)) for side in picture.shape[1::-1])
        factors = np.array(picture.shape[1::-1]) / size
        picture = np.asarray(cv2.resize(picture, size, interpolation=reduction), np.uint8)
        matrix = np.column_stack([matrix[:, :2] * factors, matrix[:, 2]])
    # OpenCV counts from the middle of the first pixel.
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    moved = cv2.warpAffine(picture, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(moved, np.uint8)


def window_of(picture: Picture, move: Move, height: int, width: int) -> Window:
    """Where the moved picture lies in one of this size; empty if it is outside."""
    tall, wide = picture.shape[:2]
    corners = move.points(np.array([[0.0, 0.0], [wide, 0.0], [0.0, tall], [wide, tall]]))
    left, top = np.clip(np.floor(corners.min(0)), 0, [width, height]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)), 0, [width, height]).astype(int)
    return int(left), int(top), int(right), int(bottom)


def visible_shares(faces: Faces, height: int, width: int) -> Array:
    """How much of each box lies within a picture of this size, 0..1."""
    low = np.clip(faces.boxes[:, :2], 0, [width, height])
    high = np.clip(faces.boxes[:, :2] + faces.boxes[:, 2:], 0, [width, height])
    shares: Array = np.prod(high - low, axis=1) / np.prod(faces.boxes[:, 2:], axis=1)
    return shares
