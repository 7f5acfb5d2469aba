"""Runs `upscale` and `slowmo` over a video or a folder: batches, dry runs, reports and messages."""

from __future__ import annotations

import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from vidsr.cli.terminal import print_path
from vidsr.config import UpscaleConfig
from vidsr.errors import OutputError, UsageError, VidsrError

if TYPE_CHECKING:
    from vidsr.cli.console import Screen
    from vidsr.config import RunConfig
    from vidsr.pipeline.plan import Plan
    from vidsr.pipeline.run import Estimate
    from vidsr.types import RunReport


@dataclass(frozen=True, slots=True)
class Videos:
    """Input and output paths and the batch options of one command."""

    source: Path
    target: Path
    recursive: bool
    suffix: str
    skip_existing: bool
    dry_run: bool
    report: Path | None


def run_videos(screen: Screen, videos: Videos, config: RunConfig) -> None:
    """Processes every video.

    Raises UsageError, the error of a single video, or for a folder typer.Exit with the exit code of the first failure.
    """
    from vidsr.files import check_target, stale_warnings
    from vidsr.models.cards import model_files
    from vidsr.pipeline.batch import Failure, find_jobs, run_jobs
    from vidsr.pipeline.report import write_reports

    jobs = find_jobs(videos.source, videos.target, videos.recursive, videos.suffix)
    if videos.report is not None:
        detector = config.faces.detector if isinstance(config, UpscaleConfig) else None
        reads = [*(video for video, _ in jobs.pairs), *model_files(config.compute.model, detector)]
        check_target(videos.report, videos.source, config.output.overwrite, reads)
        if videos.report.resolve() in {path.resolve() for pair in jobs.pairs for path in pair}:
            raise UsageError(f"--report {videos.report} names an input or output video: choose another file")
    from vidsr.pipeline.run import Estimate, estimate  # imports torch, which the checks above do not need

    def work(video: Path, result: Path) -> RunReport | Estimate:
        return estimate(video, result, config) if videos.dry_run else _run(screen, video, result, config)

    reports: list[RunReport] = []
    failures: list[Failure] = []
    unprinted: Exception | None = None
    for outcome in run_jobs(jobs, work, skip_existing=videos.skip_existing):
        if outcome.error is not None:
            failures.append(Failure(str(outcome.source), outcome.error))
            screen.fail(str(failures[-1]))
            if screen.is_verbose and not isinstance(outcome.error, VidsrError):
                screen.details("".join(traceback.format_exception(outcome.error)))
        elif outcome.result is None:
            screen.say(f"skipped {outcome.source}: {outcome.target} already exists")
        elif isinstance(outcome.result, Estimate):
            _show_plan(screen, outcome.source, outcome.result)
        else:
            reports.append(outcome.result)
            _show_report(screen, outcome.source, outcome.target, outcome.result)
            try:
                print_path(outcome.target)
            except (OutputError, BrokenPipeError) as error:
                unprinted = error
                break  # after the report has been written
    if videos.report is not None and not videos.dry_run:
        for warning in stale_warnings(videos.report.absolute().parent):
            screen.warn(warning)
        listed = [(failure.input, str(failure)) for failure in failures]
        write_reports(videos.report, reports, listed, config.output.overwrite)
    if unprinted is not None:
        raise unprinted
    if failures:
        names = ", ".join(failure.input for failure in failures)
        screen.fail(f"{len(failures)} of {len(jobs.pairs)} failed: {names}")
        raise typer.Exit(failures[0].exit_code)


def _show_plan(screen: Screen, video: Path, estimated: Estimate) -> None:
    plan = estimated.plan
    _say_times(screen, plan)
    (width, height), frames, output = plan.expected.size, plan.expected.frames, plan.written
    screen.say(
        f"{video}: {plan.info.width}x{plan.info.height} to {width}x{height}, {plan.model} on {plan.device} "
        f"({plan.precision}), {output.encoding.codec} {output.encoding.pixel_format}, tile {plan.tile or 'off'}, "
        f"faces {f'restored by {plan.face_model}' if plan.face_model else 'not restored'}"
    )
    if estimated.levels is not None:
        screen.say(f"degradation of the first frames: {estimated.levels}")
    per_frame = f"{estimated.seconds_per_frame:.3f} s per frame, measured on the first frames without encoding"
    if frames is None:
        screen.say(f"the number of frames is unknown; {per_frame}")
    else:
        screen.say(
            f"{frames} frames according to the header, about {frames * estimated.seconds_per_frame:.0f} s; {per_frame}"
        )
    for warning in estimated.warnings:
        screen.warn(warning)


def _run(screen: Screen, video: Path, result: Path, config: RunConfig) -> RunReport:
    from vidsr.pipeline.plan import plan
    from vidsr.pipeline.run import run
    from vidsr.runtime.memory import peak_memory_bytes

    started = time.monotonic()
    planned = plan(video, result, config)
    with screen.progress(video.name, planned.device, lambda: peak_memory_bytes(planned.device)) as on_progress:
        report = run(planned, on_progress, lambda started_plan: _say_times(screen, started_plan))
    report.wall_seconds = time.monotonic() - started  # includes planning
    return report


def _show_report(screen: Screen, video: Path, result: Path, report: RunReport) -> None:
    for warning in report.warnings:
        screen.warn(warning)
    for damage in report.damages:
        screen.warn(f"{video} is damaged {damage.place}: {damage.reason}")
    (width, height), rate = report.output_size, report.frames_out / max(report.wall_seconds, 1e-9)
    screen.say(
        f"done: {result}, {width}x{height}, {report.frames_out} frames, {report.model} on {report.device} "
        f"({report.precision}), {rate:.1f} frames/s"
    )
    if report.face_model is not None:
        _say_faces(screen, report)
    if report.degradation:
        screen.say(_degradation(report))
    if screen.is_verbose:
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.stage_seconds.items())
        memory = report.peak_memory_bytes >> 20
        screen.say(f"scenes {report.scenes}, tile {report.tile or 'off'}, memory {memory} MiB; {stages}")


def _degradation(report: RunReport) -> str:
    """The degradation levels of the only scene, or the first one and where the others are."""
    first = report.degradation[0]
    if len(report.degradation) == 1:
        return f"degradation: {first.levels}"
    return f"degradation of the first of {len(report.degradation)} scenes: {first.levels} (all: --report)"


def _say_faces(screen: Screen, report: RunReport) -> None:
    """Prints how many faces were restored, and why the others were not."""
    restored = sum(track.restored > 0 for track in report.faces)
    text = f"faces: {restored} of {len(report.faces)} restored by {report.face_model}"
    left: dict[str, int] = {}
    for track in report.faces:
        if track.restored == 0:
            reason = max(track.skipped, key=lambda name: track.skipped[name])
            left[reason] = left.get(reason, 0) + 1
    if left:
        text += "; not restored: " + ", ".join(f"{count} {reason}" for reason, count in sorted(left.items()))
    screen.say(text)


def _say_times(screen: Screen, plan: Plan) -> None:
    """Prints what slow motion or a higher frame rate does to duration, frame rate and audio."""
    expected = plan.expected
    if expected.interp == 1:
        return
    before, after = expected.input_seconds, expected.seconds
    rate_before, rate = ("?" if r is None else f"{float(r):.4g}" for r in (expected.input_rate, expected.rate))
    unknown = "duration unknown"
    if expected.stretch > 1:
        length = f"{unknown}," if before is None else f"{before:.1f} s become {after:.1f} s"
        what = f"slow motion x{expected.stretch}: {length} at {rate} frames/s"
    else:
        length = unknown if before is None else f"{before:.1f} s unchanged"
        what = f"{rate} instead of {rate_before} frames/s, {length}"
    if not any(stream.kind == "audio" for stream in plan.info.streams):
        audio = "no audio"
    elif plan.options.output.audio == "none":
        audio = "audio dropped"
    else:
        audio = "audio stretched" if expected.stretch > 1 else "audio copied"
    screen.say(f"{plan.info.path}: {what}, {audio}")
