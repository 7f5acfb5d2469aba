"""Training of the networks that make frames: the run, one step and one validation.

TASKS holds what depends on the architecture, the recipe all numbers; `trainer` is the loop around the steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from vidsr.errors import InputError, UsageError
from vidsr.evaluation.metrics import SCALE, decibels, to_8_bits
from vidsr.models.registry import build, id_of
from vidsr.nets.base import Network
from vidsr.nets.cajnn.network import CAJNN
from vidsr.nets.hime.network import HIME
from vidsr.nets.layers.conditioning import Estimate
from vidsr.nets.secnet.network import ClipReferences, SECNet
from vidsr.nets.zsm.config import WINDOW
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.runtime.device import choose_device, training_autocast
from vidsr.train.adversarial import Adversary
from vidsr.train.codecs import Roundtrip
from vidsr.train.data import Batch, Batches
from vidsr.train.dataset import CLIPS, Item, cached_frames, find_training_files, split_holdout
from vidsr.train.degrade import H264Roundtrip, degrade_bd, degrade_bi, from_bytes
from vidsr.train.degrade_real import degrade_jpeg
from vidsr.train.face_clips import FaceBatches, FaceClip
from vidsr.train.face_task import FacePriorTask
from vidsr.train.image_terms import add_image_terms
from vidsr.train.initialization import start_from
from vidsr.train.losses import (
    estimate_loss,
    perceptual_loss,
    reconstruction_loss,
    secnet_losses,
    slowmo_losses,
)
from vidsr.train.people import ReferenceBatches, ReferenceClip, find_faces, find_people, split_people
from vidsr.train.perceptual import Distance, PerceptualDistance, Vgg19Distance, VggFaceDistance
from vidsr.train.policy_task import PolicyTask
from vidsr.train.recipe import Recipe, refuse_unfit
from vidsr.train.reference_losses import reference_losses
from vidsr.train.trainer import Trainer, TrainOptions, create_folder

VALIDATION_QUALITY = 40  # JPEG quality
CAJNN_QUALITIES = (10, 20, 40)  # those of the dissertation's table 4.1
N = TypeVar("N", contravariant=True)


class Task(Protocol[N]):
    """What depends on the architecture in a training. A validation clip needs at least `min_frames` frames."""

    min_frames: int

    def check(self, network: N, recipe: Recipe) -> None:
        """Raises UsageError if the recipe cannot train the network."""

    def losses(
        self, network: N, batch: Batch, recipe: Recipe, pretraining: bool, distance: Distance | None,
        adversary: Adversary | None = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        """One forward pass over a batch on the network's device, in bf16 where that pays; minimize the loss `total`.

        `distance` belongs to a recipe with [perceptual], `adversary` to one with [adversarial].
        """

    def scores(self, network: N, clip: Any, device: torch.device) -> dict[str, float]:
        """PSNR in dB (RGB, without an 8-pixel border); the best model has the largest sum.

        `clip` is T x 3 x H x W, or for a recipe with [references] a ReferenceClip, with [faces] a FaceClip.
        """


class UpscalingTask:
    """SECNet: upscales all frames of a clip (Algorithm 4)."""

    min_frames = 1

    def check(self, network: SECNet, recipe: Recipe) -> None:
        """Refuses clips that are too short for the motion offsets, and tables that do not fit the network."""
        reach = max(map(abs, network.config.offsets))
        if recipe.data.frames <= reach:
            raise UsageError(
                f"the recipe '{recipe.name}' trains on {recipe.data.frames} frames; motion over {reach} frames needs "
                "more"
            )
        if network.estimator is not None and recipe.real is None:
            raise UsageError(f"the recipe '{recipe.name}' trains an estimator: add the table [real]")
        if network.estimator is None and recipe.real is not None:
            needing = {"only": recipe.real.estimator_only != "no", "frozen": recipe.real.estimator_frozen}
            for name, is_set in needing.items():
                if is_set:
                    what = f"needs network.estimator_width for real.estimator_{name}"
                    raise UsageError(f"the recipe '{recipe.name}' {what}")
        if recipe.guidance is not None:
            raise UsageError(
                f"the recipe '{recipe.name}' trains a secnet network, which cannot use [guidance]: remove the table"
            )
        references, tables = recipe.references, _without_references(recipe)
        demands = {
            "needs network.reference_width for the table [references]": references is None
            or network.references is not None,
            "needs the table [references] for network.reference_width": references is not None
            or network.references is None,
            "needs references.canvas": references is None or references.canvas > 0,
            'needs real.estimator_only = "no" with [faces]': recipe.faces is None
            or recipe.real is None
            or recipe.real.estimator_only == "no",
            "needs network.scale of 4 with [references]": references is None or network.config.scale == SCALE,
        }
        demands |= {
            demand: met
            for demand, met in tables.items()
            if not any(f"[{t}]" in demand for t in ("references", "faces"))
        }
        refuse_unfit(demands, recipe)

    def losses(
        self, network: SECNet, batch: Batch, recipe: Recipe, pretraining: bool, distance: Distance | None,
        adversary: Adversary | None = None,  # noqa: ARG002 - see check
    ) -> dict[str, Tensor]:  # fmt: skip
        """Burn-in frames run without gradient; `pretraining` trains only the local fusion and the motion."""
        low, overrides = batch.low, batch.overrides
        if recipe.real is not None and recipe.real.estimator_only == "estimates":
            return self._estimator_losses(network, low, batch.quantities)
        state = before = None
        with training_autocast(low.device):
            if batch.burn_in:
                before, low = low[:, : batch.burn_in], low[:, batch.burn_in :]
                if not pretraining:
                    with torch.no_grad():
                        state = network(before, overrides=overrides).state
            references = _clip_references(batch)
            output = network(low, state, before, pretraining, overrides, references)
        losses = secnet_losses(output, low, batch.truth, network.config.offsets, recipe.optimisation, pretraining)
        found = losses._asdict()
        found = _with_estimate_loss(found, output.estimates, batch, recipe)
        if output.referred is not None and recipe.references is not None and batch.strangers is not None:
            strangers = batch.strangers[:, None].expand(-1, low.shape[1], -1).flatten(0, 1)
            more = reference_losses(output.referred, batch.truth.flatten(0, 1), strangers)
            found |= more._asdict()
            found["total"] = found["total"] + recipe.references.align_weight * more.align
            found["total"] = found["total"] + recipe.references.match_weight * more.match
        if recipe.perceptual is not None and distance is not None and not pretraining:
            with training_autocast(low.device):
                found["perceptual"] = perceptual_loss(output.results, batch.truth, distance, recipe.perceptual.crop)
            found["total"] = found["total"] + recipe.perceptual.weight * found["perceptual"]
        return found

    @staticmethod
    def _estimator_losses(network: SECNet, low: Tensor, quantities: Tensor | None) -> dict[str, Tensor]:
        """The loss of the estimates of each frame of B x T x 3 x h x w, in float32: their differences are small."""
        assert network.estimator is not None and quantities is not None, "see check"
        estimates = network.estimator.logits(low.flatten(0, 1))
        shaped = Estimate(*(part.view(*low.shape[:2], *part.shape[1:]) for part in estimates))
        return {"total": estimate_loss(shaped, quantities)}

    def scores(
        self, network: SECNet, clip: Tensor | ReferenceClip | FaceClip, device: torch.device
    ) -> dict[str, float]:
        """For BI and BD; for a network with an estimator of degradation also for BI and JPEG.

        For a network with references: for BI, without them, with those of the person, and with those of strangers.
        """
        if isinstance(clip, ReferenceClip):
            return self._scores_with_references(network, clip, device)
        clip, scores = clip.truth if isinstance(clip, FaceClip) else clip, {}
        scale = network.config.scale
        degradations: dict[str, Callable[[Tensor], Tensor]] = {
            "psnr_bi": partial(degrade_bi, scale=scale),
            "psnr_bd": partial(degrade_bd, sigma=1.5 * scale / SCALE, scale=scale),
        }
        if network.estimator is not None:
            degradations["psnr_jpeg"] = partial(degrade_jpeg, quality=VALIDATION_QUALITY, scale=scale)
        for name, degrade in degradations.items():
            low = degrade(clip)[None].to(device)
            with training_autocast(device):
                result = network(low).results[0]
            scores[name] = _psnr(result, clip)
        return scores

    def _scores_with_references(self, network: SECNet, clip: ReferenceClip, device: torch.device) -> dict[str, float]:
        scores, low = {}, degrade_bi(clip.truth)[None].to(device)
        for name, images in (("none", None), ("person", clip.references), ("stranger", clip.strangers)):
            references = None
            if images is not None and clip.poses is not None:
                poses = clip.poses[None, :, : len(images)].to(device)
                references = ClipReferences(images[None].to(device), poses)
            with training_autocast(device):
                result = network(low, references=references).results[0]
            scores[f"psnr_{name}"] = _psnr(result, clip.truth)
        return scores


def _with_estimate_loss(
    found: dict[str, Tensor], estimates: Estimate | None, batch: Batch, recipe: Recipe
) -> dict[str, Tensor]:
    """The losses with that of the estimates of each frame, if there is an estimator and it learns."""
    if estimates is None or recipe.real is None or recipe.real.estimator_frozen or batch.quantities is None:
        return found
    loss = estimate_loss(estimates, batch.quantities)
    return found | {"estimate": loss, "total": found["total"] + recipe.real.estimate_weight * loss}


def _clip_references(batch: Batch) -> ClipReferences | None:
    """The reference photographs of the frames of a batch behind the burn-in, if it has any."""
    if batch.references is None or batch.poses is None:
        return None
    return ClipReferences(batch.references, batch.poses[:, batch.burn_in :], batch.present)


class SlowmoTask:
    """Zooming SlowMo: the input is the 1st, 3rd ... frame of a clip, the output every frame."""

    min_frames = 3

    def check(self, network: ZoomingSlowMo, recipe: Recipe) -> None:
        """The guiding losses need [guidance], the synthesis head and at least two interpolated frames."""
        demands = {
            "cannot use the table [perceptual]: remove it": recipe.perceptual is None,
            **_without_references(recipe),
            "needs the table [real] for network.estimator_width, and the width for the table": (
                (recipe.real is None) == (network.estimator is None)
            ),
            "needs real.estimator_only to be left out": recipe.real is None or recipe.real.estimator_only == "no",
            "needs the table [guidance]": recipe.guidance is not None,
            "needs network.synthesis_blocks of 1 or more": network.config.synthesis_blocks >= 1,
            "needs an odd number of frames, 5 or more (data.frames)": recipe.data.frames in range(5, 1000, 2),
            "has no burn-in: set data.burn_in_share to 0": recipe.data.burn_in_share == 0,
            "has no pretraining: set optimisation.fusion_steps to 0": recipe.optimisation.fusion_steps == 0,
        }
        refuse_unfit(demands, recipe)

    def losses(
        self,
        network: ZoomingSlowMo,
        batch: Batch,
        recipe: Recipe,
        pretraining: bool,  # noqa: ARG002 - nothing to pretrain
        distance: Distance | None,  # noqa: ARG002 - see check
        adversary: Adversary | None = None,  # noqa: ARG002 - see check
    ) -> dict[str, Tensor]:
        """Equation (6.10), for a batch with guides; with an estimator that learns also the loss of its estimates."""
        assert batch.guides is not None and recipe.guidance is not None, "see check"
        with training_autocast(batch.low.device):
            output = network.forward_guided(batch.low, batch.overrides)
        epsilon = recipe.optimisation.charbonnier_epsilon
        found = slowmo_losses(output, batch.truth, batch.guides, recipe.guidance, epsilon)._asdict()
        return _with_estimate_loss(found, output.estimates, batch, recipe)

    def scores(self, network: ZoomingSlowMo, clip: Tensor, device: torch.device) -> dict[str, float]:
        """For BI: input frames and interpolated frames apart, over one window of 7 frames as in the publication.

        For a network with an estimator of degradation also for BI and JPEG.
        """
        length = min(len(clip), 2 * WINDOW - 1)
        clip, scores = clip[: length - 1 + length % 2], {}
        degradations: dict[str, Callable[[Tensor], Tensor]] = {"": degrade_bi}
        if network.estimator is not None:
            degradations["_jpeg"] = partial(degrade_jpeg, quality=VALIDATION_QUALITY)
        for ending, degrade in degradations.items():
            low = degrade(clip[::2])[None].to(device)
            with training_autocast(device):
                results = network(low)[0]
            scores[f"psnr_existing{ending}"] = _psnr(results[::2], clip[::2])
            scores[f"psnr_synthetic{ending}"] = _psnr(results[1::2], clip[1::2])
        return scores


class SingleImageTask:
    """CAJNN: every frame of a clip is a sample of its own."""

    min_frames = 1

    def check(self, network: CAJNN, recipe: Recipe) -> None:  # noqa: ARG002 - all demands are on the recipe
        """Refuses tables and settings that have no meaning for single images."""
        demands = {
            "cannot use the table [guidance]: remove it": recipe.guidance is None,
            "cannot use the table [perceptual]: remove it": recipe.perceptual is None,
            **_without_references(recipe),
            "needs compressed samples: add the table [jpeg] or [real]": (recipe.jpeg or recipe.real) is not None,
            "has no burn-in: set data.burn_in_share to 0": recipe.data.burn_in_share == 0,
            "has no pretraining: set optimisation.fusion_steps to 0": recipe.optimisation.fusion_steps == 0,
        }
        refuse_unfit(demands, recipe)

    def losses(
        self,
        network: CAJNN,
        batch: Batch,
        recipe: Recipe,
        pretraining: bool,  # noqa: ARG002 - nothing to pretrain
        distance: Distance | None,  # noqa: ARG002 - see check
        adversary: Adversary | None = None,  # noqa: ARG002 - see check
    ) -> dict[str, Tensor]:
        """Equation (4.1); the loss is silent there: the recipe's Charbonnier or squared error.

        The loss of a low-resolution head, (4.8), is left out: the best weight of its table 4.5 is 0.
        """
        with training_autocast(batch.low.device):
            result = network.enlarge(batch.low.flatten(0, 1))
        epsilon = recipe.optimisation.charbonnier_epsilon
        return {"total": reconstruction_loss(result, batch.truth.flatten(0, 1), epsilon)}

    def scores(self, network: CAJNN, clip: Tensor, device: torch.device) -> dict[str, float]:
        """For BI and JPEG of quality 10, 20 and 40 (4.4.1), of every fifth frame: the others hardly differ."""
        scores, clip = {}, clip[::5]
        for quality in CAJNN_QUALITIES:
            low = degrade_jpeg(clip, quality, network.config.scale).to(device)
            with training_autocast(device):
                results = torch.cat([network(image[None]) for image in low])
            scores[f"psnr_jpeg_{quality}"] = _psnr(results, clip)
        return scores


class ReferenceTask:
    """HIME: a sample is one image with reference photographs of the same person, of strangers, or none."""

    min_frames = 1

    def check(self, network: HIME, recipe: Recipe) -> None:
        """Refuses samples without references, and settings that have no meaning for single images."""
        demands = {
            "needs the table [references]": recipe.references is not None,
            "needs references.canvas and branch_only to be left out": recipe.references is None
            or (recipe.references.canvas == 0 and not recipe.references.branch_only),
            "needs network.scale of 4, by which samples are reduced": network.config.scale == SCALE,
            "takes single images: set data.frames to 1": recipe.data.frames == 1,
            "has no burn-in: set data.burn_in_share to 0": recipe.data.burn_in_share == 0,
            "has no pretraining: set optimisation.fusion_steps to 0": recipe.optimisation.fusion_steps == 0,
        }
        refuse_unfit(demands, recipe)

    def losses(
        self,
        network: HIME,
        batch: Batch,
        recipe: Recipe,
        pretraining: bool,  # noqa: ARG002 - nothing to pretrain
        distance: Distance | None,
        adversary: Adversary | None = None,
    ) -> dict[str, Tensor]:
        """L_rec (5.3.4), and with the recipe's tables the other terms of (5.9)."""
        assert batch.references is not None, "see check"
        with training_autocast(batch.low.device):
            result = network(batch.low[:, 0], batch.references, batch.present)
        final = reconstruction_loss(result, batch.truth[:, 0], recipe.optimisation.charbonnier_epsilon)
        return add_image_terms({"final": final}, final, result[:, None], batch.truth, recipe, distance, adversary)

    def scores(self, network: HIME, clip: ReferenceClip, device: torch.device) -> dict[str, float]:
        """For BI, without references, with those of the person, and with those of a stranger."""
        low = degrade_bi(clip.truth).to(device)
        scores = {}
        for name, images in (("none", None), ("person", clip.references), ("stranger", clip.strangers)):
            references = None if images is None else images[None].to(device)
            with training_autocast(device):
                result = network(low[:1], references)
            scores[f"psnr_{name}"] = _psnr(result, clip.truth[:1])
        return scores


# How networks that make frames are trained, by architecture id (models/registry.py). Face detectors: train/detector.
TASKS: dict[str, Task[Any]] = {
    "secnet": UpscalingTask(),
    "zsm": SlowmoTask(),
    "cajnn": SingleImageTask(),
    "hime": ReferenceTask(),
    "mpenet": FacePriorTask(),
    "attention-fh": PolicyTask(),
}


def _without_references(recipe: Recipe) -> dict[str, bool]:
    """The demands of a network that uses no references."""
    tables = {
        "references": recipe.references, "correlation": recipe.correlation, "adversarial": recipe.adversarial,
        "faces": recipe.faces, "policy": recipe.policy,
    }  # fmt: skip
    return {f"cannot use the table [{name}]: remove it": table is None for name, table in tables.items()}


def task_of(network: Network) -> Task[Any]:
    """The task for a network's architecture."""
    return TASKS[id_of(network)]


def train(recipe: Recipe, options: TrainOptions, on_log: Callable[[dict[str, Any]], None] = lambda _: None) -> Path:
    """Trains until the recipe's steps are done or the time is up; resumes from `output`/last.pt if it exists.

    Writes last.pt, best.pt (averaged weights with the best validation PSNR; only if clips are held out) and log.jsonl
    into `output`; returns the path of last.pt. Raises UsageError if last.pt belongs to another recipe, or if the recipe
    does not fit its network, such as motion over more frames than a clip has.
    """
    settings, device = recipe.optimisation, choose_device(options.device)
    create_folder(options.output)
    torch.manual_seed(recipe.seed)
    distance = _perceptual_distance(recipe, options, device)
    network = build(recipe.architecture, recipe.network).to(device)
    task = task_of(network)
    task.check(network, recipe)
    if recipe.references is None and recipe.faces is None:
        batches, validation = _clip_samples(recipe, options, task.min_frames)
    else:
        batches, validation = _people_samples(recipe, options)
    adversary = None if recipe.adversarial is None else Adversary(recipe.adversarial, recipe.data.crop, device)

    def step(batch: Batch, number: int) -> dict[str, float]:
        pretraining = number < settings.fusion_steps
        return train_step(network, batch, optimizer, recipe, device, pretraining, distance, adversary)

    def scores(average: Network) -> dict[str, float]:
        return validate(average, validation, device) if validation else {}

    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's annotations
    optimizer = torch.optim.Adam(_trained(network, recipe), lr=settings.learning_rate, betas=(0.9, 0.99))
    start = partial(start_from, network)
    trainer = Trainer(
        recipe, options, network, optimizer, start, scores, lambda found: sum(found.values()), on_log, adversary
    )
    return trainer.run(batches, step)


def _trained(network: Network, recipe: Recipe) -> list[nn.Parameter]:
    """The parameters that a recipe trains; the others get no gradient."""
    if recipe.references is not None and recipe.references.branch_only:
        network.requires_grad_(False)
        branch = network.get_submodule("references")
        return list(branch.requires_grad_(True).parameters())
    if recipe.real is not None and recipe.real.estimator_only != "no":
        network.requires_grad_(False)
        estimator = network.get_submodule("estimator")
        return list(estimator.requires_grad_(True).parameters())
    if recipe.real is not None and recipe.real.estimator_frozen:
        network.get_submodule("estimator").requires_grad_(False)
        return [parameter for parameter in network.parameters() if parameter.requires_grad]
    return list(network.parameters())


def train_step(
    network: Network,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    device: torch.device,
    pretraining: bool = False,
    distance: Distance | None = None,
    adversary: Adversary | None = None,
) -> dict[str, float]:
    """One step on a batch; returns the losses. `pretraining` trains only SECNet's local fusion and motion.

    With an `adversary`, it learns from the same batch.
    """
    losses = task_of(network).losses(network, batch.to(device), recipe, pretraining, distance, adversary)
    optimizer.zero_grad(set_to_none=True)
    losses["total"].backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(network.parameters(), recipe.optimisation.gradient_clip)
    if torch.isfinite(norm):
        optimizer.step()
    found = {key: float(value.detach()) for key, value in losses.items()} | {"gradient_norm": float(norm)}
    return found if adversary is None else found | {"discriminator": adversary.learn()}


@torch.no_grad()
def validate(network: Network, clips: Sequence[Any], device: torch.device) -> dict[str, float]:
    """The task's scores in dB, each averaged over one or more of its clips."""
    scores = [task_of(network).scores(network, clip, device) for clip in clips]
    return {name: float(np.mean([clip_scores[name] for clip_scores in scores])) for name in scores[0]}


def _clip_samples(recipe: Recipe, options: TrainOptions, min_frames: int) -> tuple[Dataset[Batch], Sequence[Any]]:
    """The batches of a recipe, and its validation clips. Raises InputError if one has fewer than `min_frames`."""
    items = find_training_files(options.data, recipe.data.licence_classes)
    shares = {"faces": recipe.data.share_faces, "general": recipe.data.share_general}
    validated_kinds = [kind for kind in CLIPS if shares[kind] > 0] or list(CLIPS)
    items, held_out = split_holdout(items, recipe.data.holdout_clips, validated_kinds)
    cache = options.output.parent / "frames"
    batches = Batches(recipe, items, cache, _h264(recipe), _roundtrip(recipe))
    validation = [_validation_clip(item, cache) for item in held_out]
    for item, clip in zip(held_out, validation, strict=True):
        if len(clip) < min_frames:
            raise InputError(f"the validation clip {item.path} has {len(clip)} frames: it needs at least {min_frames}")
    return batches, validation


def _people_samples(recipe: Recipe, options: TrainOptions) -> tuple[Dataset[Batch], Sequence[Any]]:
    """The batches of a recipe with [references] or [faces], and a validation clip of each person held out."""
    table, batches = recipe.faces or recipe.references, FaceBatches if recipe.faces else ReferenceBatches
    assert table is not None
    items = find_training_files(options.data, recipe.data.licence_classes, of_people=True)
    cache = options.output.parent / "frames"
    people = find_people(items, table.person_pattern, cache, find_faces)
    people, held_out = split_people(people, table.holdout_people)
    samples = batches(recipe, people, cache, _h264(recipe), _roundtrip(recipe))
    return samples, samples.validation(held_out)


def _perceptual_distance(recipe: Recipe, options: TrainOptions, device: torch.device) -> Distance | None:
    if recipe.perceptual is None:
        if options.perceptual is not None:
            raise UsageError(
                f"the recipe '{recipe.name}' has no table [perceptual]: add it, or leave the perceptual weights out"
            )
        return None
    if options.perceptual is None:
        raise UsageError(
            f"the recipe '{recipe.name}' needs the weights of the perceptual distance: give them with --perceptual"
        )
    kinds: dict[str, Callable[[Path, torch.device], Distance]] = {
        "alex": PerceptualDistance,
        "vgg19": Vgg19Distance,
        "vggface": VggFaceDistance,
    }
    return kinds[recipe.perceptual.network](options.perceptual, device)


def _validation_clip(item: Item, cache: Path) -> Tensor:
    frames = cached_frames(item, cache)[:10]
    height, width = (size - size % 4 for size in frames.shape[1:3])
    if min(height, width) < 32:
        raise InputError(f"the validation clip {item.path} is {width}x{height}; it needs at least 32x32 pixels")
    return from_bytes(np.array(frames[:, :height, :width]))


def _h264(recipe: Recipe) -> H264Roundtrip | None:
    if recipe.degradation.h264_share == 0:
        return None
    from vidsr.video.roundtrip import h264_roundtrip  # loads PyAV, so only if the recipe needs it

    return h264_roundtrip


def _roundtrip(recipe: Recipe) -> Roundtrip | None:
    if recipe.real is None:
        return None
    from vidsr.video.roundtrip import codec_roundtrip

    return codec_roundtrip


def _psnr(result: Tensor, truth: Tensor) -> float:
    error = (to_8_bits(result.float().cpu()) - truth)[..., 8:-8, 8:-8].square().mean()
    return decibels(float(error))
