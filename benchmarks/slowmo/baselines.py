"""Systems that double the frames and enlarge them by four: two-stage baselines, and models as the program runs them.

Every system takes the input frames, N x 3 x h x w in 0..1, 8-bit values, and returns (2N - 1) x 3 x 4h x 4w in 0..1:
the 1st, 3rd ... result shows an input frame, the others are interpolated halfway between two.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import imageio_ffmpeg
import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.baselines import SCALE, SWS_FLAGS, lanczos, stream
from vidsr.config import ComputeConfig, Precision
from vidsr.engines.select import build_engine, select
from vidsr.stages.base import through
from vidsr.stages.interpolated import InterpolatedFrameFinisher
from vidsr.types import Frame
from vidsr.video.roundtrip import SWSCALE_ACCURATE

INTERP = 2
RATE = 25  # frame rate of the input; the results do not depend on it
MINTERPOLATE = f"minterpolate=fps={INTERP * RATE}:mi_mode=mci"
# Of 0..255: the largest change of a pixel by rounding from RGB to YUV 4:4:4 and back (3 was measured).
LARGEST_ROUNDING = 6
BLEND = "bicubic-blend"
TWO_STAGES = "minterpolate-secnet-fast"
BASELINES = ("bicubic-repeat", BLEND, "minterpolate-lanczos", TWO_STAGES)
TWO_STAGES_DEGRADED = "minterpolate-secnet-fast-real"  # not in the table unless it is named


def slow_down(name: str, precision: Precision, low: Tensor) -> Tensor:
    """The clip through one of the baselines or a model; `precision` is that of a model's convolutions."""
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "bicubic-repeat": lambda clip: between(stream("bicubic", precision, clip), 0.0),
        BLEND: lambda clip: between(stream("bicubic", precision, clip), 0.5),
        "minterpolate-lanczos": lambda clip: lanczos(minterpolate(clip)),
        TWO_STAGES: lambda clip: stream("secnet-fast", precision, minterpolate(clip)),
        TWO_STAGES_DEGRADED: lambda clip: stream("secnet-fast-real", precision, minterpolate(clip)),
    }
    return ways.get(name, partial(stream_slowmo, name, precision))(low)


def between(clip: Tensor, weight: float) -> Tensor:
    """The clip with blends of neighboring frames between them; `weight` is that of the later one."""
    result = clip.new_empty(INTERP * len(clip) - 1, *clip.shape[1:])
    result[::2] = clip
    result[1::2] = torch.lerp(clip[:-1], clip[1:], weight)
    return result


def stream_slowmo(model: str, precision: Precision, low: Tensor) -> Tensor:
    """The clip through the engine that `vidsr slowmo --scale 4` uses, untiled; its results must have their times."""
    compute = ComputeConfig(model=model, precision=precision, tile="off")
    selection = select(compute, "interpolate", low.shape[2], low.shape[3], enlargement=SCALE, interp=INTERP)
    engine = build_engine(selection).engine
    state = engine.init_state(low.shape[2], low.shape[3])
    results: list[Frame] = []
    for index, image in enumerate(low):
        ready, state = engine.step(Frame(image, index, Fraction(1, RATE), 1, index == 0), state)
        results += ready
    results += engine.flush(state)
    results = list(through(InterpolatedFrameFinisher(INTERP), results))
    check_times([frame.pts * frame.time_base for frame in results], len(low))
    return torch.stack([frame.image for frame in results])


def minterpolate(low: Tensor) -> Tensor:
    """FFmpeg's motion-compensated interpolation of the input frames, at their size, with its defaults.

    It works in YUV 4:4:4 and ends after the last but one frame, so the last one is passed twice (a user's video is two
    frames shorter). Each result must have its expected time, and must equal the input frame where there is one; there
    the input frame itself is returned, so that the rounding of colors does not count against the filter.
    """
    given = (low * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    height, width = given.shape[1:3]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{width}x{height}", "-r", str(RATE), "-i", "pipe:0", "-fps_mode", "passthrough"]
    command += ["-vf", f"scale=flags={SWS_FLAGS},format=yuv444p,{MINTERPOLATE}", "-c:v", "ffv1"]
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder, "video.mkv")
        fed = np.concatenate([given, given[-1:]]).tobytes()
        run = subprocess.run([*command, str(video)], input=fed, capture_output=True, check=False)
        if run.returncode:
            raise SystemExit(f"ffmpeg ended with exit code {run.returncode}: {run.stderr.decode().strip()}")
        times, images = read_lossless(video)
    return torch.from_numpy(aligned(times, images, given)).permute(0, 3, 1, 2).float() / 255


def read_lossless(video: Path) -> tuple[list[Fraction], list[np.ndarray]]:
    """Times in seconds and images, H x W x 3 RGB, of all frames of a video."""
    times, images = [], []
    with av.open(video) as container:
        for frame in container.decode(video=0):
            times.append(frame.pts * frame.time_base)
            images.append(frame.reformat(format="rgb24", interpolation=SWSCALE_ACCURATE).to_ndarray())
    return times, images


def aligned(times: list[Fraction], images: list[np.ndarray], given: np.ndarray) -> np.ndarray:
    """2N - 1 images with the N input images in their places; SystemExit if a time or an input image differs."""
    check_times(times, len(given))
    result = np.stack(images)
    worst = int(np.abs(result[::2].astype(np.int16) - given).max())
    if worst > LARGEST_ROUNDING:
        raise SystemExit(f"minterpolate changed an input frame by {worst} of 255, or returned it at another time")
    result[::2] = given
    return result


def check_times(times: list[Fraction], given: int) -> None:
    """SystemExit unless result k is at k / (2 RATE) seconds, from the first input frame to the last."""
    expected = [Fraction(index, INTERP * RATE) for index in range(INTERP * given - 1)]
    if times != expected:
        wrong = next((i for i, pair in enumerate(zip(times, expected, strict=False)) if pair[0] != pair[1]), None)
        place = f"the times differ from result {wrong} on" if wrong is not None else "the others are as they should be"
        raise SystemExit(f"{len(times)} results instead of {len(expected)}; {place}")
