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
from vidsr.models.registry import MOST_PARAMETERS, architecture_of, build, code_of, config_of, id_of
from vidsr.nets.base import Network
from vidsr.toml import shortened

SMALLEST_WEIGHT = 2  # bytes of a value in half precision


def load_network(card: Card) -> Network:
    """Loads the network of a card in float32, frozen, on the CPU.

    Raises ModelError if the file's size or SHA-256, the tensors' names, shapes or types, or the network's scale and
    look-ahead differ from the card, or a weight is not finite.
    """
    if not isinstance(card, ModelCard):
        raise ModelError(f"the model '{card.name}' is an ONNX file already, {card.weights_path}: use that")
    check_card(card)
    card.check_weights()
    network: Network = code_of(architecture_of(card.architecture).load)(card)
    return network.eval().requires_grad_(False)


def load_weights(card: Card) -> Network:
    """The network of a card whose file is known to be the right one. Raises ModelError as `load_network` does."""
    complaint = f"{card.weights_path} does not fit '{card.architecture}'"
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(str(card.weights_path), framework="pt") as file:
            network = _built(card)
            expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(expected, found, complaint)
            for name in found:
                tensors[name] = _weights(name, file.get_tensor(name), complaint)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{card.weights_path} is not a safetensors file: {error}") from error
    network.load_state_dict(tensors, strict=True)
    return network


def check_tensors(network: Network, tensors: Mapping[str, Tensor], complaint: str) -> None:
    """Raises ModelError, with `complaint` and the reason, if names or shapes of tensors differ from the network's."""
    expected, found = (
        {name: tuple(tensor.shape) for name, tensor in tensors.items()} for tensors in (network.state_dict(), tensors)
    )
    _check_shapes(expected, found, complaint)


def check_card(card: ModelCard) -> None:
    """Raises ModelError if scale or look-ahead of the card are not those of its network."""
    config = config_of(card.architecture, card.network)
    for field in ("scale", "lookahead"):
        stated, real = getattr(card, field), getattr(config, field)
        if stated != real:
            raise ModelError(f"the model card {card.path} states a {field} of {stated}, but its network has {real}")


def _built(card: Card) -> Network:
    """The network of a card with new weights, no larger than the card's file can hold. Raises ModelError."""
    return build(card.architecture, card.network, min(card.bytes // SMALLEST_WEIGHT, MOST_PARAMETERS))


def _check_shapes(expected: Mapping[str, Any], found: Mapping[str, Any], complaint: str) -> None:
    if different := sorted(expected.keys() ^ found.keys()):
        raise ModelError(f"{complaint}: tensor '{shortened(different[0])}' is not in both")
    for name, shape in found.items():
        if shape != expected[name]:
            raise ModelError(f"{complaint}: '{name}' is {shortened(str(shape))} instead of {expected[name]}")


def _weights(name: str, tensor: Tensor, complaint: str) -> Tensor:
    """A tensor of a file in float32. Raises ModelError for other types than float, and for values not finite."""
    if tensor.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        raise ModelError(f"{complaint}: '{name}' is of type {str(tensor.dtype).removeprefix('torch.')}, not float")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise ModelError(f"{complaint}: '{name}' holds values that are not finite")
    return tensor


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
        if isinstance(card, ModelCard):
            check_card(card)
        network = load_network(card) if architecture_of(card.architecture).is_foreign else _built(card)
    else:
        values = dataclasses.asdict(preset) | {"recipe": f"recipes/{preset.recipe.name}", "trained": False}
        values["train_command"] = preset.train_command
        values |= {"import_command": preset.import_command} if preset.import_command else {}
        network = build(preset.architecture, preset.network)
        values |= {"scale": network.config.scale, "lookahead": network.config.lookahead}
    parts = network.parameter_counts()
    return values | {
        "parameters": {part: count for part, count in parts.items() if count} | {"total": sum(parts.values())},
        "multiply_adds_per_pixel": multiply_adds_per_pixel(network),
    }


def multiply_adds_per_pixel(network: Network) -> float:
    """Multiply-adds of all convolutions per input pixel of one output frame, counted while the network runs."""
    count: float = code_of(architecture_of(id_of(network)).multiply_adds)(network)
    return count
