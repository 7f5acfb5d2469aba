"""Faces found in one frame, in pixels of the source. The network is YuNet's; what follows through time is tracking."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsr.config import FaceConfig
from vidsr.faces.detections import Detections
from vidsr.faces.yunet import MULTIPLE, Yunet
from vidsr.models.cards import shipped_detector
from vidsr.types import VideoInfo

# YuNet finds 91 % of faces that are 20 pixels large in its own input, 88 % of 16 and 75 % of 13 (at score 0.6, of those
# that it finds at full size); so faces of `min_face` are brought to 20.
LEAST_SIDE = 20.0
# Of faces of 450 pixels it finds all, of 600 seven in a hundred are missed: pictures in which larger ones have room are
# searched a second time at this height. That costs a tenth at most.
LARGEST_SIDE = 450.0
COARSE_SIDE = 320.0
MOST_PIXELS = 4_500_000
OVERLAP = 0.3


@dataclass(frozen=True, slots=True)
class View:
    """How a film is shown: quarter turns counterclockwise, and the width of a pixel in heights."""

    quarters: int = 0
    aspect: float = 1.0

    @classmethod
    def of(cls, info: VideoInfo) -> View:
        """How the header says that this film is shown; other angles than quarter turns are rounded to these."""
        return cls(round(info.rotation_degrees / 90) % 4, float(info.pixel_aspect))

    def upright(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """A picture, C x H x W, as it is shown; a view of the same memory."""
        return np.rot90(planes, self.quarters, axes=(1, 2))


def load_detector(config: FaceConfig, device: torch.device, threads: int) -> Yunet:
    """The detector of `--face-detector`, or the shipped one. Raises ModelError if it is not one, and DeviceError."""
    return Yunet(shipped_detector() if config.detector is None else config.detector, device, threads)


class FaceDetector:
    """Finds faces of `min_face` pixels and more; without state. `warning` says what prevents that, if anything does."""

    def __init__(self, network: Yunet, view: View, height: int, width: int, min_face: float) -> None:
        """`height` and `width` are those of the frames as coded."""
        self._network, self._view = network, view
        self._size = height, width
        tall, wide = (width, height) if view.quarters % 2 else (height, width)
        aspect = 1 / view.aspect if view.quarters % 2 else view.aspect
        stretch = max(1.0, 1 / aspect), max(1.0, aspect)
        shown = tall * stretch[0], wide * stretch[1]
        wanted = LEAST_SIDE / min_face
        room = math.sqrt(MOST_PIXELS / (shown[0] * shown[1]))
        if network.size is not None:
            room = min(network.size[0] / shown[0], network.size[1] / shown[1])
        fine = min(wanted, room)
        self.warning = None if fine >= wanted else _warning(network, LEAST_SIDE / fine, min_face)
        scales = [fine]
        if fine * min(shown) > LARGEST_SIDE:
            scales.append(COARSE_SIDE / min(shown))
        self._sizes = [tuple(max(1, round(side * scale)) for side in shown) for scale in scales]

    def find(self, image: Tensor, least_score: float) -> Detections:
        """The faces in a frame's image, in its pixels, best first. Raises ModelError."""
        planes = self._view.upright(image.float().cpu().numpy())
        tall, wide = planes.shape[1:]
        levels = []
        for height, width in self._sizes:
            faces = self._network.run(self._picture(planes, height, width), least_score)
            levels.append(faces.scaled(wide / width, tall / height))
        faces = Detections.join(levels).suppressed(OVERLAP)
        return faces.turned(-self._view.quarters, wide, tall)

    def _picture(self, planes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """The network's input: scaled, BGR, 0..255, black to the right and below, as cv2.FaceDetectorYN makes it."""
        fixed = self._network.size
        rows, columns = fixed or (math.ceil(height / MULTIPLE) * MULTIPLE, math.ceil(width / MULTIPLE) * MULTIPLE)
        picture = np.zeros((3, rows, columns), np.float32)
        method = cv2.INTER_AREA if height < planes.shape[1] else cv2.INTER_LINEAR
        for channel in range(3):
            plane = np.ascontiguousarray(planes[2 - channel])
            picture[channel, :height, :width] = cv2.resize(plane, (width, height), interpolation=method)
        picture *= 255.0
        return picture


def _warning(network: Yunet, found: float, wanted: float) -> str:
    cause = "pictures of this size are searched at a smaller scale"
    if network.size is not None:
        cause = f"{network.path.name} takes pictures of {network.size[1]}x{network.size[0]} only"
    return f"{cause}: faces below {found:.0f} pixels may be missed, not only those below {wanted:g}"
