"""A training that starts from another model's weights, also from those of a network that saw fewer frames."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vidsr.errors import ModelError
from vidsr.nets import Network
from vidsr.train.checkpoint import load_checkpoint

# The layers that see the window, and the past results in the narrow form and in the paper's.
_SEES_PICTURES = ("fusion.head.weight", "recurrent.head.weight", "recurrent.details_in.0.enter.weight")


def start_from(network: Network, path: Path) -> None:
    """Gives `network` the weights of a safetensors file (also fp16) or of a checkpoint's average.

    Three things may differ in a SECNet, each so that the network first computes what the weights computed before: it
    may see more frames (T1) or past results (T2), whose weights start at 0, and it may have attention, which starts
    open. Raises ModelError if the file cannot be read or anything else differs.
    """
    try:
        weights = load_file(path) if path.suffix == ".safetensors" else load_checkpoint(path)["average"]
    except (OSError, SafetensorError) as error:
        raise ModelError(f"cannot read the weights {path}: {error}") from error
    expected = network.state_dict()
    missing = {name for name in expected.keys() - weights.keys() if ".attention." not in name}
    if others := sorted(missing | (weights.keys() - expected.keys())):
        raise ModelError(f"the weights in {path} do not fit the network of the recipe: '{others[0]}' is not in both")
    for name, tensor in weights.items():
        wanted = expected[name].shape
        if name in _SEES_PICTURES and tensor.dim() == 4 and tensor.shape[1] < wanted[1]:
            # The window grows on both sides of the frame itself, past results are added behind.
            before = (wanted[1] - tensor.shape[1]) // 2 if name == "fusion.head.weight" else 0
            tensor = _widen(tensor, before, wanted[1])
        if tensor.shape != wanted:
            raise ModelError(
                f"the weights in {path} do not fit the network of the recipe: '{name}' is {tuple(tensor.shape)} "
                f"instead of {tuple(wanted)}"
            )
        expected[name] = tensor
    network.load_state_dict(expected)


def _widen(weight: Tensor, before: int, channels: int) -> Tensor:
    out = torch.zeros(weight.shape[0], channels, *weight.shape[2:], dtype=weight.dtype)
    out[:, before : before + weight.shape[1]] = weight
    return out
