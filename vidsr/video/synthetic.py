"""A film that comes from nowhere, for measurements: moving texture, H.264, no sound. No measuring here."""

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
SWAY = 16  # pixels to each side, back after 2 seconds
OCTAVES = (32, 16, 8, 4, 2)
SMALLEST_SIDE, LARGEST_SIDE = 16, 4096  # four times as much is the most that libx264 takes


def write_synthetic_video(path: Path, frames: int, width: int, height: int) -> None:
    """Writes a film at 25 frames/s, always the same one: a view that sways over random texture, without a cut.

    Raises UsageError for odd sides or sides outside 16 to 4096, which H.264 in 4:2:0 cannot hold four times enlarged,
    and OutputError if the file cannot be written.
    """
    for side in (width, height):
        if side % 2 or not SMALLEST_SIDE <= side <= LARGEST_SIDE:
            raise UsageError(f"{width}x{height}: sides must be even and between {SMALLEST_SIDE} and {LARGEST_SIDE}")
    luma, blue, red = (_texture(height + 2 * SWAY, width + 2 * SWAY, seed) for seed in range(3))
    with writing(path), av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(frames):
            angle = math.pi * index / RATE
            x, y = (round(SWAY * (1 + turn)) for turn in (math.sin(angle), math.cos(angle)))
            planes = [luma[y : y + height, x : x + width]]
            planes += [plane[y : y + height : 2, x : x + width : 2] for plane in (blue, red)]
            samples = np.concatenate([plane.reshape(-1) for plane in planes]).reshape(-1, width)
            picture = av.VideoFrame.from_ndarray(samples, format="yuv420p")
            picture.pts, picture.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _texture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    """Noise in octaves, the coarse ones stronger, as in photographs; values of the limited range."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, 1, height, width)
    for octave in OCTAVES:
        noise = torch.randn(1, 1, height // octave + 2, width // octave + 2, generator=generator)
        total += octave**0.5 * interpolate(noise, size=(height, width), mode="bilinear", align_corners=False)
    values: NDArray[np.uint8] = (126 + 12 * total[0, 0]).clamp(16, 235).round().byte().numpy()
    return values
