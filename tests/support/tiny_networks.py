"""Small, quick networks in the papers' form and in the fast form, with weights that make every part matter."""

from __future__ import annotations

from typing import Any

import torch

from vidsr.models.registry import build
from vidsr.nets.attention_fh.network import AttentionFH
from vidsr.nets.cajnn.network import CAJNN
from vidsr.nets.hime.network import HIME
from vidsr.nets.mpenet.network import MPENet
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.zsm.network import ZoomingSlowMo

# The paper's configuration with small widths.
PAPER_FORM: dict[str, Any] = {
    "t1": 2, "t2": 2, "t3": 6, "flow_width": 4, "flow_depth": 2, "flow_levels": 2, "fusion_width": 6,
    "fusion_blocks": 1, "fusion_tail": 4, "recurrent_width": 5, "detail_widths": (4, 6), "encoder_blocks": 1,
    "decoder_blocks": 1, "encoding": "fused", "aligned": False, "attention": True,
}  # fmt: skip
# The form of the recipe secnet-fast with few and narrow layers, where only the time of a run matters.
NARROW_FORM: dict[str, Any] = {
    "flow_width": 4, "flow_depth": 2, "flow_levels": 1, "fusion_width": 6, "fusion_blocks": 1, "recurrent_width": 6,
    "decoder_blocks": 1,
}  # fmt: skip
# Zooming SlowMo as published, with the low-resolution head, as in the recipe zsm-fast, and as in zsm-fast-real.
SLOWMO_FORMS: dict[str, dict[str, Any]] = {
    "published": {
        "width": 4, "front_blocks": 1, "back_blocks": 1, "levels": 2, "groups": 2, "state_width": 4,
        "state_levels": 2, "upsampler_width": 4, "synthesis_blocks": 1,
    },
    "fast": {
        "width": 8, "front_blocks": 1, "back_blocks": 1, "levels": 2, "kernel": 1, "groups": 2, "state_width": 4,
        "state_levels": 1, "state_sides": 1, "state_joint": True, "upsampler_width": 0, "synthesis_blocks": 1,
        "shared_sides": True, "residual": True,
    },
}  # fmt: skip
SLOWMO_FORMS["conditioned"] = SLOWMO_FORMS["fast"] | {"estimator_width": 4, "modulation_width": 4}
# CAJNN with the upsampler of the printed size, and with that of equation (4.3) as in the recipe cajnn-fast.
CAJNN_FORMS: dict[str, dict[str, Any]] = {
    "printed": {"width": 6, "blocks": 2, "growth": 4, "upsampler_width": 5},
    "fast": {"width": 6, "blocks": 1, "growth": 6, "upsampler_width": 0},
}
# HIME as the dissertation has it, and with the weight for "no reference" as in the recipe hime-fast.
HIME_FORMS: dict[str, dict[str, Any]] = {
    "printed": {
        "width": 4, "low_blocks": 1, "high_blocks": 1, "reconstruction_blocks": 2, "guide_stages": 1,
        "reference_stages": 2, "groups": 2,
    },
    "fast": {
        "width": 4, "low_blocks": 1, "high_blocks": 1, "reconstruction_blocks": 1, "guide_stages": 0,
        "reference_stages": 1, "groups": 2, "kernel": 1, "no_reference": True,
    },
}  # fmt: skip

# MPENet as the paper has it, and with five points and no units as in the recipe mpenet-fast.
MPENET_FORMS: dict[str, dict[str, Any]] = {
    "paper": {"width": 3, "groups": 2, "alignment_width": 4, "hourglass_depth": 2, "units": [1, 6, 9, 12, 17, 23]},
    "fast": {
        "width": 4, "groups": 2, "steps": 2, "points": 5, "alignment_width": 4, "hourglass_depth": 2, "units": [],
    },
}  # fmt: skip

# Attention-FH with hard boxes as in the paper, and with blended ones as in the recipe attention-fh-fast.
ATTENTION_FH_FORMS: dict[str, dict[str, Any]] = {
    "paper": {"scale": 4, "steps": 2, "side": 32, "grid": 8, "heights": (8, 16), "history": 6, "hidden": 8},
    "fast": {
        "scale": 4, "steps": 2, "side": 32, "grid": 4, "heights": (16, 32), "history": 6, "hidden": 8,
        "context_side": 4, "context_channels": 1, "fade": 2,
    },
}  # fmt: skip


def paper_network(**arguments: Any) -> SECNet:
    """Weights far from their initial values, so that motion, past outputs and past features all matter."""
    return _secnet(PAPER_FORM | arguments)


def narrow_network(**arguments: Any) -> SECNet:
    """The same in the narrow form."""
    return _secnet(NARROW_FORM | arguments)


def _secnet(form: dict[str, Any]) -> SECNet:
    torch.manual_seed(0)
    network = build("secnet", form).requires_grad_(False).eval()
    for part, strength in ((network.flow, 0.15), (network.fusion, 0.05), (network.recurrent, 0.12)):
        for parameter in [] if part is None else part.parameters():
            parameter.add_(torch.randn(parameter.shape) * strength)
    return network


def slowmo_network(form: str, **arguments: Any) -> ZoomingSlowMo:
    """Weights far from their initial values, so that no offset or feature is nearly zero."""
    torch.manual_seed(0)
    network = build("zsm", SLOWMO_FORMS[form] | arguments).requires_grad_(False).eval()
    for name, parameter in network.named_parameters():
        parameter.add_(torch.randn(parameter.shape) * (0.3 if "conv_offset_mask" in name else 0.1))
    if network.estimator is not None:
        network.estimator.overall.weight.mul_(20)  # so that the levels of frames differ
    return network


def cajnn_network(form: str, **arguments: Any) -> CAJNN:
    """Weights far from their initial values, so that every layer matters."""
    torch.manual_seed(0)
    network = build("cajnn", CAJNN_FORMS[form] | arguments).requires_grad_(False).eval()
    assert isinstance(network, CAJNN)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    return network


def hime_network(form: str, **arguments: Any) -> HIME:
    """Weights far from their initial values, with offsets of whole pixels, so that every layer matters."""
    torch.manual_seed(0)
    network = build("hime", HIME_FORMS[form] | arguments).requires_grad_(False).eval()
    assert isinstance(network, HIME)
    for name, parameter in network.named_parameters():
        parameter.add_(torch.randn(parameter.shape) * (0.4 if "conv_offset_mask" in name else 0.1))
    return network


def mpenet_network(form: str, **arguments: Any) -> MPENet:
    """Weights far from their initial values, and statistics that no batch has, so that every layer matters."""
    torch.manual_seed(0)
    network = build("mpenet", MPENET_FORMS[form] | arguments).requires_grad_(False).eval()
    assert isinstance(network, MPENet)
    for name, tensor in network.state_dict().items():
        noise = torch.randn(tensor.shape)
        tensor.add_(noise.abs() * 0.2 if name.endswith("running_var") else noise * 0.05)
    return network


def attention_fh_network(form: str, **arguments: Any) -> AttentionFH:
    """Weights far from their initial values, so that the policy decides by what it sees."""
    torch.manual_seed(0)
    network = build("attention-fh", ATTENTION_FH_FORMS[form] | arguments).requires_grad_(False)
    assert isinstance(network, AttentionFH)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.05)
    return network
