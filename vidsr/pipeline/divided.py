"""Makes one video on several devices: divides it into segments, has them made elsewhere, and joins them.

The segments and the journal are those of a run that can be resumed, but each segment counts by itself, so that they may
be made in any order.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch

from vidsr.config import RunConfig
from vidsr.errors import CheckError, DeviceError, InputError, UsageError
from vidsr.pipeline import plan as planning
from vidsr.pipeline.batch import Jobs
from vidsr.pipeline.division import Division, SegmentRange
from vidsr.pipeline.job import Job, Journal, check_space, describe, folder_of
from vidsr.pipeline.plan import Plan
from vidsr.pipeline.run import Progress, initial_report, limit_worker_threads, refuse_damage
from vidsr.pipeline.segment_task import SegmentResult, SegmentTask, plan_for
from vidsr.pipeline.workers import Crew, Message, Pool, divide_threads, seats_of
from vidsr.runtime.memory import share_memory
from vidsr.stages.saving import freeze, thaw
from vidsr.types import RunReport, SceneDegradation, TrackReport
from vidsr.video.output import OutputPlan
from vidsr.video.output_times import OutputTimes
from vidsr.video.reader import Reader
from vidsr.video.segments import Segment, SegmentWriter

# How often a segment is made again whose process died, such as one that the system killed when memory ran out.
RETRIES = 2
WAKE_SECONDS = 0.2
OnProgress = Callable[[Progress], None]
OnStart = Callable[[Plan], None]


@dataclass(frozen=True, slots=True)
class Devices:
    """Devices of this machine, each with a process of its own and so many threads (0: a share of the cores)."""

    names: tuple[str, ...]
    threads: int

    option: ClassVar[str] = "--devices"

    @property
    def count(self) -> int:
        """How many tasks are done at once."""
        return len(self.names)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The processes end with each crew."""

    def plan(self, source: Path, target: Path, options: RunConfig) -> Plan:
        """The plan of a video that is divided among them. Raises the errors of `plan_divided`."""
        return plan_divided(source, target, options, self.names, self.option)

    def crew(self, jobs: Jobs, options: RunConfig) -> Crew:  # noqa: ARG002 - other places need to know them
        """The processes for whole videos, which are started when there is work for them."""
        return self._pool()

    def _pool(self) -> Pool:
        return Pool(seats_of(self.names, self.threads))

    def make(self, plan: Plan, on_progress: OnProgress, on_start: OnStart) -> RunReport:
        """Makes a planned video. Raises the errors of `run_divided`."""
        threads = divide_threads(self.threads, self.count)
        report = run_divided(plan, self._pool(), threads, on_progress, on_start)
        report.device = ",".join(self.names)
        return report


def plan_divided(source: Path, target: Path, options: RunConfig, devices: Sequence[str], what: str) -> Plan:
    """The plan of a video that is made on several devices of one kind; it names the first of them.

    `what` is the option that asks for it, for messages. Raises UsageError if it is not possible for this video, and the
    errors of `plan`.
    """
    if len({name.partition(":")[0] for name in devices}) > 1:
        raise UsageError(f"{what} cannot divide a video among different kinds of devices: name those of one kind")
    plans = [_plan_for(source, target, options, name, devices) for name in dict.fromkeys(devices)]
    first = plans[0]
    check_divisible(first, what)
    for other in plans[1:]:
        if plan_for(other, first.device).engine != replace(first.engine, tile=other.tile):
            raise DeviceError(
                f"{other.device} would compute otherwise than {first.device} ({other.precision}, {first.precision}): "
                "give --precision, or name devices of one kind"
            )
    tiles = [plan.tile for plan in plans if plan.tile is not None]
    return replace(first, engine=replace(first.engine, tile=min(tiles))) if tiles else first


def check_divisible(plan: Plan, what: str) -> None:
    """Raises UsageError if the video of a plan cannot be made in segments that do not wait for each other."""
    assert plan.source is not None and plan.output is not None, "planned for files"
    if plan.options.dust != "off":
        raise UsageError(
            f"{what} cannot divide a video with --dust, which follows scratches through all of it: leave one out"
        )
    if plan.faces is not None and plan.faces.options.photographs:
        raise UsageError(
            f"{what} cannot divide a video with --reference, whose tracks are numbered through all of it: leave one out"
        )
    if plan.options.resume is False:
        raise UsageError(f"{what} keeps finished segments until the video is complete: leave out --no-resume")
    if reason := planning.resume_refusal(plan.source, plan.output):
        raise UsageError(f"{what} cannot divide this video, because {reason}: leave it out")


def _plan_for(source: Path, target: Path, options: RunConfig, device: str, devices: Sequence[str]) -> Plan:
    """The plan for one device, with its share of the free memory."""
    share_memory(len(devices) if device == "cpu" else devices.count(device))
    try:
        return planning.plan(source, target, replace(options, compute=replace(options.compute, device=device)))
    finally:
        share_memory(1)


class DividedJob(Job):
    """The job of a video whose segments are made in any order; `results` are those that an earlier run has finished."""

    def __init__(self, plan: Plan, threads: int, processor: str | None = None) -> None:
        """`threads` are those of each process, `processor` the kind on which they run; None: this machine's."""
        super().__init__(plan)
        self._threads, self._processor = threads, processor
        self.results: dict[int, SegmentResult] = {}

    def note(self, result: SegmentResult) -> None:
        """Adds a finished segment to the journal."""
        entry = {"number": result.frames.number, "segment": dataclasses.asdict(result.segment)}
        self._note("result", {**entry, "result": freeze(result)})
        self.results[result.frames.number] = result

    def drop(self, number: int) -> None:
        """Forgets a segment that cannot be used, and removes its file."""
        name = self.results.pop(number).segment.name
        (self.folder / name).unlink(missing_ok=True)

    def _description(self) -> dict[str, Any]:
        found = describe(self.plan, self._threads, self._processor)
        found["options"]["--device"] = "several devices"
        found["decided"]["device"] = self.plan.device.partition(":")[0]
        return found

    def _take_up(self, journal: Journal) -> set[str]:
        for number, entry in journal.results.items():
            segment = Segment(**entry["segment"])
            try:
                result = thaw(entry["result"])
            except InputError:
                result = None
            if isinstance(result, SegmentResult) and result.segment == segment and segment.is_intact(self.folder):
                self.results[number] = result
            else:
                self.warnings.append(f"the segment {number} in {self.folder} is missing or damaged and is made again")
        return {result.segment.name for result in self.results.values()}

    def _frames_kept(self) -> int | None:
        return sum(result.segment.frames for result in self.results.values()) if self.results else None


def run_divided(
    plan: Plan,
    crew: Crew,
    threads: int,
    on_progress: OnProgress = lambda _: None,
    on_start: OnStart = lambda _: None,
    processor: str | None = None,
) -> RunReport:
    """Makes a video as planned by `plan_divided`, with a crew that makes its segments with so many threads each.

    Raises the errors of `run`, and those of the crew. Finished segments are kept for the same command.
    """
    started = time.monotonic()
    report = initial_report(plan)
    folder = folder_of(plan.written.target)
    lack = None if folder.is_dir() else check_space(plan, folder.parent)
    with DividedJob(plan, threads, processor) as job:
        plan = replace(job.plan, job=job.folder)
        assert plan.source is not None and isinstance(plan.written, OutputPlan), "checked by plan_divided"
        done = sum(result.segment.frames for result in job.results.values())
        report.resumed_frames = done
        with (
            Reader(plan.source, plan.options.input, torch.device("cpu"), plan.info) as reader,
            SegmentWriter(plan.written, job.folder) as writer,
        ):
            on_start(replace(plan, frames_done=done))
            division = Division(reader, plan.options.scenes, plan.fills_duplicates, plan.options.segment_frames)

            def tell(count: int, is_finishing: bool = False) -> None:
                seconds = time.monotonic() - started
                on_progress(
                    Progress(count, plan.expected.frames, seconds, resumed_frames=done, is_finishing=is_finishing)
                )

            work = _Work(plan, job, crew, tell, writer)
            with crew, _Search(division) as search:
                work.run(search)
            results = [job.results[number] for number in sorted(job.results)]
            tell(sum(result.segment.frames for result in results), is_finishing=True)
            report.damages = list(reader.damages)
            refuse_damage(plan, report)
            for result in results:
                writer.take(result.segment, result.written)
            try:
                writer.join(plan.options.strict, reader.side_data)
            finally:
                if writer.is_published:
                    job.discard()
            warnings = [*([lack] if lack else []), *job.warnings, *reader.warnings, *writer.warnings]
    _fill(report, results, division)
    report.warnings += warnings
    if plan.faces is not None:
        from vidsr.faces.pipeline import tiny_warnings

        found = dict.fromkeys(text for result in results for text in result.warnings)
        report.warnings += [*found, *tiny_warnings(report.faces, plan.faces.tiny_model)]
    report.wall_seconds = time.monotonic() - started
    return report


class _Search:
    """Divides the video in a thread of its own, so that the first segments are made while the last ones are sought."""

    def __init__(self, division: Division) -> None:
        self._division = division
        self._found: queue.SimpleQueue[SegmentRange | BaseException | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="vidsr-division", daemon=True)
        self.is_over = False

    def __enter__(self) -> _Search:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._division.is_stopped = True
        self._thread.join()

    def found(self) -> list[SegmentRange]:
        """The segments that were found since the last call; does not wait. Raises the errors of reading."""
        ranges = []
        while not self._found.empty():
            each = self._found.get()
            if isinstance(each, BaseException):
                raise each
            if each is None:
                self.is_over = True
            else:
                ranges.append(each)
        return ranges

    def _work(self) -> None:
        try:
            with limit_worker_threads() as limit:
                limit()
                for each in self._division.ranges():
                    self._found.put(each)
            self._found.put(None)
        except BaseException as error:
            self._found.put(error)


class _Work:
    """The segments of a video on their way through a crew."""

    def __init__(
        self,
        plan: Plan,
        job: DividedJob,
        crew: Crew,
        on_frames: Callable[[int], None],
        writer: SegmentWriter,
    ) -> None:
        self._plan, self._job, self._crew = plan, job, crew
        self._on_frames, self._writer = on_frames, writer
        self._waiting: deque[SegmentRange] = deque()
        self._ranges: dict[int, SegmentRange] = {}
        self._deaths: dict[int, int] = {}
        self._running: dict[int, int] = {}
        self._known: set[int] = set(job.results)
        self._placing: OutputTimes | None = None

    def run(self, search: _Search) -> None:
        """Has all segments made. Raises the first error of one, or of the search."""
        while not search.is_over or self._waiting or self._crew.is_busy:
            for found in search.found():
                self._add(found)
            while self._waiting and self._crew.has_room:
                wanted = self._waiting.popleft()
                self._running[wanted.number] = 0
                assert self._placing is not None, "chosen with the first segment"
                task = SegmentTask(replace(self._plan, frames_done=0), wanted, self._job.folder, self._placing)
                self._crew.assign(wanted.number, task)
            if not self._crew.is_busy and not search.is_over:
                time.sleep(WAKE_SECONDS / 10)
            for message in self._crew.poll(WAKE_SECONDS):
                self._take(message)
        for number in self._known - set(self._ranges):
            self._job.drop(number)  # of another division

    def _add(self, found: SegmentRange) -> None:
        if self._placing is None:
            stretch, base = self._plan.expected.stretch, self._plan.info.time_base
            self._placing = replace(self._writer.begin(found.times[0] * base * stretch))
        self._ranges[found.number] = found
        before = self._job.results.get(found.number)
        if before is not None and before.frames != found:
            self._job.drop(found.number)
            before = None
        if before is None:
            self._waiting.append(found)
        self._tell()

    def _take(self, message: Message) -> None:
        number: int = message.key
        if message.what == "frames":
            self._running[number] = message.value
            self._tell()
        elif message.what == "done":
            del self._running[number]
            result: SegmentResult = message.value
            if not result.segment.is_intact(self._job.folder):
                raise CheckError(
                    f"{self._job.folder / result.segment.name} is not what was written: check the disk, or whether all "
                    "machines see the same folder, and give the same command again"
                )
            self._job.note(result)
            self._tell()
        elif message.what == "failed":
            raise message.value
        elif message.what == "died":
            self._bury(number, message.value)

    def _bury(self, number: int, code: Any) -> None:
        """Has a segment made again whose process died."""
        del self._running[number]
        self._deaths[number] = self._deaths.get(number, 0) + 1
        if self._deaths[number] > RETRIES:
            raise DeviceError(
                f"the process that made segment {number} of {self._plan.info.path} died {RETRIES + 1} times, the last "
                f"time with code {code}, probably because memory ran out: use fewer devices or a smaller --tile"
            )
        self._job.warnings.append(f"the process that made segment {number} died (code {code}); it was made again")
        self._waiting.appendleft(self._ranges[number])

    def _tell(self) -> None:
        finished = sum(result.segment.frames for result in self._job.results.values())
        self._on_frames(finished + sum(self._running.values()))


def _fill(report: RunReport, results: Sequence[SegmentResult], division: Division) -> None:
    """Adds what is known after the run; the figures of the segments, as if one run had made them."""
    first, last = results[0], results[-1]
    report.frames_in, report.scenes = division.frames, division.scenes
    report.frames_out = sum(result.segment.frames for result in results)
    report.duplicates_replaced = division.replaced or 0
    report.duration_seconds = float(last.ends - first.begins)
    if last.last > first.begins:
        report.rate = float((report.frames_out - 1) / (last.last - first.begins))
    report.tile = last.tile
    before, tracks = 0, dict[int, TrackReport]()
    for result in results:
        _fill_scenes(report, result, first)
        _add_tracks(tracks, result)
        for step in result.memory_steps:
            report.memory_steps.append(replace(step, frames_done=before))
            report.warnings.append(str(report.memory_steps[-1]))
        before += result.segment.frames
        for name, seconds in result.stage_seconds.items():
            report.stage_seconds[name] = report.stage_seconds.get(name, 0.0) + seconds
        report.peak_memory_bytes = max(report.peak_memory_bytes, result.memory_bytes)
    report.faces = [tracks[number] for number in sorted(tracks)]
    warmed = sum(not result.frames.is_exact for result in results)
    if warmed:
        report.notes.append(
            f"{warmed} of {len(results)} segments begin within a shot, after frames that were computed to warm up and "
            "thrown away"
        )


def _fill_scenes(report: RunReport, result: SegmentResult, first: SegmentResult) -> None:
    for scene in result.degradation:
        if scene.start is None and report.degradation:
            report.degradation[-1] = replace(report.degradation[-1], levels=scene.levels)
        else:
            start = result.begins if scene.start is None else scene.start
            report.degradation.append(SceneDegradation(float(start - first.begins), scene.levels))


def _add_tracks(tracks: dict[int, TrackReport], result: SegmentResult) -> None:
    """Adds the face tracks of a segment, numbered as one run would number them.

    Those of a segment that was read from the beginning of a scene go on where the segment before it ended. After a
    warm-up it is not known which are the same.
    """
    before = [
        number
        for number, track in tracks.items()
        if not result.frames.is_exact or track.seen.first_pts < result.frames.begin_time
    ]
    offset = max(before, default=0)
    for found in result.faces:
        number = found.seen.track + offset
        found = replace(found, seen=replace(found.seen, track=number))
        tracks[number] = _joined(tracks[number], found) if number in tracks else found


def _joined(first: TrackReport, second: TrackReport) -> TrackReport:
    one, two = first.seen, second.seen
    seen = replace(
        one, last_pts=two.last_pts, frames=one.frames + two.frames, found=one.found + two.found,
        smallest_side=min(one.smallest_side, two.smallest_side), largest_side=max(one.largest_side, two.largest_side),
        best_score=max(one.best_score, two.best_score),
    )  # fmt: skip
    skipped = Counter(first.skipped) + Counter(second.skipped)
    boxes = first.boxes if first.restored else second.boxes
    return TrackReport(seen, first.restored + second.restored, dict(skipped), boxes=boxes)
