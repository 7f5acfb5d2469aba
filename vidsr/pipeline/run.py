"""Executes a plan for one video, from input file to verified output, and returns a report."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from vidsr.config import RunConfig
from vidsr.engines.base import Engine
from vidsr.engines.select import ChosenEngine, build_engine
from vidsr.errors import CheckError, OutputError
from vidsr.nets.layers.resize import resize
from vidsr.pipeline import plan as planning
from vidsr.pipeline.compose import compose
from vidsr.pipeline.job import Job, Mark, ResumePoint, check_space, folder_of
from vidsr.pipeline.look_ahead import LookAhead, inputs_done, looking_ahead
from vidsr.pipeline.plan import Plan
from vidsr.pipeline.sightings import Sightings
from vidsr.pipeline.time_left import Ahead
from vidsr.runtime.heap import keep_freed_memory, return_freed_memory
from vidsr.runtime.memory import peak_memory_bytes
from vidsr.runtime.priority import lower_thread_priority
from vidsr.runtime.profiling import StageClock
from vidsr.runtime.queues import background, prefetch
from vidsr.runtime.threads import use_threads
from vidsr.stages.base import Border, FrameStage, Stage, chain, restore_state, save_state
from vidsr.stages.duplicates import Duplicates
from vidsr.stages.interpolated import InterpolatedFrameFinisher
from vidsr.stages.scenes import SceneMarker
from vidsr.types import DegradationLevels, Frame, MemoryStep, RunReport, SceneDegradation, VideoInfo
from vidsr.video.output import OutputPlan
from vidsr.video.pipe_writer import NOT_CHECKED, PipeOutputPlan
from vidsr.video.reader import Reader
from vidsr.video.segments import SegmentWriter
from vidsr.video.sources import FrameReader, open_reader, open_writer

if TYPE_CHECKING:
    from vidsr.defects.dust import DustStage
    from vidsr.faces.pipeline import Restoration


# Capacity of the queue before the network. The queue after it is twice as long in slow motion, where frames come in
# bursts. Frames wait at full size, so a longer queue would cost memory and gain nothing.
QUEUE_DEPTH = 3
ESTIMATE_FRAMES = 6
# Of frames with more pixels than 1080p, such as photographs, the speed is measured on a part with sides of this length,
# or of two tiles up to the longest; above that the overlap of tiles is a small part of the work.
LARGE_PIXELS, PART_SIDE, LONGEST_PART_SIDE = 1 << 21, 512, 768
# Jobs that are expected to take longer than this keep their work by themselves.
LONG_SECONDS = 600.0
# The forecast is measured on the first frames, unless the input has fewer pixels in all than any model on any device
# needs ten minutes for: with 260 frames of 640x360 it takes at most 1.5 % of the time.
FORECAST_FRAMES = 3
LEAST_PIXELS = 60_000_000


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run, in output frames. `frames_expected` is from the header and may be wrong or None.

    `memory_steps` are the steps to less memory so far. `scene_starts` are the output frames that begin a scene, as far
    as the input has been read: a little farther than `frames_done`. `faces` is the number of face tracks so far, None
    where no faces are searched; `face_pixels` is that of `Sightings`. `interpolations` is the number of interpolated
    images so far, and `ahead` what is known of those to come, None if nothing is. `stage_seconds` are those of the
    report so far. `resumed_frames` of those that are done are from an interrupted run. With `is_finishing` all frames
    are done, and the output is being completed and checked.
    """

    frames_done: int
    frames_expected: int | None
    seconds: float
    memory_steps: tuple[MemoryStep, ...] = ()
    scene_starts: tuple[int, ...] = ()
    faces: int | None = None
    face_pixels: float = 0.0
    interpolations: int = 0
    ahead: Ahead | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    resumed_frames: int = 0
    is_finishing: bool = False

    @property
    def extra_work(self) -> float:
        """What makes some frames take longer: faces, or in slow motion, which has none, interpolated images."""
        return self.face_pixels or float(self.interpolations)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A plan, and what the first frames showed: the seconds per output frame without encoding, and warnings.

    `levels` are the degradation levels that the network would work with; None if the model has none. Of large frames
    only a part was measured, of `part` (width, height) pixels.
    """

    plan: Plan
    seconds_per_frame: float
    warnings: tuple[str, ...]
    levels: DegradationLevels | None = None
    part: tuple[int, int] | None = None


class Network:
    """An engine as a stage, for frames of one size in input pixels."""

    def __init__(self, engine: Engine, height: int, width: int, name: str = "network") -> None:
        self._engine, self._size, self.name = engine, (height, width), name

    def start(self) -> Any:
        """The engine's initial state."""
        return self._engine.init_state(*self._size)

    def step(self, frame: Frame, state: Any) -> tuple[list[Frame], Any]:
        """Passes a frame to the engine."""
        return self._engine.step(frame, state)

    def flush(self, state: Any) -> list[Frame]:
        """The engine's remaining frames."""
        return self._engine.flush(state)


class Fit(FrameStage):
    """The stage that resizes frames to the output size, (width, height), and stretches their times."""

    name = "resize"

    def __init__(self, size: tuple[int, int], stretch: int) -> None:
        self._size, self._stretch = size, stretch

    def process(self, frame: Frame) -> Frame:
        """Resizes one frame and stretches its time."""
        width, height = self._size
        image = frame.image
        if image.shape[-2:] != (height, width):
            image = resize(image, (height, width)).clamp(0, 1)
        return replace(frame, image=image, time_base=frame.time_base * self._stretch)


class Stages(NamedTuple):
    """All stages between decoder and encoder, in order: `ahead` run in the decoder's thread, `beside` in the caller's.

    `depth_behind` is the capacity of the queue to the encoder's thread.
    """

    ahead: Sequence[Stage]
    beside: Sequence[Stage]
    depth_behind: int

    @property
    def names(self) -> list[str]:
        """The names of all stages."""
        return [stage.name for stage in (*self.ahead, *self.beside)]


@dataclass(frozen=True, slots=True)
class Parts:
    """What `load` builds from a plan: the engine, and the other stages with a state of their own that the plan has."""

    chosen: ChosenEngine
    cleaner: ChosenEngine | None
    faces: Restoration | None
    duplicates: Duplicates | None
    dust: DustStage | None

    def stages(self, plan: Plan) -> Stages:
        """The stages that each frame passes."""
        faces, info, result = self.faces, plan.info, plan.expected
        fit = Fit(result.size, result.stretch)
        enlarged: list[Stage] = [*(faces.blend if faces else ()), fit]
        if faces is not None and faces.scale > self.chosen.engine.info.scale:
            enlarged = [fit, *faces.blend]
        return Stages(
            ahead=[  # at the input's size
                SceneMarker(plan.options.scenes),
                *([self.dust] if self.dust else ()),
                *(faces.find if faces else ()),
            ],
            beside=[
                *([Network(self.cleaner.engine, info.height, info.width, "clean")] if self.cleaner else ()),
                *([self.duplicates] if self.duplicates else ()),
                *(faces.restore if faces else ()),
                Network(self.chosen.engine, info.height, info.width),
                # From here on at the engine's output size. Slow motion has no faces.
                *([InterpolatedFrameFinisher(result.interp)] if result.interp > 1 else ()),
                *enlarged,
            ],
            depth_behind=QUEUE_DEPTH * min(result.interp, 2),
        )


def load(plan: Plan) -> Parts:
    """Loads the networks of a plan. Raises ModelError if the weights are not those of the cards in the plan."""
    use_threads(plan.options.compute.threads)
    chosen, cleaner = build_engine(plan.engine), None
    if plan.cleaner is not None:
        cleaner = build_engine(plan.cleaner)
        cleaner.engine.steps = chosen.engine.steps  # one list of the steps to less memory, in their order
    faces = None
    if plan.faces is not None:
        from vidsr.faces.pipeline import Restoration  # imports SciPy, a third of start-up time where faces are off

        scale = plan.faces.blending_scale(chosen.engine.info.scale, plan.expected.whole_enlargement(plan.info))
        faces = Restoration(plan.faces, plan.info, scale)
    duplicates = None
    if plan.fills_duplicates:
        assert chosen.interpolator is not None, "planned only for models that can interpolate at the input's size"
        duplicates = Duplicates(chosen.interpolator)
    dust = None
    if plan.options.dust != "off":
        from vidsr.defects.dust import DustStage

        dust = DustStage(plan.options.dust)
    return Parts(chosen, cleaner, faces, duplicates, dust)


def run(
    plan: Plan,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_start: Callable[[Plan], None] = lambda _: None,
) -> RunReport:
    """Executes a plan. The output gets its final name only once it is complete and verified.

    `on_start` is called after all checks that precede the first frame. Raises the errors of vidsr.errors; in that case
    an existing target is unchanged, and nothing is left behind but what a run that can be resumed has finished.
    """
    started = time.monotonic()
    keep_freed_memory()
    parts = load(plan)
    return_freed_memory()
    report = initial_report(plan)
    report.memory_steps = parts.chosen.engine.steps  # filled as they are made
    if keeps_work(plan, parts):
        _run_in_segments(plan, parts, report, _Callbacks(on_progress, on_start, started, Sightings()))
    else:
        _run_whole(plan, parts, report, _Callbacks(on_progress, on_start, started, Sightings()))
    report.wall_seconds = time.monotonic() - started
    return report


def keeps_work(plan: Plan, parts: Parts) -> bool:
    """Whether a run keeps its finished work, so that it can be resumed: --resume, or the forecast of a long job.

    Work of an interrupted run is always taken up, unless --no-resume is given.
    """
    wanted = plan.options.resume
    assert plan.source is not None, "planned for frames without a file"
    if wanted is None and planning.resume_refusal(plan.source, plan.written) is None:
        wanted = folder_of(plan.written.target).is_dir() or _forecast(plan, parts) > LONG_SECONDS
    return bool(wanted)


def _forecast(plan: Plan, parts: Parts) -> float:
    """About how many seconds a run takes without encoding; 0 if it is short by its size alone, or unknown."""
    frames = plan.expected.frames
    if not frames or frames * plan.info.width * plan.info.height < LEAST_PIXELS:
        return 0.0
    stages = parts.stages(plan)
    every = [*stages.ahead, *stages.beside]
    before = [save_state(stage, stage.start()) for stage in every]
    with _reader(plan) as reader:
        seconds, _ = _measured(reader.frames(), stages, FORECAST_FRAMES)
    for stage, figures in zip(every, before, strict=True):
        restore_state(stage, figures)  # the frames that were measured do not count in the report
    return frames * seconds


class _Callbacks(NamedTuple):
    """What the caller of `run` wants to be told, when it called, and what has been seen since."""

    on_progress: Callable[[Progress], None]
    on_start: Callable[[Plan], None]
    started: float
    seen: Sightings

    def progressed(
        self, report: RunReport, plan: Plan, parts: Parts, look_ahead: LookAhead | None, is_finishing: bool = False
    ) -> None:
        seen, interp = self.seen, plan.expected.interp
        inputs = inputs_done(report.frames_out, interp)
        between = (interp - 1) * (inputs - bisect_left(seen.scene_starts, inputs))  # none across a cut
        self.on_progress(
            Progress(
                report.frames_out, plan.expected.frames, time.monotonic() - self.started, tuple(report.memory_steps),
                scene_starts=tuple(number * interp for number in seen.scene_starts),
                faces=None if plan.faces is None else len(seen.tracks), face_pixels=seen.face_pixels,
                interpolations=between + (parts.duplicates.interpolated if parts.duplicates else 0),
                ahead=None if look_ahead is None else look_ahead.after(report.frames_in, report.frames_out),
                stage_seconds=dict(report.stage_seconds), resumed_frames=report.resumed_frames,
                is_finishing=is_finishing,
            )
        )  # fmt: skip


def _run_whole(plan: Plan, parts: Parts, report: RunReport, callbacks: _Callbacks) -> None:
    """Runs a plan in one piece."""
    stages = parts.stages(plan)
    clock = StageClock(report.stage_seconds, ["decode", *stages.names, "encode", "commit"])
    with _reader(plan) as reader, open_writer(plan.written) as writer:
        callbacks.on_start(plan)
        decoded = compose(clock.timed("decode", reader.frames()), stages.ahead, clock)
        with (
            limit_worker_threads() as limit,
            prefetch(decoded, QUEUE_DEPTH, limit, reader.cancel) as frames,
            background(clock.timing("encode", writer.write), stages.depth_behind, limit, writer.cancel) as put,
            looking_ahead(plan) as ahead,
        ):
            counted = chain([InputCount(report, callbacks.seen, _largest_face(plan))], frames)
            for frame in chain([OutputCount(report)], compose(counted, stages.beside, clock)):
                put(frame)
                callbacks.progressed(report, plan, parts, ahead)
            callbacks.progressed(report, plan, parts, ahead, is_finishing=True)
        report.damages = list(reader.damages)
        refuse_damage(plan, report)
        with clock.counting("commit"):
            return_freed_memory()  # the check of the file needs some while the encoder's is still kept
            writer.commit(plan.options.strict, reader.side_data)
    _finish(report, plan, parts, [*reader.warnings, *writer.warnings])


def _run_in_segments(plan: Plan, parts: Parts, report: RunReport, callbacks: _Callbacks) -> None:
    """Runs a plan so that it can be resumed, after what an interrupted run has finished."""
    folder = folder_of(plan.written.target)
    lack = None if folder.is_dir() else check_space(plan, folder.parent)
    with Job(plan) as job:
        if job.plan.tile != plan.tile:
            plan, parts = job.plan, load(job.plan)
            report.memory_steps = parts.chosen.engine.steps
        point = job.point
        plan = replace(plan, job=job.folder, frames_done=0 if point is None else point.frames_out)
        report.resumed_frames = plan.frames_done
        stages = parts.stages(plan)
        clock = StageClock(report.stage_seconds, ["decode", *stages.names, "encode", "save", "commit"])
        saved = _States.of([] if point is None else point.stages, stages)
        state = None if point is None else point.writer
        output = plan.written
        assert plan.source is not None and isinstance(output, OutputPlan), "resume_refusal has let it pass"
        opened = Reader(plan.source, plan.options.input, torch.device(plan.device), plan.info)
        with opened as reader, SegmentWriter(output, job.folder, state) as writer:
            callbacks.on_start(plan)
            items = clock.timed("decode", _with_borders(reader, point, plan.options.segment_frames))

            def write(item: Frame | Mark) -> None:
                if isinstance(item, Frame):
                    writer.write(item)
                else:
                    job.record(item, writer.cut(), writer.state)

            with (
                limit_worker_threads() as limit,
                prefetch(compose(items, stages.ahead, clock, saved.ahead), QUEUE_DEPTH, limit) as arriving,
                background(clock.timing("encode", write), stages.depth_behind, limit) as put,
                looking_ahead(plan) as ahead,
            ):
                counted = chain([InputCount(report, callbacks.seen, _largest_face(plan))], arriving, saved.counted_in)
                enhanced = compose(counted, stages.beside, clock, saved.beside)
                for item in chain([OutputCount(report)], enhanced, saved.counted_out):
                    if isinstance(item, Border):
                        with clock.counting("save"):
                            # After a step to less memory the states are those of another form of the engine.
                            mark = Mark(item) if report.memory_steps else job.save_state(item, report.frames_out)
                        put(mark)
                    else:
                        put(item)
                        callbacks.progressed(report, plan, parts, ahead)
                callbacks.progressed(report, plan, parts, ahead, is_finishing=True)
            report.damages = list(reader.damages)
            refuse_damage(plan, report)
            with clock.counting("commit"):
                return_freed_memory()
                try:
                    writer.join(plan.options.strict, reader.side_data)
                finally:
                    if writer.is_published:  # also where it is interrupted between the two
                        job.discard()
    warnings = [*([lack] if lack else []), *job.warnings, *reader.warnings, *writer.warnings]
    _finish(report, plan, parts, warnings)


def _with_borders(reader: Reader, point: ResumePoint | None, every: int) -> Iterator[Frame | Border]:
    """The frames after a point, with a border before each frame whose number is a multiple of `every`."""
    count = 0 if point is None else point.frames_in
    begins = True
    reader.warnings += [] if point is None else [text for text in point.warnings if text not in reader.warnings]
    for frame in reader.frames(count):
        if count and count % every == 0 and not begins:
            yield Border(count, tuple(reader.warnings))
        yield frame
        begins = False
        count += 1


class _States(NamedTuple):
    """The saved states of a run by place, each empty at its beginning."""

    ahead: list[Any]
    counted_in: list[Any]
    beside: list[Any]
    counted_out: list[Any]

    @classmethod
    def of(cls, saved: list[Any], stages: Stages) -> _States:
        """Divides the states of a border, which are in the order in which it passed the stages."""
        if not saved:
            return cls([], [], [], [])
        ahead, beside = len(stages.ahead), len(stages.beside)
        if len(saved) != ahead + beside + 2:
            raise OutputError(
                f"the saved state has {len(saved)} parts, and this run {ahead + beside + 2}: throw the unfinished work "
                "away with `vidsr jobs --clean FOLDER`"
            )
        return cls(saved[:ahead], saved[ahead : ahead + 1], saved[ahead + 1 : -1], saved[-1:])


def enhance(
    source: Path,
    target: Path,
    config: RunConfig,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_start: Callable[[Plan], None] = lambda _: None,
) -> RunReport:
    """Plans and runs one video from `source` to `target`. `wall_seconds` of the report includes planning."""
    started = time.monotonic()
    report = run(planning.plan(source, target, config), on_progress, on_start)
    report.wall_seconds = time.monotonic() - started
    return report


def estimate(source: Path, target: Path, config: RunConfig) -> Estimate:
    """Plans a run and measures its speed on the first frames; writes nothing. Raises the errors of `enhance`."""
    plan = planning.plan(source, target, config)
    part = _part_of(plan)
    keep_freed_memory()
    parts = load(part)
    with _reader(plan) as reader:
        frames = (_center(frame, part.info) for frame in reader.frames())
        seconds, levels = _measured(frames, parts.stages(part), ESTIMATE_FRAMES)
        faces = parts.faces.warnings if parts.faces else ()
        warnings = (*plan.warnings, *reader.warnings, *plan.written.warnings, *faces)
        return Estimate(
            plan, seconds * _pixels(plan) / _pixels(part), warnings,
            None if levels is None else DegradationLevels.of(levels.tolist()),
            None if part is plan else (part.info.width, part.info.height),
        )  # fmt: skip


def _part_of(plan: Plan) -> Plan:
    """A plan for the middle of large frames, on which the speed can be measured in seconds, else the plan itself.

    It has no faces: those of such frames are a small part of the work.
    """
    info, side = plan.info, max(PART_SIDE, min(2 * (plan.tile or 0), LONGEST_PART_SIDE))
    width, height = min(info.width, side), min(info.height, side)
    if _pixels(plan) < LARGE_PIXELS or 2 * width * height > _pixels(plan):
        return plan
    factors = plan.expected.size[0] / info.width, plan.expected.size[1] / info.height
    expected = replace(plan.expected, size=(round(width * factors[0]), round(height * factors[1])))
    return replace(plan, info=replace(info, width=width, height=height), expected=expected, faces=None)


def _pixels(plan: Plan) -> int:
    return plan.info.width * plan.info.height


def _center(frame: Frame, info: VideoInfo) -> Frame:
    """The middle of a frame, in the size of the header."""
    height, width = frame.image.shape[-2:]
    if (height, width) == (info.height, info.width):
        return frame
    top, left = (height - info.height) // 2, (width - info.width) // 2
    return frame.with_image(frame.image[:, top : top + info.height, left : left + info.width].contiguous())


def _measured(source: Iterator[Frame], stages: Stages, count: int) -> tuple[float, Tensor | None]:
    """Seconds per output frame, without encoding, of the first `count` input frames; the levels of the last one."""
    clock = StageClock({})
    frames = list(islice(compose(source, stages.ahead, clock), count))
    list(compose(frames[:1], stages.beside, clock))  # warm-up: the first frame takes longer
    started = time.monotonic()
    made, levels = 0, None
    for frame in compose(frames, stages.beside, clock):
        made, levels = made + 1, frame.levels
    return (time.monotonic() - started) / max(made, 1), levels


@contextmanager
def limit_worker_threads() -> Iterator[Callable[[], None]]:
    """Yields a function for worker threads to call first: it limits them to one core and to a low priority.

    OpenMP gives each thread its own pool; with two more full-sized pools they would wait for each other.
    """
    threads = torch.get_num_threads()

    def limit() -> None:
        torch.set_num_threads(1)
        lower_thread_priority()

    try:
        yield limit
    finally:
        torch.set_num_threads(threads)


def _largest_face(plan: Plan) -> float:
    """The largest face that is restored: its side in input pixels; 0 without face restoration."""
    return 0.0 if plan.faces is None else plan.faces.options.largest


def _reader(plan: Plan) -> FrameReader:
    assert plan.source is not None, "planned for frames without a file"
    return open_reader(plan.source, plan.options.input, torch.device(plan.device), plan.info)


def initial_report(plan: Plan) -> RunReport:
    """The report with what is known before the run."""
    return RunReport(
        input=plan.info.path, output=str(plan.target), model=plan.model, model_sha256=plan.engine.sha256,
        device=plan.device, precision=plan.precision, decoder=plan.decoder,
        input_size=(plan.info.width, plan.info.height),
        output_size=plan.expected.size, interp=plan.expected.interp, stretch=plan.expected.stretch,
        chosen_for=None if plan.choice is None else plan.choice.levels,
        face_model=plan.face_model, clean_model=plan.clean_model,
        clean_model_sha256=None if plan.cleaner is None else plan.cleaner.sha256, warnings=list(plan.warnings),
        notes=[*([] if plan.info.color.guess is None else [plan.info.color.guess]),
               *([NOT_CHECKED] if isinstance(plan.output, PipeOutputPlan) else [])],
    )  # fmt: skip


def refuse_damage(plan: Plan, report: RunReport) -> None:
    """Raises CheckError under --strict if the report has damage."""
    if plan.options.strict and report.damages:
        first = report.damages[0]
        raise CheckError(
            f"{plan.info.path} is damaged in {len(report.damages)} places, first {first.place} ({first.reason}), "
            "and nothing was written: leave out --strict to accept the loss"
        )


def _finish(report: RunReport, plan: Plan, parts: Parts, warnings: Sequence[str]) -> None:
    """Adds what is known only after the run."""
    report.warnings += warnings
    if parts.faces is not None:
        report.faces = parts.faces.reports
        report.warnings += [*parts.faces.warnings, *parts.faces.unserved]
    if parts.duplicates is not None:
        report.duplicates_replaced = parts.duplicates.replaced
    if parts.dust is not None:
        report.defects = parts.dust.report
        report.warnings += parts.dust.warnings
    report.tile = parts.chosen.engine.tile
    report.warnings += [str(step) for step in report.memory_steps]
    report.peak_memory_bytes = peak_memory_bytes(plan.device)


class InputCount(FrameStage):
    """The stage that counts input frames and scenes for the report, and notes what is seen in them."""

    name = "count_in"

    def __init__(self, report: RunReport, seen: Sightings, largest_face: float = 0.0) -> None:
        self._report, self._seen, self._largest = report, seen, largest_face

    def process(self, frame: Frame) -> Frame:
        """Counts a frame and returns it."""
        self._seen.see(self._report.frames_in, frame, self._largest)
        self._report.frames_in += 1
        self._report.scenes += frame.starts_scene
        return frame

    def save(self, state: None) -> tuple[int, int, Sightings]:  # noqa: ARG002 - the signature of a stage
        """The counts so far, and what was seen."""
        return self._report.frames_in, self._report.scenes, self._seen

    def restore(self, saved: tuple[int, int, Sightings]) -> None:
        """Sets the counts, and what was seen."""
        self._report.frames_in, self._report.scenes, seen = saved
        self._seen.take(seen)


@dataclass(slots=True)
class OutputCountState:
    """Time of the first frame, start of the current scene in the output, and the levels of the last frame."""

    first: Fraction | None = None
    scene: float | None = None
    levels: Tensor | None = None


class OutputCount:
    """The stage that counts output frames and sets the report's duration and rate, and the degradation of scenes."""

    name = "count_out"

    def __init__(self, report: RunReport) -> None:
        self._report = report

    def start(self) -> OutputCountState:
        """The state before the first frame."""
        return OutputCountState()

    def step(self, frame: Frame, state: OutputCountState) -> tuple[list[Frame], OutputCountState]:
        """Counts a frame and returns it."""
        report, moment = self._report, frame.pts * frame.time_base
        first = moment if state.first is None else state.first
        if moment > first:
            report.rate = float(report.frames_out / (moment - first))
        report.duration_seconds = float(moment + frame.duration * frame.time_base - first)
        report.frames_out += 1
        scene = state.scene
        if frame.starts_scene or scene is None:
            _note_degradation(report, scene, state.levels)
            scene = float(moment - first)
        return [frame], OutputCountState(first, scene, frame.levels)

    def flush(self, state: OutputCountState) -> list[Frame]:
        """Notes the degradation of the last scene; no frame is ever pending."""
        _note_degradation(self._report, state.scene, state.levels)
        return []

    def save(self, state: OutputCountState) -> tuple[OutputCountState, list[Any]]:
        """The state and the figures so far."""
        report = self._report
        return state, [report.frames_out, report.rate, report.duration_seconds, report.degradation]

    def restore(self, saved: tuple[OutputCountState, list[Any]]) -> OutputCountState:
        """The state; also sets the figures."""
        state, figures = saved
        report = self._report
        report.frames_out, report.rate, report.duration_seconds, report.degradation = figures
        return state


def _note_degradation(report: RunReport, start: float | None, levels: Tensor | None) -> None:
    """Adds a scene that ended with these levels: means over its frames, so the last frame's are those of the scene."""
    if start is not None and levels is not None:
        report.degradation.append(SceneDegradation(start, DegradationLevels.of(levels.tolist())))
