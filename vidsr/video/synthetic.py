"""Synthetic video for benchmarks: moving texture, H.264, without audio."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from vidsr.errors import UsageError
from vidsr.video.errors import writing

RATE = 25
AMPLITUDE = 16  # pixels of motion to each side; one turn takes 2 seconds
OCTAVES = (32, 16, 8, 4, 2)
MIN_SIDE, MAX_SIDE = 16, 4096  # four times the maximum is the largest size that libx264 accepts


def write_synthetic_video(path: Path, frames: int, width: int, height: int) -> None:
    """Writes a deterministic video at 25 frames/s without cuts: a view that circles over random texture.

    Raises UsageError for sides that are odd (4:2:0 needs even ones) or outside 16 to 4096 (H.264 cannot hold more after
    upscaling by four), and OutputError if the file cannot be written.
    """
    for side in (width, height):
        if side % 2 or not MIN_SIDE <= side <= MAX_SIDE:
            raise UsageError(f"invalid size {width}x{height}: use even sides between {MIN_SIDE} and {MAX_SIDE}")
    luma, blue, red = (_texture(height + 2 * AMPLITUDE, width + 2 * AMPLITUDE, seed) for seed in range(3))
    with writing(path), av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            angle = math.pi * index / RATE
            x, y = (round(AMPLITUDE * (1 + turn)) for turn in (math.sin(angle), math.cos(angle)))
            planes = [luma[y : y + height, x : x + width]]
            planes += [plane[y : y + height : 2, x : x + width : 2] for plane in (blue, red)]
            samples = np.concatenate([plane.reshape(-1) for plane in planes]).reshape(-1, width)
            frame = av.VideoFrame.from_ndarray(samples, format="yuv420p")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _texture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Noise in octaves, coarse ones stronger as in photographs; height x width, 8 bit, within the limited range."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 1, height, width)
    for octave in OCTAVES:
        noise = torch.randn(1, 1, height // octave + 2, width // octave + 2, generator=generator)
        total += octave**0.5 * interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)
    values: NDArray[np.uint8] = (126 + 12 * total[0, 0]).clamp(16, 235).round().byte().numpy()
    return values
