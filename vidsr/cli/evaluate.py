"""`vidsr eval`: scores a result against its reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidsr.cli import options as o
from vidsr.cli.terminal import print_json, print_text


def evaluate(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", readable=False, help="The original: a video or a folder of videos.")
    ],
    result: Annotated[
        Path,
        typer.Argument(
            metavar="RESULT",
            readable=False,
            help="The result to score: a video, or a folder with videos of the same names.",
        ),
    ],
    border: Annotated[int, typer.Option(help="Pixels to ignore on each side, 0 or more; papers use 8.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout, with scores for every frame.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", readable=False, help="Plot PSNR per frame into a PNG file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Overwrite an existing plot.")] = False,
) -> None:
    """Measures PSNR, SSIM and temporal stability of a result against its reference.

    PSNR and SSIM are computed over RGB and over luma; SSIM of frames (vh) and of vertical-time slices (vt). warp:
    difference from the motion-compensated previous frame, in 1/255; best when close to that of the reference (warp
    ref). flicker: change of the error where the reference is static, in 1/255; lower is better.
    """
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.errors import UsageError
        from vidsr.evaluation.presentation import check_plot, table, write_plot
        from vidsr.evaluation.videos import find_pairs, score_videos

        if as_json and markdown:
            raise UsageError("give only one of --json and --markdown")
        pairs = find_pairs(reference, result)
        if plot is not None:
            plot = check_plot(plot, [video for _, *videos in pairs for video in videos], overwrite)
        summary = score_videos(pairs, border)
        if as_json:
            print_json(summary.to_json())
        else:
            print_text(table(summary, markdown))
        if plot is not None:
            write_plot(summary, plot, overwrite)
            screen.say(f"plot: {plot}")
