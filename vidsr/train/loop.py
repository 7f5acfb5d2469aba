"""The training loop, whole and visible; what differs between architectures is in tasks, the numbers in the recipe."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset

from vidsr.errors import DeviceError, InputError, OutputError
from vidsr.nets import Network, build
from vidsr.train.checkpoint import append_entry, check_same_recipe, load_checkpoint, save_checkpoint
from vidsr.train.data import Batch, Batches
from vidsr.train.degrade import H264Roundtrip
from vidsr.train.detector_recipe import DetectorRecipe
from vidsr.train.footage import CLIPS, Item, cached_frames, find_footage, split_holdout
from vidsr.train.recipe import Recipe
from vidsr.train.start import start_from
from vidsr.train.tasks import task_of

B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Where a training runs and what it reads and writes; nothing here changes what the model becomes.

    `stop_after_minutes` ends the run early with a checkpoint; `init_from` is a safetensors file or a checkpoint whose
    weights a new run starts from.
    """

    data: Path
    output: Path
    device: str = "cpu"
    workers: int = 1
    stop_after_minutes: float = math.inf
    init_from: Path | None = None


def train(recipe: Recipe, options: TrainOptions, on_log: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """Trains until the recipe's steps are done or the time is up; resumes from `output`/last.pt if it is there.

    Writes last.pt, best.pt (averaged weights with the best validation PSNR; only if clips are held out) and log.jsonl
    into `output`; returns the path of last.pt. Raises UsageError if last.pt belongs to another recipe, or if
    the recipe asks for what its network cannot learn, such as motion over more frames than a clip has.
    """
    settings, device = recipe.optimisation, device_of(options.device)
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
    batches = Batches(recipe, items, cache, _h264(recipe))
    validation = [_validation_clip(item, cache) for item in held]
    for item, clip in zip(held, validation, strict=True):
        if len(clip) < task.least_frames:
            raise InputError(
                f"the validation clip {item.path} is too short: it has {len(clip)} of {task.least_frames} frames needed"
            )

    last_path, log_path = options.output / "last.pt", options.output / "log.jsonl"
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's annotations
    if options.init_from is not None and not last_path.is_file():
        start_from(network, options.init_from)
    average = copy.deepcopy(network).requires_grad_(False)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99))
    step, best = 0, -math.inf
    if last_path.is_file():
        saved = load_checkpoint(last_path)
        check_same_recipe(saved["recipe"], plain_values(recipe), last_path)
        network.load_state_dict(saved["network"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        step, best = int(saved["step"]), float(saved["best"])
        torch.set_rng_state(saved["torch_random"])

    def checkpoint(name: str) -> None:
        content = {
            "recipe": plain_values(recipe), "step": step, "best": best, "network": network.state_dict(),
            "average": average.state_dict(), "optimiser": optimiser.state_dict(), "torch_random": torch.get_rng_state(),
        }  # fmt: skip
        save_checkpoint(options.output / name, content)

    def log(entry: dict[str, Any]) -> None:
        append_entry(log_path, entry)
        on_log(entry)

    started = saved_at = time.monotonic()
    sums: dict[str, float] = {}
    summed = 0
    loader = batch_loader(batches, step, options.workers)
    for batch in loader:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, recipe)
        parts = train_step(network, batch, optimiser, recipe, device, step < settings.fusion_steps)
        step += 1
        _update_average(average, network, min(settings.ema_decay, (1 + step) / (10 + step)))
        for key, value in parts.items():
            sums[key] = sums.get(key, 0.0) + value
        summed += 1
        out_of_time = time.monotonic() - started > 60 * options.stop_after_minutes
        if step % 50 == 0 or step == settings.steps or out_of_time:
            rate = optimiser.param_groups[0]["lr"]
            seconds = round(time.monotonic() - started, 1)
            log({"step": step, "seconds": seconds, "lr": rate} | {key: value / summed for key, value in sums.items()})
            sums, summed = {}, 0
        if validation and (step % settings.validate_every == 0 or step == settings.steps or out_of_time):
            scores = validate(average, validation, device)
            log({"step": step, "seconds": round(time.monotonic() - started, 1)} | scores)
            if sum(scores.values()) > best:
                best = sum(scores.values())
                checkpoint("best.pt")
        if time.monotonic() - saved_at > 60 * settings.checkpoint_minutes or step == settings.steps or out_of_time:
            checkpoint("last.pt")
            saved_at = time.monotonic()
        if out_of_time:
            break
    return last_path


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


def learning_rate(step: int, recipe: Recipe | DetectorRecipe) -> float:
    """Linear warm-up, then a cosine from the recipe's first to its last learning rate."""
    settings = recipe.optimisation
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    span = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


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


def batch_loader(batches: Dataset[B], first: int, workers: int) -> Iterator[B]:
    """The batches from number `first` on, made beforehand by `workers` processes."""
    rest = Subset(batches, range(first, len(batches)))  # type: ignore[arg-type]  # a Dataset may lack a length
    loader = DataLoader(
        rest, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread if workers else None,
    )  # fmt: skip
    return iter(loader)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _h264(recipe: Recipe) -> H264Roundtrip | None:
    if recipe.degradation.h264_share == 0:
        return None
    from vidsr.video.roundtrip import h264_roundtrip  # PyAV only where the recipe wants real compression

    return h264_roundtrip


def device_of(name: str) -> torch.device:
    """The device of this name; raises DeviceError if it is not there."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: torch built without CUDA
        raise DeviceError(f"cannot train on the device '{name}': {str(error).splitlines()[0]}") from error
    return device


def make_folder(path: Path) -> None:
    """Before any work, so that a run of hours does not end at its first checkpoint."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {path}: {error.strerror}") from error


@torch.no_grad()
def _update_average(average: Network, network: Network, decay: float) -> None:
    for kept, new in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def plain_values(recipe: Recipe | DetectorRecipe) -> dict[str, Any]:
    """The recipe as values that JSON can hold, so that a checkpoint can be read without running code."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(recipe)))
    return plain
