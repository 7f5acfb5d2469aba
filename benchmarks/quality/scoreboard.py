"""Output of the figures of runner.py: Markdown, JSON, plot, model cards."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.common.paper_results import rows_of
from benchmarks.quality.baselines import BASELINES
from vidsr.evaluation.evaluate import Evaluation
from vidsr.models.cards import find_card

Results = dict[str, dict[str, Evaluation]]
HEAD = ("set", "system", "PSNR RGB", "PSNR Y", "SSIM_vh RGB", "SSIM_vt RGB", "source")


def markdown(results: Results) -> str:
    """Measured rows, with the gain over bicubic in brackets if bicubic was measured, then the rows from papers."""
    lines: list[tuple[str, ...]] = [HEAD, ("---", "---", "---:", "---:", "---:", "---:", "---")]
    for label, row in results.items():
        for model, evaluation in row.items():
            mean, base = evaluation.mean, row["bicubic"].mean if "bicubic" in row and model != "bicubic" else None
            rgb, luma = f"{mean.psnr:.2f}", f"{mean.psnr_y:.2f}"
            if base:
                rgb, luma = f"{rgb} ({mean.psnr - base.psnr:+.2f})", f"{luma} ({mean.psnr_y - base.psnr_y:+.2f})"
            lines.append((label, model, rgb, luma, f"{mean.ssim_vh:.4f}", f"{mean.ssim_vt:.4f}", "measured"))
        for line in rows_of(label):
            figures = (or_dash(line.psnr, 2), or_dash(line.psnr_y, 2))
            figures += (or_dash(line.ssim_vh, 4), or_dash(line.ssim_vt, 4))
            lines.append((label, f"*{line.system}*", *figures, f"printed, not measured here: {line.source}"))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def common_curve(evaluation: Evaluation) -> list[float]:
    """PSNR of frame 1, 2, ..., as in SECNet's Fig. 11, up to the end of the shortest clip.

    Every point is thus a mean of the same clips, and the curve does not jump where a clip ends.
    """
    return [mean.psnr for mean in evaluation.psnr_by_frame if mean.clips == len(evaluation.clips)]


def write_json(path: Path, results: Results) -> None:
    """All figures of every clip, and PSNR by frame number; measured rows only."""
    values = {label: {model: json.loads(e.to_json()) for model, e in row.items()} for label, row in results.items()}
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_plot(path: Path, results: Results) -> None:
    """PSNR RGB by frame number."""
    curves = {label: {model: common_curve(e) for model, e in row.items()} for label, row in results.items()}
    draw_curves(path, curves, "frame", "PSNR RGB (dB)")


def draw_curves(path: Path, curves: dict[str, dict[str, list[float]]], across: str, up: str) -> None:
    """One panel for each set, one line for each system; the first point of a line is at 1. A PNG file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    figure, panels = pyplot.subplots(rows, columns, figsize=(5 * columns, 3.2 * rows), squeeze=False)
    systems = list(dict.fromkeys(model for row in curves.values() for model in row))
    for panel, (label, row) in zip(panels.flat, curves.items(), strict=False):
        for model, curve in row.items():
            color = f"C{systems.index(model)}"
            panel.plot(range(1, len(curve) + 1), curve, label=model, color=color, linewidth=1.2)
        panel.set(title=label, xlabel=across, ylabel=up)
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    for panel in panels.flat[len(curves) :]:
        panel.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def write_cards(results: Results, command: str) -> None:
    """Puts the measured sets into the cards of the models, with the command that made them."""
    for model in dict.fromkeys(model for row in results.values() for model in row if model not in BASELINES):
        figures: dict[str, str] = {}
        for label, row in results.items():
            if model in row:
                mean = row[model].mean
                values = {"psnr_rgb": f"{mean.psnr:.3f}", "psnr_y": f"{mean.psnr_y:.3f}"}
                values |= {"ssim_vh": f"{mean.ssim_vh:.4f}", "ssim_vt": f"{mean.ssim_vt:.4f}"}
                figures |= {f"{label}_{key}": value for key, value in values.items()}
        put_into_card(model, figures, command)


def put_into_card(model: str, figures: dict[str, str], command: str) -> None:
    """Writes figures, by names such as vid4-BI_psnr_y, into the metrics table at the end of a model's card.

    Everything else stays as it is, other figures too: `vidsr train --publish` empties the table, so they belong to the
    same weights.
    """
    path = find_card(model).path
    head, mark, tail = path.read_text().partition("[metrics]\n")
    if not mark or "[" in tail:
        raise SystemExit(f"{path}: the card does not end with its [metrics] table")
    lines = {line.partition("=")[0].strip(): line for line in tail.splitlines() if line.strip()}
    for label, figure in figures.items():
        name = label.replace("-", "_").lower()
        lines[name] = f"{name} = {figure}"
    head = "".join(
        f'metrics_command = "{command}"\n' if line.startswith("metrics_command ") else line
        for line in head.splitlines(keepends=True)
    )
    path.write_text(head + mark + "".join(f"{line}\n" for line in lines.values()))


def or_dash(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
