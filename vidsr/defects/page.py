"""Finds light and dark spots on scanned pages of constant tints, block by block: chapter 1 of Xiang (2021).

Where the text is silent the choice is ours: the baseline of DDE is the median over the blocks of a tint, masked pixels
take no part in a block's statistics, and a block with less than half of its pixels unmasked is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.defects.blocks import axes_of_moments, valley_threshold
from vidsr.defects.tree import Tree, load_tree

Mask = NDArray[np.bool_]
Lab = NDArray[np.float32]

# Lengths of the text, in pixels of a scan with 600 dpi: the descreening filter and its deviation, block and shift.
DPI = 600.0
FILTER, SIGMA = 12, 2.0
BLOCK, SHIFT = 75, 35
# A block is a candidate if its DDE without the baseline lies between these.
LEAST_DDE, LARGEST_DDE = 0.3, 2.0
# Valley emphasis works on whole levels; a level is this many units of Delta E or L*.
LEVELS_PER_UNIT = 4.0
LEAST_SHARE = 0.5
MM_PER_INCH = 25.4
FEATURES = ("mdl", "ddl", "dde", "size", "major_axis", "minor_axis", "severity")


@dataclass(frozen=True, slots=True)
class BlockSample:
    """A candidate block: its corner, the defect's pixels in it, and the features in the order of FEATURES."""

    left: int
    top: int
    mask: Mask
    is_light: bool
    features: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Spot:
    """A defect of a page, in pixels of the scan: bounding box, center, size, axes of the equal ellipse.

    `kind` is "gray spot" if it is lighter than the page around it, else "solid spot". `severity` is the sum of color
    differences in the spot divided by that in the rest of the block.
    """

    kind: str
    left: int
    top: int
    width: int
    height: int
    x: float
    y: float
    size: int
    major_axis: float
    minor_axis: float
    severity: float


@dataclass(frozen=True, slots=True)
class PageVector:
    """The feature vector of a page, as table 1.1; sizes in square millimeters, places in millimeters from the center.

    None where a page has no defect.
    """

    defects: int
    gray_spots: int
    solid_spots: int
    mean_size: float | None
    largest_size: float | None
    least_size: float | None
    size_deviation: float | None
    mean_severity: float | None
    largest_severity: float | None
    least_severity: float | None
    mean_y: float | None
    mean_x: float | None


@dataclass(frozen=True, slots=True)
class PageDefects:
    """The spots of a page, its feature vector, and how many blocks were examined and were candidates."""

    spots: tuple[Spot, ...]
    vector: PageVector
    blocks: int
    candidates: int


def descreen(rgb: NDArray[np.uint8], dpi: float = DPI) -> NDArray[np.float32]:
    """The page without its halftone: a Gaussian filter of 12 x 12 pixels, deviation 2, at 600 dpi; 0..1.

    The filter has an even number of taps, centered, so the result is moved by half a pixel to the right and below.
    """
    factor = dpi / DPI
    taps, sigma = max(2, 2 * round(FILTER * factor / 2)), SIGMA * factor
    distance = np.arange(taps) - (taps - 1) / 2
    kernel = np.exp(-0.5 * np.square(distance / sigma))
    kernel = (kernel / kernel.sum()).astype(np.float32)
    return np.asarray(cv2.sepFilter2D(rgb.astype(np.float32) / 255, -1, kernel, kernel, borderType=cv2.BORDER_REFLECT))


def to_lab(rgb: NDArray[np.float32]) -> Lab:
    """CIE L*a*b* (D65) of sRGB in 0..1; H x W x 3."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2Lab), np.float32)


def grids(height: int, width: int, dpi: float = DPI) -> list[list[tuple[int, int]]]:
    """Top and left of all whole blocks: of the grid at the corner, and of the one moved by 35 pixels (at 600 dpi)."""
    side, shift = block_side(dpi), round(SHIFT * dpi / DPI)
    return [
        [(top, left) for top in range(start, height - side + 1, side) for left in range(start, width - side + 1, side)]
        for start in (0, shift)
    ]


def block_side(dpi: float = DPI) -> int:
    """The side of a block in pixels."""
    return max(8, round(BLOCK * dpi / DPI))


def candidate_blocks(lab: Lab, page: Mask, dpi: float = DPI) -> tuple[list[BlockSample], int]:
    """The candidate blocks of both grids with the defects in them, and the number of blocks examined.

    `page` are the pixels that are not masked.
    """
    side = block_side(dpi)
    height, width = lab.shape[:2]
    corners = [corner for grid in grids(height, width, dpi) for corner in grid]
    measured = []
    for top, left in corners:
        block, valid = lab[top : top + side, left : left + side], page[top : top + side, left : left + side]
        if valid.mean() >= LEAST_SHARE:
            measured.append((top, left, masked_statistics(block, valid)))
    if not measured:
        return [], 0
    baseline = np.median([statistics.dde for _, _, statistics in measured])
    samples = []
    for top, left, statistics in measured:
        if LEAST_DDE < statistics.dde - baseline < LARGEST_DDE:
            block, valid = lab[top : top + side, left : left + side], page[top : top + side, left : left + side]
            sample = _examined(block, valid, statistics, left, top, dpi)
            if sample is not None:
                samples.append(sample)
    return samples, len(measured)


@dataclass(frozen=True, slots=True)
class MaskedStatistics:
    """MDL, DDL and DDE over the unmasked pixels of a block, and the color difference of all of its pixels."""

    mdl: float
    ddl: float
    dde: float
    difference: NDArray[np.float64]
    lightness: float


def masked_statistics(block: Lab, valid: Mask) -> MaskedStatistics:
    """Equations (1.1) to (1.6) over the unmasked pixels; those of blocks.py if none is masked."""
    values = block.astype(np.float64)
    mean = values[valid].mean(0)
    difference = np.sqrt(np.square(values - mean).sum(-1))
    lightness = np.abs(values[..., 0] - mean[0])
    return MaskedStatistics(
        float(lightness[valid].mean()),
        float(lightness[valid].std(ddof=1)),
        float(difference[valid].std(ddof=1)),
        difference,
        float(mean[0]),
    )


def _examined(
    block: Lab, valid: Mask, statistics: MaskedStatistics, left: int, top: int, dpi: float
) -> BlockSample | None:
    """The largest component that valley emphasis finds in a block's Delta E, with its features; None without one."""
    levels = np.clip(np.round(statistics.difference * LEVELS_PER_UNIT), 0, 255).astype(np.int64)
    found = (levels > valley_threshold(levels[valid])) & valid
    count, labels, stats, _ = cv2.connectedComponentsWithStats(found.astype(np.uint8), connectivity=8)
    if count < 2:
        return None
    mask = labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
    y, x = np.nonzero(mask)
    major, minor = axes_of_moments(float(x.var()), float(y.var()), float(((x - x.mean()) * (y - y.mean())).mean()))
    inside = float(statistics.difference[mask].sum())
    outside = float(statistics.difference[valid & ~mask].sum())
    unit = dpi / DPI
    features = np.array(
        [
            statistics.mdl, statistics.ddl, statistics.dde, mask.sum() / unit**2, major / unit, minor / unit,
            min(inside / outside, 1e3) if outside > 0 else 1e3,
        ]
    )  # fmt: skip
    return BlockSample(left, top, mask, float(block[..., 0][mask].mean()) > statistics.lightness, features)


@cache
def built_in_tree() -> Tree:
    """The tree for pages. Raises ModelError if its file is damaged."""
    return load_tree("page", FEATURES)


def find_spots(
    rgb: NDArray[np.uint8], page: Mask | None = None, dpi: float = DPI, tree: Tree | None = None
) -> PageDefects:
    """All spots of a scanned page, H x W x 3; `page`, H x W, is False where it is masked.

    Blocks of both grids that show one spot are joined. Raises ModelError if the built-in tree is damaged.
    """
    tree = built_in_tree() if tree is None else tree
    shown = np.ones(rgb.shape[:2], bool) if page is None else page
    samples, blocks = candidate_blocks(to_lab(descreen(rgb, dpi)), shown, dpi)
    wanted = tree.decide(np.reshape([sample.features for sample in samples], (-1, len(FEATURES))))
    spots = _joined([sample for sample, is_defect in zip(samples, wanted, strict=True) if is_defect], rgb.shape[:2])
    return PageDefects(spots, page_vector(spots, rgb.shape[:2], dpi), blocks, len(samples))


def _joined(samples: Sequence[BlockSample], size: tuple[int, int]) -> tuple[Spot, ...]:
    """The spots of these blocks; pixels that touch are one spot, of the kind of most of its blocks."""
    spots = []
    for is_light in (True, False):
        canvas, worst = np.zeros(size, np.uint8), np.zeros(size, np.float32)
        for sample in samples:
            if sample.is_light == is_light:
                place = (
                    slice(sample.top, sample.top + sample.mask.shape[0]),
                    slice(sample.left, sample.left + sample.mask.shape[1]),
                )
                canvas[place] |= sample.mask
                worst[place] = np.maximum(worst[place], sample.mask * np.float32(sample.features[6]))
        count, labels, stats, centers = cv2.connectedComponentsWithStats(canvas, connectivity=8)
        for index in range(1, count):
            left, top, width, height, area = (int(value) for value in stats[index])
            mask = labels[top : top + height, left : left + width] == index
            y, x = np.nonzero(mask)
            major, minor = axes_of_moments(
                float(x.var()), float(y.var()), float(((x - x.mean()) * (y - y.mean())).mean())
            )
            spots.append(
                Spot(
                    "gray spot" if is_light else "solid spot",
                    left,
                    top,
                    width,
                    height,
                    float(centers[index][0]),
                    float(centers[index][1]),
                    area,
                    major,
                    minor,
                    float(worst[top : top + height, left : left + width][mask].max()),
                )
            )
    return tuple(sorted(spots, key=lambda spot: (spot.top, spot.left)))


def page_vector(spots: Sequence[Spot], size: tuple[int, int], dpi: float = DPI) -> PageVector:
    """The feature vector of a page of this height and width in pixels; y points down and x to the right."""
    kinds = [spot.kind for spot in spots]
    counts = len(spots), kinds.count("gray spot"), kinds.count("solid spot")
    if not spots:
        return PageVector(*counts, *[None] * 9)
    side = MM_PER_INCH / dpi
    area = np.array([spot.size for spot in spots]) * side**2
    severity = np.array([spot.severity for spot in spots])
    deviation = float(area.std(ddof=1)) if len(spots) > 1 else 0.0
    x = float(np.mean([spot.x for spot in spots]) - (size[1] - 1) / 2) * side
    y = float(np.mean([spot.y for spot in spots]) - (size[0] - 1) / 2) * side
    return PageVector(
        *counts, float(area.mean()), float(area.max()), float(area.min()), deviation,
        float(severity.mean()), float(severity.max()), float(severity.min()), y, x,
    )  # fmt: skip
