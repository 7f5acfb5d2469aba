"""A network as an engine runs it: on the device, the convolutions in the engine's precision. No engine lives here."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from vidsr.nets.deformable import DeformableConv

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def prepared(network: AnyNetwork, device: torch.device, precision: str) -> AnyNetwork:
    """A copy of `network` on `device`, ready to run; convolutions, deformable ones too, in `precision`.

    Pictures, warping, sampling and what is carried on through time stay in float32.
    """
    network = copy.deepcopy(network).to(device).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's annotations
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, DeformableConv)):
            module.to(DTYPES[precision])
    return network
