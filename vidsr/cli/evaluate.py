"""`vidsr eval`: how near a result is to its reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vidsr.cli import options as o


def evaluate(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", readable=False, help="The truth: a video or a folder of videos.")
    ],
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", readable=False, help="What is judged: the same names in a folder.")
    ],
    border: Annotated[int, typer.Option(help="Pixels left out on each side, 0 or more; papers take 8.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, per frame too.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", readable=False, help="Draw PSNR by frame number into a PNG file.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", "-y", help="Replace an existing plot.")] = False,
) -> None:
    """Measures PSNR, SSIM of frames (vh) and of vertical-time slices (vt), over RGB and over luma, and steadiness.

    warp: difference, in 1/255, from the frame before warped along the motion; best near that of the reference (warp
    ref). flicker: change of the error where the reference stands still, in 1/255; less is steadier.
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
        typer.echo(summary.to_json() if as_json else table(summary, markdown))
        if plot is not None:
            write_plot(summary, plot, overwrite)
            screen.say(f"plot: {plot}")
