"""Zooming SlowMo as a stream: larger frames and one more between each two, the past in the state on the device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vidsr.engines.base import EngineInfo
from vidsr.engines.halfway import before_a_cut, halfway, on_half_ticks
from vidsr.engines.precision import DTYPES, prepared
from vidsr.errors import UsageError
from vidsr.nets.alignment import Prepared
from vidsr.nets.deformable_lstm import LSTMState, StepInput
from vidsr.nets.zsm import ZoomingSlowMo
from vidsr.nets.zsmconfig import WINDOW
from vidsr.types import Frame

# Given frames that the backward LSTM sees behind a window. With 0 the new frame at a window's end was 0.010 dB worse
# than those inside; with 1, 2 or 3 all were within 0.003 dB (zsm-fast at step 2468, nine clips). Carrying the forward
# state on is worth 0.013 dB at a window's start. A frame costs 2 % more operations, in the published network 7 %.
LOOKAHEAD = 1


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
    """The features of the newest given frame, the moments without result, oldest first, and the forward LSTM's state.

    `past` None: nothing of the scene is done yet.
    """

    newest: Prepared | None = None
    waiting: tuple[Moment, ...] = ()
    past: LSTMState | None = None


class SlowmoEngine:
    """Runs a ZoomingSlowMo in windows of given frames; a window begins with the frame that the one before ended with.

    The forward state goes on from window to window. The backward one starts at rest some frames behind each window,
    so that its last moments see a future too; only these steps are computed twice. A scene's last windows are shorter.
    With `window` 4, no `lookahead` and no `carry` each window is what the network's own `forward` makes of it.
    """

    def __init__(
        self,
        network: ZoomingSlowMo,
        name: str,
        device: torch.device,
        precision: str,
        window: int = WINDOW,
        lookahead: int = LOOKAHEAD,
        carry: bool = True,
    ) -> None:
        """`network` is copied, not changed; `precision` is that of the convolutions.

        `window`, at least 2, and `lookahead`, behind it, count given frames; else UsageError. Without `carry` the
        forward state starts at rest in each window.
        """
        if window < 2 or lookahead < 0:
            raise UsageError(
                f"a window of {window} frames and {lookahead} frames of look-ahead are no way to make slow motion: "
                "use 2 or more and 0 or more"
            )
        self._network = prepared(network, device, precision)
        self._window, self._ahead, self._carry = window, lookahead, carry
        # The window's last frame waits for the next one in any case, which tells how long it is shown.
        self._behind = max(1, lookahead)
        self._info = EngineInfo(name, network.config.scale, window - 1 + self._behind, 1, tuple(DTYPES), interp=2)

    @property
    def info(self) -> EngineInfo:
        """Name, scale 4, the whole window and what lies behind it as look-ahead, twice as many frames."""
        return self._info

    @property
    def network(self) -> ZoomingSlowMo:
        """The network on its device, its convolutions in the engine's precision; not to be changed."""
        return self._network

    def init_state(self, height: int, width: int) -> SlowmoState:  # noqa: ARG002 - sizes follow the frames
        """An empty state: the first frame starts a scene whatever it says."""
        return SlowmoState()

    @torch.inference_mode()
    def step(self, frame: Frame, state: SlowmoState) -> tuple[list[Frame], SlowmoState]:
        """Takes a frame; gives a window's results when the frames behind it are known, and all of a scene at a cut."""
        given, ready = on_half_ticks(frame), list[Frame]()
        if frame.starts_scene and state.waiting:
            *ready, last = self.flush(state)
            ready += before_a_cut(last, given.pts)
            state = SlowmoState()
        levels = self._network.features(frame.image[None])
        newest = self._network.neighbour(levels)
        waiting = list(state.waiting)
        if state.newest is not None:
            before, new = halfway(waiting[-1].frame, given, waiting[-1].frame.image)
            waiting[-1] = replace(waiting[-1], frame=before)
            waiting.append(self._moment(new, True, self._network.between(state.newest, newest)))
        waiting.append(self._moment(given, False, levels[0]))
        state = SlowmoState(newest, tuple(waiting), state.past)
        while len(state.waiting) >= self._size(state) + 2 * self._behind:
            results, state = self._run_window(state)
            ready += results
        return ready, state

    @torch.inference_mode()
    def flush(self, state: SlowmoState) -> list[Frame]:
        """The last windows, as many frames as there are."""
        ready: list[Frame] = []
        while state.waiting:
            results, state = self._run_window(state)
            ready += results
        return ready

    def _moment(self, frame: Frame, is_new: bool, feature: Tensor) -> Moment:
        return Moment(frame, is_new, feature, self._network.prepare_step(feature))

    def _size(self, state: SlowmoState) -> int:
        """How many moments of the next window have no result yet: all, or all but the frame that it begins with."""
        return 2 * self._window - 1 if state.past is None else 2 * self._window - 2

    def _run_window(self, state: SlowmoState) -> tuple[list[Frame], SlowmoState]:
        """The results of the next window, made one by one to spare memory, and the state behind it."""
        network, size = self._network, self._size(state)
        window, ahead = state.waiting[:size], state.waiting[size : size + 2 * self._ahead]
        rest = network.init_state(window[0].feature)
        future, backwards = rest, list[Tensor]()
        for moment in reversed((*window, *ahead)):
            future = network.step(moment.share, future)
            backwards.append(future.hidden)
        past, results = rest if state.past is None else state.past, list[Frame]()
        for moment in window:
            past = network.step(moment.share, past)
            picture = None if moment.is_new else moment.frame.image[None]
            result = network.finish(moment.feature, past.hidden, backwards.pop(), picture)
            results.append(moment.frame.with_image(result[0]))
        if not self._carry:  # the window's last frame is the next one's first
            past = network.step(window[-1].share, rest)
        return results, SlowmoState(state.newest, state.waiting[size:], past)
