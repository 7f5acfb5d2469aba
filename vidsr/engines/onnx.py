"""Networks run by ONNX Runtime, in float32, for the engines. How graphs are made is models/onnx_export.

Images and states are torch tensors on the engine's device; ONNX Runtime is given their addresses (IO binding), so
nothing is copied between host and device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidsr.engines.base import EngineInfo
from vidsr.engines.recurrent import told_tensor
from vidsr.models.onnx_export import graph_of
from vidsr.nets.base import Network
from vidsr.nets.export_step import Step
from vidsr.nets.secnet.export_step import SECNetStep
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.single_image import SingleImageStep
from vidsr.nets.zsm.alignment import Prepared, Pyramid
from vidsr.nets.zsm.deformable_lstm import LSTMState, StepInput
from vidsr.nets.zsm.export_steps import parts_of
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.runtime.onnx_session import start_session
from vidsr.types import Frame

PRECISIONS = ("fp32",)
# ONNX Runtime takes twice as much: 8.4 instead of 4.3 kB for secnet-fast, 16.3 instead of 10.6 for zsm-fast.
ONNX_MEMORY = 2.0


class Graph:
    """A step's graph, ready to run on a device; without state of its own."""

    def __init__(self, step: Step, device: torch.device) -> None:
        """Makes the graph in memory. Raises DeviceError where ONNX Runtime does not reach the device."""
        self._step, self._device = step, device
        remedy = "use --device cpu, or --backend torch"
        self._session = start_session(graph_of(step), device, torch.get_num_threads(), is_exact=True, remedy=remedy)

    def run(self, values: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, ...]:
        """The outputs, new tensors, for frames of this size; `values` in the order of the step's inputs."""
        names = self._step.inputs(height, width)
        kept = [value.to(self._device, torch.float32).contiguous() for value in values]
        outputs = {
            name: torch.empty(shape, device=self._device) for name, shape in self._step.outputs(height, width).items()
        }
        place, index = self._device.type, self._device.index or 0
        binding = self._session.io_binding()
        for name, value in zip(names, kept, strict=True):
            binding.bind_input(name, place, index, np.float32, tuple(value.shape), value.data_ptr())
        for name, value in outputs.items():
            binding.bind_output(name, place, index, np.float32, tuple(value.shape), value.data_ptr())
        if place == "cuda":  # torch and ONNX Runtime each have a queue of their own
            torch.cuda.current_stream(self._device).synchronize()
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's own classes share no base with those that mean "out of memory"
            raise RuntimeError(f"ONNX Runtime: {error}") from error
        binding.synchronize_outputs()
        return tuple(outputs.values())


@dataclass(slots=True)
class OnnxState:
    """The frames still needed, oldest first, how many of them are done, and the step's state; none before the first."""

    window: tuple[Frame, ...] = ()
    done: int = 0
    past: tuple[Tensor, ...] = ()


class OnnxRecurrentEngine:
    """A SECNet frame by frame, as RecurrentEngine does it, one graph for each frame."""

    def __init__(
        self, network: SECNet, name: str, device: torch.device, told: Sequence[float | None] = (None, None, None)
    ) -> None:
        """`network` is copied into the graph, with what it is `told` (see RecurrentEngine). Raises UsageError or
        DeviceError.
        """
        told_tensor(network, told, name, device)
        self._step = SECNetStep(network, told)
        self._graph = Graph(self._step, device)
        self._info = EngineInfo(name, network.config.scale, network.config.lookahead, 1, PRECISIONS)
        self._device = device

    @property
    def info(self) -> EngineInfo:
        """Name, scale 4, look-ahead T1, float32."""
        return self._info

    def init_state(self, height: int, width: int) -> OnnxState:  # noqa: ARG002 - sizes follow the frames
        """An empty state: the first frame starts a scene whatever it says."""
        return OnnxState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: OnnxState) -> tuple[list[Frame], OnnxState]:
        """Takes frame t, gives frame t - T1; at a cut the waiting frames are finished without looking across it."""
        finished = list[Frame]()
        if frame.starts_scene:
            finished, state = self.flush(state), OnnxState()
        state = OnnxState((*state.window, frame), state.done, state.past)
        while len(state.window) - state.done > self._info.lookahead:
            result, state = self._enhance(state)
            finished.append(result)
        return finished, state

    @torch.inference_mode()
    def flush(self, state: OnnxState) -> list[Frame]:
        """The last frames; the last one stands for those that would follow it."""
        finished = list[Frame]()
        while state.done < len(state.window):
            result, state = self._enhance(state)
            finished.append(result)
        return finished

    def _enhance(self, state: OnnxState) -> tuple[Frame, OnnxState]:
        """The first frame that is not done yet, and the state without the frames that nothing needs any more."""
        window, here = state.window, state.done
        frame = window[here]
        height, width = frame.image.shape[1:]
        around = [window[min(max(here + offset, 0), len(window) - 1)].image for offset in self._step.offsets]
        past = state.past
        if not past:
            shapes = list(self._step.inputs(height, width).values())[1:]
            past = tuple(torch.zeros(shape, device=self._device) for shape in shapes)
        picture, *after = self._graph.run((torch.stack(around), *past), height, width)
        drop = max(0, here + 1 - self._step.past)
        return frame.with_image(picture[0]), OnnxState(window[drop:], here + 1 - drop, tuple(after))


class OnnxParts:
    """A Zooming SlowMo's parts as graphs: what SlowmoEngine and MidpointEngine need of a network (SlowmoParts)."""

    def __init__(self, network: ZoomingSlowMo, device: torch.device, wanted: Sequence[str]) -> None:
        """The `wanted` parts of `network` are copied into graphs. Raises UsageError or DeviceError."""
        self.config = network.config
        self._graphs = {name: Graph(step, device) for name, step in parts_of(network).items() if name in wanted}

    def features(self, frames: Tensor) -> Pyramid:
        """The levels of one frame 1 x 3 x h x w."""
        return self._run("features", frames, frames)

    def interpolate(self, before: Pyramid, after: Pyramid) -> Tensor:
        """The feature half-way between two frames."""
        return self._run("between", before[0], *before, *after)[0]

    def prepare_neighbor(self, levels: Pyramid) -> Prepared:
        """The levels alone: the graph computes their shares itself."""
        return Prepared(levels, ())

    def between(self, before: Prepared, after: Prepared) -> Tensor:
        """As `interpolate`."""
        return self.interpolate(before.levels, after.levels)

    def synthesize(self, feature: Tensor) -> Tensor:
        """The low-resolution head's picture; the engines that need the head ask for it beforehand."""
        return self._run("picture", feature, feature)[0]

    def init_state(self, feature: Tensor) -> LSTMState:
        """Zeros."""
        zeros = feature.new_zeros(1, self.config.state_width, *feature.shape[-2:])
        return LSTMState(zeros, zeros.clone())

    def prepare_step(self, feature: Tensor) -> StepInput:
        """All shares in one row, as the graph of the step takes them."""
        *shares, gates = self._run("shares", feature, feature)
        return StepInput(Prepared(tuple(shares), ()), None, gates)

    def step(self, current: StepInput, state: LSTMState) -> LSTMState:
        """One step, forwards or backwards."""
        hidden, cell = self._run("step", state.hidden, *current.for_hidden.levels, current.gates, *state)
        return LSTMState(hidden, cell)

    def reconstruct(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, picture: Tensor | None = None
    ) -> Tensor:
        """The large picture of a moment."""
        hidden = forward_hidden, backward_hidden
        if not self.config.residual:
            return self._run("result", feature, *hidden)[0]
        picture = self.synthesize(feature) if picture is None else picture
        return self._run("result", feature, *hidden, feature, picture)[0]

    def finish(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, picture: Tensor | None = None
    ) -> Tensor:
        """As `reconstruct`, clamped."""
        return self.reconstruct(feature, forward_hidden, backward_hidden, picture).clamp_(0, 1)

    def _run(self, part: str, like: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        height, width = like.shape[-2:]
        return self._graphs[part].run(values, height, width)


def slowmo_graphs(network: ZoomingSlowMo, device: torch.device) -> OnnxParts:
    """The parts that SlowmoEngine calls. Raises UsageError or DeviceError."""
    wanted = ["features", "between", "shares", "step", "result"]
    return OnnxParts(network, device, wanted + ["picture"] * network.config.residual)


def midpoint_graphs(network: ZoomingSlowMo, device: torch.device) -> OnnxParts:
    """The parts that MidpointEngine calls. Raises UsageError or DeviceError."""
    return OnnxParts(network, device, ("features", "between", "picture"))


def single_image_graph(network: Network, device: torch.device) -> Callable[[Tensor], Tensor]:
    """What a network of single images computes, as SingleImageEngine runs it. Raises UsageError or DeviceError."""
    graph = Graph(SingleImageStep(network), device)

    def run(image: Tensor) -> Tensor:
        (result,) = graph.run((image,), *image.shape[-2:])
        return result

    return run
