"""`vidsr defects`: finds dust, hairs and scratches of films, and spots on scanned pages."""

from __future__ import annotations

from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Annotated, cast

import typer

from vidsr import config as c
from vidsr.cli import options as o
from vidsr.cli.terminal import print_json_file, print_path
from vidsr.pipeline.options import input_config

if TYPE_CHECKING:
    from vidsr.cli.console import Screen
    from vidsr.defects.listing import DefectTargets

_ALL = c.FindDefectsConfig()
# JSON text up to this size is kept in memory, a larger one in a temporary file.
_SPOOL_BYTES = 16 << 20


def defects(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT", readable=False, help="A video, or a scanned page (PNG or TIFF).", show_default=False
        ),
    ],
    as_json: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", readable=False, help="Write the defects as JSON to this file; - for stdout."
        ),
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(metavar="OUT", readable=False, help="Write a copy with the defects drawn in."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.png",
            readable=False,
            help="Write the clearest defects of a video before and after repair (PNG).",
        ),
    ] = None,
    dpi: Annotated[
        float | None,
        typer.Option(help="Resolution of a scanned page, 50 to 4800.", show_default="that of the file, else 600"),
    ] = _ALL.dpi,
    threads: o.Threads = _ALL.threads,
    scenes: o.Scenes = _ALL.scenes.mode,
    scene_threshold: o.SceneThreshold = _ALL.scenes.threshold,
    start: o.Start = None,
    end: o.End = None,
    overwrite: o.Overwrite = _ALL.output.overwrite,
    progress: o.Progress = "auto",
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Finds dust, dirt, hairs and scratches of a film, or spots on a scanned page of constant tints.

    Nothing is repaired; that is what --dust repair of upscale and slowmo does. Without --json, --annotate and --sheet,
    JSON is printed to stdout: the defects of each frame with place, size, axes of the equal ellipse, light or dark,
    and severity, in pixels of the video as coded; or those of the page and its feature vector.
    """
    from vidsr.cli.console import Screen

    screen = Screen(progress, quiet, verbose)
    with o.reporting(screen), SpooledTemporaryFile(_SPOOL_BYTES) as spool:
        from vidsr.defects.listing import DefectTargets
        from vidsr.defects.scan import is_scan

        is_printed = as_json == Path("-") or not (as_json or annotate or sheet)
        targets = DefectTargets(annotate, sheet, None if is_printed else as_json)
        config = c.FindDefectsConfig(
            input=input_config(start, end),
            output=c.OutputConfig(overwrite=overwrite),
            scenes=c.SceneConfig(mode=scenes, threshold=scene_threshold),
            dpi=dpi,
            threads=threads,
        )
        listing = cast(IO[bytes], spool)
        (_page if is_scan(source) else _film)(screen, source, targets, listing, config)
        for path in (targets.annotated, targets.sheet, targets.listing):
            if path is not None:
                print_path(path)
        if is_printed:
            listing.seek(0)
            print_json_file(listing)


def _film(
    screen: Screen, source: Path, targets: DefectTargets, listing: IO[bytes], config: c.FindDefectsConfig
) -> None:
    from vidsr.cli.videos import defects_found
    from vidsr.defects.listing import describe_film, plan_film
    from vidsr.pipeline.run import Progress
    from vidsr.runtime.memory import peak_memory_bytes

    plan = plan_film(source, targets, config)
    with screen.progress(source.name, "cpu", lambda: peak_memory_bytes("cpu")) as on_progress:

        def show(done: int, expected: int | None, seconds: float) -> None:
            on_progress(Progress(done, expected, seconds))

        found = describe_film(plan, listing, show)
    for warning in found.warnings:
        screen.warn(warning)
    screen.say(f"done: {found.frames} frames; {defects_found(found.report, 'repairable')}")


def _page(
    screen: Screen, source: Path, targets: DefectTargets, listing: IO[bytes], config: c.FindDefectsConfig
) -> None:
    from vidsr.defects.scan import describe_scan

    found, warnings = describe_scan(source, targets, listing, config)
    for warning in warnings:
        screen.warn(warning)
    vector = found.vector
    screen.say(
        f"done: {vector.defects} defects, {vector.gray_spots} gray spots and {vector.solid_spots} solid spots, "
        f"in {found.blocks} blocks"
    )
