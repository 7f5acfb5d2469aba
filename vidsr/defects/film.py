"""Finds dust, dirt and hairs in a frame of a film from its motion-compensated neighbors.

The chapter's steps (see blocks.py) on another ground: a page has a constant tint, a film has the frames before and
after. What is in one frame only differs from both of its neighbors in the same direction, while they agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.defects.blocks import axes_of_moments, color_difference, severity
from vidsr.defects.motion import Look, Motion, Plane, flicker, smoothed_within, warp
from vidsr.defects.tree import Tree, load_tree
from vidsr.types import Defect

Mask = NDArray[np.bool_]

# The features of a region, in the order of the tree's columns; lengths are in pixels at 480 lines, differences in
# levels (0..255). The first seven are those of the chapter, of the residual instead of L*a*b*.
FEATURES = (
    "mdl",
    "ddl",
    "contrast",
    "size",
    "major_axis",
    "minor_axis",
    "severity",
    "disagreement",
    "motion_error",
    "match_both",
    "match_one",
    "fill_error",
    "inconsistency",
    "visibility",
)

# Lengths are given for frames with a short side of this many pixels.
LINES = 480
# The side of the block around a candidate: four times a speck of 8 pixels.
BLOCK = 32
# A pixel is a candidate if it lies outside the range of its neighbors (3 x 3 pixels in both frames) by this many
# levels, and by this many times the noise of the frame.
SEED, SEED_NOISE = 6.0, 2.5
# A region grows from there over the pixels whose residual is at least this share of the largest one around.
GROW = 0.4
LEAST_PIXELS = 4
# Fainter candidates are not visible: this many levels, and this many times the noise. Where the neighbors differ more
# from each other than the candidate from them, they say nothing about it.
LEAST_CONTRAST, LEAST_VISIBILITY, LARGEST_DISAGREEMENT = 8.0, 3.0, 1.0
# Candidates beyond this number are too many for dust; the frame has motion that cannot be followed.
MAX_CANDIDATES = 400
# How far the same thing is searched for in the neighbors, in pixels at 480 lines.
SEARCH = 32
# A candidate that is no defect moves if a neighbor has the same thing nearby (as the features say), while the neighbors
# agree about what is behind it.
MOVING_MATCH, MOVING_DISAGREEMENT = 0.45, 0.25
# A region is a hair if it is this many times as long as wide and at least this long, at 480 lines.
HAIR_RATIO, HAIR_LENGTH = 4.0, 14.0


@dataclass(frozen=True, slots=True)
class Region:
    """A candidate: bounding box, its pixels in the box, features in the order of FEATURES, and the tree's answer."""

    left: int
    top: int
    mask: Mask
    is_light: bool
    center: tuple[float, float]
    severity: float
    contrast: float
    axes: tuple[float, float]
    features: NDArray[np.float64]
    probability: float = 0.0

    @property
    def size(self) -> int:
        """The number of pixels."""
        return int(self.mask.sum())


@dataclass(frozen=True, slots=True)
class Compensated:
    """A neighbor moved onto the frame: the flow to it and its error, the corrected smooth image, and the correction.

    `novelty` is how much lighter the neighbor itself, in its own pixels, is than the frame moved onto it.
    """

    flow: Plane
    inconsistency: Plane
    image: Plane
    novelty: Plane
    gain: float
    local: Plane


def compensate(frame: Look, neighbor: Look, motion: Motion) -> Compensated:
    """Moves a neighbor onto the frame, `motion` from the frame to it, and corrects its brightness."""
    moved = warp(neighbor.smooth, motion.forth)
    gain, local = flicker(frame.smooth, moved)
    image = np.asarray(gain * moved + local, np.float32)
    novelty = np.asarray(gain * neighbor.smooth - warp(frame.smooth, motion.back), np.float32)
    return Compensated(motion.forth, motion.inconsistency(), image, novelty, gain, local)


def residual(image: Plane, before: Plane, after: Plane) -> Plane:
    """The smaller of the differences to both neighbors where they have the same sign, else 0; in levels."""
    first, second = image - before, image - after
    smaller = np.where(np.abs(first) < np.abs(second), first, second)
    return np.where(first * second > 0, smaller, np.float32(0))


def excess(image: Plane, before: Plane, after: Plane) -> Plane:
    """How far each pixel lies outside the range of 3 x 3 pixels of both neighbors, in levels; negative inside.

    The range forgives errors of the motion of up to a pixel (as the rank order detector of Nadenau and Mitra, 1997).
    """
    kernel = np.ones((3, 3), np.uint8)
    highest = np.asarray(cv2.dilate(np.maximum(before, after), kernel))
    lowest = np.asarray(cv2.erode(np.minimum(before, after), kernel))
    return np.asarray(np.maximum(image - highest, lowest - image), np.float32)


@dataclass(frozen=True, slots=True)
class Findings:
    """The defects of a frame, how many other things in it look like one but move, and both neighbors moved onto it."""

    defects: list[Region]
    moving: int
    moved: tuple[Compensated, Compensated]


class FilmDetector:
    """Finds defects that are in one frame only."""

    def __init__(self, tree: Tree | None = None) -> None:
        """`tree` decides on candidates; None: the built-in one. Raises ModelError if that is damaged."""
        self.tree = built_in_tree() if tree is None else tree

    def find(self, frame: Look, neighbors: tuple[Look, Look], motions: tuple[Motion, Motion]) -> Findings:
        """The defects of the frame.

        `neighbors` are the images before and after, `motions` those from the frame to them.
        """
        before, after = neighbors
        moved = compensate(frame, before, motions[0]), compensate(frame, after, motions[1])
        regions = candidates(frame, neighbors, moved)
        if not regions or len(regions) > MAX_CANDIDATES:
            return Findings([], 0, moved)
        features = np.stack([region.features for region in regions])
        answers = self.tree.probability(features)
        found = zip(regions, answers, strict=True)
        defects = [replace(region, probability=float(p)) for region, p in found if p >= self.tree.cut]
        match, apart = (features[:, FEATURES.index(name)] for name in ("match_one", "disagreement"))
        moving = (answers < self.tree.cut) & (match <= MOVING_MATCH) & (apart <= MOVING_DISAGREEMENT)
        return Findings(defects, int(moving.sum()), moved)


@cache
def built_in_tree() -> Tree:
    """The tree for film. Raises ModelError if its file is damaged."""
    return load_tree("film", FEATURES)


def candidates(frame: Look, neighbors: tuple[Look, Look], moved: tuple[Compensated, Compensated]) -> list[Region]:
    """All regions that may be defects, with their features."""
    before, after = moved[0].image, moved[1].image
    image = frame.smooth
    left = residual(image, before, after)
    outside = excess(image, before, after)
    noise = 1.4826 * float(np.median(np.abs(left[left != 0]))) if np.any(left) else 0.0
    seeds = outside >= max(SEED, SEED_NOISE * noise)
    if not seeds.any():
        return []
    unit = max(1.0, min(image.shape) / LINES)
    regions = []
    for sign in (1, -1):
        regions += _grown(np.maximum(sign * left, 0), seeds & (sign * left > 0), sign > 0, unit)
        if len(regions) > MAX_CANDIDATES:
            break
    if len(regions) > MAX_CANDIDATES:
        return regions
    context = _Context.of(frame, neighbors, moved, left, noise, unit)
    measured = (context.measured(region) for region in regions)
    return [region for region in measured if region is not None]


def _grown(strength: Plane, seeds: Mask, is_light: bool, unit: float) -> list[Region]:
    """Regions of pixels that are strong relative to the strongest seed around, each with at least one seed."""
    side = 2 * round(3 * unit) + 1
    peak = np.asarray(cv2.dilate(np.where(seeds, strength, np.float32(0)), np.ones((side, side), np.uint8)))
    grown = (strength >= np.maximum(GROW * peak, 3.0)) & (peak > 0)
    count, labels, stats, centers = cv2.connectedComponentsWithStats(grown.astype(np.uint8), connectivity=8)
    seeded = np.bincount(labels[seeds], minlength=count)
    regions = []
    for index in range(1, count):
        left, top, width, height, size = (int(value) for value in stats[index])
        if size < LEAST_PIXELS or not seeded[index]:
            continue
        mask = labels[top : top + height, left : left + width] == index
        center = float(centers[index][0]), float(centers[index][1])
        regions.append(Region(left, top, mask, is_light, center, 0.0, 0.0, (0.0, 0.0), np.zeros(len(FEATURES))))
    return regions


@dataclass(frozen=True, slots=True)
class _Context:
    """What the features of a region are measured on.

    `error` is the larger difference to a neighbor, `trust` the larger inconsistency of the flow to one.
    """

    image: Plane
    left: Plane
    error: Plane
    trust: Plane
    noise: float
    neighbors: tuple[Look, Look]
    moved: tuple[Compensated, Compensated]
    unit: float

    @classmethod
    def of(
        cls, frame: Look, neighbors: tuple[Look, Look], moved: tuple[Compensated, Compensated], left: Plane,
        noise: float, unit: float,
    ) -> _Context:  # fmt: skip
        """Measures what all regions share."""
        image, (before, after) = frame.smooth, moved
        error = np.maximum(np.abs(image - before.image), np.abs(image - after.image))
        trust = np.maximum(before.inconsistency, after.inconsistency)
        return cls(image, left, error, trust, max(noise, 0.5), neighbors, moved, unit)

    def measured(self, region: Region) -> Region | None:
        """The region with its features; None if it is too faint, or the neighbors do not agree at all."""
        rows, columns, inside = self._block(region)
        left = self.left[rows, columns]
        rest = np.abs(left)
        contrast = float(rest[inside].mean())
        before, after = (each.image[rows, columns] for each in self.moved)
        apart = float(np.abs(before - after)[inside].mean())
        if contrast < max(LEAST_CONTRAST, LEAST_VISIBILITY * self.noise) or apart > LARGEST_DISAGREEMENT * contrast:
            return None
        near = np.asarray(cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8))).astype(bool)
        ground = ~near if not near.all() else ~inside
        fills, matches = self._fills(rows, columns, near), self._matches(region)
        difference = color_difference(left)
        y, x = np.nonzero(region.mask)
        axes = axes_of_moments(float(x.var()), float(y.var()), float(((x - x.mean()) * (y - y.mean())).mean()))
        bad = severity(rest, near)
        features = np.array(
            [
                float(difference.mean()),
                float(difference.std(ddof=1)),
                contrast,
                region.size / self.unit**2,
                axes[0] / self.unit,
                axes[1] / self.unit,
                min(bad, 1e3),
                apart / contrast,
                _highest(self.error[rows, columns][ground]) / contrast,
                max(matches),
                min(matches),
                float(np.abs(fills[0] - fills[1])[inside].mean()) / contrast,
                _highest(self.trust[rows, columns][ground]) / self.unit,
                contrast / self.noise,
            ]
        )
        return replace(region, severity=bad, contrast=contrast, axes=axes, features=features)

    def _block(self, region: Region) -> tuple[slice, slice, Mask]:
        """The rows and columns of the block around a region, and which of its pixels are in the region."""
        height, width = self.image.shape
        high, wide = region.mask.shape
        side = round(BLOCK * self.unit)
        margin_y, margin_x = max(6, (side - high) // 2), max(6, (side - wide) // 2)
        rows = slice(max(0, region.top - margin_y), min(height, region.top + high + margin_y))
        columns = slice(max(0, region.left - margin_x), min(width, region.left + wide + margin_x))
        inside = np.zeros((rows.stop - rows.start, columns.stop - columns.start), bool)
        inside[region.top - rows.start :, region.left - columns.start :][:high, :wide] = region.mask
        return rows, columns, inside

    def _fills(self, rows: slice, columns: slice, hole: Mask) -> list[Plane]:
        """What each neighbor would fill the hole of a block with, by the motion around it."""
        reach = max(4, min(hole.shape) // 2)
        fills = []
        for neighbor, moved in zip(self.neighbors, self.moved, strict=True):
            flow = smoothed_within(moved.flow[rows, columns], hole, reach)
            sampled = warp(neighbor.smooth, flow, columns.start, rows.start)
            fills.append(np.asarray(moved.gain * sampled + moved.local[rows, columns], np.float32))
        return fills

    def _matches(self, region: Region) -> list[float]:
        """How badly each neighbor has the same thing nearby: 0 is an exact copy, 1 is nothing at all.

        Dust is in one frame only. A ball, a limb or a spark that moves too fast for optical flow is new in the next
        frame too, at another place; so the residual of the region is compared with the novelty of the neighbor, and the
        least sum of squared differences is divided by the sum of squares of the region.
        """
        height, width = self.image.shape
        pad, reach, sign = 2, round(SEARCH * self.unit), 1 if region.is_light else -1
        top, bottom = max(0, region.top - pad), min(height, region.top + region.mask.shape[0] + pad)
        left, right = max(0, region.left - pad), min(width, region.left + region.mask.shape[1] + pad)
        template = np.maximum(sign * self.left[top:bottom, left:right], 0)
        rows = slice(max(0, top - reach), min(height, bottom + reach))
        columns = slice(max(0, left - reach), min(width, right + reach))
        energy = float(np.square(template).sum())
        worst = []
        for moved in self.moved:
            area = np.maximum(sign * moved.novelty[rows, columns], 0)
            scores: Any = cv2.matchTemplate(area, template, cv2.TM_SQDIFF)
            worst.append(max(0.0, float(scores.min())) / energy)
        return worst


def _highest(values: NDArray[Any]) -> float:
    """The 90 % quantile, without interpolation."""
    flat = values.ravel()
    place = min(flat.size - 1, int(0.9 * flat.size))
    return float(np.partition(flat, place)[place])


def describe(region: Region, unit: float, is_repaired: bool = False) -> Defect:
    """The defect that a region is; `unit` is the number of pixels that count as one at 480 lines."""
    height, width = region.mask.shape
    length, breadth = region.axes
    is_long = length >= max(HAIR_RATIO * breadth, HAIR_LENGTH * unit)
    # A bent hair has a wide ellipse, but few pixels.
    is_sparse = length >= 2 * HAIR_LENGTH * unit and region.size <= 0.25 * length * breadth
    return Defect(
        "hair" if is_long or is_sparse else "speck", region.is_light, region.left, region.top, width, height,
        region.center[0], region.center[1], region.size, length, breadth, region.severity, region.contrast, is_repaired,
    )  # fmt: skip
