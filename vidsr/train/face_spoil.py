"""How a training picture for the face detector is spoilt: what films do to faces. Nothing is moved here.

JPEG stands for video compression too: its blocks and its blur are alike, and it needs no encoder of its own.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.train.face_warp import Picture

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
