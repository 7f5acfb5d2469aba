"""Draws scanned test pages: halftoned tints with mottle and streaks, and spots of known place and contrast."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.defects import page as p

# Twelve tints, sRGB in 0..1, as a printer's test pages have them.
TINTS = (
    (0.0, 0.63, 0.89), (0.89, 0.0, 0.49), (0.93, 0.11, 0.14), (0.0, 0.6, 0.3), (0.18, 0.19, 0.57), (0.98, 0.85, 0.1),
    (0.5, 0.5, 0.5), (0.75, 0.75, 0.75), (0.3, 0.3, 0.3), (0.55, 0.8, 0.92), (0.95, 0.6, 0.76), (0.65, 0.5, 0.35),
)  # fmt: skip
# A spot is visible, and so a defect, if its color differs from the tint by at least this Delta E after descreening.
VISIBLE = 2.5
# Its area in square millimeters, as on the example page of the text.
LEAST_AREA, LARGEST_AREA = 0.08, 1.24


@dataclass(frozen=True, slots=True)
class Page:
    """A page of one tint, H x W x 3, and its visible spots: H x W, 0 outside, else 1."""

    rgb: NDArray[np.uint8]
    truth: NDArray[np.uint8]


def drawn_page(random: np.random.Generator, side: int = 750) -> Page:
    """A tint with 0 to 5 spots; half of the tints also have streaks or unevenness that no viewer calls a spot."""
    tint = np.array(TINTS[int(random.integers(len(TINTS)))])
    image = np.broadcast_to(tint, (side, side, 3)).astype(np.float64)
    image = image + _mottle(random, side)[..., None]
    if random.random() < 0.7:
        image = image + _streaks(random, side)[..., None]
    clean = image.copy()
    truth = np.zeros((side, side), np.uint8)
    for _ in range(int(random.integers(0, 6))):
        shape = _spot(random, side)
        target = np.ones(3) if random.random() < 0.7 else 0.35 * tint
        image += (random.uniform(0.02, 0.5) * shape)[..., None] * (target - image)
    lab = [p.to_lab(p.descreen(np.round(255 * np.clip(each, 0, 1)).astype(np.uint8))) for each in (clean, image)]
    changed = np.sqrt(np.square(lab[1] - lab[0]).sum(-1))
    count, labels, _, _ = cv2.connectedComponentsWithStats((changed > 0.5 * VISIBLE).astype(np.uint8))
    for index in range(1, count):
        if changed[labels == index].max() >= VISIBLE:
            truth[labels == index] = 1
    screened = image * (1 + _halftone(random, side)[..., None]) + random.normal(0, 0.015, (side, side, 1))
    return Page(np.clip(np.round(255 * screened), 0, 255).astype(np.uint8), truth)


def blocks(random: np.random.Generator, pages: int) -> Iterator[tuple[Page, list[p.BlockSample], list[bool], int, int]]:
    """For each page: its candidate blocks, which of them have a defect, and how many blocks have one, found or not."""
    for _ in range(pages):
        drawn = drawn_page(random)
        lab = p.to_lab(p.descreen(drawn.rgb))
        samples, examined = p.candidate_blocks(lab, np.ones(lab.shape[:2], bool))
        side = p.block_side()
        marked = sum(_is_marked(drawn, top, left, side) for grid in p.grids(*lab.shape[:2]) for top, left in grid)
        yield drawn, samples, [_is_marked(drawn, each.top, each.left, side) for each in samples], marked, examined


def _is_marked(page: Page, top: int, left: int, side: int) -> bool:
    """Whether a block has a visible defect: at least 30 pixels of one."""
    return int(page.truth[top : top + side, left : left + side].sum()) >= 30


def _mottle(random: np.random.Generator, side: int) -> NDArray[Any]:
    rough = random.normal(0, 1, (side // 12, side // 12))
    smooth = cv2.resize(rough, (side, side), interpolation=cv2.INTER_CUBIC)
    return random.uniform(0.002, 0.012) * smooth


def _streaks(random: np.random.Generator, side: int) -> NDArray[Any]:
    """Lines and bands over the whole page, and blotches many blocks wide: none of them is local."""
    field = np.zeros((side, side))
    for _ in range(int(random.integers(1, 4))):
        field[:, int(random.integers(side)) :][:, : int(random.integers(1, 4))] += random.normal(0, 0.15)
    field[int(random.integers(side)) :] += random.normal(0, 0.03)
    blotches = cv2.resize(random.normal(0, 1, (5, 5)), (side, side), interpolation=cv2.INTER_CUBIC)
    return field + random.uniform(0, 0.03) * blotches


def _halftone(random: np.random.Generator, side: int) -> NDArray[Any]:
    """The dots of a screen with a period of about 4 pixels (150 lines an inch at 600 dpi)."""
    angle, period = random.uniform(0, np.pi / 2), random.uniform(3.4, 4.4)
    y, x = np.mgrid[:side, :side]
    u = (x * np.cos(angle) + y * np.sin(angle)) * 2 * np.pi / period
    v = (y * np.cos(angle) - x * np.sin(angle)) * 2 * np.pi / period
    return 0.15 * np.cos(u) * np.cos(v)


def _spot(random: np.random.Generator, side: int) -> NDArray[Any]:
    """An uneven round spot with a soft edge, 0..1."""
    area = np.exp(random.uniform(np.log(LEAST_AREA), np.log(LARGEST_AREA))) * (p.DPI / p.MM_PER_INCH) ** 2
    y, x = np.mgrid[:side, :side].astype(np.float64)
    y, x = y - random.uniform(20, side - 20), x - random.uniform(20, side - 20)
    angle, stretch = np.arctan2(y, x), random.uniform(1, 1.8)
    radius = np.sqrt(area / np.pi) * (1 + 0.15 * np.cos(3 * angle + random.uniform(0, 6)))
    turn = random.uniform(0, np.pi)
    along = (x * np.cos(turn) + y * np.sin(turn)) / np.sqrt(stretch)
    across = (y * np.cos(turn) - x * np.sin(turn)) * np.sqrt(stretch)
    return np.clip((radius - np.hypot(along, across)) / 3 + 0.5, 0, 1)
