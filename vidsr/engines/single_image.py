"""Engine for single-image networks and kernels: enlarges each frame independently, without look-ahead or memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vidsr.engines.base import DTYPES, OVERLAP, EngineInfo, prepared
from vidsr.nets.base import Network
from vidsr.nets.single_image import SingleImageConfig, run_padded
from vidsr.types import Frame


@dataclass(frozen=True, slots=True)
class SingleImageState:
    """The size of the video; frames do not depend on each other."""

    height: int
    width: int


class SingleImageEngine:
    """Enlarges frame by frame. Frames are padded by repeating their edges to the multiple that the network needs.

    `run` maps an image 1 x 3 x h x w in 0..1, float32, to 1 x 3 x (scale * h) x (scale * w).
    """

    def __init__(
        self, run: Callable[[Tensor], Tensor], name: str, config: SingleImageConfig, device: torch.device,
        precisions: tuple[str, ...], overlap: int = OVERLAP,
    ) -> None:  # fmt: skip
        """Frames are moved to `device`. `config` is that of the network behind `run`; `overlap` that of its tiles."""
        self._run, self._config, self._device = run, config, device
        self._info = EngineInfo(name, config.scale, 0, config.multiple_of, precisions, overlap=overlap)

    @classmethod
    def of_network(cls, network: Network, name: str, device: torch.device, precision: str) -> SingleImageEngine:
        """Engine of a network, which is copied; `precision` is that of torch's autocast."""
        ready = prepared(network, device, "fp32")

        def run(image: Tensor) -> Tensor:
            with torch.autocast(device.type, DTYPES[precision], enabled=precision != "fp32"):
                result: Tensor = ready(image)
                return result

        return cls(run, name, network.config, device, tuple(DTYPES))

    @property
    def info(self) -> EngineInfo:
        """No look-ahead; scale and padding of the network."""
        return self._info

    def init_state(self, height: int, width: int) -> SingleImageState:
        """The state for a video of this size; it never changes."""
        return SingleImageState(height, width)

    @torch.inference_mode()
    def step(self, frame: Frame, state: SingleImageState) -> tuple[list[Frame], SingleImageState]:
        """Returns the enlarged frame immediately, clamped to 0..1 because kernels and networks overshoot at edges."""
        assert frame.image.shape == (3, state.height, state.width), "the frame has another size than the state"
        result = run_padded(self._run, self._config, frame.image.to(self._device)[None])
        return [frame.with_image(result[0].float().clamp(0.0, 1.0))], state

    def flush(self, state: SingleImageState) -> list[Frame]:  # noqa: ARG002 - the engine protocol's signature
        """No frame is ever pending."""
        return []
