"""Face detection in single frames, in source pixels; the network has YuNet's interface (yunet.py)."""

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

# Of the faces that YuNet finds at full size (score 0.6), it finds 91 % at 20 pixels in its input, 88 % at 16 and 75 %
# at 13. So the image is scaled until faces of `min_face` pixels have 20.
MIN_SIDE = 20.0
# YuNet finds all faces of 450 pixels but misses 7 % of those of 600. An image with room for larger faces is searched a
# second time, with its shorter side scaled to COARSE_SIDE; this costs 10 % at most.
LARGEST_SIDE = 450.0
COARSE_SIDE = 320.0
MAX_PIXELS = 4_500_000
OVERLAP = 0.3
# A pixel aspect ratio beyond this comes from a damaged header, and would make the searched image large and empty.
MOST_ASPECT = 8


@dataclass(frozen=True, slots=True)
class View:
    """How a video is displayed: its counterclockwise quarter turns and its pixel aspect ratio (width / height)."""

    quarters: int = 0
    aspect: float = 1.0

    @classmethod
    def of(cls, info: VideoInfo) -> View:
        """Reads the view from the header; angles are rounded to quarter turns."""
        aspect = float(info.pixel_aspect)
        is_plausible = 1 / MOST_ASPECT <= aspect <= MOST_ASPECT
        return cls(round(info.rotation_degrees / 90) % 4, aspect if is_plausible else 1.0)

    def upright(self, planes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rotates an image, C x H x W, to its displayed orientation; the result shares its memory."""
        return np.rot90(planes, self.quarters, axes=(1, 2))


def load_detector(config: FaceConfig, device: torch.device, threads: int) -> Yunet:
    """Loads the detector of `--face-detector`, or the shipped one. Raises ModelError for a bad file, DeviceError."""
    return Yunet(shipped_detector() if config.detector is None else config.detector, device, threads)


class FaceDetector:
    """Finds faces of at least `min_face` pixels; stateless. `warning` says why some may be missed, or is None."""

    def __init__(self, network: Yunet, view: View, height: int, width: int, min_face: float) -> None:
        """`height` and `width`: size of the frames as coded."""
        self._network, self._view = network, view
        self._size = height, width
        tall, wide = (width, height) if view.quarters % 2 else (height, width)
        aspect = 1 / view.aspect if view.quarters % 2 else view.aspect
        stretch = max(1.0, 1 / aspect), max(1.0, aspect)
        shown = tall * stretch[0], wide * stretch[1]
        requested = MIN_SIDE / min_face
        room = math.sqrt(MAX_PIXELS / (shown[0] * shown[1]))
        if network.size is not None:
            room = min(network.size[0] / shown[0], network.size[1] / shown[1])
        fine = min(requested, room)
        self.warning = None if fine >= requested else _warning(network, MIN_SIDE / fine, min_face)
        scales = [fine]
        if fine * min(shown) > LARGEST_SIDE:
            scales.append(COARSE_SIDE / min(shown))
        self._sizes = [tuple(max(1, round(side * scale)) for side in shown) for scale in scales]

    def find(self, image: Tensor, min_score: float) -> Detections:
        """The faces of a frame's image, in its pixels, best first. Raises ModelError."""
        planes = self._view.upright(image.float().cpu().numpy())
        tall, wide = planes.shape[1:]
        levels = []
        for height, width in self._sizes:
            faces = self._network.run(self._network_input(planes, height, width), min_score)
            levels.append(faces.scaled(wide / width, tall / height))
        faces = Detections.join(levels).suppressed(OVERLAP)
        return faces.turned(-self._view.quarters, wide, tall)

    def _network_input(self, planes: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
        """The network's input: scaled, BGR, 0..255, padded with black right and below as in cv2.FaceDetectorYN."""
        fixed = self._network.size
        rows, columns = fixed or (math.ceil(height / MULTIPLE) * MULTIPLE, math.ceil(width / MULTIPLE) * MULTIPLE)
        canvas = np.zeros((3, rows, columns), np.float32)
        method = cv2.INTER_AREA if height < planes.shape[1] else cv2.INTER_LINEAR
        for channel in range(3):
            plane = np.ascontiguousarray(planes[2 - channel])
            canvas[channel, :height, :width] = cv2.resize(plane, (width, height), interpolation=method)
        canvas *= 255.0
        return canvas


def _warning(network: Yunet, found: float, requested: float) -> str:
    cause = "frames of this size are searched at a reduced scale"
    if network.size is not None:
        cause = f"{network.path.name} takes only images of {network.size[1]}x{network.size[0]}"
    return f"{cause}: faces smaller than {found:.0f} pixels may be missed (you asked for {requested:g})"
