"""Realistic footage: every evaluation clip under a fixed list of conditions, enlarged by 4, by 2 or only cleaned.

    python -m benchmarks.quality.real_footage --data DIR [--models NAME ...] [--conditions NAME ...]
        [--scale 4|2|1] [--folders NAME ...] [--frames N] [--lpips FILE.pth] [--markdown FILE] [--json FILE]

DIR holds vid4/, faces/ and general/ with ground-truth clips. A model is bicubic, the name or card of a model, or the
checkpoint of a training (.pt, its averaged weights). Clips are cropped to multiples of 4, the first N frames of each
are taken, reduced by the scale (BI unless the condition states otherwise), rounded to 8 bits, degraded, enlarged by the
streaming engine, rounded again and compared with a border of 8 pixels left out. Blurs are as wide in pixels of the
input at every scale. At scale 1 clips are reduced by 2 first, which leaves nothing of their own degradation; that is
the truth. A model with a larger scale is reduced to the wanted one as the command line does. The encoders use 4:2:0.
PSNR is of the whole clip, then the mean over clips. LPIPS is that of the 9th frame of each clip (see
vidsr/train/perceptual.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.clips import markdown
from benchmarks.common.engines import run_engine
from benchmarks.quality.baselines import SCALE, fitted, stream
from benchmarks.quality.conditions import BI, CLEAN, CONDITIONS, REAL
from benchmarks.quality.runner import clip_paths, read_truth
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.evaluation.metrics import decibels, squared_errors, to_8_bits, with_luma
from vidsr.models.registry import build
from vidsr.runtime.device import choose_precision
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.perceptual import PerceptualDistance

BORDER = 8
LPIPS_FRAME = 8
FOLDERS = ("faces", "general", "vid4")
Figures = dict[str, float]


def enlarged(model: str, low: Tensor, scale: int, overrides: tuple[float | None, ...]) -> Tensor:
    """A clip N x 3 x h x w enlarged by a model to `scale` times its size.

    `overrides` is for checkpoints of a network with an estimator.
    """
    if not model.endswith(".pt"):
        return stream(model, "auto", low, scale)
    saved = load_checkpoint(Path(model))
    network = build(saved["recipe"]["architecture"], saved["recipe"]["network"])
    network.load_state_dict(saved["average"])
    device = torch.device("cpu")
    engine = RecurrentEngine(network, model, device, choose_precision("auto", device), overrides=overrides)  # type: ignore[arg-type]
    return fitted(run_engine(engine, low), low, scale)


def score(truth: Tensor, result: Tensor, lpips: PerceptualDistance | None) -> Figures:
    """PSNR RGB and Y of the clip, and LPIPS of one frame."""
    rounded = (to_8_bits(result) * 255).round().to(torch.uint8)
    errors = squared_errors(truth, rounded, BORDER, with_luma).mean(0)
    figures = {"psnr": decibels(float(errors[:3].mean())), "psnr_y": decibels(float(errors[3]))}
    if lpips is not None:
        inner = slice(BORDER, -BORDER)
        number = min(LPIPS_FRAME, len(truth) - 1)
        pair = (x[None, number, :, inner, inner].float() / 255 for x in (truth, rounded))
        figures["lpips"] = float(lpips(*pair))
    return figures


def mean(figures: list[Figures]) -> Figures:
    """The mean over clips."""
    return {key: sum(each[key] for each in figures) / len(figures) for key in figures[0]}


def table(results: dict[str, dict[str, dict[str, Figures]]], models: list[str]) -> str:
    """A row for each folder and condition: the figures of the first model, and the gains of the others over it."""
    rows = []
    for folder, conditions in results.items():
        for condition, row in conditions.items():
            base, cells = row[models[0]], []
            for model in models:
                own = row[model]
                cell = f"{own['psnr']:.2f} / {own['psnr_y']:.2f}"
                if model != models[0]:
                    cell = f"{own['psnr'] - base['psnr']:+.2f} / {own['psnr_y'] - base['psnr_y']:+.2f}"
                cells.append(cell + (f" / {own['lpips']:.3f}" if "lpips" in own else ""))
            rows.append((folder, condition, *cells))
    names = [Path(model).parent.name + "/" + Path(model).name if model.endswith(".pt") else model for model in models]
    return markdown(("clips", "condition", *names), rows)


def parse_override(text: str) -> float | None:
    """A degradation level, or None for "auto": the network's own estimate."""
    return None if text == "auto" else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--models", nargs="+", default=["bicubic", "secnet-fast"], help="the first is what others gain over"
    )
    parser.add_argument("--conditions", nargs="+", choices=tuple(CONDITIONS), default=[*CLEAN, *REAL])
    parser.add_argument("--folders", nargs="+", choices=FOLDERS, default=FOLDERS)
    parser.add_argument("--scale", type=int, choices=(4, 2, 1), default=SCALE)
    parser.add_argument("--frames", type=int, default=10_000, metavar="N", help="of each clip")
    parser.add_argument(
        "--overrides", nargs=3, type=parse_override, default=(None, None, None),
        metavar=("BLUR", "NOISE", "COMPRESSION"), help="levels in 0..1 in place of the network's estimates, or auto",
    )  # fmt: skip
    parser.add_argument("--lpips", type=Path, metavar="FILE.pth")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    lpips = PerceptualDistance(options.lpips) if options.lpips else None
    results: dict[str, dict[str, dict[str, Figures]]] = {}
    for folder in options.folders:
        clips: dict[str, dict[str, list[Figures]]] = {c: {m: [] for m in options.models} for c in options.conditions}
        for path in clip_paths(options.data / folder):
            truth = read_truth(path)[: options.frames]
            if options.scale == 1:
                truth = (BI(truth, 2) * 255).round().to(torch.uint8)
            started = time.monotonic()
            for name in options.conditions:
                reduction, damage = CONDITIONS[name]
                low = damage(reduction(truth, options.scale))
                assert low.shape[-1] * options.scale == truth.shape[-1]
                for model in options.models:
                    clips[name][model].append(
                        score(truth, enlarged(model, low, options.scale, options.overrides), lpips)
                    )
            print(f"{folder} {path.stem}: {time.monotonic() - started:.1f} s", file=sys.stderr)
        results[folder] = {name: {m: mean(figures) for m, figures in row.items()} for name, row in clips.items()}
        if options.json:
            options.json.write_text(json.dumps(results, indent=2) + "\n")
        if options.markdown:
            options.markdown.write_text(table(results, options.models) + "\n")
    print(table(results, options.models))


if __name__ == "__main__":
    main()
