"""Replaces short runs of repeated frames (telecine, animation on twos, screen capture) with interpolated ones.

Detects the repeats and computes their times; an engine passed in interpolates halfway between two images.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vidsr.stages.reduction import reduce_image
from vidsr.types import Frame

# Frames are reduced to at most this many pixels on the long side and compared in blocks, which averages out noise and
# coding errors.
DETECTOR_PIXELS = 256
BLOCK = 8
# An image shown for more than 1 + MAX_RUN frames is an intended pause: animation on fours is the slowest. Runs of up to
# 3 filled by Zooming SlowMo are 1.3 to 7.4 dB better than repeats and 0.2 to 2.6 better than blends; runs of 5 are no
# better than blends in fast motion.
MAX_RUN = 3

# Measured on 24 clips without repeats (faces, fast motion, Vid4), unchanged and with repeats added: on twos, threes and
# fours, 25 in 30, 24 in 30 and 24 in 60 frames/s; H.264 with crf 18, 23 and 28, presets veryfast and medium: 14,035
# repeats and 17,145 other frames. Recall: 98, 93 and 86 % of the repeats at crf 18, 23 and 28; 99, 97 and 95 % of those
# in visible motion (a strength of 10 or more before and after). On 9 clips not used to choose thresholds: 98, 83 and
# 90 %, in visible motion 99, 94 and 96 %. False positives: 0 of 3,243 frames of unchanged clips, 0 of 1,603 frames of
# unchanged videos, and 10 frames next to real repeats. Six real videos contain repeats (25 in 30, clay animation
# on twos, a webcam frozen by its encoder); in one with a strict period all 10 repeats are found.
#
# Maximum change in a repeat, relative to the change in the moving steps before and after it: in the blocks that move
# both before and after (STILL), and in the most changed blocks anywhere (STILL_ANYWHERE). Steps that are not repeats go
# down to 0.24 in the former; an eye that stays closed for two frames goes down to 0.28 in the latter.
STILL, STILL_ANYWHERE = 0.22, 0.27
# Minimum change from before the first moving step to after the second, relative to the smaller one. Less means motion
# that reverses, such as a blinking eye or a shaking hand, which may pause at the turning point.
MIN_PROGRESS = 0.6
# The same two limits when the cadence predicts a repeat: coding with crf 28 changes repeats that much.
STILL_WHEN_DUE, STILL_ANYWHERE_WHEN_DUE = 0.4, 0.6
# Less motion than this is coding noise: root mean square in levels (0..255) over the moving blocks.
MIN_MOTION = 3.0
# Minimum ratio of the smaller to the larger moving step. Smaller steps are late corrections of a repeat by the codec.
MIN_BALANCE = 0.25
# The longest period of a cadence (24 in 30 frames/s has 5, 25 in 30 has 6), and the number of past periods examined.
MAX_CADENCE = 6
PERIODS = 3
# Images are interpolated at multiples of 1/8 of the time between two others. A third is missed by 1/24, which is an
# eighth of a frame for two repeats in a row. Sixteenths would halve that, but gain only 0.02 to 0.09 dB and cost 7
# images instead of 5.
TIME_STEPS = 8

# Verdicts on a step: motion, possible repeat, certain repeat.
MOTION, LIKELY, REPEAT = 0, 1, 2


class Interpolator(Protocol):
    """The part of an engine with scale 1 and interp 2 that is used here."""

    def init_state(self, height: int, width: int) -> Any:
        """The initial state."""
        ...

    def step(self, frame: Frame, state: Any) -> tuple[list[Frame], Any]:
        """Processes a frame; returns the frames that are ready, and the new state."""
        ...

    def flush(self, state: Any) -> list[Frame]:
        """Returns all pending frames."""
        ...


class NoInterpolator:
    """Stands for an interpolator where repeats are only counted: the images that it would make decide nothing."""

    def init_state(self, height: int, width: int) -> list[Frame]:  # noqa: ARG002 - the signature of an engine
        """No frame yet."""
        return []

    def step(self, frame: Frame, state: list[Frame]) -> tuple[list[Frame], list[Frame]]:
        """Keeps the frame, and once more for the one that would be interpolated."""
        return [], [*state, frame, frame]

    def flush(self, state: list[Frame]) -> list[Frame]:
        """Two frames, and one between them."""
        return state[:3]


@dataclass(slots=True)
class _Step:
    """A frame, the reduced images of the previous frame (`start`) and of itself (`end`), and the change between them.

    `blocks` is the mean square change per block, `strength` the root mean square of the most changed 2 % of the blocks,
    both in levels (0..255).
    """

    frame: Frame
    start: Tensor
    end: Tensor
    blocks: Tensor
    strength: float
    verdict: int = MOTION


@dataclass(slots=True)
class DuplicateState:
    """State between two frames.

    `shown` is the last frame returned, `reduced` the reduced image of the newest frame, and `motion` the last moving
    step. `waiting` are the steps since, which may be repeats; `past` are the verdicts on earlier steps.
    """

    shown: Frame | None = None
    reduced: Tensor | None = None
    motion: _Step | None = None
    waiting: list[_Step] = field(default_factory=list)
    past: deque[int] = field(default_factory=lambda: deque(PERIODS * MAX_CADENCE * [MOTION], PERIODS * MAX_CADENCE))

    def release(self, steps: list[_Step]) -> list[Frame]:
        """The unchanged frames of these steps; records their verdicts."""
        self.past += [step.verdict for step in steps]
        return [step.frame for step in steps]

    def is_due(self, index: int) -> bool:
        """Whether the cadence of past steps predicts a repeat at this position of the run."""
        for period in range(index + 2, MAX_CADENCE + 1):
            verdicts = [self.past[index - count * period] for count in range(1, PERIODS + 1)]
            if verdicts.count(REPEAT) >= PERIODS - 1 or MOTION not in verdicts:
                return True
        return False


class Duplicates:
    """The stage that replaces runs of repeats; `replaced` counts the images replaced so far.

    `interpolated` counts the images that this object has interpolated, with those that were only steps to others.

    Number and times of frames do not change. A frame that repeats the previous one gets an image interpolated at its
    own time, if 1 to MAX_RUN repeats lie between two different images of a scene. This needs a look-ahead of at most
    MAX_RUN + 1 frames. Repeats before a cut and at the end of the video are kept.
    """

    name = "duplicates"

    def __init__(self, interpolator: Interpolator) -> None:
        """`interpolator` interpolates halfway between two images; other times are reached by repeated halving."""
        self.replaced = self.interpolated = 0
        self._interpolator = interpolator

    def start(self) -> DuplicateState:
        """The state before the first frame."""
        return DuplicateState()

    def step(self, frame: Frame, state: DuplicateState) -> tuple[list[Frame], DuplicateState]:
        """Takes a frame; returns the frames that are decided, repeat or not."""
        last, state.reduced = state.reduced, _reduced(frame.image)
        if state.shown is None or last is None or frame.starts_scene:
            ready = [*state.release(state.waiting), frame]
            state.past.append(MOTION)
            state.shown, state.motion, state.waiting = frame, None, []
            return ready, state
        state.waiting.append(_Step(frame, last, state.reduced, *_change(last, state.reduced)))
        ready = []
        while state.waiting:
            *repeats, newest = state.waiting
            if state.motion is not None and self._are_repeats(repeats, state.motion, newest, state):
                ready += self._filled(state.shown, repeats, newest.frame, state)
                state.shown, state.motion, state.waiting = newest.frame, newest, []
            elif state.motion is not None and len(state.waiting) <= MAX_RUN and _may_repeat(newest, state.motion):
                break
            else:
                state.motion = state.waiting.pop(0)
                state.shown = state.motion.frame
                ready += state.release([state.motion])
        return ready, state

    def flush(self, state: DuplicateState) -> list[Frame]:
        """Returns the frames still waiting, unchanged."""
        return state.release(state.waiting)

    def save(self, state: DuplicateState) -> tuple[DuplicateState, int]:
        """The state, and the number of images replaced so far."""
        return state, self.replaced

    def restore(self, saved: tuple[DuplicateState, int]) -> DuplicateState:
        """The state; also sets `replaced`."""
        state, self.replaced = saved
        return state

    def _are_repeats(self, steps: list[_Step], before: _Step, after: _Step, state: DuplicateState) -> bool:
        """Whether the image is static in `steps` where it moves both in the step before and in the step after."""
        least, most = sorted((before.strength, after.strength))
        moving = torch.minimum(before.blocks, after.blocks)
        weight = float(moving.square().sum())
        if not steps or least < MIN_BALANCE * most or weight <= MIN_MOTION**2 * float(moving.sum()):
            return False
        there = (sum(float((step.blocks * moving).sum()) for step in steps) / len(steps) / weight) ** 0.5
        anywhere = max(step.strength for step in steps) / least
        if there >= STILL_WHEN_DUE or anywhere >= STILL_ANYWHERE_WHEN_DUE:
            return False
        _, across = _change(before.start, after.end)
        if there < STILL and anywhere < STILL_ANYWHERE and across >= MIN_PROGRESS * least:
            return True
        for step in steps:
            step.verdict = LIKELY
        return all(state.is_due(index) for index in range(len(steps)))

    def _filled(self, before: Frame, repeats: list[_Step], after: Frame, state: DuplicateState) -> list[Frame]:
        """The frames of `repeats` with interpolated images, and the frame after them."""
        filled = []
        known = {Fraction(0): before.image, Fraction(1): after.image}
        for frame in (step.frame for step in repeats):
            time = Fraction(frame.pts - before.pts, after.pts - before.pts)
            nearest = Fraction(min(max(round(time * TIME_STEPS), 1), TIME_STEPS - 1), TIME_STEPS)
            state.past.append(REPEAT)
            self.replaced += 1
            filled.append(frame.with_image(self._at(nearest, known)))
        state.past.append(MOTION)
        return [*filled, after]

    def _at(self, time: Fraction, known: dict[Fraction, Tensor]) -> Tensor:
        """The image at `time`, 0..1, between the two, by repeated halving; stores intermediate images in `known`."""
        if time not in known:
            half = Fraction(1, time.denominator)
            known[time] = self._interpolate(self._at(time - half, known), self._at(time + half, known))
        return known[time]

    def _interpolate(self, before: Tensor, after: Tensor) -> Tensor:
        self.interpolated += 1
        engine = self._interpolator
        state = engine.init_state(*before.shape[-2:])
        first, state = engine.step(Frame(before, 0, Fraction(1), 1, starts_scene=True), state)
        second, state = engine.step(Frame(after, 1, Fraction(1), 1), state)
        _, interpolated, _ = [*first, *second, *engine.flush(state)]
        return interpolated.image


def _reduced(image: Tensor) -> Tensor:
    """A small gray copy on the CPU, 1 x H x W in 0..255."""
    return reduce_image(image.float().mean(0, keepdim=True), DETECTOR_PIXELS).mul(255.0).cpu()


def _change(before: Tensor, after: Tensor) -> tuple[Tensor, float]:
    """Mean square change per block, and root mean square over the most changed 2 % of the blocks."""
    blocks = avg_pool2d((after - before).square(), BLOCK, ceil_mode=True).flatten()
    most = blocks.topk(max(1, blocks.numel() // 50)).values
    return blocks, float(most.mean()) ** 0.5


def _may_repeat(step: _Step, motion: _Step) -> bool:
    """False if the step cannot be a repeat, whatever follows."""
    return step.strength < STILL_ANYWHERE_WHEN_DUE * motion.strength
