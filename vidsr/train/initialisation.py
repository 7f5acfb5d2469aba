"""A training that starts from another model's weights: of the same network, a deeper one, or one that saw less."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vidsr.errors import ModelError
from vidsr.models.registry import id_of
from vidsr.nets.base import Network
from vidsr.train.checkpoint import load_checkpoint


@dataclass(frozen=True, slots=True)
class Growth:
    """In which tensors another network of the same architecture may differ.

    `sequences`: residual blocks in a row, of which there may be fewer. `inputs`: weights that may see more frames, those of
    `centered` with new ones on both sides of the frame itself, the others with new ones behind. `optional`: parts of
    names that only one of the two may have.
    """

    sequences: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    centered: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()


# By the ids of models/registry.py; an architecture that is not here takes weights of the same sizes alone.
GROWTH: dict[str, Growth] = {
    "secnet": Growth(
        sequences=("fusion.body", "recurrent.encoder", "recurrent.decoder"),
        # The layers that see the window, and the past results in the narrow form and in the paper's.
        inputs=("fusion.head.weight", "recurrent.head.weight", "recurrent.details_in.0.enter.weight"),
        centered=("fusion.head.weight",),
        optional=(".attention.", "estimator.", "tune_fusion.", "tune_recurrent."),
    ),
    "zsm": Growth(sequences=("recon_trunk",)),
}


def start_from(network: Network, path: Path) -> None:
    """Gives `network` the weights of a safetensors file (also fp16) or of a checkpoint's average.

    Four things may differ in a SECNet so that the network first computes what the weights computed before: it may see
    more frames (T1) or past results (T2), whose weights start at 0, and it may have attention, which starts open, or an
    estimator with its modulation, which starts as none. And
    it, or a Zooming SlowMo, may have fewer residual blocks in a row: it takes some of the weights' blocks, evenly
    spread, the last one among them. Raises ModelError if the file cannot be read or anything else differs.
    """
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else load_checkpoint(path)["average"]
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the weights {path}: {error}") from error
    expected, growth = network.state_dict(), GROWTH.get(id_of(network), Growth())
    weights = _drop_blocks(weights, expected, growth.sequences)
    missing = {name for name in expected.keys() - weights.keys() if not any(part in name for part in growth.optional)}
    if others := sorted(missing | (weights.keys() - expected.keys())):
        raise ModelError(f"the weights in {path} do not fit the network of the recipe: '{others[0]}' is not in both")
    for name, tensor in weights.items():
        wanted = expected[name].shape
        if name in growth.inputs and tensor.dim() == 4 and tensor.shape[1] < wanted[1]:
            # The window grows on both sides of the frame itself, past results are added behind.
            before = (wanted[1] - tensor.shape[1]) // 2 if name in growth.centered else 0
            tensor = _widen(tensor, before, wanted[1])
        if tensor.shape != wanted:
            raise ModelError(
                f"the weights in {path} do not fit the network of the recipe: '{name}' is {tuple(tensor.shape)} "
                f"instead of {tuple(wanted)}"
            )
        expected[name] = tensor
    network.load_state_dict(expected)


def _drop_blocks(
    weights: dict[str, Tensor], expected: dict[str, Tensor], sequences: tuple[str, ...]
) -> dict[str, Tensor]:
    """The weights without the blocks that the network has no room for, the others counted anew."""
    thinned = {}
    for name, tensor in weights.items():
        sequence, number, rest = _split_block_name(name, sequences)
        old, new = _block_count(weights, sequence), _block_count(expected, sequence)
        if sequence and 0 < new < old:
            kept = [(i + 1) * old // new - 1 for i in range(new)]
            if number not in kept:
                continue
            name = f"{sequence}.{kept.index(number)}.{rest}"
        thinned[name] = tensor
    return thinned


def _block_count(weights: dict[str, Tensor], sequence: str) -> int:
    return len(
        {
            _split_block_name(name, (sequence,))[1]
            for name in weights
            if _split_block_name(name, (sequence,))[0] == sequence
        }
    )


def _split_block_name(name: str, sequences: tuple[str, ...]) -> tuple[str, int, str]:
    """ "a.b.3.conv.bias" as ("a.b", 3, "conv.bias"); an empty row for a tensor of no residual block in a row."""
    for sequence in sequences:
        if name.startswith(sequence + "."):
            number, _, rest = name.removeprefix(sequence + ".").partition(".")
            return sequence, int(number), rest
    return "", 0, name


def _widen(weight: Tensor, before: int, channels: int) -> Tensor:
    out = torch.zeros(weight.shape[0], channels, *weight.shape[2:], dtype=weight.dtype)
    out[:, before : before + weight.shape[1]] = weight
    return out
