"""SECNet as a stream: one frame in, one frame out after its look-ahead, the past in the state on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from vidsr.engines.base import DTYPES, EngineInfo, prepared
from vidsr.errors import UsageError
from vidsr.nets.secnet.conditioning import Estimate, decided, smooth, told_values
from vidsr.nets.secnet.config import SECNetConfig
from vidsr.nets.secnet.feature_encoding import Memory
from vidsr.nets.secnet.flow import Pyramid
from vidsr.nets.secnet.network import Groundwork, RecurrentState, SECNet
from vidsr.runtime.overlap import Lanes
from vidsr.types import Frame

# Of the cores, for the frame that is begun while the one before is finished: secnet-fast's share of the work.
SHARE_BEGUN = 0.4


@dataclass(frozen=True, slots=True)
class Known:
    """A frame of the window with what was computed of it once: the network's input and its pyramid for the motion.

    A network with an estimator has this frame's `estimate`, and `smoothed`, that of the scene so far (see `smooth`).
    """

    frame: Frame
    picture: Tensor
    pyramid: Pyramid
    estimate: Estimate | None = None
    smoothed: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Begun:
    """What is computed of a frame while the one before is finished: without its past, and what is recalled of that."""

    ground: Groundwork
    recalled: Memory


@dataclass(slots=True)
class StreamState:
    """What one step hands to the next: the frames still needed, oldest first, how many of them are done, the past.

    `begun` belongs to the first frame that is not done; None if nothing of it is computed yet.
    """

    window: tuple[Known, ...] = ()
    done: int = 0
    recurrent: RecurrentState | None = None
    begun: Begun | None = None


class RecurrentEngine:
    """Runs a SECNet frame by frame. Equals the network's whole-clip forward; the window is clamped at both ends.

    A `mirrored` network runs on each picture and on its mirror image, as a batch of two with a past of their own, and
    the two results are averaged (the self-ensemble of Timofte et al., CVPR 2016, with one of its eight symmetries:
    faces stand upright). It doubles the work.

    On a CPU with several cores a frame is begun while the one before is finished, which takes one frame of look-ahead.
    """

    def __init__(
        self,
        network: SECNet,
        name: str,
        device: torch.device,
        precision: str,
        is_overlapped: bool = True,
        told: Sequence[float | None] = (None, None, None),
    ) -> None:
        """`network` is copied, not changed. `precision`: of the convolutions; warping and pictures stay in float32.

        `told`: how blurred, noisy and compressed the frames are, in 0..1; None is what the network's estimator says.
        Raises UsageError for a number if the network has no estimator, and for one outside 0..1.
        """
        self._values, self._told = tuple(told), told_tensor(network, told, name, device)
        self._network, self._device, self._precision = prepared(network, device, precision), device, precision
        self._lanes = Lanes(device, SHARE_BEGUN, is_overlapped)
        config = network.config
        self._info = EngineInfo(name, config.scale, config.lookahead + self._lanes.are_two, 1, tuple(DTYPES))
        self._keep = -min(config.offsets)

    @property
    def info(self) -> EngineInfo:
        """Name, scale 4, look-ahead T1, or one more if two frames overlap."""
        return self._info

    @property
    def network(self) -> SECNet:
        """The network on its device, its convolutions in the engine's precision; not to be changed."""
        return self._network

    def without_overlap(self) -> RecurrentEngine:
        """The same engine for which no frame is begun before the one before it is finished."""
        return RecurrentEngine(self._network, self._info.name, self._device, self._precision, False, self._values)

    def init_state(self, height: int, width: int) -> StreamState:  # noqa: ARG002 - sizes follow the frames
        """An empty state: the first frame starts a scene whatever it says."""
        return StreamState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: StreamState) -> tuple[list[Frame], StreamState]:
        """Takes frame t, gives the one `lookahead` before; at a cut those waiting are finished, not looking across."""
        finished = []
        if frame.starts_scene:
            finished, state = self.flush(state), StreamState()
        known = look(self._network, frame, frame.image, state.window[-1] if state.window else None)
        state = StreamState((*state.window, known), state.done, state.recurrent, state.begun)
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
        network, window, here, lanes = self._network, state.window, state.done, self._lanes
        past = network.init_state(window[here].picture) if state.recurrent is None else state.recurrent
        if state.begun is None:
            ground = lay_ground(network, window, here, self._told)
            begun = Begun(ground, network.recall(past.memory, ground))
        else:
            begun = state.begun
        next_ground = next_recalled = None
        with lanes.open():
            if lanes.are_two and here + 1 < len(window):
                next_ground = lanes.start(partial(lay_ground, network, window, here + 1, self._told))
            draft = network.encode(begun.ground, past.results, begun.recalled)
            if next_ground is not None:
                next_recalled = lanes.start(partial(_recall, network, draft.memory, next_ground))
            picture, past = network.decode(begun.ground, draft, past, is_final=True)
        drop = max(0, here + 1 - self._keep)
        result = window[here].frame.with_image(plain(network, picture))
        next_begun = Begun(next_ground(), next_recalled()) if next_ground and next_recalled else None
        return result, StreamState(window[drop:], here + 1 - drop, past, next_begun)


def _recall(network: SECNet, memory: Memory, ground: Callable[[], Groundwork]) -> Memory:
    return network.recall(memory, ground())


def told_tensor(network: SECNet, values: Sequence[float | None], name: str, device: torch.device) -> Tensor | None:
    """What a stream tells its network, as `decided` wants it. Raises UsageError."""
    try:
        told = told_values(values)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if told is not None and network.estimator is None:
        raise UsageError(f"the model '{name}' cannot be told how degraded a video is: choose one with an estimator")
    return None if told is None else told.to(device)


def look(network: SECNet, frame: Frame, image: Tensor, before: Known | None = None) -> Known:
    """What is computed once of a picture, 3 x h x w: all of `frame` or a part of it. `before`: the frame before it."""
    picture = image[None]
    if network.config.mirrored:
        picture = torch.cat((picture, picture.flip(-1)))
    estimate = smoothed = None
    if network.estimator is not None:
        estimate = network.estimator(picture)
        smoothed = smooth(estimate.overall, None if before is None else before.smoothed)
    return Known(frame, picture, network.flow.pyramid(picture), estimate, smoothed)


def lay_ground(network: SECNet, window: Sequence[Known], here: int, told: Tensor | None = None) -> Groundwork:
    """What is computed of frame `here` of the window without its past; the window is clamped at both ends.

    `told` as `decided` wants it.
    """
    current, lookahead = window[here].picture, network.config.lookahead

    def near(offset: int) -> Known:
        return window[min(max(here + offset, 0), len(window) - 1)]

    flows = network.motion(window[here].pyramid, [near(offset).pyramid for offset in network.config.offsets])
    known = window[here]
    condition = None
    if known.estimate is not None and known.smoothed is not None:
        condition = decided(known.estimate, known.smoothed, told)
    first = network.fuse([near(k).picture for k in range(-lookahead, lookahead + 1)], flows, condition)
    return network.ground(network.bicubic(current), first, flows, condition)


def advance(
    network: SECNet, window: Sequence[Known], here: int, past: RecurrentState | None
) -> tuple[Tensor, RecurrentState]:
    """The result of frame `here` of the window, B x 3 x H x W in 0..1, and what it hands on; `past` None: nothing."""
    past = network.init_state(window[here].picture) if past is None else past
    return network.refine(lay_ground(network, window, here), past, is_final=True)


def plain(network: SECNet, picture: Tensor) -> Tensor:
    """One picture, 3 x H x W, of a result of batch 1, or of 2 if the second one is its mirror image."""
    return (picture[0] + picture[1].flip(-1)) / 2 if network.config.mirrored else picture[0]


def network_bytes_per_pixel(config: SECNetConfig, precision: str) -> float:
    """Peak memory for each input pixel.

    Measured: secnet-fast 5.2 kB where frames overlap, else 2.6 to 4.3, with five frames 5.5; the paper's size 36, in
    bfloat16 22.
    """
    if config.detail_widths:  # full-size images in two scales
        bytes_per_pixel = 43_000.0 if precision == "fp32" else 28_000.0
    else:
        bytes_per_pixel = 6400.0 if config.t1 == 1 else 8200.0
    return 2 * bytes_per_pixel if config.mirrored else bytes_per_pixel
