"""A training recipe: every number that decides what a model becomes, read from one TOML file, misspelt keys refused."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from vidsr.errors import UsageError
from vidsr.toml import fill, read_table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Where samples come from. The four shares (clips of faces, other clips, moved stills, of faces) are weights.

    `crop` is in ground-truth pixels; `burn_in_share` of the batches run `burn_in_frames` frames without gradient first;
    `upright` leaves out the flips that put a face on its head or side.
    """

    crop: int = 160
    frames: int = 7
    batch: int = 12
    share_faces: float = 0.3
    share_general: float = 0.3
    share_stills: float = 0.4
    share_face_stills: float = 0.0
    text_share: float = 0.1
    texture_choice_share: float = 0.7
    frozen_share: float = 0.04
    max_stride_faces: int = 2
    max_stride_general: int = 3
    max_still_speed: float = 10.0
    burn_in_share: float = 0.12
    burn_in_frames: int = 24
    licence_classes: tuple[str, ...] = ("A", "B")
    holdout_clips: int = 8
    upright: bool = False


@dataclass(frozen=True, slots=True)
class DegradationConfig:
    """How low-resolution frames are made; the first three are relative weights, the shares are of all samples."""

    weight_bicubic: float = 0.45
    weight_blur: float = 0.45
    weight_area: float = 0.1
    blur_sigma: tuple[float, float] = (0.6, 2.0)
    blur_paper_share: float = 0.6
    noise_share: float = 0.1
    noise_sigma: tuple[float, float] = (0.5, 4.0)
    jpeg_share: float = 0.08
    jpeg_quality: tuple[int, int] = (50, 95)
    h264_share: float = 0.08
    h264_crf: tuple[int, int] = (16, 30)


@dataclass(frozen=True, slots=True)
class OptimisationConfig:
    """`charbonnier_epsilon` 0 means mean squared error.

    SECNet's alone are `weight_first`, `gamma` and `alpha`, the loss weights of its (10) with its names, and
    `fusion_steps`: the first ones train the local fusion and the motion alone (III-A).
    """

    steps: int = 3600
    fusion_steps: int = 0
    learning_rate: float = 1.5e-3
    final_learning_rate: float = 1e-6
    warmup_steps: int = 50
    gradient_clip: float = 0.5
    charbonnier_epsilon: float = 1e-3
    weight_first: float = 0.5
    gamma: float = 0.1
    alpha: float = 0.01
    ema_decay: float = 0.999
    validate_every: int = 200
    checkpoint_minutes: float = 3.0


@dataclass(frozen=True, slots=True)
class GuidanceConfig:
    """Guided interpolation: the loss weights of Zooming SlowMo (6.10), with its names."""

    lambda_1: float = 1.0
    lambda_2: float = 0.5
    lambda_3: float = 0.5


@dataclass(frozen=True, slots=True)
class RealConfig:
    """Real footage (see degrade_real), and how a network learns to be told of it.

    The share `clean_share` of the samples stays clean; the other shares are of the rest. `blur_sigma` is of an extra
    blur, in ground-truth pixels. `lead_frames` at most are encoded before the first frame that counts, so that it is
    not always a key frame. Each of a sample's true quantities is told with the chance `told_share`; `estimate_weight`
    is that of the loss of the network's own estimates.
    """

    clean_share: float = 0.35
    blur_share: float = 0.3
    blur_sigma: tuple[float, float] = (0.3, 3.0)
    enlarged_share: float = 0.12
    sharpened_share: float = 0.12
    noise_share: float = 0.3
    noise_sigma: tuple[float, float] = (0.5, 20.0)
    encode_share: float = 0.75
    twice_share: float = 0.2
    h264_crf: tuple[int, int] = (18, 42)
    jpeg_quality: tuple[int, int] = (10, 95)
    lead_frames: int = 6
    told_share: float = 0.5
    estimate_weight: float = 0.05


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model's training from start to end. `network` holds the arguments of the architecture's configuration.

    `guidance` makes it a training of slow motion: every second frame is given, all of them are to be found. `real`
    makes it a training on real footage, whose clean part is what `degradation` says.
    """

    name: str
    summary: str
    architecture: str
    seed: int = 0
    network: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    optimisation: OptimisationConfig = field(default_factory=OptimisationConfig)
    guidance: GuidanceConfig | None = None
    real: RealConfig | None = None


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe; raises UsageError for an unreadable file, an unknown key, a wrong type or an impossible value."""
    table = read_table(path, "recipe", UsageError)
    parts: dict[str, type[Any]] = {
        "data": DataConfig,
        "degradation": DegradationConfig,
        "optimisation": OptimisationConfig,
    }
    if "guidance" in table:
        parts["guidance"] = GuidanceConfig
    if "real" in table:
        parts["real"] = RealConfig
    recipe = fill_tables(Recipe, parts, table, path)
    _check(recipe, path)
    return recipe


def fill_tables(kind: type[T], parts: dict[str, type[Any]], table: dict[str, Any], path: Path) -> T:
    """A recipe of this kind, with the fields named in `parts` from tables of their own.

    Raises UsageError for an unknown key, a wrong type or a field that is missing.
    """
    filled = {key: fill(part, table.get(key, {}), f"{path}: [{key}]", UsageError) for key, part in parts.items()}
    return fill(kind, {**table, **filled}, str(path), UsageError)


def _check(recipe: Recipe, path: Path) -> None:
    data, degradation, optimisation = recipe.data, recipe.degradation, recipe.optimisation
    kinds = (data.share_faces, data.share_general, data.share_stills, data.share_face_stills)
    reductions = (degradation.weight_bicubic, degradation.weight_blur, degradation.weight_area)
    guidance = recipe.guidance or GuidanceConfig()
    degraded = degradation.noise_share + degradation.jpeg_share + degradation.h264_share
    demands = {
        "the weights of guidance must not be negative": min(dataclasses.astuple(guidance)) >= 0,
        "data.crop must be a multiple of 8 (H.264 needs even sizes)": data.crop > 0 and data.crop % 8 == 0,
        "data.frames must be at least 2 (motion needs a neighbour)": data.frames >= 2,
        "data.batch must be at least 1": data.batch >= 1,
        "optimisation.steps must be at least 1": optimisation.steps >= 1,
        "optimisation.validate_every must be at least 1": optimisation.validate_every >= 1,
        "the shares of data must not be negative, nor all 0": min(kinds) >= 0 < sum(kinds),
        "the weights of degradation must not be negative, nor all 0": min(reductions) >= 0 < sum(reductions),
        "with [real], degradation is its clean part: set noise_share, jpeg_share and h264_share to 0": (
            recipe.real is None or degraded == 0
        ),
        "[real] and [guidance] are not for one recipe": recipe.real is None or recipe.guidance is None,
    }
    for demand, met in demands.items():
        if not met:
            raise UsageError(f"{path}: {demand}")
