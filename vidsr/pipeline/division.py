"""Divides a video into segments that several devices can make at the same time, in any order.

The video is read once, without the network, to decide all scene cuts exactly as a run does. A segment begins at a cut
where it can, because every stage starts afresh there. What does cross a cut, the cadence of repeated frames, is known
from the same reading and travels with the segment. In a shot that is longer than two segments, a segment begins with
frames that are processed and thrown away, so that the memory of the network and the face tracks are what they would be.
"""

from __future__ import annotations

import struct
import zlib
from array import array
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from vidsr.config import SceneConfig
from vidsr.stages.base import FrameStage
from vidsr.stages.duplicates import MAX_CADENCE, PERIODS, Duplicates, NoInterpolator
from vidsr.stages.scenes import SceneMarker
from vidsr.types import Frame
from vidsr.video.reader import Reader

# Frames before a segment that are processed and thrown away where no scene begins near. With 24 the first frames of
# secnet-fast differ by at most 0.0085 in fast motion and 0.0002 on a talking person, those of secnet-fast-real by
# 0.0009 and 0.0012 (1 is white); with 18 by 0.0097 and 0.0014, 0.0015 and 0.0027; without by up to 0.25. 36 was not
# measured.
WARM_UP = 36
# A reading that begins within a scene begins at a multiple of this many frames after its first one: faces are searched
# in every second frame, and the windows of slow motion begin at every third.
GRID = 6
# Frames after a segment that may be needed for its last ones, by all stages together.
LOOK_AHEAD = 48
# A segment may be this many times as short or as long as `--segment-frames` so that it ends at a cut.
TOLERANCE = 2
_VERDICTS = PERIODS * MAX_CADENCE


@dataclass(frozen=True, slots=True)
class SegmentRange:
    """The frames of a segment, counted in those that are read of the input, and what one must know to begin there.

    `first` is its first frame and `count` their number. Reading begins at frame `begin`, at `begin_time` in ticks, and
    ends before frame `end`; frames before `first` are for warming up. `cuts` are the frames from `begin` on that start
    a scene. `verdicts` are those on repeats of the frames before `begin`. `begin_digest` is that of the frame `begin`,
    `digest` that of the segment's own frames (`add_digest`). `times` are those of its first frame and of the first one
    of the next segment, None for the last segment.
    """

    number: int
    first: int
    count: int
    begin: int
    begin_time: int
    end: int
    cuts: tuple[int, ...]
    verdicts: tuple[int, ...]
    begin_digest: int
    digest: int
    times: tuple[int, int | None]

    @property
    def is_last(self) -> bool:
        """Whether the video ends with it."""
        return self.times[1] is None

    @property
    def is_exact(self) -> bool:
        """Whether its frames are those of an undivided run to the bit: where it begins, a scene does."""
        return self.begin in self.cuts


class KnownScenes(FrameStage):
    """The stage that marks the frames that start a scene where that has been decided before."""

    name = "scenes"

    def __init__(self, begin: int, cuts: tuple[int, ...]) -> None:
        self._index, self._cuts = begin - 1, frozenset(cuts)
        self._begin = begin

    def process(self, frame: Frame) -> Frame:
        """The frame, marked; the first one starts a scene in any case."""
        self._index += 1
        return replace(frame, starts_scene=self._index in self._cuts or self._index == self._begin)


def add_digest(value: int, digest: int) -> int:
    """The digest of frames (0 for none) and one more."""
    return zlib.crc32(struct.pack("<I", digest), value)


class _Repeats:
    """Decides which frames are repeats, as `Duplicates` does, without interpolating any."""

    def __init__(self) -> None:
        self.stage = Duplicates(NoInterpolator())
        self._state = self.stage.start()
        self.verdicts = array("b")

    def step(self, frame: Frame) -> None:
        ready, self._state = self.stage.step(frame, self._state)
        if ready:
            self.verdicts.extend(list(self._state.past)[-len(ready) :])


@dataclass(slots=True)
class _Pending:
    """A segment whose frames have been read, and not yet all that may be needed after them."""

    first: int
    begin: int
    after: int
    digest: int


@dataclass(slots=True)
class Division:
    """Finds the segments of a video. After `ranges`, the other values are those of the whole reading.

    `frames` and `scenes` are counts, `replaced` the number of repeats that are interpolated, None if they are kept.
    Setting `is_stopped` ends the reading at the next frame, from any thread.
    """

    reader: Reader
    scenes_config: SceneConfig
    finds_repeats: bool
    segment_frames: int
    warm_up: int = WARM_UP
    is_stopped: bool = False
    frames: int = 0
    scenes: int = 0
    replaced: int | None = None
    first_time: int | None = None
    _times: array[int] = field(default_factory=lambda: array("q"))
    _digests: array[int] = field(default_factory=lambda: array("L"))
    _cuts: list[int] = field(default_factory=list)
    _waiting: deque[_Pending] = field(default_factory=deque)
    _first: int = 0
    _begin: int = 0
    _digest: int = 0
    _made: int = 0

    def ranges(self) -> Iterator[SegmentRange]:
        """Reads the video and yields each segment once it is known what its last frames may need."""
        marker: Any = SceneMarker(self.scenes_config)
        state = marker.start()
        repeats = _Repeats() if self.finds_repeats else None
        self.reader.keeps_digests = True
        for frame in self.reader.frames():
            if self.is_stopped:
                return
            (marked,), state = marker.step(frame, state)
            self._note(marked)
            if repeats is not None:
                repeats.step(marked)
            while self._waiting and self.frames >= self._waiting[0].after + LOOK_AHEAD:
                yield self._range(self._waiting.popleft(), repeats, False)
        if self.frames > self._first:
            self._end_segment()
        while self._waiting:
            yield self._range(self._waiting.popleft(), repeats, not self._waiting)
        self.replaced = None if repeats is None else repeats.stage.replaced

    def _note(self, frame: Frame) -> None:
        """Adds a frame, and ends the segment before it if a good place has come."""
        index = self.frames
        self.first_time = frame.pts if self.first_time is None else self.first_time
        self.scenes += frame.starts_scene
        if frame.starts_scene:
            self._cuts.append(index)
        length = index - self._first
        at_cut = frame.starts_scene and length * TOLERANCE >= self.segment_frames
        if length and (at_cut or length >= TOLERANCE * self.segment_frames) and self._is_apart(frame):
            self._end_segment()
            self._first, self._begin, self._digest = index, self._begin_for(index), 0
        self._times.append(frame.pts)
        self._digests.append(self.reader.digest)
        self._digest = add_digest(self._digest, self.reader.digest)
        self.frames += 1

    def _is_apart(self, frame: Frame) -> bool:
        """Whether a frame comes so long after the one before that files of any format give them different times.

        Matroska counts milliseconds, and there may be eight frames for one.
        """
        return (frame.pts - self._times[-1]) * frame.time_base >= Fraction(8, 1000)

    def _begin_for(self, index: int) -> int:
        """Where reading has to begin for a segment that begins at a frame."""
        scene = self._cuts[-1] if self._cuts else 0
        return scene + max(0, index - self.warm_up - scene) // GRID * GRID if index > scene else index

    def _end_segment(self) -> None:
        self._waiting.append(_Pending(self._first, self._begin, self.frames, self._digest))

    def _range(self, pending: _Pending, repeats: _Repeats | None, is_last: bool) -> SegmentRange:
        begin, after = pending.begin, pending.after
        # A scene that begins right behind the segment shows all stages its end.
        end = after + 1 if after in self._cuts[-LOOK_AHEAD - 2 :] else min(self.frames, after + LOOK_AHEAD)
        number, self._made = self._made, self._made + 1
        return SegmentRange(
            number=number,
            first=pending.first,
            count=after - pending.first,
            begin=begin,
            begin_time=self._times[begin],
            end=min(end, self.frames),
            cuts=tuple(cut for cut in self._cuts if begin <= cut < end),
            verdicts=() if repeats is None else tuple(repeats.verdicts[max(0, begin - _VERDICTS) : begin]),
            begin_digest=self._digests[begin],
            digest=pending.digest,
            times=(self._times[pending.first], None if is_last else self._times[after]),
        )


def with_verdicts(state: Any, verdicts: tuple[int, ...]) -> Any:
    """A state of `Duplicates` before the first frame of a segment, which knows the cadence of the frames before."""
    state.past.extend(verdicts)
    return state
