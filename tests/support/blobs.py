"""A texture that optical flow can track, and five landmarks on it."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# Eyes, nose and corners of the mouth relative to their center; the eyes are 30 pixels apart.
POINTS = np.array([[-15.0, -12.0], [15.0, -12.0], [0.0, 5.0], [-11.0, 20.0], [11.0, 20.0]])


def texture(height: int = 200, width: int = 240, seed: int = 0) -> NDArray[np.uint8]:
    """Blobs of several sizes, smooth enough for subpixel motion."""
    random = np.random.default_rng(seed)
    layers = [cv2.GaussianBlur(random.normal(0, 1, (height, width)), (0, 0), size) * size for size in (2.0, 5.0, 12.0)]
    image = sum(layers)
    return np.clip(128 + 35 * image / image.std(), 0, 255).astype(np.uint8)
