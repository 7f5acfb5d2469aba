"""Face restoration: which faces are restored, in which crop, and with how much weight."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from vidsr.config import RestoreConfig
from vidsr.faces.blending import REACH
from vidsr.faces.detections import Array
from vidsr.stages.base import through
from vidsr.types import Face, Frame, Patch, Window

# Windows begin and end at multiples of this: pyramids of pictures then need no padding.
STEP = 8
# What a window shows around a face and its soft border, in source pixels, and in sides of the face when it is new.
MARGIN, SLACK = 4.0, 0.1
# A window is given up when a new one would be this much smaller.
WASTE = 1.7


def choose_window(box: tuple[float, float, float, float], width: int, height: int, before: Window | None) -> Window:
    """The window for a face, inside a frame of this size; the one `before` as long as it serves."""
    needed = _around(box, MARGIN, 1, width, height)
    fresh = _around(box, MARGIN + SLACK * max(box[2], box[3]), STEP, width, height)
    if before is not None and _holds(before, needed) and before.area <= WASTE * fresh.area:
        return before
    return fresh


def _around(box: tuple[float, float, float, float], margin: float, step: int, width: int, height: int) -> Window:
    """The pixels of the box, its soft border and the margin, out to the next multiples of `step`."""
    spans = []
    for start, length, limit in ((box[0], box[2], width), (box[1], box[3], height)):
        half = length / 2 * REACH + margin
        low = math.floor((start + length / 2 - half) / step) * step
        high = math.ceil((start + length / 2 + half) / step) * step
        low = min(max(0, low), max(0, limit - STEP))
        spans.append((low, min(limit, max(high, low + STEP))))
    (left, right), (top, bottom) = spans
    return Window(left, top, right - left, bottom - top)


def _holds(window: Window, part: Window) -> bool:
    return (
        window.left <= part.left
        and window.top <= part.top
        and window.left + window.width >= part.left + part.width
        and window.top + window.height >= part.top + part.height
    )


# Frames over which a track's first and last patches gain and lose their weight.
FADE = 6
# A track that is restored goes on with faces this much below or above the limits.
STICKY = 1.15
# How much of a face's size and place, as seen from its landmarks, is kept from the frame before.
INERTIA = 0.8


class FaceNetwork(Protocol):
    """What enlarges the windows: FaceEngine, or anything else in a test."""

    @property
    def lookahead(self) -> int:
        """How many later frames a result needs."""
        ...

    def init_state(self) -> Any:
        """No face is known."""
        ...

    def step(
        self, frame: Frame, windows: Mapping[int, Window], streams: Any
    ) -> tuple[Mapping[int, tuple[Window, Tensor]], Any]:
        """Takes a frame and its windows by track; gives what is ready of the frame `lookahead` before."""
        ...

    def flush(self, streams: Any, tracks: Iterable[int]) -> Mapping[int, list[tuple[Window, Tensor]]]:
        """What is still waiting of these tracks."""
        ...


@dataclass(slots=True)
class FaceWork:
    """In how many frames a track was restored, and in how many it was not, by reason."""

    restored: int = 0
    skipped: dict[str, int] = field(default_factory=dict)


class FaceRestorer:
    """The stage that restores faces: they carry their `patch` then. Needs `faces`, better smoothed ones.

    A frame leaves FADE or `lookahead` frames later, whichever is more; at a cut all that wait are finished first, and
    nothing of them is kept. `work` tells what became of each track; it is complete when the frames are.
    """

    name = "restore_faces"

    def __init__(self, network: FaceNetwork, config: RestoreConfig) -> None:
        self._network, self._config = network, config
        self.work: dict[int, FaceWork] = {}

    def run(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames of a whole video after this stage."""
        return through(self, frames)

    def start(self) -> _Scene:
        """No face is known."""
        return _Scene(self._network, self._config, self.work)

    def step(self, frame: Frame, state: _Scene) -> tuple[list[Frame], _Scene]:
        """Takes a frame; gives those whose faces are finished."""
        ready: list[Frame] = []
        if frame.starts_scene:
            ready += state.finish()
            state = self.start()
        ready += state.step(frame)
        return ready, state

    def flush(self, state: _Scene) -> list[Frame]:
        """The end of the video: gives all that is left."""
        return list(state.finish())


@dataclass(slots=True)
class _Held:
    """A frame on its way, its restored faces' boxes by track, their weights at the beginning, and their pictures."""

    frame: Frame
    boxes: dict[int, tuple[float, float, float, float]]
    weights: dict[int, float]
    pictures: dict[int, tuple[Window, Tensor]]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a face is, smoothed: the middle of its box from the middle of its landmarks, and the box's size."""

    offset: Array
    size: Array


class _Scene:
    """One scene on its way."""

    def __init__(self, network: FaceNetwork, config: RestoreConfig, work: dict[int, FaceWork]) -> None:
        self._network, self._config, self._work = network, config, work
        self._held: deque[_Held] = deque()
        self._streams = network.init_state()
        self._windows: dict[int, Window] = {}
        self._places: dict[int, _Place] = {}
        self._begins = True

    def step(self, frame: Frame) -> Iterator[Frame]:
        """Takes a frame; gives those of which everything is known."""
        chosen = self._chosen(frame.faces)
        self._end([track for track in self._windows if track not in chosen])
        self._places = {face.track: self._placed(face) for face in frame.faces}
        held = _Held(frame, {}, {}, {})
        for track, face in chosen.items():
            held.boxes[track] = _box(face, self._places[track])
            before = self._windows.get(track)
            height, width = frame.image.shape[1:]
            self._windows[track] = choose_window(held.boxes[track], width, height, before)
            so_far = self._held[-1].weights[track] if before is not None else float(self._begins)
            held.weights[track] = min(1.0, so_far + 1 / (FADE + 1))
        self._held.append(held)
        ready, self._streams = self._network.step(frame, self._windows, self._streams)
        for track, picture in ready.items():
            self._held[-1 - self._network.lookahead].pictures[track] = picture
        self._begins = False
        while len(self._held) > max(FADE, self._network.lookahead):
            yield self._given()

    def finish(self) -> Iterator[Frame]:
        """The end of the scene: gives all that is left."""
        self._end(list(self._windows))
        while self._held:
            yield self._given()

    def _end(self, tracks: list[int]) -> None:
        """These tracks have no later frame."""
        for track, pictures in self._network.flush(self._streams, tracks).items():
            waiting = [held for held in self._held if track in held.boxes and track not in held.pictures]
            for held, picture in zip(waiting, pictures, strict=True):
                held.pictures[track] = picture
            del self._windows[track]

    def _chosen(self, faces: tuple[Face, ...]) -> dict[int, Face]:
        """The faces to restore: those restored before first, then the largest."""
        config, fit = self._config, []
        for face in faces:
            tolerance = STICKY if face.track in self._windows else 1.0
            if face.side * tolerance < config.min_face:
                self._note(face.track, "too small")
            elif face.side > config.largest * tolerance:
                self._note(face.track, "large enough")
            else:
                fit.append(face)
        fit.sort(key=lambda face: (face.track not in self._windows, -face.side, face.track))
        for face in fit[config.max_faces :]:
            self._note(face.track, "too many faces")
        return {face.track: face for face in fit[: config.max_faces]}

    def _placed(self, face: Face) -> _Place:
        points = np.array(face.landmarks)
        box = np.array(face.box)
        offset, size = box[:2] + box[2:] / 2 - points.mean(0), np.log(box[2:])
        if (before := self._places.get(face.track)) is None:
            return _Place(offset, size)
        if not face.is_found:
            return before
        keep = INERTIA
        return _Place(keep * before.offset + (1 - keep) * offset, keep * before.size + (1 - keep) * size)

    def _given(self) -> Frame:
        """The oldest frame, with its patches; the next FADE frames tell where a track ends."""
        held = self._held.popleft()
        faces = []
        for face in held.frame.faces:
            if face.track in held.pictures:
                self._note(face.track, None)
                window, image = held.pictures[face.track]
                weight = min(held.weights[face.track], self._until_end(face.track))
                faces.append(replace(face, patch=Patch(image, window, held.boxes[face.track], weight)))
            else:
                faces.append(face)
        return replace(held.frame, faces=tuple(faces))

    def _until_end(self, track: int) -> float:
        for index, later in enumerate(self._held):
            if track not in later.boxes:
                return min(1.0, (index + 1) / (FADE + 1))
        return 1.0

    def _note(self, track: int, reason: str | None) -> None:
        work = self._work.setdefault(track, FaceWork())
        if reason is None:
            work.restored += 1
        else:
            work.skipped[reason] = work.skipped.get(reason, 0) + 1


def _box(face: Face, place: _Place) -> tuple[float, float, float, float]:
    middle = np.array(face.steadied or face.landmarks).mean(0) + place.offset
    width, height = np.exp(place.size)
    return float(middle[0] - width / 2), float(middle[1] - height / 2), float(width), float(height)
