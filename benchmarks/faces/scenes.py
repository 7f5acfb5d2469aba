"""Scenes in which it is known where each face is: clips side by side, heads that cross, clips pasted into large films.

Nothing is resampled where a face is to be compared: clips are pasted pixel by pixel and move by whole pixels. No files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
Mask = NDArray[np.float32]


def to_and_fro(count: int, length: int) -> list[int]:
    """Numbers of frames of a clip of this length, played forwards and backwards: no jump however many are taken."""
    period = max(1, 2 * length - 2)
    return [min(index % period, period - index % period) for index in range(count)]


def side_by_side(clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Clips of one size, N x H x W x 3, in a row, as long as the longest; the others are played to and fro."""
    count = max(len(clip) for clip in clips)
    return np.concatenate([clip[to_and_fro(count, len(clip))] for clip in clips], axis=2)


def soft_border(height: int, width: int, border: int) -> Mask:
    """H x W x 1: 1 inside, falling evenly to 0 beyond the edge over this many pixels."""
    rows, columns = (np.minimum(np.arange(side), np.arange(side)[::-1]) + 1.0 for side in (height, width))
    nearest = np.minimum(rows[:, None], columns[None])
    return np.minimum(1.0, nearest / (border + 1)).astype(np.float32)[..., None]


def soft_ellipse(height: int, width: int) -> Mask:
    """H x W x 1: a head cut out, 1 inside the largest ellipse, with an edge of about two pixels."""
    y, x = np.mgrid[0:height, 0:width]
    radius = np.hypot((x + 0.5) / width * 2 - 1, (y + 0.5) / height * 2 - 1)
    return np.clip((1 - radius) * min(height, width) / 4, 0, 1).astype(np.float32)[..., None]


def paste(canvas: Picture, picture: Picture, mask: Mask, left: int, top: int) -> None:
    """Puts a picture into the canvas where the mask says, its corner there; what lies outside is cut off."""
    height, width = canvas.shape[:2]
    rows = slice(max(0, top), min(height, top + picture.shape[0]))
    columns = slice(max(0, left), min(width, left + picture.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    part = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    under, share = canvas[rows, columns].astype(np.float32), mask[part]
    canvas[rows, columns] = np.rint(under + share * (picture[part] - under)).astype(np.uint8)


def enlarged(clip: NDArray[np.uint8], width: int, height: int, count: int) -> Iterator[Picture]:
    """A clip as a background of this size and length: its middle, enlarged smoothly, played to and fro."""
    tall, wide = clip.shape[1:3]
    shown = min(wide, tall * width // height), min(tall, wide * height // width)
    left, top = (wide - shown[0]) // 2, (tall - shown[1]) // 2
    for index in to_and_fro(count, len(clip)):
        part = np.ascontiguousarray(clip[index, top : top + shown[1], left : left + shown[0]])
        yield np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@dataclass(frozen=True)
class Insert:
    """A clip in a scene: its name, its left upper corner in the first frame, and its way in whole pixels a frame."""

    clip: str
    left: int
    top: int
    step: tuple[int, int] = (0, 0)

    def corner(self, index: int) -> tuple[int, int]:
        """Left and top in a frame."""
        return self.left + index * self.step[0], self.top + index * self.step[1]


@dataclass(frozen=True)
class Scene:
    """A large film: the clip behind, and those pasted into it."""

    name: str
    background: str
    inserts: tuple[Insert, ...]


def compose(
    background: Iterator[Picture], clips: Sequence[NDArray[np.uint8]], inserts: Sequence[Insert], border: int
) -> Iterator[Picture]:
    """The frames of a scene: each clip (N x H x W x 3, in the order of the inserts) in its place, to and fro.

    Further in than `border` pixels from its edge a clip is exactly itself.
    """
    masks = [soft_border(*clip.shape[1:3], border) for clip in clips]
    for index, canvas in enumerate(background):
        picture = canvas.copy()
        for clip, insert, mask in zip(clips, inserts, masks, strict=True):
            frame = to_and_fro(index + 1, len(clip))[index]
            paste(picture, clip[frame], mask, *insert.corner(index))
        yield picture


@dataclass(frozen=True)
class Walker:
    """A head that crosses a scene on a straight line: pictures and the face's box in each, and its way in pixels."""

    pictures: list[Picture]
    boxes: NDArray[np.float64]
    start: tuple[float, float]
    end: tuple[float, float]

    def corner(self, index: int, count: int) -> tuple[int, int]:
        """Left and top of the picture in a frame of so many; the middles of start and end are given."""
        share = index / max(1, count - 1)
        x, y = (a + share * (b - a) for a, b in zip(self.start, self.end, strict=True))
        height, width = self.pictures[0].shape[:2]
        return round(x - width / 2), round(y - height / 2)


def walk(background: Sequence[Picture], walkers: Sequence[Walker]) -> Iterator[tuple[Picture, NDArray[np.float64]]]:
    """The frames, and the true boxes in them, one row for each walker; later walkers pass in front."""
    masks = [soft_ellipse(*walker.pictures[0].shape[:2]) for walker in walkers]
    for index, canvas in enumerate(background):
        picture, truth = canvas.copy(), []
        for walker, mask in zip(walkers, masks, strict=True):
            frame = to_and_fro(index + 1, len(walker.pictures))[index]
            left, top = walker.corner(index, len(background))
            paste(picture, walker.pictures[frame], mask, left, top)
            truth.append(walker.boxes[frame] + (left, top, 0, 0))
        yield picture, np.array(truth)
