"""Realistic footage: every evaluation clip under a fixed list of conditions, enlarged by 4, by 2 or only cleaned.

    python -m benchmarks.quality.real_footage --data DIR [--models NAME ...] [--conditions NAME ...]
        [--scale 4|2|1] [--folders NAME ...] [--frames N] [--measures NAME ...] [--lpips FILE.pth]
        [--json FILE] [--resume] [--markdown FILE]

DIR holds vid4/, faces/ and general/ with ground-truth clips. A model is bicubic, lanczos, the name or card of a model,
also of an imported one, or the checkpoint of a training (.pt, its averaged weights). Clips are cropped to multiples of
4, the first N frames of each are taken, reduced by the scale (BI unless the condition states otherwise), rounded to 8
bits, degraded (conditions.py), enlarged by the streaming engine, rounded again and compared with a border of 8 pixels
left out. At scale 1 clips are reduced by 2 first, which leaves nothing of their own degradation; that is the truth, and
bicubic and lanczos are the input itself. A model with a larger scale is reduced to the wanted one as the command line
does.

PSNR is of the whole clip; SSIM_vh, SSIM_vt and flicker are those of `vidsr eval` (flicker in 1/255, where the truth
stands still); LPIPS is that of the 9th frame of each clip (see vidsr/train/perceptual.py). All are means over clips.
The figures of every clip are kept in the file of --json; with --resume those that it holds are not measured again. They
belong to the weights they were measured with, so a new version of a model is measured anew.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.common.clips import markdown
from benchmarks.common.engines import run_engine
from benchmarks.quality.baselines import BASELINES, SCALE, fitted, lanczos, stream
from benchmarks.quality.conditions import BI, CLEAN, CONDITIONS, REAL
from benchmarks.quality.ledger import Figures, Ledger, known, mean
from benchmarks.quality.runner import clip_paths, read_truth
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.engines.select import ESTIMATED, Levels
from vidsr.errors import VidsrError
from vidsr.evaluation.evaluate import score_clip
from vidsr.evaluation.metrics import crop_border, decibels, squared_errors, to_8_bits, with_luma
from vidsr.evaluation.temporal import StaticFlicker
from vidsr.models.cards import find_card, sha256_of
from vidsr.models.registry import build
from vidsr.runtime.device import choose_precision
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.perceptual import PerceptualDistance

BORDER = 8
LPIPS_FRAME = 8
FOLDERS = ("faces", "general", "vid4")
# What can be measured, with its figures and the title of its table. All but PSNR take longer than a fast network.
MEASURES = {
    "psnr": (("psnr", "psnr_y"), "PSNR RGB / Y in dB"),
    "ssim": (("ssim_vh", "ssim_vt"), "SSIM_vh / SSIM_vt, RGB"),
    "flicker": (("flicker",), "Flicker in 1/255 where the truth stands still; lower is better"),
    "lpips": (("lpips",), "LPIPS of the 9th frame; lower is better"),
}
CPU = torch.device("cpu")
Row = dict[str, Figures]  # by model


@dataclass(frozen=True)
class Protocol:
    """What is measured: the scale, how many frames of each clip (None: all), degradation levels, which of MEASURES."""

    scale: int = SCALE
    frames: int | None = None
    levels: Levels = ESTIMATED
    measures: tuple[str, ...] = ("psnr",)
    lpips: PerceptualDistance | None = None

    @cached_property
    def wanted(self) -> tuple[str, ...]:
        """The names of the figures."""
        return tuple(name for measure in self.measures for name in MEASURES[measure][0])

    def key(self, clip: str, condition: str, model: str) -> str:
        """The key of a clip's figures in the ledger."""
        length = "all" if self.frames is None else f"first {self.frames}"
        return f"x{self.scale} | {clip} | {condition} | {length} frames | {identity(model, self.levels)}"


def identity(model: str, levels: Levels = ESTIMATED) -> str:
    """A model with the beginning of its weights' SHA-256, its precision, and the levels it is given, if any."""
    if model in BASELINES:
        return model
    digest = sha256_of(Path(model)) if model.endswith(".pt") else find_card(model).sha256
    given = "" if levels == ESTIMATED else f" levels {levels}"
    return f"{title(model)} {digest[:12]} {choose_precision('auto', CPU)}{given}"


def title(model: str) -> str:
    """The name of a model in tables."""
    path = Path(model)
    return f"{path.parent.name}/{path.name}" if model.endswith(".pt") else path.name.removesuffix(".toml")


def enlarged(model: str, low: Tensor, scale: int, levels: Levels = ESTIMATED) -> Tensor:
    """A clip N x 3 x h x w enlarged by a model to `scale` times its size.

    `levels` is for networks with an estimator; bicubic and Lanczos know nothing of them.
    """
    if model == "lanczos":
        return lanczos(low, scale)
    if not model.endswith(".pt"):
        return stream(model, "auto", low, scale, ESTIMATED if model in BASELINES else levels)
    saved = load_checkpoint(Path(model))
    network = build(saved["recipe"]["architecture"], saved["recipe"]["network"])
    network.load_state_dict(saved["average"])
    engine = RecurrentEngine(network, model, CPU, choose_precision("auto", CPU), overrides=levels)  # type: ignore[arg-type]
    return fitted(run_engine(engine, low), low, scale)


def score(truth: Tensor, result: Tensor, protocol: Protocol) -> Figures:
    """The figures of a clip N x 3 x H x W: the truth in uint8, the result in floating point of any range."""
    rounded = (to_8_bits(result) * 255).round().to(torch.uint8)
    figures: Figures = {}
    if "ssim" in protocol.measures:
        scores = score_clip("clip", truth, rounded, BORDER).scores
        figures |= {name: getattr(scores, name) for name in ("psnr", "psnr_y", "ssim_vh", "ssim_vt")}
    else:
        errors = squared_errors(truth, rounded, BORDER, with_luma).mean(0)
        figures |= {"psnr": decibels(float(errors[:3].mean())), "psnr_y": decibels(float(errors[3]))}
    truth, rounded = crop_border(truth, BORDER), crop_border(rounded, BORDER)
    if "flicker" in protocol.measures:
        flicker = StaticFlicker()
        for pair in zip(truth, rounded, strict=True):
            flicker.step(*pair)
        figures["flicker"] = flicker.flush().result
    if "lpips" in protocol.measures:
        assert protocol.lpips is not None
        number = min(LPIPS_FRAME, len(truth) - 1)
        one, other = (clip[number : number + 1].float() / 255 for clip in (truth, rounded))
        figures["lpips"] = float(protocol.lpips(one, other))
    return figures


class Clip:
    """A ground-truth clip, decoded when it is first needed."""

    def __init__(self, path: Path, protocol: Protocol) -> None:
        self._path = path
        self._protocol = protocol

    @cached_property
    def truth(self) -> Tensor:
        """The uint8 frames that are compared, N x 3 x H x W."""
        truth = read_truth(self._path)[: self._protocol.frames]
        return (BI(truth, 2) * 255).round().to(torch.uint8) if self._protocol.scale == 1 else truth

    def degraded(self, condition: str) -> Tensor:
        """The input under a condition, N x 3 x h x w in 0..1."""
        reduction, damage = CONDITIONS[condition]
        low = damage(reduction(self.truth, self._protocol.scale))
        assert low.shape[-1] * self._protocol.scale == self.truth.shape[-1]
        return low


def measure(
    folder: Path, conditions: Sequence[str], models: Sequence[str], protocol: Protocol, ledger: Ledger
) -> dict[str, Row]:
    """The mean figures of a folder's clips by condition and model; what the ledger holds is not measured again."""
    found: dict[str, dict[str, list[Figures]]] = {name: {model: [] for model in models} for name in conditions}
    for path in clip_paths(folder):
        started, clip, measured = time.monotonic(), Clip(path, protocol), 0
        for name in conditions:
            low: Tensor | None = None
            for model in models:
                key = protocol.key(f"{folder.name}/{path.stem}", name, model)
                figures = ledger.get(key, protocol.wanted)
                if figures is None:
                    low = clip.degraded(name) if low is None else low
                    figures = score(clip.truth, enlarged(model, low, protocol.scale, protocol.levels), protocol)
                    ledger.put(key, figures)
                    measured += 1
                found[name][model].append(figures)
        if measured:
            print(f"{folder.name} {path.stem}: {measured}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return {name: {model: mean(clips) for model, clips in row.items()} for name, row in found.items()}


def tables(results: dict[str, dict[str, Row]], models: Sequence[str], measures: Sequence[str]) -> str:
    """A table for each measure, with a row for each folder and condition.

    PSNR is that of the first model, and the gains of the others over it; the other figures stand as they are.
    """
    return "\n\n".join("\n\n".join(_table(results, models, measure)) for measure in measures)


def _table(results: dict[str, dict[str, Row]], models: Sequence[str], measure: str) -> Iterator[str]:
    names, heading = MEASURES[measure]
    yield heading
    rows = []
    for folder, conditions in results.items():
        for condition, row in conditions.items():
            cells = []
            for model in models:
                gains = measure == "psnr" and model != models[0]
                cells.append(
                    " / ".join(
                        f"{known(row[model], name) - known(row[models[0]], name):+.2f}"
                        if gains
                        else shown(row[model].get(name), 2 if measure in ("psnr", "flicker") else 3)
                        for name in names
                    )
                )
            rows.append((folder, condition, *cells))
    yield markdown(("clips", "condition", *(title(model) for model in models)), rows)


def shown(value: float | None, digits: int) -> str:
    """A figure, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def parse_level(text: str) -> float | None:
    """A degradation level, or None for "auto": the network's own estimate."""
    return None if text == "auto" else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument(
        "--models", nargs="+", default=[*BASELINES, "secnet-fast"], help="the first is what others gain over"
    )
    parser.add_argument("--conditions", nargs="+", choices=tuple(CONDITIONS), default=[*CLEAN, *REAL])
    parser.add_argument("--folders", nargs="+", choices=FOLDERS, default=FOLDERS)
    parser.add_argument("--scale", type=int, choices=(4, 2, 1), default=SCALE)
    parser.add_argument("--frames", type=int, metavar="N", help="of each clip; all if not given")
    parser.add_argument(
        "--overrides", nargs=3, type=parse_level, default=ESTIMATED,
        metavar=("BLUR", "NOISE", "COMPRESSION"), help="levels in 0..1 in place of the network's estimates, or auto",
    )  # fmt: skip
    parser.add_argument("--measures", nargs="+", choices=tuple(MEASURES), help="default: all; lpips with --lpips only")
    parser.add_argument("--lpips", type=Path, metavar="FILE.pth")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--resume", action="store_true", help="keep the figures that are in the file of --json")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    measures = options.measures or [name for name in MEASURES if name != "lpips" or options.lpips]
    if "lpips" in measures and options.lpips is None:
        parser.error("--measures lpips needs --lpips FILE.pth")
    lpips = PerceptualDistance(options.lpips) if options.lpips else None
    protocol = Protocol(options.scale, options.frames, tuple(options.overrides), tuple(measures), lpips)
    ledger = Ledger(options.json, options.resume)
    results: dict[str, dict[str, Row]] = {}
    for folder in options.folders:
        try:
            results[folder] = measure(options.data / folder, options.conditions, options.models, protocol, ledger)
        except VidsrError as error:
            parser.error(str(error))
        if options.markdown:
            options.markdown.write_text(tables(results, options.models, measures) + "\n")
    print(tables(results, options.models, measures))


if __name__ == "__main__":
    main()
