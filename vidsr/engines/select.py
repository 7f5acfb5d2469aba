"""Chooses and builds engines: `select` makes all decisions, `build_engine` only builds.

`select` returns a `Selection`, a plain value that can be printed, compared, pickled and sent to another process.
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
from vidsr.models.cards import Card, ModelCard, detector_card, find_card, list_cards, list_presets, read_card
from vidsr.models.loading import check_card, load_network
from vidsr.models.registry import DOES, Task, architecture_of, config_of
from vidsr.runtime.device import choose_device, choose_precision

BICUBIC = "bicubic"
# The model for `--model auto`.
DEFAULT_MODELS: dict[Task, str] = {
    "upscale": "secnet-fast",
    "interpolate": "zsm-fast",
    "restore_face": "secnet-fast-face",
}
FACTORS = (2, 4, 8)  # interpolation factors


@dataclass(frozen=True, slots=True)
class Selection:
    """All decisions about which engine runs and how; made by `select`.

    `card` and `sha256` (of the weights) are None for bicubic, whose `architecture` is "bicubic". `device` is a torch
    device name, such as "cpu" or "cuda:1". `tile` is in input pixels, None for whole frames. `enlargement` is the
    requested one, 1 to 8; a network's scale may differ. `interp`: output frames per input frame. `has_midpoint`: the
    model can interpolate single frames at the input's size, which duplicates need.
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

    `midpoint` interpolates halfway between two frames at the input's size; None unless `selection.has_midpoint`.
    """

    engine: TiledEngine
    selection: Selection
    midpoint: TiledEngine | None = None


class Built(NamedTuple):
    """What a factory returns: the engine for a frame or tile, and the one that interpolates at the input's size."""

    engine: Engine
    midpoint: Engine | None = None


@dataclass(frozen=True, slots=True)
class EngineRow:
    """How networks of one architecture are run. The selection that the functions take has no tile yet.

    `torch`, `onnx`: build the engine of a network. The others take the network's configuration. `bytes_per_pixel`:
    peak memory per input pixel. `check`: raises ModelError if the network cannot do what is selected. `has_midpoint`:
    whether it can interpolate at the input's size.
    """

    torch: Callable[[Any, Selection], Built]
    onnx: Callable[[Any, Selection], Built]
    bytes_per_pixel: Callable[[Any, Selection], float]
    check: Callable[[Any, Selection], None] = lambda _config, _selection: None
    has_midpoint: Callable[[Any], bool] = lambda _config: False

    def build(self, network: Any, selection: Selection) -> Built:
        """Builds the engine for the selected backend. Raises UsageError or DeviceError if it is unavailable."""
        factories: Mapping[str, Callable[[Any, Selection], Built]] = {"torch": self.torch, "onnx": self.onnx}
        return factories[selection.backend](network, selection)


def select_card(model: str, task: Task) -> Card | None:
    """The model card for a task; None for bicubic. Raises ModelError for an unknown or unsuitable model."""
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
    """Chooses the engine for frames of this size in input pixels; loads no weights.

    Bicubic enlarges exactly by `enlargement`, 1 to 8; a network has its own scale. With an `enlargement` of 1, frames
    are interpolated at the input's size. `interp`: 2, 4 or 8 to interpolate, else 1.

    Raises UsageError, ModelError or DeviceError for all problems that can be detected without the weights.
    """
    if task == "interpolate" and interp not in FACTORS:
        raise UsageError(f"--interp must be 2, 4 or 8, not {interp}")
    card = select_card(compute.model, task)
    device = choose_device(compute.device)
    if card is None:
        tile = choose_tile(compute.tile, height, width, bicubic_bytes_per_pixel(enlargement), device)
        return Selection(
            task=task, model=BICUBIC, card=None, sha256=None, architecture=BICUBIC, device=str(device),
            precision="fp32", backend="torch", tile=tile, enlargement=enlargement, interp=1, has_midpoint=False,
        )  # fmt: skip
    row, config = ENGINES[card.architecture], config_of(card.architecture, card.network)
    if isinstance(card, ModelCard):
        check_card(card)
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
    """Builds the engine of a selection. Raises ModelError if the model's files have changed since."""
    if selection.card is None:
        bicubic = BicubicEngine(selection.enlargement, torch.device(selection.device))
        return ChosenEngine(TiledEngine(bicubic, selection.tile), selection)
    network = load_network(selected_card(selection))
    engine, midpoint = ENGINES[selection.architecture].build(network, selection)
    between = TiledEngine(midpoint, selection.tile) if midpoint else None
    return ChosenEngine(TiledEngine(engine, selection.tile), selection, between)


def selected_card(selection: Selection) -> Card:
    """The card of a selected model. Raises ModelError if the card has changed since the selection."""
    assert selection.card is not None, "bicubic has no card"
    card = read_card(selection.card)
    if (card.architecture, card.sha256) != (selection.architecture, selection.sha256):
        raise ModelError(f"the model card {card.path} has changed since the run was planned: start the run again")
    return card


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
    """Factory for networks that enlarge each image independently (nets/single_image.py)."""
    device = torch.device(selection.device)
    return Built(SingleImageEngine.of_network(network, selection.model, device, selection.precision))


def single_image_onnx(network: Any, selection: Selection) -> Built:
    """As `single_image`, with ONNX Runtime."""
    device = torch.device(selection.device)
    run = single_image_graph(network, device)
    return Built(SingleImageEngine(run, selection.model, network.config, device, PRECISIONS))


def _doublings(selection: Selection, midpoint: Engine | None, enlarging: Callable[[], Engine]) -> Built:
    """Doubles the number of frames at the input's size as often as needed; only the last doubling enlarges."""
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


# How each architecture that produces frames is run, by its id in models/registry.py.
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
