"""One film from input to output: opens, composes, counts, commits, returns a report. No options are parsed here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import torch

from vidsr.config import SizeConfig, UpscaleConfig
from vidsr.engines.choose import ChosenEngine, choose_card, choose_device, choose_engine
from vidsr.errors import CheckError, UsageError
from vidsr.memory import peak_memory_bytes
from vidsr.nets.resize import resize
from vidsr.stages.prefetch import background, prefetch
from vidsr.stages.scenes import mark_scenes
from vidsr.stopwatch import StageClock
from vidsr.types import Frame, RunReport, VideoInfo
from vidsr.video.priority import yield_the_cores
from vidsr.video.reader import Reader
from vidsr.video.target import check_target
from vidsr.video.writer import Writer

# Frames in each of the two queues. They wait at full size, so more would cost memory and gain nothing.
QUEUE_DEPTH = 3
LARGEST_SCALE = 8
ESTIMATE_FRAMES = 6


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is. `frames_expected` comes from the header and may be wrong or unknown."""

    frames_done: int
    frames_expected: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run would do; `seconds_per_frame` is measured on the first frames, without encoding."""

    info: VideoInfo
    output_size: tuple[int, int]
    model: str
    device: str
    precision: str
    tile: int | None
    codec: str
    pixel_format: str
    frames_expected: int | None
    seconds_per_frame: float
    warnings: tuple[str, ...]


def target_size(info: VideoInfo, config: SizeConfig) -> tuple[int, int]:
    """Width and height of the output as coded; `size` and `height` are meant as displayed, after rotation.

    Raises UsageError if more than one is given or the enlargement is not between 1 and 8.
    """
    if sum(value is not None for value in (config.scale, config.size, config.height)) > 1:
        raise UsageError("give only one of --scale, --size and --height")
    is_turned = info.rotation_degrees % 180 == 90
    shown_width, shown_height = (info.height, info.width) if is_turned else (info.width, info.height)
    if config.size is not None:
        width, height = config.size
    elif config.height is not None:
        width, height = 2 * max(1, round(shown_width * config.height / shown_height / 2)), config.height
    else:
        scale = 4.0 if config.scale is None else config.scale
        if not 1 <= scale <= LARGEST_SCALE:  # before the products below, because neither infinity nor NaN has any
            raise UsageError(f"--scale {scale:g} is not an enlargement by 1 to {LARGEST_SCALE}")
        width, height = round(shown_width * scale), round(shown_height * scale)
    for wanted, given in ((width, shown_width), (height, shown_height)):
        if not given <= wanted <= LARGEST_SCALE * given:
            raise UsageError(
                f"{shown_width}x{shown_height} to {width}x{height} is not an enlargement by 1 to {LARGEST_SCALE}"
            )
    return (height, width) if is_turned else (width, height)


def whole_enlargement(info: VideoInfo, size: tuple[int, int]) -> int:
    """The smallest whole factor that reaches `size` (width, height) on both sides."""
    return max(math.ceil(size[0] / info.width), math.ceil(size[1] / info.height))


def enhance(
    source: Path, target: Path, config: UpscaleConfig, on_progress: Callable[[Progress], None] = lambda _: None
) -> RunReport:
    """Makes `target` from `source`. The result has its name only if it is complete and checked.

    Raises the errors of vidsr.errors; then nothing is left behind and an existing target is untouched.
    """
    started = time.monotonic()
    check_target(target, source, config.output.overwrite)
    choose_card(config.compute.model)
    device = choose_device(config.compute.device)
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    with Reader(source, config.input, device) as reader:
        info = reader.info
        size = target_size(info, config.size)
        with Writer(target, info, size, config.output, config.input) as writer:
            chosen = choose_engine(config.compute, info.height, info.width, whole_enlargement(info, size))
            report = RunReport(
                input=str(source), output=str(target), model=chosen.model,
                model_sha256=chosen.card.sha256 if chosen.card else None, device=str(device),
                precision=chosen.precision, input_size=(info.width, info.height), output_size=size,
            )  # fmt: skip
            clock = StageClock(report.stage_seconds)
            expected = frames_expected(info, config)
            # What the threads do is timed inside them; what the main thread does is the network and waiting.
            with (
                sparing_threads() as spare,
                prefetch(
                    clock.timed("decode", mark_scenes(reader.frames(), config.scenes)), QUEUE_DEPTH, spare
                ) as frames,
                background(clock.timing("encode", writer.write), QUEUE_DEPTH, spare) as put,
            ):
                for frame in clock.timed("network", enlarge(_count_in(frames, report), chosen, info, size)):
                    put(frame)
                    report.frames_out += 1
                    on_progress(Progress(report.frames_out, expected, time.monotonic() - started))
            report.damages = list(reader.damages)
            if config.strict and report.damages:
                first = report.damages[0]
                place = (
                    "before the first frame" if first.after_seconds is None else f"after {first.after_seconds:.3f} s"
                )
                raise CheckError(
                    f"{source} is damaged in {len(report.damages)} places, first {place} ({first.reason}), "
                    "and --strict allows no loss: nothing was written"
                )
            commit_started = time.monotonic()
            writer.commit(config.strict)
            report.stage_seconds["commit"] = time.monotonic() - commit_started
            report.warnings = [*reader.warnings, *writer.warnings]
    report.tile = chosen.engine.tile
    if chosen.engine.shrinks:
        report.warnings.append(f"memory ran out: the tile was made smaller {chosen.engine.shrinks} times")
    report.wall_seconds = time.monotonic() - started
    report.peak_memory_bytes = peak_memory_bytes(device)
    return report


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


def enlarge(frames: Iterable[Frame], chosen: ChosenEngine, info: VideoInfo, size: tuple[int, int]) -> Iterator[Frame]:
    """Runs the engine over a film and brings each result to `size` (width, height), in 0..1."""
    engine = chosen.engine
    state = engine.init_state(info.height, info.width)
    for frame in frames:
        ready, state = engine.step(frame, state)
        yield from (_fit(result, size) for result in ready)
    yield from (_fit(result, size) for result in engine.flush(state))


def estimate(source: Path, target: Path, config: UpscaleConfig) -> Plan:
    """What `enhance` would do, with a short measurement on the first frames; writes nothing, raises what it would."""
    check_target(target, source, config.output.overwrite)
    device = choose_device(config.compute.device)
    with Reader(source, config.input, device) as reader:
        info = reader.info
        size = target_size(info, config.size)
        writer = Writer(target, info, size, config.output, config.input)
        chosen = choose_engine(config.compute, info.height, info.width, whole_enlargement(info, size))
        frames = list(islice(mark_scenes(reader.frames(), config.scenes), ESTIMATE_FRAMES))
        times = [time.monotonic()]
        for _ in enlarge(frames, chosen, info, size):
            times.append(time.monotonic())
        steps = sorted(b - a for a, b in pairwise(times))
        return Plan(
            info=info, output_size=size, model=chosen.model, device=str(device), precision=chosen.precision,
            tile=chosen.engine.tile, codec=writer.codec_name, pixel_format=writer.pixel_format,
            frames_expected=frames_expected(info, config), seconds_per_frame=steps[len(steps) // 2] if steps else 0.0,
            warnings=(*reader.warnings, *writer.warnings),
        )  # fmt: skip


def frames_expected(info: VideoInfo, config: UpscaleConfig) -> int | None:
    """How many frames the header promises within the window; None if it promises nothing."""
    count, rate = info.header_frame_count, info.header_rate
    if count is None and rate and info.header_duration_seconds:
        count = round(rate * info.header_duration_seconds)
    window = config.input
    if count is None or (window.start is None and window.end is None) or not rate:
        return count
    first = min(count, round((window.start or 0) * rate))
    last = count if window.end is None else min(count, round(window.end * rate))
    return max(0, last - first)


def _count_in(frames: Iterable[Frame], report: RunReport) -> Iterator[Frame]:
    for frame in frames:
        report.frames_in += 1
        report.scenes += frame.starts_scene
        yield frame


def _fit(frame: Frame, size: tuple[int, int]) -> Frame:
    width, height = size
    if frame.image.shape[-2:] == (height, width):
        return frame
    return frame.with_image(resize(frame.image, (height, width)).clamp(0, 1))
