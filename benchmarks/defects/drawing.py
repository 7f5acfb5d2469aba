"""Draws dust, hairs and scratches of known place and size onto frames, with grain; the truth is what has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.defects.clips import shape_files

Frames = list[NDArray[np.uint8]]
Mask = NDArray[np.bool_]
Shape = NDArray[np.float32]

# Damage changes a frame visibly from this many levels on; fainter edges of a defect belong to neither side.
VISIBLE = 12.0
FAINT = 3.0


@dataclass(frozen=True, slots=True)
class Damaged:
    """A film with damage: the frames, the same with grain but without damage, and the damage in levels, H x W each."""

    frames: Frames
    clean: Frames
    change: list[NDArray[np.float32]]


def read_shapes(folder: Path, held_out: bool) -> list[tuple[str, Shape]]:
    """The real shapes of a folder of PNG files with alpha, with their kinds: those held out, or the others."""
    shapes = []
    for path in shape_files(folder, held_out):
        alpha = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))[..., 3].astype(np.float32) / 255
        rows, columns = np.flatnonzero(alpha.max(1) > 0.1), np.flatnonzero(alpha.max(0) > 0.1)
        shapes.append((path.stem.split("-")[0], alpha[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]))
    return shapes


def drawn_speck(random: np.random.Generator, least: float = 2.0, largest: float = 15.0) -> Shape:
    """An irregular spot of 2 to 15 pixels across: opacity 0..1, with a soft edge."""
    diameter = float(np.exp(random.uniform(np.log(least), np.log(largest))))
    side = int(np.ceil(diameter * 2)) + 5
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    angle = np.arctan2(y, x)
    radius = np.full_like(angle, diameter / 2)
    for order in (2, 3, 5):
        radius *= 1 + random.uniform(0, 0.25) * np.cos(order * angle + random.uniform(0, 2 * np.pi))
    return np.clip(radius - np.hypot(x, y) + 0.5, 0, 1).astype(np.float32)


def drawn_hair(random: np.random.Generator) -> Shape:
    """A bent line, 1 to 2.5 pixels wide and 20 to 80 pixels long."""
    length, bend = random.uniform(20, 80), random.normal(0, 0.04)
    count = round(length)
    heading = random.uniform(0, 2 * np.pi) + np.cumsum(bend + random.normal(0, 0.06, count))
    points = np.cumsum(np.stack((np.cos(heading), np.sin(heading)), 1), 0)
    points -= points.min(0) - 4
    canvas = np.zeros((int(points[:, 1].max()) + 5, int(points[:, 0].max()) + 5), np.uint8)
    shifted = np.round(points * 16).astype(np.int32).reshape(-1, 1, 2)
    cv2.polylines(canvas, [shifted], False, 255, 1, cv2.LINE_AA, 4)
    wide = cv2.GaussianBlur(canvas.astype(np.float32) / 255, (0, 0), random.uniform(0.4, 0.9))
    return np.clip(wide * random.uniform(1.2, 2.0), 0, 1).astype(np.float32)


def real_shape(random: np.random.Generator, shapes: Sequence[tuple[str, Shape]]) -> Shape:
    """A real shape, turned and resized as film of a frame of about 270 to 480 lines shows it."""
    kind, alpha = shapes[int(random.integers(len(shapes)))]
    thin = kind in ("hair", "lint", "scratch", "sprink", "dirt", "spots")
    scale = random.uniform(0.25, 0.6) if thin else random.uniform(0.06, 0.25)
    height, width = alpha.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(0, 360), scale)
    side = int(np.hypot(height, width) * scale) + 6
    turn[:, 2] += side / 2 - np.array([width, height]) / 2
    blurred = cv2.GaussianBlur(alpha, (0, 0), 0.45 / scale)
    turned = np.asarray(cv2.warpAffine(blurred, turn, (side, side), flags=cv2.INTER_LINEAR), np.float32)
    strongest = float(turned.max())
    return np.clip(turned * (min(1.0, 1 / max(strongest, 0.2))) * (1.3 if thin else 1.0), 0, 1)


def stamp(random: np.random.Generator, change: NDArray[np.float32], frame: NDArray[np.float32], shape: Shape) -> None:
    """Draws one defect at a random place onto `frame` (H x W x 3, levels); adds its opacity to `change`, H x W."""
    height, width = frame.shape[:2]
    high, wide = shape.shape
    top, left = (
        int(random.integers(-high // 2, height - high // 2)),
        int(random.integers(-wide // 2, width - wide // 2)),
    )
    rows, columns = slice(max(0, top), min(height, top + high)), slice(max(0, left), min(width, left + wide))
    part = shape[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    opacity = part * random.uniform(0.5, 1.0)
    level = random.uniform(190, 255) if random.random() < 0.5 else random.uniform(0, 50)
    frame[rows, columns] += opacity[..., None] * (level - frame[rows, columns])
    change[rows, columns] = np.maximum(change[rows, columns], opacity)


def damaged(
    frames: Frames, random: np.random.Generator, shapes: Sequence[tuple[str, Shape]] = (), per_frame: float = 3.0
) -> Damaged:
    """A film with grain (standard deviation 2 to 6) and, in each frame, `per_frame` defects on average.

    With `shapes` these are the defects, otherwise drawn specks and, one in five, hairs.
    """
    grain = random.uniform(2, 6)
    shown, clean, changes = [], [], []
    for image in frames:
        noise = random.normal(0, grain, image.shape[:2])[..., None]
        base = image.astype(np.float32)
        frame, opacity = base.copy(), np.zeros(image.shape[:2], np.float32)
        for _ in range(int(random.poisson(per_frame))):
            if shapes:
                shape = real_shape(random, shapes)
            else:
                shape = drawn_hair(random) if random.random() < 0.2 else drawn_speck(random)
            stamp(random, opacity, frame, shape)
        shown.append(levels(frame + noise))
        clean.append(levels(base + noise))
        changes.append(np.abs(frame - base).mean(2).astype(np.float32))
    return Damaged(shown, clean, changes)


def levels(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Rounded to 8 bits."""
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


PARTICLES = ("snow", "rain", "sparks", "balls", "confetti")


def with_particles(frames: Frames, random: np.random.Generator, kind: str) -> Frames:
    """The frames with moving things that must not be taken for dust: each goes its way through the whole clip.

    Snow drifts, rain falls in streaks longer than a frame's step, sparks fly apart and fade, balls follow parabolas,
    confetti turns while it falls and shows its edge at times.
    """
    height, width = frames[0].shape[:2]
    count = {"snow": 120, "rain": 60, "sparks": 40, "balls": 3, "confetti": 60}[kind]
    place = random.uniform((0, -0.3 * height), (width, height), (count, 2))
    speed = {
        "snow": random.normal((1.0, 4.0), (1.5, 1.5), (count, 2)),
        "rain": random.normal((2.0, 26.0), (0.5, 4.0), (count, 2)),
        "sparks": random.normal((0.0, -5.0), (7.0, 5.0), (count, 2)),
        "balls": random.normal((0.0, -12.0), (8.0, 3.0), (count, 2)),
        "confetti": random.normal((0.0, 5.0), (3.0, 1.5), (count, 2)),
    }[kind]
    radius = random.uniform(0.8, 3.0, count) if kind != "balls" else random.uniform(5, 9, count)
    colors = random.uniform(0, 255, (count, 3)) if kind in ("confetti", "balls") else np.full((count, 3), 240.0)
    spin, phase = random.uniform(0.3, 1.2, count), random.uniform(0, 6, count)
    if kind == "sparks":
        place = np.tile([width / 2, 0.7 * height], (count, 1)) + random.normal(0, 30, (count, 2))
    shown = []
    for index, frame in enumerate(frames):
        canvas = frame.astype(np.float32)
        for number in range(count):
            (x, y), (dx, dy) = place[number], speed[number]
            size = float(radius[number])
            left, top = int(x) - 20, int(y) - 40
            rows, columns = slice(max(0, top), min(height, top + 80)), slice(max(0, left), min(width, left + 40))
            if rows.start >= rows.stop or columns.start >= columns.stop:
                continue
            opacity = np.zeros((rows.stop - rows.start, columns.stop - columns.start), np.uint8)
            center = round(16 * (x - columns.start)), round(16 * (y - rows.start))
            if kind in ("rain", "sparks"):
                tail = round(center[0] - 8 * dx), round(center[1] - 8 * dy)
                cv2.line(opacity, center, tail, 255, 1, cv2.LINE_AA, 4)
            elif kind == "confetti":
                axes = (16 * 3), max(1, round(16 * 3 * abs(np.cos(spin[number] * index + phase[number]))))
                cv2.ellipse(opacity, center, axes, 57 * phase[number], 0, 360, 255, -1, cv2.LINE_AA, 4)
            else:
                cv2.circle(opacity, center, round(16 * size), 255, -1, cv2.LINE_AA, 4)
            fade = {"sparks": max(0.0, 1 - 0.08 * index * spin[number]), "rain": 0.3}.get(kind, 0.9)
            weight = fade * opacity[..., None].astype(np.float32) / 255
            canvas[rows, columns] += weight * (colors[number].astype(np.float32) - canvas[rows, columns])
        place = place + speed
        if kind in ("balls", "sparks"):
            speed = speed + np.array([0.0, 1.2])
        place[:, 1] = np.where(place[:, 1] > height + 10, place[:, 1] - height - 20, place[:, 1])
        shown.append(levels(canvas))
    return shown
