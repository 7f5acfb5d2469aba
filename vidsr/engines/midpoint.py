"""Zooming SlowMo at the size of its input, as a stream: a new frame between two given ones, which stay as they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vidsr.engines.base import EngineInfo
from vidsr.engines.halfway import before_a_cut, halfway, on_half_ticks
from vidsr.engines.precision import DTYPES, prepared
from vidsr.errors import ModelError
from vidsr.nets.alignment import Prepared
from vidsr.nets.zsm import ZoomingSlowMo
from vidsr.types import Frame


@dataclass(slots=True)
class MidpointState:
    """The newest given frame, which waits to know how long it is shown, and its features."""

    newest: Frame | None = None
    features: Prepared | None = None


class MidpointEngine:
    """Gives each frame bit for bit and after it a new one by the network's low-resolution head."""

    def __init__(self, network: ZoomingSlowMo, name: str, device: torch.device, precision: str) -> None:
        """As in SlowmoEngine; raises ModelError for a network without the head."""
        if not network.config.synthesis_blocks:
            raise ModelError(
                f"the model '{name}' has no low-resolution head, so it makes no frames of the input's size: "
                "give a larger size and --interp 2, or choose another model"
            )
        self._network = prepared(network, device, precision)
        self._info = EngineInfo(name, 1, 1, 1, tuple(DTYPES), interp=2)

    @property
    def info(self) -> EngineInfo:
        """Name, scale 1, one frame of look-ahead, twice as many frames."""
        return self._info

    def init_state(self, height: int, width: int) -> MidpointState:  # noqa: ARG002 - sizes follow the frames
        """An empty state: the first frame starts a scene whatever it says."""
        return MidpointState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: MidpointState) -> tuple[list[Frame], MidpointState]:
        """Takes frame t, gives frame t - 1 and the new one between the two."""
        network, before, given = self._network, state.newest, on_half_ticks(frame)
        features = network.neighbour(network.features(frame.image[None]))
        ready: list[Frame] = []
        if before is not None and frame.starts_scene:
            ready += before_a_cut(before, given.pts)
        elif before is not None and state.features is not None:
            picture = network.synthesise(network.between(state.features, features))
            ready += halfway(before, given, picture[0].clamp(0, 1))
        return ready, MidpointState(given, features)

    def flush(self, state: MidpointState) -> list[Frame]:
        """The last frame, as long as it was."""
        return [] if state.newest is None else [state.newest]
