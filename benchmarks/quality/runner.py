"""The quality table: PSNR and SSIM of bicubic, Lanczos and all shipped upscaling models, with figures from papers.

    python -m benchmarks.quality --data DIR [--models NAME ...] [--sets SET ...] [--precision P]
                                 [--markdown FILE] [--json FILE] [--plot FILE.png] [--write-card]

DIR holds vid4/, faces/ and general/ with ground-truth clips. A set is FOLDER-BI or FOLDER-BD, with -crf28 appended for
an input compressed with H.264 (any crf). Clips are cropped to multiples of 4, reduced by 4 (BI: antialiased bicubic;
BD: Gaussian blur with sigma 1.5; both centered), rounded to 8 bits, for -crf28 encoded by libx264 in 4:2:0 and decoded,
enlarged, rounded again and compared with a border of 8 pixels left out. PSNR is of the whole clip (SECNet (11)), then
the mean over clips. A model whose name ends in -face is measured on faces only, unless both --models and --sets are
given. The output files are rewritten after each folder, so that an interrupted run keeps its results.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.baselines import BASELINES, SCALE, enlarge, shipped_models
from benchmarks.quality.scoreboard import Results, markdown, write_cards, write_json, write_plot
from vidsr.config import Precision
from vidsr.errors import VidsrError
from vidsr.evaluation.evaluate import ClipScores, evaluate_clip, summarize
from vidsr.files import VIDEO_SUFFIXES
from vidsr.models.cards import find_card
from vidsr.train.dataset import read_clip
from vidsr.train.degrade import degrade_bd, degrade_bi, from_bytes, to_bytes
from vidsr.video.roundtrip import h264_roundtrip

DEGRADATIONS: dict[str, Callable[[Tensor], Tensor]] = {"BI": degrade_bi, "BD": degrade_bd}
CLEAN = ("vid4-BD", "vid4-BI", "faces-BI", "faces-BD", "general-BI", "general-BD")
SETS = (*CLEAN, *(f"{label}-crf28" for label in CLEAN))
FRAMES_AT_ONCE = 8


@dataclass(frozen=True)
class Setting:
    """One set: its folder, the kind of reduction, and the crf of the compression, or None."""

    label: str
    folder: str
    kind: str
    crf: int | None


def parse_setting(label: str) -> Setting:
    """The setting of a name such as faces-BI or vid4-BD-crf28."""
    found = re.fullmatch(r"(.+)-(BI|BD)(?:-crf(\d{1,2}))?", label)
    if not found or int(found[3] or 0) > 51:
        raise argparse.ArgumentTypeError(f"'{label}' is not FOLDER-BI or FOLDER-BD, with or without -crf0 to -crf51")
    return Setting(label, found[1], found[2], None if found[3] is None else int(found[3]))


def read_truth(path: Path) -> Tensor:
    """The uint8 clip N x 3 x H x W, cropped to multiples of 4."""
    truth = torch.from_numpy(read_clip(path)).permute(0, 3, 1, 2)
    return truth[..., : truth.shape[2] // SCALE * SCALE, : truth.shape[3] // SCALE * SCALE]


def reduced(truth: Tensor, kind: str) -> Tensor:
    """The uint8 clip N x 3 x H x W reduced by 4, in 0..1; a few frames at a time, because float32 is large."""
    return torch.cat([DEGRADATIONS[kind](part.float() / 255) for part in torch.split(truth, FRAMES_AT_ONCE)])


def compressed(low: Tensor, crf: int) -> Tensor:
    """The clip after H.264; 4:2:0 needs even sides, so the last row or column is repeated during compression."""
    height, width = low.shape[2:]
    frames = np.pad(to_bytes(low), ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return from_bytes(h264_roundtrip(frames, crf)[:, :height, :width])


def clip_paths(folder: Path) -> list[Path]:
    """The clips of a folder by name."""
    if not folder.is_dir():
        raise SystemExit(f"{folder} is not a folder: --data names the folder that holds it")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    if not paths:
        raise SystemExit(f"{folder} holds no clip")
    return paths


def measure(folder: Path, wanted: dict[Setting, list[str]], precision: Precision) -> Results:
    """Measures all sets of one folder; each clip is decoded once and each input made once for all systems."""
    scores: dict[str, dict[str, list[ClipScores]]] = {s.label: {m: [] for m in models} for s, models in wanted.items()}
    paths = clip_paths(folder)
    for number, path in enumerate(paths, 1):
        truth = read_truth(path)
        lows = {kind: reduced(truth, kind) for kind in {setting.kind for setting in wanted}}
        for setting, models in wanted.items():
            low = lows[setting.kind] if setting.crf is None else compressed(lows[setting.kind], setting.crf)
            spent = []
            for model in models:
                started = time.monotonic()
                engine = partial(given, enlarge(model, precision, low))
                scores[setting.label][model].append(evaluate_clip(engine, truth, partial(given, low), name=path.stem))
                spent.append(f"{model} {time.monotonic() - started:.1f} s")
            print(f"{setting.label} {path.stem} ({number} of {len(paths)}): {', '.join(spent)}", file=sys.stderr)
    return {label: {model: summarize(clips) for model, clips in row.items()} for label, row in scores.items()}


def given(value: Tensor, _: Tensor) -> Tensor:
    """Returns a value computed beforehand where the protocol expects a function of the clip."""
    return value


def table_parser(
    description: str | None, sets: Sequence[str], parse: Callable[[str], Any] = parse_setting
) -> argparse.ArgumentParser:
    """The options that this table shares with the space-time table; `sets`, read by `parse`, are the default."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", type=parse, metavar="SET", help=f"default: {' '.join(sets)}")
    parser.add_argument("--precision", default="auto", choices=get_args(Precision))
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--write-card", action="store_true", help="put the figures of the measured sets into the cards")
    return parser


def card_command(module: str, precision: Precision) -> str:
    """The command that a card names as the source of its figures."""
    command = f"python -m {module} --data DIR --write-card"
    return command if precision == "auto" else f"{command} --precision {precision}"


def main() -> None:
    parser = table_parser(__doc__, SETS)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="default: bicubic, lanczos and all shipped models")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="PSNR by frame number (needs matplotlib)")
    options = parser.parse_args()
    models: list[str] = options.models or [*BASELINES, *shipped_models("secnet")]
    settings: list[Setting] = options.sets or [parse_setting(label) for label in SETS]
    exactly = bool(options.models and options.sets)
    wanted: dict[str, dict[Setting, list[str]]] = {}
    if options.plot and find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: install vidsr[dev]")
    try:
        names = {model: model if model in BASELINES else find_card(model).name for model in models}
    except VidsrError as error:
        parser.error(str(error))
    for setting in settings:
        chosen = [m for m in models if exactly or setting.folder == "faces" or not names[m].endswith("-face")]
        if chosen:
            wanted.setdefault(setting.folder, {})[setting] = chosen
    for folder in wanted:
        clip_paths(options.data / folder)  # so that a wrong --data is reported at once
    results: Results = {}
    for folder, row in wanted.items():
        found = measure(options.data / folder, row, options.precision)
        results |= found
        if options.json:
            write_json(options.json, results)
        if options.markdown:
            options.markdown.write_text(markdown(results) + "\n")
        if options.plot:
            write_plot(options.plot, results)
        if options.write_card:
            write_cards(found, card_command("benchmarks.quality", options.precision))
    print(markdown(results))


if __name__ == "__main__":
    main()
