"""Makes one segment of a video that several devices make together: what is to be done, as a plain value, and the doing.

Everything that a `SegmentTask` holds can be pickled and sent to another process or machine; frames stay in files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidsr.errors import InputError
from vidsr.faces.tracks import TrackTable
from vidsr.pipeline.compose import compose
from vidsr.pipeline.division import KnownScenes, SegmentRange, add_digest, with_verdicts
from vidsr.pipeline.plan import Plan
from vidsr.pipeline.run import QUEUE_DEPTH, Parts, Stages, limit_worker_threads, load
from vidsr.pipeline.workers import Seat
from vidsr.runtime.heap import keep_freed_memory
from vidsr.runtime.memory import peak_memory_bytes
from vidsr.runtime.profiling import StageClock
from vidsr.runtime.queues import background, prefetch
from vidsr.runtime.threads import use_threads
from vidsr.stages.base import restore_state, save_state
from vidsr.stages.duplicates import Duplicates
from vidsr.stages.scenes import SceneMarker
from vidsr.types import DegradationLevels, Frame, MemoryStep, TrackReport
from vidsr.video.output import OutputPlan
from vidsr.video.output_times import OutputTimes
from vidsr.video.reader import Reader
from vidsr.video.segments import Segment, SegmentWriter, WriterState


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """A segment to make: the plan of the whole video, its frames, the folder for its file, and how times are shifted.

    `plan` is for one of the devices; all of them are of one kind.
    """

    plan: Plan
    frames: SegmentRange
    folder: Path
    placing: OutputTimes

    def perform(self, seat: Seat, tell: Callable[..., None]) -> SegmentResult:
        """Makes the segment on a device of the same kind as that of the plan; tells the number of frames done."""
        global _maker
        _maker = _maker or SegmentMaker()
        task = self if seat.device is None else replace(self, plan=plan_for(self.plan, seat.device))
        if seat.threads:
            use_threads(seat.threads)
        return _maker.make(task, lambda count: tell("frames", count))


def plan_for(plan: Plan, device: str) -> Plan:
    """A plan with all its networks on another device of the same kind."""
    before = plan.device

    def moved(selection: Any) -> Any:
        lighter = tuple((device if name == before else name, precision) for name, precision in selection.lighter)
        return replace(selection, device=device, lighter=lighter)

    faces = plan.faces
    if faces is not None:
        tiny = None if faces.tiny is None else moved(faces.tiny)
        faces = replace(faces, selection=moved(faces.selection), tiny=tiny)
    cleaner = None if plan.cleaner is None else moved(plan.cleaner)
    return replace(plan, engine=moved(plan.engine), cleaner=cleaner, faces=faces)


@dataclass(frozen=True, slots=True)
class SceneLevels:
    """The degradation levels of a scene, or of a part, and when the scene starts; None: before the segment."""

    start: Fraction | None
    levels: DegradationLevels


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """A finished segment, and what is to be known of it for the whole video. Times are in seconds of the output.

    `frames` are those of the output. Face tracks are numbered from 1 in each segment.
    """

    frames: SegmentRange
    segment: Segment
    written: WriterState
    begins: Fraction
    last: Fraction
    ends: Fraction
    degradation: tuple[SceneLevels, ...]
    faces: tuple[TrackReport, ...]
    warnings: tuple[str, ...]
    memory_steps: tuple[MemoryStep, ...]
    tile: int | None
    stage_seconds: dict[str, float]
    memory_bytes: int


_maker: SegmentMaker | None = None  # of this process, which keeps its networks loaded from one segment to the next


class _OtherFramesError(Exception):
    """Reading from the middle of the file gave other frames than reading it from the beginning."""


@dataclass(slots=True)
class SegmentMaker:
    """Makes segments one after the other; networks stay loaded as long as the plan of the video is the same."""

    _plan: Plan | None = None
    _parts: Parts | None = None
    _fresh: list[Any] = field(default_factory=list)

    def make(self, task: SegmentTask, on_progress: Callable[[int], None] = lambda _: None) -> SegmentResult:
        """Makes a segment; `on_progress` is told the number of its frames that are done. Raises the errors of `run`.

        The file is read from a key frame before the segment. If that gives other frames than were read when the video
        was divided, which damage can cause, it is read from its beginning.
        """
        keep_freed_memory()
        if self._parts is None or task.plan != self._plan:
            self._plan, self._parts = task.plan, load(task.plan)
            self._fresh = []
        try:
            return _make(task, self._parts, self._begun(task, self._parts), True, on_progress)
        except _OtherFramesError:
            pass
        try:
            return _make(task, self._parts, self._begun(task, self._parts), False, on_progress)
        except _OtherFramesError as error:
            raise InputError(
                f"{task.plan.info.path} gave other frames than before: it has changed, or it cannot be read twice "
                "alike; leave out --devices and --cluster"
            ) from error

    def _begun(self, task: SegmentTask, parts: Parts) -> tuple[Stages, list[Any]]:
        """The stages with their figures at zero, and their states before the first frame."""
        stages = parts.stages(task.plan)
        every = [*stages.ahead, *stages.beside]
        if not self._fresh:
            self._fresh = [save_state(stage, stage.start()) for stage in every]
        for stage, saved in zip(every, self._fresh, strict=True):
            restore_state(stage, saved)
        assert isinstance(stages.ahead[0], SceneMarker), "the first stage finds the scenes"
        scenes = KnownScenes(task.frames.begin, task.frames.cuts)
        states = [save_state(stage, stage.start()) for stage in every]
        states[0] = None
        for index, stage in enumerate(every):
            if isinstance(stage, Duplicates):
                states[index] = save_state(stage, with_verdicts(stage.start(), task.frames.verdicts))
        return stages._replace(ahead=[scenes, *stages.ahead[1:]]), states


def _make(
    task: SegmentTask, parts: Parts, begun: tuple[Stages, list[Any]], seeks: bool, on_progress: Callable[[int], None]
) -> SegmentResult:
    plan, wanted, (stages, states) = task.plan, task.frames, begun
    output = plan.written
    assert plan.source is not None and isinstance(output, OutputPlan), "resume_refusal has let it pass"
    if parts.faces is not None:
        parts.faces.count_between((wanted.times[0], 1 << 62 if wanted.times[1] is None else wanted.times[1]))
    warnings = () if parts.faces is None else tuple(parts.faces.warnings)  # those that are known beforehand
    steps = parts.chosen.engine.steps
    steps_before = len(steps)
    seconds: dict[str, float] = {}
    clock = StageClock(seconds, ["decode", *stages.names, "encode"])
    ahead, interp = len(stages.ahead), plan.expected.interp
    state = WriterState(replace(task.placing), None, [], [])
    skipped = (wanted.first - wanted.begin) * interp
    count = (wanted.count - 1) * interp + 1 if wanted.is_last else wanted.count * interp
    seen = _Seen()
    with (
        Reader(plan.source, plan.options.input, torch.device(plan.device), plan.info) as reader,
        SegmentWriter(output, task.folder, state, wanted.number) as writer,
    ):
        decoded = clock.timed("decode", _checked(reader, wanted, interp, seeks))
        with (
            limit_worker_threads() as limit,
            prefetch(compose(decoded, stages.ahead, clock, states[:ahead]), QUEUE_DEPTH, limit) as frames,
            background(clock.timing("encode", writer.write), stages.depth_behind, limit) as put,
        ):
            made = compose(frames, stages.beside, clock, states[ahead:])
            for number, frame in enumerate(islice(made, skipped, skipped + count), start=1):
                seen.note(frame)
                put(frame)
                on_progress(number)
        segment = writer.cut(is_end=wanted.is_last)
        assert segment is not None and segment.frames == count, "a segment has as many frames as were planned"
        return SegmentResult(
            frames=wanted,
            segment=segment,
            written=writer.state._replace(segments=[], warnings=[]),
            begins=seen.begins,
            last=seen.last,
            ends=seen.ends,
            degradation=seen.degradation(),
            faces=_faces(parts, seen.tracks),
            warnings=warnings,
            memory_steps=tuple(steps[steps_before:]),
            tile=parts.chosen.engine.tile,
            stage_seconds=dict(seconds),
            memory_bytes=peak_memory_bytes(plan.device),
        )


def _checked(reader: Reader, wanted: SegmentRange, interp: int, seeks: bool) -> Iterator[Frame]:
    """The frames to read, which are those that were read when the video was divided, else _OtherFramesError."""
    reader.keeps_digests = True
    after = wanted.first + wanted.count
    # Before a cut nothing waits for what follows but an interpolated frame, which needs to know when that begins.
    end = after if interp == 1 and after in wanted.cuts else wanted.end
    frames = reader.frames(time=wanted.begin_time) if seeks else reader.frames(wanted.begin)
    index, digest = wanted.begin, 0
    for frame in islice(frames, end - wanted.begin):
        if index == wanted.begin and (frame.pts, reader.digest) != (wanted.begin_time, wanted.begin_digest):
            raise _OtherFramesError
        if wanted.first <= index < after:
            digest = add_digest(digest, reader.digest)
        index += 1
        if index == after and digest != wanted.digest:
            raise _OtherFramesError
        yield frame
    if index < end:
        raise _OtherFramesError


class _Seen:
    """What is noted of the frames of a segment as they come out."""

    def __init__(self) -> None:
        self.tracks = TrackTable()
        self.begins = self.last = self.ends = Fraction(0)
        self._scenes: list[tuple[Fraction | None, Tensor | None]] = []

    def note(self, frame: Frame) -> None:
        self.last = frame.pts * frame.time_base
        self.ends = self.last + frame.duration * frame.time_base
        self.tracks.add(frame)
        if not self._scenes:
            self.begins = self.last
        if frame.starts_scene or not self._scenes:
            self._scenes.append((self.last if frame.starts_scene else None, None))
        # Means over the frames of a scene, so the last frame's are those of the scene.
        self._scenes[-1] = self._scenes[-1][0], frame.levels

    def degradation(self) -> tuple[SceneLevels, ...]:
        return tuple(
            SceneLevels(start, DegradationLevels.of(levels.tolist()))
            for start, levels in self._scenes
            if levels is not None
        )


def _faces(parts: Parts, tracks: TrackTable) -> tuple[TrackReport, ...]:
    if parts.faces is None:
        return ()
    from vidsr.faces.restorer import FaceWork

    works = parts.faces.work
    found = ((track, works.get(track.track, FaceWork())) for track in tracks.tracks)
    return tuple(TrackReport(track, work.restored, dict(work.skipped), boxes=list(work.boxes)) for track, work in found)
