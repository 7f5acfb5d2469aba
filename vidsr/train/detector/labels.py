"""Labels of the faces in training images: one JSON file, written by benchmarks/training/label_faces.py."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vidsr.errors import InputError
from vidsr.faces.detections import LANDMARKS, Array
from vidsr.train.dataset import Item, cached_frames

LABELS = "face-labels.json"
# Detections of the teacher below SURE may or may not be faces. Of 386 below POSSIBLE, in images of other
# things, none was one.
SURE, POSSIBLE = 0.85, 0.5


@dataclass(frozen=True, slots=True)
class Faces:
    """N faces of an image: `boxes` N x 4 (left, top, width, height), `landmarks` N x 5 x 2, in pixels.

    Faces whose `is_sure` is false are ignored in the loss.
    """

    boxes: Array
    landmarks: Array
    is_sure: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.is_sure)

    @classmethod
    def none(cls) -> Faces:
        """An empty list of faces."""
        return cls(np.zeros((0, 4)), np.zeros((0, LANDMARKS, 2)), np.zeros(0, bool))

    @property
    def sides(self) -> Array:
        """Root of the area of each box, in pixels."""
        sides: Array = np.sqrt(np.prod(self.boxes[:, 2:], axis=1))
        return sides

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Faces:
        """The faces selected by an index array or a mask."""
        return Faces(self.boxes[rows], self.landmarks[rows], self.is_sure[rows])

    def join(self, other: Faces) -> Faces:
        """These faces followed by the others."""
        return Faces(
            np.concatenate([self.boxes, other.boxes]),
            np.concatenate([self.landmarks, other.landmarks]),
            np.concatenate([self.is_sure, other.is_sure]),
        )

    def doubted(self, is_doubtful: NDArray[np.bool_]) -> Faces:
        """The same faces, with those of the mask marked as not sure."""
        return Faces(self.boxes, self.landmarks, self.is_sure & ~is_doubtful)


@dataclass(frozen=True, slots=True)
class LabeledImage:
    """A labeled image: one frame of an item, and its faces."""

    item: Item
    frame: int
    faces: Faces

    def image(self, cache: Path) -> NDArray[np.uint8]:
        """The image, H x W x 3 RGB, memory-mapped from `cache`."""
        frame: NDArray[np.uint8] = cached_frames(self.item, cache)[self.frame]
        return frame


def read_labels(path: Path, folder: Path, items: list[Item]) -> list[LabeledImage]:
    """Reads the labeled images of `items`, whose names in the file are relative to `folder`.

    Raises InputError if the file is missing, damaged or lacks an item.
    """
    if not path.is_file():
        raise InputError(
            f"the labels {path} are missing: create them with 'python -m benchmarks.training.label_faces "
            f"--data {folder} --teacher FILE --output {path}'"
        )
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        return [
            LabeledImage(item, entry["frame"], _faces(entry["faces"]))
            for item in items
            for entry in table[item.path.relative_to(folder).as_posix()]
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"cannot use the labels {path}: {type(error).__name__}: {error}") from error


def _faces(entries: list[dict[str, Any]]) -> Faces:
    entries = [entry for entry in entries if float(entry["score"]) >= POSSIBLE]
    return Faces(
        np.array([entry["box"] for entry in entries], np.float64).reshape(-1, 4),
        np.array([entry["landmarks"] for entry in entries], np.float64).reshape(-1, LANDMARKS, 2),
        np.array([float(entry["score"]) >= SURE for entry in entries], bool),
    )
