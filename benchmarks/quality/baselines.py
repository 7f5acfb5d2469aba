"""Enlargement of clips by the compared systems: a model of vidsr through its engine, bicubic, or FFmpeg's Lanczos."""

from __future__ import annotations

import subprocess
import sys

import imageio_ffmpeg
import numpy as np
import torch
from torch import Tensor

from benchmarks.common.engines import run_engine
from vidsr.config import ComputeConfig, Precision
from vidsr.engines.select import ESTIMATED, Levels, build_engine, select
from vidsr.models.cards import list_cards
from vidsr.nets.layers.resize import resize

SCALE = 4
BASELINES = ("bicubic", "lanczos")
# swscale's most accurate mode; without these flags its result is 20 dB further from an exact Lanczos.
SWS_FLAGS = "lanczos+accurate_rnd+full_chroma_int+full_chroma_inp"


def shipped_models(architecture: str) -> list[str]:
    """The models of an architecture that enlarge by 4, with weights; those without are named on stderr and left out."""
    names = []
    for card in list_cards():
        if card.architecture != architecture or card.scale != SCALE:
            continue
        if card.weights_path.is_file():
            names.append(card.name)
        else:
            print(f"{card.name} has no weights here and is left out", file=sys.stderr)
    return names


def enlarge(name: str, precision: Precision, low: Tensor) -> Tensor:
    """The clip N x 3 x h x w in 0..1, 4 times larger; `precision` is that of a model's convolutions."""
    return lanczos(low) if name == "lanczos" else stream(name, precision, low)


def stream(model: str, precision: Precision, low: Tensor, scale: int = SCALE, levels: Levels = ESTIMATED) -> Tensor:
    """The clip through the engine that the command line uses, untiled, at `scale`; a model or bicubic.

    `levels`: the degradation that a network with an estimator is told.
    """
    compute = ComputeConfig(model=model, precision=precision, tile="off")
    selection = select(compute, "upscale", low.shape[2], low.shape[3], enlargement=scale, levels=levels)
    return fitted(run_engine(build_engine(selection).engine, low), low, scale)


def fitted(results: Tensor, low: Tensor, scale: int) -> Tensor:
    """The results of an engine at `scale` times the size of its input `low`, as the command line brings them there."""
    size = low.shape[2] * scale, low.shape[3] * scale
    if results.shape[2:] == size:
        return results
    return torch.stack([resize(image, size).clamp(0, 1) for image in results])


def lanczos(low: Tensor, scale: int = SCALE) -> Tensor:
    """Lanczos with 3 lobes by swscale, 8 bits in and out, from the ffmpeg program of the package imageio-ffmpeg."""
    count, _, height, width = low.shape
    pixels = (low * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *raw, "-s", f"{width}x{height}", "-i", "pipe:0"]
    command += ["-vf", f"scale={scale * width}:{scale * height}:flags={SWS_FLAGS}", *raw, "pipe:1"]
    run = subprocess.run(command, input=pixels.numpy().tobytes(), capture_output=True, check=False)
    if run.returncode:
        raise SystemExit(f"ffmpeg ended with exit code {run.returncode}: {run.stderr.decode().strip()}")
    values = np.frombuffer(run.stdout, np.uint8).reshape(count, scale * height, scale * width, 3)
    return torch.from_numpy(values.copy()).permute(0, 3, 1, 2).float() / 255
