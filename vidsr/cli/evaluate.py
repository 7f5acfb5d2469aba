"""`vidsr eval`: how near a result is to its reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidsr.cli import options as o

if TYPE_CHECKING:
    from torch import Tensor


def evaluate(
    reference: Annotated[
        Path, typer.Argument(metavar="REFERENCE", readable=False, help="The truth: a video or a folder of videos.")
    ],
    result: Annotated[
        Path, typer.Argument(metavar="RESULT", readable=False, help="What is judged: the same names in a folder.")
    ],
    border: Annotated[int, typer.Option(min=0, help="Pixels left out on each side; papers take 8.")] = 0,
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
        from vidsr.evaluation.evaluate import pair_videos, score_clip, summarize
        from vidsr.evaluation.presentation import check_plot, table, write_plot
        from vidsr.files import VIDEO_SUFFIXES

        if as_json and markdown:
            raise UsageError("give only one of --json and --markdown")
        pairs = pair_videos(reference, result, lambda path: path.suffix.lower() in VIDEO_SUFFIXES)
        if plot is not None:
            plot = check_plot(plot, [film for _, *films in pairs for film in films], overwrite)
        scores = [
            score_clip(name, _pictures(truth), _pictures(judged), border, temporal=True)
            for name, truth, judged in pairs
        ]
        summary = summarize(scores)
        typer.echo(summary.to_json() if as_json else table(summary, markdown))
        if plot is not None:
            write_plot(summary, plot, overwrite)
            screen.say(f"plot: {plot}")


def _pictures(path: Path) -> Iterator[Tensor]:
    import torch

    from vidsr.config import InputConfig
    from vidsr.video.reader import Reader

    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        for frame in reader.frames():
            # Eight bits, as a file or a screen holds them: the reference of every published figure.
            yield (frame.image * 255).round().to(torch.uint8)
