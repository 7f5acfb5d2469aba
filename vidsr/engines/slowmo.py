"""Zooming SlowMo on a stream: enlarges frames and interpolates one between every two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from vidsr.engines.base import DTYPES, EngineInfo, prepared
from vidsr.engines.recurrent import checked_overrides, with_levels
from vidsr.errors import ModelError, UsageError
from vidsr.nets.layers.conditioning import Estimate, Estimator, apply_overrides, halfway, smooth
from vidsr.nets.zsm.alignment import Prepared, Pyramid
from vidsr.nets.zsm.config import WINDOW, ZSMConfig
from vidsr.nets.zsm.deformable_lstm import LSTMState, StepInput
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.runtime.overlap import Overlap
from vidsr.types import Frame


def to_half_ticks(frame: Frame) -> Frame:
    """The frame with the same times, counted in half ticks."""
    return replace(frame, pts=2 * frame.pts, time_base=frame.time_base / 2, duration=2 * frame.duration)


def interpolate_timestamps(before: Frame, after: Frame, image: Tensor) -> tuple[Frame, Frame]:
    """`before`, now shown until the new frame, and the interpolated frame `image` halfway between `before` and `after`.

    Both neighbors count half ticks. An interpolated frame never starts a scene.
    """
    gap = (after.pts - before.pts) // 2
    interpolated = replace(before, image=image, pts=before.pts + gap, duration=gap, starts_scene=False, messages=())
    return replace(before, duration=gap), interpolated


def repeat_before_cut(near: Frame, far_pts: int, interp: int = 2) -> list[Frame]:
    """The last output before a cut, `near`, and `interp` - 1 copies of it up to the first frame after the cut.

    That frame is at `far_pts`, in ticks of `near`. Nothing can be interpolated across a cut.
    """
    gap = (far_pts - near.pts) // interp
    copy = replace(near, duration=gap, starts_scene=False, messages=())
    repeats = [replace(copy, pts=near.pts + i * gap) for i in range(1, interp)]
    return [replace(near, duration=gap), *repeats]


# Input frames after a window that the backward LSTM also sees. On all sets 0 is within 0.01 dB of 1, also for frames at
# a window's borders; each frame costs 2 % more operations (7 % in the published network) and 5 % of the time. Half a
# frame, that is only the interpolated moment after the window, is worse than none: the last interpolated frame of a
# window then loses 0.4 dB on Vid4. Carrying the forward state over gains 0.013 dB at the start of a window.
LOOKAHEAD = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """The moment of an input frame or of a frame to interpolate, with its features, which are computed once.

    `frame` has its time in half ticks, and the input image; for an interpolated moment the previous input image.
    `condition`, of a network with an estimator, are the degradation levels that it works with.
    """

    frame: Frame
    is_interpolated: bool
    feature: Tensor
    step_input: StepInput
    condition: Estimate | None = None


@dataclass(slots=True)
class SlowmoState:
    """State between two steps. `past` is the forward LSTM's state, None before the first output of a scene.

    `waiting` are the moments without output, oldest first, and `newest` the features of its newest input frame. `fresh`
    are the input frames after that, not yet processed. `backwards` are the hidden states of the backward LSTM at the
    moments of the next window, oldest first; empty if that window has not been prepared. `smoothed` are the degradation
    levels of the scene so far (`smooth`), of a network with an estimator.
    """

    newest: Prepared | None = None
    waiting: tuple[Moment, ...] = ()
    fresh: tuple[Frame, ...] = ()
    past: LSTMState | None = None
    backwards: tuple[Tensor, ...] = ()
    smoothed: Tensor | None = None


class SlowmoParts(Protocol):
    """The functions of a slow-motion network that the engines call; implemented by ZoomingSlowMo and OnnxParts.

    Frames, features and states have batch size 1. Tensors are float32 except those that the network keeps in its own
    precision.
    """

    @property
    def config(self) -> ZSMConfig:
        """The network's configuration."""
        ...

    @property
    def estimator(self) -> Estimator | None:
        """The estimator of degradation; None without one."""
        ...

    def estimate(self, frames: Tensor) -> Estimate | None:
        """The degradation levels of one frame 1 x 3 x h x w in 0..1; None without an estimator."""
        ...

    def features(self, frames: Tensor, condition: Estimate | None = None) -> Pyramid:
        """The feature pyramid of one frame 1 x 3 x h x w in 0..1, finest level first.

        `condition`: the levels that a network with an estimator works with, here and in `finish`.
        """
        ...

    def prepare_neighbor(self, levels: Pyramid) -> Prepared:
        """What a frame contributes to the frames between it and its neighbors."""
        ...

    def between(self, before: Prepared, after: Prepared) -> Tensor:
        """The feature halfway between two neighbors."""
        ...

    def synthesize(self, feature: Tensor) -> Tensor:
        """The image that the low-resolution head makes from a feature."""
        ...

    def init_state(self, feature: Tensor) -> LSTMState:
        """The initial (zero) state."""
        ...

    def prepare_step(self, feature: Tensor) -> StepInput:
        """What a moment contributes to `step` in either direction."""
        ...

    def step(self, current: StepInput, state: LSTMState) -> LSTMState:
        """One step, forwards or backwards."""
        ...

    def finish(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, image: Tensor | None = None,
        condition: Estimate | None = None,
    ) -> Tensor:  # fmt: skip
        """The enlarged image of a moment, 1 x 3 x H x W in 0..1; `image` is the input frame, None if interpolated."""
        ...


class Conditions:
    """The degradation levels with which a network works on the frames of a stream."""

    def __init__(self, network: SlowmoParts, values: Sequence[float | None], name: str, device: torch.device) -> None:
        """`values`: blur, noise and compression in 0..1; None is the network's own estimate.

        Raises UsageError for a level outside 0..1, and for any level if the network has no estimator.
        """
        self._network, self._overrides = network, checked_overrides(network, values, name, device)

    def of(self, frame: Frame, before: Tensor | None) -> tuple[Estimate | None, Tensor | None]:
        """The condition of a frame and the smoothed levels up to it; `before` are those up to the frame before it."""
        estimate = self._network.estimate(frame.image[None])
        if estimate is None:
            return None, None
        estimate = with_levels(estimate, frame)
        smoothed = smooth(estimate.overall, before)
        return apply_overrides(estimate, smoothed, self._overrides), smoothed

    def overall(self, image: Tensor) -> Tensor | None:
        """The overall levels of a whole frame 3 x h x w, 1 x 3, computed in bands; None without an estimator."""
        estimator = self._network.estimator
        return None if estimator is None else estimator.estimate_overall(image[None])


def _noted(frame: Frame, condition: Estimate | None) -> Frame:
    """The frame with the overall levels that it was enhanced with; unchanged without an estimator."""
    return frame if condition is None else replace(frame, levels=condition.overall[0])


class SlowmoEngine:
    """Runs a ZoomingSlowMo on temporal windows of input frames; consecutive windows share one frame.

    The forward state is carried from window to window. The backward state starts at zero at the end of each window, or
    `lookahead` frames after it; only these steps are computed twice. The last window of a scene may be shorter. With
    `window` 4, `lookahead` 0 and without `carry` each window equals the network's own `forward`.

    On a CPU with several cores, features and backward states of a window are computed while the previous window is
    finished: each is half of the work. This needs one more window of look-ahead.
    """

    def __init__(
        self,
        network: SlowmoParts,
        name: str,
        device: torch.device,
        precisions: tuple[str, ...],
        window: int = WINDOW,
        lookahead: int = LOOKAHEAD,
        carry: bool = True,
        is_overlapped: bool = True,
        overrides: Sequence[float | None] = (None, None, None),
    ) -> None:
        """`network` is ready to run on `device`, in one of the supported `precisions`.

        `window`, at least 2, and `lookahead`, at least 0, count input frames; other values raise UsageError. Without
        `carry` the forward state starts at zero in each window. `overrides` as in Conditions.
        """
        if window < 2 or lookahead < 0:
            raise UsageError(
                f"slow motion cannot run with a window of {window} and a look-ahead of {lookahead} frames: "
                "use a window of 2 or more and a look-ahead of 0 or more"
            )
        self._network = network
        self._without_overlap = partial(
            SlowmoEngine, network, name, device, precisions, window, lookahead, carry, False, overrides
        )
        self._conditions = Conditions(network, overrides, name, device)
        self._overlap = Overlap(device, 0.5, is_overlapped)
        self._ahead, self._carry = lookahead, carry
        self._stride = 2 * (window - 1)  # moments from the start of one window to the start of the next
        # The last frame of a window waits for the next one in any case, which determines its duration.
        self._behind = max(1, lookahead)
        config = network.config
        known = (window - 1) * (1 + self._overlap.enabled) + self._behind
        self._info = EngineInfo(name, config.scale, known, config.multiple_of, precisions, interp=2)

    @classmethod
    def of_network(
        cls,
        network: ZoomingSlowMo,
        name: str,
        device: torch.device,
        precision: str,
        window: int = WINDOW,
        lookahead: int = LOOKAHEAD,
        carry: bool = True,
        is_overlapped: bool = True,
        overrides: Sequence[float | None] = (None, None, None),
    ) -> SlowmoEngine:
        """Engine of a network, which is copied; `precision` is that of its convolutions."""
        parts = prepared(network, device, precision)
        return cls(parts, name, device, tuple(DTYPES), window, lookahead, carry, is_overlapped, overrides)

    @property
    def info(self) -> EngineInfo:
        """Scale 4, interp 2; the look-ahead is one window (two with overlap) and the frames after it."""
        return self._info

    @property
    def network(self) -> SlowmoParts:
        """The network; must not be modified."""
        return self._network

    @torch.inference_mode()
    def estimate_levels(self, image: Tensor) -> Tensor | None:
        """The network's estimate of the overall levels of a frame, 1 x 3; None for a network without an estimator."""
        return self._conditions.overall(image)

    @property
    def is_overlapped(self) -> bool:
        """Whether a window is prepared while the previous one is finished."""
        return self._overlap.enabled

    def without_overlap(self) -> SlowmoEngine:
        """The same engine without overlap: each window is finished before the next is prepared."""
        return self._without_overlap()

    def init_state(self, height: int, width: int) -> SlowmoState:  # noqa: ARG002 - size follows from frames
        """An empty state: the first frame starts a scene in any case."""
        return SlowmoState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: SlowmoState) -> tuple[list[Frame], SlowmoState]:
        """Processes a frame; returns a window's outputs once the frames after it are known, or all at a cut."""
        current, ready = to_half_ticks(frame), list[Frame]()
        if frame.starts_scene and (state.waiting or state.fresh):
            *ready, last = self.flush(state)
            ready += repeat_before_cut(last, current.pts)
            state = SlowmoState()
        state = replace(state, fresh=(*state.fresh, current))
        while self._count(state) >= self._wanted(state):
            results, state = self._run_window(state)
            ready += results
        return ready, state

    @torch.inference_mode()
    def flush(self, state: SlowmoState) -> list[Frame]:
        """Returns the outputs of the last windows, which may be shorter."""
        ready: list[Frame] = []
        while state.waiting or state.fresh:
            results, state = self._run_window(state)
            ready += results
        return ready

    def _count(self, state: SlowmoState) -> int:
        """Number of moments without output: each input frame after a scene's first adds an interpolated one."""
        return len(state.waiting) + 2 * len(state.fresh) - (state.newest is None)

    def _wanted(self, state: SlowmoState) -> int:
        """Number of such moments needed to run the next window, and to prepare the one after it meanwhile."""
        overlapped = self._stride if self._overlap.enabled else 0
        return self._size(state) + overlapped + 2 * self._behind

    def _size(self, state: SlowmoState) -> int:
        """Number of moments of the next window without output: all, or all but the frame shared with the last one."""
        return self._stride + (state.past is None)

    def _prepare_window(self, state: SlowmoState, size: int) -> SlowmoState:
        """The state with the features and backward states of the next window, of at most `size` moments."""
        state = self._prepare_frames(state)
        window, ahead = state.waiting[:size], state.waiting[size : size + 2 * self._ahead]
        future, backwards = self._network.init_state(window[0].feature), list[Tensor]()
        for moment in reversed((*window, *ahead)):
            future = self._network.step(moment.step_input, future)
            backwards.append(future.hidden)
        return replace(state, backwards=tuple(backwards[len(ahead) :][::-1]))

    def _prepare_frames(self, state: SlowmoState) -> SlowmoState:
        """Moves fresh frames, with the interpolated moments before them and their features, to the waiting moments."""
        newest, waiting, smoothed = state.newest, list(state.waiting), state.smoothed
        for frame in state.fresh:
            condition, smoothed = self._conditions.of(frame, smoothed)
            levels = self._network.features(frame.image[None], condition)
            known = self._network.prepare_neighbor(levels)
            if newest is not None:
                last = waiting[-1]
                before, new = interpolate_timestamps(last.frame, frame, last.frame.image)
                waiting[-1] = replace(last, frame=before)
                between = None if last.condition is None or condition is None else halfway(last.condition, condition)
                waiting.append(self._moment(new, True, self._network.between(newest, known), between))
            waiting.append(self._moment(frame, False, levels[0], condition))
            newest = known
        return replace(state, newest=newest, waiting=tuple(waiting), fresh=(), smoothed=smoothed)

    def _moment(self, frame: Frame, is_interpolated: bool, feature: Tensor, condition: Estimate | None) -> Moment:
        return Moment(frame, is_interpolated, feature, self._network.prepare_step(feature), condition)

    def _run_window(self, state: SlowmoState) -> tuple[list[Frame], SlowmoState]:
        """The outputs of the next window, computed one by one to save memory, and the state after it."""
        network, size = self._network, self._size(state)
        if not state.backwards:
            state = self._prepare_window(state, size)
        window, rest = state.waiting[:size], network.init_state(state.waiting[0].feature)
        after = replace(state, waiting=state.waiting[size:], backwards=())
        prepared_window, results = None, list[Frame]()
        with self._overlap.open():
            if self._overlap.enabled and (after.waiting or after.fresh):
                prepared_window = self._overlap.start(partial(self._prepare_window, after, self._stride))
            past = rest if state.past is None else state.past
            for moment, backward in zip(window, state.backwards, strict=True):
                past = network.step(moment.step_input, past)
                image = None if moment.is_interpolated else moment.frame.image[None]
                result = network.finish(moment.feature, past.hidden, backward, image, moment.condition)
                results.append(_noted(moment.frame, moment.condition).with_image(result[0]))
        if not self._carry:  # the last frame of this window is the first of the next
            past = network.step(window[-1].step_input, rest)
        return results, replace(prepared_window() if prepared_window else after, past=past)


@dataclass(slots=True)
class InterpolationState:
    """The newest input frame, whose output duration is not known yet, its features, and the smoothed levels."""

    newest: Frame | None = None
    features: Prepared | None = None
    smoothed: Tensor | None = None


class InterpolationEngine:
    """Frame interpolation at the input's size (scale 1): doubles the frames with the network's low-resolution head.

    Input frames are returned bit for bit.
    """

    def __init__(
        self, network: SlowmoParts, name: str, device: torch.device, precisions: tuple[str, ...],
        overrides: Sequence[float | None] = (None, None, None),
    ) -> None:  # fmt: skip
        """As in SlowmoEngine. Raises ModelError for a network without the low-resolution head."""
        check_has_head(network.config, name)
        self._network, self._conditions = network, Conditions(network, overrides, name, device)
        self._info = EngineInfo(name, 1, 1, network.config.multiple_of, precisions, interp=2)

    @classmethod
    def of_network(
        cls, network: ZoomingSlowMo, name: str, device: torch.device, precision: str,
        overrides: Sequence[float | None] = (None, None, None),
    ) -> InterpolationEngine:  # fmt: skip
        """Engine of a network, which is copied; `precision` is that of its convolutions."""
        return cls(prepared(network, device, precision), name, device, tuple(DTYPES), overrides)

    @torch.inference_mode()
    def estimate_levels(self, image: Tensor) -> Tensor | None:
        """As SlowmoEngine."""
        return self._conditions.overall(image)

    @property
    def info(self) -> EngineInfo:
        """Scale 1, interp 2, one frame of look-ahead."""
        return self._info

    def init_state(self, height: int, width: int) -> InterpolationState:  # noqa: ARG002 - size follows from frames
        """An empty state: the first frame starts a scene in any case."""
        return InterpolationState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: InterpolationState) -> tuple[list[Frame], InterpolationState]:
        """Processes frame t; returns frame t - 1 and the interpolated frame between the two."""
        network, before = self._network, state.newest
        condition, smoothed = self._conditions.of(frame, None if frame.starts_scene else state.smoothed)
        current = _noted(to_half_ticks(frame), condition)
        features = network.prepare_neighbor(network.features(frame.image[None], condition))
        ready: list[Frame] = []
        if before is not None and frame.starts_scene:
            ready += repeat_before_cut(before, current.pts)
        elif before is not None and state.features is not None:
            image = network.synthesize(network.between(state.features, features))
            ready += interpolate_timestamps(before, current, image[0].clamp(0, 1))
        return ready, InterpolationState(current, features, smoothed)

    def flush(self, state: InterpolationState) -> list[Frame]:
        """Returns the last frame, with its own duration."""
        return [] if state.newest is None else [state.newest]


def check_has_head(config: ZSMConfig, name: str) -> None:
    """Raises ModelError for a network that cannot interpolate at the input's size."""
    if not config.synthesis_blocks:
        raise ModelError(
            f"the model '{name}' has no low-resolution head and cannot interpolate at the input's size: "
            "give a larger size and --interp 2, or choose another model"
        )


# Factor on peak memory when windows overlap. Measured for zsm-fast: 12.9 instead of 7.1 kB per pixel in bfloat16, 19.3
# instead of 10.0 in float32.
OVERLAPPED_MEMORY = 1.6


def slowmo_bytes_per_pixel(config: ZSMConfig, precision: str, is_enlarged: bool) -> float:
    """Estimated peak memory per input pixel, with two frames of look-ahead; half of it is for waiting moments.

    Measured in float32 and bfloat16: zsm-fast 10.0 and 7.1 kB, zsm 49 and 29; without enlargement 2.8 and 1.7, 13 and
    8.5.
    """
    if config.kernel == 1:
        enlarged, same_size, width = 14_000.0, 4000.0, 32
    else:
        enlarged, same_size, width = 60_000.0, 16_000.0, 64
    bytes_per_pixel = (enlarged if is_enlarged else same_size) * config.width / width
    return bytes_per_pixel if precision == "fp32" else 0.7 * bytes_per_pixel
