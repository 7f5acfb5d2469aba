"""Does `--model auto` choose the better model for each video?

    python -m benchmarks.quality.choice --data DIR [--model CARD] [--frames N] [--scale 4|2] [--folders NAME ...]
        [--conditions NAME ...] [--json FILE] [--resume] [--markdown FILE]

The clips, conditions and figures are those of benchmarks.quality.real_footage (of which the file of --json can be
shared), after more encodings with libx264. For each condition: the mean levels that the estimator finds in the input,
the share of clips for which the model for degraded videos is chosen, and the PSNR RGB over bicubic of the model for
clean videos, of that for degraded ones, of the chosen one, and of the better one of each clip. The last rows average
all conditions.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.common.clips import markdown
from benchmarks.quality.conditions import CLEAN, CONDITIONS, H264, REAL, SUBSAMPLED
from benchmarks.quality.ledger import Ledger, known
from benchmarks.quality.real_footage import FOLDERS, Clip, Protocol, measure
from benchmarks.quality.runner import clip_paths
from vidsr.engines.select import DEFAULT_MODELS, DEGRADED_MODEL
from vidsr.models.cards import find_card
from vidsr.models.loading import load_network
from vidsr.nets.layers.conditioning import QUANTITIES
from vidsr.pipeline.degradation import FRAMES, is_degraded
from vidsr.types import DegradationLevels

COLUMNS = ("clean model", "degraded model", "chosen", "better of each clip")


@torch.inference_mode()
def levels_of(low: Tensor, model: str) -> DegradationLevels:
    """The mean levels of the first frames of a clip N x 3 x h x w in 0..1, as for a video that is as short."""
    estimator: Any = load_network(find_card(model)).estimator
    return DegradationLevels.of(
        torch.stack([estimator(frame[None]).overall[0] for frame in low[:FRAMES]]).mean(0).tolist()
    )


def rows_of(folder: Path, conditions: list[str], model: str, protocol: Protocol, ledger: Ledger) -> list[list[float]]:
    """For each condition: the levels, the share of clips that count as degraded, and the gains of COLUMNS."""
    models = ("bicubic", DEFAULT_MODELS["upscale"], model)
    measure(folder, conditions, models, protocol, ledger)
    key = f"levels {find_card(model).sha256[:12]}"
    rows = []
    for condition in conditions:
        found = []
        for path in clip_paths(folder):
            clip, name = Clip(path, protocol), f"{folder.name}/{path.stem}"
            at = f"{key} | {protocol.key(name, condition, 'bicubic')}"
            kept = ledger.get(at, QUANTITIES)
            if kept is None:
                levels = levels_of(clip.degraded(condition), model)
                kept = {quantity: getattr(levels, quantity) for quantity in QUANTITIES}
                ledger.put(at, kept)
            levels = DegradationLevels.of([known(kept, quantity) for quantity in QUANTITIES])
            base, clean, degraded = (
                known(ledger.get(protocol.key(name, condition, each), ["psnr"]) or {}, "psnr") for each in models
            )
            chosen = degraded if is_degraded(levels) else clean
            found.append([levels.blur, levels.noise, levels.compression, float(is_degraded(levels)),
                          *(value - base for value in (clean, degraded, chosen, max(clean, degraded)))])  # fmt: skip
        rows.append([fmean(column) for column in zip(*found, strict=True)])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=DEGRADED_MODEL, help="a card in place of the model for degraded videos")
    parser.add_argument("--folders", nargs="+", choices=FOLDERS, default=["faces", "general"])
    parser.add_argument("--conditions", nargs="+", choices=tuple(CONDITIONS))
    parser.add_argument("--scale", type=int, choices=(4, 2), default=4)
    parser.add_argument("--frames", type=int, default=FRAMES, metavar="N", help="of each clip")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="keep the figures that are in the file of --json")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    conditions = options.conditions or [*CLEAN, *SUBSAMPLED, *H264, *REAL]
    protocol, ledger = Protocol(options.scale, options.frames), Ledger(options.json, options.resume)
    lines = []
    for folder in options.folders:
        rows = rows_of(options.data / folder, conditions, options.model, protocol, ledger)
        mean = [fmean(column) for column in zip(*rows, strict=True)]
        for condition, row in (*zip(conditions, rows, strict=True), ("mean", mean)):
            levels = " / ".join(f"{value:.2f}" for value in row[:3])
            lines.append((folder, condition, levels, f"{row[3]:.0%}", *(f"{value:+.2f}" for value in row[4:])))
    table = markdown(("clips", "condition", "blur / noise / compression", "degraded", *COLUMNS), lines)
    if options.markdown:
        options.markdown.write_text(table + "\n")
    print(table)


if __name__ == "__main__":
    main()
