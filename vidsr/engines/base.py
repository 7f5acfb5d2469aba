"""What an engine is: the contract that every way to enlarge a stream of frames keeps. No engine lives here."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from vidsr.nets.zsm.deformable import DeformableConv
from vidsr.types import Frame


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a caller may rely on.

    `scale` is the enlargement of each side; from N frames the engine makes (N - 1) * `interp` + 1, scene cuts or not.
    An output at frame t, or after it and before the next, depends on no input after t + `lookahead` and leaves `step`
    at the latest when that input has been given. `multiple_of`: the engine pads frames to this multiple itself.
    """

    name: str
    scale: int
    lookahead: int
    multiple_of: int
    precisions: tuple[str, ...]
    interp: int = 1


class Engine(Protocol):
    """A way to turn frames into larger or more frames. All memory of the past is in the state that the caller holds.

    `step` and `flush` take the state over: the state that was handed in must not be used again. A frame with
    `starts_scene` starts afresh: nothing before it reaches it or what follows, and frames still waiting are given out
    first. A state is plain data (tensors, numbers, frames in dataclasses), so that torch.save can keep it.
    """

    @property
    def info(self) -> EngineInfo:
        """Name, scale and limits; constant for the life of the engine."""
        ...

    def init_state(self, height: int, width: int) -> Any:
        """The state before the first frame of a video of this size (in input pixels)."""
        ...

    def step(self, frame: Frame, state: Any) -> tuple[list[Frame], Any]:
        """Takes the next frame; gives those that are now ready, in order and with their times, and the new state."""
        ...

    def flush(self, state: Any) -> list[Frame]:
        """Gives the frames still waiting at the end of the video."""
        ...


@runtime_checkable
class Measurable(Engine, Protocol):
    """An engine whose parts can be timed: its network is a module, and it can run one frame after the other."""

    @property
    def network(self) -> nn.Module:
        """The network on its device; not to be changed."""
        ...

    def without_overlap(self) -> Engine:
        """The same engine, which begins no frame before the one before it is finished."""
        ...


DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
AnyNetwork = TypeVar("AnyNetwork", bound=nn.Module)


def prepared(network: AnyNetwork, device: torch.device, precision: str) -> AnyNetwork:
    """A copy of `network` on `device`, ready to run; convolutions, deformable ones too, in `precision`.

    Pictures, warping, sampling and what is carried on through time stay in float32.
    """
    network = copy.deepcopy(network).to(device).eval()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's annotations
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, DeformableConv)):
            module.to(DTYPES[precision])
    return network
