"""Figures of the faces table, and measures inside and around a face's box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.common.clips import markdown

Array = NDArray[np.float64]
# The rim of a pasted face lies between these multiples of its box. Every mask fades out there.
RIM = 1.1, 1.5


@dataclass(frozen=True)
class Figure:
    """One measured figure, the clips, its value and text; `bar` is the target in words, `is_met` None without."""

    what: str
    on: str
    value: float
    text: str
    bar: str = ""
    is_met: bool | None = None

    def row(self) -> tuple[str, ...]:
        return self.what, self.on, self.text, self.bar, {None: "", True: "met", False: "MISSED"}[self.is_met]


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    return markdown(("what", "on", "measured", "bar", "result"), [figure.row() for figure in figures])


@dataclass(frozen=True)
class Box:
    """Whole pixels: rows `top` to `bottom`, columns `left` to `right`, the last ones not included."""

    left: int
    top: int
    right: int
    bottom: int

    @classmethod
    def around(cls, x: float, y: float, width: float, height: float, factor: float = 1.0) -> Box:
        """The box around this center with sides times `factor`, rounded to whole pixels (at least one)."""
        wide, tall = max(1, round(width * factor)), max(1, round(height * factor))
        left, top = round(x - wide / 2), round(y - tall / 2)
        return cls(left, top, left + wide, top + tall)

    def within(self, width: int, height: int) -> Box:
        """The part inside an image of this size."""
        return Box(max(0, self.left), max(0, self.top), min(width, self.right), min(height, self.bottom))

    def cut(self, image: Tensor) -> Tensor:
        """This part of an image, ... x H x W. Raises ValueError if any of it lies outside."""
        height, width = image.shape[-2:]
        if self != self.within(width, height):
            raise ValueError(f"{self} lies partly outside of {width}x{height}")
        return image[..., self.top : self.bottom, self.left : self.right]


def followed(boxes: Array, factor: float = 1.0, reach: int = 4) -> list[Box]:
    """Boxes of one size that follow a face through N frames: `boxes` N x 4 (left, top, width, height).

    The size is the median; the center is the mean over `reach` frames on both sides, so that the detector's jitter does
    not move the compared part.
    """
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    width, height = np.median(boxes[:, 2:], axis=0)
    result = []
    for index in range(len(boxes)):
        x, y = middles[max(0, index - reach) : index + reach + 1].mean(0)
        result.append(Box.around(x, y, width, height, factor))
    return result


class BorderFlicker:
    """Change of the error in the rim of a face's box from frame to frame, in 1/255.

    The rim of a frame lies between its box times 1.1 and times 1.5. The error is result minus truth; measured is its
    mean absolute change from the frame before at the same pixels, over the rim of the later frame.
    """

    def __init__(self) -> None:
        self._before: Tensor | None = None
        self._sum = 0.0
        self._count = 0

    def step(self, truth: Tensor, result: Tensor, box: Box) -> None:
        """Takes the next frame of both, 3 x H x W, uint8, and the face's box there."""
        error = result.float() - truth.float()
        before, self._before = self._before, error
        if before is None:
            return
        change = (error - before).abs()
        outer, inner = (sized(box, factor).within(truth.shape[2], truth.shape[1]) for factor in reversed(RIM))
        rim, hole = outer.cut(change), inner.cut(change)
        self._sum += float(rim.double().sum() - hole.double().sum())
        self._count += rim.numel() - hole.numel()

    def flush(self) -> float:
        """The mean over all frames and faces so far."""
        return self._sum / self._count if self._count else float("nan")

    def next_clip(self) -> None:
        """Begins another face, whose first frame has no frame before it."""
        self._before = None


def sized(box: Box, factor: float) -> Box:
    """The box with its sides multiplied, around the same center."""
    middle = (box.left + box.right) / 2, (box.top + box.bottom) / 2
    return Box.around(*middle, box.right - box.left, box.bottom - box.top, factor)


def switches(identities: Sequence[Sequence[tuple[int, int]]]) -> int:
    """Counts identity switches. `identities` holds, for each frame, pairs of true person and track number.

    A switch is a person who gets another number than before, or a number that passes from one person to another.
    """
    number_of: dict[int, int] = {}
    person_of: dict[int, int] = {}
    count = 0
    for frame in identities:
        for person, number in frame:
            had, was = number_of.get(person, number), person_of.get(number, person)
            count += had != number or was != person
            number_of[person], person_of[number] = number, person
    return count
