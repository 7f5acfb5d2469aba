"""Brings a face in a photograph to the pose of another one: a similarity transform from five points.

Points are in pixels from the upper left corner of an image, so that the center of its first pixel is (0.5, 0.5). A
transform is a 2 x 3 matrix that acts on columns (x, y, 1).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.faces.detections import Array

Image = NDArray[np.uint8]
# Below this scale an image is first reduced with a filter, because sampling alone would alias.
_MIN_WARP_SCALE = 0.75
# Eyes, nose and corners of the mouth of an upright frontal face, in units of the distance between the eyes, around the
# middle of the five: about the mean of the 102 neutral faces of the Face Research Lab London Set.
UPRIGHT = np.array([[-0.5, -0.55], [0.5, -0.55], [0.0, 0.02], [-0.4, 0.54], [0.4, 0.54]])


def similarity_between(source: Array, target: Array) -> Array:
    """The similarity transform, 2 x 3, that brings `source` nearest to `target` (N x 2 each) by least squares.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns" (PAMI 1991), without
    reflection. Raises ValueError if all source points coincide.
    """
    before, after = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    centered = before - before.mean()
    spread = float((np.abs(centered) ** 2).sum())
    if spread == 0:
        raise ValueError("a similarity transform needs two different points")
    turn = complex((centered.conj() * after).sum() / spread)
    shift = complex(after.mean() - turn * before.mean())
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def transformed(matrix: Array, points: Array) -> Array:
    """Points, ... x 2, after a transform."""
    moved: Array = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def mirrored_transform(matrix: Array, width: float, new_width: float) -> Array:
    """A transform, ... x 2 x 3, after the images before and behind it, of these widths, have been mirrored."""
    (a, b, c), (d, e, f) = np.moveaxis(matrix, (-2, -1), (0, 1))
    mirrored = np.array([[a, -b, new_width - a * width - c], [-d, e, d * width + f]])
    return np.moveaxis(mirrored, (0, 1), (-2, -1))


def warped(image: Image, matrix: Array, height: int, width: int) -> Image:
    """An image, H x W x 3, after a similarity transform, on a canvas of this size; beyond its border it is mirrored."""
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < _MIN_WARP_SCALE:
        size = tuple(max(1, round(side * scale)) for side in image.shape[1::-1])
        factors = np.array(image.shape[1::-1]) / size
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = np.column_stack([matrix[:, :2] * factors, matrix[:, 2]])
    # OpenCV's origin is the center of the first pixel.
    matrix = np.column_stack([matrix[:, :2], matrix[:, 2] + matrix[:, :2].sum(1) / 2 - 0.5])
    moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8)
