"""Runs `upscale` and `slowmo` over a video, a folder or a list: batches, dry runs, reports and messages."""

from __future__ import annotations

import traceback
from collections.abc import Generator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from vidsr.cli.progress_text import counted
from vidsr.cli.terminal import print_path
from vidsr.config import SOFTWARE
from vidsr.errors import OutputError, UsageError, VidsrError
from vidsr.pipeline.batch import (
    Failure,
    Jobs,
    Outcome,
    Shard,
    SkipRule,
    default_suffix,
    find_jobs,
    read_list,
    run_jobs,
)
from vidsr.pipeline.options import SEVERAL_VIDEOS, refuse_track_numbers
from vidsr.runtime.heap import uncollected_imports
from vidsr.video.pipes import is_pipe_output

if TYPE_CHECKING:
    from vidsr.cli.console import Board, Running, Screen
    from vidsr.config import RunConfig
    from vidsr.pipeline.batch_progress import BatchProgress
    from vidsr.pipeline.divided import Devices
    from vidsr.pipeline.plan import Plan
    from vidsr.pipeline.ray_cluster import Cluster
    from vidsr.pipeline.run import Estimate, Progress
    from vidsr.types import DefectReport, RunReport


@dataclass(frozen=True, slots=True)
class Videos:
    """Input and output paths and the batch options of one command.

    `paths` are the inputs and, unless it is left out, the output behind them.
    """

    paths: Sequence[Path]
    list_file: Path | None
    recursive: bool
    suffix: str
    skip_existing: bool
    shard: str | None
    jobs: int
    dry_run: bool
    report: Path | None
    devices: str | None = None
    cluster: str | None = None

    def find(self, config: RunConfig) -> Jobs:
        """The inputs and their outputs. Raises UsageError, InputError or OutputError."""
        source, target, base = self._split()
        shard = None if self.shard is None else Shard.parse(self.shard)
        return find_jobs(
            source, target, self.recursive, self.suffix, beside=default_suffix(config), base=base, shard=shard,
            rate=config.input.rate,
        )  # fmt: skip

    def _split(self) -> tuple[Path | list[Path], Path | None, Path | None]:
        """The input or inputs, the output, and the folder whose inner folders the output folder repeats."""
        if self.list_file is not None:
            if len(self.paths) > 1:
                raise UsageError("with --list, give the output folder only: the inputs are those of the list")
            inputs, base = read_list(self.list_file)
            return inputs, self.paths[0] if self.paths else None, base
        if not self.paths:
            raise UsageError("there is no input: give a video, a folder or --list FILE")
        if len(self.paths) == 1:
            return self.paths[0], None, None
        *inputs, target = self.paths
        if len(inputs) > 1 and target.is_file():
            raise OutputError(
                f"{target} is a file, but with several inputs the last name is the output folder: add one, or give the "
                "videos by --list to have the results beside them"
            )
        return (inputs[0] if len(inputs) == 1 else inputs), target, None


def run_videos(screen: Screen, videos: Videos, config: RunConfig) -> None:
    """Processes every video.

    Raises UsageError, the error of a single video, or for a batch typer.Exit with the exit code of the first failure.
    """
    jobs = videos.find(config)
    _check(screen, videos, jobs, config)
    if jobs.left_out:
        screen.say(f"left out {counted(len(jobs.left_out), 'file')} that vidsr made, such as {jobs.left_out[0]}")
    if not jobs.pairs:
        screen.say("nothing to do: there are fewer videos than shards")
    if videos.dry_run:
        _estimate_all(screen, jobs, config, _skip_rule(videos, config))
        return
    place = place_of(videos, config, screen)
    with nullcontext() if place is None else place:
        _Batch(screen, jobs, config, videos.jobs if place is None else place.count, place).run(
            _skip_rule(videos, config), videos.report
        )


def _check(screen: Screen, videos: Videos, jobs: Jobs, config: RunConfig) -> None:
    """Raises OutputError or UsageError if the report cannot be written or names a video, or --jobs makes no sense."""
    from vidsr.pipeline.workers import check_processes

    check_processes(videos.jobs)
    place_of(videos, config, screen)
    if jobs.is_batch:
        refuse_track_numbers(config, SEVERAL_VIDEOS)
    if videos.report is None:
        return
    from vidsr.files import check_target
    from vidsr.pipeline.options import files_read

    lists = [] if videos.list_file is None else [videos.list_file]
    reads = [*(video for video, _ in jobs.pairs), *lists, *files_read(config)]
    check_target(videos.report, None, config.output.overwrite, reads)
    if videos.report.resolve() in {path.resolve() for pair in jobs.pairs for path in pair}:
        raise UsageError(f"--report {videos.report} names an input or output video: choose another file")


def place_of(videos: Videos, config: RunConfig, screen: Screen) -> Devices | Cluster | None:
    """Where the work is done; None for this process, or for `--jobs` of them. Raises UsageError."""
    given = [
        name
        for name, is_given in (
            ("--devices", videos.devices is not None),
            ("--cluster", videos.cluster is not None),
            ("--jobs", videos.jobs > 1),
        )
        if is_given
    ]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other: give only one of them")
    device, threads = config.compute.device, config.compute.threads
    if videos.cluster is not None:
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"--cluster takes --device auto, cpu or cuda, not {device}: Ray chooses the card")
        from vidsr.pipeline.ray_cluster import Cluster

        return Cluster(videos.cluster, threads, device, say=screen.say)
    if videos.devices is None:
        return None
    from vidsr.pipeline.workers import parse_devices

    names = parse_devices(videos.devices)
    if device != "auto":
        raise UsageError("--devices and --device exclude each other: give only one of them")
    from vidsr.pipeline.divided import Devices

    return Devices(names, threads)


def _skip_rule(videos: Videos, config: RunConfig) -> SkipRule | None:
    if not videos.skip_existing:
        return None
    from vidsr.pipeline.signature import reason_to_skip  # imports torch, which the checks before do not need

    return lambda source, target: reason_to_skip(source, target, config)


def _estimate_all(screen: Screen, jobs: Jobs, config: RunConfig, skip: SkipRule | None) -> None:
    from vidsr.pipeline.run import estimate

    failures = []
    for outcome in run_jobs(jobs, lambda source, target: estimate(source, target, config), skip=skip):
        if outcome.result is not None:
            _show_plan(screen, outcome.source, outcome.result)
        elif outcome.error is not None:
            failures.append(_show_failure(screen, outcome))
        else:
            screen.say(f"skipped {outcome.source}: {outcome.skipped}")
    _show_end(screen, failures, len(jobs.pairs))


@dataclass(slots=True)
class _Batch:
    """The videos of one command while they run, one after the other or several at once."""

    screen: Screen
    jobs: Jobs
    config: RunConfig
    processes: int
    place: Devices | Cluster | None = None
    reports: list[RunReport] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    running: dict[Path, Running] = field(default_factory=dict)
    steps: dict[Path, int] = field(default_factory=dict)
    followed: BatchProgress | None = None
    board: Board | None = None

    def run(self, skip: SkipRule | None, report: Path | None) -> None:
        """Runs all videos, writes the report, and lists the failures."""
        with uncollected_imports():
            from vidsr.pipeline import run  # noqa: F401 - what each video needs
            from vidsr.pipeline.batch_progress import BatchProgress

        if self.jobs.is_batch and self.jobs.pairs:
            self.followed = BatchProgress(self.jobs.pairs, self.config)
            self._say_queue()
        unprinted: Exception | None = None
        try:
            with (
                self.screen.board(lambda: self.followed.totals if self.followed else None) as self.board,
                closing(self._outcomes(skip)) as outcomes,
            ):
                for outcome in outcomes:
                    unprinted = self._take(outcome)
                    if unprinted is not None:
                        break  # after the report has been written
        except KeyboardInterrupt:
            if self.jobs.is_batch:
                self.screen.say(
                    f"{len(self.reports)} of {len(self.jobs.pairs)} videos were done before the interruption"
                )
            raise
        self._write_report(report)
        if unprinted is not None:
            raise unprinted
        _show_end(self.screen, self.failures, len(self.jobs.pairs), self)

    def _outcomes(self, skip: SkipRule | None) -> Generator[Outcome[RunReport], None, None]:
        if self._at_once > 1:
            from vidsr.pipeline.workers import run_parallel

            crew = None if self.place is None else self.place.crew(self.jobs, self.config)
            yield from run_parallel(self.jobs, self.config, self.processes, self, skip, crew)
        else:
            yield from run_jobs(self.jobs, self._run_one, skip=skip)

    @property
    def _at_once(self) -> int:
        """How many videos are made at once. Several devices make one video together if there are fewer videos."""
        count = len(self.jobs.pairs)
        return 1 if self.place is not None and count < self.place.count else min(self.processes, count)

    def _run_one(self, source: Path, target: Path) -> RunReport:
        from vidsr.pipeline.run import enhance
        from vidsr.runtime.memory import peak_memory_bytes

        def show(progress: Progress) -> None:
            self.progressed(source, progress, peak_memory_bytes(self.running[source].device))

        def start(plan: Plan) -> None:
            self.started(source, plan)

        if self.place is None:
            return enhance(source, target, self.config, show, start)
        return self.place.make(self.place.plan(source, target, self.config), show, start)

    def started(self, source: Path, plan: Plan) -> None:
        """A video is about to be processed."""
        assert self.board is not None, "the display is open while videos run"
        _say_times(self.screen, plan)
        _say_decoder(self.screen, plan)
        _say_choice(self.screen, plan)
        _say_references(self.screen, plan)
        _say_job(self.screen, plan)
        self.running[source] = self.board.start(str(source), plan.device)

    def progressed(self, source: Path, progress: Progress, memory_bytes: int) -> None:
        """Frames of a video are done."""
        assert self.board is not None, "the display is open while videos run"
        if self.followed is not None:
            self.followed.progressed(source, progress)
        for step in progress.memory_steps[self.steps.get(source, 0) :]:
            self.screen.say(f"{source}: {step}")
        self.steps[source] = len(progress.memory_steps)
        self.board.update(self.running[source], progress, memory_bytes)

    def _take(self, outcome: Outcome[RunReport]) -> Exception | None:
        """Shows an outcome; returns the error if stdout cannot be written."""
        if self.board is not None and (running := self.running.pop(outcome.source, None)):
            self.board.finish(running)
        if self.followed is not None:
            self.followed.ended(outcome)
        self.screen.event("file", _event(outcome))
        if outcome.error is not None:
            self.failures.append(_show_failure(self.screen, outcome))
        elif outcome.result is None:
            self.skipped.append((str(outcome.source), str(outcome.skipped)))
            self.screen.say(f"skipped {outcome.source}: {outcome.skipped}")
        else:
            self.reports.append(outcome.result)
            _show_report(self.screen, outcome.source, outcome.target, outcome.result)
            if is_pipe_output(outcome.target):
                return None  # stdout is the video
            try:
                with nullcontext() if self.board is None else self.board.hidden():
                    print_path(outcome.target)
            except (OutputError, BrokenPipeError) as error:
                return error
        return None

    def _say_queue(self) -> None:
        from vidsr.pipeline.workers import divide_threads
        from vidsr.runtime.memory import free_memory_text

        assert self.followed is not None, "for batches"
        totals, at_once = self.followed.totals, self._at_once
        expected, headers = totals.frames_expected, "its header" if totals.files == 1 else "their headers"
        frames = "an unknown number of frames" if expected is None else counted(expected, "frame")
        text = f"{counted(totals.files, 'video')}, {frames} according to {headers}"
        if at_once > 1:
            threads = divide_threads(self.config.compute.threads, at_once)
            each = f"{threads} thread{'s' * (threads > 1)} and {free_memory_text(at_once)} of free memory"
            text += f"; {at_once} at once, each with {each}"
        self.screen.say(text)

    def _write_report(self, path: Path | None) -> None:
        if path is None:
            return
        from vidsr.files import stale_warnings
        from vidsr.pipeline.report import write_reports

        for warning in stale_warnings(path.absolute().parent):
            self.screen.warn(warning)
        failed = [(failure.input, str(failure)) for failure in self.failures]
        write_reports(path, self.reports, failed, self.skipped, self.config.output.overwrite)


def _event(outcome: Outcome[RunReport]) -> dict[str, Any]:
    """The values of the JSON line of a file."""
    values: dict[str, Any] = {"input": str(outcome.source), "output": str(outcome.target)}
    if outcome.error is not None:
        failure = Failure(str(outcome.source), outcome.error)
        return values | {"status": "failed", "exit_code": failure.exit_code, "reason": str(failure)}
    if outcome.result is None:
        return values | {"status": "skipped", "exit_code": 0, "reason": outcome.skipped}
    report = outcome.result
    return values | {
        "status": "done",
        "exit_code": 0,
        "frames": report.frames_out,
        "seconds": round(report.wall_seconds, 3),
        "memory_bytes": report.peak_memory_bytes,
        "warnings": len(report.warnings),
    }


def _show_failure(screen: Screen, outcome: Outcome[Any]) -> Failure:
    assert outcome.error is not None, "for failures"
    failure = Failure(str(outcome.source), outcome.error)
    screen.fail(str(failure))
    if screen.is_verbose and not isinstance(outcome.error, VidsrError):
        screen.details("".join(traceback.format_exception(outcome.error)))
    return failure


def _show_end(screen: Screen, failures: Sequence[Failure], count: int, batch: _Batch | None = None) -> None:
    """Lists the failures. Raises typer.Exit with the code of the first one."""
    code = failures[0].exit_code if failures else 0
    if batch is not None and batch.jobs.is_batch:
        done, skipped = len(batch.reports), len(batch.skipped)
        screen.event(
            "end",
            {
                "files": count,
                "files_done": done,
                "files_failed": len(failures),
                "files_skipped": skipped,
                "exit_code": code,
            },
        )
        if not failures and count > 1:
            screen.say(f"all done: {done} of {count} videos made, {skipped} skipped")
    if failures:
        for failure in failures if count > 1 else ():
            screen.say(f"failed: {failure.input} (exit code {failure.exit_code})")
        names = ", ".join(failure.input for failure in failures)
        screen.fail(f"{len(failures)} of {count} failed: {names}")
        raise typer.Exit(code)


def _show_plan(screen: Screen, video: Path, estimated: Estimate) -> None:
    plan = estimated.plan
    _say_times(screen, plan)
    _say_decoder(screen, plan)
    _say_choice(screen, plan)
    (width, height), frames, output = plan.expected.size, plan.expected.frames, plan.written
    screen.say(
        f"{video}: {plan.info.width}x{plan.info.height} to {width}x{height}, {_models(plan)} on {plan.device} "
        f"({plan.precision}), {output.description}, tile {plan.tile or 'off'}, "
        f"faces {f'restored by {plan.face_model}' if plan.face_model else 'not restored'}"
    )
    _say_references(screen, plan)
    if estimated.levels is not None:
        screen.say(f"degradation of the first frames: {estimated.levels}")
    where = "" if estimated.part is None else f"{estimated.part[0]}x{estimated.part[1]} pixels of "
    per_frame = f"{estimated.seconds_per_frame:.3f} s per frame, measured on {where}the first frames without encoding"
    if frames is None:
        screen.say(f"the number of frames is unknown; {per_frame}")
    else:
        screen.say(
            f"{_frames(frames)} according to the header, about "
            f"{frames * estimated.seconds_per_frame:.0f} s; {per_frame}"
        )
    for warning in estimated.warnings:
        screen.warn(warning)


def _say_decoder(screen: Screen, plan: Plan) -> None:
    """Prints what decodes the input, unless that is the usual."""
    if plan.options.input.decoder != SOFTWARE:
        screen.say(f"{plan.info.path}: decoded by {plan.decoder}")


def _say_choice(screen: Screen, plan: Plan) -> None:
    """Prints which model was chosen, and why, if the input made the choice."""
    if plan.choice is not None:
        screen.say(f"{plan.info.path}: {plan.choice}")


def _models(run: Plan | RunReport) -> str:
    """The model of a run, and the one before it that cleans frames."""
    return run.model if run.clean_model is None else f"{run.model} after {run.clean_model}"


def _say_references(screen: Screen, plan: Plan) -> None:
    """Prints which photographs serve which tracks."""
    if plan.faces is None or not plan.faces.references:
        return
    if plan.faces.embedding is None:
        from vidsr.pipeline.references import HOW_TO_TELL

        screen.say(f"references go by track number, because nothing tells people apart ({HOW_TO_TELL})")
    for each in plan.faces.references:
        if each.tracks:
            screen.say(f"{_named_photograph(each.name, str(each.photograph.path))}: {_listed(each.tracks)}")


def _named_photograph(name: str, file: str) -> str:
    return f"reference {name} ({file})"


def _listed(tracks: Sequence[int]) -> str:
    return f"track{'s' * (len(tracks) != 1)} {', '.join(map(str, tracks))}"


def _say_job(screen: Screen, plan: Plan) -> None:
    """Prints that the work of a run is kept, and where an interrupted one goes on."""
    if plan.job is None:
        return
    if plan.frames_done:
        of = "" if plan.expected.frames is None else f" of {plan.expected.frames}"
        screen.say(f"{plan.info.path}: goes on after {plan.frames_done}{of} frames, which are kept in {plan.job}")
    else:
        screen.say(f"{plan.info.path}: finished work is kept in {plan.job} until the output is complete")


def _show_report(screen: Screen, video: Path, result: Path, report: RunReport) -> None:
    for warning in report.warnings:
        screen.warn(warning)
    for damage in report.damages:
        screen.warn(f"{video} is damaged {damage.place}: {damage.reason}")
    (width, height), rate = (
        report.output_size,
        (report.frames_out - report.resumed_frames) / max(report.wall_seconds, 1e-9),
    )
    screen.say(
        f"done: {result}, {width}x{height}, {_frames(report.frames_out)}, {_models(report)} on {report.device} "
        f"({report.precision})" + (f", {rate:.1f} frames/s" if report.frames_out > 1 else "")
    )
    for line in _before_and_after(video, result, report):
        screen.say(line)
    if report.face_model is not None:
        _say_faces(screen, report)
    if report.degradation:
        screen.say(_degradation(report))
    if report.defects is not None:
        screen.say(defects_found(report.defects))
    if screen.is_verbose:
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.stage_seconds.items())
        memory = report.peak_memory_bytes >> 20
        screen.say(f"scenes {report.scenes}, tile {report.tile or 'off'}, memory {memory} MiB; {stages}")


def defects_found(defects: DefectReport, repaired_word: str = "repaired") -> str:
    """How many defects were found and repaired, by kind."""
    count = defects.specks + defects.hairs + defects.scratches
    repaired = f", {defects.repaired} of them {repaired_word}" if defects.repaired else ""
    return (
        f"film defects: {counted(defects.specks, 'speck')} and {counted(defects.hairs, 'hair')}, "
        f"{counted(defects.scratches, 'part')} of scratches, in {counted(len(defects.frames), 'frame')}{repaired}"
        if count
        else "film defects: none found"
    )


def _before_and_after(video: Path, result: Path, report: RunReport) -> list[str]:
    """What went in and what came out, one below the other, and the time and the memory that it took."""
    seconds, rate = report.duration_seconds, report.rate
    sides = []
    for name, path, (width, height), frames, length, fps in (
        ("before", video, report.input_size, report.frames_in, seconds / report.stretch,
         None if rate is None else rate * report.stretch / report.interp),
        ("after", result, report.output_size, report.frames_out, seconds, rate),
    ):  # fmt: skip
        size = _bytes(path.stat().st_size) if path.is_file() else ""  # a folder of images has none
        sides.append([name, f"{width}x{height}", _frames(frames), f"{length:.1f} s" if frames > 1 else "",
                      "" if fps is None else f"{fps:.4g} frames/s", size])  # fmt: skip
    columns = [column for column in zip(*sides, strict=True) if any(column)]
    cells = [[f"{cell:{max(map(len, column))}}" for cell in column] for column in columns]
    lines = ["  ".join(line).rstrip() for line in zip(*cells, strict=True)]
    minutes, rest = divmod(round(report.wall_seconds), 60)
    took = f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
    scenes = f"{report.scenes} scene{'s' * (report.scenes != 1)}"
    return [*lines, f"{scenes}; took {took} and {report.peak_memory_bytes / 2**30:.1f} GiB of memory"]


def _frames(count: int) -> str:
    return f"{count} frame{'s' * (count != 1)}"


def _bytes(count: int) -> str:
    """A size for people, in powers of 1000 as file managers and disks have it."""
    for limit, unit in ((10**9, "GB"), (10**6, "MB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count / 1000:.0f} kB"


def _degradation(report: RunReport) -> str:
    """The degradation levels of the only scene, or the first one and where the others are."""
    first = report.degradation[0]
    if len(report.degradation) == 1:
        return f"degradation: {first.levels}"
    return f"degradation of the first of {len(report.degradation)} scenes: {first.levels} (all: --report)"


def _say_faces(screen: Screen, report: RunReport) -> None:
    """Prints how many faces were restored, and why the others were not."""
    restored = sum(track.restored > 0 for track in report.faces)
    if not report.faces:
        screen.say("faces: none found")
        return
    text = f"faces: {restored} of {len(report.faces)} restored by {report.face_model}"
    left: dict[str, int] = {}
    for track in report.faces:
        if track.restored == 0:
            reason = max(track.skipped, key=lambda name: track.skipped[name])
            left[reason] = left.get(reason, 0) + 1
    if left:
        text += "; not restored: " + ", ".join(f"{count} {reason}" for reason, count in sorted(left.items()))
    screen.say(text)
    served: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for track in report.faces:
        for each in track.references:
            if each.mean_weight is not None:
                served.setdefault((each.name, each.file), []).append((track.seen.track, each.mean_weight))
    for (name, file), weights in served.items():
        shown = ", ".join(f"{weight:.2f}" for _, weight in weights)
        screen.say(f"{_named_photograph(name, file)}: {_listed([track for track, _ in weights])}, mean weight {shown}")


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
