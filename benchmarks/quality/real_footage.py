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
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.clips import markdown
from benchmarks.common.engines import run_engine
from benchmarks.quality.baselines import SCALE, fitted, stream
from benchmarks.quality.runner import clip_paths, compressed, read_truth
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.evaluation.metrics import decibels, squared_errors, to_8_bits, with_luma
from vidsr.models.registry import build
from vidsr.runtime.device import choose_precision
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.codecs import Encoding
from vidsr.train.degrade import degrade_bi, from_bytes, gaussian_taps, reduce, to_bytes
from vidsr.train.degrade_real import add_noise, encode_frames, encode_resized
from vidsr.train.perceptual import PerceptualDistance
from vidsr.video.roundtrip import codec_roundtrip

BORDER = 8
LPIPS_FRAME = 8
FRAMES_AT_ONCE = 8
FOLDERS = ("faces", "general", "vid4")
Figures = dict[str, float]


def encode(low: Tensor, codec: str, **options: str) -> Tensor:
    """The clip after an encoder; the block grid has the same position for every model."""
    frames = encode_frames(to_bytes(low), Encoding(codec, options, 0.0), np.random.default_rng(1), codec_roundtrip)
    return from_bytes(frames)


def upload_twice(low: Tensor) -> Tensor:
    """The clip encoded at three quarters of its size, resized back and encoded again."""
    first = Encoding("libx264", {"crf": "28", "preset": "medium"}, 28.0)
    frames = encode_resized(to_bytes(low), 0.75, first, np.random.default_rng(1), codec_roundtrip)
    return encode(from_bytes(frames), "libx264", crf="26", preset="veryfast")


def quantized(codec: str, number: int) -> Callable[[Tensor], Tensor]:
    """A function that encodes with a fixed quantizer; a group of pictures has 12 frames for the MPEG codecs."""
    options = {"qmin": str(number), "qmax": str(number), "b": "1000000", "g": "12"}
    if codec == "libvpx":
        options |= {"deadline": "realtime", "cpu-used": "-5", "g": "250"}
    return lambda low: encode(low, codec, **options)


def with_noise(sigma: float) -> Callable[[Tensor], Tensor]:
    """A function that adds Gaussian noise, the same for every model."""
    return lambda low: to_8_bits(add_noise(low, "gaussian", sigma, np.random.default_rng(1)))


def unchanged(low: Tensor) -> Tensor:
    """The clip itself."""
    return low


def by_blocks(reduction: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor, int], Tensor]:
    """The reduction applied to a uint8 clip a few frames at a time, because float32 is large."""
    return lambda truth, scale: torch.cat(
        [reduction(part.float() / 255, scale) for part in torch.split(truth, FRAMES_AT_ONCE)]
    )


def bicubic(clip: Tensor, scale: int) -> Tensor:
    """BI; at scale 1 the clip itself."""
    return clip if scale == 1 else degrade_bi(clip, scale)


def blurred(clip: Tensor, scale: int, sigma: float = 2.6) -> Tensor:
    """A Gaussian blur, `sigma` in pixels of the truth at a scale of 4, then one pixel of every block."""
    taps = gaussian_taps(sigma * scale / SCALE)
    if scale == 1:  # an odd number of weights, or the clip would move by half a pixel
        taps = torch.nn.functional.interpolate(taps[None, None], len(taps) - 1, mode="linear")[0, 0]
        taps = taps / taps.sum()
    return to_8_bits(reduce(clip, taps, scale))


def blurred_as_secnet(clip: Tensor, scale: int) -> Tensor:
    """BD."""
    return blurred(clip, scale, 1.5)


Condition = tuple[Callable[[Tensor, int], Tensor], Callable[[Tensor], Tensor]]
BI, BD = by_blocks(bicubic), by_blocks(blurred_as_secnet)
CLEAN: dict[str, Condition] = {"clean-BI": (BI, unchanged), "clean-BD": (BD, unchanged)}
REAL: dict[str, Condition] = {
    "crf23": (BI, lambda low: compressed(low, 23)),
    "crf28": (BI, lambda low: compressed(low, 28)),
    "crf35": (BI, lambda low: compressed(low, 35)),
    "mpeg4-q6": (BI, quantized("mpeg4", 6)),
    "mpeg2-q8": (BI, quantized("mpeg2video", 8)),
    "flv1-q8": (BI, quantized("flv", 8)),
    "vp8-q40": (BI, quantized("libvpx", 40)),
    "jpeg-40": (BI, lambda low: encode(low, "jpeg", quality="40")),
    "noise-5": (BI, with_noise(5)),
    "noise-15": (BI, with_noise(15)),
    "blur": (by_blocks(blurred), unchanged),
    "re-upload": (BI, upload_twice),
}
JPEG: dict[str, Condition] = {
    f"jpeg-{quality}": (BI, lambda low, quality=quality: encode(low, "jpeg", quality=str(quality)))  # type: ignore[misc]
    for quality in (10, 20)
}
BD_REAL: dict[str, Condition] = {"BD-crf28": (BD, lambda low: compressed(low, 28))}
CONDITIONS = CLEAN | REAL | JPEG | BD_REAL


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
