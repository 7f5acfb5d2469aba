"""The faces on a page: found in the first input, one moment for each, and cut out of every input at that moment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from vidsr.comparison.inputs import CPU, Input, Moment, Part, enlarged
from vidsr.config import FaceConfig, SceneConfig
from vidsr.faces.detections import Detections
from vidsr.faces.detector import FaceDetector, load_detector
from vidsr.faces.pipeline import FaceSearch
from vidsr.faces.tracker import TrackerConfig
from vidsr.stages.base import chain
from vidsr.stages.scenes import SceneMarker
from vidsr.types import Face
from vidsr.video.sources import open_reader

MAX_FACES = 12
# A crop is this many times as wide as the face, and has sides within these limits in pixels.
MARGIN = 1.7
MIN_SIDE, MAX_SIDE = 96, 256


@dataclass(frozen=True, slots=True)
class FacePlace:
    """Where a face is seen best: seconds of BEFORE, its center, and its side, all as parts of the displayed width.

    `score` orders the faces of a page: the surer and the larger, the higher.
    """

    seconds: Fraction
    x: float
    y: float
    side: float
    score: float


def find_faces(before: Input, part: Part) -> list[FacePlace]:
    """The best moment of each face of a part, best face first, at most MAX_FACES. Raises ModelError or DeviceError."""
    options, threads = FaceConfig(), torch.get_num_threads()
    best: dict[int, FacePlace] = {}
    with open_reader(before.source, before.trim(part), CPU) as reader:
        if before.is_still:
            detector = FaceDetector(
                load_detector(options, CPU, threads), before.view, before.info.height, before.info.width,
                options.min_face,
            )  # fmt: skip
            for frame in reader.frames():
                found = detector.find(frame.image, TrackerConfig().strong)
                best = {row: _place(before, found.take(np.array([row])), Fraction(0)) for row in range(len(found))}
        else:
            search = FaceSearch(options, before.info, CPU, threads)
            for frame in chain([SceneMarker(SceneConfig()), *search.stages], reader.frames()):
                seconds = frame.pts * frame.time_base - before.first
                for face in frame.faces:
                    if face.is_found:
                        place = _place(before, _alone(face), seconds)
                        best[face.track] = max(best.get(face.track, place), place, key=lambda each: each.score)
    return sorted(best.values(), key=lambda each: -each.score)[:MAX_FACES]


def crop_side(place: FacePlace, size: tuple[int, int]) -> int:
    """The side in pixels with which a face is shown, if the inputs are compared at this size."""
    return round(min(max(MARGIN * place.side * size[0], MIN_SIDE), MAX_SIDE))


def cut_out(moment: Moment, place: FacePlace, size: tuple[int, int]) -> list[Tensor]:
    """The face in every input, 3 x S x S, S as `crop_side`; beyond the frame the pixels of the edge are repeated."""
    side = crop_side(place, size)
    return [enlarged(_square(image, place), (side, side)) for image in moment.images]


def _square(image: Tensor, place: FacePlace) -> Tensor:
    height, width = image.shape[1:]
    side = max(2, round(MARGIN * place.side * width))
    rows = torch.arange(side) + round(place.y * width - side / 2)
    columns = torch.arange(side) + round(place.x * width - side / 2)
    return image[:, rows.clamp(0, height - 1)][:, :, columns.clamp(0, width - 1)]


def _place(before: Input, face: Detections, seconds: Fraction) -> FacePlace:
    shown = face.turned(before.view.quarters, before.info.width, before.info.height)
    left, top, width, height = (float(value) for value in shown.boxes[0])
    # From pixels of the file to square ones.
    turned = before.view.quarters % 2
    wide, tall = (before.info.height, before.info.width) if turned else (before.info.width, before.info.height)
    across, down = before.size[0] / wide, before.size[1] / tall
    side = max(width * across, height * down)
    x, y = (left + width / 2) * across, (top + height / 2) * down
    score = float(shown.scores[0]) * math.sqrt(side)
    return FacePlace(seconds, x / before.size[0], y / before.size[0], side / before.size[0], score)


def _alone(face: Face) -> Detections:
    return Detections(np.array([face.box]), np.array([face.landmarks]), np.array([face.score]))
