"""One film from input to output: opens, composes, counts, commits, returns a report. No options are parsed here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vidsr.config import RestoreConfig, RunConfig, SlowmoConfig, UpscaleConfig
from vidsr.engines.select import DEFAULT_MODELS, ChosenEngine, build_engine, select, select_card
from vidsr.errors import CheckError
from vidsr.files import check_target
from vidsr.models.registry import Task
from vidsr.nets.layers.resize import resize
from vidsr.pipeline.plan import Forecast, forecast
from vidsr.runtime.device import choose_device
from vidsr.runtime.memory import keep_freed_memory, peak_memory_bytes
from vidsr.runtime.priority import yield_the_cores
from vidsr.runtime.profiling import StageClock
from vidsr.runtime.queues import background, prefetch
from vidsr.stages.duplicates import Duplicates
from vidsr.stages.interpolated import finish_new_frames
from vidsr.stages.scenes import mark_scenes
from vidsr.types import Frame, RunReport, VideoInfo
from vidsr.video.reader import Reader
from vidsr.video.writer import Writer

if TYPE_CHECKING:
    from vidsr.faces.pipeline import Restoration


# Frames in the queue before the network; behind it there may be twice as many in slow motion, where they come in
# bursts. They wait at full size, so more would cost memory and gain nothing.
QUEUE_DEPTH = 3
ESTIMATE_FRAMES = 6


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `frames_expected` comes from the header and may be wrong or unknown."""

    frames_done: int
    frames_expected: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do; `seconds_per_frame` of the result is measured on the first frames, without encoding."""

    info: VideoInfo
    forecast: Forecast
    model: str
    device: str
    precision: str
    tile: int | None
    codec: str
    pixel_format: str
    face_model: str | None
    seconds_per_frame: float
    warnings: tuple[str, ...]


def enhance(
    source: Path,
    target: Path,
    config: RunConfig,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_start: Callable[[VideoInfo, Forecast], None] = lambda _info, _forecast: None,
) -> RunReport:
    """Makes `target` from `source`. The result has its name only if it is complete and checked.

    `on_start` is called when everything that can be refused beforehand has been. Raises the errors of vidsr.errors;
    then nothing is left behind and an existing target is untouched.
    """
    started = time.monotonic()
    keep_freed_memory()
    with open_film(source, target, config) as film, film.writer as writer:
        reader, chosen, expected = film.reader, film.chosen, film.forecast
        selection = chosen.selection
        report = RunReport(
            input=str(source), output=str(target), model=selection.model, model_sha256=selection.sha256,
            device=selection.device, precision=selection.precision,
            input_size=(reader.info.width, reader.info.height), output_size=expected.size, interp=expected.interp,
            stretch=expected.stretch, face_model=film.faces.model if film.faces else None,
        )  # fmt: skip
        clock = StageClock(report.stage_seconds)
        duplicates = _look_for_duplicates(config, chosen, report)
        on_start(reader.info, expected)
        # What the threads do is timed inside them; what the main thread does is the network and waiting.
        with (
            sparing_threads() as spare,
            prefetch(clock.timed("decode", film.given(config)), QUEUE_DEPTH, spare) as frames,
            background(clock.timing("encode", writer.write), QUEUE_DEPTH * min(expected.interp, 2), spare) as put,
        ):
            given = _count_in(frames, report)
            if duplicates is not None:
                given = duplicates.fill(given)
            for frame in _count_out(clock.timed("network", film.enhanced(given)), report):
                put(frame)
                on_progress(Progress(report.frames_out, expected.frames, time.monotonic() - started))
        report.damages = list(reader.damages)
        if config.strict and report.damages:
            first = report.damages[0]
            raise CheckError(
                f"{source} is damaged in {len(report.damages)} places, first {first.place} ({first.reason}), "
                "and --strict allows no loss: nothing was written"
            )
        commit_started = time.monotonic()
        writer.commit(config.strict)
        report.stage_seconds["commit"] = time.monotonic() - commit_started
        report.warnings += [*reader.warnings, *writer.warnings]
        if film.faces is not None:
            report.faces = film.faces.reports
            report.warnings += film.faces.warnings
    if duplicates is not None:
        report.duplicates_replaced = duplicates.replaced
    report.tile = chosen.engine.tile
    if shrinks := chosen.engine.shrinks:
        report.warnings.append(f"memory ran out: the tile was made smaller {shrinks} times")
    report.wall_seconds = time.monotonic() - started
    report.peak_memory_bytes = peak_memory_bytes(torch.device(selection.device))
    return report


def estimate(source: Path, target: Path, config: RunConfig) -> Plan:
    """What `enhance` would do, with a short measurement on the first frames; writes nothing, raises what it would."""
    with open_film(source, target, config) as film:
        frames = list(islice(film.given(config), ESTIMATE_FRAMES))
        list(film.enhanced(frames[:1]))  # the first one takes longer than those that follow
        started = time.monotonic()
        count = sum(1 for _ in film.enhanced(frames))
        chosen = film.chosen
        return Plan(
            info=film.reader.info, forecast=film.forecast, model=chosen.selection.model,
            device=chosen.selection.device, precision=chosen.selection.precision, tile=chosen.engine.tile,
            codec=film.writer.codec_name, pixel_format=film.writer.pixel_format,
            face_model=film.faces.model if film.faces else None,
            seconds_per_frame=(time.monotonic() - started) / max(count, 1),
            warnings=(*film.reader.warnings, *film.writer.warnings, *(film.faces.warnings if film.faces else ())),
        )  # fmt: skip


@contextmanager
def sparing_threads() -> Iterator[Callable[[], None]]:
    """Gives what a thread beside the network calls at its start: it takes one core, and only if the network leaves one.

    Each thread has its own pool in OpenMP: with two more full ones the pools wait for each other.
    """
    threads = torch.get_num_threads()

    def spare() -> None:
        torch.set_num_threads(1)
        yield_the_cores()

    try:
        yield spare
    finally:
        torch.set_num_threads(threads)


def _look_for_duplicates(config: RunConfig, chosen: ChosenEngine, report: RunReport) -> Duplicates | None:
    """What gives repeated frames their own moment; None where nothing does, which is said if it was wished."""
    if not isinstance(config, SlowmoConfig) or config.duplicates == "off":
        return None
    if chosen.midpoint is None:
        model = chosen.selection.model
        report.warnings.append(
            f"repeated frames are left as they are: the model '{model}' makes no frames of the input's size"
        )
        return None
    return Duplicates(chosen.midpoint)


def _count_in(frames: Iterable[Frame], report: RunReport) -> Iterator[Frame]:
    for frame in frames:
        report.frames_in += 1
        report.scenes += frame.starts_scene
        yield frame


def _count_out(frames: Iterable[Frame], report: RunReport) -> Iterator[Frame]:
    """Counts frames, how long they last together, and how many come in a second."""
    first = None
    for frame in frames:
        moment = frame.pts * frame.time_base
        first = moment if first is None else first
        if moment > first:
            report.rate = float(report.frames_out / (moment - first))
        report.duration_seconds = float(moment + frame.duration * frame.time_base - first)
        report.frames_out += 1
        yield frame


@dataclass(frozen=True, slots=True)
class OpenFilm:
    """A film that can be read, a result that may be written, and the engine between them."""

    reader: Reader
    writer: Writer
    chosen: ChosenEngine
    forecast: Forecast
    faces: Restoration | None

    def given(self, config: RunConfig) -> Iterator[Frame]:
        """The frames of the film: with its cuts, and its faces if they are to be restored."""
        frames = mark_scenes(self.reader.frames(), config.scenes)
        return frames if self.faces is None else self.faces.find(frames)

    def enhanced(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames of the result: of its size, at its times, in 0..1."""
        results = self._results(frames if self.faces is None else self.faces.restore(frames))
        if self.faces is not None:
            results = self.faces.paste(results)
        if self.forecast.interp > 1:
            results = finish_new_frames(results, self.forecast.interp)
        return map(self._finished, results)

    def _results(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        engine, info = self.chosen.engine, self.reader.info
        state = engine.init_state(info.height, info.width)
        for frame in frames:
            ready, state = engine.step(frame, state)
            yield from ready
        yield from engine.flush(state)

    def _finished(self, frame: Frame) -> Frame:
        width, height = self.forecast.size
        image = frame.image
        if image.shape[-2:] != (height, width):
            image = resize(image, (height, width)).clamp(0, 1)
        return replace(frame, image=image, time_base=frame.time_base * self.forecast.stretch)


@contextmanager
def open_film(source: Path, target: Path, config: RunConfig) -> Iterator[OpenFilm]:
    """Opens the film and whatever else a run needs. What can be refused before any work is refused here."""
    check_target(target, source, config.output.overwrite)
    task: Task = "interpolate" if isinstance(config, SlowmoConfig) else "upscale"
    select_card(config.compute.model, task)
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    with Reader(source, config.input, choose_device(config.compute.device)) as reader:
        info = reader.info
        expected = forecast(info, config)
        writer = Writer(
            target, expected.describe(info), expected.size, config.output, config.input, stretch=expected.stretch
        )
        chosen = build_engine(
            select(
                config.compute, task, info.height, info.width, enlargement=expected.enlargement(info),
                interp=config.interp,
            )
        )  # fmt: skip
        yield OpenFilm(reader, writer, chosen, expected, _restoration(config, chosen, info))


def _restoration(config: RunConfig, chosen: ChosenEngine, info: VideoInfo) -> Restoration | None:
    """What restores faces in this run, if anything does."""
    if not isinstance(config, UpscaleConfig) or not _is_wanted(config.faces, chosen.selection.model):
        return None
    from vidsr.faces.pipeline import Restoration  # SciPy comes along, a third of the start of a run that needs it not

    return Restoration(config.faces, config.compute, info)


def _is_wanted(config: RestoreConfig, model: str) -> bool:
    """Whether faces are restored in a run with this model.

    If nothing was said, not with bicubic, which is to be itself, nor with the network for faces, which runs anyway.
    """
    wanted = model not in ("bicubic", DEFAULT_MODELS["restore_face"]) if config.use is None else config.use
    return wanted and config.strength > 0
