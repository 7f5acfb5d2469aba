"""Runs networks with ONNX Runtime, in float32; models/onnx_export.py makes the graphs.

Images and states are torch tensors on the engine's device. ONNX Runtime gets their addresses (IO binding), so nothing
is copied between host and device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vidsr.engines.base import OVERLAP, EngineInfo
from vidsr.engines.recurrent import checked_overrides, whole_frame_levels
from vidsr.models.onnx_export import graph_of
from vidsr.nets.base import Network
from vidsr.nets.export_step import Step
from vidsr.nets.layers.conditioning import Estimate
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
# Factor on peak memory: 8.4 instead of 4.3 kB per pixel for secnet-fast, 16.3 instead of 10.6 for zsm-fast.
ONNX_MEMORY = 2.0


class Graph:
    """The graph of a step, ready to run on a device; stateless."""

    def __init__(self, step: Step, device: torch.device) -> None:
        """Makes the graph in memory. Raises DeviceError if ONNX Runtime cannot use the device."""
        self._step, self._device = step, device
        remedy = "use --device cpu, or --backend torch"
        self._session = start_session(graph_of(step), device, torch.get_num_threads(), is_exact=True, remedy=remedy)

    def run(self, values: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, ...]:
        """The outputs, as new tensors, for frames of this size; `values` are in the order of the step's inputs."""
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
        if place == "cuda":  # torch and ONNX Runtime use different streams
            torch.cuda.current_stream(self._device).synchronize()
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions, "out of memory" included, have no common base class
            raise RuntimeError(f"ONNX Runtime: {error}") from error
        binding.synchronize_outputs()
        return tuple(outputs.values())


@dataclass(slots=True)
class OnnxState:
    """Frames still needed, oldest first, the number of them done, and the step's state (empty before the first)."""

    window: tuple[Frame, ...] = ()
    done: int = 0
    past: tuple[Tensor, ...] = ()


class OnnxRecurrentEngine:
    """Runs a SECNet frame by frame like RecurrentEngine, with one graph call per frame."""

    def __init__(
        self, network: SECNet, name: str, device: torch.device, overrides: Sequence[float | None] = (None, None, None)
    ) -> None:
        """`network` and `overrides` (see RecurrentEngine) become part of the graph.

        Raises UsageError or DeviceError.
        """
        checked_overrides(network, overrides, name, device)
        self._step = SECNetStep(network, overrides, takes_levels=network.estimator is not None)
        self._graph = Graph(self._step, device)
        if self._step.network.estimator is not None:
            self._step.network.estimator.to(device)
        config = network.config
        self._info = EngineInfo(
            name, config.scale, config.lookahead, config.multiple_of, PRECISIONS, overlap=OVERLAP * config.unshuffle
        )
        self._device = device

    @property
    def info(self) -> EngineInfo:
        """Name, scale and cells of the network; look-ahead T1, float32 only."""
        return self._info

    @torch.inference_mode()
    def estimate_levels(self, image: Tensor) -> Tensor | None:
        """As RecurrentEngine; computed by torch."""
        return whole_frame_levels(self._step.network, image)

    def init_state(self, height: int, width: int) -> OnnxState:  # noqa: ARG002 - size follows from frames
        """An empty state: the first frame starts a scene in any case."""
        return OnnxState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: OnnxState) -> tuple[list[Frame], OnnxState]:
        """Takes frame t, returns frame t - T1; at a cut, first the remaining frames of the scene before it."""
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
        """Returns the remaining frames; the last input frame is repeated in place of later ones."""
        finished = list[Frame]()
        while state.done < len(state.window):
            result, state = self._enhance(state)
            finished.append(result)
        return finished

    def _enhance(self, state: OnnxState) -> tuple[Frame, OnnxState]:
        """The result of the first frame that is not done, and the state without the frames no longer needed."""
        window, here = state.window, state.done
        frame = window[here]
        height, width = frame.image.shape[1:]
        around = [window[min(max(here + offset, 0), len(window) - 1)].image for offset in self._step.offsets]
        past, levels = state.past, self._levels(frame)
        if not past:
            shapes = list(self._step.inputs(height, width).values())[1 + len(levels) :]
            past = tuple(torch.zeros(shape, device=self._device) for shape in shapes)
        image, *after = self._graph.run((torch.stack(around), *levels, *past), height, width)
        drop = max(0, here + 1 - self._step.past)
        result = replace(frame, image=image[0], levels=self._step.levels(after))
        return result, OnnxState(window[drop:], here + 1 - drop, tuple(after))

    def _levels(self, frame: Frame) -> tuple[Tensor, ...]:
        """The step's input of levels, if it has one; NaN stands for the step's own estimate."""
        if not self._step.takes_levels:
            return ()
        unknown = torch.full((self._step.batch, 3), float("nan"), device=self._device)
        return (unknown if frame.levels is None else frame.levels,)


class OnnxParts:
    """Implements SlowmoParts, for SlowmoEngine and InterpolationEngine, with the graphs of a Zooming SlowMo."""

    def __init__(self, network: ZoomingSlowMo, device: torch.device, wanted: Sequence[str]) -> None:
        """Makes graphs of the `wanted` parts of `network`. Raises UsageError or DeviceError."""
        self.config = network.config
        self.estimator = network.estimator
        if self.estimator is not None:
            self.estimator.to(device)
        self._graphs = {name: Graph(step, device) for name, step in parts_of(network).items() if name in wanted}

    def estimate(self, frames: Tensor) -> Estimate | None:
        """The degradation levels of one frame 1 x 3 x h x w; None without an estimator."""
        return None if self.estimator is None else Estimate(*self._run("estimate", frames, frames))

    def features(self, frames: Tensor, condition: Estimate | None = None) -> Pyramid:
        """The feature pyramid of one frame 1 x 3 x h x w."""
        return self._run("features", frames, frames, *(condition or ()))

    def interpolate(self, before: Pyramid, after: Pyramid) -> Tensor:
        """The feature halfway between two frames."""
        return self._run("between", before[0], *before, *after)[0]

    def prepare_neighbor(self, levels: Pyramid) -> Prepared:
        """The levels alone: the graph computes their contributions itself."""
        return Prepared(levels, ())

    def between(self, before: Prepared, after: Prepared) -> Tensor:
        """As `interpolate`."""
        return self.interpolate(before.levels, after.levels)

    def synthesize(self, feature: Tensor) -> Tensor:
        """The image of the low-resolution head; callers check beforehand that the network has one."""
        return self._run("picture", feature, feature)[0]

    def init_state(self, feature: Tensor) -> LSTMState:
        """The zero state."""
        zeros = feature.new_zeros(1, self.config.state_width, *feature.shape[-2:])
        return LSTMState(zeros, zeros.clone())

    def prepare_step(self, feature: Tensor) -> StepInput:
        """The contributions of a moment as a flat tuple, as the graph of the step takes them."""
        *contributions, gates = self._run("shares", feature, feature)
        return StepInput(Prepared(tuple(contributions), ()), None, gates)

    def step(self, current: StepInput, state: LSTMState) -> LSTMState:
        """One step, forwards or backwards."""
        hidden, cell = self._run("step", state.hidden, *current.for_hidden.levels, current.gates, *state)
        return LSTMState(hidden, cell)

    def reconstruct(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, image: Tensor | None = None,
        condition: Estimate | None = None,
    ) -> Tensor:  # fmt: skip
        """The enlarged image of a moment."""
        values = [forward_hidden, backward_hidden]
        if self.config.residual:
            values += [feature, self.synthesize(feature) if image is None else image]
        return self._run("result", feature, *values, *(condition or ()))[0]

    def finish(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, image: Tensor | None = None,
        condition: Estimate | None = None,
    ) -> Tensor:  # fmt: skip
        """As `reconstruct`, clamped."""
        return self.reconstruct(feature, forward_hidden, backward_hidden, image, condition).clamp_(0, 1)

    def _run(self, part: str, like: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        height, width = like.shape[-2:]
        return self._graphs[part].run(values, height, width)


def slowmo_graphs(network: ZoomingSlowMo, device: torch.device) -> OnnxParts:
    """The parts needed by SlowmoEngine. Raises UsageError or DeviceError."""
    wanted = ["estimate", "features", "between", "shares", "step", "result"]
    return OnnxParts(network, device, wanted + ["picture"] * network.config.residual)


def interpolation_graphs(network: ZoomingSlowMo, device: torch.device) -> OnnxParts:
    """The parts needed by InterpolationEngine. Raises UsageError or DeviceError."""
    return OnnxParts(network, device, ("estimate", "features", "between", "picture"))


def single_image_graph(network: Network, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A single-image network as a function for SingleImageEngine. Raises UsageError or DeviceError."""
    graph = Graph(SingleImageStep(network), device)

    def run(image: Tensor) -> Tensor:
        (result,) = graph.run((image,), *image.shape[-2:])
        return result

    return run
