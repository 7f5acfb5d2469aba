"""Networks only: no files, no devices, no options. The one table from an architecture's name to its builder."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from vidsr.errors import ModelError
from vidsr.nets.secnet import SECNet, SECNetConfig

ARCHITECTURES = {"secnet": (SECNetConfig, SECNet)}


def build(architecture: str, arguments: Mapping[str, int]) -> SECNet:
    """A network with fresh weights; raises ModelError for an unknown architecture or argument."""
    if architecture not in ARCHITECTURES:
        raise ModelError(f"unknown architecture '{architecture}'; known are {', '.join(sorted(ARCHITECTURES))}")
    config_class, network_class = ARCHITECTURES[architecture]
    known = {field.name for field in dataclasses.fields(config_class)}
    if unknown := sorted(set(arguments) - known):
        raise ModelError(f"the architecture '{architecture}' has no argument '{unknown[0]}'")
    return network_class(config_class(**arguments))
