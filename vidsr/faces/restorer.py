"""Face restoration: which faces are restored, in which crop, and with how much weight."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from torch import Tensor

from vidsr.config import RestoreConfig
from vidsr.faces.blending import REACH
from vidsr.faces.detections import Array
from vidsr.types import Box, Crop, Face, Frame, RestoredFace

# Crops begin and end at multiples of this, so that image pyramids need no padding.
STEP = 8
# Margin of a crop around a face and its soft border, in source pixels; SLACK, in sides of the face, is added to a new
# crop.
MARGIN, SLACK = 4.0, 0.1
# A crop is replaced when its area exceeds that of a new one by more than this factor.
MAX_EXCESS = 1.7


def choose_crop(box: tuple[float, float, float, float], width: int, height: int, before: Crop | None) -> Crop:
    """The crop for a face, inside a frame of this size; keeps `before` as long as it fits."""
    needed = _around(box, MARGIN, 1, width, height)
    fresh = _around(box, MARGIN + SLACK * max(box[2], box[3]), STEP, width, height)
    if before is not None and contains(before, needed) and before.area <= MAX_EXCESS * fresh.area:
        return before
    return fresh


def _around(box: tuple[float, float, float, float], margin: float, step: int, width: int, height: int) -> Crop:
    """The box with its soft border and the margin, rounded outward to multiples of `step`."""
    spans = []
    for start, length, limit in ((box[0], box[2], width), (box[1], box[3], height)):
        half = length / 2 * REACH + margin
        low = math.floor((start + length / 2 - half) / step) * step
        high = math.ceil((start + length / 2 + half) / step) * step
        low = min(max(0, low), max(0, limit - STEP))
        spans.append((low, min(limit, max(high, low + STEP))))
    (left, right), (top, bottom) = spans
    return Crop(left, top, right - left, bottom - top)


def contains(crop: Crop, part: Crop) -> bool:
    """Whether `part` lies inside of `crop`."""
    return (
        crop.left <= part.left
        and crop.top <= part.top
        and crop.left + crop.width >= part.left + part.width
        and crop.top + crop.height >= part.top + part.height
    )


# Number of frames over which a track's restored faces fade in and out.
FADE = 6
# A track being restored continues while its faces are outside the size limits by less than this factor.
HYSTERESIS = 1.15
# Weight of the previous frame in the smoothed size of a box and in its offset from the landmarks.
INERTIA = 0.8


class EnlargedCrop(NamedTuple):
    """An enlarged image, 3 x H x W in 0..1, of this crop, and the mean weight that each reference photograph got.

    `boxes` as in RestoredFace.
    """

    crop: Crop
    image: Tensor
    weights: tuple[float, ...] = ()
    boxes: tuple[Box, ...] = ()


class FaceNetwork(Protocol):
    """Enlarges the crops: FaceEngine, or a substitute in tests."""

    @property
    def lookahead(self) -> int:
        """Number of later frames that a result needs."""
        ...

    def init_state(self) -> Any:
        """The state without any face."""
        ...

    def step(self, frame: Frame, crops: Mapping[int, Crop], streams: Any) -> tuple[Mapping[int, EnlargedCrop], Any]:
        """Takes a frame and its crops by track; returns the results of the frame `lookahead` frames before."""
        ...

    def flush(self, streams: Any, tracks: Iterable[int]) -> Mapping[int, list[EnlargedCrop]]:
        """The pending results of these tracks."""
        ...


@dataclass(slots=True)
class FaceWork:
    """Number of frames in which a track was restored, and in which it was skipped, by reason.

    `weights` are the sums of the weights of the track's reference photographs over `referenced` frames. `boxes` are
    those of the first restored frame, as in RestoredFace.
    """

    restored: int = 0
    skipped: dict[str, int] = field(default_factory=dict)
    weights: list[float] = field(default_factory=list)
    referenced: int = 0
    boxes: tuple[Box, ...] = ()

    def add_weights(self, weights: tuple[float, ...]) -> None:
        """Adds those of a frame; empty for one without photographs."""
        if weights:
            self.weights = [a + b for a, b in zip(self.weights or [0.0] * len(weights), weights, strict=True)]
            self.referenced += 1

    @property
    def mean_weights(self) -> list[float]:
        """The mean weight of each photograph; empty if none was used."""
        return [total / self.referenced for total in self.weights]


class FaceRestorer:
    """The stage that restores faces: it sets `restored`. Needs `faces`, preferably smoothed.

    A frame is returned FADE or `lookahead` frames later, whichever is more. At a cut all pending frames are finished
    first, and the state is reset. `work` counts what was done for each track; it is complete when all frames are. With
    `counted`, the first time and the one after the last in ticks, only frames between them count.
    """

    name = "restore_faces"

    def __init__(self, network: FaceNetwork, config: RestoreConfig) -> None:
        self._network, self._config = network, config
        self.work: dict[int, FaceWork] = {}
        self.counted: tuple[int, int] | None = None

    def start(self) -> _Scene:
        """The state before the first frame: no face is known."""
        return _Scene(self._network, self._config, self._note)

    def step(self, frame: Frame, state: _Scene) -> tuple[list[Frame], _Scene]:
        """Processes the next frame; returns those whose faces are finished."""
        ready: list[Frame] = []
        if frame.starts_scene:
            ready += state.finish()
            state = self.start()
        ready += state.step(frame)
        return ready, state

    def flush(self, state: _Scene) -> list[Frame]:
        """Returns all pending frames at the end of the video."""
        return list(state.finish())

    def save(self, state: _Scene) -> tuple[_SavedScene, dict[int, FaceWork]]:
        """The state without the network, and what was done so far."""
        return state.saved(), self.work

    def restore(self, saved: tuple[_SavedScene, dict[int, FaceWork]]) -> _Scene:
        """The state with this stage's network; also sets `work`."""
        scene, self.work = saved
        return _Scene(self._network, self._config, self._note, scene)

    def _note(
        self, frame: Frame, track: int, reason: str | None, weights: tuple[float, ...] = (),
        boxes: tuple[Box, ...] = (),
    ) -> None:  # fmt: skip
        if self.counted is not None and not self.counted[0] <= frame.pts < self.counted[1]:
            return
        work = self.work.setdefault(track, FaceWork())
        if reason is None:
            work.boxes = work.boxes if work.restored else boxes
            work.restored += 1
            work.add_weights(weights)
        else:
            work.skipped[reason] = work.skipped.get(reason, 0) + 1


@dataclass(slots=True)
class _Held:
    """A delayed frame with the boxes of its restored faces by track, their fade-in weights and their images."""

    frame: Frame
    boxes: dict[int, tuple[float, float, float, float]]
    weights: dict[int, float]
    images: dict[int, EnlargedCrop]


@dataclass(frozen=True, slots=True)
class _Place:
    """A face's smoothed box: the offset of its center from that of its landmarks, and the logarithm of its size."""

    offset: Array
    size: Array


@dataclass(frozen=True, slots=True)
class _SavedScene:
    """A `_Scene` as plain data; its fields are those of `_Scene` with these names."""

    streams: Any
    held: deque[_Held] = field(default_factory=deque)
    crops: dict[int, Crop] = field(default_factory=dict)
    places: dict[int, _Place] = field(default_factory=dict)
    begins: bool = True


class _Scene:
    """The state of the current scene."""

    def __init__(
        self,
        network: FaceNetwork,
        config: RestoreConfig,
        note: Callable[..., None],
        saved: _SavedScene | None = None,
    ) -> None:
        """`note` is told the frame, the track, why the face was not restored, None if it was; weights and boxes."""
        saved = saved or _SavedScene(network.init_state())
        self._network, self._config, self._note = network, config, note
        self._held = saved.held
        self._streams = saved.streams
        self._crops = saved.crops
        self._places = saved.places
        self._begins = saved.begins

    def saved(self) -> _SavedScene:
        """This state as plain data, which shares its containers."""
        return _SavedScene(self._streams, self._held, self._crops, self._places, self._begins)

    def step(self, frame: Frame) -> Iterator[Frame]:
        """Processes the next frame; yields those that are complete."""
        chosen = self._chosen(frame)
        self._end([track for track in self._crops if track not in chosen])
        self._places = {face.track: self._smoothed_place(face) for face in frame.faces}
        held = _Held(frame, {}, {}, {})
        for track, face in chosen.items():
            held.boxes[track] = _box(face, self._places[track])
            before = self._crops.get(track)
            height, width = frame.image.shape[1:]
            self._crops[track] = choose_crop(held.boxes[track], width, height, before)
            so_far = self._held[-1].weights[track] if before is not None else float(self._begins)
            held.weights[track] = min(1.0, so_far + 1 / (FADE + 1))
        self._held.append(held)
        ready, self._streams = self._network.step(frame, self._crops, self._streams)
        for track, image in ready.items():
            self._held[-1 - self._network.lookahead].images[track] = image
        self._begins = False
        while len(self._held) > max(FADE, self._network.lookahead):
            yield self._release()

    def finish(self) -> Iterator[Frame]:
        """Ends the scene; yields the remaining frames."""
        self._end(list(self._crops))
        while self._held:
            yield self._release()

    def _end(self, tracks: list[int]) -> None:
        """Ends these tracks: collects their pending results."""
        for track, images in self._network.flush(self._streams, tracks).items():
            waiting = [held for held in self._held if track in held.boxes and track not in held.images]
            for held, image in zip(waiting, images, strict=True):
                held.images[track] = image
            del self._crops[track]

    def _chosen(self, frame: Frame) -> dict[int, Face]:
        """The faces to restore: first those restored before, then the largest."""
        config, fit = self._config, []
        for face in frame.faces:
            tolerance = HYSTERESIS if face.track in self._crops else 1.0
            if face.side * tolerance < config.min_face:
                self._note(frame, face.track, "too small")
            elif face.side > config.largest * tolerance:
                self._note(frame, face.track, "large enough")
            else:
                fit.append(face)
        fit.sort(key=lambda face: (face.track not in self._crops, -face.side, face.track))
        for face in fit[config.max_faces :]:
            self._note(frame, face.track, "too many faces")
        return {face.track: face for face in fit[: config.max_faces]}

    def _smoothed_place(self, face: Face) -> _Place:
        points = np.array(face.landmarks)
        box = np.array(face.box)
        offset, size = box[:2] + box[2:] / 2 - points.mean(0), np.log(box[2:])
        if (before := self._places.get(face.track)) is None:
            return _Place(offset, size)
        if not face.is_found:
            return before
        keep = INERTIA
        return _Place(keep * before.offset + (1 - keep) * offset, keep * before.size + (1 - keep) * size)

    def _release(self) -> Frame:
        """Releases the oldest frame with its restored faces; the next FADE frames show whether a track ends."""
        held = self._held.popleft()
        faces = []
        for face in held.frame.faces:
            if face.track in held.images:
                crop, image, weights, boxes = held.images[face.track]
                self._note(held.frame, face.track, None, weights, boxes)
                weight = min(held.weights[face.track], self._fade_out_weight(face.track))
                faces.append(replace(face, restored=RestoredFace(image, crop, held.boxes[face.track], weight, boxes)))
            else:
                faces.append(face)
        return replace(held.frame, faces=tuple(faces))

    def _fade_out_weight(self, track: int) -> float:
        for index, later in enumerate(self._held):
            if track not in later.boxes:
                return min(1.0, (index + 1) / (FADE + 1))
        return 1.0


def _box(face: Face, place: _Place) -> tuple[float, float, float, float]:
    center = np.array(face.smoothed or face.landmarks).mean(0) + place.offset
    width, height = np.exp(place.size)
    return float(center[0] - width / 2), float(center[1] - height / 2), float(width), float(height)
