"""Networks only: no files, no devices, no options. The one table from an architecture's name to its builder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from vidsr.errors import ModelError
from vidsr.nets.facepyramid import FacePyramid, FacePyramidConfig
from vidsr.nets.secnet.config import SECNetConfig
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.zsm.config import ZSMConfig
from vidsr.nets.zsm.network import ZoomingSlowMo

Network = SECNet | ZoomingSlowMo
N = TypeVar("N")
# Per name the class of the sizes and the network that takes them.
ARCHITECTURES: dict[str, tuple[type[Any], Callable[[Any], Network]]] = {
    "secnet": (SECNetConfig, SECNet),
    "zsm": (ZSMConfig, ZoomingSlowMo),
}
# Networks that take one picture and make none: no engine runs them.
DETECTORS: dict[str, tuple[type[Any], Callable[[Any], FacePyramid]]] = {
    "facepyramid": (FacePyramidConfig, FacePyramid),
}


def build(architecture: str, arguments: Mapping[str, Any]) -> Network:
    """A network with fresh weights; raises ModelError for an unknown architecture or argument, or impossible sizes."""
    return _build(ARCHITECTURES, architecture, arguments)


def build_detector(architecture: str, arguments: Mapping[str, Any]) -> FacePyramid:
    """A face detector's network with fresh weights; raises ModelError as `build`."""
    return _build(DETECTORS, architecture, arguments)


def _build(
    table: Mapping[str, tuple[type[Any], Callable[[Any], N]]], architecture: str, arguments: Mapping[str, Any]
) -> N:
    if architecture not in table:
        raise ModelError(f"unknown architecture '{architecture}'; known are {', '.join(sorted(table))}")
    config_class, make = table[architecture]
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in fields:
            raise ModelError(f"the architecture '{architecture}' has no argument '{name}'")
        value = tuple(value) if isinstance(value, list) else value
        if type(value) is not type(fields[name].default):
            raise ModelError(f"the architecture '{architecture}' cannot have {value!r} as '{name}'")
        values[name] = value
    try:
        return make(config_class(**values))
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"the architecture '{architecture}' with these sizes makes no network: {error}") from error
