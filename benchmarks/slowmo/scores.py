"""Scores of space-time results: by frame, for input and interpolated frames, by place in the window, and pulsing.

The protocol is that of the program released by the authors of Zooming SlowMo: PSNR and SSIM of every frame over Y,
including the border, averaged over the frames of a clip, then over the clips.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from vidsr.engines.slowmo import LOOKAHEAD
from vidsr.evaluation.metrics import decibels, luma, squared_errors, ssim, to_8_bits, with_luma
from vidsr.nets.zsm.config import WINDOW

# Results that a window of the streaming engine adds to those of the window before it.
WINDOW_RESULTS = 2 * (WINDOW - 1)
# Results of a clip: all, the input frames (1st, 3rd ...), the interpolated ones between them.
KINDS = {"all": slice(None), "existing": slice(0, None, 2), "synthetic": slice(1, None, 2)}


@dataclass(frozen=True)
class ClipFrames:
    """Figures of each frame of a clip, in order: PSNR in dB, SSIM, and the mean color (R, G, B, in 0..255)."""

    name: str
    psnr_rgb: list[float]
    psnr_y: list[float]
    ssim_y: list[float]
    color: list[list[float]]
    true_color: list[list[float]]


@dataclass(frozen=True)
class KindScores:
    """Means over frames, then over clips; `pooled_psnr_y` is from the mean squared error of each whole clip."""

    frames: int
    psnr_rgb: float
    psnr_y: float
    ssim_y: float
    pooled_psnr_y: float


def score_frames(name: str, truth: Tensor, result: Tensor) -> ClipFrames:
    """Scores a result. `truth` is uint8, T x 3 x H x W; `result` is floating point of any range and rounded first."""
    if truth.shape != result.shape or not result.isfinite().all():
        raise SystemExit(f"{name}: {tuple(result.shape)} for {tuple(truth.shape)}, or values that are not finite")
    rounded = (to_8_bits(result.float()) * 255).round().to(torch.uint8)
    errors = squared_errors(truth, rounded, prepare=with_luma)
    return ClipFrames(
        name=name,
        psnr_rgb=[decibels(value) for value in errors[:, :3].mean(1).tolist()],
        psnr_y=[decibels(value) for value in errors[:, 3].tolist()],
        ssim_y=ssim(truth, rounded, prepare=luma)[:, 0].tolist(),
        color=mean_colors(rounded),
        true_color=mean_colors(truth),
    )


def mean_colors(clip: Tensor) -> list[list[float]]:
    """Mean R, G and B of each frame of a uint8 clip T x 3 x H x W."""
    return clip.mean((2, 3), dtype=torch.float64).tolist()


def mean_scores(clips: list[ClipFrames], kind: str) -> KindScores:
    """The scores of one of KINDS."""
    part = KINDS[kind]

    def over_clips(figure: Callable[[ClipFrames], float]) -> float:
        return fmean(figure(clip) for clip in clips)

    return KindScores(
        frames=sum(len(clip.psnr_y[part]) for clip in clips),
        psnr_rgb=over_clips(lambda clip: fmean(clip.psnr_rgb[part])),
        psnr_y=over_clips(lambda clip: fmean(clip.psnr_y[part])),
        ssim_y=over_clips(lambda clip: fmean(clip.ssim_y[part])),
        pooled_psnr_y=over_clips(lambda clip: decibels(fmean(10 ** (-value / 10) for value in clip.psnr_y[part]))),
    )


def gain_by_place(clips: list[ClipFrames], base: list[ClipFrames]) -> list[tuple[int, float]]:
    """For each place in a window, the number of frames and their mean gain in PSNR Y over `base`.

    The first place is the interpolated frame after a window's border, the last one the input frame on the next border.
    The gain is over `base` at the same frame, which removes the influence of easy and hard parts of a video. The first
    window of a clip, which has no past, and those without the whole look-ahead are left out. A place without frames has
    the gain 0.
    """
    gains: list[list[float]] = [[] for _ in range(WINDOW_RESULTS)]
    for clip, other in zip(clips, base, strict=True):
        start = WINDOW_RESULTS + 1
        while start + WINDOW_RESULTS + 2 * LOOKAHEAD <= len(clip.psnr_y):
            for place in range(WINDOW_RESULTS):
                gains[place].append(clip.psnr_y[start + place] - other.psnr_y[start + place])
            start += WINDOW_RESULTS
    return [(len(values), fmean(values) if values else 0.0) for values in gains]


def pulsing(colors: list[list[float]]) -> float:
    """Difference of the mean color of interpolated frames from that of their neighbors, from a clip's mean colors.

    Mean over the clip, then the largest absolute value of R, G and B, in 1/255; 0 for a clip of one frame. In a video
    with changing light the truth has some of it too.
    """
    values = torch.tensor(colors, dtype=torch.float64)
    steps = values[1::2] - (values[:-1:2] + values[2::2]) / 2
    return float(steps.mean(0).abs().max()) if len(steps) else 0.0
