"""SECNets that are quick to run, in the paper's form, with weights that make every part of them show."""

from __future__ import annotations

from typing import Any

import torch

from vidsr.nets import build
from vidsr.nets.secnet import SECNet

# The paper's configuration with small widths.
PAPER_FORM: dict[str, Any] = {
    "t1": 2, "t2": 2, "t3": 6, "flow_width": 4, "flow_depth": 2, "flow_levels": 2, "fusion_width": 6,
    "fusion_blocks": 1, "fusion_tail": 4, "recurrent_width": 5, "detail_widths": (4, 6), "encoder_blocks": 1,
    "decoder_blocks": 1, "encoding": "fused", "aligned": False, "attention": True,
}  # fmt: skip


def paper_network(**arguments: Any) -> SECNet:
    """Weights far from the start, so that motion, past results and past features all take part."""
    torch.manual_seed(0)
    network = build("secnet", PAPER_FORM | arguments).requires_grad_(False).eval()
    for part, strength in ((network.flow, 0.15), (network.fusion, 0.05), (network.recurrent, 0.12)):
        for parameter in [] if part is None else part.parameters():
            parameter.add_(torch.randn(parameter.shape) * strength)
    return network
