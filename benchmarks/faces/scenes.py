"""Scenes with known face positions: clips side by side, crossing heads, and clips pasted into large videos.

Faces that are compared are not resampled: clips are pasted pixel by pixel and move by whole pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Mask = NDArray[np.float32]


def to_and_fro(count: int, length: int) -> list[int]:
    """Frame numbers of a clip of this length, played forward and backward without a jump, `count` of them."""
    period = max(1, 2 * length - 2)
    return [min(index % period, period - index % period) for index in range(count)]


def side_by_side(clips: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Clips of one size, N x H x W x 3, side by side, as long as the longest; the others play forward and backward."""
    count = max(len(clip) for clip in clips)
    return np.concatenate([clip[to_and_fro(count, len(clip))] for clip in clips], axis=2)


def soft_border(height: int, width: int, border: int) -> Mask:
    """H x W x 1: 1 inside, falling evenly to 0 beyond the edge over this many pixels."""
    rows, columns = (np.minimum(np.arange(side), np.arange(side)[::-1]) + 1.0 for side in (height, width))
    nearest = np.minimum(rows[:, None], columns[None])
    return np.minimum(1.0, nearest / (border + 1)).astype(np.float32)[..., None]


def soft_ellipse(height: int, width: int) -> Mask:
    """H x W x 1: 1 inside the largest ellipse, with a soft edge of about two pixels, to cut out a head."""
    y, x = np.mgrid[0:height, 0:width]
    radius = np.hypot((x + 0.5) / width * 2 - 1, (y + 0.5) / height * 2 - 1)
    return np.clip((1 - radius) * min(height, width) / 4, 0, 1).astype(np.float32)[..., None]


def paste(canvas: Image, image: Image, mask: Mask, left: int, top: int) -> None:
    """Blends an image into the canvas by `mask`, its corner at (left, top); parts outside the canvas are cut off."""
    height, width = canvas.shape[:2]
    rows = slice(max(0, top), min(height, top + image.shape[0]))
    columns = slice(max(0, left), min(width, left + image.shape[1]))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    part = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
    under, share = canvas[rows, columns].astype(np.float32), mask[part]
    canvas[rows, columns] = np.rint(under + share * (image[part] - under)).astype(np.uint8)


def enlarged(clip: NDArray[np.uint8], width: int, height: int, count: int) -> Iterator[Image]:
    """A clip as a background of this size and length: its center, enlarged by bicubic, played forward and backward."""
    tall, wide = clip.shape[1:3]
    shown = min(wide, tall * width // height), min(tall, wide * height // width)
    left, top = (wide - shown[0]) // 2, (tall - shown[1]) // 2
    for index in to_and_fro(count, len(clip)):
        part = np.ascontiguousarray(clip[index, top : top + shown[1], left : left + shown[0]])
        yield np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


@dataclass(frozen=True)
class Insert:
    """A clip in a scene: name, upper left corner in the first frame, and motion in whole pixels per frame."""

    clip: str
    left: int
    top: int
    step: tuple[int, int] = (0, 0)

    def corner(self, index: int) -> tuple[int, int]:
        """Left and top in a frame."""
        return self.left + index * self.step[0], self.top + index * self.step[1]


@dataclass(frozen=True)
class Scene:
    """A large video: the background clip, and the clips pasted into it."""

    name: str
    background: str
    inserts: tuple[Insert, ...]


def compose(
    background: Iterator[Image], clips: Sequence[NDArray[np.uint8]], inserts: Sequence[Insert], border: int
) -> Iterator[Image]:
    """The frames of a scene, with each clip (N x H x W x 3, in the order of the inserts) played forward and backward.

    Beyond `border` pixels from its edge, the pixels of a clip are unchanged.
    """
    masks = [soft_border(*clip.shape[1:3], border) for clip in clips]
    for index, canvas in enumerate(background):
        image = canvas.copy()
        for clip, insert, mask in zip(clips, inserts, masks, strict=True):
            frame = to_and_fro(index + 1, len(clip))[index]
            paste(image, clip[frame], mask, *insert.corner(index))
        yield image


@dataclass(frozen=True)
class Walker:
    """A head that crosses a scene in a straight line: its images, the face's box in each, and its path in pixels."""

    images: list[Image]
    boxes: NDArray[np.float64]
    start: tuple[float, float]
    end: tuple[float, float]

    def corner(self, index: int, count: int) -> tuple[int, int]:
        """Left and top of the image in frame `index` of `count`; `start` and `end` are positions of its center."""
        share = index / max(1, count - 1)
        x, y = (a + share * (b - a) for a, b in zip(self.start, self.end, strict=True))
        height, width = self.images[0].shape[:2]
        return round(x - width / 2), round(y - height / 2)


def walk(background: Sequence[Image], walkers: Sequence[Walker]) -> Iterator[tuple[Image, NDArray[np.float64]]]:
    """The frames, and the true boxes in them, one row for each walker; later walkers pass in front."""
    masks = [soft_ellipse(*walker.images[0].shape[:2]) for walker in walkers]
    for index, canvas in enumerate(background):
        image, truth = canvas.copy(), []
        for walker, mask in zip(walkers, masks, strict=True):
            frame = to_and_fro(index + 1, len(walker.images))[index]
            left, top = walker.corner(index, len(background))
            paste(image, walker.images[frame], mask, left, top)
            truth.append(walker.boxes[frame] + (left, top, 0, 0))
        yield image, np.array(truth)
