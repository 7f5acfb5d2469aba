"""Training pictures for the face detector: people from clips and photographs put into other pictures, at any size.

As mosaic training (YOLOv4, Bochkovskiy et al., 2020, section 3.3) and pasted faces do: few sources become many scenes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.errors import InputError
from vidsr.train.dataset import cached_frames
from vidsr.train.detector.augment import REDUCTIONS, Move, Picture, spoil, visible_shares, warp, window_of
from vidsr.train.detector.labels import Faces, Scene
from vidsr.train.detector.recipe import DetectorDataConfig

# Of a face that is hidden or outside by more than the first share nothing is asked; beyond the second it is gone.
_DOUBT, _GONE = 0.4, 0.8


@dataclass(frozen=True, slots=True)
class Pools:
    """Scenes by what they are good for, each in groups of one source: people to show, and backgrounds."""

    people: list[list[Scene]]
    stills: list[list[Scene]]
    backgrounds: list[list[Scene]]

    @classmethod
    def of(cls, scenes: list[Scene]) -> Pools:
        """Raises InputError if there are no people or no backgrounds."""
        groups: dict[str, dict[str, list[Scene]]] = {"people": {}, "stills": {}, "backgrounds": {}}
        for scene in scenes:
            kinds = {"faces": "people", "face_still": "stills"}
            kind = kinds.get(scene.item.kind, "backgrounds")
            if kind == "backgrounds" or scene.faces.is_sure.any():
                groups[kind].setdefault(scene.item.source, []).append(scene)
        pools = cls(*([groups[kind][source] for source in sorted(groups[kind])] for kind in groups))
        if not (pools.people or pools.stills) or not pools.backgrounds:
            raise InputError("a face detector needs pictures with labelled faces and pictures of other things")
        return pools


class SceneMaker:
    """Makes pictures, size x size x 3 BGR, and their faces. Each is a function of the generator alone."""

    def __init__(self, data: DetectorDataConfig, pools: Pools, cache: Path) -> None:
        self._data, self._pools, self._cache = data, pools, cache
        self._frames: dict[Path, NDArray[np.uint8]] = {}  # mapped files: opening one costs a tenth of a picture

    def make(self, size: int, generator: np.random.Generator) -> tuple[Picture, Faces]:
        """A spoilt picture; faces below the least side, or hardly to be seen, are not sure."""
        canvas, faces = self._background(size, generator)
        if generator.random() < self._data.share_clutter:
            faces = _clutter(canvas, faces, generator)
        if generator.random() >= self._data.share_background:
            canvas, faces = self._populate(canvas, faces, generator)
        if generator.random() < self._data.share_occluded:
            faces = _occlude(canvas, faces, generator)
        if generator.random() < self._data.share_margin:  # a detector's input is filled up to the right and below
            free = generator.integers(0, size // 3, 2)
            hidden = np.zeros((size, size), np.float32)
            hidden[size - free[0] :] = hidden[:, size - free[1] :] = 1
            canvas[hidden > 0] = 0
            faces = _covered(faces, hidden)
        sides = faces.sides[faces.is_sure]
        canvas = spoil(
            np.asarray(cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), np.uint8), float(sides.min(initial=size)), generator
        )
        return canvas, faces.doubted(faces.sides < self._data.least_side)

    def _picture(self, scene: Scene) -> Picture:
        """H x W x 3 RGB."""
        path = scene.item.path
        if path not in self._frames:
            self._frames[path] = cached_frames(scene.item, self._cache)
        picture: Picture = self._frames[path][scene.frame]
        return picture

    def _pick(self, generator: np.random.Generator) -> Scene:
        is_still = generator.random() < self._data.share_stills or not self._pools.people
        return _draw(self._pools.stills if is_still and self._pools.stills else self._pools.people, generator)

    def _background(self, size: int, generator: np.random.Generator) -> tuple[Picture, Faces]:
        """A part of another picture at a random scale, with the faces that are in it."""
        scene = _draw(self._pools.backgrounds, generator)
        picture = self._picture(scene)
        height, width = picture.shape[:2]
        least = size / min(height, width)  # fills the canvas
        scale = max(least, 0.3) * float(np.exp(generator.uniform(0, np.log(max(1.05, 2.5 / max(least, 0.3))))))
        reach = size / 2 / scale
        source = (
            generator.uniform(reach, max(reach, width - reach)),
            generator.uniform(reach, max(reach, height - reach)),
        )
        angle = generator.normal(0, 0.08)
        move = Move(source, (size / 2, size / 2), scale, angle, bool(generator.random() < 0.5))
        canvas = warp(picture, move, (0, 0, size, size), _reduction(generator))
        return canvas, _seen(move.faces(scene.faces), size)

    def _populate(self, canvas: Picture, faces: Faces, generator: np.random.Generator) -> tuple[Picture, Faces]:
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
            scene = self._pick(generator)
            canvas, faces = _lay(canvas, faces, scene, self._picture(scene), float(side), self._data, generator)
        return canvas, faces


def _lay(
    canvas: Picture, faces: Faces, scene: Scene, picture: Picture, side: float, data: DetectorDataConfig,
    generator: np.random.Generator,
) -> tuple[Picture, Faces]:  # fmt: skip
    """Puts a picture with a face of this side on the canvas, whole or the head alone with a soft border."""
    size = len(canvas)
    shown = generator.choice(np.flatnonzero(scene.faces.is_sure))
    box = scene.faces.boxes[shown]
    limit = np.deg2rad(data.largest_angle)
    angle = float(np.clip(generator.normal(0, limit / 2), -limit, limit))
    edge = min(0.5, 0.35 * side / size)
    target = generator.uniform(size * edge, size * (1 - edge), 2)
    middle = box[:2] + box[2:] / 2
    move = Move(
        (float(middle[0]), float(middle[1])), (float(target[0]), float(target[1])),
        side / float(scene.faces.sides[shown]), angle, bool(generator.random() < 0.5),
    )  # fmt: skip
    mask = np.full(picture.shape[:2], 255, np.uint8)
    if generator.random() < data.share_cut_out:
        mask[:] = 0
        axes = (float(box[2] * generator.uniform(1.1, 2.0)), float(box[3] * generator.uniform(1.1, 1.8)))
        cv2.ellipse(mask, ((float(middle[0]), float(middle[1])), axes, 0.0), 255, -1)
        blur = max(1, int(box[2] * generator.uniform(0.02, 0.25)))
        mask = np.asarray(cv2.blur(mask, (blur, blur)), np.uint8)
    window = left, top, right, bottom = window_of(picture, move, size, size)
    if left >= right or top >= bottom:
        return canvas, faces
    layer = warp(picture, move, window, _reduction(generator), cv2.BORDER_REPLICATE).astype(np.float32)
    if generator.random() < 0.3:  # its own light
        layer = np.clip(layer * np.float32(generator.uniform(0.6, 1.3)), 0, 255)
    hidden = np.zeros((size, size), np.float32)
    hidden[top:bottom, left:right] = warp(mask, move, window).astype(np.float32) / 255
    below = canvas[top:bottom, left:right]
    below[:] = below + (layer - below) * hidden[top:bottom, left:right, None]
    own = _covered(_seen(move.faces(scene.faces), size), 1 - hidden)
    return canvas, _covered(faces, hidden).join(own)


def _seen(faces: Faces, size: int) -> Faces:
    """Those within the picture; those that are cut off are not sure."""
    hidden = 1 - visible_shares(faces, size, size)
    return faces.doubted(hidden > _DOUBT).take(hidden < _GONE)


def _covered(faces: Faces, weight: NDArray[np.float32]) -> Faces:
    """What is left of faces over which something is laid; `weight` is 1 where it hides them."""
    if not len(faces):
        return faces
    size = len(weight)
    low = np.clip(np.floor(faces.boxes[:, :2]), 0, size - 1).astype(int)
    high = np.clip(np.ceil(faces.boxes[:, :2] + faces.boxes[:, 2:]), low + 1, size).astype(int)
    hidden = np.array([weight[y0:y1, x0:x1].mean() for (x0, y0), (x1, y1) in zip(low, high, strict=True)])
    return faces.doubted(hidden > _DOUBT).take(hidden < _GONE)


def _clutter(canvas: Picture, faces: Faces, generator: np.random.Generator) -> Faces:
    """Draws what is round, framed or written, and no face: rings, discs, bars, letters."""
    size = len(canvas)
    hidden = np.zeros((size, size), np.uint8)
    for _ in range(int(generator.integers(1, 9))):
        colour = tuple(int(value) for value in generator.integers(0, 256, 3))
        place = (int(generator.integers(size)), int(generator.integers(size)))
        side = float(np.exp(generator.uniform(np.log(8), np.log(size / 2))))
        axes, angle = (side, side * float(generator.uniform(0.6, 1.4))), float(generator.uniform(0, 180))
        line = max(1, int(side * generator.uniform(0.03, 0.25)))
        kind = generator.random()
        for target, paint in ((canvas, colour), (hidden, 1)):
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
    return _covered(faces, hidden.astype(np.float32))


def _occlude(canvas: Picture, faces: Faces, generator: np.random.Generator) -> Faces:
    """Lays a patch of one colour, or of the picture itself, on the edge of some faces."""
    size = len(canvas)
    hidden = np.zeros((size, size), np.float32)
    for row in np.flatnonzero(faces.is_sure):
        box = faces.boxes[row]
        if generator.random() < 0.5 or faces.sides[row] < 16:
            continue
        length = box[2:] * generator.uniform(0.2, 0.6, 2)
        middle = box[:2] + box[2:] * generator.uniform(0, 1, 2)
        x0, y0 = np.clip(np.rint(middle - length / 2), 0, size).astype(int)
        x1, y1 = np.clip(np.rint(middle + length / 2), 0, size).astype(int)
        if x1 <= x0 or y1 <= y0:
            continue
        x, y = generator.integers(0, size - (x1 - x0) + 1), generator.integers(0, size - (y1 - y0) + 1)
        patch = canvas[y : y + y1 - y0, x : x + x1 - x0].copy()
        canvas[y0:y1, x0:x1] = patch if generator.random() < 0.4 else generator.integers(0, 256, 3)
        hidden[y0:y1, x0:x1] = 1
    return _covered(faces, hidden)


def _draw(groups: list[list[Scene]], generator: np.random.Generator) -> Scene:
    group = groups[generator.integers(len(groups))]
    return group[generator.integers(len(group))]


def _reduction(generator: np.random.Generator) -> int:
    return int(REDUCTIONS[generator.integers(len(REDUCTIONS))])
