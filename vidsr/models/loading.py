"""Loading and verification of a model by its card, and its description as plain values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vidsr.errors import ModelError
from vidsr.models.cards import Card, ModelCard, find_card, untrained_presets
from vidsr.models.registry import architecture_of, build, code_of, id_of
from vidsr.nets.base import Network


def load_network(card: Card) -> Network:
    """Loads the network of a card in float32, frozen, on the CPU.

    Raises ModelError if the file's size or SHA-256, or the tensors' names or shapes, differ from the card.
    """
    if not isinstance(card, ModelCard):
        raise ModelError(f"the model '{card.name}' is an ONNX file already, {card.weights_path}: use that")
    card.check_weights()
    network = build(card.architecture, card.network)
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(str(card.weights_path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - safe_open is not a mapping
                tensors[name] = file.get_tensor(name).float()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{card.weights_path} is not a safetensors file: {error}") from error
    check_tensors(network, tensors, f"{card.weights_path} does not fit '{card.architecture}'")
    network.load_state_dict(tensors, strict=True)
    return network.eval().requires_grad_(False)


def check_tensors(network: Network, tensors: Mapping[str, Tensor], complaint: str) -> None:
    """Raises ModelError, with `complaint` and the reason, if names or shapes of tensors differ from the network's."""
    expected = network.state_dict()
    if different := sorted(expected.keys() ^ tensors.keys()):
        raise ModelError(f"{complaint}: tensor '{different[0]}' is not in both")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
            raise ModelError(f"{complaint}: '{name}' is {shapes}")


def verify(card: Card) -> float:
    """Loads the model and runs its stored example in float32; returns the largest difference, in units of 0..1.

    Raises ModelError if a file differs from the card or the difference is above GOLDEN_TOLERANCE.
    """
    difference: float = code_of(architecture_of(card.architecture).run_golden)(card)
    return card.check_difference(difference)


@torch.inference_mode()
def run_golden(network: Network, clip: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The network's results for the clip of a stored example (T x 3 x h x w, 0..255) in float32, not clamped.

    The result is T x 3 x H x W; for a zsm network (2T - 1) x 3 x H x W.
    """
    run_clip = architecture_of(id_of(network)).run_clip
    assert run_clip is not None, "a detector's example is one image"
    results: Tensor = code_of(run_clip)(network, torch.from_numpy(clip).float()[None] / 255)
    return results.numpy()


def describe(name: str) -> dict[str, Any]:
    """The description of a model, with the parameter count of each part, as plain values for `models show --json`.

    `name` is as for `find_card`, or a preset without weights: then `trained` is false, and the command that makes the
    weights takes the place of the card's fields.
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
    """Multiply-adds of all convolutions per input pixel of one output frame, counted while the network runs."""
    count: float = code_of(architecture_of(id_of(network)).multiply_adds)(network)
    return count
