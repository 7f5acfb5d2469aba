"""The architectures that vidsr knows: one literal row for each, by the id that cards and recipes give.

Rows name code as "module:object", so that listing models loads no network. Two more tables have the same keys: the
engines (engines/select.py) and the trainings (train/tasks.py).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vidsr.errors import ModelError
from vidsr.toml import fill

if TYPE_CHECKING:
    from vidsr.nets.base import Network

Task = Literal["upscale", "interpolate", "restore_face", "detect"]
# What a model for each task does, as part of a sentence.
DOES: dict[Task, str] = {
    "upscale": "enlarges frames",
    "interpolate": "makes new frames between those of the input",
    "restore_face": "restores faces",
    "detect": "finds faces",
}


@dataclass(frozen=True, slots=True)
class Released:
    """Weights that the authors of a network released: for the sizes that its configuration has by default.

    `preset`: the name that they get here.
    """

    preset: str
    title: str
    licence: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row: what networks of an architecture are for, and where the code for them is.

    `config`: the dataclass of the sizes. `network`: a `Network` made of one. `run_clip`: from a network and a clip
    1 x T x 3 x h x w in 0..1 to what the network makes of it, T' x 3 x H x W. `run_golden`: from a network's card to
    the largest difference from its stored example. `multiply_adds`: from a network to its multiply-adds for each input
    pixel of one resulting frame. `graphs`: from a network to its ONNX models by name, "" for the only one. `released`:
    the authors' own weights, if a user may import them.
    """

    tasks: tuple[Task, ...]
    config: str
    network: str
    run_clip: str | None
    run_golden: str
    multiply_adds: str
    graphs: str
    released: Released | None = None

    @property
    def purpose(self) -> str:
        """What its models do, as part of a sentence."""
        return " and ".join(DOES[task] for task in self.tasks)


ARCHITECTURES: dict[str, Architecture] = {
    "secnet": Architecture(
        tasks=("upscale", "restore_face"),
        config="vidsr.nets.secnet.config:SECNetConfig",
        network="vidsr.nets.secnet.network:SECNet",
        run_clip="vidsr.models.behaviour:secnet_clip",
        run_golden="vidsr.models.behaviour:golden_clip",
        multiply_adds="vidsr.models.behaviour:secnet_multiply_adds",
        graphs="vidsr.models.onnx_export:secnet_graphs",
    ),
    "zsm": Architecture(
        tasks=("interpolate",),
        config="vidsr.nets.zsm.config:ZSMConfig",
        network="vidsr.nets.zsm.network:ZoomingSlowMo",
        run_clip="vidsr.models.behaviour:zsm_clip",
        run_golden="vidsr.models.behaviour:golden_clip",
        multiply_adds="vidsr.models.behaviour:zsm_multiply_adds",
        graphs="vidsr.models.onnx_export:zsm_graphs",
        released=Released(
            "zsm", "Zooming SlowMo", "GPL-3.0, as the authors released it; this copy is the user's and no part of vidsr"
        ),
    ),
    "facepyramid": Architecture(
        tasks=("detect",),
        config="vidsr.nets.facepyramid:FacePyramidConfig",
        network="vidsr.nets.facepyramid:FacePyramid",
        run_clip=None,
        run_golden="vidsr.models.behaviour:golden_image",
        multiply_adds="vidsr.models.behaviour:detector_multiply_adds",
        graphs="vidsr.models.onnx_export:detector_graphs",
    ),
}


def architecture_of(name: str) -> Architecture:
    """The row of an architecture; raises ModelError for an unknown one."""
    if name not in ARCHITECTURES:
        raise ModelError(f"unknown architecture '{name}'; known are {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name]


def id_of(network: Network) -> str:
    """The id of a network's architecture; raises ModelError for a network that is in no row."""
    kind = type(network)
    for name, row in ARCHITECTURES.items():
        if row.network == f"{kind.__module__}:{kind.__qualname__}":
            return name
    raise ModelError(f"{kind.__name__} is not in the table of architectures")


def code_of(reference: str) -> Any:
    """What a row names as "module:object"."""
    return pkgutil.resolve_name(reference)


def config_of(architecture: str, arguments: Mapping[str, Any]) -> Any:
    """The sizes of a network; raises ModelError for an unknown architecture or argument, or impossible sizes."""
    kind = code_of(architecture_of(architecture).config)
    with _saying_why(architecture):
        return fill(kind, arguments, f"the architecture '{architecture}'", ModelError)


def build(architecture: str, arguments: Mapping[str, Any]) -> Network:
    """A network with fresh weights; raises ModelError as `config_of`."""
    config = config_of(architecture, arguments)
    make = code_of(architecture_of(architecture).network)
    with _saying_why(architecture):
        network: Network = make(config)
        return network


def released_weights() -> dict[str, str]:
    """The id of the architecture for each model that can be made of its authors' weights, by the model's name."""
    return {row.released.preset: name for name, row in ARCHITECTURES.items() if row.released}


@contextmanager
def _saying_why(architecture: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"the architecture '{architecture}' with these sizes makes no network: {error}") from error
