"""How the figures of quality.py are shown and kept: Markdown, JSON, plot, model cards. Nothing is measured here."""

from __future__ import annotations

import json
from pathlib import Path

from printed import rows_of
from systems import BASELINES

from vidsr.train.evaluate import Evaluation
from vidsr.weights import find_card

Results = dict[str, dict[str, Evaluation]]
HEAD = ("set", "system", "PSNR RGB", "PSNR Y", "SSIM_vh RGB", "SSIM_vt RGB", "source")


def markdown(results: Results) -> str:
    """Measured rows, with the gain over bicubic in brackets where it was measured too, then the printed ones."""
    lines: list[tuple[str, ...]] = [HEAD, ("---", "---", "---:", "---:", "---:", "---:", "---")]
    for label, row in results.items():
        for model, evaluation in row.items():
            mean, base = evaluation.mean, row["bicubic"].mean if "bicubic" in row and model != "bicubic" else None
            rgb, luma = f"{mean.psnr:.2f}", f"{mean.psnr_y:.2f}"
            if base:
                rgb, luma = f"{rgb} ({mean.psnr - base.psnr:+.2f})", f"{luma} ({mean.psnr_y - base.psnr_y:+.2f})"
            lines.append((label, model, rgb, luma, f"{mean.ssim_vh:.4f}", f"{mean.ssim_vt:.4f}", "measured"))
        for line in rows_of(label):
            figures = (_or_dash(line.psnr, 2), _or_dash(line.psnr_y, 2))
            figures += (_or_dash(line.ssim_vh, 4), _or_dash(line.ssim_vt, 4))
            lines.append((label, f"*{line.system}*", *figures, f"printed, not measured here: {line.source}"))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def common_curve(evaluation: Evaluation) -> list[float]:
    """PSNR of frame 1, 2, ..., as in SECNet's Fig. 11, up to the end of the shortest clip.

    So every point is a mean of the same clips, and the curve does not jump where a clip ends.
    """
    return [mean.psnr for mean in evaluation.psnr_by_frame if mean.clips == len(evaluation.clips)]


def write_json(path: Path, results: Results) -> None:
    """All figures of every clip, and PSNR by frame number; measured rows only."""
    values = {label: {model: json.loads(e.to_json()) for model, e in row.items()} for label, row in results.items()}
    path.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")


def write_plot(path: Path, results: Results) -> None:
    """PSNR RGB by frame number: one panel for each set, one line for each system."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = min(3, len(results))
    rows = -(-len(results) // columns)
    figure, panels = pyplot.subplots(rows, columns, figsize=(5 * columns, 3.2 * rows), squeeze=False)
    systems = list(dict.fromkeys(model for row in results.values() for model in row))
    for panel, (label, row) in zip(panels.flat, results.items(), strict=False):
        for model, evaluation in row.items():
            curve = common_curve(evaluation)
            colour = f"C{systems.index(model)}"
            panel.plot(range(1, len(curve) + 1), curve, label=model, color=colour, linewidth=1.2)
        panel.set(title=label, xlabel="frame", ylabel="PSNR RGB (dB)")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7)
    for panel in panels.flat[len(results) :]:
        panel.set_axis_off()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def write_cards(results: Results, command: str) -> None:
    """Puts the measured sets into the metrics table at the end of each model's card, with the command that made them.

    Everything else stays as it is, the figures of other sets too: `vidsr train --publish` empties the table, so they
    belong to the same weights.
    """
    for model in dict.fromkeys(model for row in results.values() for model in row if model not in BASELINES):
        path = find_card(model).path
        head, mark, tail = path.read_text().partition("[metrics]\n")
        if not mark or "[" in tail:
            raise SystemExit(f"{path}: the card does not end with its [metrics] table")
        lines = {line.partition("=")[0].strip(): line for line in tail.splitlines() if line.strip()}
        for label, row in results.items():
            if model in row:
                name, mean = label.replace("-", "_").lower(), row[model].mean
                figures = {"psnr_rgb": f"{mean.psnr:.3f}", "psnr_y": f"{mean.psnr_y:.3f}"}
                figures |= {"ssim_vh": f"{mean.ssim_vh:.4f}", "ssim_vt": f"{mean.ssim_vt:.4f}"}
                lines |= {f"{name}_{key}": f"{name}_{key} = {figure}" for key, figure in figures.items()}
        head = "".join(
            f'metrics_command = "{command}"\n' if line.startswith("metrics_command ") else line
            for line in head.splitlines(keepends=True)
        )
        path.write_text(head + mark + "".join(f"{line}\n" for line in lines.values()))


def _or_dash(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
