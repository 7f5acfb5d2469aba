"""Training of face detectors: the run, one step and one validation."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import torch
from torch import nn

from vidsr.errors import InputError
from vidsr.evaluation.detection import ImageResult, evaluate_image, metrics_at_precision
from vidsr.faces.detections import Detections
from vidsr.faces.detector import OVERLAP
from vidsr.faces.yunet import MULTIPLE, decode
from vidsr.models.registry import build
from vidsr.nets.facepyramid import FacePyramid, FacePyramidGraph
from vidsr.runtime.device import choose_device, training_autocast
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.dataset import find_training_files, split_holdout
from vidsr.train.detector.augment import Image
from vidsr.train.detector.labels import LABELS, LabeledImage, read_labels
from vidsr.train.detector.losses import detector_losses
from vidsr.train.detector.recipe import DetectorRecipe
from vidsr.train.detector.targets import FaceBatch, FaceBatches
from vidsr.train.trainer import Trainer, TrainOptions, create_folder

# Validation: held-out images unchanged, and reduced with strong compression.
_SCALES = {"full": 1.0, "small": 0.25}
_QUALITY = 40
_PRECISION = 0.95
_MIN_SIDE, _MIN_SCORE = 20.0, 0.05
_UNSURE = 0.6  # score of faces that are neither wanted nor false alarms
_OBJECTIVE = {"recall": 1.0, "landmarks": -1.0, "threshold": 0.0}


def train_detector(
    recipe: DetectorRecipe, options: TrainOptions, on_log: Callable[[dict[str, Any]], None] = lambda _: None
) -> Path:
    """Trains until the recipe's steps are done or the time is up; resumes from `output`/last.pt if it exists.

    The labels are read from face-labels.json beside `output`. Writes last.pt, best.pt (averaged weights with the best
    sum of recalls minus landmark errors; only if clips are held out) and log.jsonl into `output`; returns the path of
    last.pt. Raises UsageError if last.pt belongs to another recipe.
    """
    settings, device = recipe.optimisation, choose_device(options.device)
    create_folder(options.output)
    torch.manual_seed(recipe.seed)
    network = cast(FacePyramid, build(recipe.architecture, recipe.network)).to(device)
    items, held = split_holdout(
        find_training_files(options.data, recipe.data.licence_classes), recipe.data.holdout_clips
    )
    labels, cache = options.output.parent / LABELS, options.output.parent / "frames"
    batches = FaceBatches(recipe, read_labels(labels, options.data, items), cache)
    validation = read_labels(labels, options.data, held)

    def step(batch: FaceBatch, _: int) -> dict[str, float]:
        return train_detector_step(network, batch, optimizer, recipe, device)

    def scores(average: FacePyramid) -> dict[str, float]:
        return validate_detector(average, validation, cache, device) if validation else {}

    def objective(found: dict[str, float]) -> float:
        return sum(_OBJECTIVE[name.partition("_")[0]] * value for name, value in found.items())

    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's annotations
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    trainer = Trainer(recipe, options, network, optimizer, partial(_start_from, network), scores, objective, on_log)
    return trainer.run(batches, step)


def train_detector_step(
    network: FacePyramid, batch: FaceBatch, optimizer: torch.optim.Optimizer, recipe: DetectorRecipe,
    device: torch.device,
) -> dict[str, float]:  # fmt: skip
    """One step on one batch, in bf16 where that pays; returns the losses as numbers."""
    network.train()
    batch = batch.to(device)
    images = (batch.images.float() / 255).contiguous(memory_format=torch.channels_last)
    with training_autocast(device):
        raw = network(images)
    losses = detector_losses(raw, batch, recipe.loss)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(network.parameters(), recipe.optimisation.gradient_clip)
    if torch.isfinite(norm):
        optimizer.step()
    return {key: float(value.detach()) for key, value in losses._asdict().items()} | {"gradient_norm": float(norm)}


def validate_detector(
    network: FacePyramid, samples: list[LabeledImage], cache: Path, device: torch.device
) -> dict[str, float]:
    """Recall at a precision of 0.95, its threshold and landmark error, at full and reduced size; no undefined values.

    Wanted are faces of at least 20 pixels.
    """
    values: dict[str, float] = {}
    graph = FacePyramidGraph(network)
    for name, scale in _SCALES.items():
        results: list[ImageResult] = []
        for sample in samples:
            image = np.ascontiguousarray(sample.image(cache)[..., ::-1])
            height, width = image.shape[:2]
            reference = Detections(
                sample.faces.boxes, sample.faces.landmarks, np.where(sample.faces.is_sure, 1.0, _UNSURE)
            )
            if scale < 1:
                image = _degraded(image, max(1, round(width * scale)), max(1, round(height * scale)))
                reference = reference.scaled(image.shape[1] / width, image.shape[0] / height)
            results.append(evaluate_image(detect(graph, image, device, _MIN_SCORE), reference, _MIN_SIDE))
        best = metrics_at_precision(results, _PRECISION)
        values |= {f"recall_{name}": best.recall, f"threshold_{name}": best.threshold}
        values |= {f"landmarks_{name}": best.landmark_error}
    return {name: value for name, value in values.items() if math.isfinite(value)}


@torch.inference_mode()
def detect(graph: FacePyramidGraph, image: Image, device: torch.device, min_score: float) -> Detections:
    """The faces of an image, H x W x 3 BGR, in float32, after the suppression of vidsr/faces/detector.py."""
    height, width = (-(-side // MULTIPLE) * MULTIPLE for side in image.shape[:2])
    canvas = np.zeros((height, width, 3), np.float32)
    canvas[: image.shape[0], : image.shape[1]] = image
    values = graph(torch.from_numpy(canvas.transpose(2, 0, 1)[None].copy()).to(device))
    outputs = {name: value.float().cpu().numpy() for name, value in zip(graph.outputs(), values, strict=True)}
    return decode(outputs, height, width, min_score).suppressed(OVERLAP)


def _degraded(image: Image, width: int, height: int) -> Image:
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _start_from(network: FacePyramid, path: Path) -> None:
    """Loads the averaged weights of another run's checkpoint."""
    try:
        network.load_state_dict(load_checkpoint(path)["average"])
    except (RuntimeError, KeyError) as error:
        raise InputError(f"the weights of {path} do not fit the recipe's network: give others") from error
