"""Puts faces on every frame: searches one frame in `every` and interpolates tracks between the searched frames.

Boxes and landmarks are the detector's on searched frames, interpolated linearly between two detections, and
extrapolated by the track's motion where the face was lost. landmark_smoothing.py smooths them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from torch import Tensor

from vidsr.faces.detections import Array, Detections
from vidsr.faces.tracker import FaceTracker, Track, TrackerState
from vidsr.types import Face, Frame


class Finder(Protocol):
    """Detects the faces of one image: FaceDetector, or a substitute in tests."""

    def find(self, image: Tensor, min_score: float) -> Detections:
        """The faces of a frame's image, 3 x H x W, with at least `min_score`, in its pixels."""
        ...


class FaceFinder:
    """The stage that sets `faces`; a frame is returned at most `every` * `hits` frames later.

    The delay arises because a track is shown from its first detection on, but needs `hits` searches to be confirmed.
    At a frame with `starts_scene` all tracks end. The first and the last frame of a scene are always searched. Raises
    ModelError.
    """

    name = "find_faces"

    def __init__(self, finder: Finder, every: int, tracker: FaceTracker | None = None) -> None:
        self._finder, self._every, self._tracker = finder, every, tracker or FaceTracker()

    def start(self) -> _Scene:
        """The state before the first frame: no face is known."""
        return self._scene(TrackerState())

    def step(self, frame: Frame, state: _Scene) -> tuple[list[Frame], _Scene]:
        """Processes the next frame; returns those that no later frame can change."""
        ready: list[Frame] = []
        if frame.starts_scene:
            ready += state.finish()
            state = self._scene(self._tracker.next_scene(state.state))
        ready += state.step(frame)
        return ready, state

    def flush(self, state: _Scene) -> list[Frame]:
        """Returns all pending frames at the end of the video."""
        return list(state.finish())

    def save(self, state: _Scene) -> _SavedScene:
        """The state without the detector and the tracker."""
        return state.saved()

    def restore(self, saved: _SavedScene) -> _Scene:
        """The state with this stage's detector and tracker."""
        return _Scene(self._finder, self._tracker, self._every, saved.state, saved)

    def _scene(self, state: TrackerState) -> _Scene:
        return _Scene(self._finder, self._tracker, self._every, state)


@dataclass(frozen=True, slots=True)
class _Placement:
    """A face in one frame, at its time: `place` is 14 numbers, box and landmarks."""

    pts: int
    place: Array
    score: float
    is_found: bool

    def face(self, number: int) -> Face:
        box, points = self.place[:4], self.place[4:].reshape(-1, 2)
        x, y, width, height = (float(value) for value in box)
        landmarks = tuple((float(point[0]), float(point[1])) for point in points)
        return Face((x, y, width, height), landmarks, self.score, number, self.is_found)


@dataclass(slots=True)
class _LastSearch:
    """The last search for a track: the frame's index and the placement there; `seen`: index of its last detection."""

    index: int
    shown: _Placement
    seen: int


@dataclass(frozen=True, slots=True)
class _SavedScene:
    """A `_Scene` as plain data; its fields are those of `_Scene` with these names."""

    state: TrackerState
    held: deque[tuple[Frame, dict[int, _Placement]]] = field(default_factory=deque)
    first: int = 0
    searched: int = -1
    last: dict[int, _LastSearch] = field(default_factory=dict)
    numbers: dict[int, int] = field(default_factory=dict)


class _Scene:
    """The state of the current scene: the delayed frames with their faces by serial, and the tracks."""

    def __init__(
        self, finder: Finder, tracker: FaceTracker, every: int, state: TrackerState, saved: _SavedScene | None = None
    ) -> None:
        saved = saved or _SavedScene(state)
        self.state = state
        self._finder, self._tracker, self._every = finder, tracker, every
        self._held = saved.held
        self._first = saved.first  # index in the scene of the first delayed frame
        self._searched = saved.searched
        self._last = saved.last
        self._numbers = saved.numbers

    def saved(self) -> _SavedScene:
        """This state as plain data, which shares its containers."""
        return _SavedScene(self.state, self._held, self._first, self._searched, self._last, self._numbers)

    def step(self, frame: Frame) -> Iterator[Frame]:
        """Processes the next frame; yields those that no later search can change."""
        self._held.append((frame, {}))
        index = self._first + len(self._held) - 1
        if index % self._every:
            return
        self._search(index)
        lag = (self._tracker.config.hits - 1) * self._every
        while self._held and self._first <= index - lag:
            yield self._release()

    def finish(self) -> Iterator[Frame]:
        """Ends the scene; yields the remaining frames."""
        index = self._first + len(self._held) - 1
        if index > self._searched:
            self._search(index)
        self.state = self._tracker.finish(self.state)
        for track in self.state.tracks:
            if track.seen is None:
                self._remove_track(track.serial)
        self._note_numbers()
        while self._held:
            yield self._release()

    def _search(self, index: int) -> None:
        image = self._at(index)[0].image
        height, width = image.shape[-2:]
        found = self._finder.find(image, self._tracker.config.weak)
        self.state = self._tracker.step(found, index - self._searched, width, height, self.state)
        for track in self.state.tracks:
            self._place(track, index, found)
        live = {track.serial for track in self.state.tracks}
        for serial in [serial for serial in self._last if serial not in live]:
            self._remove_track(serial)
        self._note_numbers()
        self._searched = index

    def _place(self, track: Track, index: int, found: Detections) -> None:
        """Adds a track to this frame and to the delayed frames since its last known position."""
        before, pts = self._last.get(track.serial), self._at(index)[0].pts
        if track.seen is not None:
            place = np.concatenate([found.boxes[track.seen], found.landmarks[track.seen].ravel()])
            shown = _Placement(pts, place, float(found.scores[track.seen]), True)
            start = before.seen if before is not None else index
        else:
            assert before is not None, "a track begins with a detection"
            place = np.concatenate([track.motion.box, track.motion.landmarks.ravel()])
            shown = _Placement(pts, place, before.shown.score, False)
            start = before.index
        anchor = self._at(start)[1].get(track.serial) if start >= self._first else None
        if before is not None and anchor is None:
            start, anchor = before.index, before.shown
        if anchor is not None:
            self._interpolate(track.serial, start, anchor, index, shown)
        self._at(index)[1][track.serial] = shown
        seen = index if shown.is_found or before is None else before.seen
        self._last[track.serial] = _LastSearch(index, shown, seen)

    def _interpolate(self, serial: int, start: int, anchor: _Placement, end: int, shown: _Placement) -> None:
        for index in range(max(start + 1, self._first), end):
            pts = self._at(index)[0].pts
            fraction = (pts - anchor.pts) / (shown.pts - anchor.pts)
            place = (1 - fraction) * anchor.place + fraction * shown.place
            self._at(index)[1][serial] = _Placement(pts, place, min(anchor.score, shown.score), False)

    def _remove_track(self, serial: int) -> None:
        """Ends a track: removes it from the delayed frames after its last detection."""
        last = self._last.pop(serial)
        for index in range(max(last.seen + 1, self._first), self._first + len(self._held)):
            self._at(index)[1].pop(serial, None)

    def _note_numbers(self) -> None:
        numbered = {track.serial: track.number for track in self.state.tracks if track.number is not None}
        waiting = {serial for _, faces in self._held for serial in faces}
        self._numbers = {s: n for s, n in self._numbers.items() if s in waiting} | numbered

    def _at(self, index: int) -> tuple[Frame, dict[int, _Placement]]:
        return self._held[index - self._first]

    def _release(self) -> Frame:
        frame, faces = self._held.popleft()
        self._first += 1
        numbered = sorted((self._numbers[serial], shown) for serial, shown in faces.items() if serial in self._numbers)
        return replace(frame, faces=tuple(shown.face(number) for number, shown in numbered))
