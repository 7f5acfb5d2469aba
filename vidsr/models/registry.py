"""Registry of architectures: one literal row for each, by the id that cards and recipes use.

Rows name code as "module:object", so that listing models loads no network. Two more tables have the same keys: ENGINES
in `engines/select.py` and TASKS in `train/loop.py`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vidsr.errors import ModelError
from vidsr.toml import fill, shortened

if TYPE_CHECKING:
    from vidsr.nets.base import Network

Task = Literal["upscale", "interpolate", "restore_face", "detect"]
# The purpose of a model for each task, as part of a sentence.
DOES: dict[Task, str] = {
    "upscale": "enlarges frames",
    "interpolate": "interpolates frames between those of the input",
    "restore_face": "restores faces",
    "detect": "finds faces",
}


# Largest value of any size of a network, such as its width, depth or scale. The published ones have 64 at most.
LARGEST_SIZE = 512
MOST_SIZES = 64  # in one list
# Of a network with a card; 200 MB of weights in float32. The largest published network has 11.5 million.
MOST_PARAMETERS = 50_000_000


@dataclass(frozen=True, slots=True)
class Released:
    """Weights released by the authors of a network, for the default sizes of its configuration.

    `preset` is the model's name in vidsr.
    """

    preset: str
    title: str
    licence: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """One row of the registry: the tasks of an architecture and the code that implements it.

    `config` is the dataclass of the sizes, and `network` the `Network` built from it. The others are functions:
    `run_clip` runs a network on a clip, 1 x T x 3 x h x w in 0..1 to T' x 3 x H x W (None for detectors); `run_golden`
    takes a card and returns the largest difference from its stored example; `multiply_adds` takes a network and returns
    its multiply-adds per input pixel of one output frame; `graphs` takes a network and returns its ONNX models by name,
    "" for a single one. `load` takes a card and returns its network. `released` describes the authors' own weights,
    if a user may import them. `is_foreign`: the networks are other people's, run as they are: vidsr neither builds nor
    trains them, and they run only with ONNX Runtime.
    """

    tasks: tuple[Task, ...]
    config: str
    network: str
    run_clip: str | None
    run_golden: str
    multiply_adds: str
    graphs: str
    load: str = "vidsr.models.loading:load_weights"
    released: Released | None = None
    is_foreign: bool = False

    @property
    def purpose(self) -> str:
        """The purpose of its models, as part of a sentence."""
        return " and ".join(DOES[task] for task in self.tasks)


ARCHITECTURES: dict[str, Architecture] = {
    "secnet": Architecture(
        tasks=("upscale", "restore_face"),
        config="vidsr.nets.secnet.config:SECNetConfig",
        network="vidsr.nets.secnet.network:SECNet",
        run_clip="vidsr.models.behavior:secnet_clip",
        run_golden="vidsr.models.behavior:golden_clip",
        multiply_adds="vidsr.models.behavior:secnet_multiply_adds",
        graphs="vidsr.models.onnx_export:secnet_graphs",
    ),
    "zsm": Architecture(
        tasks=("interpolate",),
        config="vidsr.nets.zsm.config:ZSMConfig",
        network="vidsr.nets.zsm.network:ZoomingSlowMo",
        run_clip="vidsr.models.behavior:zsm_clip",
        run_golden="vidsr.models.behavior:golden_clip",
        multiply_adds="vidsr.models.behavior:zsm_multiply_adds",
        graphs="vidsr.models.onnx_export:zsm_graphs",
        released=Released(
            "zsm", "Zooming SlowMo", "GPL-3.0, as the authors released it; this copy is the user's and no part of vidsr"
        ),
    ),
    "cajnn": Architecture(
        tasks=("upscale",),
        config="vidsr.nets.cajnn.config:CAJNNConfig",
        network="vidsr.nets.cajnn.network:CAJNN",
        run_clip="vidsr.models.behavior:single_images",
        run_golden="vidsr.models.behavior:golden_clip",
        multiply_adds="vidsr.models.behavior:single_image_multiply_adds",
        graphs="vidsr.models.onnx_export:single_image_graphs",
    ),
    "hime": Architecture(
        tasks=("upscale",),
        config="vidsr.nets.hime.config:HIMEConfig",
        network="vidsr.nets.hime.network:HIME",
        run_clip="vidsr.models.behavior:hime_clip",
        run_golden="vidsr.models.behavior:golden_clip",
        multiply_adds="vidsr.models.behavior:hime_multiply_adds",
        graphs="vidsr.models.onnx_export:hime_graphs",
    ),
    "mpenet": Architecture(
        tasks=("upscale", "restore_face"),
        config="vidsr.nets.mpenet.config:MPENetConfig",
        network="vidsr.nets.mpenet.network:MPENet",
        run_clip="vidsr.models.behavior:single_images",
        run_golden="vidsr.models.behavior:golden_clip",
        multiply_adds="vidsr.models.behavior:face_multiply_adds",
        graphs="vidsr.models.onnx_export:single_image_graphs",
    ),
    "attention-fh": Architecture(
        tasks=("upscale", "restore_face"),
        config="vidsr.nets.attention_fh.config:AttentionFHConfig",
        network="vidsr.nets.attention_fh.network:AttentionFH",
        run_clip="vidsr.models.behavior:single_images",
        run_golden="vidsr.models.behavior:golden_clip",
        multiply_adds="vidsr.models.behavior:single_image_multiply_adds",
        graphs="vidsr.models.onnx_export:single_image_graphs",
    ),
    "facepyramid": Architecture(
        tasks=("detect",),
        config="vidsr.nets.facepyramid:FacePyramidConfig",
        network="vidsr.nets.facepyramid:FacePyramid",
        run_clip=None,
        run_golden="vidsr.models.behavior:golden_image",
        multiply_adds="vidsr.models.behavior:detector_multiply_adds",
        graphs="vidsr.models.onnx_export:detector_graphs",
    ),
    "image-graph": Architecture(
        tasks=("upscale",),
        config="vidsr.models.image_graph:ImageGraphConfig",
        network="vidsr.models.image_graph:ImageGraph",
        run_clip="vidsr.models.behavior:single_images",
        run_golden="vidsr.models.behavior:golden_clip",
        multiply_adds="vidsr.models.behavior:stated_multiply_adds",
        graphs="vidsr.models.onnx_export:stored_graph",
        load="vidsr.models.image_graph:load_graph",
        is_foreign=True,
    ),
}


def architecture_of(name: str) -> Architecture:
    """The row of an architecture. Raises ModelError for an unknown id."""
    if name not in ARCHITECTURES:
        raise ModelError(f"unknown architecture '{shortened(name)}'; known are {', '.join(sorted(ARCHITECTURES))}")
    return ARCHITECTURES[name]


def id_of(network: Network) -> str:
    """The id of a network's architecture. Raises ModelError for a network without a row."""
    names = {row.network: name for name, row in ARCHITECTURES.items()}
    for kind in type(network).__mro__:  # a subclass belongs to the row of its base
        if name := names.get(f"{kind.__module__}:{kind.__qualname__}"):
            return name
    raise ModelError(f"{type(network).__name__} is not in the table of architectures")


def code_of(reference: str) -> Any:
    """Imports the object that a row names as "module:object"."""
    return pkgutil.resolve_name(reference)


def config_of(architecture: str, arguments: Mapping[str, Any]) -> Any:
    """The configuration of a network. Raises ModelError for an unknown architecture or argument, or invalid sizes."""
    kind = code_of(architecture_of(architecture).config)
    _check_sizes(architecture, arguments)
    with _saying_why(architecture):
        return fill(kind, arguments, f"the architecture '{architecture}'", ModelError)


def build(architecture: str, arguments: Mapping[str, Any], most_parameters: int | None = None) -> Network:
    """A network with newly initialized weights.

    Raises ModelError as `config_of` does, and as soon as there are more than `most_parameters`.
    """
    config = config_of(architecture, arguments)
    make = code_of(architecture_of(architecture).network)
    with _saying_why(architecture), counting_parameters(f"the architecture '{architecture}'", most_parameters):
        network: Network = make(config)
        return network


def released_weights() -> dict[str, str]:
    """The architecture id of each model whose authors' weights can be imported, by the model's name."""
    return {row.released.preset: name for name, row in ARCHITECTURES.items() if row.released}


def _check_sizes(architecture: str, arguments: Mapping[str, Any]) -> None:
    """Raises ModelError for a size that no network has, before anything is built with it."""
    for name, value in arguments.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        sizes = [size for size in values if isinstance(size, int)]
        if len(values) > MOST_SIZES or any(abs(size) > LARGEST_SIZE for size in sizes):
            raise ModelError(
                f"the architecture '{architecture}' cannot be built with these sizes: '{shortened(name)}' is above "
                f"{LARGEST_SIZE} or has more than {MOST_SIZES} numbers"
            )


@contextmanager
def counting_parameters(what: str, most: int | None) -> Iterator[None]:
    """Raises ModelError when modules made in the block have more than `most` parameters together; None: no limit.

    The message begins with `what`.

    torch calls the hook before a parameter is initialized, and memory that was never written to costs nothing.
    """
    if most is None:
        yield
        return
    from torch.nn.modules.module import register_module_parameter_registration_hook

    count = 0

    def add(_module: object, _name: str, parameter: Any) -> None:
        nonlocal count
        count += 0 if parameter is None else parameter.numel()
        if count > most:
            raise ModelError(f"{what} would have more parameters here than the file holds")

    handle = register_module_parameter_registration_hook(add)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _saying_why(architecture: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError, TypeError) as error:
        raise ModelError(f"the architecture '{architecture}' cannot be built with these sizes: {error}") from error
