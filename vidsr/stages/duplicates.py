"""Repeated frames (telecine, animation on twos, screen capture): short runs become the pictures in between.

Recognition and moments live here. Who makes a picture half-way between two others is handed in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from vidsr.stages.base import through
from vidsr.types import Frame

# Frames are compared at this many pixels on the long side at most, in blocks: noise and coding errors average out.
DETECTOR_PIXELS = 256
BLOCK = 8
# A picture shown for more than 1 + MAX_RUN frames is a pause that is meant: animation on fours is the slowest. Runs
# of up to 3 filled by Zooming SlowMo are 1.3 to 7.4 dB above repeats and 0.2 to 2.6 above blends; of 5, no better than
# blends where motion is fast.
MAX_RUN = 3

# Measured on 24 clips without repeats of their own (faces, fast motion, Vid4): as shot, on twos, threes and fours, 25
# in 30, 24 in 30 and 24 in 60 frames/s, in H.264 of crf 18, 23 and 28, presets veryfast and medium: 14,035 repeats and
# 17,145 other frames. Found: 98, 93 and 86 % of the repeats at crf 18, 23 and 28; where the picture visibly moves (a
# strength of 10 or more before and after) 99, 97 and 95 %. On 9 clips that no threshold was chosen by: 98, 83 and 90 %,
# where it visibly moves 99, 94 and 96 %. Wrongly taken: none of 3,243 frames of clips as shot, none of 1,603 frames of
# untouched films, 10 of the frames beside real repeats. Six films repeat by themselves (25 in 30, clay animation on
# twos, a webcam frozen by its encoder): one with a strict period shows all its 10 repeats.
#
# How much may change in a repeat, as a share of the change in the moving step before and after it: in the blocks that
# move both before and after, and in the most changed blocks anywhere. Steps that are none reach down to 0.24 in the
# one, an eye that stays closed for two frames to 0.28 in the other.
STILL, STILL_ANYWHERE = 0.22, 0.27
# From before the one step to after the other the picture changes at least this share of one of them; less is a motion
# that turns back, as of an eye that blinks or a hand that shakes, and may stand still at the turn.
MIN_PROGRESS = 0.6
# The same where the film's cadence tells that a repeat is due: coding of crf 28 changes repeats that much.
STILL_WHEN_DUE, STILL_ANYWHERE_WHEN_DUE = 0.4, 0.6
# Less motion than this is coding noise: root mean square in levels of 0..255, over the blocks that move.
MIN_MOTION = 3.0
# The steps before and after are alike up to this factor; smaller steps are a coder's late corrections of a repeat.
MIN_BALANCE = 0.25
# The longest period of a cadence, 24 in 30 frames/s seen as 5, 25 in 30 as 6; and how many periods are looked back.
MAX_CADENCE = 6
PERIODS = 3
# Pictures are made at eighths of the time between two others: a third is missed by 1/24, for two repeats in a row an
# eighth of a frame. Sixteenths would halve that, but gain 0.02 to 0.09 dB only and cost 7 pictures instead of 5.
FINEST = 8

# What is known of a step: motion, perhaps a repeat, surely a repeat.
MOTION, LIKELY, REPEAT = 0, 1, 2


class Interpolator(Protocol):
    """An engine of scale 1 and interp 2, of which no more is asked than this."""

    def init_state(self, height: int, width: int) -> Any:
        """The state before the first frame."""
        ...

    def step(self, frame: Frame, state: Any) -> tuple[list[Frame], Any]:
        """Takes a frame; gives those that are ready."""
        ...

    def flush(self, state: Any) -> list[Frame]:
        """Gives the frames still waiting."""
        ...


@dataclass(slots=True)
class _Step:
    """A frame, the small pictures of the one before and of it, and what changed: mean square per block, and `strength`.

    That is the root mean square of the most changed 2 %. Both in levels of 0..255.
    """

    frame: Frame
    start: Tensor
    end: Tensor
    blocks: Tensor
    strength: float
    verdict: int = MOTION


@dataclass(slots=True)
class DuplicateState:
    """What is known of the frames so far.

    `shown` is the last frame given out, `picture` the newest one made small, `motion` the last step that moved,
    `waiting` are the steps since, which may be repeats, `past` what was found of the steps before.
    """

    shown: Frame | None = None
    picture: Tensor | None = None
    motion: _Step | None = None
    waiting: list[_Step] = field(default_factory=list)
    past: deque[int] = field(default_factory=lambda: deque(PERIODS * MAX_CADENCE * [MOTION], PERIODS * MAX_CADENCE))

    def release(self, steps: list[_Step]) -> list[Frame]:
        """The frames of these steps as they are."""
        self.past += [step.verdict for step in steps]
        return [step.frame for step in steps]

    def is_due(self, index: int) -> bool:
        """Whether the cadence of the last steps has a repeat at this place of the run."""
        for period in range(index + 2, MAX_CADENCE + 1):
            verdicts = [self.past[index - count * period] for count in range(1, PERIODS + 1)]
            if verdicts.count(REPEAT) >= PERIODS - 1 or MOTION not in verdicts:
                return True
        return False


class Duplicates:
    """The stage that fills the runs of repeats; `replaced` counts the pictures made so far.

    The same frames come out at the same times; one that repeats the frame before gets a picture of its own moment, but
    only where 1 to MAX_RUN repeats stand between two different pictures of a scene, which takes a look-ahead of
    at most MAX_RUN + 1 frames; before a cut and at the end of the film repeats stay.
    """

    name = "duplicates"

    def __init__(self, interpolator: Interpolator) -> None:
        """`interpolator` makes a picture half-way between two others; others by halving again."""
        self.replaced = 0
        self._interpolator = interpolator

    def fill(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames of a whole video after this stage."""
        return through(self, frames)

    def start(self) -> DuplicateState:
        """No frame has been seen."""
        return DuplicateState()

    def step(self, frame: Frame, state: DuplicateState) -> tuple[list[Frame], DuplicateState]:
        """Takes a frame; gives those of which is known whether they are repeats."""
        last, state.picture = state.picture, _reduced(frame.image)
        if state.shown is None or last is None or frame.starts_scene:
            ready = [*state.release(state.waiting), frame]
            state.past.append(MOTION)
            state.shown, state.motion, state.waiting = frame, None, []
            return ready, state
        state.waiting.append(_Step(frame, last, state.picture, *_change(last, state.picture)))
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
        """The frames still waiting, as they are."""
        return state.release(state.waiting)

    def _are_repeats(self, steps: list[_Step], before: _Step, after: _Step, state: DuplicateState) -> bool:
        """Whether the picture stands still in `steps` where it moves both in the step before and in the one after."""
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
        """The frames of `repeats` with pictures of their own, and the frame after them."""
        filled = []
        known = {Fraction(0): before.image, Fraction(1): after.image}
        for frame in (step.frame for step in repeats):
            share = Fraction(frame.pts - before.pts, after.pts - before.pts)
            nearest = Fraction(min(max(round(share * FINEST), 1), FINEST - 1), FINEST)
            state.past.append(REPEAT)
            self.replaced += 1
            filled.append(frame.with_image(self._at(nearest, known)))
        state.past.append(MOTION)
        return [*filled, after]

    def _at(self, share: Fraction, known: dict[Fraction, Tensor]) -> Tensor:
        """The picture at this share of the way, by halving; the pictures on the way there are kept in `known`."""
        if share not in known:
            half = Fraction(1, share.denominator)
            known[share] = self._halfway(self._at(share - half, known), self._at(share + half, known))
        return known[share]

    def _halfway(self, before: Tensor, after: Tensor) -> Tensor:
        engine = self._interpolator
        state = engine.init_state(*before.shape[-2:])
        first, state = engine.step(Frame(before, 0, Fraction(1), 1, starts_scene=True), state)
        second, state = engine.step(Frame(after, 1, Fraction(1), 1), state)
        _, halfway, _ = [*first, *second, *engine.flush(state)]
        return halfway.image


def _reduced(image: Tensor) -> Tensor:
    """A small grey copy, 1 x H x W in 0..255 in memory, averaged over areas; never enlarged."""
    height, width = image.shape[-2:]
    factor = max(1.0, max(height, width) / DETECTOR_PIXELS)
    size = (max(1, round(height / factor)), max(1, round(width / factor)))
    return adaptive_avg_pool2d(image.float().mean(0, keepdim=True), size).mul(255.0).cpu()


def _change(before: Tensor, after: Tensor) -> tuple[Tensor, float]:
    """Mean square per block, and root mean square over the most changed 2 % of the blocks."""
    blocks = avg_pool2d((after - before).square(), BLOCK, ceil_mode=True).flatten()
    most = blocks.topk(max(1, blocks.numel() // 50)).values
    return blocks, float(most.mean()) ** 0.5


def _may_repeat(step: _Step, motion: _Step) -> bool:
    """False where no step after this one could make it a repeat."""
    return step.strength < STILL_ANYWHERE_WHEN_DUE * motion.strength
