"""Toy engines that keep every law except the one they are told to break: a recurrent one and a frame doubler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, pad

from vidsr.engines.base import EngineInfo
from vidsr.types import Frame


def make_clip(
    length: int, height: int = 20, width: int = 24, seed: int = 0, cuts: tuple[int, ...] = (0,)
) -> list[Frame]:
    """Noise frames at uneven times; those at the positions in `cuts` start a scene."""
    random = torch.Generator().manual_seed(seed)
    gaps = torch.randint(1000, 4000, (length,), generator=random).tolist()
    return [
        Frame(
            torch.rand(3, height, width, generator=random), 9000 + sum(gaps[:t]), Fraction(1, 90000), gaps[t], t in cuts
        )
        for t in range(length)
    ]


def side_data(frames: Sequence[Frame]) -> list[tuple[int, int, Fraction, bool]]:
    return [(frame.pts, frame.duration, frame.time_base, frame.starts_scene) for frame in frames]


def video_side_data(frames: Sequence[Frame], interp: int) -> list[tuple[int, int, Fraction, bool]]:
    """The side data of the (N - 1) * interp + 1 expected output frames, evenly spaced in each gap."""
    expected = []
    for frame, following in pairwise(frames):
        gap = following.pts - frame.pts
        expected += [
            (interp * frame.pts + i * gap, gap, frame.time_base / interp, frame.starts_scene and i == 0)
            for i in range(interp)
        ]
    last = frames[-1]
    return [*expected, (interp * last.pts, interp * last.duration, last.time_base / interp, last.starts_scene)]


@dataclass
class ToyState:
    memory: Tensor | None = None
    waiting: list[Frame] = field(default_factory=list)
    ballast: list[Tensor] = field(default_factory=list)
    drift: float = 0.0


class ToyEngine:
    """Blends a frame with the next one and with a blurred memory of the past. `fault` names the law it breaks."""

    def __init__(self, fault: str | None = None) -> None:
        self.info = EngineInfo("toy", scale=2, lookahead=1, multiple_of=2, precisions=("fp32",))
        self.fault = fault
        self.hold = 2 if fault == "looks one frame too far" else 1
        self.shared_memory: Tensor | None = None
        self.shared_canvas: Tensor | None = None

    def init_state(self, height: int, width: int) -> ToyState:
        return ToyState()

    def step(self, frame: Frame, state: ToyState) -> tuple[list[Frame], ToyState]:
        ready = []
        if frame.starts_scene:
            following = frame if self.fault == "sees the next scene" else None
            while state.waiting:
                ready.append(self.compute(state, following))
            if self.fault != "remembers the last scene":
                state.memory = self.shared_memory = None
        state.waiting.append(frame)
        if self.fault == "keeps every frame":
            state.ballast.append(frame.image.clone())
        if len(state.waiting) > self.hold:
            ready.append(self.compute(state, frame))
        if self.fault == "gives late":
            ready = [*state.ballast, *ready]
            state.ballast = ready[-1:]
            ready = ready[:-1]
        return ready, state

    def flush(self, state: ToyState) -> list[Frame]:
        if self.fault == "drops the last frame":
            return []
        late = state.ballast if self.fault == "gives late" else []
        return [*late, *(self.compute(state, None) for _ in range(len(state.waiting)))]

    def compute(self, state: ToyState, following: Frame | None) -> Frame:
        frame = state.waiting.pop(0)
        memory = self.shared_memory if self.fault == "keeps its memory in the engine" else state.memory
        is_usable = memory is not None and memory.shape == frame.image.shape
        fresh = (frame.image + memory) / 2 if is_usable else frame.image
        memory = avg_pool2d(pad(fresh[None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
        state.memory = self.shared_memory = memory
        small = memory / 2 + frame.image / 4 + (following or frame).image / 4
        if self.fault == "drifts":
            state.drift += 2e-5
            small = small + state.drift
        if self.fault == "is random":
            small = small + 1e-5 * torch.rand(1)
        if self.fault == "measures the whole frame":
            small = small - 0.5 * small.mean()
        large = interpolate(small[None], scale_factor=2.0, mode="nearest")[0].clamp(0.0, 1.0)
        if self.fault == "overshoots":
            large = large * 1.01
        if self.fault == "gives even sizes only":
            large = large[:, : large.shape[1] // 4 * 4]
        if self.fault == "gives double precision":
            large = large.double()
        if self.fault == "writes into its last result":
            if self.shared_canvas is None or self.shared_canvas.shape != large.shape:
                self.shared_canvas = torch.empty_like(large)
            large = self.shared_canvas.copy_(large)
        if self.fault == "writes into its input":
            frame.image.mul_(0.5)
        if self.fault == "gives the next frame's time" and following is not None:
            return replace(following, image=large)
        if self.fault == "forgets the cuts":
            return replace(frame, image=large, starts_scene=False)
        return frame.with_image(large)


class ToyDoubler:
    """Puts the mean of two neighbors between them, before a cut a copy. `fault` names the law it breaks."""

    def __init__(self, fault: str | None = None) -> None:
        self.info = EngineInfo("toy doubler", 1, lookahead=1, multiple_of=1, precisions=("fp32",), interp=2)
        self.fault = fault

    def init_state(self, height: int, width: int) -> list[Frame]:
        return []

    def step(self, frame: Frame, state: list[Frame]) -> tuple[list[Frame], list[Frame]]:
        if not state:
            return [], [frame]
        gap, mean = frame.pts - state[0].pts, (state[0].image + frame.image) / 2
        given = replace(self.flush(state)[0], duration=gap)
        is_repeated = frame.starts_scene and self.fault != "mixes across a cut"
        new = replace(given, image=given.image if is_repeated else mean, pts=given.pts + gap, starts_scene=False)
        if self.fault == "starts scenes with new frames":
            given, new = replace(given, starts_scene=False), replace(new, starts_scene=given.starts_scene)
        if self.fault == "puts new frames late":
            new = replace(new, pts=new.pts + 1)
        if self.fault == "makes none before a cut" and frame.starts_scene:
            return [given], [frame]
        return [given, new], [frame]

    def flush(self, state: list[Frame]) -> list[Frame]:
        duration = 1 if self.fault == "shortens the last frame" else 2
        return [
            replace(frame, pts=2 * frame.pts, duration=duration * frame.duration, time_base=frame.time_base / 2)
            for frame in state
        ]
