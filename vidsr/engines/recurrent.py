"""SECNet as a stream: one frame in, one frame out, a look-ahead of one frame, the past in the state on the device."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from vidsr.engines.base import EngineInfo
from vidsr.nets.secnet import RecurrentState, SECNet
from vidsr.types import Frame

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True)
class StreamState:
    """What one step hands to the next; `waiting` is the frame whose follower is not known yet."""

    previous: Tensor | None = None
    waiting: Frame | None = None
    recurrent: RecurrentState | None = None


class RecurrentEngine:
    """Runs a SECNet frame by frame. Equals the network's whole-clip forward; the window is clamped at both ends."""

    def __init__(self, network: SECNet, name: str, device: torch.device, precision: str) -> None:
        """`network` is copied, not changed. `precision`: of the convolutions; warping and pictures stay in float32."""
        self._network = copy.deepcopy(network).to(device).eval()
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's annotations
        for module in self._network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(DTYPES[precision])
        self._info = EngineInfo(name, network.config.scale, 1, 1, tuple(DTYPES))

    @property
    def info(self) -> EngineInfo:
        """Name, scale 4, look-ahead 1."""
        return self._info

    def init_state(self, height: int, width: int) -> StreamState:  # noqa: ARG002 - sizes follow the frames
        """An empty state: the first frame starts a scene whatever it says."""
        return StreamState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: StreamState) -> tuple[list[Frame], StreamState]:
        """Takes frame t, gives frame t - 1; at a cut the waiting frame is finished without looking across it."""
        if state.waiting is None:
            return [], StreamState(waiting=frame)
        if frame.starts_scene:
            return self.flush(state), StreamState(waiting=frame)
        result, recurrent = self._enhance(state, frame.image[None])
        return [result], StreamState(state.waiting.image[None], frame, recurrent)

    @torch.inference_mode()
    def flush(self, state: StreamState) -> list[Frame]:
        """The last frame, with itself as its follower."""
        if state.waiting is None:
            return []
        return [self._enhance(state, state.waiting.image[None])[0]]

    def _enhance(self, state: StreamState, following: Tensor) -> tuple[Frame, RecurrentState]:
        assert state.waiting is not None
        network, current = self._network, state.waiting.image[None]
        previous = current if state.previous is None else state.previous
        flows = network.flow(torch.cat((current, current)), torch.cat((previous, following)))[None]
        base, first = network.bicubic(current), network.fuse(previous, current, following, flows)
        recurrent = network.init_state(current) if state.recurrent is None else state.recurrent
        _, recurrent = network.refine(base, first, flows[:, 0], recurrent)
        return state.waiting.with_image(recurrent.result[0]), recurrent
