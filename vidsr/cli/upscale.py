"""`vidsr upscale`: options in, one run for each film, the exit code out."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vidsr import config as c
from vidsr.cli import options as o

if TYPE_CHECKING:
    from vidsr.types import RunReport
    from vidsr.ui import Screen

_UP, _OUT, _IN = c.UpscaleConfig(), c.OutputConfig(), "Input and output"
_COMPUTE, _CODEC = "Model and device", "Encoding"


def upscale(
    source: Annotated[
        Path,  # readable=False: whether it can be read is found out by reading, and is no matter of usage
        typer.Argument(metavar="INPUT", readable=False, help="A video, or a folder of videos.", show_default=False),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUTPUT", readable=False, help="The file to make; a folder if INPUT is one.", show_default=False
        ),
    ],
    scale: Annotated[float | None, typer.Option(help="Enlargement of each side, 1 to 8. [default: 4]")] = None,
    size: Annotated[str | None, typer.Option(metavar="WxH", help="Size of the output as displayed.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Height of the output as displayed.")] = None,
    model: Annotated[
        str, typer.Option(help="A name from `vidsr models list`, a card file, or auto.", rich_help_panel=_COMPUTE)
    ] = _UP.compute.model,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_COMPUTE)
    ] = _UP.compute.device,
    precision: Annotated[
        c.Precision, typer.Option(help="Precision of the network's convolutions.", rich_help_panel=_COMPUTE)
    ] = _UP.compute.precision,
    threads: Annotated[
        int, typer.Option(min=0, max=256, help="Threads on the CPU; 0 lets torch choose.", rich_help_panel=_COMPUTE)
    ] = _UP.compute.threads,
    tile: Annotated[
        str, typer.Option(help="auto, off or N input pixels: less memory.", rich_help_panel=_COMPUTE)
    ] = str(_UP.compute.tile),
    scenes: Annotated[
        c.SceneMode, typer.Option(help="Start afresh at scene cuts, or never.", rich_help_panel=_COMPUTE)
    ] = _UP.scenes.mode,
    scene_threshold: Annotated[
        float, typer.Option(min=0, help="How different two frames must be, 0..255.", rich_help_panel=_COMPUTE)
    ] = _UP.scenes.threshold,
    codec: Annotated[
        str, typer.Option(help="auto or an encoder's name in FFmpeg, such as libx265.", rich_help_panel=_CODEC)
    ] = _OUT.codec,
    crf: Annotated[
        float | None, typer.Option(help="Quality on the encoder's own scale; lower is better.", rich_help_panel=_CODEC)
    ] = _OUT.crf,
    preset: Annotated[str | None, typer.Option(help="The encoder's preset.", rich_help_panel=_CODEC)] = _OUT.preset,
    pix_fmt: Annotated[
        str, typer.Option(help="auto or a pixel format's name in FFmpeg.", rich_help_panel=_CODEC)
    ] = _OUT.pix_fmt,
    encoder_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An encoder's own option.", rich_help_panel=_CODEC)
    ] = None,
    audio: Annotated[
        c.CopyMode, typer.Option(help="Copy the sound or leave it out.", rich_help_panel=_CODEC)
    ] = _OUT.audio,
    subtitles: Annotated[
        c.CopyMode, typer.Option(help="Copy the subtitles or leave them out.", rich_help_panel=_CODEC)
    ] = _OUT.subtitles,
    start: Annotated[str | None, typer.Option(metavar="T", help="Seconds or H:MM:SS.mmm.", rich_help_panel=_IN)] = None,
    end: Annotated[str | None, typer.Option(metavar="T", help="Where to stop, exclusive.", rich_help_panel=_IN)] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", "-y", help="Replace an existing output.", rich_help_panel=_IN)
    ] = _OUT.overwrite,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Leave out what is there already.", rich_help_panel=_IN)
    ] = False,
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Folders inside the folder too.", rich_help_panel=_IN)
    ] = False,
    suffix: Annotated[
        str, typer.Option(help="Put behind each name in a folder run, such as _x4.", rich_help_panel=_IN)
    ] = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Damage or loss is an error (7).", rich_help_panel=_IN)
    ] = _UP.strict,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FILE", readable=False, help="Write a JSON report.")] = None,
    progress: Annotated[Literal["auto", "json", "none"], typer.Option(help="What stderr shows.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")] = False,
) -> None:
    """Makes a video larger and sharper."""
    from vidsr.ui import Screen

    screen = Screen(progress, quiet, verbose)
    with o.reporting(screen):
        config = c.UpscaleConfig(
            input=c.InputConfig(o.parse_time(start), o.parse_time(end)),
            output=c.OutputConfig(
                codec=codec, crf=crf, preset=preset, pix_fmt=pix_fmt,
                encoder_options=o.parse_encoder_options(encoder_option or []),
                audio=audio, subtitles=subtitles, overwrite=overwrite,
            ),
            size=c.SizeConfig(scale, o.parse_size(size), height),
            compute=c.ComputeConfig(
                model=model, device=device, precision=precision, threads=threads,
                tile=o.parse_tile(tile),
            ),
            scenes=c.SceneConfig(scenes, scene_threshold),
            strict=strict,
        )  # fmt: skip
        code = _run_all(screen, source, target, config, recursive, suffix, skip_existing, dry_run, report)
    if code:
        raise typer.Exit(code)


def _run_all(
    screen: Screen, source: Path, target: Path, config: c.UpscaleConfig, recursive: bool, suffix: str,
    skip_existing: bool, dry_run: bool, report_path: Path | None,
) -> int:  # fmt: skip
    from vidsr.errors import UsageError, VidsrError
    from vidsr.folder import is_a_folder, pair_films, result_folder
    from vidsr.report import write_reports

    is_folder = is_a_folder(source)
    if not is_folder and (recursive or suffix):
        raise UsageError("--recursive and --suffix are for folders; INPUT is a file")
    pairs = pair_films(source, target, recursive, suffix) if is_folder else [(source, target)]
    if report_path is not None:
        from vidsr.video.target import check_target

        check_target(report_path, source, may_overwrite=True)
        if report_path.resolve() in {path.resolve() for pair in pairs for path in pair}:
            raise UsageError(f"--report {report_path} is the name of a film: choose another")
    reports: list[RunReport] = []
    failures: list[tuple[Path, VidsrError]] = []
    for film, result in pairs:
        if skip_existing and result.exists():
            screen.say(f"{result} is there already: left out")
            continue
        try:
            with result_folder(result.parent) if is_folder else nullcontext():
                done = _run_one(screen, film, result, config, dry_run)
            if done is not None:
                reports.append(done)
        except VidsrError as error:
            if not is_folder:
                raise
            screen.fail(str(error))
            failures.append((film, error))
    if report_path is not None and not dry_run:
        write_reports(report_path, reports, [(str(film), str(error)) for film, error in failures])
    if failures:
        screen.fail(f"{len(failures)} of {len(pairs)} failed: " + ", ".join(str(film) for film, _ in failures))
    return failures[0][1].exit_code if failures else 0


def _run_one(screen: Screen, film: Path, result: Path, config: c.UpscaleConfig, dry_run: bool) -> RunReport | None:
    from vidsr.engines.choose import choose_device
    from vidsr.memory import peak_memory_bytes
    from vidsr.run import enhance, estimate

    device = choose_device(config.compute.device)
    if dry_run:
        plan = estimate(film, result, config)
        (width, height), info = plan.output_size, plan.info
        frames = plan.frames_expected
        screen.say(
            f"{film}: {info.width}x{info.height} to {width}x{height}, {plan.model} on {plan.device} "
            f"({plan.precision}), {plan.codec} {plan.pixel_format}, tile {plan.tile or 'off'}"
        )
        per_frame = f"{plan.seconds_per_frame:.3f} s a frame, measured on the first frames without encoding"
        if frames is None:
            screen.say(f"the number of frames is unknown; {per_frame}")
        else:
            screen.say(f"{frames} frames by the header, about {frames * plan.seconds_per_frame:.0f} s; {per_frame}")
        for warning in plan.warnings:
            screen.warn(warning)
        return None
    with screen.progress(film.name, str(device), lambda: peak_memory_bytes(device)) as on_progress:
        report = enhance(film, result, config, on_progress)
    for warning in report.warnings:
        screen.warn(warning)
    for damage in report.damages:
        place = "before the first frame" if damage.after_seconds is None else f"after {damage.after_seconds:.3f} s"
        screen.warn(f"{film} is damaged {place}: {damage.reason}")
    (width, height), rate = report.output_size, report.frames_out / max(report.wall_seconds, 1e-9)
    screen.say(
        f"done: {result}, {width}x{height}, {report.frames_out} frames, {report.model} on {report.device} "
        f"({report.precision}), {rate:.1f} frames/s"
    )
    if screen.is_verbose:
        stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.stage_seconds.items())
        memory = report.peak_memory_bytes >> 20
        screen.say(f"scenes {report.scenes}, tile {report.tile or 'off'}, memory {memory} MiB; {stages}")
    typer.echo(os.fsencode(result))
    return report
