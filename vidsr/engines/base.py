"""The engine protocol: the contract of everything that turns a stream of frames into larger or more frames."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from vidsr.nets.layers.deformable import DeformableConv
from vidsr.types import Frame

OVERLAP = 32  # of tiles, in input pixels, for networks that see the input at its size


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """Properties of an engine that callers rely on.

    `scale` is the enlargement of each side. N input frames give (N - 1) * `interp` + 1 outputs, regardless of scene
    cuts. An output at or after frame t and before frame t + 1 depends on no input after t + `lookahead`, and `step`
    returns it at the latest when it receives that input. The engine divides frames into cells of `multiple_of` pixels a
    side, from the top left corner, and pads the last ones itself; tiles have to begin where a cell begins, and should
    overlap by `overlap` pixels.
    """

    name: str
    scale: int
    lookahead: int
    multiple_of: int
    precisions: tuple[str, ...]
    interp: int = 1
    overlap: int = OVERLAP


class Engine(Protocol):
    """Turns frames into larger or more frames. All memory of the past is in the state, which the caller holds.

    `step` and `flush` consume the state: the one passed in must not be used again. A frame with `starts_scene` resets
    the engine: nothing before it influences it or later frames, and all pending frames are returned first. A state is
    plain data (tensors, numbers, frames in dataclasses), so that torch.save can store it.
    """

    @property
    def info(self) -> EngineInfo:
        """Name, scale and limits; constant for the lifetime of the engine."""
        ...

    def init_state(self, height: int, width: int) -> Any:
        """The initial state for a video of this size, in input pixels."""
        ...

    def step(self, frame: Frame, state: Any) -> tuple[list[Frame], Any]:
        """Processes the next frame; returns the outputs now ready, in order with their times, and the new state."""
        ...

    def flush(self, state: Any) -> list[Frame]:
        """Returns all pending outputs at the end of the video."""
        ...


@runtime_checkable
class Estimating(Protocol):
    """An engine that adapts to an overall property of each frame, which tiles alone cannot tell."""

    def estimate_levels(self, image: Tensor) -> Tensor | None:
        """The levels of a whole frame 3 x h x w, with which its tiles are passed to `step` as `Frame.levels`.

        None if this network does not need them.
        """
        ...


@runtime_checkable
class Overlapping(Engine, Protocol):
    """An engine that may work on two frames or windows at once, and can do without it to save memory."""

    @property
    def is_overlapped(self) -> bool:
        """Whether it does."""
        ...

    def without_overlap(self) -> Engine:
        """The same engine, but it starts no frame before the previous one is finished."""
        ...


@runtime_checkable
class Measurable(Engine, Protocol):
    """An engine whose parts can be timed: its network is a torch module, and it can run without overlap."""

    @property
    def network(self) -> nn.Module:
        """The network on its device; must not be modified."""
        ...

    def without_overlap(self) -> Engine:
        """The same engine, but it starts no frame before the previous one is finished."""
        ...


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def prepared(network: AnyNetwork, device: torch.device, precision: str) -> AnyNetwork:
    """A copy of `network` on `device`, in inference mode, with all convolutions (also deformable ones) in `precision`.

    Images, warping, sampling and recurrent states stay in float32.
    """
    network = copy.deepcopy(network).to(device).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's annotations
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, DeformableConv)):
            module.to(DTYPES[precision])
    return network
