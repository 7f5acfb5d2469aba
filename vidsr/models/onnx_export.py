"""ONNX export: the graphs of a network's steps, in memory or in files. `engines/onnx.py` runs them.

torch's tracing exporter is used: the newer one took 340 s instead of 5 s for secnet-fast, with the same numbers.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vidsr.errors import UsageError
from vidsr.files import atomic_write, check_target
from vidsr.models.image_graph import ImageGraph
from vidsr.models.registry import architecture_of, code_of, id_of
from vidsr.nets.base import Network
from vidsr.nets.export_step import Shapes, Step
from vidsr.nets.facepyramid import COLUMNS, FacePyramid, FacePyramidGraph
from vidsr.nets.hime.export_step import HIMEStep
from vidsr.nets.hime.network import HIME
from vidsr.nets.secnet.export_step import SECNetStep
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.single_image import SingleImageStep
from vidsr.nets.zsm.export_steps import parts_of
from vidsr.nets.zsm.network import ZoomingSlowMo

OPSET = 18  # the newest whose grid sampling ONNX Runtime runs on both CPU and CUDA
EXAMPLE = (24, 40)  # size of the traced frame; the graph takes other sizes too
DETECTOR_EXAMPLE = (64, 96)

# A network's ONNX models by name; each is made when its function is called.
Graphs = dict[str, Callable[[], bytes]]


def secnet_graphs(network: SECNet) -> Graphs:
    """One graph: temporal window of a frame and previous state to result and next state."""
    return {"": lambda: graph_of(SECNetStep(network))}


def zsm_graphs(network: ZoomingSlowMo) -> Graphs:
    """One graph for each step of a stream."""
    return {name: partial(graph_of, step) for name, step in parts_of(network).items()}


def single_image_graphs(network: Network) -> Graphs:
    """One graph, from an image to its enlargement."""
    return {"": lambda: graph_of(SingleImageStep(network))}


def stored_graph(network: ImageGraph) -> Graphs:
    """The graph as it was imported."""
    return {"": lambda: network.content}


def hime_graphs(network: HIME) -> Graphs:
    """One graph, from an image and up to three references to its enlargement and the references' weights."""
    return {"": lambda: graph_of(HIMEStep(network))}


def detector_graphs(network: FacePyramid) -> Graphs:
    """One graph, with YuNet's interface."""
    return {"": lambda: detector_graph(network)}


def graph_of(step: Step) -> bytes:
    """The ONNX model of a step, float32, for frames of any size; raises UsageError without the package `onnx`."""
    require_onnx()
    step = step.float().eval()
    device = next(step.parameters()).device
    inputs, outputs = step.inputs(*EXAMPLE), step.outputs(*EXAMPLE)
    examples = tuple(torch.zeros(shape, device=device) for shape in inputs.values())
    axes = {name: _axes(shape) for name, shape in (inputs | outputs).items()}
    return _with_shapes(traced(step, examples, list(inputs), list(outputs), axes), inputs | outputs)


def export(network: Network, path: Path, overwrite: bool) -> Sequence[Path]:
    """Writes the graphs of a network: a single one to PATH, several to STEM.PART.onnx. Returns the files.

    Raises OutputError if a file exists and `overwrite` is off, or cannot be written; then nothing is left behind and
    existing files are untouched.
    """
    if path.suffix != ".onnx":
        raise UsageError(f"{path} is not a name for an ONNX file: end it with .onnx")
    graphs: Graphs = code_of(architecture_of(id_of(network)).graphs)(network)
    paths = {name: path.with_suffix(f".{name}.onnx") if name else path for name in graphs}
    for target in paths.values():
        check_target(target, None, overwrite)
    with contextlib.ExitStack() as stack:  # all files are complete before the first one is renamed
        for name, graph in graphs.items():
            stack.enter_context(atomic_write(paths[name], overwrite=overwrite)).write_bytes(graph())
    return list(paths.values())


def _with_shapes(model: bytes, shapes: Shapes) -> bytes:
    """Sets the shape of every input and output, because the exporter invents names for some axes."""
    import onnx

    proto = onnx.load_from_string(model)
    for value in (*proto.graph.input, *proto.graph.output):
        shape = shapes[value.name]
        lengths = [_axes(shape).get(axis, length) for axis, length in enumerate(shape)]
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, lengths))
    onnx.checker.check_model(proto)
    serialized: bytes = proto.SerializeToString()
    return serialized


def _axes(shape: tuple[int, ...]) -> dict[int, str]:
    """Names of the axes that depend on the frame size: height, width, and their multiples and fractions."""
    if len(shape) < 4:
        return {}
    return {2: _axis("height", shape[2], EXAMPLE[0]), 3: _axis("width", shape[3], EXAMPLE[1])}


def _axis(name: str, length: int, whole: int) -> str:
    if length >= whole:
        return name if length == whole else f"{length // whole}*{name}"
    return f"{name}/{whole // length}"


def detector_graph(network: FacePyramid) -> bytes:
    """The ONNX model of a face detector with YuNet's interface, float32, for images of any size.

    Raises UsageError without the package `onnx`.
    """
    require_onnx()
    import onnx

    graph = FacePyramidGraph(network)
    names = graph.outputs()
    axes = {name: {1: f"cells_{name.partition('_')[2]}"} for name in names}
    device = next(graph.parameters()).device
    example = torch.zeros(1, 3, *DETECTOR_EXAMPLE, device=device)
    content = traced(graph, (example,), ["input"], names, {"input": {2: "height", 3: "width"}} | axes)
    proto = onnx.load_from_string(content)
    for value in proto.graph.output:
        shape: list[str | int | None] = [1, axes[value.name][1], COLUMNS[value.name.partition("_")[0]]]
        value.CopyFrom(onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, shape))
    onnx.checker.check_model(proto)
    serialized: bytes = proto.SerializeToString()
    return serialized


def traced(
    module: torch.nn.Module, examples: tuple[Tensor, ...], inputs: list[str], outputs: list[str],
    axes: dict[str, dict[int, str]],
) -> bytes:  # fmt: skip
    """The ONNX model of a module, traced with example inputs; `axes` names the axes of any length.

    Raises whatever torch raises for an operation that it cannot export.
    """
    content = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The warnings say that this exporter is deprecated and that traced Python numbers become constants. Tests run
        # the graphs at other sizes.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, examples, content,  # type: ignore[arg-type]  # it also takes a stream, which its annotation omits
            input_names=inputs, output_names=outputs, opset_version=OPSET, dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
    return content.getvalue()


def require_onnx() -> None:
    """Raises UsageError without the package `onnx`."""
    if importlib.util.find_spec("onnx") is None:
        raise UsageError("ONNX graphs need the package onnx: install it with 'pip install onnx'")
