"""The quality table: PSNR and SSIM of bicubic and of every shipped model, by the protocol of the papers, as one table.

    python benchmarks/quality.py --data DIR [--models bicubic secnet-fast] [--json FILE] [--write-card]

DIR holds vid4/, faces/ and general/ with ground-truth clips. Clips are cropped to multiples of 4, reduced by 4 (BI:
antialiased bicubic; BD: Gaussian blur with sigma 1.5; both centred), rounded to 8 bits, enlarged by the model in the
precision that `--precision` names, rounded again and compared with 8 pixels of border left out. PSNR is of the whole
clip (SECNet (11)), then the mean over clips.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from vidsr.config import ComputeConfig
from vidsr.engines.choose import choose_engine
from vidsr.train.degrade import degrade_bd, degrade_bi
from vidsr.train.evaluate import Evaluation, evaluate_clip, summarise
from vidsr.train.footage import read_clip
from vidsr.types import Frame
from vidsr.weights import find_card, list_cards

DEGRADATIONS: dict[str, Callable[[Tensor], Tensor]] = {"BI": degrade_bi, "BD": degrade_bd}
SETS = [("vid4", "BD"), ("vid4", "BI"), ("faces", "BI"), ("faces", "BD"), ("general", "BI"), ("general", "BD")]


def stream(model: str, precision: str, low: Tensor) -> Tensor:
    """The clip N x 3 x h x w through the streaming engine that the command line uses."""
    compute = ComputeConfig(model=model, precision=precision, tile="off")  # type: ignore[arg-type]
    engine = choose_engine(compute, low.shape[2], low.shape[3]).engine
    state = engine.init_state(low.shape[2], low.shape[3])
    results: list[Tensor] = []
    for index, image in enumerate(low):
        ready, state = engine.step(Frame(image, index, Fraction(1, 25), 1, index == 0), state)
        results += [frame.image for frame in ready]
    return torch.stack(results + [frame.image for frame in engine.flush(state)])


def evaluate(model: str, precision: str, folder: Path, degradation: str) -> Evaluation:
    """All clips of a set."""
    clips = []
    for path in sorted(path for path in folder.iterdir() if path.suffix in {".mp4", ".mkv"}):
        truth = torch.from_numpy(read_clip(path))
        enlarge = lambda low: stream(model, precision, low)  # noqa: E731
        clips.append(evaluate_clip(enlarge, truth, DEGRADATIONS[degradation], name=path.stem))
    return summarise(clips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["bicubic", *(card.name for card in list_cards())])
    parser.add_argument("--sets", nargs="+", default=[f"{name}-{kind}" for name, kind in SETS])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write-card", action="store_true", help="put the figures into the models' cards")
    options = parser.parse_args()
    results: dict[str, dict[str, Evaluation]] = {}
    for label in options.sets:
        folder, degradation = label.rsplit("-", 1)
        results[label] = {}
        for model in options.models:
            started = time.monotonic()
            results[label][model] = evaluate(model, options.precision, options.data / folder, degradation)
            print(f"{label} {model}: {time.monotonic() - started:.0f} s", flush=True)
    print(markdown(results))
    if options.json:
        values = {label: {m: json.loads(e.to_json()) for m, e in row.items()} for label, row in results.items()}
        options.json.write_text(json.dumps(values, indent=2) + "\n")
    if options.write_card:
        for model in options.models:
            if model != "bicubic":
                write_card(model, {label: row[model] for label, row in results.items()})


def markdown(results: dict[str, dict[str, Evaluation]]) -> str:
    """The table; a model's gain over bicubic in brackets where bicubic was measured in the same run."""
    lines = ["| set | model | PSNR RGB | PSNR Y | SSIM_vh RGB | SSIM_vt RGB |", "|---|---|---|---|---|---|"]
    for label, row in results.items():
        for model, evaluation in row.items():
            mean, base = evaluation.mean, row["bicubic"].mean if "bicubic" in row and model != "bicubic" else None
            rgb, luma = f"{mean.psnr:.2f}", f"{mean.psnr_y:.2f}"
            if base:
                rgb, luma = f"{rgb} ({mean.psnr - base.psnr:+.2f})", f"{luma} ({mean.psnr_y - base.psnr_y:+.2f})"
            lines.append(f"| {label} | {model} | {rgb} | {luma} | {mean.ssim_vh:.4f} | {mean.ssim_vt:.4f} |")
    return "\n".join(lines)


def write_card(model: str, sets: dict[str, Evaluation]) -> None:
    """Replaces the [metrics] table and the command of a card."""
    path = find_card(model).path
    text = path.read_text().split("[metrics]")[0]
    command = "python benchmarks/quality.py --data DIR --write-card"
    text = "\n".join(
        f'metrics_command = "{command}"' if line.startswith("metrics_command") else line for line in text.split("\n")
    )
    for label, evaluation in sets.items():
        name = label.replace("-", "_").lower()
        text += "" if "[metrics]" in text else "[metrics]\n"
        mean = evaluation.mean
        text += f"{name}_psnr_rgb = {mean.psnr:.3f}\n{name}_psnr_y = {mean.psnr_y:.3f}\n"
        text += f"{name}_ssim_vh = {mean.ssim_vh:.4f}\n{name}_ssim_vt = {mean.ssim_vt:.4f}\n"
    path.write_text(text)


if __name__ == "__main__":
    main()
