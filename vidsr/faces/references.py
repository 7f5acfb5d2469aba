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

CANVAS = 5.0  # side of a described photograph in distances between the eyes; a face is about 3.5 high
# Scales of descriptions are powers of STEP. A face keeps its description until it is larger or smaller by KEPT.
STEP, KEPT = 1.15, 1.3


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

    def posed(self, face: Face, crop: Crop, quarters: int, scale: float) -> PosedReferences:
        """The photographs of the face's track and its pose in a crop that is turned by `quarters`.

        `scale` is the result of `scale_of`.
        """
        points = rotate_points(_points(face) - [crop.left, crop.top], quarters, crop.width, crop.height)
        pose = similarity_between(points, _upright(scale) / self._network.config.scale)
        details = self._describe(face.track, scale)
        matrix = torch.from_numpy(pose).float().to(details.device)
        return PosedReferences(details, matrix.expand(1, details.shape[1], -1, -1))

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


def mean_weights(referred: Referred) -> tuple[float, ...]:
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
