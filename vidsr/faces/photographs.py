"""Photographs of `--reference`: read, with the one face that each shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vidsr.errors import InputError, UsageError
from vidsr.faces.alignment import Image
from vidsr.faces.detections import Array, Detections
from vidsr.faces.detector import FaceDetector, View
from vidsr.faces.references import CANVAS, FacePhotograph
from vidsr.faces.yunet import Yunet
from vidsr.models.cards import sha256_of
from vidsr.types import Point

MIN_SCORE = 0.6
# The detector sees a photograph so that a face of this share of its longer side has the size that it finds best.
MIN_SHARE, MIN_SIDE = 1 / 40, 24.0
# A face counts as a second one if its side is at least this share of that of the largest; smaller ones are bystanders.
RIVAL = 1 / 3


@dataclass(frozen=True, slots=True)
class FoundPhotograph:
    """A photograph with one face: the file, its SHA-256, and the five points, as a plain value."""

    path: Path
    sha256: str
    points: tuple[Point, ...]


def find_photograph(path: Path, network: Yunet, option: str) -> tuple[FoundPhotograph, FacePhotograph]:
    """Reads a photograph and finds its face; `option` is the text of the option that names it, for messages.

    Raises UsageError for a file that is no image, or shows no face or two, and ModelError if the detector fails.
    """
    image = _read(path, option)
    found = _faces(image, network)
    if not len(found):
        raise UsageError(f"{option} shows no face that can be found: choose a photograph that shows the face larger")
    sides = np.sqrt(np.prod(found.boxes[:, 2:], axis=1))
    largest = int(np.argmax(sides))
    count = int((sides >= RIVAL * sides[largest]).sum())
    if count > 1:
        raise UsageError(f"{option} shows {count} faces, and which one is meant is not clear: cut out the one")
    points = found.landmarks[largest]
    plain = tuple((round(float(x), 2), round(float(y), 2)) for x, y in points)
    return FoundPhotograph(path, sha256_of(path), plain), _around(image, np.array(plain))


def load_photograph(found: FoundPhotograph) -> FacePhotograph:
    """Reads a photograph again. Raises InputError if the file has changed since its face was found."""
    if not found.path.is_file() or sha256_of(found.path) != found.sha256:
        raise InputError(f"the photograph {found.path} has changed during the run: run again")
    return _around(_pixels(found.path), np.array(found.points))


def _read(path: Path, option: str) -> Image:
    try:
        return _pixels(path)
    except InputError as error:
        raise UsageError(f"{option} cannot be used: {error}") from error


def _pixels(path: Path) -> Image:
    """The upright image, H x W x 3 in RGB, 8 bits. Raises InputError."""
    from vidsr.video.image_files import read_image  # loads Pillow, which videos do not need

    stored = read_image(path)
    if stored.damage is not None:
        raise InputError(f"{path} is damaged: {stored.damage}")
    color = stored.color if stored.color.dtype == np.uint8 else (stored.color // 257).astype(np.uint8)
    image = np.broadcast_to(color, (*color.shape[:2], 3))
    if stored.alpha is not None:  # what is transparent is black, as in videos
        opacity = stored.alpha.astype(np.float32)[..., None] / np.iinfo(stored.alpha.dtype).max
        image = (image * opacity).round().astype(np.uint8)
    return np.array(image, np.uint8)


def _faces(image: Image, network: Yunet) -> Detections:
    height, width = image.shape[:2]
    detector = FaceDetector(network, View(), height, width, max(MIN_SIDE, MIN_SHARE * max(height, width)))
    planes = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    return detector.find(planes, MIN_SCORE)


def _around(image: Image, points: Array) -> FacePhotograph:
    """The part of a photograph that any turned canvas of a description can show."""
    eyes = float(np.hypot(*(points[1] - points[0])))
    middle, reach = points.mean(0), max(8.0, 0.75 * CANVAS * max(eyes, float(np.ptp(points, axis=0).max())))
    height, width = image.shape[:2]
    left, top = np.clip(np.floor(middle - reach).astype(int), 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(middle + reach).astype(int), [left + 1, top + 1], [width, height])
    return FacePhotograph(np.ascontiguousarray(image[top:bottom, left:right]), points - [left, top])
