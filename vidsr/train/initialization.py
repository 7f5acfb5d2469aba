"""Initial weights from another model: of the same network, a deeper one, or one with fewer inputs."""

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
    """Which tensors may differ between the source network and a network of the same architecture.

    `sequences`: residual blocks in sequence, of which the new network may have fewer. `inputs`: weights that may get
    more input channels: those in `centered` on both sides of the old ones, the others behind them. `optional`: parts of
    the names of tensors that the source may lack. `unshuffled`: weights with an input channel for every pixel of a
    square, of a network that has `unshuffle` in its configuration.
    """

    sequences: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    centered: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    unshuffled: tuple[str, ...] = ()


# By architecture id (models/registry.py). Architectures without a row only accept weights of the same shapes.
GROWTH: dict[str, Growth] = {
    "secnet": Growth(
        sequences=("fusion.body", "recurrent.encoder", "recurrent.decoder"),
        # The layers whose input is the window, or the past results (in the narrow form and in the form of the paper).
        inputs=("fusion.head.weight", "recurrent.head.weight", "recurrent.details_in.0.enter.weight"),
        centered=("fusion.head.weight",),
        optional=(".attention.", "estimator.", "tune_fusion.", "tune_recurrent.", "references."),
        unshuffled=("fusion.head.weight",),
    ),
    "zsm": Growth(sequences=("recon_trunk",), optional=("estimator.", "tune_features.", "tune_trunk.")),
}


def start_from(network: Network, path: Path) -> None:
    """Loads initial weights from a safetensors file (also fp16), or the averaged weights of a checkpoint.

    A SECNet may have more input frames (T1) or past results (T2) than the source, whose weights start at 0; attention,
    which starts open; an estimator with modulation and a branch of references, which start without effect. Except for
    attention, the network first computes the same as the source. With an `unshuffle` of U, a SECNet starts from the
    weights of one without, of U times its scale: its layers first see the mean of each square. A SECNet or Zooming
    SlowMo may also have fewer residual blocks in sequence: it takes evenly spaced blocks of the source, including the
    last one. Raises ModelError if the file cannot be read or anything else differs.
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
        unshuffled = getattr(network.config, "unshuffle", 1) ** 2
        if name in growth.unshuffled and tensor.dim() == 4 and tensor.shape[1] * unshuffled == wanted[1]:
            tensor = tensor.repeat_interleave(unshuffled, dim=1) / unshuffled
        elif name in growth.inputs and tensor.dim() == 4 and tensor.shape[1] < wanted[1]:
            # The window grows on both sides of the current frame; past results are appended.
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
    """Drops the blocks that the network does not have and renumbers the others."""
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
    split = [_split_block_name(name, (sequence,)) for name in weights]
    return len({number for found, number, _ in split if found == sequence})


def _split_block_name(name: str, sequences: tuple[str, ...]) -> tuple[str, int, str]:
    """ "a.b.3.conv.bias" as ("a.b", 3, "conv.bias"); an empty sequence for a tensor outside of them."""
    for sequence in sequences:
        if name.startswith(sequence + "."):
            number, _, rest = name.removeprefix(sequence + ".").partition(".")
            return sequence, int(number), rest
    return "", 0, name


def _widen(weight: Tensor, before: int, channels: int) -> Tensor:
    out = torch.zeros(weight.shape[0], channels, *weight.shape[2:], dtype=weight.dtype)
    out[:, before : before + weight.shape[1]] = weight
    return out
