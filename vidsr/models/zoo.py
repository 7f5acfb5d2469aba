"""Import of other people's models for single images: files of weights (.pth, .safetensors) and ONNX graphs.

The weights are read as plain tensors; spandrel finds out which network they belong to and builds it, torch exports it
to ONNX, and the graph has to compute what the network computes. What runs later is the graph, with ONNX Runtime.
"""

from __future__ import annotations

import datetime
import importlib
import math
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vidsr.config import LARGEST_SCALE
from vidsr.errors import ModelError, OutputError, UsageError
from vidsr.models.cards import (
    DETECTOR,
    FOREIGN_ENDINGS,
    LARGEST_MODEL_FILE,
    LONGEST_NAME,
    list_presets,
    sha256_of,
)
from vidsr.models.graph_measures import Measures, measure
from vidsr.models.image_graph import LARGEST_SIDE, ImageGraph, ImageGraphConfig, open_graph
from vidsr.models.importers import read_tensors
from vidsr.models.onnx_export import require_onnx, traced
from vidsr.models.registry import counting_parameters, id_of
from vidsr.models.writing import files_of, write_graph
from vidsr.toml import shortened

UNKNOWN_LICENCE = "unknown"
INSTALL = "'pip install einops onnx' and 'pip install --no-deps spandrel'"
RESERVED = ("auto", "bicubic", DETECTOR)
# Architectures of spandrel for faces of one size and for filling holes, which are refused.
OTHER_PURPOSES = {"GFPGAN", "RestoreFormer", "LaMa"}
# Sides of the traced image before they are rounded, and of the images on which graph and network are compared.
TRACED = (32, 48)
MULTIPLES = (1, 8, 16, 32, 64)  # tried in this order; networks with windows take multiples of these only
FIXED_SIDE = 128  # of the graph of a network that cannot be exported for any size
# Sums in another order differ by about 1e-6 of the largest value in float32; a wrong constant by far more.
TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Imported:
    """An imported model: its card, and what the user should know of it."""

    card: Path
    config: ImageGraphConfig
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Converted:
    """A graph and what is known of it before anything is measured, in the terms of ImageGraphConfig."""

    content: bytes
    network: str
    scale: int
    multiple_of: int
    minimum: int
    fixed: tuple[int, int] | None
    precision: str
    parameters: float
    multiply_adds: float


def import_foreign(
    source: Path, folder: Path, name: str | None = None, licence: str | None = None, overwrite: bool = False
) -> Imported:
    """Makes a model with a card of a file of weights or an ONNX graph; no code in it is run.

    `name` None: that of the file. Raises ModelError for a file that is no such model, UsageError if a package is
    missing or the name is not possible, OutputError if the model exists and `overwrite` is off, or cannot be written.
    """
    name = _checked_name(source, name)
    for path in files_of(folder, name, "onnx"):
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(f"{path} is the file itself: choose another folder with --output")
        if path.exists() and not overwrite:
            raise OutputError(f"{path} exists already: choose another name or folder, or give --overwrite")
    _check_file(source)
    require_onnx()
    is_graph = source.suffix.lower() == ".onnx"
    converted = _read_graph(source) if is_graph else convert(source)
    config = described(converted)
    network = ImageGraph(config, converted.content, name)
    measures = measure(network)
    network.config = config = _with_measures(config, measures)
    summary = f"{converted.network}, imported from {source.name}; sides: {config.size_rule}"
    head = {"name": name, "summary": summary, "architecture": id_of(network)}
    facts = {
        "licence": licence or UNKNOWN_LICENCE,
        "date": datetime.date.today().isoformat(),
        "origin": source.name,
        "origin_sha256": sha256_of(source),
    }
    return Imported(write_graph(folder, head, network, facts), config, measures.notes)


def _checked_name(source: Path, name: str | None) -> str:
    """The name of the model. Raises UsageError for one that means something else, or is no file name."""
    chosen = source.stem if name is None else name
    if not re.fullmatch(r"[\w][\w.+-]*", chosen) or len(chosen) > LONGEST_NAME or chosen.endswith(".toml"):
        raise UsageError(
            f"'{shortened(chosen)}' is no name for a model: give one of letters, digits, dots and dashes, as in "
            "'vidsr models import NAME FILE'"
        )
    if chosen in RESERVED or chosen in {preset.name for preset in list_presets()}:
        raise UsageError(f"'{chosen}' is the name of one of vidsr's models: give another one before the file")
    return chosen


def _check_file(source: Path) -> None:
    if source.suffix.lower() not in FOREIGN_ENDINGS:
        raise ModelError(f"{source} is no model file: give one that ends with {', '.join(FOREIGN_ENDINGS)}")
    if not source.is_file():
        raise ModelError(f"cannot read {source}: it does not exist or is not a file")
    if source.stat().st_size > LARGEST_MODEL_FILE:
        raise ModelError(f"{source} has more than {LARGEST_MODEL_FILE >> 20} MB, which is more than vidsr reads")


def described(converted: Converted) -> ImageGraphConfig:
    """The configuration of a converted graph before anything is measured. Raises ModelError for one out of range."""
    height, width = converted.fixed or (0, 0)
    try:
        return ImageGraphConfig(
            network=converted.network, scale=converted.scale, multiple_of=converted.multiple_of,
            minimum=converted.minimum, fixed_height=height, fixed_width=width, colors="RGB, 0 to 1",
            precision="fp16" if converted.precision == "fp16" else "fp32", overlap=0, tile_difference=0.0,
            bytes_per_pixel=1.0, parameters=converted.parameters, multiply_adds=converted.multiply_adds,
        )  # fmt: skip
    except ValueError as error:
        raise ModelError(f"the network cannot be used, because {error}: choose another model") from error


def _with_measures(config: ImageGraphConfig, measures: Measures) -> ImageGraphConfig:
    return replace(
        config, overlap=measures.overlap, tile_difference=measures.tile_difference,
        bytes_per_pixel=measures.bytes_per_pixel,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- weights


def convert(source: Path) -> Converted:
    """A file of weights as a graph. Raises ModelError, or UsageError without spandrel."""
    tensors = _read_weights(source)
    descriptor = _recognized(source, tensors)
    network = _ImageOnly(descriptor.model.float().eval().requires_grad_(False)).eval()
    rules = descriptor.size_requirements
    if rules.square:
        raise ModelError(f"{source} takes square images only, which no video has: choose another model")
    content, multiple, fixed = _export(source, network, rules.multiple_of, rules.minimum)
    tags = f" ({', '.join(descriptor.tags)})" if descriptor.tags else ""
    height, width = fixed or _sides(TRACED, multiple, rules.minimum)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, height, width))
    return Converted(
        content=content, network=f"{descriptor.architecture.name}{tags}", scale=descriptor.scale, multiple_of=multiple,
        minimum=max(rules.minimum, 1), fixed=fixed, precision="fp32",
        parameters=float(sum(p.numel() for p in network.parameters())),
        multiply_adds=counter.get_total_flops() / 2 / (height * width),
    )  # fmt: skip


def _read_weights(source: Path) -> dict[str, Tensor]:
    """The tensors of a file, checked. Raises ModelError."""
    if source.suffix.lower() == ".safetensors":
        try:
            with safe_open(str(source), framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{source} is not a safetensors file: {shortened(str(error))}") from error
    else:
        tensors = read_tensors(source, "a model file whose weights are plain tensors")
    if not tensors:
        raise ModelError(f"{source} holds no weights: give a model file")
    held = source.stat().st_size
    for name, tensor in tensors.items():
        if tensor.is_sparse or tensor.is_quantized or tensor.numel() * tensor.element_size() > held:
            raise ModelError(f"{source} is damaged: '{shortened(name)}' claims more values than the file holds")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ModelError(f"{source} is damaged: '{shortened(name)}' holds values that are not finite")
    return {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


def _recognized(source: Path, tensors: Mapping[str, Tensor]) -> Any:
    """spandrel's description of the network that the weights belong to, with the weights in it. Raises ModelError."""
    spandrel = _spandrel()
    supported = ", ".join(sorted({each.architecture.name for each in spandrel.MAIN_REGISTRY} - OTHER_PURPOSES))
    held = sum(tensor.numel() for tensor in tensors.values())
    try:
        with counting_parameters(f"the network of {source}", 2 * held):  # some are registered twice
            descriptor = spandrel.ModelLoader().load_from_state_dict(dict(tensors))
    except ModelError:
        raise
    except spandrel.UnsupportedModelError as error:
        raise ModelError(
            f"{source} holds weights of an unknown network; networks for images of these architectures can be "
            f"imported: {supported}"
        ) from error
    except Exception as error:  # wrong shapes and names raise many kinds while a network is built
        reason = shortened(" ".join(str(error).split()))
        raise ModelError(f"{source} holds weights that do not fit their network: {reason}: fetch it again") from error
    is_image = isinstance(descriptor, spandrel.ImageModelDescriptor)
    if not is_image or descriptor.purpose not in ("SR", "Restoration"):
        raise ModelError(
            f"{source} is a {descriptor.architecture.name} for {descriptor.purpose.lower()}, and vidsr takes networks "
            "that enlarge or clean whole images: choose another model"
        )
    if (descriptor.input_channels, descriptor.output_channels) != (3, 3):
        raise ModelError(
            f"{source} takes images of {descriptor.input_channels} channels and makes {descriptor.output_channels}, "
            "not red, green and blue: choose a model for color images"
        )
    if not 1 <= descriptor.scale <= LARGEST_SCALE:
        raise ModelError(f"{source} enlarges by {descriptor.scale}, and vidsr by 1 to {LARGEST_SCALE}: choose another")
    return descriptor


class _ImageOnly(nn.Module):
    """A network that may take options and return more than an image, as a function of the image alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        result = self.network(image)
        large: Tensor = result[0] if isinstance(result, (tuple, list)) else result
        return large


def _spandrel() -> Any:
    """The package spandrel. Raises UsageError if it is missing or cannot be loaded."""
    try:
        with _standing_in_for_torchvision(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("spandrel")
    except ImportError as error:
        raise UsageError(
            f"weights of other people's networks are read with spandrel, which cannot be loaded ({error}): install it "
            f"with {INSTALL}"
        ) from error


@contextmanager
def _standing_in_for_torchvision() -> Iterator[None]:
    """Modules in place of torchvision while spandrel is loaded.

    spandrel takes four names from it, for two networks that vidsr does not import (LaMa, RestoreFormer). torchvision
    itself works with one release of torch only, so that loading it may fail, and vidsr does without it.
    """

    def missing(*_arguments: object) -> None:
        raise NotImplementedError("torchvision is not used")

    functional = types.ModuleType("torchvision.transforms.functional")
    functional.normalize = functional.rotate = missing  # type: ignore[attr-defined]
    functional.InterpolationMode = types.SimpleNamespace  # type: ignore[attr-defined]
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    saved = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.modules.update(dict(zip(names, (*map(types.ModuleType, names[:2]), functional), strict=True)))
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(saved)


# ----------------------------------------------------------------------------------------------------------- export


def _export(source: Path, network: nn.Module, multiple: int, minimum: int) -> tuple[bytes, int, tuple[int, int] | None]:
    """The graph, the multiple that its sides are of, and the only size that it takes, if it does not take others.

    Networks whose masks or poolings are computed for one size cannot be exported for any. Raises ModelError if the
    graph does not compute what the network does.
    """
    sides = _sides(TRACED, math.lcm(multiple, 16), minimum)
    content = _exported(network, sides, is_dynamic=True)
    if content is not None:
        for step in sorted({math.lcm(multiple, each) for each in MULTIPLES}):
            larger, turned = (TRACED[0] + step, TRACED[1] + 3 * step), (TRACED[1], TRACED[0])
            compared = (_sides(wanted, step, minimum) for wanted in (larger, turned))
            if step <= LARGEST_SIDE and all(_agrees(network, content, each) for each in compared):
                return content, step, None
    (side, _) = _sides((FIXED_SIDE, FIXED_SIDE), math.lcm(multiple, 64), minimum)
    content = _exported(network, (side, side), is_dynamic=False) if side <= LARGEST_SIDE else None
    if content is None or not _agrees(network, content, (side, side)):
        raise ModelError(f"the network of {source} cannot be exported to ONNX without a change of its results")
    return content, 1, (side, side)


def _sides(sides: tuple[int, int], multiple: int, minimum: int) -> tuple[int, int]:
    """Sides that are multiples and not too small."""
    height, width = (-(-max(side, minimum) // multiple) * multiple for side in sides)
    return height, width


def _exported(network: nn.Module, sides: tuple[int, int], is_dynamic: bool) -> bytes | None:
    """The graph traced with an image of this size; None if torch cannot export the network."""
    axes = {"image": {2: "height", 3: "width"}, "result": {2: "tall", 3: "wide"}} if is_dynamic else {}
    try:
        with _silent_exporter():
            return traced(network, (_noise(sides),), ["image"], ["result"], axes)
    except Exception:  # torch.onnx and the network itself raise many kinds
        return None


@contextmanager
def _silent_exporter() -> Iterator[None]:
    """torch's exporter prints a graph that it cannot export to stdout, whatever it is told."""
    name = "_jit_onnx_log"
    printing: Callable[..., None] | None = getattr(torch._C, name, None)
    if printing is None:
        yield
        return
    setattr(torch._C, name, lambda *_: None)
    try:
        yield
    finally:
        setattr(torch._C, name, printing)


def _agrees(network: nn.Module, content: bytes, sides: tuple[int, int]) -> bool:
    """Whether graph and network compute the same for an image of this size."""
    image = _noise(sides)
    try:
        with torch.no_grad():
            expected = network(image).numpy()
        session = open_graph(content, "the exported network", torch.device("cpu"), torch.get_num_threads())
        (found,) = session.run(None, {"image": image.numpy()})
    except Exception:  # a size that the network or the graph does not take
        return False
    if found.shape != expected.shape:
        return False
    return bool(np.abs(found - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max()))


def _noise(sides: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.random.default_rng(7).random((1, 3, *sides), dtype=np.float32))


# ------------------------------------------------------------------------------------------------------------- ONNX


def _read_graph(source: Path) -> Converted:
    """A file that is a graph already. Raises ModelError for one that does not follow the usual conventions."""
    content = source.read_bytes()
    parameters = _checked_proto(source, content)
    session = open_graph(content, source.name, torch.device("cpu"), torch.get_num_threads())
    inputs, outputs = session.get_inputs(), session.get_outputs()
    kinds = {"tensor(float)": "fp32", "tensor(float16)": "fp16"}
    shape = list(inputs[0].shape) if inputs else []
    if len(inputs) != 1 or len(shape) != 4 or inputs[0].type not in kinds or outputs[0].type not in kinds:
        raise ModelError(
            f"{source} has not one input of images, 1 x 3 x height x width in float, as vidsr takes it: export it so"
        )
    if isinstance(shape[1], int) and shape[1] != 3:
        raise ModelError(f"{source} takes images of {shape[1]} channels, not red, green and blue: choose another model")
    if isinstance(shape[0], int) and shape[0] != 1:
        raise ModelError(f"{source} takes {shape[0]} images at once: export it for one")
    fixed = _fixed_size(source, shape)
    scale, multiple, minimum = _found_rules(source, session, fixed, kinds[inputs[0].type])
    return Converted(
        content=content, network="ONNX graph", scale=scale, multiple_of=multiple, minimum=minimum, fixed=fixed,
        precision=kinds[inputs[0].type], parameters=parameters, multiply_adds=0.0,
    )  # fmt: skip


def _checked_proto(source: Path, content: bytes) -> float:
    """The number of values that the graph's tensors hold. Raises ModelError if they lie in other files."""
    import onnx

    try:
        proto = onnx.load_from_string(content)
    except Exception as error:  # protobuf's errors
        raise ModelError(f"{source} is not an ONNX file: fetch it again") from error
    if not proto.graph.output:
        raise ModelError(f"{source} is not an ONNX file: fetch it again")
    tensors = list(proto.graph.initializer)
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise ModelError(f"{source} keeps its weights in another file: save it as a single file first")
    return float(sum(math.prod(tensor.dims) for tensor in tensors))


def _fixed_size(source: Path, shape: list[Any]) -> tuple[int, int] | None:
    height, width = shape[2:]
    if not isinstance(height, int) and not isinstance(width, int):
        return None
    if not (isinstance(height, int) and isinstance(width, int) and min(height, width) >= 16):
        raise ModelError(f"{source} fixes one side of its images only, or a tiny one: export it with dynamic sizes")
    if max(height, width) > LARGEST_SIDE:
        raise ModelError(
            f"{source} takes images of {width}x{height} only, and vidsr up to {LARGEST_SIDE} pixels a side, which it "
            "lays over a frame as tiles: export it with dynamic sizes"
        )
    return height, width


def _found_rules(source: Path, session: Any, fixed: tuple[int, int] | None, kind: str) -> tuple[int, int, int]:
    """Scale, multiple and smallest side of a graph, by trying. Raises ModelError."""
    tries = [(1, *fixed)] if fixed else []
    if not fixed:
        tries = [(step, *_sides((TRACED[0] + step, TRACED[1] + 3 * step), step, 1)) for step in MULTIPLES]
    reason = "no result"
    for step, height, width in tries:
        image = _noise((height, width)).numpy().astype(np.float16 if kind == "fp16" else np.float32)
        try:
            found = session.run(None, {session.get_inputs()[0].name: image})[0]
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            reason = shortened(" ".join(str(error).split()))
            continue
        scale = found.shape[-1] // width if found.ndim == 4 else 0
        if 1 <= scale <= LARGEST_SCALE and found.shape == (1, 3, scale * height, scale * width):
            return scale, step, 1 if step == 1 else TRACED[0]
        reason = f"{width}x{height} pixels become {' x '.join(map(str, found.shape))}"
    raise ModelError(
        f"{source} does not make an image of 1 to {LARGEST_SCALE} times the size ({reason}): choose another model"
    )
