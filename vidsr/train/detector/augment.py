"""Augmentation for the face detector: transforms images together with their faces, and degrades them like video."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.faces.detections import Array
from vidsr.train.detector.labels import Faces

Image = NDArray[np.uint8]
Rect = tuple[int, int, int, int]  # left, top, right, bottom; the last two are outside
# Order of the landmarks after mirroring: eyes and corners of the mouth are swapped.
MIRRORED = (1, 0, 2, 4, 3)
# Below this scale the image is first reduced with a filter and then rotated.
_MIN_WARP_SCALE = 0.75


@dataclass(frozen=True, slots=True)
class SimilarityTransform:
    """Mirrors (optionally), scales, rotates clockwise by `angle` (radians) and moves `source` (x, y) to `target`."""

    source: tuple[float, float]
    target: tuple[float, float]
    scale: float
    angle: float = 0.0
    mirrored: bool = False

    def matrix(self) -> Array:
        """The 2 x 3 matrix of the transform."""
        cosine, sine = self.scale * math.cos(self.angle), self.scale * math.sin(self.angle)
        sign = -1.0 if self.mirrored else 1.0
        linear = np.array([[cosine * sign, -sine], [sine * sign, cosine]])
        return np.column_stack([linear, np.array(self.target) - linear @ np.array(self.source)])

    def points(self, points: Array) -> Array:
        """Transforms points, ... x 2."""
        matrix = self.matrix()
        moved: Array = points @ matrix[:, :2].T + matrix[:, 2]
        return moved

    def faces(self, faces: Faces) -> Faces:
        """Transforms faces. A rotated box bounds the rotated inscribed ellipse, as a detector would box the face."""
        landmarks = self.points(faces.landmarks)
        if self.mirrored:
            landmarks = landmarks[:, MIRRORED]
        centers = self.points(faces.boxes[:, :2] + faces.boxes[:, 2:] / 2)
        cosine, sine = abs(math.cos(self.angle)), abs(math.sin(self.angle))
        width, height = faces.boxes[:, 2] * self.scale, faces.boxes[:, 3] * self.scale
        sizes = np.stack([np.hypot(width * cosine, height * sine), np.hypot(width * sine, height * cosine)], axis=1)
        return Faces(np.concatenate([centers - sizes / 2, sizes], axis=1), landmarks, faces.is_sure)


def warp(
    image: Image, move: SimilarityTransform, rect: Rect, reduction: int | None = None, border: int = cv2.BORDER_CONSTANT
) -> Image:
    """The part of the transformed image inside `rect`; `reduction` is the OpenCV filter for downscaling, if any."""
    left, top, right, bottom = rect
    matrix = move.matrix()
    matrix[:, 2] -= left, top
    if reduction is not None and move.scale < _MIN_WARP_SCALE:
        size = tuple(max(1, round(side * move.scale)) for side in image.shape[1::-1])
        factors = np.array(image.shape[1::-1]) / size
        image = np.asarray(cv2.resize(image, size, interpolation=reduction), np.uint8)
        matrix = np.column_stack([matrix[:, :2] * factors, matrix[:, 2]])
    # OpenCV's origin is the center of the first pixel.
    matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    moved = cv2.warpAffine(image, matrix, (right - left, bottom - top), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(moved, np.uint8)


def bounds_of(image: Image, move: SimilarityTransform, height: int, width: int) -> Rect:
    """The bounds of the transformed image within a canvas of this size; empty if it is outside."""
    tall, wide = image.shape[:2]
    corners = move.points(np.array([[0.0, 0.0], [wide, 0.0], [0.0, tall], [wide, tall]]))
    left, top = np.clip(np.floor(corners.min(0)), 0, [width, height]).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(0)), 0, [width, height]).astype(int)
    return int(left), int(top), int(right), int(bottom)


def visible_fractions(faces: Faces, height: int, width: int) -> Array:
    """The fraction of each box inside an image of this size, 0..1."""
    low = np.clip(faces.boxes[:, :2], 0, [width, height])
    high = np.clip(faces.boxes[:, :2] + faces.boxes[:, 2:], 0, [width, height])
    fractions: Array = np.prod(high - low, axis=1) / np.prod(faces.boxes[:, 2:], axis=1)
    return fractions


REDUCTIONS = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_NEAREST)
ENLARGEMENTS = (cv2.INTER_LINEAR, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
# Faces are not reduced below this side in pixels, where they would be unrecognizable.
_MIN_SIDE = 9.0
_GRAY = np.array([0.114, 0.587, 0.299], np.float32)
_NOISE = np.random.default_rng(5).standard_normal(1 << 20, dtype=np.float32)  # drawing it anew would dominate the cost


def degrade(image: Image, smallest: float, generator: np.random.Generator) -> Image:
    """Randomly applies color changes, downscaling, blur, noise and compression; H x W x 3 BGR, same size.

    `smallest`: side of the smallest face in pixels, which must remain recognizable.
    """
    height, width = image.shape[:2]
    if generator.random() < 0.7:
        image = _change_colors(image, generator)
    room = min(4.0, smallest / _MIN_SIDE)
    if generator.random() < 0.35 and room > 1.1:
        factor = generator.uniform(1.1, room)
        small = (max(8, round(width / factor)), max(8, round(height / factor)))
        filters = REDUCTIONS[generator.integers(len(REDUCTIONS))], ENLARGEMENTS[generator.integers(len(ENLARGEMENTS))]
        image = np.asarray(cv2.resize(image, small, interpolation=filters[0]), np.uint8)
        image = _blur_and_compress(image, smallest / factor, generator)
        return np.asarray(cv2.resize(image, (width, height), interpolation=filters[1]), np.uint8)
    return _blur_and_compress(image, smallest, generator)


def _blur_and_compress(image: Image, smallest: float, generator: np.random.Generator) -> Image:
    if generator.random() < 0.3:
        sigma = generator.uniform(0.3, max(0.5, min(3.0, smallest / 14)))
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)
    elif generator.random() < 0.1 and smallest > 20:
        image = np.asarray(cv2.filter2D(image, -1, _motion_kernel(int(smallest / 8), generator)), np.uint8)
    if generator.random() < 0.3:
        image = _add_noise(image, generator.uniform(1, 16), generator)
    if generator.random() < 0.55:
        quality = int(generator.integers(8, 60) if generator.random() < 0.6 else generator.integers(60, 96))
        _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        if generator.random() < 0.25:  # video codecs smooth the edges of their blocks
            image = np.asarray(cv2.GaussianBlur(image, (3, 3), 0.6), np.uint8)
    return image


def _change_colors(image: Image, generator: np.random.Generator) -> Image:
    """Changes brightness, contrast, gamma and white balance by one table; sometimes converts to gray."""
    if generator.random() < 0.15:
        gray = cv2.transform(image, _GRAY[None])
        image = np.repeat(gray[..., None] if gray.ndim == 2 else gray, 3, axis=2)
        gains = np.ones(3)
    else:
        gains = generator.uniform(0.85, 1.15, 3)
    level = np.linspace(0, 1, 256)[:, None] ** generator.uniform(0.6, 1.6)
    contrast, brightness = generator.uniform(0.55, 1.3), generator.uniform(-0.15, 0.15)
    table = ((level - 0.5) * contrast + 0.5 + brightness) * gains * 255
    return np.asarray(cv2.LUT(image, np.clip(table, 0, 255).astype(np.uint8)[:, None, :]), np.uint8)


def _add_noise(image: Image, sigma: float, generator: np.random.Generator) -> Image:
    start = int(generator.integers(_NOISE.size - image.size + 1))
    noise: NDArray[np.float32] = _NOISE[start : start + image.size].reshape(image.shape) * np.float32(sigma)
    return np.asarray(cv2.add(image, noise, dtype=cv2.CV_8U), np.uint8)


def _motion_kernel(length: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """The kernel of a straight motion blur."""
    size = max(3, length | 1)
    kernel = np.zeros((size, size), np.float32)
    kernel[size // 2] = 1 / size
    rotation = cv2.getRotationMatrix2D((size // 2, size // 2), generator.uniform(0, 180), 1.0)
    rotated = cv2.warpAffine(kernel, rotation, (size, size))
    return np.asarray(rotated / rotated.sum(), np.float32)
