"""Estimates how degraded a video is from a few of its frames, and chooses the model for it, without enhancing it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice
from typing import Any

import torch
from torch import nn

from vidsr.config import InputConfig, RunConfig, SlowmoConfig
from vidsr.engines.select import DEFAULT_MODELS, DEGRADED_MODEL, DEGRADED_MODELS, ESTIMATED, task_of
from vidsr.errors import InputError, UsageError
from vidsr.models.cards import find_card
from vidsr.models.loading import load_network
from vidsr.types import DegradationLevels, VideoInfo
from vidsr.video.probe import Source
from vidsr.video.sources import open_reader

FRAMES = 5
# Of the middle of a frame, in pixels, that is looked at: all of it takes seconds where frames are large, and the levels
# of three videos of 700 to 1080 lines differed from these by 0.04 at most.
LARGEST_SIDE = 512
# From one of these levels on, a video is for the model for degraded ones. Of thresholds for compression from 0.14 to
# 0.54, this one has the best mean PSNR but for those below 0.2, with which clean videos in 4:2:0 count as compressed:
# the estimator gives them up to 0.32 (docs/quality.md, `python -m benchmarks.quality.choice`).
DEGRADED = DegradationLevels(blur=0.34, noise=0.1, compression=0.34)


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model that `--model auto` is for a video, and the levels for which it was chosen."""

    model: str
    levels: DegradationLevels

    def __str__(self) -> str:
        """The choice and its reason, in words."""
        return f"{self.model}, chosen by what a few frames show: {self.levels}"


def choose_model(source: Source, info: VideoInfo, options: RunConfig) -> ModelChoice | None:
    """The model that `--model auto` is for a video: the default, or that of DEGRADED_MODELS if it is degraded.

    None where the choice is not made by the input: with a model that is named, with levels that are given, for slow
    motion at the input's size, after `--clean`, and for a pipe, whose frames can be read only once.

    Raises InputError if nothing can be decoded, ModelError if the estimator's files are missing or damaged.
    """
    if source.is_stream or not goes_by_input(options):
        return None
    levels = estimate_degradation(source, options.input, info)
    return ModelChoice(choices(options)[is_degraded(levels)], levels)


def choices(options: RunConfig) -> tuple[str, str]:
    """The models for clean and for degraded videos."""
    task = task_of(options)
    return DEFAULT_MODELS[task], DEGRADED_MODELS[task]


def goes_by_input(options: RunConfig) -> bool:
    """Whether these options leave the choice of the model to a look at the input.

    Slow motion at the input's size does not: input frames stay as they are, and cleaner ones would differ from them.
    """
    return (
        options.compute.model == "auto"
        and options.cleaning.levels == ESTIMATED
        and options.clean is None
        and not (isinstance(options, SlowmoConfig) and options.size.is_scale(1.0, options.default_scale))
    )


def is_degraded(levels: DegradationLevels) -> bool:
    """Whether the model for degraded videos is the better one."""
    return levels.blur >= DEGRADED.blur or levels.noise >= DEGRADED.noise or levels.compression >= DEGRADED.compression


@torch.inference_mode()
def estimate_degradation(
    source: Source, trim: InputConfig | None = None, info: VideoInfo | None = None
) -> DegradationLevels:
    """The levels of a video, or of a part of it: the mean over its first frames or over those from its middle on.

    The higher one counts for each level, because videos begin with black frames and titles. They are those of the
    estimator of the model for degraded videos, which runs on the CPU.

    Raises InputError if nothing can be decoded, ModelError if the model's files are missing or damaged.
    """
    trim, info = trim or InputConfig(), info or source.probe()
    estimator: Any = load_network(find_card(DEGRADED_MODEL)).estimator
    found = [_mean_levels(estimator, source, info, trim)]
    if (middle := _middle(info, trim)) is not None:
        with suppress(InputError, UsageError):  # damaged there, or shorter than its header says
            found.append(_mean_levels(estimator, source, info, replace(trim, start=middle)))
    return DegradationLevels.of(torch.stack(found).amax(0).tolist())


def _mean_levels(estimator: nn.Module, source: Source, info: VideoInfo, trim: InputConfig) -> torch.Tensor:
    """The mean levels of the first frames of a part, with one thread. Raises InputError."""
    with _one_thread(), open_reader(source, trim, torch.device("cpu"), info) as reader:
        levels = [estimator(_center(frame.image)[None]).overall[0] for frame in islice(reader.frames(), FRAMES)]
    if not levels:
        raise InputError(f"{source.path} has no frame in the chosen part")
    return torch.stack(levels).mean(0)


def _center(image: torch.Tensor) -> torch.Tensor:
    """The middle of an image 3 x h x w, of at most LARGEST_SIDE on each side."""
    top, left = (max(0, length - LARGEST_SIDE) // 2 for length in image.shape[-2:])
    return image[:, top : top + LARGEST_SIDE, left : left + LARGEST_SIDE]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Keeps torch from starting threads before a run says how many it may have."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _middle(info: VideoInfo, trim: InputConfig) -> Fraction | None:
    """The time in the middle of a part, in seconds; None if the header states no length, or it is short."""
    end = info.header_duration_seconds if trim.end is None else float(trim.end)
    start = float(trim.start or 0)
    if end is None or not info.header_rate or (end - start) * info.header_rate < 4 * FRAMES:
        return None
    return Fraction((start + end) / 2).limit_denominator(1000)
