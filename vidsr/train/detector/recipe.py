"""Training recipe of a face detector: every parameter that determines the result, read from one TOML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vidsr.errors import UsageError
from vidsr.models.registry import ARCHITECTURES
from vidsr.toml import read_table
from vidsr.train.recipe import fill_tables


@dataclass(frozen=True, slots=True)
class DetectorDataConfig:
    """The composition of training images. `share_*` are probabilities; sizes are in pixels.

    A batch has images of one of `sizes`, as many as fit into `pixels` pixels. The side of a face (root of its box's
    area) ranges from `least_side` to the fraction `largest_share` of the image's side; it is rotated by up to
    `largest_angle` degrees. Per image: `share_background` for no pasted person; otherwise `share_single` for one person
    instead of several small ones; `share_clutter` for shapes and text drawn before any person; `share_occluded` for
    covering parts of faces; `share_margin` for black padding on the right and below. Per person: `share_stills` for a
    photograph instead of a frame of a clip; `share_cut_out` for the head alone.
    """

    sizes: tuple[int, ...] = (192, 256, 256, 384)
    pixels: int = 1_600_000
    least_side: float = 9.0
    largest_share: float = 1.0
    largest_angle: float = 30.0
    share_background: float = 0.2
    share_single: float = 0.55
    share_stills: float = 0.4
    share_cut_out: float = 0.25
    share_occluded: float = 0.25
    share_clutter: float = 0.3
    share_margin: float = 0.15
    licence_classes: tuple[str, ...] = ("A", "B")
    holdout_clips: int = 20


@dataclass(frozen=True, slots=True)
class DetectorLossConfig:
    """Assignment and weights of the losses; the weights of the two scores are 1.

    `near`: range of the sides (root of the area) of the faces assigned to a stride; `radius`: distance from the face's
    center within which cells own it; both in strides.
    """

    near: tuple[float, float] = (2.5, 6.0)
    radius: float = 1.3
    weight_box: float = 2.0
    weight_points: float = 5.0


@dataclass(frozen=True, slots=True)
class DetectorOptimizationConfig:
    """Optimization, as for the other networks, with AdamW's `weight_decay`."""

    steps: int = 12000
    learning_rate: float = 2e-3
    final_learning_rate: float = 1e-5
    warmup_steps: int = 200
    weight_decay: float = 0.01
    gradient_clip: float = 10.0
    ema_decay: float = 0.999
    validate_every: int = 1000
    checkpoint_minutes: float = 3.0


@dataclass(frozen=True, slots=True)
class DetectorRecipe:
    """The complete training of a detector. `network` holds the arguments of the architecture's configuration.

    `score_shift` is added to the logits of the scores in the published file.
    """

    name: str
    summary: str
    architecture: str
    seed: int = 0
    score_shift: float = 0.0
    network: dict[str, Any] = field(default_factory=dict)
    data: DetectorDataConfig = field(default_factory=DetectorDataConfig)
    loss: DetectorLossConfig = field(default_factory=DetectorLossConfig)
    optimisation: DetectorOptimizationConfig = field(default_factory=DetectorOptimizationConfig)


def is_detector_recipe(path: Path) -> bool:
    """Whether a recipe's architecture is a face detector's. Raises UsageError for an unreadable file."""
    row = ARCHITECTURES.get(str(read_table(path, "recipe", UsageError).get("architecture")))
    return row is not None and row.tasks == ("detect",)


def load_detector_recipe(path: Path) -> DetectorRecipe:
    """Reads a recipe. Raises UsageError for an unreadable file, an unknown key, a wrong type or an invalid value."""
    parts = {
        "data": DetectorDataConfig,
        "loss": DetectorLossConfig,
        "optimisation": DetectorOptimizationConfig,
    }
    recipe = fill_tables(DetectorRecipe, parts, read_table(path, "recipe", UsageError), path)
    data, loss, optimisation = recipe.data, recipe.loss, recipe.optimisation
    shares = (
        data.share_background, data.share_single, data.share_stills, data.share_cut_out, data.share_occluded,
        data.share_clutter, data.share_margin,
    )  # fmt: skip
    demands = {
        "data.sizes must be multiples of 32 and at least 64": bool(data.sizes)
        and all(size >= 64 and size % 32 == 0 for size in data.sizes),
        "data.pixels must hold an image of the largest size": data.pixels >= max(data.sizes, default=0) ** 2,
        "data.share_* must be in 0..1": min(shares) >= 0 and max(shares) <= 1,
        "data.least_side must be positive and below a quarter of the smallest size": 0
        < data.least_side
        < min(data.sizes, default=0) / 4,
        "loss.near must be positive and rise by at least 2": 0 < 2 * loss.near[0] <= loss.near[1],
        "loss.radius must be positive": loss.radius > 0,
        "optimisation.steps must be at least 1": optimisation.steps >= 1,
        "optimisation.validate_every must be at least 1": optimisation.validate_every >= 1,
    }
    for demand, met in demands.items():
        if not met:
            raise UsageError(f"{path}: {demand}")
    return recipe
