"""Displays an evaluation as a table and as a plot of PSNR by frame number."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vidsr.errors import UsageError
from vidsr.evaluation.evaluate import Evaluation, Scores
from vidsr.files import atomic_write, check_target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_NAMED_CLIPS = 8
PLOT_SIZE = (1080, 660)
_DOTS_PER_INCH = 120
_MAX_LABEL = 40


def table(evaluation: Evaluation, markdown: bool = False) -> str:
    """One line per clip and one for the mean, as plain text in columns or as a Markdown table.

    Includes the warping error of result and reference ("warp", "warp ref") and flicker, in 1/255, if measured.
    """
    head = ["clip", "frames", "PSNR", "PSNR Y", "SSIM vh", "SSIM vh Y", "SSIM vt", "SSIM vt Y"]
    is_temporal = evaluation.mean.warping_share is not None
    if is_temporal:
        head += ["warp", "warp ref", "flicker"]
    rows = [[clip.name, str(clip.frames), *_numbers(clip.scores, is_temporal)] for clip in evaluation.clips]
    frames = sum(clip.frames for clip in evaluation.clips)
    rows.append(["mean", str(frames), *_numbers(evaluation.mean, is_temporal)])
    if markdown:
        lines = [head, ["---", *["---:"] * (len(head) - 1)], *([row[0].replace("|", "\\|"), *row[1:]] for row in rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(line, widths, strict=True)) for line in [head, *rows])
    )


def check_plot(path: Path, videos: Iterable[Path], may_overwrite: bool) -> Path:
    """Checks that a plot can be written and returns its absolute path; to be called before videos are compared.

    Raises UsageError if matplotlib is missing, or the name does not end in .png or is one of the videos; OutputError if
    the path is not writable or exists already (unless `may_overwrite`).
    """
    if path.suffix.lower() != ".png":
        raise UsageError(f"--plot {path}: the plot is a PNG file; use a name that ends in .png")
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("--plot needs matplotlib: pip install matplotlib (or the extra 'plot' of vidsr)")
    kept = list(videos)
    if path.resolve() in {video.resolve() for video in kept}:
        raise UsageError(f"--plot {path} is the name of one of the videos: choose another")
    return check_target(path, kept[0], may_overwrite)


def write_plot(evaluation: Evaluation, path: Path, may_overwrite: bool) -> None:
    """Plots PSNR by frame number into a PNG file of 1080 x 660 pixels, which appears only when it is complete.

    Raises OutputError if it cannot be written or a file of this name has appeared (unless `may_overwrite`).
    """
    png = _draw(evaluation)
    with atomic_write(path, overwrite=may_overwrite) as hidden:
        hidden.write_bytes(png)


def _numbers(scores: Scores, is_temporal: bool) -> list[str]:
    decibel = [f"{value:.2f}" for value in (scores.psnr, scores.psnr_y)]
    parts = (scores.ssim_vh, scores.ssim_vh_y, scores.ssim_vt, scores.ssim_vt_y)
    cells = decibel + [f"{value:.4f}" for value in parts]
    if is_temporal:
        warps = (scores.warping_error, scores.reference_warping_error)
        cells += ["no match" if value is None else f"{value:.2f}" for value in warps]
        cells.append("nothing still" if scores.static_flicker is None else f"{scores.static_flicker:.2f}")
    return cells


def _draw(evaluation: Evaluation) -> bytes:
    # Not pyplot, which keeps all figures in memory and looks for a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    width, height = PLOT_SIZE
    figure = Figure((width / _DOTS_PER_INCH, height / _DOTS_PER_INCH), _DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    _draw_curves(figure, axes, evaluation)
    axes.set(title="PSNR by frame number", xlabel="frame number (the first is 1)", ylabel="PSNR of R, G and B (dB)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # letters that the font lacks are drawn as boxes
        FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]  # matplotlib leaves it open
    return buffer.getvalue()


def _draw_curves(figure: Figure, axes: Axes, evaluation: Evaluation) -> None:
    """A thin line for each clip, a bold one for the mean; dashed where only some of the clips are long enough."""
    clips, means = evaluation.clips, evaluation.psnr_by_frame
    is_named = len(clips) <= MAX_NAMED_CLIPS
    lines, labels = [], []
    for index, clip in enumerate(clips):
        color = f"C{index}" if is_named else "0.7"
        marker = "." if clip.frames == 1 else None
        lines += axes.plot(range(1, clip.frames + 1), clip.frame_psnr, color=color, linewidth=0.9, marker=marker)
        labels.append(_label(clip.name))
    if not is_named:
        lines, labels = lines[:1], [f"each of {len(clips)} clips"]
    if len(clips) > 1:
        values = [mean.psnr for mean in means]
        whole = sum(mean.clips == len(clips) for mean in means)
        marker = "." if len(means) == 1 else None
        lines += axes.plot(range(1, whole + 1), values[:whole], marker=marker, color="black", linewidth=2.5)
        labels.append("mean")
        if whole < len(means):
            rest = range(whole, len(means) + 1)
            lines += axes.plot(rest, values[whole - 1 :], linestyle=(0, (2, 1)), color="black", linewidth=2.5)
            labels.append("mean of the longer clips")
    legend = figure.legend(lines, [""] * len(lines), loc="outside right upper", fontsize="small")
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)  # a name such as a$b$c is not a formula, and a leading "_" would hide the label
        text.set_text(label)


def _label(name: str) -> str:
    """The clip's name as one short line, with "?" for unprintable characters."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= _MAX_LABEL else shown[: _MAX_LABEL - 1] + "…"
