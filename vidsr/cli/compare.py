"""`vidsr compare`: shows two or more videos or images next to each other, as a page, an image or a video."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidsr import config as c
from vidsr.cli import options as o
from vidsr.cli.terminal import print_path
from vidsr.pipeline.options import input_config

_ALL = c.CompareConfig()


def compare(
    before: Annotated[
        Path,
        typer.Argument(
            metavar="BEFORE",
            readable=False,
            help="A video, an image, numbered images (frames/%06d.png) or a folder of them.",
        ),
    ],
    after: Annotated[Path, typer.Argument(metavar="AFTER", readable=False, help="Another one, such as a result.")],
    more: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[MORE]...", readable=False, help="Further ones; the page shows any two of them."),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.html",
            readable=False,
            help="The page to write.",
            show_default="AFTER_compare.html beside AFTER, without --png and --video",
        ),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="OUT.png", readable=False, help="Write one image of all inputs (PNG).")
    ] = None,
    video: Annotated[
        Path | None, typer.Option(metavar="OUT", readable=False, help="Write a video of all inputs.")
    ] = None,
    layout: Annotated[
        c.Layout, typer.Option(help="Layout of the image and the video: side by side, or a wipe over two inputs.")
    ] = _ALL.layout,
    label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Name of an input, in their order; may be repeated.", show_default="the file's"
        ),
    ] = None,
    report: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", readable=False, help="Show the figures of this --report file; may be repeated."),
    ] = None,
    faces: Annotated[bool, typer.Option("--faces/--no-faces", help="Show the faces found in BEFORE.")] = _ALL.faces,
    start: o.Start = None,
    end: o.End = None,
    rate: o.Rate = None,
    overwrite: o.Overwrite = _ALL.overwrite,
    progress: o.Progress = "auto",
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Compares videos or images: a page with a wipe, zoom, difference and playback in step, in one file.

    The page opens in any browser without a network. It shows 6 seconds from the middle, or all of a video of 10 seconds
    or less; --start and --end, in seconds of BEFORE, choose another part. --video writes the whole video.
    """
    from vidsr.cli.console import Screen

    screen = Screen(progress, quiet, verbose)
    with o.reporting(screen):
        from vidsr.comparison.compare import CompareTargets, default_page
        from vidsr.comparison.compare import compare as run

        config = c.CompareConfig(
            input=input_config(start, end, rate),
            layout=layout,
            labels=tuple(label or ()),
            faces=faces,
            overwrite=overwrite,
        )
        page = default_page(after) if html is png is video is None else html
        targets = CompareTargets(page, png, video)
        from vidsr.runtime.memory import peak_memory_bytes

        with screen.progress(after.name, "cpu", lambda: peak_memory_bytes("cpu")) as on_progress:
            done = run([before, after, *(more or ())], targets, config, report or (), on_progress)
        for note in done.notes:
            screen.warn(note)
        screen.say(f"done: {', '.join(map(str, done.written))}")
        for path in done.written:
            print_path(path)
