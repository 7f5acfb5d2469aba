"""Training recipes: all settings of a training, read from one TOML file; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from vidsr.errors import UsageError
from vidsr.evaluation.metrics import SCALE
from vidsr.toml import fill, read_table

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class DataConfig:
    """Which samples are drawn. `share_*` are weights of clips of faces, other clips, moving stills and face stills.

    `crop` is the side of a crop in ground-truth pixels. A fraction `burn_in_share` of the batches first runs
    `burn_in_frames` frames without gradient. `upright` allows only the left-right flip.
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
    """How low-resolution frames are made. `weight_*` are relative weights, `*_share` are fractions of the samples.

    Blur sigmas are in ground-truth pixels, noise sigmas in 8-bit levels; pairs are ranges.
    """

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
class OptimizationConfig:
    """Steps, learning rate and losses. `charbonnier_epsilon` 0 means mean squared error.

    Only for SECNet: `weight_first`, `gamma` and `alpha` are the loss weights of equation (10), with its names; the
    first `fusion_steps` steps train only the local fusion and the motion (III-A). In those of Attention-FH only its
    local network learns.
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
    """The loss weights of Zooming SlowMo's guided interpolation, equation (6.10)."""

    lambda_1: float = 1.0
    lambda_2: float = 0.5
    lambda_3: float = 0.5


@dataclass(frozen=True, slots=True)
class RealConfig:
    """Realistic degradation (see degrade_real), and how a network learns to use known degradations.

    A fraction `clean_share` of the samples stays clean; the other shares are fractions of the rest. `blur_sigma` is the
    range of an additional blur, in ground-truth pixels; `noise_sigma` is in 8-bit levels. Up to `lead_frames` frames
    are encoded before the first frame of a sample, so that it is not always a key frame. A fraction `subsampled_share`
    of the samples that are not encoded, clean ones too, has chroma in 4:2:0, as nearly all videos have. Each true
    quantity replaces the network's estimate with probability `override_share`; `estimate_weight` weighs the loss of the
    estimates. With `estimator_only` other than "no" nothing else learns: by its "estimates" alone, without any results,
    or by the "results" that the network makes with them too. With `estimator_frozen` all but the estimator learns. For
    slow motion, frames are those of the input video.
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
    subsampled_share: float = 0.0
    override_share: float = 0.5
    estimate_weight: float = 0.05
    estimator_only: Literal["no", "estimates", "results"] = "no"
    estimator_frozen: bool = False


@dataclass(frozen=True, slots=True)
class PerceptualConfig:
    """A perceptual distance (train/perceptual.py) in the loss, for the last part of a training.

    It is added with `weight`, on a random window of `crop` x `crop` pixels in one random frame per clip. `network` is
    that of the weights that `--perceptual` names: AlexNet's of a learned distance, or features of VGG-19 or VGG-Face.
    """

    weight: float = 0.05
    crop: int = 96
    network: Literal["alex", "vgg19", "vggface"] = "alex"


@dataclass(frozen=True, slots=True)
class CorrelationConfig:
    """The correlation loss (HIME, equations (5.7) and (5.8)) with `weight`.

    `size` is k, the odd side of the window of pixels that each pixel is compared with; `dilation` spreads them.
    """

    weight: float = 0.1
    size: int = 5
    dilation: int = 1


@dataclass(frozen=True, slots=True)
class AdversarialConfig:
    """An adversarial loss with `weight`, and its discriminator (train/adversarial.py).

    `kind`: HIME's, of a relativistic average GAN (5.11), or the standard one of MPENet (11). `width`: channels at the
    full size, doubled with every halving up to `largest`. `learning_rate` is constant.
    """

    weight: float = 0.1
    kind: Literal["relativistic", "standard"] = "relativistic"
    width: int = 32
    largest: int = 256
    learning_rate: float = 1e-4


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """The training of Attention-FH (train/policy.py).

    In the first `optimisation.fusion_steps` steps boxes are random and only the local network learns. Then each face
    has `sequences` sequences of boxes that the policy draws; its loss has the given `weight`. `coverage` is the reward
    for boxes that cover the whole image, in dB.
    """

    sequences: int = 4
    weight: float = 0.001
    coverage: float = 1.0


@dataclass(frozen=True, slots=True)
class JpegConfig:
    """JPEG compression of every frame after the reduction (CAJNN, 4.4.1), each with a quality of its own.

    `quality` is the range, both ends included. The block grid lies anywhere, as in a crop from a compressed image.
    """

    quality: tuple[int, int] = (10, 100)


@dataclass(frozen=True, slots=True)
class RestartsConfig:
    """Restarts of the learning rate's cosine: every `every` steps after the warm-up."""

    every: int = 250_000


@dataclass(frozen=True, slots=True)
class ReferencesConfig:
    """Reference photographs of the person in a sample (train/people.py), for networks that use them.

    A sample has up to `count` references of its person, from other photographs or other clips. A fraction `none_share`
    of the samples has none; in a fraction `stranger_share` one or more, often all, show somebody else.

    `person_pattern` is a regular expression that finds the name of a person in the paths of files, as its first group
    that matches; where it finds none, the index names the person, or else files of one source show one person.
    `holdout_people` people are kept for validation. A face's side, in ground-truth pixels, is drawn from `face_side`;
    images are only ever reduced. The five points by which references are aligned get noise with a standard deviation of
    `point_noise` distances between the eyes, because points found in a small image are not exact.

    With a `canvas` references are upright on squares with this side in ground-truth pixels, and samples come with their
    poses; with 0 they are brought to the place and pose of the sample's face. With `branch_only` only the branch of
    references learns, and the rest of the network stays as it is.

    In a fraction `moment_share` of the samples, the only reference is a frame of the sample itself, with
    `moment_noise` in place of `point_noise`: from these alignment is learned first. `align_weight` and `match_weight`
    are those of the losses in train/reference_losses.py, for SECNet's branch. A fraction `light_share` of the
    references gets another light (train/degrade.py, relight), because photographs of other days have.
    """

    count: int = 3
    stranger_share: float = 0.15
    none_share: float = 0.15
    person_pattern: str = ""
    holdout_people: int = 12
    face_side: tuple[float, float] = (64.0, 160.0)
    point_noise: float = 0.03
    canvas: int = 0
    branch_only: bool = False
    moment_share: float = 0.0
    moment_noise: float = 0.1
    align_weight: float = 0.0
    match_weight: float = 0.0
    light_share: float = 0.0


@dataclass(frozen=True, slots=True)
class FacesConfig:
    """Clips of faces with labels (train/face_clips.py), for networks that learn landmarks and action units as well.

    `labels` says where they come from: the five points of the shipped detector, or from files, for each clip and
    photograph NAME its NAME.labels.npz. `person_pattern` and `holdout_people` are as in ReferencesConfig. A face's
    side, in ground-truth pixels, is drawn from `face_side`; images are only ever reduced. True heatmaps have a
    deviation of `heatmap_sigma` of their pixels. `align_weight` and `unit_weight` weigh the losses of heatmaps and of
    action units, `dice_smooth` is the smooth term of the Dice coefficient.
    """

    labels: Literal["detector", "files"] = "detector"
    person_pattern: str = ""
    holdout_people: int = 12
    face_side: tuple[float, float] = (64.0, 128.0)
    heatmap_sigma: float = 1.0
    align_weight: float = 0.1
    unit_weight: float = 0.01
    dice_smooth: float = 1.0


@dataclass(frozen=True, slots=True)
class Recipe:
    """All settings of a model's training, under the recipe's own names, such as its table [optimisation].

    `network` holds the arguments of the architecture's configuration.
    With `guidance` the training is for slow motion: the input is every second frame, the output all of them. With
    `real` the degradation is realistic, and `degradation` applies to its clean samples. With `perceptual` the loss has
    a perceptual term. With `jpeg` every frame is compressed, with `restarts` the learning rate falls several times.
    With `references` the samples are people with reference photographs, with `faces` clips of faces with labels.
    `correlation` and `adversarial` add losses; `policy` is for a network that chooses where it works.
    """

    name: str
    summary: str
    architecture: str
    seed: int = 0
    network: dict[str, Any] = field(default_factory=dict)
    data: DataConfig = field(default_factory=DataConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    optimisation: OptimizationConfig = field(default_factory=OptimizationConfig)
    guidance: GuidanceConfig | None = None
    real: RealConfig | None = None
    perceptual: PerceptualConfig | None = None
    jpeg: JpegConfig | None = None
    restarts: RestartsConfig | None = None
    references: ReferencesConfig | None = None
    correlation: CorrelationConfig | None = None
    adversarial: AdversarialConfig | None = None
    faces: FacesConfig | None = None
    policy: PolicyConfig | None = None

    @property
    def scale(self) -> int:
        """The network's scale, by which samples are reduced."""
        return int(self.network.get("scale", SCALE))


def load_recipe(path: Path) -> Recipe:
    """Reads a recipe; raises UsageError for an unreadable file, an unknown key, a wrong type or an impossible value."""
    table = read_table(path, "recipe", UsageError)
    parts: dict[str, type[Any]] = {
        "data": DataConfig,
        "degradation": DegradationConfig,
        "optimisation": OptimizationConfig,
    }
    optional: dict[str, type[Any]] = {
        "guidance": GuidanceConfig,
        "real": RealConfig,
        "perceptual": PerceptualConfig,
        "jpeg": JpegConfig,
        "restarts": RestartsConfig,
        "references": ReferencesConfig,
        "correlation": CorrelationConfig,
        "adversarial": AdversarialConfig,
        "faces": FacesConfig,
        "policy": PolicyConfig,
    }
    parts |= {name: part for name, part in optional.items() if name in table}
    recipe = fill_tables(Recipe, parts, table, path)
    _check(recipe, path)
    return recipe


def fill_tables(kind: type[T], parts: dict[str, type[Any]], table: dict[str, Any], path: Path) -> T:
    """Builds a recipe of class `kind`; the fields named in `parts` come from subtables.

    Raises UsageError for an unknown key, a wrong type or a missing field.
    """
    filled = {key: fill(part, table.get(key, {}), f"{path}: [{key}]", UsageError) for key, part in parts.items()}
    return fill(kind, {**table, **filled}, str(path), UsageError)


def _check(recipe: Recipe, path: Path) -> None:
    data, degradation, optimisation = recipe.data, recipe.degradation, recipe.optimisation
    kinds = (data.share_faces, data.share_general, data.share_stills, data.share_face_stills)
    reductions = (degradation.weight_bicubic, degradation.weight_blur, degradation.weight_area)
    guidance, perceptual = recipe.guidance or GuidanceConfig(), recipe.perceptual or PerceptualConfig()
    degraded = degradation.noise_share + degradation.jpeg_share + degradation.h264_share
    jpeg, restarts = recipe.jpeg or JpegConfig(), recipe.restarts or RestartsConfig()
    demands = {
        "the weights of guidance must not be negative": min(dataclasses.astuple(guidance)) >= 0,
        "network.scale must be 4 or 2, or 8 with [faces]": recipe.scale in (2, 4)
        or (recipe.scale == 8 and recipe.faces is not None),
        "data.crop must be a multiple of 8 (H.264 needs even sizes)": data.crop > 0 and data.crop % 8 == 0,
        "data.frames must be at least 1": data.frames >= 1,
        "data.batch must be at least 1": data.batch >= 1,
        "optimisation.steps must be at least 1": optimisation.steps >= 1,
        "optimisation.validate_every must be at least 1": optimisation.validate_every >= 1,
        "the shares of data must not be negative or all 0": min(kinds) >= 0 < sum(kinds),
        "the weights of degradation must not be negative or all 0": min(reductions) >= 0 < sum(reductions),
        "with [real], [degradation] describes clean samples: set noise_share, jpeg_share and h264_share to 0": (
            recipe.real is None or degraded == 0
        ),
        "perceptual.weight must not be negative": perceptual.weight >= 0,
        "perceptual.crop must be in 32..data.crop": 32 <= perceptual.crop <= max(32, data.crop)
        or recipe.perceptual is None,
        "real.estimator_only and estimator_frozen leave nothing to learn: remove one of them": recipe.real is None
        or recipe.real.estimator_only == "no"
        or not recipe.real.estimator_frozen,
        "[jpeg] cannot be combined with [real] or [guidance]: remove one of them": (
            recipe.jpeg is None or (recipe.real is None and recipe.guidance is None)
        ),
        "with [jpeg], every frame is compressed: set noise_share, jpeg_share and h264_share to 0": (
            recipe.jpeg is None or degraded == 0
        ),
        "jpeg.quality must be a range in 1..100": 1 <= jpeg.quality[0] <= jpeg.quality[1] <= 100,
        "restarts.every must be at least 1": restarts.every >= 1,
    }
    refuse_unmet(demands | _demands_of_references(recipe) | _demands_of_faces(recipe), path)


def _demands_of_references(recipe: Recipe) -> dict[str, bool]:
    """The demands on [references] and on the losses that came with it."""
    references, correlation = recipe.references or ReferencesConfig(), recipe.correlation or CorrelationConfig()
    adversarial = recipe.adversarial or AdversarialConfig()
    shares = references.stranger_share, references.none_share, references.moment_share
    return {
        "references.count must be at least 1": references.count >= 1,
        "references.stranger_share, none_share and moment_share must not be negative, nor above 1 together": (
            min(shares) >= 0 and sum(shares) <= 1
        ),
        "references.light_share must be between 0 and 1": 0 <= references.light_share <= 1,
        "references.person_pattern must be a regular expression with a group": _has_group(references.person_pattern),
        "references.face_side must be a range above 0": 0 < references.face_side[0] <= references.face_side[1],
        "references.point_noise, moment_noise, holdout_people and weights must not be negative": (
            min(
                references.point_noise,
                references.moment_noise,
                references.holdout_people,
                references.align_weight,
                references.match_weight,
            )
            >= 0
        ),
        "references.canvas must be 0 or a multiple of 8, and larger than face_side": references.canvas == 0
        or (references.canvas % 8 == 0 and references.canvas > references.face_side[1]),
        "[references] cannot be combined with [jpeg] or [guidance]: remove one of them": (
            recipe.references is None or (recipe.jpeg is None and recipe.guidance is None)
        ),
        "correlation.size must be odd, and dilation at least 1": correlation.size >= 1
        and correlation.size % 2 == 1
        and correlation.dilation >= 1,
        "correlation.weight and adversarial.weight must not be negative": (
            min(correlation.weight, adversarial.weight) >= 0
        ),
        "adversarial.width must be in 1..largest": 1 <= adversarial.width <= adversarial.largest,
        "with [adversarial], data.crop must be 4 times a power of 2": recipe.adversarial is None
        or (recipe.data.crop & (recipe.data.crop - 1) == 0),
    }


def _demands_of_faces(recipe: Recipe) -> dict[str, bool]:
    """The demands on [faces] and [policy]."""
    faces = recipe.faces or FacesConfig()
    others = recipe.references, recipe.jpeg, recipe.guidance
    policy = recipe.policy or PolicyConfig()
    return {
        "policy.sequences must be at least 2": policy.sequences >= 2,
        "policy.weight and coverage must not be negative": min(policy.weight, policy.coverage) >= 0,
        "[faces] cannot be combined with [references], [jpeg] or [guidance]: remove one of them": (
            recipe.faces is None or not any(others)
        ),
        "faces.person_pattern must be a regular expression with a group": _has_group(faces.person_pattern),
        "faces.face_side must be a range above 0": 0 < faces.face_side[0] <= faces.face_side[1],
        "faces.holdout_people and the weights of faces must not be negative": (
            min(faces.holdout_people, faces.align_weight, faces.unit_weight) >= 0
        ),
        "faces.heatmap_sigma and dice_smooth must be above 0": min(faces.heatmap_sigma, faces.dice_smooth) > 0,
    }


def _has_group(pattern: str) -> bool:
    """Whether a person_pattern can name people; the empty one does not try to."""
    try:
        return pattern == "" or re.compile(pattern).groups > 0
    except re.error:
        return False


def refuse_unmet(demands: Mapping[str, bool], path: Path) -> None:
    """Raises UsageError with the first demand on a recipe that is not met."""
    for demand, met in demands.items():
        if not met:
            raise UsageError(f"{path}: {demand}")


def refuse_unfit(demands: Mapping[str, bool], recipe: Recipe) -> None:
    """Raises UsageError with the first demand of the network's training task that the recipe does not meet."""
    for demand, met in demands.items():
        if not met:
            raise UsageError(f"the recipe '{recipe.name}' trains a {recipe.architecture} network; that {demand}")
