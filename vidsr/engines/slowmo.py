"""Zooming SlowMo as a stream: larger frames and one more between each two, the past in the state on the device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from vidsr.engines.base import DTYPES, EngineInfo, prepared
from vidsr.errors import ModelError, UsageError
from vidsr.nets.zsm.alignment import Prepared, Pyramid
from vidsr.nets.zsm.config import WINDOW, ZSMConfig
from vidsr.nets.zsm.deformable_lstm import LSTMState, StepInput
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.runtime.overlap import Overlap
from vidsr.types import Frame


def to_half_ticks(frame: Frame) -> Frame:
    """A given frame as the film's last one: at its time, as long as it was."""
    return replace(frame, pts=2 * frame.pts, time_base=frame.time_base / 2, duration=2 * frame.duration)


def halfway(before: Frame, after: Frame, image: Tensor) -> tuple[Frame, Frame]:
    """`before` until the new frame half-way between the two, and that frame with its picture `image` until `after`.

    Both neighbours on half ticks. A new frame starts no scene.
    """
    gap = (after.pts - before.pts) // 2
    new = replace(before, image=image, pts=before.pts + gap, duration=gap, starts_scene=False)
    return replace(before, duration=gap), new


def repeat_before_cut(near: Frame, far_pts: int, interp: int = 2) -> list[Frame]:
    """The near side's last result and the `interp` - 1 new frames before one at `far_pts` that starts a scene.

    They repeat that result. `far_pts` counts the ticks of `near`.
    """
    gap = (far_pts - near.pts) // interp
    new = [replace(near, pts=near.pts + i * gap, duration=gap, starts_scene=False) for i in range(1, interp)]
    return [replace(near, duration=gap), *new]


# Given frames that the backward LSTM sees behind a window. With 0 all sets are as good as with 1 to 0.01 dB, and so are
# the frames on a window's borders beside those inside; a frame costs 2 % more operations (in the published network 7 %)
# and 5 % of the time. Half a frame, the new moment behind the window alone, is worse than none: the last new frame of a
# window then loses 0.4 dB on Vid4. Carrying the forward state on is worth 0.013 dB at a window's start.
LOOKAHEAD = 0


@dataclass(frozen=True, slots=True)
class Moment:
    """A given frame or one to be made, with what was computed of it once; without a picture if it is to be made.

    `frame` says when, on half ticks; its image is the given picture, or the one before if the moment is new.
    """

    frame: Frame
    is_new: bool
    feature: Tensor
    share: StepInput


@dataclass(slots=True)
class SlowmoState:
    """What one step hands to the next; `past` is the forward LSTM's state, None if nothing of the scene is done yet.

    `newest`: the features of the newest given frame of `waiting`, the moments without result, oldest first. `fresh` are
    the given frames behind it, of which nothing is computed yet. `backwards` are the backward LSTM's hidden states at
    the moments of the next window, oldest first; empty if it has not begun.
    """

    newest: Prepared | None = None
    waiting: tuple[Moment, ...] = ()
    fresh: tuple[Frame, ...] = ()
    past: LSTMState | None = None
    backwards: tuple[Tensor, ...] = ()


class SlowmoParts(Protocol):
    """What the engines call of a network for slow motion; a ZoomingSlowMo is one, and OnnxParts are another.

    Frames, features and states are of batch 1; all tensors in float32 but what the network keeps in its own precision.
    """

    @property
    def config(self) -> ZSMConfig:
        """The sizes."""
        ...

    def features(self, frames: Tensor) -> Pyramid:
        """The levels of one frame 1 x 3 x h x w in 0..1, the finest first."""
        ...

    def prepare_neighbor(self, levels: Pyramid) -> Prepared:
        """What a frame contributes to those between it and its neighbours."""
        ...

    def between(self, before: Prepared, after: Prepared) -> Tensor:
        """The feature half-way between two neighbours."""
        ...

    def synthesize(self, feature: Tensor) -> Tensor:
        """The low-resolution head's image of a feature."""
        ...

    def init_state(self, feature: Tensor) -> LSTMState:
        """The state at rest."""
        ...

    def prepare_step(self, feature: Tensor) -> StepInput:
        """What a moment contributes to `step` in either direction."""
        ...

    def step(self, current: StepInput, state: LSTMState) -> LSTMState:
        """One step, forwards or backwards."""
        ...

    def finish(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, picture: Tensor | None = None
    ) -> Tensor:
        """The large image of a moment, 1 x 3 x H x W in 0..1; `picture` is the given frame, None for a new one."""
        ...


class SlowmoEngine:
    """Runs a ZoomingSlowMo in windows of given frames; a window begins with the frame that the one before ended with.

    The forward state goes on from window to window. The backward one starts at rest at the end of each window, or
    `lookahead` frames behind it; only these steps are computed twice. A scene's last windows are shorter.
    With `window` 4, no `lookahead` and no `carry` each window is what the network's own `forward` makes of it.

    On a CPU with several cores a window's features and backward states are computed while the window before it is
    finished: each is half of the work. It takes a window more of look-ahead.
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
    ) -> None:
        """`network` is ready to run on `device`, in one of the `precisions` that it could have.

        `window`, at least 2, and `lookahead`, behind it, count given frames; else UsageError. Without `carry` the
        forward state starts at rest in each window.
        """
        if window < 2 or lookahead < 0:
            raise UsageError(
                f"a window of {window} frames and {lookahead} frames of look-ahead are no way to make slow motion: "
                "use 2 or more and 0 or more"
            )
        self._network = network
        self._overlap = Overlap(device, 0.5, is_overlapped)
        self._ahead, self._carry = lookahead, carry
        self._stride = 2 * (window - 1)  # moments from a window's first one to the next window's
        # The window's last frame waits for the next one in any case, which tells how long it is shown.
        self._behind = max(1, lookahead)
        known = (window - 1) * (1 + self._overlap.enabled) + self._behind
        self._info = EngineInfo(name, network.config.scale, known, 1, precisions, interp=2)

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
    ) -> SlowmoEngine:
        """Of a network, which is copied, not changed; `precision` is that of its convolutions."""
        parts = prepared(network, device, precision)
        return cls(parts, name, device, tuple(DTYPES), window, lookahead, carry, is_overlapped)

    @property
    def info(self) -> EngineInfo:
        """Name, scale 4, the whole window (or two) and what lies behind as look-ahead, twice as many frames."""
        return self._info

    @property
    def network(self) -> SlowmoParts:
        """What it runs; not to be changed."""
        return self._network

    def init_state(self, height: int, width: int) -> SlowmoState:  # noqa: ARG002 - sizes follow the frames
        """An empty state: the first frame starts a scene whatever it says."""
        return SlowmoState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: SlowmoState) -> tuple[list[Frame], SlowmoState]:
        """Takes a frame; gives a window's results when the frames behind it are known, and all of a scene at a cut."""
        given, ready = to_half_ticks(frame), list[Frame]()
        if frame.starts_scene and (state.waiting or state.fresh):
            *ready, last = self.flush(state)
            ready += repeat_before_cut(last, given.pts)
            state = SlowmoState()
        state = replace(state, fresh=(*state.fresh, given))
        while self._count(state) >= self._wanted(state):
            results, state = self._run_window(state)
            ready += results
        return ready, state

    @torch.inference_mode()
    def flush(self, state: SlowmoState) -> list[Frame]:
        """The last windows, as many frames as there are."""
        ready: list[Frame] = []
        while state.waiting or state.fresh:
            results, state = self._run_window(state)
            ready += results
        return ready

    def _count(self, state: SlowmoState) -> int:
        """How many moments have no result: with each frame but a scene's first comes a new one before it."""
        return len(state.waiting) + 2 * len(state.fresh) - (state.newest is None)

    def _wanted(self, state: SlowmoState) -> int:
        """How many of them there must be for the next window, and for the one that begins meanwhile."""
        overlapped = self._stride if self._overlap.enabled else 0
        return self._size(state) + overlapped + 2 * self._behind

    def _size(self, state: SlowmoState) -> int:
        """How many moments of the next window have no result yet: all, or all but the frame that it begins with."""
        return self._stride + (state.past is None)

    def _begin(self, state: SlowmoState, size: int) -> SlowmoState:
        """The state with all that the next window, of at most `size` moments, needs of frames and future."""
        state = self._look(state)
        window, ahead = state.waiting[:size], state.waiting[size : size + 2 * self._ahead]
        future, backwards = self._network.init_state(window[0].feature), list[Tensor]()
        for moment in reversed((*window, *ahead)):
            future = self._network.step(moment.share, future)
            backwards.append(future.hidden)
        return replace(state, backwards=tuple(backwards[len(ahead) :][::-1]))

    def _look(self, state: SlowmoState) -> SlowmoState:
        """The fresh frames and the moments before them, with what is computed of them once, among the waiting."""
        newest, waiting = state.newest, list(state.waiting)
        for given in state.fresh:
            levels = self._network.features(given.image[None])
            known = self._network.prepare_neighbor(levels)
            if newest is not None:
                before, new = halfway(waiting[-1].frame, given, waiting[-1].frame.image)
                waiting[-1] = replace(waiting[-1], frame=before)
                waiting.append(self._moment(new, True, self._network.between(newest, known)))
            waiting.append(self._moment(given, False, levels[0]))
            newest = known
        return replace(state, newest=newest, waiting=tuple(waiting), fresh=())

    def _moment(self, frame: Frame, is_new: bool, feature: Tensor) -> Moment:
        return Moment(frame, is_new, feature, self._network.prepare_step(feature))

    def _run_window(self, state: SlowmoState) -> tuple[list[Frame], SlowmoState]:
        """The results of the next window, made one by one to spare memory, and the state behind it."""
        network, size = self._network, self._size(state)
        if not state.backwards:
            state = self._begin(state, size)
        window, rest = state.waiting[:size], network.init_state(state.waiting[0].feature)
        after = replace(state, waiting=state.waiting[size:], backwards=())
        begun, results = None, list[Frame]()
        with self._overlap.open():
            if self._overlap.enabled and (after.waiting or after.fresh):
                begun = self._overlap.start(partial(self._begin, after, self._stride))
            past = rest if state.past is None else state.past
            for moment, backward in zip(window, state.backwards, strict=True):
                past = network.step(moment.share, past)
                picture = None if moment.is_new else moment.frame.image[None]
                result = network.finish(moment.feature, past.hidden, backward, picture)
                results.append(moment.frame.with_image(result[0]))
        if not self._carry:  # the window's last frame is the next one's first
            past = network.step(window[-1].share, rest)
        return results, replace(begun() if begun else after, past=past)


@dataclass(slots=True)
class InterpolationState:
    """The newest given frame, which waits to know how long it is shown, and its features."""

    newest: Frame | None = None
    features: Prepared | None = None


class InterpolationEngine:
    """Gives each frame bit for bit and after it a new one by the network's low-resolution head."""

    def __init__(self, network: SlowmoParts, name: str, precisions: tuple[str, ...]) -> None:
        """As in SlowmoEngine; raises ModelError for a network without the head."""
        check_has_head(network.config, name)
        self._network = network
        self._info = EngineInfo(name, 1, 1, 1, precisions, interp=2)

    @classmethod
    def of_network(cls, network: ZoomingSlowMo, name: str, device: torch.device, precision: str) -> InterpolationEngine:
        """Of a network, which is copied, not changed; `precision` is that of its convolutions."""
        return cls(prepared(network, device, precision), name, tuple(DTYPES))

    @property
    def info(self) -> EngineInfo:
        """Name, scale 1, one frame of look-ahead, twice as many frames."""
        return self._info

    def init_state(self, height: int, width: int) -> InterpolationState:  # noqa: ARG002 - sizes follow the frames
        """An empty state: the first frame starts a scene whatever it says."""
        return InterpolationState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: InterpolationState) -> tuple[list[Frame], InterpolationState]:
        """Takes frame t, gives frame t - 1 and the new one between the two."""
        network, before, given = self._network, state.newest, to_half_ticks(frame)
        features = network.prepare_neighbor(network.features(frame.image[None]))
        ready: list[Frame] = []
        if before is not None and frame.starts_scene:
            ready += repeat_before_cut(before, given.pts)
        elif before is not None and state.features is not None:
            picture = network.synthesize(network.between(state.features, features))
            ready += halfway(before, given, picture[0].clamp(0, 1))
        return ready, InterpolationState(given, features)

    def flush(self, state: InterpolationState) -> list[Frame]:
        """The last frame, as long as it was."""
        return [] if state.newest is None else [state.newest]


def check_has_head(config: ZSMConfig, name: str) -> None:
    """Raises ModelError for a network that makes no frames of the input's size."""
    if not config.synthesis_blocks:
        raise ModelError(
            f"the model '{name}' has no low-resolution head, so it makes no frames of the input's size: "
            "give a larger size and --interp 2, or choose another model"
        )


# Where a window begins while the one before is finished: 12.9 instead of 7.1 kB for zsm-fast in bfloat16, 19.3 instead
# of 10.0 in float32.
OVERLAPPED_MEMORY = 1.6


def slowmo_bytes_per_pixel(config: ZSMConfig, precision: str, is_enlarged: bool) -> float:
    """Peak memory for each input pixel, with two frames of look-ahead; half of it is the moments that wait.

    Measured in float32 and bfloat16: zsm-fast 10.0 and 7.1 kB, zsm 49 and 29; without enlargement 2.8 and 1.7, 13 and
    8.5.
    """
    if config.kernel == 1:
        enlarged, same_size, width = 14_000.0, 4000.0, 32
    else:
        enlarged, same_size, width = 60_000.0, 16_000.0, 64
    bytes_per_pixel = (enlarged if is_enlarged else same_size) * config.width / width
    return bytes_per_pixel if precision == "fp32" else 0.7 * bytes_per_pixel
