"""Composes training images for the face detector: people from clips and photographs pasted into other images.

Like mosaic training (YOLOv4, Bochkovskiy et al., 2020, section 3.3) and copy-paste, this makes many images of few
sources.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.errors import InputError
from vidsr.train.dataset import cached_frames
from vidsr.train.detector.augment import (
    REDUCTIONS,
    Image,
    SimilarityTransform,
    bounds_of,
    degrade,
    visible_fractions,
    warp,
)
from vidsr.train.detector.labels import Faces, LabeledImage
from vidsr.train.detector.recipe import DetectorDataConfig

# Hidden fraction of a face above which it is ignored in the loss, and above which it is removed.
_MAX_HIDDEN, _GONE = 0.4, 0.8


@dataclass(frozen=True, slots=True)
class Pools:
    """Labeled images by use, in groups of one source: people from clips, people from photographs, and backgrounds."""

    people: list[list[LabeledImage]]
    stills: list[list[LabeledImage]]
    backgrounds: list[list[LabeledImage]]

    @classmethod
    def of(cls, samples: list[LabeledImage]) -> Pools:
        """Raises InputError if there are no people or no backgrounds."""
        groups: dict[str, dict[str, list[LabeledImage]]] = {"people": {}, "stills": {}, "backgrounds": {}}
        for sample in samples:
            kinds = {"faces": "people", "face_still": "stills"}
            kind = kinds.get(sample.item.kind, "backgrounds")
            if kind == "backgrounds" or sample.faces.is_sure.any():
                groups[kind].setdefault(sample.item.source, []).append(sample)
        pools = cls(*([groups[kind][source] for source in sorted(groups[kind])] for kind in groups))
        if not (pools.people or pools.stills) or not pools.backgrounds:
            raise InputError(
                "a face detector needs images with labeled faces and background images: add what is missing"
            )
        return pools


class SampleComposer:
    """Composes images, size x size x 3 BGR, with their faces. The result depends on the generator alone."""

    def __init__(self, data: DetectorDataConfig, pools: Pools, cache: Path) -> None:
        self._data, self._pools, self._cache = data, pools, cache
        # Memory-mapped files: opening one takes a tenth of the time of an image.
        self._frames: dict[Path, NDArray[np.uint8]] = {}

    def make(self, size: int, generator: np.random.Generator) -> tuple[Image, Faces]:
        """Composes and degrades an image. Faces below `least_side` or too much hidden are marked as not sure."""
        canvas, faces = self._background(size, generator)
        if generator.random() < self._data.share_clutter:
            faces = _clutter(canvas, faces, generator)
        if generator.random() >= self._data.share_background:
            canvas, faces = self._populate(canvas, faces, generator)
        if generator.random() < self._data.share_occluded:
            faces = _occlude(canvas, faces, generator)
        if generator.random() < self._data.share_margin:  # a detector's input is padded on the right and below
            free = generator.integers(0, size // 3, 2)
            hidden = np.zeros((size, size), np.float32)
            hidden[size - free[0] :] = hidden[:, size - free[1] :] = 1
            canvas[hidden > 0] = 0
            faces = _occluded(faces, hidden)
        sides = faces.sides[faces.is_sure]
        canvas = degrade(
            np.asarray(cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), np.uint8), float(sides.min(initial=size)), generator
        )
        return canvas, faces.doubted(faces.sides < self._data.least_side)

    def _image(self, sample: LabeledImage) -> Image:
        """H x W x 3 RGB."""
        path = sample.item.path
        if path not in self._frames:
            self._frames[path] = cached_frames(sample.item, self._cache)
        image: Image = self._frames[path][sample.frame]
        return image

    def _pick(self, generator: np.random.Generator) -> LabeledImage:
        is_still = generator.random() < self._data.share_stills or not self._pools.people
        return _draw(self._pools.stills if is_still and self._pools.stills else self._pools.people, generator)

    def _background(self, size: int, generator: np.random.Generator) -> tuple[Image, Faces]:
        """A part of another image at a random scale, with its faces."""
        sample = _draw(self._pools.backgrounds, generator)
        image = self._image(sample)
        height, width = image.shape[:2]
        min_scale = size / min(height, width)  # fills the canvas
        scale = max(min_scale, 0.3) * float(np.exp(generator.uniform(0, np.log(max(1.05, 2.5 / max(min_scale, 0.3))))))
        reach = size / 2 / scale
        source = (
            generator.uniform(reach, max(reach, width - reach)),
            generator.uniform(reach, max(reach, height - reach)),
        )
        angle = generator.normal(0, 0.08)
        transform = SimilarityTransform(source, (size / 2, size / 2), scale, angle, bool(generator.random() < 0.5))
        canvas = warp(image, transform, (0, 0, size, size), _reduction(generator))
        return canvas, _inside(transform.faces(sample.faces), size)

    def _populate(self, canvas: Image, faces: Faces, generator: np.random.Generator) -> tuple[Image, Faces]:
        """One person of any size, or several small ones."""
        size = len(canvas)
        low, high = np.log(self._data.least_side), np.log(size * self._data.largest_share)
        if generator.random() < self._data.share_single:
            sides = np.exp(generator.uniform(low, high, 1))
        else:
            largest = np.log(size / 4)
            sides = np.exp(generator.uniform(low, largest) + generator.normal(0, 0.35, generator.integers(2, 9)))
            sides = np.sort(np.clip(sides, self._data.least_side, size / 3))[::-1]
        for side in sides:
            sample = self._pick(generator)
            canvas, faces = _paste(canvas, faces, sample, self._image(sample), float(side), self._data, generator)
        return canvas, faces


def _paste(
    canvas: Image, faces: Faces, sample: LabeledImage, image: Image, side: float, data: DetectorDataConfig,
    generator: np.random.Generator,
) -> tuple[Image, Faces]:  # fmt: skip
    """Pastes an image with a face of this side onto the canvas: whole, or only the head with a soft border."""
    size = len(canvas)
    shown = generator.choice(np.flatnonzero(sample.faces.is_sure))
    box = sample.faces.boxes[shown]
    limit = np.deg2rad(data.largest_angle)
    angle = float(np.clip(generator.normal(0, limit / 2), -limit, limit))
    edge = min(0.5, 0.35 * side / size)
    target = generator.uniform(size * edge, size * (1 - edge), 2)
    center = box[:2] + box[2:] / 2
    transform = SimilarityTransform(
        (float(center[0]), float(center[1])), (float(target[0]), float(target[1])),
        side / float(sample.faces.sides[shown]), angle, bool(generator.random() < 0.5),
    )  # fmt: skip
    mask = np.full(image.shape[:2], 255, np.uint8)
    if generator.random() < data.share_cut_out:
        mask[:] = 0
        axes = (float(box[2] * generator.uniform(1.1, 2.0)), float(box[3] * generator.uniform(1.1, 1.8)))
        cv2.ellipse(mask, ((float(center[0]), float(center[1])), axes, 0.0), 255, -1)
        blur = max(1, int(box[2] * generator.uniform(0.02, 0.25)))
        mask = np.asarray(cv2.blur(mask, (blur, blur)), np.uint8)
    rect = left, top, right, bottom = bounds_of(image, transform, size, size)
    if left >= right or top >= bottom:
        return canvas, faces
    layer = warp(image, transform, rect, _reduction(generator), cv2.BORDER_REPLICATE).astype(np.float32)
    if generator.random() < 0.3:  # its own exposure
        layer = np.clip(layer * np.float32(generator.uniform(0.6, 1.3)), 0, 255)
    hidden = np.zeros((size, size), np.float32)
    hidden[top:bottom, left:right] = warp(mask, transform, rect).astype(np.float32) / 255
    below = canvas[top:bottom, left:right]
    below[:] = below + (layer - below) * hidden[top:bottom, left:right, None]
    own = _occluded(_inside(transform.faces(sample.faces), size), 1 - hidden)
    return canvas, _occluded(faces, hidden).join(own)


def _inside(faces: Faces, size: int) -> Faces:
    """The faces inside the image; those that are cut off are marked as not sure."""
    hidden = 1 - visible_fractions(faces, size, size)
    return faces.doubted(hidden > _MAX_HIDDEN).take(hidden < _GONE)


def _occluded(faces: Faces, weight: NDArray[np.float32]) -> Faces:
    """The faces that remain after something was drawn over them; `weight` is 1 where it hides them."""
    if not len(faces):
        return faces
    size = len(weight)
    low = np.clip(np.floor(faces.boxes[:, :2]), 0, size - 1).astype(int)
    high = np.clip(np.ceil(faces.boxes[:, :2] + faces.boxes[:, 2:]), low + 1, size).astype(int)
    hidden = np.array([weight[y0:y1, x0:x1].mean() for (x0, y0), (x1, y1) in zip(low, high, strict=True)])
    return faces.doubted(hidden > _MAX_HIDDEN).take(hidden < _GONE)


def _clutter(canvas: Image, faces: Faces, generator: np.random.Generator) -> Faces:
    """Draws distractors that look a little like faces: rings, discs, rectangles, letters."""
    size = len(canvas)
    hidden = np.zeros((size, size), np.uint8)
    for _ in range(int(generator.integers(1, 9))):
        color = tuple(int(value) for value in generator.integers(0, 256, 3))
        place = (int(generator.integers(size)), int(generator.integers(size)))
        side = float(np.exp(generator.uniform(np.log(8), np.log(size / 2))))
        axes, angle = (side, side * float(generator.uniform(0.6, 1.4))), float(generator.uniform(0, 180))
        line = max(1, int(side * generator.uniform(0.03, 0.25)))
        kind = generator.random()
        for target, paint in ((canvas, color), (hidden, 1)):
            if kind < 0.4:
                cv2.ellipse(target, (place, axes, angle), paint, line, cv2.LINE_AA)
            elif kind < 0.6:
                cv2.ellipse(target, (place, axes, angle), paint, -1, cv2.LINE_AA)
            elif kind < 0.8:
                corners = cv2.boxPoints((place, axes, angle)).astype(np.int32)
                cv2.polylines(target, [corners], True, paint, line, cv2.LINE_AA)
            else:
                letter = chr(int(generator.integers(33, 127))) if target is canvas else ""
                cv2.putText(target, letter, place, 0, side / 24, paint, max(1, line // 2), cv2.LINE_AA)
    return _occluded(faces, hidden.astype(np.float32))


def _occlude(canvas: Image, faces: Faces, generator: np.random.Generator) -> Faces:
    """Covers parts of some faces with a patch of one color or of the image itself."""
    size = len(canvas)
    hidden = np.zeros((size, size), np.float32)
    for row in np.flatnonzero(faces.is_sure):
        box = faces.boxes[row]
        if generator.random() < 0.5 or faces.sides[row] < 16:
            continue
        length = box[2:] * generator.uniform(0.2, 0.6, 2)
        center = box[:2] + box[2:] * generator.uniform(0, 1, 2)
        x0, y0 = np.clip(np.rint(center - length / 2), 0, size).astype(int)
        x1, y1 = np.clip(np.rint(center + length / 2), 0, size).astype(int)
        if x1 <= x0 or y1 <= y0:
            continue
        x, y = generator.integers(0, size - (x1 - x0) + 1), generator.integers(0, size - (y1 - y0) + 1)
        patch = canvas[y : y + y1 - y0, x : x + x1 - x0].copy()
        canvas[y0:y1, x0:x1] = patch if generator.random() < 0.4 else generator.integers(0, 256, 3)
        hidden[y0:y1, x0:x1] = 1
    return _occluded(faces, hidden)


def _draw(groups: list[list[LabeledImage]], generator: np.random.Generator) -> LabeledImage:
    group = groups[generator.integers(len(groups))]
    return group[generator.integers(len(group))]


def _reduction(generator: np.random.Generator) -> int:
    return int(REDUCTIONS[generator.integers(len(REDUCTIONS))])
