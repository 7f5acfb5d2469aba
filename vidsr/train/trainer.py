"""The training loop: steps, learning rate, log, averaged weights, validation, checkpoints and resumption.

The caller supplies the training step and the validation.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset

from vidsr.errors import OutputError
from vidsr.train.adversarial import Adversary
from vidsr.train.checkpoint import append_entry, check_same_recipe, load_checkpoint, plain_values, save_checkpoint
from vidsr.train.detector.recipe import DetectorRecipe
from vidsr.train.recipe import Recipe

B = TypeVar("B")
N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """Where a training runs and what it reads and writes. Except for `init_from`, no option changes the model.

    `stop_after_minutes` ends the run early with a checkpoint. `init_from` is a safetensors file or a checkpoint with
    the initial weights of a new run. `perceptual` holds the weights of the perceptual distance (train/perceptual.py),
    which a recipe with [perceptual] needs.
    """

    data: Path
    output: Path
    device: str = "cpu"
    workers: int = 1
    stop_after_minutes: float = math.inf
    init_from: Path | None = None
    perceptual: Path | None = None


class Trainer(Generic[N]):
    """One training run. It resumes from last.pt in the output folder if that exists.

    `scores` validates the averaged weights; an empty result means that there was no validation. `objective` reduces the
    scores to one number; best.pt holds the weights with the largest one. Raises UsageError if last.pt belongs to
    another recipe.
    """

    def __init__(
        self, recipe: Recipe | DetectorRecipe, options: TrainOptions, network: N, optimizer: torch.optim.Optimizer,
        start: Callable[[Path], None], scores: Callable[[N], dict[str, float]],
        objective: Callable[[dict[str, float]], float], on_log: Callable[[dict[str, Any]], None],
        adversary: Adversary | None = None,
    ) -> None:  # fmt: skip
        """`start` loads the weights of `options.init_from` into the network of a new run.

        `adversary`, if the training has one, is kept in last.pt with everything else.
        """
        self._recipe, self._options, self._network, self._optimizer = recipe, options, network, optimizer
        self._scores, self._objective, self._on_log, self._adversary = scores, objective, on_log, adversary
        self._last = options.output / "last.pt"
        is_resumed = self._last.is_file()
        if options.init_from is not None and not is_resumed:
            start(options.init_from)
        self._average = copy.deepcopy(network).requires_grad_(False).eval()
        self._step, self._best = 0, -math.inf
        if is_resumed:
            self._resume()

    def run(self, batches: Dataset[B], train: Callable[[B, int], dict[str, float]]) -> Path:
        """Trains until the recipe's steps are done or the time is up; returns the path of last.pt.

        `train` takes a batch and the number of the step, counted from 0, and returns the losses by name.
        """
        settings = self._recipe.optimisation
        started = saved_at = time.monotonic()
        sums: dict[str, float] = {}
        summed = 0
        for batch in batch_loader(batches, self._step, self._options.workers):
            rate = learning_rate(self._step, self._recipe)
            for group in self._optimizer.param_groups:
                group["lr"] = rate
            parts = train(batch, self._step)
            self._step += 1
            self._update_average(min(settings.ema_decay, (1 + self._step) / (10 + self._step)))
            for key, value in parts.items():
                sums[key] = sums.get(key, 0.0) + value
            summed += 1
            out_of_time = time.monotonic() - started > 60 * self._options.stop_after_minutes
            is_last = self._step == settings.steps or out_of_time
            if self._step % 50 == 0 or is_last:
                self._log(started, {"lr": rate} | {key: value / summed for key, value in sums.items()})
                sums, summed = {}, 0
            if self._step % settings.validate_every == 0 or is_last:
                self._validate(started)
            if time.monotonic() - saved_at > 60 * settings.checkpoint_minutes or is_last:
                self._save(self._last)
                saved_at = time.monotonic()
            if out_of_time:
                break
        return self._last

    def _validate(self, started: float) -> None:
        scores = self._scores(self._average)
        if not scores:
            return
        self._log(started, scores)
        if (value := self._objective(scores)) > self._best:
            self._best = value
            self._save(self._options.output / "best.pt")

    def _log(self, started: float, values: dict[str, float]) -> None:
        entry = {"step": self._step, "seconds": round(time.monotonic() - started, 1)} | values
        append_entry(self._options.output / "log.jsonl", entry)
        self._on_log(entry)

    def _save(self, path: Path) -> None:
        content = {
            "recipe": plain_values(self._recipe), "step": self._step, "best": self._best,
            "network": self._network.state_dict(), "average": self._average.state_dict(),
            "optimiser": self._optimizer.state_dict(),  # spelled as in the checkpoints that exist
            "torch_random": torch.get_rng_state(),
        }  # fmt: skip
        if self._adversary is not None:
            content["adversary"] = self._adversary.state_dict()
        save_checkpoint(path, content)

    def _resume(self) -> None:
        saved = load_checkpoint(self._last)
        check_same_recipe(saved["recipe"], self._recipe, self._last)
        self._network.load_state_dict(saved["network"])
        self._average.load_state_dict(saved["average"])
        self._optimizer.load_state_dict(saved["optimiser"])
        if self._adversary is not None:
            self._adversary.load_state_dict(saved["adversary"])
        self._step, self._best = int(saved["step"]), float(saved["best"])
        torch.set_rng_state(saved["torch_random"])

    @torch.no_grad()
    def _update_average(self, decay: float) -> None:
        """Moves the average toward the network, both its weights and its batch statistics, which belong together."""
        for kept, new in zip(self._average.state_dict().values(), self._network.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)


def learning_rate(step: int, recipe: Recipe | DetectorRecipe) -> float:
    """Linear warm-up, then a cosine from the recipe's first to its last learning rate, or several with [restarts]."""
    settings = recipe.optimisation
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    passed, length = step - settings.warmup_steps, max(1, settings.steps - settings.warmup_steps)
    if isinstance(recipe, Recipe) and recipe.restarts is not None:
        passed, length = passed % recipe.restarts.every, min(length, recipe.restarts.every)
    done = passed / length
    span = settings.learning_rate - settings.final_learning_rate
    return settings.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def batch_loader(batches: Dataset[B], first: int, workers: int) -> Iterator[B]:
    """The batches from number `first` on, prepared in advance by `workers` processes."""
    rest = Subset(batches, range(first, len(batches)))  # type: ignore[arg-type]  # a Dataset may lack a length
    loader = DataLoader(
        rest, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None,
        worker_init_fn=_one_thread if workers else None,
    )  # fmt: skip
    return iter(loader)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def create_folder(path: Path) -> None:
    """Creates the output folder before any work, so that a long run cannot fail at its first checkpoint."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {path}: {error.strerror}") from error
