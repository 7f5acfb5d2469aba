"""The architectures that vidsr knows: one literal row for each, by the id that cards and recipes give.

Rows name code as "module:object", so that listing models loads no network. Two more tables have the same keys: the
engines (engines/select.py) and the trainings (train/tasks.py).
"""

from __future__ import annotations

import dataclasses
import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from vidsr.errors import ModelError

Task = Literal["upscale", "interpolate", "restore_face", "detect"]
# What a model for each task does, as part of a sentence.
DOES: dict[Task, str] = {
    "upscale": "enlarges frames",
    "interpolate": "makes new frames between those of the input",
    "restore_face": "restores faces",
    "detect": "finds faces",
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row: what networks of an architecture are for, and where the code for them is.

    `config`: the dataclass of the sizes. `network`: a `torch.nn.Module` made of one.
    """

    tasks: tuple[Task, ...]
    config: str
    network: str

    @property
    def purpose(self) -> str:
        """What its models do, as part of a sentence."""
        return " and ".join(DOES[task] for task in self.tasks)


ARCHITECTURES: dict[str, Architecture] = {
    "secnet": Architecture(
        tasks=("upscale", "restore_face"),
        config="vidsr.nets.secnet.config:SECNetConfig",
        network="vidsr.nets.secnet.network:SECNet",
    ),
    "zsm": Architecture(
        tasks=("interpolate",),
        config="vidsr.nets.zsm.config:ZSMConfig",
        network="vidsr.nets.zsm.network:ZoomingSlowMo",
    ),
    "facepyramid": Architecture(
        tasks=("detect",),
        config="vidsr.nets.facepyramid:FacePyramidConfig",
        network="vidsr.nets.facepyramid:FacePyramid",
    ),
}


def architecture_of(name: str) -> Architecture:
    """The row of an architecture; raises ModelError for an unknown one."""
    if name not in ARCHITECTURES:
        raise ModelError(f"unknown architecture '{name}'; known are {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name]


def config_of(architecture: str, arguments: Mapping[str, Any]) -> Any:
    """The sizes of a network; raises ModelError for an unknown architecture or argument, or impossible sizes."""
    config_class = pkgutil.resolve_name(architecture_of(architecture).config)
    fields = {field.name: field for field in dataclasses.fields(config_class)}
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        if name not in fields:
            raise ModelError(f"the architecture '{architecture}' has no argument '{name}'")
        value = tuple(value) if isinstance(value, list) else value
        if type(value) is not type(fields[name].default):
            raise ModelError(f"the architecture '{architecture}' cannot have {value!r} as '{name}'")
        values[name] = value
    with _saying_why(architecture):
        return config_class(**values)


def build(architecture: str, arguments: Mapping[str, Any]) -> Any:
    """A network with fresh weights; raises ModelError as `config_of`."""
    config = config_of(architecture, arguments)
    make = pkgutil.resolve_name(architecture_of(architecture).network)
    with _saying_why(architecture):
        return make(config)


@contextmanager
def _saying_why(architecture: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"the architecture '{architecture}' with these sizes makes no network: {error}") from error
