"""Output of the figures of runner.py: Markdown, JSON, plot, model cards, contact sheets."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
from torch import Tensor

from benchmarks.common.clips import markdown
from benchmarks.common.paper_results import rows_of
from benchmarks.quality.scoreboard import draw_curves, or_dash, put_into_card
from benchmarks.slowmo.baselines import BASELINES, BLEND, TWO_STAGES, TWO_STAGES_DEGRADED
from benchmarks.slowmo.scores import KINDS, WINDOW_RESULTS, ClipFrames, gain_by_place, mean_scores, pulsing

Results = dict[str, dict[str, list[ClipFrames]]]
PSNR_HEAD = tuple(f"PSNR Y {kind}" for kind in KINDS)
SSIM_HEAD = tuple(f"SSIM Y {kind}" for kind in KINDS)
SHEET_FRAMES, SHEET_COLUMNS, SHEET_MARGIN = 8, 4, 4
INPUT_COLOR, INTERPOLATED_COLOR = (160, 160, 160), (0, 140, 255)  # BGR


def tables(results: Results) -> str:
    """All tables as Markdown."""
    return "\n\n".join(part for part in (quality_table(results), place_table(results)) if part)


def quality_table(results: Results) -> str:
    """Measured rows, with the gain over minterpolate and secnet-fast in brackets, then the rows from papers."""
    rows: list[tuple[str, ...]] = []
    for label, row in results.items():
        for system, clips in row.items():
            scores = {kind: mean_scores(clips, kind) for kind in KINDS}
            base = row.get(TWO_STAGES) if system != TWO_STAGES else None
            psnr = []
            for kind, score in scores.items():
                gain = f" ({score.psnr_y - mean_scores(base, kind).psnr_y:+.2f})" if base else ""
                psnr.append(f"{score.psnr_y:.2f}{gain}")
            ssim = [f"{score.ssim_y:.4f}" for score in scores.values()]
            frames = " + ".join(str(scores[kind].frames) for kind in ("existing", "synthetic"))
            rows.append((label, system, frames, *psnr, *ssim, f"{worst_pulsing(clips):.2f}", "measured"))
        truth = f"{max(pulsing(clip.true_color) for clip in next(iter(row.values()))):.2f}"
        rows.append((label, "the truth itself", "", *("–",) * 6, truth, "measured"))
        for line in rows_of(label):
            figures = (or_dash(line.psnr_y, 2), "–", "–", or_dash(line.ssim_y, 4), "–", "–", "–")
            rows.append((label, f"*{line.system}*", "", *figures, f"printed, not measured here: {line.source}"))
    return markdown(("set", "system", "frames", *PSNR_HEAD, *SSIM_HEAD, "pulsing", "source"), rows)


def worst_pulsing(clips: list[ClipFrames]) -> float:
    """The largest pulsing of all clips, in 1/255."""
    return max(pulsing(clip.color) for clip in clips)


def gains_by_place(results: Results) -> dict[str, dict[str, list[tuple[int, float]]]]:
    """For each set and model the frames and the gain over bicubic blending at each place in a window."""
    found: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for label, row in results.items():
        models = [system for system in row if system not in (*BASELINES, TWO_STAGES_DEGRADED)]
        if models and BLEND in row:
            found[label] = {model: gain_by_place(row[model], row[BLEND]) for model in models}
    return found


def place_table(results: Results) -> str:
    """Gain by place in a window; empty without a model or without the baseline."""
    rows = []
    for label, row in gains_by_place(results).items():
        for model, places in row.items():
            gains = (f"{gain:+.2f}" if frames else "–" for frames, gain in places)
            rows.append((label, model, str(places[0][0]), *gains))
    kinds = ("interpolated", "input") * (WINDOW_RESULTS // 2)
    head = ("set", "model", "windows", *(f"{place}: {kind}" for place, kind in enumerate(kinds, 1)))
    return "PSNR Y over bicubic blending by place in the window:\n\n" + markdown(head, rows) if rows else ""


def write_plot(path: Path, results: Results) -> None:
    """The gain by place in a window, with separate lines for input and interpolated frames."""
    curves = {
        label: {
            f"{model}, {kind} frames": [gain for frames, gain in places[start::2] if frames]
            for model, places in row.items()
            for start, kind in enumerate(("interpolated", "input"))
        }
        for label, row in gains_by_place(results).items()
    }
    if curves:
        draw_curves(path, curves, "place among the frames of its kind in the window", "PSNR Y over blending (dB)")


def write_json(path: Path, results: Results) -> None:
    """Writes the figures of every frame and clip, which `read_json` reads, and the means; measured rows only."""
    values = {
        label: {
            system: {
                "mean": {kind: asdict(mean_scores(clips, kind)) for kind in KINDS} | {"pulsing": worst_pulsing(clips)},
                "clips": [asdict(clip) for clip in clips],
            }
            for system, clips in row.items()
        }
        for label, row in results.items()
    }
    path.write_text(json.dumps(values, allow_nan=False) + "\n")


def read_json(path: Path) -> Results:
    """Reads the file of `write_json`."""
    values = json.loads(path.read_text())
    return {
        label: {system: [ClipFrames(**clip) for clip in kept["clips"]] for system, kept in row.items()}
        for label, row in values.items()
    }


def write_cards(results: Results, command: str) -> None:
    """Puts the measured sets into the cards of the models, with the command that made them."""
    for model in dict.fromkeys(
        system for row in results.values() for system in row if system not in (*BASELINES, TWO_STAGES_DEGRADED)
    ):
        figures: dict[str, str] = {}
        for label, row in results.items():
            if model in row:
                for kind in KINDS:
                    name, mean = label if kind == "all" else f"{label}_{kind}", mean_scores(row[model], kind)
                    figures |= {f"{name}_psnr_y": f"{mean.psnr_y:.3f}", f"{name}_ssim_y": f"{mean.ssim_y:.4f}"}
        put_into_card(model, figures, command)


def write_sheet(path: Path, clip: Tensor) -> None:
    """Writes consecutive frames from the middle of a result, T x 3 x H x W in 0..1, as one PNG.

    The first one shows an input frame; interpolated ones have an orange edge.
    """
    start = max(0, (len(clip) - SHEET_FRAMES) // 2) // 2 * 2
    images = []
    for index, frame in enumerate(clip[start : start + SHEET_FRAMES]):
        pixels = (frame.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]
        color = INTERPOLATED_COLOR if index % 2 else INPUT_COLOR
        sides = (SHEET_MARGIN,) * 4
        images.append(cv2.copyMakeBorder(np.ascontiguousarray(pixels), *sides, cv2.BORDER_CONSTANT, value=color))
    empty = np.zeros_like(images[0])
    images += [empty] * (-len(images) % SHEET_COLUMNS)
    rows = [np.hstack(images[i : i + SHEET_COLUMNS]) for i in range(0, len(images), SHEET_COLUMNS)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), np.vstack(rows)):
        raise SystemExit(f"cannot write {path}")
