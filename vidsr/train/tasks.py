"""What a training does in its own way for each architecture: demands, the losses of a step, the validation's scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from vidsr.errors import UsageError
from vidsr.evaluation.metrics import decibels, to_8_bits
from vidsr.models.registry import id_of
from vidsr.nets.base import Network
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.zsm.config import WINDOW
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.train.data import Batch
from vidsr.train.degrade import degrade_bd, degrade_bi
from vidsr.train.degrade_real import degrade_jpeg
from vidsr.train.losses import estimate_loss, secnet_losses
from vidsr.train.recipe import Recipe
from vidsr.train.slowmo_losses import slowmo_losses

VALIDATED_QUALITY = 40  # of JPEG
N = TypeVar("N", contravariant=True)


class Task(Protocol[N]):
    """One architecture's part of the training loop. `least_frames`: of a validation clip."""

    least_frames: int

    def check(self, network: N, recipe: Recipe) -> None:
        """Raises UsageError if the recipe cannot train the network."""

    def losses(self, network: N, batch: Batch, recipe: Recipe, pretraining: bool) -> dict[str, Tensor]:
        """One pass over a batch on the network's device, in bf16 autocast: the losses, `total` the one to minimise."""

    def scores(self, network: N, clip: Tensor, device: torch.device) -> dict[str, float]:
        """PSNR in dB, RGB, 8-pixel border left out, of a clip T x 3 x H x W; more is better, the sum decides."""


class EnlargingTask:
    """SECNet: Algorithm 4 on all frames of a clip."""

    least_frames = 1

    def check(self, network: SECNet, recipe: Recipe) -> None:
        """The motion must reach no further than a clip; nothing lies between the frames."""
        reach = max(map(abs, network.config.offsets))
        if recipe.data.frames <= reach:
            raise UsageError(
                f"the recipe '{recipe.name}' trains on {recipe.data.frames} frames; motion over {reach} frames needs "
                "more"
            )
        if network.estimator is not None and recipe.real is None:
            raise UsageError(f"the recipe '{recipe.name}' trains an estimator, which needs the table [real]")
        if recipe.guidance is not None:
            raise UsageError(f"the recipe '{recipe.name}' trains a secnet network, which has no use for [guidance]")

    def losses(self, network: SECNet, batch: Batch, recipe: Recipe, pretraining: bool) -> dict[str, Tensor]:
        """Burn-in frames run without gradient; while `pretraining`, the local fusion and the motion learn alone."""
        low = batch.low
        state = before = None
        told = batch.told
        with torch.autocast(low.device.type, torch.bfloat16):
            if batch.burn_in:
                before, low = low[:, : batch.burn_in], low[:, batch.burn_in :]
                if not pretraining:
                    with torch.no_grad():
                        state = network(before, overrides=told).state
            output = network(low, state, before, pretraining, told)
        losses = secnet_losses(output, low, batch.truth, network.config.offsets, recipe.optimisation, pretraining)
        found = losses._asdict()
        if output.estimates is not None and recipe.real is not None and batch.quantities is not None:
            found["estimate"] = estimate_loss(output.estimates, batch.quantities)
            found["total"] = found["total"] + recipe.real.estimate_weight * found["estimate"]
        return found

    def scores(self, network: SECNet, clip: Tensor, device: torch.device) -> dict[str, float]:
        """For BI and for BD; of a network that is told how degraded a frame is, also for BI and JPEG."""
        scores = {}
        ways: dict[str, Callable[[Tensor], Tensor]] = {"psnr_bi": degrade_bi, "psnr_bd": degrade_bd}
        if network.estimator is not None:
            ways["psnr_jpeg"] = partial(degrade_jpeg, quality=VALIDATED_QUALITY)
        for name, degrade in ways.items():
            low = degrade(clip)[None].to(device)
            with torch.autocast(device.type, torch.bfloat16):
                result = network(low).results[0]
            scores[name] = _psnr(result, clip)
        return scores


class SlowmoTask:
    """Zooming SlowMo: the 1st, 3rd ... frame of a clip given, all of them to be found."""

    least_frames = 3

    def check(self, network: ZoomingSlowMo, recipe: Recipe) -> None:
        """The guiding losses need their table, the head and two new frames at least; the state starts at rest."""
        demands = {
            "cannot be trained on real footage (leave [real] out)": recipe.real is None,
            "needs the table [guidance]": recipe.guidance is not None,
            "needs network.synthesis_blocks of 1 or more": network.config.synthesis_blocks >= 1,
            "needs an odd number of frames, 5 or more (data.frames)": recipe.data.frames in range(5, 1000, 2),
            "has no burn-in: set data.burn_in_share to 0": recipe.data.burn_in_share == 0,
            "has no pretraining: set optimisation.fusion_steps to 0": recipe.optimisation.fusion_steps == 0,
        }
        for demand, met in demands.items():
            if not met:
                raise UsageError(f"the recipe '{recipe.name}' trains a zsm network; that {demand}")

    def losses(self, network: ZoomingSlowMo, batch: Batch, recipe: Recipe, pretraining: bool) -> dict[str, Tensor]:  # noqa: ARG002 - nothing to pretrain
        """Equation (6.10); the batch has guides."""
        assert batch.guides is not None and recipe.guidance is not None, "see check"
        with torch.autocast(batch.low.device.type, torch.bfloat16):
            output = network.forward_guided(batch.low)
        epsilon = recipe.optimisation.charbonnier_epsilon
        return slowmo_losses(output, batch.truth, batch.guides, recipe.guidance, epsilon)._asdict()

    def scores(self, network: ZoomingSlowMo, clip: Tensor, device: torch.device) -> dict[str, float]:
        """For BI, the frames that were given and those between apart, over one window as published (7 frames)."""
        length = min(len(clip), 2 * WINDOW - 1)
        clip = clip[: length - 1 + length % 2]
        low = degrade_bi(clip[::2])[None].to(device)
        with torch.autocast(device.type, torch.bfloat16):
            results = network(low)[0]
        return {
            "psnr_existing": _psnr(results[::2], clip[::2]),
            "psnr_synthetic": _psnr(results[1::2], clip[1::2]),
        }


# By the ids of models/registry.py: how networks of each architecture that makes frames are trained. Face detectors have
# a training of their own (train/detector).
TASKS: dict[str, Task[Any]] = {"secnet": EnlargingTask(), "zsm": SlowmoTask()}


def task_of(network: Network) -> Task[Any]:
    """The task that trains networks of this architecture."""
    return TASKS[id_of(network)]


def _psnr(result: Tensor, truth: Tensor) -> float:
    error = (to_8_bits(result.float().cpu()) - truth)[..., 8:-8, 8:-8].square().mean()
    return decibels(float(error))
