"""The training of networks for pictures: what one step and one validation are. What is common to all is `course`.

What differs between architectures is in tasks, the numbers are in the recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidsr.errors import InputError
from vidsr.models.registry import build
from vidsr.nets.base import Network
from vidsr.runtime.device import choose_device
from vidsr.train.codecs import Roundtrip
from vidsr.train.data import Batch, Batches
from vidsr.train.dataset import CLIPS, Item, cached_frames, find_footage, split_holdout
from vidsr.train.degrade import H264Roundtrip
from vidsr.train.initialisation import start_from
from vidsr.train.recipe import Recipe
from vidsr.train.tasks import task_of
from vidsr.train.trainer import Course, TrainOptions, make_folder


def train(recipe: Recipe, options: TrainOptions, on_log: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """Trains until the recipe's steps are done or the time is up; resumes from `output`/last.pt if it is there.

    Writes last.pt, best.pt (averaged weights with the best validation PSNR; only if clips are held out) and log.jsonl
    into `output`; returns the path of last.pt. Raises UsageError if last.pt belongs to another recipe, or if
    the recipe asks for what its network cannot learn, such as motion over more frames than a clip has.
    """
    settings, device = recipe.optimisation, choose_device(options.device)
    make_folder(options.output)
    torch.manual_seed(recipe.seed)
    network = build(recipe.architecture, recipe.network).to(device)
    task = task_of(network)
    task.check(network, recipe)
    items = find_footage(options.data, recipe.data.licence_classes)
    shares = {"faces": recipe.data.share_faces, "general": recipe.data.share_general}
    judged = [kind for kind in CLIPS if shares[kind] > 0] or list(CLIPS)
    items, held = split_holdout(items, recipe.data.holdout_clips, judged)
    cache = options.output.parent / "frames"
    batches = Batches(recipe, items, cache, _h264(recipe), _roundtrip(recipe))
    validation = [_validation_clip(item, cache) for item in held]
    for item, clip in zip(held, validation, strict=True):
        if len(clip) < task.least_frames:
            raise InputError(
                f"the validation clip {item.path} is too short: it has {len(clip)} of {task.least_frames} frames needed"
            )

    def step(batch: Batch, number: int) -> dict[str, float]:
        return train_step(network, batch, optimiser, recipe, device, number < settings.fusion_steps)

    def scores(average: Network) -> dict[str, float]:
        return validate(average, validation, device) if validation else {}

    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's annotations
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    start = partial(start_from, network)
    course = Course(recipe, options, network, optimiser, start, scores, lambda found: sum(found.values()), on_log)
    return course.run(batches, step)


def train_step(
    network: Network,
    batch: Batch,
    optimiser: torch.optim.Optimizer,
    recipe: Recipe,
    device: torch.device,
    pretraining: bool = False,
) -> dict[str, float]:
    """One step on one batch; returns the losses as numbers.

    While `pretraining`, a SECNet's local fusion and motion learn alone.
    """
    losses = task_of(network).losses(network, batch.to(device), recipe, pretraining)
    optimiser.zero_grad(set_to_none=True)
    losses["total"].backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.optimisation.gradient_clip)
    if torch.isfinite(norm):
        optimiser.step()
    return {key: float(value.detach()) for key, value in losses.items()} | {"gradient_norm": float(norm)}


@torch.no_grad()
def validate(network: Network, clips: list[Tensor], device: torch.device) -> dict[str, float]:
    """The task's scores in dB, each the mean over one or more clips (T x 3 x H x W)."""
    scores = [task_of(network).scores(network, clip, device) for clip in clips]
    return {name: float(np.mean([of_clip[name] for of_clip in scores])) for name in scores[0]}


def _validation_clip(item: Item, cache: Path) -> Tensor:
    frames = cached_frames(item, cache)[:10]
    height, width = (size - size % 4 for size in frames.shape[1:3])
    if min(height, width) < 32:
        raise InputError(f"the validation clip {item.path} is {width}x{height}; it needs at least 32x32 pixels")
    return torch.from_numpy(np.array(frames[:, :height, :width])).permute(0, 3, 1, 2).float() / 255


def _h264(recipe: Recipe) -> H264Roundtrip | None:
    if recipe.degradation.h264_share == 0:
        return None
    from vidsr.video.roundtrip import h264_roundtrip  # PyAV only where the recipe wants real compression

    return h264_roundtrip


def _roundtrip(recipe: Recipe) -> Roundtrip | None:
    if recipe.real is None:
        return None
    from vidsr.video.roundtrip import codec_roundtrip

    return codec_roundtrip
