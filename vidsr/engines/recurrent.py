"""SECNet as a stream: one frame in, one frame out after its look-ahead, the past in the state on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vidsr.engines.base import EngineInfo
from vidsr.engines.precision import DTYPES, prepared
from vidsr.nets.flow import Pyramid
from vidsr.nets.secnet import RecurrentState, SECNet
from vidsr.types import Frame


@dataclass(frozen=True, slots=True)
class Known:
    """A frame of the window with what was computed of it once: the network's input and its pyramid for the motion."""

    frame: Frame
    picture: Tensor
    pyramid: Pyramid


@dataclass(slots=True)
class StreamState:
    """What one step hands to the next: the frames still needed, oldest first, how many of them are done, the past."""

    window: tuple[Known, ...] = ()
    done: int = 0
    recurrent: RecurrentState | None = None


class RecurrentEngine:
    """Runs a SECNet frame by frame. Equals the network's whole-clip forward; the window is clamped at both ends.

    A `mirrored` network runs on each picture and on its mirror image, as a batch of two with a past of their own, and
    the two results are averaged (the self-ensemble of Timofte et al., CVPR 2016, with one of its eight symmetries:
    faces stand upright). It doubles the work.
    """

    def __init__(self, network: SECNet, name: str, device: torch.device, precision: str) -> None:
        """`network` is copied, not changed. `precision`: of the convolutions; warping and pictures stay in float32."""
        self._network = prepared(network, device, precision)
        config = network.config
        self._info = EngineInfo(name, config.scale, config.lookahead, 1, tuple(DTYPES))
        self._keep = -min(config.offsets)

    @property
    def info(self) -> EngineInfo:
        """Name, scale 4, look-ahead T1."""
        return self._info

    @property
    def network(self) -> SECNet:
        """The network on its device, its convolutions in the engine's precision; not to be changed."""
        return self._network

    def init_state(self, height: int, width: int) -> StreamState:  # noqa: ARG002 - sizes follow the frames
        """An empty state: the first frame starts a scene whatever it says."""
        return StreamState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: StreamState) -> tuple[list[Frame], StreamState]:
        """Takes frame t, gives frame t - T1; at a cut the waiting frames are finished without looking across it."""
        finished = []
        if frame.starts_scene:
            finished, state = self.flush(state), StreamState()
        known = look(self._network, frame, frame.image)
        state = StreamState((*state.window, known), state.done, state.recurrent)
        while len(state.window) - state.done > self._info.lookahead:
            result, state = self._enhance(state)
            finished.append(result)
        return finished, state

    @torch.inference_mode()
    def flush(self, state: StreamState) -> list[Frame]:
        """The last frames; the last one stands for those that would follow it."""
        finished = []
        while state.done < len(state.window):
            result, state = self._enhance(state)
            finished.append(result)
        return finished

    def _enhance(self, state: StreamState) -> tuple[Frame, StreamState]:
        """The first frame that is not done yet, and the state without the frames that nothing needs any more."""
        window, here = state.window, state.done
        picture, recurrent = advance(self._network, window, here, state.recurrent)
        drop = max(0, here + 1 - self._keep)
        result = window[here].frame.with_image(plain(self._network, picture))
        return result, StreamState(window[drop:], here + 1 - drop, recurrent)


def look(network: SECNet, frame: Frame, image: Tensor) -> Known:
    """What is computed once of a picture, 3 x h x w: all of `frame` or a part of it."""
    picture = image[None]
    if network.config.mirrored:
        picture = torch.cat((picture, picture.flip(-1)))
    return Known(frame, picture, network.flow.pyramid(picture))


def advance(
    network: SECNet, window: Sequence[Known], here: int, past: RecurrentState | None
) -> tuple[Tensor, RecurrentState]:
    """The result of frame `here` of the window, B x 3 x H x W in 0..1, and what it hands on; `past` None: nothing."""
    current = window[here].picture

    def near(offset: int) -> Known:
        return window[min(max(here + offset, 0), len(window) - 1)]

    lookahead = network.config.lookahead
    flows = network.motion(window[here].pyramid, [near(offset).pyramid for offset in network.config.offsets])
    first = network.fuse([near(k).picture for k in range(-lookahead, lookahead + 1)], flows)
    past = network.init_state(current) if past is None else past
    return network.refine(network.bicubic(current), first, flows, past, is_final=True)


def plain(network: SECNet, picture: Tensor) -> Tensor:
    """One picture, 3 x H x W, of a result of batch 1, or of 2 if the second one is its mirror image."""
    return (picture[0] + picture[1].flip(-1)) / 2 if network.config.mirrored else picture[0]
