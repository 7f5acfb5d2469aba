"""From options to an engine, in two steps: `select` asks and decides everything, `build_engine` only builds.

Between the two stands a `Selection`, a plain value that can be printed, compared, pickled and sent to another process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from vidsr.config import ComputeConfig
from vidsr.engines.base import Engine
from vidsr.engines.bicubic import BicubicEngine, bicubic_bytes_per_pixel
from vidsr.engines.chain import ChainEngine
from vidsr.engines.onnx import (
    ONNX_MEMORY,
    PRECISIONS,
    OnnxRecurrentEngine,
    midpoint_graphs,
    single_image_graph,
    slowmo_graphs,
)
from vidsr.engines.recurrent import RecurrentEngine, network_bytes_per_pixel
from vidsr.engines.single_image import SingleImageEngine
from vidsr.engines.slowmo import (
    OVERLAPPED_MEMORY,
    InterpolationEngine,
    SlowmoEngine,
    check_has_head,
    slowmo_bytes_per_pixel,
)
from vidsr.engines.tiled import TiledEngine, choose_tile
from vidsr.errors import ModelError, UsageError
from vidsr.models.cards import Card, detector_card, find_card, list_cards, list_presets, read_card
from vidsr.models.loading import load_network
from vidsr.models.registry import DOES, Task, architecture_of, config_of
from vidsr.runtime.device import choose_device, choose_precision

BICUBIC = "bicubic"
# The model of `--model auto`.
DEFAULT_MODELS: dict[Task, str] = {
    "upscale": "secnet-fast",
    "interpolate": "zsm-fast",
    "restore_face": "secnet-fast-face",
}
FACTORS = (2, 4, 8)  # of slow motion


@dataclass(frozen=True, slots=True)
class Selection:
    """Everything that decides which engine runs and how; made by `select`.

    `card` and `sha256` (of the weights) are None for bicubic, whose `architecture` is its own name. `device` is as
    torch writes it, such as "cpu" or "cuda:1". `tile` is in input pixels, None for whole frames. `enlargement` is what
    was asked for, 1 to 8; a network's own may be another. `interp`: frames of the result for each of the input.
    `has_midpoint`: the model can also make single frames of the input's size, in place of repeated ones.
    """

    task: Task
    model: str
    card: Path | None
    sha256: str | None
    architecture: str
    device: str
    precision: str
    backend: str
    tile: int | None
    enlargement: int
    interp: int
    has_midpoint: bool


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """An engine, ready to run, and the selection that it was built from.

    `midpoint` makes frames between two of the input at its size; None unless the selection has one.
    """

    engine: TiledEngine
    selection: Selection
    midpoint: TiledEngine | None = None


class Built(NamedTuple):
    """What a factory makes: the engine of whole frames or of a tile, and the one that makes single frames."""

    engine: Engine
    midpoint: Engine | None = None


@dataclass(frozen=True, slots=True)
class EngineRow:
    """How networks of an architecture are run. All functions take the selection, its tile not yet chosen.

    `torch`, `onnx`: from a network to its engine. `bytes_per_pixel`: peak memory for each input pixel, by the network's
    sizes. `check`: raises ModelError if a network of these sizes cannot do what is selected. `has_midpoint`: by sizes.
    """

    torch: Callable[[Any, Selection], Built]
    onnx: Callable[[Any, Selection], Built]
    bytes_per_pixel: Callable[[Any, Selection], float]
    check: Callable[[Any, Selection], None] = lambda _config, _selection: None
    has_midpoint: Callable[[Any], bool] = lambda _config: False

    def build(self, network: Any, selection: Selection) -> Built:
        """The engine of the selection's backend. Raises UsageError or DeviceError where the backend is not there."""
        factories: Mapping[str, Callable[[Any, Selection], Built]] = {"torch": self.torch, "onnx": self.onnx}
        return factories[selection.backend](network, selection)


def select_card(model: str, task: Task) -> Card | None:
    """The card of `--model` for a task; None for bicubic. Raises ModelError for an unknown or an unsuitable model."""
    if model == BICUBIC:
        if task != "upscale":
            raise _unsuitable(BICUBIC, DOES["upscale"], task)
        return None
    name = DEFAULT_MODELS[task] if model == "auto" else model
    card = read_card(Path(name)) if name.endswith(".toml") else _find_card(name, task)
    _check_suits(card.name, card.architecture, task)
    return card


def select(
    compute: ComputeConfig, task: Task, height: int, width: int, *, enlargement: int = 4, interp: int = 1
) -> Selection:
    """What runs on frames of this size in input pixels; loads no weights.

    `enlargement`, 1 to 8, is what bicubic does by itself, so that it is exact there; a network has its own. Frames are
    interpolated at the size of the input for an `enlargement` of 1. `interp`: 2, 4 or 8 to interpolate, else 1.

    Raises UsageError, ModelError or DeviceError for everything that can be refused before the weights are read.
    """
    if task == "interpolate" and interp not in FACTORS:
        raise UsageError(f"there is no way to make {interp} frames of one: use --interp 2, 4 or 8")
    card = select_card(compute.model, task)
    device = choose_device(compute.device)
    if card is None:
        tile = choose_tile(compute.tile, height, width, bicubic_bytes_per_pixel(enlargement), device)
        return Selection(
            task=task, model=BICUBIC, card=None, sha256=None, architecture=BICUBIC, device=str(device),
            precision="fp32", backend="torch", tile=tile, enlargement=enlargement, interp=1, has_midpoint=False,
        )  # fmt: skip
    row, config = ENGINES[card.architecture], config_of(card.architecture, card.network)
    selection = Selection(
        task=task, model=card.name, card=card.path, sha256=card.sha256, architecture=card.architecture,
        device=str(device), precision=choose_precision(compute.precision, device, compute.backend),
        backend=compute.backend, tile=None, enlargement=enlargement, interp=interp,
        has_midpoint=row.has_midpoint(config),
    )  # fmt: skip
    row.check(config, selection)
    bytes_per_pixel = row.bytes_per_pixel(config, selection)
    return replace(selection, tile=choose_tile(compute.tile, height, width, bytes_per_pixel, device))


def build_engine(selection: Selection) -> ChosenEngine:
    """The engine of a selection; asks nothing. Raises ModelError where the model's files are not what they were."""
    if selection.card is None:
        bicubic = BicubicEngine(selection.enlargement, torch.device(selection.device))
        return ChosenEngine(TiledEngine(bicubic, selection.tile), selection)
    network = load_network(selected_card(selection))
    engine, midpoint = ENGINES[selection.architecture].build(network, selection)
    between = TiledEngine(midpoint, selection.tile) if midpoint else None
    return ChosenEngine(TiledEngine(engine, selection.tile), selection, between)


def selected_card(selection: Selection) -> Card:
    """The card of a selected model; raises ModelError if it describes other weights by now."""
    assert selection.card is not None, "bicubic has no card"
    card = read_card(selection.card)
    if (card.architecture, card.sha256) != (selection.architecture, selection.sha256):
        raise ModelError(f"the model card {card.path} has changed since the run was planned: start it again")
    return card


def _find_card(name: str, task: Task) -> Card:
    cards = {card.name: card for card in (*list_cards(), detector_card())}
    if name in cards:
        return cards[name]
    for preset in list_presets():  # an unsuitable model need not be trained first to be refused
        if preset.name == name:
            _check_suits(preset.name, preset.architecture, task)
            return find_card(name)  # which says how its weights are made
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
    return Built(RecurrentEngine(network, selection.model, torch.device(selection.device), selection.precision))


def _recurrent_onnx(network: Any, selection: Selection) -> Built:
    return Built(OnnxRecurrentEngine(network, selection.model, torch.device(selection.device)))


def _recurrent_bytes(config: Any, selection: Selection) -> float:
    figure = network_bytes_per_pixel(config, selection.precision)
    return figure * ONNX_MEMORY if selection.backend == "onnx" else figure


def _slowmo(network: Any, selection: Selection) -> Built:
    arguments = network, selection.model, torch.device(selection.device), selection.precision
    midpoint = InterpolationEngine.of_network(*arguments) if selection.has_midpoint else None
    return _doublings(selection, midpoint, lambda: SlowmoEngine.of_network(*arguments))


def _slowmo_onnx(network: Any, selection: Selection) -> Built:
    name, device, midpoint = selection.model, torch.device(selection.device), None
    if selection.has_midpoint:
        midpoint = InterpolationEngine(midpoint_graphs(network, device), name, PRECISIONS)

    def enlarging() -> Engine:
        return SlowmoEngine(slowmo_graphs(network, device), name, device, PRECISIONS, is_overlapped=False)

    return _doublings(selection, midpoint, enlarging)


def single_image(network: Any, selection: Selection) -> Built:
    """For rows of networks that enlarge images one by one (nets/single_image.py)."""
    device = torch.device(selection.device)
    return Built(SingleImageEngine.of_network(network, selection.model, device, selection.precision))


def single_image_onnx(network: Any, selection: Selection) -> Built:
    """As `single_image`, by ONNX Runtime."""
    device = torch.device(selection.device)
    run = single_image_graph(network, device)
    return Built(SingleImageEngine(run, selection.model, network.config, device, PRECISIONS))


def _doublings(selection: Selection, midpoint: Engine | None, enlarging: Callable[[], Engine]) -> Built:
    """Frames are doubled at the size of the input until they are enough; only the last doubling enlarges."""
    engines = [midpoint] * _same_size_doublings(selection) if midpoint else []
    if selection.enlargement > 1:
        engines.append(enlarging())
    return Built(engines[0] if len(engines) == 1 else ChainEngine(engines), midpoint)


def _same_size_doublings(selection: Selection) -> int:
    return selection.interp.bit_length() - 1 - (selection.enlargement > 1)


def _check_slowmo(config: Any, selection: Selection) -> None:
    if _same_size_doublings(selection):
        check_has_head(config, selection.model)


def _slowmo_bytes(config: Any, selection: Selection) -> float:
    is_enlarged = selection.enlargement > 1
    figure = slowmo_bytes_per_pixel(config, selection.precision, is_enlarged)
    if selection.backend == "onnx":
        return figure * ONNX_MEMORY
    return figure * OVERLAPPED_MEMORY if selection.device == "cpu" and is_enlarged else figure


# By the ids of models/registry.py: how each architecture that makes frames is run.
ENGINES: dict[str, EngineRow] = {
    "secnet": EngineRow(torch=_recurrent, onnx=_recurrent_onnx, bytes_per_pixel=_recurrent_bytes),
    "zsm": EngineRow(
        torch=_slowmo,
        onnx=_slowmo_onnx,
        bytes_per_pixel=_slowmo_bytes,
        check=_check_slowmo,
        has_midpoint=lambda config: config.synthesis_blocks > 0,
    ),
}
