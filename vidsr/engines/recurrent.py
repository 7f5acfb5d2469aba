"""Runs SECNet on a stream, frame by frame; past results and features are kept in the state, on the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from vidsr.engines.base import DTYPES, OVERLAP, EngineInfo, prepared
from vidsr.errors import UsageError
from vidsr.nets.layers.conditioning import Estimate, Estimator, apply_overrides, overrides_tensor, smooth
from vidsr.nets.secnet.config import SECNetConfig
from vidsr.nets.secnet.feature_encoding import Memory
from vidsr.nets.secnet.flow import Pyramid
from vidsr.nets.secnet.network import FusedFrame, RecurrentState, SECNet
from vidsr.runtime.overlap import Overlap
from vidsr.types import Frame

# Fraction of the cores for a frame that is started while the previous one is finished: its part of the work in
# secnet-fast.
PENDING_FRACTION = 0.4


@dataclass(frozen=True, slots=True)
class FrameFeatures:
    """A frame of the temporal window with all that is computed once: the network's input `image` and its pyramid.

    For a network with an estimator, `estimate` is that of this frame, `smoothed` that of the scene so far: `smooth`.
    """

    frame: Frame
    image: Tensor
    pyramid: Pyramid
    estimate: Estimate | None = None
    smoothed: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """A frame started while the previous one is finished: its local fusion and the recalled memory."""

    fused: FusedFrame
    recalled: Memory


@dataclass(slots=True)
class StreamState:
    """State between two steps: frames still needed, oldest first, the number of them done, and the network's state.

    `pending` belongs to the first frame that is not done; None if it has not been started.
    """

    window: tuple[FrameFeatures, ...] = ()
    done: int = 0
    recurrent: RecurrentState | None = None
    pending: Pending | None = None


class RecurrentEngine:
    """Runs a SECNet frame by frame, with the results of its `forward` on the whole clip.

    The temporal window is clamped at both ends of a scene. A `mirrored` network runs on each image and its mirror
    image, as a batch of two, each with its own past, and the two results are averaged: the self-ensemble of Timofte et
    al., CVPR 2016, with one of its eight symmetries, because faces are upright. This doubles the work.

    On a CPU with several cores a frame is started while the previous one is finished; this needs one more frame of
    look-ahead.
    """

    def __init__(
        self,
        network: SECNet,
        name: str,
        device: torch.device,
        precision: str,
        is_overlapped: bool = True,
        overrides: Sequence[float | None] = (None, None, None),
    ) -> None:
        """`network` is copied. `precision` applies to the convolutions; warping and images stay in float32.

        `overrides`: the levels of blur, noise and compression in 0..1; None means the network's own estimate. Raises
        UsageError for a level outside 0..1, and for any level if the network has no estimator.
        """
        self._values, self._overrides = tuple(overrides), checked_overrides(network, overrides, name, device)
        self._network, self._device, self._precision = prepared(network, device, precision), device, precision
        self._overlap = Overlap(device, PENDING_FRACTION, is_overlapped)
        config = network.config
        self._info = EngineInfo(
            name,
            config.scale,
            config.lookahead + self._overlap.enabled,
            config.multiple_of,
            tuple(DTYPES),
            overlap=OVERLAP * config.unshuffle,
        )
        self._keep = -min(config.offsets)

    @property
    def info(self) -> EngineInfo:
        """Name, scale and cells of the network; look-ahead T1, or T1 + 1 if two frames overlap."""
        return self._info

    @property
    def network(self) -> SECNet:
        """The network on its device, with convolutions in the engine's precision; must not be modified."""
        return self._network

    @torch.inference_mode()
    def estimate_levels(self, image: Tensor) -> Tensor | None:
        """The network's estimate of the overall levels of a frame, B x 3; None for a network without an estimator."""
        return whole_frame_levels(self._network, image)

    @property
    def is_overlapped(self) -> bool:
        """Whether a frame is started while the previous one is finished."""
        return self._overlap.enabled

    def without_overlap(self) -> RecurrentEngine:
        """The same engine without overlap: each frame is finished before the next is started."""
        return RecurrentEngine(self._network, self._info.name, self._device, self._precision, False, self._values)

    def init_state(self, height: int, width: int) -> StreamState:  # noqa: ARG002 - size follows from frames
        """An empty state: the first frame starts a scene in any case."""
        return StreamState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: StreamState) -> tuple[list[Frame], StreamState]:
        """Takes frame t, returns frame t - `lookahead`; at a cut, first the remaining frames of the scene before it."""
        finished = []
        if frame.starts_scene:
            finished, state = self.flush(state), StreamState()
        features = prepare_frame(self._network, frame, frame.image, state.window[-1] if state.window else None)
        state = StreamState((*state.window, features), state.done, state.recurrent, state.pending)
        while len(state.window) - state.done > self._info.lookahead:
            result, state = self._enhance(state)
            finished.append(result)
        return finished, state

    @torch.inference_mode()
    def flush(self, state: StreamState) -> list[Frame]:
        """Returns the remaining frames; the last input frame is repeated in place of later ones."""
        finished = []
        while state.done < len(state.window):
            result, state = self._enhance(state)
            finished.append(result)
        return finished

    def _enhance(self, state: StreamState) -> tuple[Frame, StreamState]:
        """The result of the first frame that is not done, and the state without the frames no longer needed."""
        network, window, here, overlap = self._network, state.window, state.done, self._overlap
        past = network.init_state(window[here].image) if state.recurrent is None else state.recurrent
        if state.pending is None:
            fused = estimate_motion_and_fuse(network, window, here, self._overrides)
            pending = Pending(fused, network.recall(past.memory, fused))
        else:
            pending = state.pending
        next_fused = next_recalled = None
        with overlap.open():
            if overlap.enabled and here + 1 < len(window):
                next_fused = overlap.start(
                    partial(estimate_motion_and_fuse, network, window, here + 1, self._overrides)
                )
            encoder_output = network.encode(pending.fused, past.results, pending.recalled)
            if next_fused is not None:
                next_recalled = overlap.start(partial(_recall, network, encoder_output.memory, next_fused))
            image, past = network.decode(pending.fused, encoder_output, past, is_final=True)
        drop = max(0, here + 1 - self._keep)
        result = replace(
            window[here].frame,
            image=merge_ensemble(network, image, window[here].image),
            levels=levels_of(window[here], self._overrides),
        )
        next_pending = Pending(next_fused(), next_recalled()) if next_fused and next_recalled else None
        return result, StreamState(window[drop:], here + 1 - drop, past, next_pending)


def _recall(network: SECNet, memory: Memory, fused: Callable[[], FusedFrame]) -> Memory:
    return network.recall(memory, fused())


class WithEstimator(Protocol):
    """A network that may have an estimator of degradation."""

    @property
    def estimator(self) -> Estimator | None:
        """The estimator; None without one."""
        ...


def checked_overrides(
    network: WithEstimator, values: Sequence[float | None], name: str, device: torch.device
) -> Tensor | None:
    """The overrides of a stream as a tensor for `apply_overrides`.

    Raises UsageError for levels outside 0..1, or if the network has no estimator.
    """
    try:
        overrides = overrides_tensor(values)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if overrides is not None and network.estimator is None:
        raise UsageError(f"the model '{name}' does not take degradation levels: choose a model with an estimator")
    return None if overrides is None else overrides.to(device)


def prepare_frame(network: SECNet, frame: Frame, image: Tensor, before: FrameFeatures | None = None) -> FrameFeatures:
    """Computes what is needed once per frame from `image` 3 x h x w, which is `frame` or a crop of it.

    `before` is the previous frame of the scene. `frame.levels`, B x 3 or 1 x 3, replaces the estimate of the overall
    levels.
    """
    image = _batch(network, image)
    estimate = smoothed = None
    if network.estimator is not None:
        estimate = with_levels(network.estimator(image), frame)
        smoothed = smooth(estimate.overall, None if before is None else before.smoothed)
    return FrameFeatures(frame, image, network.pyramid(image), estimate, smoothed)


def with_levels(estimate: Estimate, frame: Frame) -> Estimate:
    """The estimate of a frame or a crop of it, with the overall levels of the whole frame if they are known."""
    return estimate if frame.levels is None else estimate._replace(overall=frame.levels.expand_as(estimate.overall))


def _batch(network: SECNet, image: Tensor) -> Tensor:
    """The image as a batch, for a mirrored network with its mirror image."""
    image = image[None]
    return torch.cat((image, image.flip(-1))) if network.config.mirrored else image


def whole_frame_levels(network: SECNet, image: Tensor) -> Tensor | None:
    """The overall levels of a frame 3 x h x w, B x 3, computed in bands; None for a network without an estimator."""
    if network.estimator is None:
        return None
    levels: Tensor = network.estimator.estimate_overall(_batch(network, image))
    return levels


def estimate_motion_and_fuse(
    network: SECNet, window: Sequence[FrameFeatures], here: int, overrides: Tensor | None = None
) -> FusedFrame:
    """Motion estimation and local fusion of frame `here`; the window is clamped at both ends.

    `overrides` as in `apply_overrides`.
    """
    current, lookahead = window[here].image, network.config.lookahead

    def near(offset: int) -> FrameFeatures:
        return window[min(max(here + offset, 0), len(window) - 1)]

    flows = network.motion(window[here].pyramid, [near(offset).pyramid for offset in network.config.offsets])
    features = window[here]
    condition = None
    if features.estimate is not None and features.smoothed is not None:
        condition = apply_overrides(features.estimate, features.smoothed, overrides)
    first = network.fuse([near(k).image for k in range(-lookahead, lookahead + 1)], flows, condition)
    return network.fused_frame(network.bicubic(current), first, flows, condition)


def levels_of(features: FrameFeatures, overrides: Tensor | None) -> Tensor | None:
    """The overall levels that a frame was enhanced with, 3 values in 0..1; None for a network without an estimator."""
    if features.estimate is None or features.smoothed is None:
        return None
    return apply_overrides(features.estimate, features.smoothed, overrides).overall.mean(0)


def advance(
    network: SECNet, window: Sequence[FrameFeatures], here: int, past: RecurrentState | None,
    overrides: Tensor | None = None,
) -> tuple[Tensor, RecurrentState]:  # fmt: skip
    """The result of frame `here`, B x 3 x H x W in 0..1, and the state after it; `past` is None before a scene.

    `overrides` as in `apply_overrides`.
    """
    past = network.init_state(window[here].image) if past is None else past
    fused = estimate_motion_and_fuse(network, window, here, overrides)
    encoded = network.encode(fused, past.results, network.recall(past.memory, fused))
    return network.decode(fused, encoded, past, is_final=True)


def merge_ensemble(network: SECNet, image: Tensor, source: Tensor) -> Tensor:
    """The image 3 x H x W of a result: its only image, or for a mirrored network the mean of both.

    It is cropped to the size of `source`, ... x h x w, times the scale.
    """
    height, width = (side * network.config.scale for side in source.shape[-2:])
    image = image[..., :height, :width]
    return (image[0] + image[1].flip(-1)) / 2 if network.config.mirrored else image[0]


def network_bytes_per_pixel(config: SECNetConfig, precision: str) -> float:
    """Peak memory per input pixel.

    Measured: secnet-fast 5.2 kB if frames overlap, else 2.6 to 4.3, with five frames 5.5; the paper's network 36, in
    bfloat16 22.
    """
    if config.detail_widths:  # full-size images in two scales
        bytes_per_pixel = 43_000.0 if precision == "fp32" else 28_000.0
    else:
        bytes_per_pixel = 6400.0 if config.t1 == 1 else 8200.0
    return 2 * bytes_per_pixel if config.mirrored else bytes_per_pixel
