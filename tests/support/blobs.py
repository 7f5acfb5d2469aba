"""A texture that can be followed, and five landmarks to be followed on it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# Eyes, nose, corners of the mouth, around their middle; the eyes are 30 pixels apart.
POINTS = np.array([[-15.0, -12.0], [15.0, -12.0], [0.0, 5.0], [-11.0, 20.0], [11.0, 20.0]])


def texture(height: int = 200, width: int = 240, seed: int = 0) -> NDArray[np.uint8]:
    """Blobs of several sizes, smooth enough to be moved by parts of a pixel."""
    random = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(random.normal(0, 1, (height, width)), (0, 0), size) * size for size in (2.0, 5.0, 12.0)]
    picture = sum(layers)
    return np.clip(128 + 35 * picture / picture.std(), 0, 255).astype(np.uint8)
