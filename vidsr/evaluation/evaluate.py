"""Scores results against ground truth: `vidsr eval`, and the protocol of the benchmarks.

Frames are tensors: the caller decodes them, and presentation.py displays the scores. Memory does not grow with the
length of a clip: at most 18 frames of each input are held, in their own type (about 220 MB for 1080p in uint8, 900 MB
in float32), with up to about 150 MB of working space; the temporal metrics of 1080p need about 500 MB more.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from vidsr.errors import InputError, UsageError
from vidsr.evaluation.metrics import SCALE, TemporalSsim, decibels, squared_errors, ssim, to_8_bits, with_luma
from vidsr.evaluation.temporal import FlickerScore, StaticFlicker, WarpingError, WarpingScore


@dataclass(frozen=True, slots=True)
class Scores:
    """PSNR in dB (at most 100) and SSIM, over R, G and B together and (`*_y`) over BT.601 luma.

    The temporal metrics (temporal.py) are in 1/255; the fractions of pixels they are based on (`*_share`) are in 0..1.
    All are None if they were not requested. A metric is also None if too few pixels qualified, as its fraction shows.
    """

    psnr: float
    psnr_y: float
    ssim_vh: float
    ssim_vh_y: float
    ssim_vt: float
    ssim_vt_y: float
    warping_error: float | None = None
    reference_warping_error: float | None = None
    warping_share: float | None = None
    static_flicker: float | None = None
    static_share: float | None = None


@dataclass(frozen=True, slots=True)
class ClipScores:
    """The scores of one clip. The PSNR in `scores` is that of the clip's mean error, not the mean of the lists."""

    name: str
    frames: int
    width: int
    height: int
    border: int
    scores: Scores
    frame_psnr: tuple[float, ...]
    frame_psnr_y: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FrameMean:
    """Mean PSNR in dB at one frame number, over the `clips` clips that are long enough."""

    clips: int
    psnr: float
    psnr_y: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of all clips. In the mean every clip has the same weight, whatever its length.

    A metric that is None for some clips is averaged over the others. `psnr_by_frame` is figure 11 of SECNet's paper.
    """

    clips: tuple[ClipScores, ...]
    mean: Scores
    psnr_by_frame: tuple[FrameMean, ...]

    def to_json(self) -> str:
        """The evaluation as a JSON object with the names of the fields; all numbers are finite."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)


def _check_sizes(name: str, count: int, truth: Tensor, frame: Tensor, size: tuple[int, int]) -> None:
    """Raises InputError if frame `count` of reference or result has another size than the first frame."""
    if truth.shape != frame.shape or truth.shape != (3, *size):
        raise InputError(
            f"{name}: frame {count} of the result is {frame.shape[-1]}x{frame.shape[-2]}, that of the reference "
            f"{truth.shape[-1]}x{truth.shape[-2]}; only videos of the same size can be compared"
        )


def score_clip(
    name: str, reference: Iterable[Tensor], result: Iterable[Tensor], border: int = 0, temporal: bool = False
) -> ClipScores:
    """Compares two streams of frames, 3 x H x W, uint8 or floating point in 0..1, pair by pair until both end.

    `border` pixels on each side are ignored. `temporal` adds warping error and flicker and takes two to three times as
    long. The scores are computed on the device of the reference's frames, the motion on the CPU. Raises InputError if
    the streams are empty or differ in size or length, UsageError if the border leaves no pixels.
    """
    vertical_time = TemporalSsim(with_luma)
    warping, flicker = (WarpingError(), StaticFlicker()) if temporal else (None, None)
    errors: list[list[float]] = []
    similarities: list[list[float]] = []
    size = (0, 0)
    results = iter(result)
    for truth in reference:
        count = len(errors)
        frame = next(results, None)
        if frame is None:
            raise InputError(
                f"{name}: the result ends after {count} frames, the reference has more: compare whole videos"
            )
        if count == 0:
            size = (truth.shape[-2], truth.shape[-1])
            if border < 0 or 2 * border >= min(size):
                raise UsageError(f"{name}: a border of {border} pixels does not fit into {size[1]}x{size[0]}")
        _check_sizes(name, count, truth, frame, size)
        inner = (slice(None), slice(border, size[0] - border), slice(border, size[1] - border))
        a, b = truth[inner], frame.to(truth.device)[inner]
        errors.append(squared_errors(a[None], b[None], prepare=with_luma)[0].tolist())
        similarities.append(ssim(a[None], b[None], prepare=with_luma)[0].tolist())
        vertical_time.step(a, b)
        if warping is not None and flicker is not None:
            warping.step(a, b)
            flicker.step(a, b)
    if not errors:
        raise InputError(f"{name}: the reference has no frames")
    if next(results, None) is not None:
        raise InputError(
            f"{name}: the reference ends after {len(errors)} frames, the result has more: compare whole videos"
        )
    error = torch.tensor(errors, dtype=torch.float64)
    scores = _scores(
        error.mean(0),
        torch.tensor(similarities, dtype=torch.float64).mean(0),
        vertical_time.flush().cpu(),
        warping.flush() if warping is not None else None,
        flicker.flush() if flicker is not None else None,
    )
    return ClipScores(
        name=name,
        frames=len(errors),
        width=size[1],
        height=size[0],
        border=border,
        scores=scores,
        frame_psnr=tuple(decibels(value) for value in error[:, :3].mean(1).tolist()),
        frame_psnr_y=tuple(decibels(value) for value in error[:, 3].tolist()),
    )


def evaluate_clip(
    engine_fn: Callable[[Tensor], Tensor],
    clip: Tensor,
    degradation_fn: Callable[[Tensor], Tensor],
    border: int = 8,
    name: str = "clip",
    temporal: bool = False,
) -> ClipScores:
    """The protocol of the benchmarks: degrade the ground truth, enlarge it with the engine, compare.

    `clip` is uint8, N x H x W x 3 or N x 3 x H x W; its right and lower edges are cropped to multiples of 4.
    `degradation_fn` takes N x 3 x H x W in 0..1 and returns the reduced clip, rounded to 8 bits (`degrade_bi`,
    `degrade_bd`). `engine_fn` returns N x 3 x 4h x 4w in any range, on any device; this is clamped and rounded to 8
    bits. Raises ValueError if it returns another shape or non-finite values.
    """
    if clip.dtype != torch.uint8 or clip.ndim != 4 or 3 not in (clip.shape[1], clip.shape[3]):
        raise ValueError(f"the clip must be uint8, N x H x W x 3 or N x 3 x H x W, not {tuple(clip.shape)}")
    truth = clip if clip.shape[1] == 3 else clip.permute(0, 3, 1, 2)
    truth = truth[..., : truth.shape[2] // SCALE * SCALE, : truth.shape[3] // SCALE * SCALE]
    with torch.no_grad():
        result = engine_fn(degradation_fn(truth.float() / 255))
        if result.shape != truth.shape:
            raise ValueError(f"the engine returned {tuple(result.shape)} for a ground truth of {tuple(truth.shape)}")
        if not result.isfinite().all():
            raise ValueError("the engine returned values that are not finite")
        rounded = (to_8_bits(result.float()) * 255).round().to(torch.uint8)
        return score_clip(name, truth, rounded, border, temporal)


def summarize(clips: Iterable[ClipScores]) -> Evaluation:
    """The evaluation of these clips. Raises ValueError if there are none."""
    kept = tuple(clips)
    if not kept:
        raise ValueError("there are no clips to average")
    means: list[Any] = [_mean(getattr(clip.scores, item.name) for clip in kept) for item in fields(Scores)]
    return Evaluation(kept, Scores(*means), tuple(_frame_means(kept)))


def _scores(
    error: Tensor, spatial: Tensor, vertical_time: Tensor, warping: WarpingScore | None, flicker: FlickerScore | None
) -> Scores:
    """The scores of a clip from its mean squared error and SSIM of R, G, B and luma, and its temporal metrics."""
    return Scores(
        psnr=decibels(error[:3].mean().item()),
        psnr_y=decibels(error[3].item()),
        ssim_vh=spatial[:3].mean().item(),
        ssim_vh_y=spatial[3].item(),
        ssim_vt=vertical_time[:3].mean().item(),
        ssim_vt_y=vertical_time[3].item(),
        warping_error=warping.result if warping else None,
        reference_warping_error=warping.reference if warping else None,
        warping_share=warping.fraction if warping else None,
        static_flicker=flicker.result if flicker else None,
        static_share=flicker.fraction if flicker else None,
    )


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _frame_means(clips: tuple[ClipScores, ...]) -> Iterator[FrameMean]:
    for index in range(max(clip.frames for clip in clips)):
        long_enough = [clip for clip in clips if clip.frames > index]
        psnr = sum(clip.frame_psnr[index] for clip in long_enough) / len(long_enough)
        psnr_y = sum(clip.frame_psnr_y[index] for clip in long_enough) / len(long_enough)
        yield FrameMean(len(long_enough), psnr, psnr_y)
