"""Chooses and builds engines: `select` makes all decisions, `build_engine` only builds.

What only ONNX Runtime needs is imported where it is used, so that other runs begin sooner.

`select` returns a `Selection`, a plain value that can be printed, compared, pickled and sent to another process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vidsr.config import ComputeConfig, RunConfig, SlowmoConfig, UpscaleConfig
from vidsr.engines.base import Engine, Overlapping
from vidsr.engines.bicubic import BicubicEngine, bicubic_bytes_per_pixel
from vidsr.engines.chain import ChainEngine
from vidsr.engines.recurrent import RecurrentEngine, network_bytes_per_pixel
from vidsr.engines.single_image import SingleImageEngine
from vidsr.engines.slowmo import (
    OVERLAPPED_MEMORY,
    InterpolationEngine,
    SlowmoEngine,
    check_has_head,
    slowmo_bytes_per_pixel,
)
from vidsr.engines.tiled import LighterEngine, TiledEngine, choose_tile, run_in_tiles
from vidsr.errors import ModelError, UsageError
from vidsr.models.cards import Card, ModelCard, detector_card, find_card, list_cards, list_presets, read_card
from vidsr.models.loading import check_card, load_network
from vidsr.models.registry import DOES, Task, architecture_of, config_of
from vidsr.runtime.device import choose_device, choose_precision

BICUBIC = "bicubic"
# The model for `--model auto`; for files, pipeline/degradation.py chooses between this one and that of DEGRADED_MODELS.
DEFAULT_MODELS: dict[Task, str] = {
    "upscale": "secnet-fast",
    "interpolate": "zsm-fast",
    "restore_face": "secnet-fast-face",
}
# The model for `--model auto` where degradation levels are given.
DEGRADED_MODELS: dict[Task, str] = {"upscale": "secnet-fast-real", "interpolate": "zsm-fast-real"}
DEGRADED_MODEL = DEGRADED_MODELS["upscale"]  # its estimator decides, also for slow motion and `vidsr info`
# The face model for `--face-model auto` behind a model with an estimator, where vidsr comes with its weights
# (faces/handover.py).
DEGRADED_FACE_MODEL = "secnet-fast-face-real"
FACTORS = (2, 4, 8)  # interpolation factors
Levels = tuple[float | None, float | None, float | None]
ESTIMATED: Levels = (None, None, None)


@dataclass(frozen=True, slots=True)
class Selection:
    """All decisions about which engine runs and how; made by `select`.

    `card` is the model card as it was read, None for bicubic; the weights must be those that it describes. `device` is
    a torch device name, such as "cpu" or "cuda:1". `tile` is in input pixels, None for whole frames. `enlargement` is
    the requested one, 1 to 8; a network's scale may differ. `interp`: output frames per input frame.
    `has_interpolator`: the model can interpolate single frames at the input's size, which duplicates need.
    `has_estimator`: it estimates how degraded frames are. `is_foreign`: the network is other
    people's (models/image_graph.py). `levels`: the degradation levels of the input, blur, noise
    and compression in 0..1; None where the network estimates them, or has no estimator. `lighter`: devices and
    precisions with which to go on when memory has run out even in the smallest tiles.
    """

    task: Task
    model: str
    card: Card | None
    device: str
    precision: str
    backend: str
    tile: int | None
    enlargement: int
    interp: int
    has_interpolator: bool
    has_estimator: bool = False
    is_foreign: bool = False
    levels: Levels = ESTIMATED
    lighter: tuple[tuple[str, str], ...] = ()

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of the model's weights; None for bicubic."""
        return None if self.card is None else self.card.sha256


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """An engine, ready to run, and the selection that it was built from.

    `interpolator` interpolates halfway between two frames at the input's size, if `selection.has_interpolator`.
    """

    engine: TiledEngine
    selection: Selection
    interpolator: TiledEngine | None = None


class Built(NamedTuple):
    """What a factory returns: the engine for a frame or tile, and the one that interpolates at the input's size."""

    engine: Engine
    interpolator: Engine | None = None


@dataclass(frozen=True, slots=True)
class EngineRow:
    """How networks of one architecture are run. The selection that the functions take has no tile yet.

    `torch`, `onnx`: build the engine of a network. The others take the network's configuration. `bytes_per_pixel`:
    peak memory per input pixel. `check`: raises ModelError if the network cannot do what is selected.
    `has_interpolator`: whether it can interpolate at the input's size. `has_estimator`: whether it estimates
    degradation, and takes levels instead.
    """

    torch: Callable[[Any, Selection], Built]
    onnx: Callable[[Any, Selection], Built]
    bytes_per_pixel: Callable[[Any, Selection], float]
    check: Callable[[Any, Selection], None] = lambda _config, _selection: None
    has_interpolator: Callable[[Any], bool] = lambda _config: False
    has_estimator: Callable[[Any], bool] = lambda _config: False

    def build(self, network: Any, selection: Selection) -> Built:
        """Builds the engine for the selected backend. Raises UsageError or DeviceError if it is unavailable."""
        factories: Mapping[str, Callable[[Any, Selection], Built]] = {"torch": self.torch, "onnx": self.onnx}
        return factories[selection.backend](network, selection)


def select_card(model: str, task: Task, levels: Levels = ESTIMATED) -> Card | None:
    """The model card for a task; None for bicubic.

    Raises ModelError for an unknown or unsuitable model, UsageError if it cannot be given the degradation `levels`.
    """
    degraded = DEGRADED_MODELS.get(task, DEGRADED_MODEL)
    card = _select_card(degraded if model == "auto" and levels != ESTIMATED else model, task)
    if levels != ESTIMATED:
        row = None if card is None else ENGINES[card.architecture]
        if card is None or row is None or not row.has_estimator(config_of(card.architecture, card.network)):
            raise UsageError(
                f"the model '{BICUBIC if card is None else card.name}' cannot be told how degraded the input is: "
                f"leave --deblur, --denoise and --deblock at auto, or use --model {degraded}"
            )
    return card


def _select_card(model: str, task: Task) -> Card | None:
    if model == BICUBIC:
        if task != "upscale":
            raise _unsuitable(BICUBIC, DOES["upscale"], task)
        return None
    name = DEFAULT_MODELS[task] if model == "auto" else model
    card = read_card(Path(name)) if name.endswith(".toml") else _find_card(name, task)
    _check_suits(card.name, card.architecture, task)
    return card


def select(
    compute: ComputeConfig,
    task: Task,
    height: int,
    width: int,
    *,
    enlargement: int = 4,
    interp: int = 1,
    levels: Levels = ESTIMATED,
) -> Selection:
    """Chooses the engine for frames of this size in input pixels; loads no weights.

    Bicubic enlarges exactly by `enlargement`, 1 to 8; a network has its own scale. With an `enlargement` of 1, frames
    are interpolated at the input's size. `interp`: 2, 4 or 8 to interpolate, else 1. `levels`: as in Selection.

    Raises UsageError, ModelError or DeviceError for all problems that can be detected without the weights.
    """
    if task == "interpolate" and interp not in FACTORS:
        raise UsageError(f"--interp must be 2, 4 or 8, not {interp}")
    card = select_card(compute.model, task, levels)
    device = choose_device(compute.device)
    if card is None:
        tile = choose_tile(compute.tile, height, width, bicubic_bytes_per_pixel(enlargement), device, enlargement)
        return Selection(
            task=task, model=BICUBIC, card=None, device=str(device), precision="fp32", backend="torch", tile=tile,
            enlargement=enlargement, interp=1, has_interpolator=False, lighter=_lighter(compute, device, "bf16"),
        )  # fmt: skip
    row, config = ENGINES[card.architecture], config_of(card.architecture, card.network)
    if isinstance(card, ModelCard):
        check_card(card)
    is_foreign = architecture_of(card.architecture).is_foreign
    if is_foreign:
        compute = _for_foreign(compute, card)
    selection = Selection(
        task=task, model=card.name, card=card, device=str(device),
        precision=config.precision if is_foreign else choose_precision(compute.precision, device, compute.backend),
        backend=compute.backend, tile=None,
        enlargement=enlargement, interp=interp, has_interpolator=row.has_interpolator(config),
        has_estimator=row.has_estimator(config), is_foreign=is_foreign, levels=levels,
    )  # fmt: skip
    selection = replace(selection, lighter=_lighter(compute, device, selection.precision))
    row.check(config, selection)
    bytes_per_pixel = row.bytes_per_pixel(config, selection)
    keeps_size = task == "interpolate" and enlargement == 1
    scale = card.scale if isinstance(card, ModelCard) and not keeps_size else 1
    return replace(selection, tile=choose_tile(compute.tile, height, width, bytes_per_pixel, device, scale))


def _for_foreign(compute: ComputeConfig, card: Card) -> ComputeConfig:
    """How other people's networks are run. Raises UsageError for a precision that is not the network's own."""
    if compute.precision not in ("auto", "fp32"):
        raise UsageError(
            f"the model '{card.name}' runs with ONNX Runtime in its own precision: leave out "
            f"--precision {compute.precision}"
        )
    return replace(compute, backend="onnx")


def select_cleaner(compute: ComputeConfig, clean: str, height: int, width: int) -> Selection:
    """Chooses the engine that cleans frames before anything enlarges them: `clean` is a model of scale 1.

    Raises ModelError for a model that changes the size, and what `select` raises.
    """
    own = replace(compute, model=clean, precision="auto", backend="torch")
    card = select_card(clean, "upscale")
    if not isinstance(card, ModelCard) or card.scale != 1:
        scale = "any scale" if card is None else f"a scale of {getattr(card, 'scale', 1)}"
        raise ModelError(
            f"the model '{clean if card is None else card.name}' cannot clean frames, because it has {scale}: "
            "give --clean a model of scale 1"
        )
    return select(own, "upscale", height, width, enlargement=1)


def task_of(options: RunConfig) -> Task:
    """The task that the model of a run must support."""
    return "interpolate" if isinstance(options, SlowmoConfig) else "upscale"


def levels_of(options: RunConfig) -> Levels:
    """The degradation levels that the options fix; None where they are estimated."""
    return options.cleaning.levels


def default_scale(config: RunConfig) -> float:
    """The factor where no size is given: for `upscale` with one of other people's models its own, else the command's.

    Raises ModelError for a card that cannot be read, or a model that cannot enlarge.
    """
    scale = own_scale(config.compute.model, task_of(config)) if isinstance(config, UpscaleConfig) else None
    return config.default_scale if scale is None else float(scale)


def own_scale(model: str, task: Task) -> int | None:
    """The scale of one of other people's models, which is the default of `--scale` with it; None for ours.

    Raises ModelError as `select_card` does.
    """
    card = _select_card(model, task) if model.endswith(".toml") else None
    if isinstance(card, ModelCard) and architecture_of(card.architecture).is_foreign:
        return card.scale
    return None


def _lighter(compute: ComputeConfig, device: torch.device, precision: str) -> tuple[tuple[str, str], ...]:
    """The devices and precisions to go on with when memory has run out; only where the user left the choice to vidsr.

    In bf16 the PSNR of secnet-fast, secnet-fast-real and zsm-fast on samples/portrait_112x84.mp4 is that in fp32 within
    0.001 dB. The CPU is the last resort.
    """
    forms = []
    if compute.precision == "auto" and precision == "fp32" and compute.backend == "torch" and device.type != "mps":
        forms.append((str(device), "bf16"))
    if compute.device == "auto" and device.type != "cpu":
        wanted = "fp32" if compute.precision == "fp16" else compute.precision
        forms.append(("cpu", choose_precision(wanted, torch.device("cpu"), compute.backend)))
    return tuple(forms)


def build_engine(selection: Selection) -> ChosenEngine:
    """Builds the engine of a selection. Raises ModelError if the weights are not those that the card describes."""
    if selection.card is None:

        def bicubic(form: Selection) -> Built:
            return Built(BicubicEngine(form.enlargement, torch.device(form.device)))

        def bicubic_bytes(form: Selection) -> float:
            return bicubic_bytes_per_pixel(form.enlargement)

        return ChosenEngine(_tiled(bicubic(selection).engine, selection, bicubic, bicubic_bytes), selection)
    network, row = load_network(selection.card), ENGINES[selection.card.architecture]
    config = config_of(selection.card.architecture, selection.card.network)
    build, needs = partial(row.build, network), partial(row.bytes_per_pixel, config)
    engine, interpolator = build(selection)
    tiled = None
    if interpolator is not None:
        tiled = _tiled(interpolator, selection, lambda form: Built(_required(build(form).interpolator)), needs)
    return ChosenEngine(_tiled(engine, selection, build, needs), selection, tiled)


def _required(engine: Engine | None) -> Engine:
    assert engine is not None, "other forms of a selection have the same engines"
    return engine


def _tiled(
    engine: Engine, selection: Selection, build: Callable[[Selection], Built], needs: Callable[[Selection], float]
) -> TiledEngine:
    """The engine in tiles, with its lighter forms: `build` makes one, which `needs` bytes per pixel."""
    lighter = []
    if isinstance(engine, Overlapping) and engine.is_overlapped:
        lighter.append(LighterEngine("each frame is finished before the next one is started", engine.without_overlap))
    for device, precision in selection.lighter:
        form = replace(selection, device=device, precision=precision, tile=None, lighter=())
        words = f"the network runs in {precision}" if device == selection.device else "the network runs on the CPU"
        rebuild = partial(_engine_of, build, form)
        if device == selection.device:
            lighter.append(LighterEngine(words, rebuild))
        else:
            place = torch.device(device)
            tile = partial(choose_tile, "auto", bytes_per_pixel=needs(form), device=place, scale=engine.info.scale)
            lighter.append(LighterEngine(words, rebuild, place, tile))
    return TiledEngine(engine, selection.tile, lighter=lighter)


def _engine_of(build: Callable[[Selection], Built], form: Selection) -> Engine:
    return build(form).engine


def _find_card(name: str, task: Task) -> Card:
    cards = {card.name: card for card in (*list_cards(), detector_card())}
    if name in cards:
        return cards[name]
    for preset in list_presets():  # report an unsuitable model before missing weights
        if preset.name == name:
            _check_suits(preset.name, preset.architecture, task)
            return find_card(name)  # raises an error that tells how to get its weights
    suitable = [card.name for card in cards.values() if task in architecture_of(card.architecture).tasks]
    known = ", ".join([BICUBIC, *suitable] if task == "upscale" else suitable)
    raise ModelError(f"unknown model '{name}'; known are {known}, or the path of a model card (.toml)")


def _check_suits(name: str, architecture: str, task: Task) -> None:
    row = architecture_of(architecture)
    if task not in row.tasks:
        raise _unsuitable(name, row.purpose, task)


def _unsuitable(name: str, purpose: str, task: Task) -> ModelError:
    return ModelError(
        f"the model '{name}' {purpose} and cannot be used here: "
        f"choose one that {DOES[task]}, such as {DEFAULT_MODELS[task]}"
    )


def _recurrent(network: Any, selection: Selection) -> Built:
    device = torch.device(selection.device)
    return Built(RecurrentEngine(network, selection.model, device, selection.precision, overrides=selection.levels))


def _recurrent_onnx(network: Any, selection: Selection) -> Built:
    from vidsr.engines.onnx import OnnxRecurrentEngine

    return Built(OnnxRecurrentEngine(network, selection.model, torch.device(selection.device), selection.levels))


def _check_recurrent(config: Any, selection: Selection) -> None:
    if selection.task == "restore_face" and config.unshuffle > 1:  # crops move by single pixels
        raise ModelError(
            f"the model '{selection.model}' works at half of a frame's size and cannot restore faces: "
            f"choose {DEFAULT_MODELS['restore_face']}"
        )


def _recurrent_bytes(config: Any, selection: Selection) -> float:
    return network_bytes_per_pixel(config, selection.precision) * _backend_memory(selection)


def _backend_memory(selection: Selection) -> float:
    """How many times the memory of PyTorch the backend of a selection needs."""
    if selection.backend != "onnx":
        return 1.0
    from vidsr.engines.onnx import ONNX_MEMORY

    return ONNX_MEMORY


def _slowmo(network: Any, selection: Selection) -> Built:
    arguments = network, selection.model, torch.device(selection.device), selection.precision
    interpolator = None
    if selection.has_interpolator:
        interpolator = InterpolationEngine.of_network(*arguments, selection.levels)
    return _doublings(selection, interpolator, lambda: SlowmoEngine.of_network(*arguments, overrides=selection.levels))


def _slowmo_onnx(network: Any, selection: Selection) -> Built:
    from vidsr.engines.onnx import PRECISIONS, interpolation_graphs, slowmo_graphs

    name, device, interpolator = selection.model, torch.device(selection.device), None
    if selection.has_interpolator:
        interpolator = InterpolationEngine(
            interpolation_graphs(network, device), name, device, PRECISIONS, selection.levels
        )

    def enlarging() -> Engine:
        parts = slowmo_graphs(network, device)
        return SlowmoEngine(parts, name, device, PRECISIONS, is_overlapped=False, overrides=selection.levels)

    return _doublings(selection, interpolator, enlarging)


def single_image(network: Any, selection: Selection) -> Built:
    """Factory for networks that enlarge each image independently (nets/single_image.py)."""
    device = torch.device(selection.device)
    return Built(SingleImageEngine.of_network(network, selection.model, device, selection.precision))


def single_image_onnx(network: Any, selection: Selection) -> Built:
    """As `single_image`, with ONNX Runtime."""
    from vidsr.engines.onnx import PRECISIONS, single_image_graph

    device = torch.device(selection.device)
    run = single_image_graph(network, device)
    return Built(SingleImageEngine(run, selection.model, network.config, device, PRECISIONS))


def image_graph(network: Any, selection: Selection) -> Built:
    """Factory for other people's networks, with ONNX Runtime whatever the backend."""
    config, device = network.config, torch.device(selection.device)
    run = network.start(device, torch.get_num_threads())
    if config.fixed_size is not None:
        run = partial(_in_tiles, run, config)
    precisions = (config.precision,)
    return Built(SingleImageEngine(run, selection.model, config, device, precisions, overlap=config.overlap))


def _in_tiles(run: Callable[[Tensor], Tensor], config: Any, image: Tensor) -> Tensor:
    return run_in_tiles(run, image, config.fixed_size, config.overlap, config.scale)


def _doublings(selection: Selection, interpolator: Engine | None, enlarging: Callable[[], Engine]) -> Built:
    """Doubles the number of frames at the input's size as often as needed; only the last doubling enlarges."""
    engines = [interpolator] * _same_size_doublings(selection) if interpolator else []
    if selection.enlargement > 1:
        engines.append(enlarging())
    return Built(engines[0] if len(engines) == 1 else ChainEngine(engines), interpolator)


def _same_size_doublings(selection: Selection) -> int:
    return selection.interp.bit_length() - 1 - (selection.enlargement > 1)


def _check_slowmo(config: Any, selection: Selection) -> None:
    if _same_size_doublings(selection):
        check_has_head(config, selection.model)


def _slowmo_bytes(config: Any, selection: Selection) -> float:
    is_enlarged = selection.enlargement > 1
    figure = slowmo_bytes_per_pixel(config, selection.precision, is_enlarged)
    if selection.backend == "onnx":
        return figure * _backend_memory(selection)
    return figure * OVERLAPPED_MEMORY if selection.device == "cpu" and is_enlarged else figure


def _cajnn_bytes(config: Any, selection: Selection) -> float:
    """Peak memory per input pixel of a CAJNN, from the values that live at once in a dense block or at the end.

    Measured with torch on a CPU in float32 and bfloat16: printed sizes 11.1 and 5.2 kB (of any number of blocks),
    cajnn-fast 2.5 and 1.2, with the self-ensemble 5.2 and 2.8; with ONNX Runtime 13.0 and 2.9. The result is 10 to 35 %
    above that, with the self-ensemble up to 100 %.
    """
    block = 3 * config.width + 2 * (config.width + 4 * config.growth)
    end = (2 * config.scale**2 + (config.scale // 2) ** 2) * config.upsampler_width
    values = max(block, end) + (36 * config.scale**2 if config.self_ensemble else 0)
    each = 8.0 if selection.backend == "onnx" else 6.5 if selection.precision == "fp32" else 3.25
    return float(each * values)


def _hime_bytes(config: Any, selection: Selection) -> float:
    """Peak memory per input pixel of a HIME without references, which is how frames are enlarged.

    Measured with torch on a CPU in float32 and bfloat16: printed sizes 1.1 and 0.9 kB, with x8 2.8 and 2.6, with 64
    channels 2.1 in float32; with ONNX Runtime 1.3, with x8 4.5. The result is 10 to 50 % above that, in bfloat16 up to
    70 %.
    """
    values = 6 * config.width + 12 * config.scale**2
    return float((5.2 if selection.backend == "onnx" else 4.0) * values)


def _mpenet_bytes(config: Any, selection: Selection) -> float:  # noqa: ARG001 - not measured apart
    """Peak memory per input pixel of an MPENet: most of it are the features at the output's size, for every group.

    Measured with torch on a CPU in float32: mpenet-fast 71 kB, the paper's sizes 188. The result is 20 % above that.
    Other precisions and ONNX Runtime have not been measured: they count as float32.
    """
    values = 64 * config.width * (2 * config.groups + 2) + 4 * config.width * (2 * config.groups + 4)
    return float(4.9 * values)


def _attention_fh_bytes(config: Any, selection: Selection) -> float:  # noqa: ARG001 - not measured apart
    """Peak memory per input pixel of an Attention-FH: images and features at the output's size."""
    values = (8 + 8 + 6 * 3) * config.scale**2 + 2 * 32 * (config.scale // 2) ** 2 + 64
    return float(8.0 * values)


# How each architecture that produces frames is run, by its id in models/registry.py.
ENGINES: dict[str, EngineRow] = {
    "secnet": EngineRow(
        torch=_recurrent,
        onnx=_recurrent_onnx,
        bytes_per_pixel=_recurrent_bytes,
        check=_check_recurrent,
        has_estimator=lambda config: config.estimator_width > 0,
    ),
    "zsm": EngineRow(
        torch=_slowmo,
        onnx=_slowmo_onnx,
        bytes_per_pixel=_slowmo_bytes,
        check=_check_slowmo,
        has_interpolator=lambda config: config.synthesis_blocks > 0,
        has_estimator=lambda config: config.estimator_width > 0,
    ),
    "cajnn": EngineRow(torch=single_image, onnx=single_image_onnx, bytes_per_pixel=_cajnn_bytes),
    "hime": EngineRow(torch=single_image, onnx=single_image_onnx, bytes_per_pixel=_hime_bytes),
    "mpenet": EngineRow(torch=single_image, onnx=single_image_onnx, bytes_per_pixel=_mpenet_bytes),
    "image-graph": EngineRow(
        torch=image_graph, onnx=image_graph, bytes_per_pixel=lambda config, _selection: float(config.bytes_per_pixel)
    ),
    "attention-fh": EngineRow(torch=single_image, onnx=single_image_onnx, bytes_per_pixel=_attention_fh_bytes),
}
