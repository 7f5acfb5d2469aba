"""Augmentation for the face detector: images and their faces transformed together, and degraded as footage is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.faces.detections import Array
from vidsr.train.detector.labels import Faces

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


REDUCTIONS = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_NEAREST)
ENLARGEMENTS = (cv2.INTER_LINEAR, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
# A face of fewer pixels than this is none any more.
_LEAST_SIDE = 9.0
_GREY = np.array([0.114, 0.587, 0.299], np.float32)
_NOISE = np.random.default_rng(5).standard_normal(1 << 20, dtype=np.float32)  # drawing it anew would cost most of all


def spoil(picture: Picture, smallest: float, generator: np.random.Generator) -> Picture:
    """Fewer pixels, blur, other colours, noise and compression, each by chance; H x W x 3 BGR, same size.

    `smallest`: side of the smallest face, which must remain one.
    """
    height, width = picture.shape[:2]
    if generator.random() < 0.7:
        picture = _colour(picture, generator)
    room = min(4.0, smallest / _LEAST_SIDE)
    if generator.random() < 0.35 and room > 1.1:
        factor = generator.uniform(1.1, room)
        small = (max(8, round(width / factor)), max(8, round(height / factor)))
        filters = REDUCTIONS[generator.integers(len(REDUCTIONS))], ENLARGEMENTS[generator.integers(len(ENLARGEMENTS))]
        picture = np.asarray(cv2.resize(picture, small, interpolation=filters[0]), np.uint8)
        picture = _degrade(picture, smallest / factor, generator)
        return np.asarray(cv2.resize(picture, (width, height), interpolation=filters[1]), np.uint8)
    return _degrade(picture, smallest, generator)


def _degrade(picture: Picture, smallest: float, generator: np.random.Generator) -> Picture:
    if generator.random() < 0.3:
        sigma = generator.uniform(0.3, max(0.5, min(3.0, smallest / 14)))
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)
    elif generator.random() < 0.1 and smallest > 20:
        picture = np.asarray(cv2.filter2D(picture, -1, _streak(int(smallest / 8), generator)), np.uint8)
    if generator.random() < 0.3:
        picture = _noisy(picture, generator.uniform(1, 16), generator)
    if generator.random() < 0.55:
        quality = int(generator.integers(8, 60) if generator.random() < 0.6 else generator.integers(60, 96))
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
        picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)
        if generator.random() < 0.25:  # video codecs smooth the edges of their blocks
            picture = np.asarray(cv2.GaussianBlur(picture, (3, 3), 0.6), np.uint8)
    return picture


def _colour(picture: Picture, generator: np.random.Generator) -> Picture:
    """Exposure, contrast, gamma and white balance in one table; sometimes grey."""
    if generator.random() < 0.15:
        grey = cv2.transform(picture, _GREY[None])
        picture = np.repeat(grey[..., None] if grey.ndim == 2 else grey, 3, axis=2)
        gains = np.ones(3)
    else:
        gains = generator.uniform(0.85, 1.15, 3)
    level = np.linspace(0, 1, 256)[:, None] ** generator.uniform(0.6, 1.6)
    contrast, brightness = generator.uniform(0.55, 1.3), generator.uniform(-0.15, 0.15)
    table = ((level - 0.5) * contrast + 0.5 + brightness) * gains * 255
    return np.asarray(cv2.LUT(picture, np.clip(table, 0, 255).astype(np.uint8)[:, None, :]), np.uint8)


def _noisy(picture: Picture, sigma: float, generator: np.random.Generator) -> Picture:
    start = int(generator.integers(_NOISE.size - picture.size + 1))
    noise: NDArray[np.float32] = _NOISE[start : start + picture.size].reshape(picture.shape) * np.float32(sigma)
    return np.asarray(cv2.add(picture, noise, dtype=cv2.CV_8U), np.uint8)


def _streak(length: int, generator: np.random.Generator) -> NDArray[np.float32]:
    """A straight motion's blur."""
    size = max(3, length | 1)
    kernel = np.zeros((size, size), np.float32)
    kernel[size // 2] = 1 / size
    turn = cv2.getRotationMatrix2D((size // 2, size // 2), generator.uniform(0, 180), 1.0)
    turned = cv2.warpAffine(kernel, turn, (size, size))
    return np.asarray(turned / turned.sum(), np.float32)
