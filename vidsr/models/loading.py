"""Model cards and weight files: find, verify, load. A network leaves this module only if it is what its card says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidsr.errors import ModelError
from vidsr.models.cards import (
    DETECTOR,
    Card,
    Preset,
    fill_card,
    list_presets,
    models_folder,
    own_models_folder,
    read_card_table,
)
from vidsr.nets import Network, build
from vidsr.nets.secnet.network import SECNet


@dataclass(frozen=True, slots=True)
class ModelCard(Card):
    """A model that makes pictures."""

    scale: int
    lookahead: int


@dataclass(frozen=True, slots=True)
class TrainedCard(ModelCard):
    """A model that vidsr trained, as every shipped one. Figures in `metrics` are in dB or SSIM."""

    recipe: str
    recipe_commit: str
    seed: int
    steps: int
    hardware: str
    data: str
    data_licences: str
    metrics_command: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ImportedCard(ModelCard):
    """A user's copy of weights that others released: all that is known is the file that they came in."""

    origin: str
    origin_sha256: str


def list_cards(folder: Path | None = None) -> list[ModelCard]:
    """The shipped models' cards by name, or those of another folder; none if it is not there. Not the face detector's.

    Raises ModelError for a card that cannot be read, or a shipped one that does not say how it was trained.
    """
    paths = sorted((folder or models_folder()).glob("*.toml"))
    cards = [read_card(path) for path in paths if path.stem != DETECTOR]
    for card in cards:
        if folder is None and not isinstance(card, TrainedCard):
            raise ModelError(f"the shipped card {card.path} does not say how it was trained: install vidsr again")
    return cards


def known_cards() -> list[ModelCard]:
    """The cards of the user's own models and the shipped ones, by name; a user's stands for a shipped one of its name.

    Raises ModelError for a card that cannot be read.
    """
    cards = {card.name: card for card in (*list_cards(), *list_cards(own_models_folder()))}
    return list(cards.values())


def untrained_presets() -> list[Preset]:
    """The presets that are shipped without weights: architecture and recipe alone."""
    trained = {card.name for card in list_cards()}
    return [preset for preset in list_presets() if preset.name not in trained]


def find_card(name: str) -> ModelCard:
    """The card of a shipped model, or of a card file given by its path.

    Raises ModelError if there is none; for a preset without weights the message says how they are made.
    """
    if name.endswith(".toml"):
        return read_card(Path(name))
    cards = list_cards()
    for card in cards:
        if card.name == name:
            return card
    if name == DETECTOR:
        raise ModelError(f"the model '{name}' finds faces and makes no pictures: choose another one")
    for preset in untrained_presets():
        if preset.name == name:
            raise ModelError(f"the model '{name}' comes without weights: {preset.remedy}")
    known = ", ".join(["bicubic", *(card.name for card in cards)])
    raise ModelError(f"unknown model '{name}'; known are {known}, or the path of a model card (.toml)")


def read_card(path: Path) -> ModelCard:
    """Reads a card; raises ModelError if it cannot be read, or a field lacks, is too many or holds no such value."""
    table = read_card_table(path)
    kind = ImportedCard if "origin" in table else TrainedCard
    return fill_card(kind, table, path)


def load_network(card: ModelCard) -> Network:
    """The network of a card in float32, frozen, on the CPU.

    Checks size, hash and header against the card before a weight is used; raises ModelError where they differ.
    """
    card.check_weights()
    network = build(card.architecture, card.network)
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(str(card.weights_path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                tensors[name] = file.get_tensor(name).float()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{card.weights_path} is not a safetensors file: {error}") from error
    check_tensors(network, tensors, f"{card.weights_path} does not fit '{card.architecture}'")
    network.load_state_dict(tensors, strict=True)
    return network.eval().requires_grad_(False)


def check_tensors(network: Network, tensors: Mapping[str, Tensor], complaint: str) -> None:
    """Raises ModelError, its message `complaint` and the reason, where names or shapes are not the network's."""
    expected = network.state_dict()
    if different := sorted(expected.keys() ^ tensors.keys()):
        raise ModelError(f"{complaint}: tensor '{different[0]}' is not in both")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
            raise ModelError(f"{complaint}: '{name}' is {shapes}")


def verify(card: ModelCard) -> float:
    """Loads the model and runs its golden example in float32; returns the largest difference, in units of 0..1.

    Raises ModelError if a file is not what the card says or the difference is above GOLDEN_TOLERANCE.
    """
    network = load_network(card)
    golden = card.read_golden()
    found = run_golden(network, golden["input"])
    return card.check_difference(float(np.abs(found - golden["output"].astype(np.float32)).max()))


@torch.inference_mode()
def run_golden(network: Network, clip: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The network's results for a golden clip (T x 3 x h x w, 0..255) in float32, not clamped.

    T x 3 x H x W, from a zsm network (2T - 1) x 3 x H x W.
    """
    output = network(torch.from_numpy(clip).float()[None] / 255)
    results: Tensor = output.results if isinstance(network, SECNet) else output
    return results[0].numpy()


def describe(name: str) -> dict[str, Any]:
    """What is known of a model, with the parameters of each part, as plain values for `models show --json`.

    `name` as `find_card` takes it, or a preset without weights: then `trained` is false, and instead of the card's
    fields there is the command that makes them.
    """
    preset = next((preset for preset in untrained_presets() if preset.name == name), None)
    if preset is None:
        card = find_card(name)
        values = dataclasses.asdict(card) | {"trained": True}
        del values["path"]
        network = build(card.architecture, card.network)
    else:
        values = dataclasses.asdict(preset) | {"recipe": f"recipes/{preset.recipe.name}", "trained": False}
        values["train_command"] = preset.train_command
        values |= {"import_command": preset.import_command} if preset.import_command else {}
        network = build(preset.architecture, preset.network)
        values |= {"scale": network.config.scale, "lookahead": network.config.lookahead}
    parts = {part: sum(p.numel() for p in module.parameters()) for part, module in network.named_children()}
    return values | {
        "parameters": {part: count for part, count in parts.items() if count} | {"total": sum(parts.values())},
        "multiply_adds_per_pixel": multiply_adds_per_pixel(network),
    }


def multiply_adds_per_pixel(network: Network) -> float:
    """Multiply-adds of all convolutions for one low-resolution pixel of one resulting frame, counted while it runs.

    Counted for a frame with a full past: a clip's last one, after the T3 features that a bidirectional encoding uses.
    A stream of a mirrored network needs it twice. In a zsm network a given frame and a new one count the same; its
    bilinear sampling is left out.
    """
    from torch.utils.flop_counter import FlopCounterMode

    size, counts = 32, []
    if isinstance(network, SECNet):
        shortest, share = network.config.t3 + 1, 2.0 if network.config.mirrored else 1.0
    else:
        shortest, share = 2, 0.5
    for length in (shortest, shortest + 1):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, length, 3, size, size))
        counts.append(float(counter.get_total_flops()))
    return share * (counts[1] - counts[0]) / 2 / size**2
