"""Reference photographs of the people in tracks: described once, and found by the pose of a face in every frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidsr.errors import UsageError
from vidsr.faces.alignment import UPRIGHT, Image, similarity_between, warped
from vidsr.faces.detections import Array, rotate_points
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.secnet.references import PosedReferences, Referred
from vidsr.types import Crop, Face

CANVAS = 3.6  # side of a described photograph in distances between the eyes; a face is about 3.5 high
# Scales of descriptions are powers of STEP. A face keeps its description until it is larger or smaller by KEPT.
STEP, KEPT = 1.15, 1.3
UNIT = 4  # pixels of the frame, in which the part of a crop that photographs cover is counted

Weights = tuple[float, ...]  # the mean weight of each photograph


@dataclass(frozen=True, slots=True)
class FacePhotograph:
    """A photograph, H x W x 3 in RGB, and the five points of the face in it, 5 x 2, as in `alignment`."""

    image: Image
    points: Array


class TrackReferences:
    """The photographs of each track that has any. Each is described once for a video and a size of the face."""

    def __init__(self, network: SECNet, photographs: Mapping[int, Sequence[FacePhotograph]]) -> None:
        """`network` is the one that will use them, on its device. Raises UsageError if it cannot."""
        if photographs and network.references is None:
            raise UsageError("the face model takes no reference photographs: use one with a reference_width")
        self._network, self._photographs = network, {track: tuple(each) for track, each in photographs.items() if each}
        self._described: dict[tuple[int, float], Tensor] = {}

    def count(self, track: int) -> int:
        """The number of photographs of a track."""
        return len(self._photographs.get(track, ()))

    def scale_of(self, face: Face, before: float | None) -> float:
        """The distance between the eyes of a description for this face, in pixels of the enlarged frame.

        `before` is that of the frame before; it is kept as long as it fits.
        """
        scale = self._network.config.scale * _scale(similarity_between(UPRIGHT, _points(face)))
        if before is not None and max(scale / before, before / scale) <= KEPT:
            return before
        return float(STEP ** round(math.log(scale) / math.log(STEP)))

    def refer(self, image: Tensor, face: Face, crop: Crop, quarters: int, scale: float) -> tuple[Tensor, Weights]:
        """The restored image 3 x H x W of a crop that is turned by `quarters`, with what photographs add to its face.

        Besides, their mean weights. `scale` is the result of `scale_of`. Only the part that the photographs can cover
        is computed.
        """
        times = self._network.config.scale
        points = rotate_points(_points(face) - [crop.left, crop.top], quarters, crop.width, crop.height)
        height, width = (side // times for side in image.shape[-2:])
        part = covered_part(similarity_between(_upright(scale) / times, points), _canvas(scale) / times, height, width)
        pose = similarity_between(points - [part.left, part.top], _upright(scale) / times)
        details = self._describe(face.track, scale)
        matrix = torch.from_numpy(pose).float().to(details.device)
        rows = slice(times * part.top, times * (part.top + part.height))
        columns = slice(times * part.left, times * (part.left + part.width))
        posed = PosedReferences(details, matrix.expand(1, details.shape[1], -1, -1))
        referred = self._network.refer(image[None, :, rows, columns], posed)
        image = image.clone()
        image[:, rows, columns] = referred.image[0].clamp(0, 1)
        return image, mean_weights(referred)

    def _describe(self, track: int, scale: float) -> Tensor:
        key = track, scale
        if key not in self._described:
            branch, side, target = self._network.references, _canvas(scale), _upright(scale)
            assert branch is not None, "it has photographs"
            images = [
                warped(each.image, similarity_between(each.points, target), side, side)
                for each in self._photographs[track]
            ]
            photographs = _tensor(np.stack(images)).to(next(self._network.parameters()).device)
            self._described[key] = branch.describe(photographs[None])
        return self._described[key]


def covered_part(matrix: Array, side: float, height: int, width: int) -> Crop:
    """The part of a crop of this size that a square of this side covers, whose pixels `matrix`, 2 x 3, brings there.

    Its place and size are multiples of UNIT, except at the ends of the crop, and it is never empty.
    """
    corners = np.array([[0, 0, 1], [side, 0, 1], [0, side, 1], [side, side, 1]]) @ matrix.T
    sides = np.array([width, height])
    first = np.clip(UNIT * np.floor(corners.min(0) / UNIT), 0, UNIT * ((sides - 1) // UNIT))
    last = np.minimum(np.maximum(UNIT * np.ceil(corners.max(0) / UNIT), first + UNIT), sides)
    (left, top), (right, bottom) = first.astype(int).tolist(), last.astype(int).tolist()
    return Crop(left, top, right - left, bottom - top)


def mean_weights(referred: Referred) -> Weights:
    """The mean weight of each photograph of one face, where it covers the crop."""
    area = referred.covered.sum((0, 2, 3)).clamp(min=1e-6)
    means: list[float] = ((referred.weights * referred.covered).sum((0, 2, 3)) / area).tolist()
    return tuple(means)


def _points(face: Face) -> Array:
    return np.array(face.smoothed or face.landmarks, np.float64)


def _scale(matrix: Array) -> float:
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def _canvas(scale: float) -> int:
    """The side of a description's canvas in pixels of the enlarged frame, a multiple of 8."""
    return 8 * math.ceil(CANVAS * scale / 8)


def _upright(scale: float) -> Array:
    return _canvas(scale) / 2 + UPRIGHT * scale


def _tensor(images: Image) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
