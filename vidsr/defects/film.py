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
from vidsr.defects.matching import corrected, flow_behind, match_maps, path_match, tint
from vidsr.defects.motion import Look, Motion, Plane, flicker, warp
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
    "path",
    "tint",
    "unexplained",
    "ground_error",
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
# What differs from a neighbor that is not moved at all by less than this share of its contrast stands still there, as a
# caption does while the image moves.
LEAST_CHANGE = 0.35
# What a neighbor shows but for less than this share of the contrast, once its motion is corrected, is no defect. Of the
# training samples that the tree takes for defects this leaves out 0.5 % of the true ones and 14 of the 96 false ones.
LEAST_UNEXPLAINED = 0.6
# Candidates beyond this number are too many for dust; the frame has motion that cannot be followed.
MAX_CANDIDATES = 400
# How far the same thing is searched for in the neighbors, in pixels at 480 lines.
SEARCH = 32
# A candidate that is no defect moves if a neighbor has the same thing nearby (as the features say), while the neighbors
# agree about what is behind it.
MOVING_MATCH, MOVING_DISAGREEMENT = 0.45, 0.25
# The least number of pixels around a candidate that show no other one, for them alone to say how well it fits there.
LEAST_CLEAR = 100
# A candidate continues a defect if it is at least this likely and lies within this many pixels of it, at 480 lines.
CONTINUATION, REACH = 0.3, 6
# A defect is extended by connected pixels up to this many pixels away (at 480 lines) that differ by this many times the
# noise and this share of its contrast. Where that makes it larger than this many times its size, plus this many pixels,
# it is motion that differs, and the defect keeps its shape. Motion is taken from beyond NEAR pixels.
SPREAD, FAINT_NOISE, FAINT_SHARE, LARGEST_SPREAD, LEAST_SPREAD, NEAR = 12, 3.0, 0.3, 2.5, 20, 4
# A region is a hair if it is this many times as long as wide and at least this long, at 480 lines.
HAIR_RATIO, HAIR_LENGTH = 4.0, 14.0


@dataclass(frozen=True, slots=True)
class Region:
    """A candidate: bounding box, its pixels in the box, features in the order of FEATURES, and the tree's answer.

    `is_still` says that a neighbor, not moved at all, has the same thing at the same place.
    """

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
    is_still: bool = False

    @property
    def size(self) -> int:
        """The number of pixels."""
        return int(self.mask.sum())

    @property
    def place(self) -> tuple[slice, slice]:
        """The rows and columns of the bounding box."""
        high, wide = self.mask.shape
        return slice(self.top, self.top + high), slice(self.left, self.left + wide)


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
    """The defects of a frame, how many other things in it look like one but move, and both neighbors moved onto it.

    `candidates` are all regions that were examined, with the tree's answers.
    """

    defects: list[Region]
    candidates: list[Region]
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
        context, regions = _examined(frame, neighbors, moved)
        if context is None or not regions or len(regions) > MAX_CANDIDATES:
            return Findings([], [], 0, moved)
        features = np.stack([region.features for region in regions])
        answers = self.tree.probability(features)
        answers[features[:, FEATURES.index("unexplained")] < LEAST_UNEXPLAINED] = 0
        answers[[region.is_still for region in regions]] = 0
        regions = [replace(region, probability=float(p)) for region, p in zip(regions, answers, strict=True)]
        defects = continued(regions, self.tree.cut, context.image.shape, context.unit)
        defects = merged([context.extended(region) for region in defects], context.image.shape)
        match, apart = (features[:, FEATURES.index(name)] for name in ("match_one", "disagreement"))
        moving = (answers < self.tree.cut) & (match <= MOVING_MATCH) & (apart <= MOVING_DISAGREEMENT)
        return Findings(defects, regions, int(moving.sum()), moved)


@cache
def built_in_tree() -> Tree:
    """The tree for film. Raises ModelError if its file is damaged."""
    return load_tree("film", FEATURES)


def continued(regions: list[Region], cut: float, shape: tuple[int, ...], unit: float) -> list[Region]:
    """The regions that are defects, and those beside one, of the same kind, that may be part of it.

    A hair often falls into pieces, some of them too faint to be told from motion for themselves: a piece with a
    probability of at least CONTINUATION that lies within REACH of a defect gets its probability.
    """
    found = [region for region in regions if region.probability >= cut]
    open_ = [region for region in regions if CONTINUATION <= region.probability < cut]
    kernel = np.ones((2 * round(REACH * unit) + 1,) * 2, np.uint8)
    for is_light in (True, False):
        newest = [region for region in found if region.is_light == is_light]
        rest = [region for region in open_ if region.is_light == is_light]
        while newest and rest:
            plane = np.zeros(shape, np.float32)
            for region in newest:
                part = plane[region.place]
                part[region.mask] = np.maximum(part[region.mask], region.probability)
            near = np.asarray(cv2.dilate(plane, kernel))
            answers = [float(near[region.place][region.mask].max()) for region in rest]
            newest = [replace(region, probability=p) for region, p in zip(rest, answers, strict=True) if p > 0]
            rest = [region for region, p in zip(rest, answers, strict=True) if p == 0]
            found += newest
    return found


def merged(regions: list[Region], shape: tuple[int, ...]) -> list[Region]:
    """The regions, those of one kind that touch as one; it has the features of the largest, and the highest answer."""
    result = []
    for is_light in (True, False):
        parts = [region for region in regions if region.is_light == is_light]
        if not parts:
            continue
        plane = np.zeros(shape, np.uint8)
        for region in parts:
            plane[region.place] |= region.mask
        count, labels, stats, centers = cv2.connectedComponentsWithStats(plane, connectivity=8)
        members: list[list[Region]] = [[] for _ in range(count)]
        for region in parts:
            members[int(labels[region.place][region.mask][0])].append(region)
        for index in range(1, count):
            left, top, width, height, _ = (int(value) for value in stats[index])
            largest = max(members[index], key=lambda region: region.size)
            mask = labels[top : top + height, left : left + width] == index
            y, x = np.nonzero(mask)
            axes = axes_of_moments(float(x.var()), float(y.var()), float(((x - x.mean()) * (y - y.mean())).mean()))
            center = float(centers[index][0]), float(centers[index][1])
            best = max(region.probability for region in members[index])
            result.append(replace(largest, left=left, top=top, mask=mask, center=center, axes=axes, probability=best))
    return result


def candidates(frame: Look, neighbors: tuple[Look, Look], moved: tuple[Compensated, Compensated]) -> list[Region]:
    """All regions that may be defects, with their features."""
    return _examined(frame, neighbors, moved)[1]


def _examined(
    frame: Look, neighbors: tuple[Look, Look], moved: tuple[Compensated, Compensated]
) -> tuple[_Context | None, list[Region]]:
    """What candidates are measured on, and all of them; too many are not measured."""
    before, after = moved[0].image, moved[1].image
    image = frame.smooth
    left = residual(image, before, after)
    outside = excess(image, before, after)
    noise = 1.4826 * float(np.median(np.abs(left[left != 0]))) if np.any(left) else 0.0
    seeds = outside >= max(SEED, SEED_NOISE * noise)
    if not seeds.any():
        return None, []
    unit = max(1.0, min(image.shape) / LINES)
    regions = []
    for sign in (1, -1):
        regions += _grown(np.maximum(sign * left, 0), seeds & (sign * left > 0), sign > 0, unit)
        if len(regions) > MAX_CANDIDATES:
            return None, regions
    context = _Context.of(frame, neighbors, moved, left, noise, unit, regions)
    measured = (context.measured(region) for region in regions)
    return context, [region for region in measured if region is not None]


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
    occupied: Mask
    colors: tuple[Plane, Plane, Plane] | None

    @classmethod
    def of(
        cls, frame: Look, neighbors: tuple[Look, Look], moved: tuple[Compensated, Compensated], left: Plane,
        noise: float, unit: float, regions: list[Region],
    ) -> _Context:  # fmt: skip
        """Measures what all regions share."""
        image, (before, after) = frame.smooth, moved
        error = np.maximum(np.abs(image - before.image), np.abs(image - after.image))
        trust = np.maximum(before.inconsistency, after.inconsistency)
        occupied = np.zeros(image.shape, np.uint8)
        for region in regions:
            occupied[region.place] |= region.mask
        near = np.asarray(cv2.dilate(occupied, np.ones((5, 5), np.uint8))).astype(bool)
        shown, first, second = frame.color, neighbors[0].color, neighbors[1].color
        colors = None if shown is None or first is None or second is None else (shown, first, second)
        return cls(image, left, error, trust, max(noise, 0.5), neighbors, moved, unit, near, colors)

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
        here = self.image[rows, columns]
        unmoved = [float(np.abs(here - look.smooth[rows, columns])[inside].mean()) for look in self.neighbors]
        near = np.asarray(cv2.dilate(inside.astype(np.uint8), np.ones((5, 5), np.uint8))).astype(bool)
        ground = ~near if not near.all() else ~inside
        clear = ground & ~self.occupied[rows, columns]
        behind = _Behind.of(self, rows, columns, near, clear if clear.sum() >= LEAST_CLEAR else ground)
        rest_behind = residual(here, *behind.fills)
        unexplained = float(np.maximum((1 if region.is_light else -1) * rest_behind[inside], 0).mean())
        fit = max(float(np.abs(here - fill)[behind.ground].mean()) for fill in behind.fills)
        maps = self._matches(region)
        matches = [float(each.min()) for each in maps]
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
                float(np.abs(behind.fills[0] - behind.fills[1])[inside].mean()) / contrast,
                _highest(self.trust[rows, columns][ground]) / self.unit,
                contrast / self.noise,
                path_match(*maps),
                self._tint(rows, columns, inside, behind, contrast),
                unexplained / contrast,
                fit / contrast,
            ]
        )
        is_still = min(unmoved) < LEAST_CHANGE * contrast
        return replace(region, severity=bad, contrast=contrast, axes=axes, features=features, is_still=is_still)

    def extended(self, region: Region) -> Region:
        """The region with the faint parts that belong to it: connected pixels that differ in the same direction."""
        reach = round(SPREAD * self.unit)
        rows, columns, inside = self._block(region, reach + 6)
        near = dilated(inside, round(NEAR * self.unit))
        clear = ~near & ~self.occupied[rows, columns]
        behind = _Behind.of(self, rows, columns, near, clear)
        rest = (1 if region.is_light else -1) * residual(self.image[rows, columns], *behind.fills)
        least = max(FAINT_NOISE * self.noise, FAINT_SHARE * region.contrast)
        weak = (rest >= least) & dilated(inside, reach) | inside
        _, labels = cv2.connectedComponents(weak.astype(np.uint8), connectivity=8)
        whole = np.isin(labels, np.unique(labels[inside]))
        if whole.sum() > LARGEST_SPREAD * region.size + LEAST_SPREAD * self.unit**2:
            return region
        y, x = np.flatnonzero(whole.any(1)), np.flatnonzero(whole.any(0))
        mask = whole[y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        return replace(region, left=columns.start + int(x[0]), top=rows.start + int(y[0]), mask=mask)

    def _block(self, region: Region, margin: int = 6) -> tuple[slice, slice, Mask]:
        """The rows and columns of the block around a region, and which of its pixels are in the region."""
        height, width = self.image.shape
        high, wide = region.mask.shape
        side = round(BLOCK * self.unit)
        margin_y, margin_x = max(margin, (side - high) // 2), max(margin, (side - wide) // 2)
        rows = slice(max(0, region.top - margin_y), min(height, region.top + high + margin_y))
        columns = slice(max(0, region.left - margin_x), min(width, region.left + wide + margin_x))
        inside = np.zeros((rows.stop - rows.start, columns.stop - columns.start), bool)
        inside[region.top - rows.start :, region.left - columns.start :][:high, :wide] = region.mask
        return rows, columns, inside

    def _matches(self, region: Region) -> list[Plane]:
        """How badly each neighbor has the same thing at each place nearby: 0 is an exact copy, 1 is nothing at all.

        Dust is in one frame only. A ball, a limb or a spark that moves too fast for optical flow is new in the next
        frame too, at another place; so the residual of the region is compared with the novelty of the neighbor.
        """
        height, width = self.image.shape
        pad, reach, sign = 2, round(SEARCH * self.unit), 1 if region.is_light else -1
        top, bottom = max(0, region.top - pad), min(height, region.top + region.mask.shape[0] + pad)
        left, right = max(0, region.left - pad), min(width, region.left + region.mask.shape[1] + pad)
        template = np.maximum(sign * self.left[top:bottom, left:right], 0)
        rows = slice(max(0, top - reach), min(height, bottom + reach))
        columns = slice(max(0, left - reach), min(width, right + reach))
        # Beyond the edge of the frame is nothing.
        edges = (
            rows.start - top + reach,
            bottom + reach - rows.stop,
            columns.start - left + reach,
            right + reach - columns.stop,
        )
        areas = [
            np.asarray(
                cv2.copyMakeBorder(np.maximum(sign * moved.novelty[rows, columns], 0), *edges, cv2.BORDER_CONSTANT),
                np.float32,
            )
            for moved in self.moved
        ]
        return match_maps(template, areas)

    def _tint(self, rows: slice, columns: slice, inside: Mask, behind: _Behind, contrast: float) -> float:
        """How much of the difference is color that dirt cannot have."""
        if self.colors is None:
            return 0.0
        shown, *around = self.colors
        pairs = zip(around, behind.flows, strict=True)
        hidden = [warp(color, flow, columns.start, rows.start)[inside].mean(0) for color, flow in pairs]
        mean = shown[rows, columns][inside].mean(0)
        return tint(mean.astype(np.float64), (hidden[0] + hidden[1]).astype(np.float64) / 2, contrast)


@dataclass(frozen=True, slots=True)
class _Behind:
    """What both neighbors show at the place of a block, with the motion behind its candidate, and the flows to them."""

    fills: tuple[Plane, Plane]
    flows: tuple[Plane, Plane]
    ground: Mask

    @classmethod
    def of(cls, context: _Context, rows: slice, columns: slice, hole: Mask, ground: Mask) -> _Behind:
        """Measures it; `ground` are the pixels of the block that show no defect."""
        here = context.image[rows, columns]
        fills, flows = [], []
        for neighbor, moved in zip(context.neighbors, context.moved, strict=True):
            flow = flow_behind(moved.flow, rows, columns, hole)
            local = moved.local[rows, columns]
            target = (here - local) / np.float32(moved.gain)
            flow = corrected(target, neighbor.smooth, flow, (columns.start, rows.start), ground)
            flows.append(flow)
            sampled = warp(neighbor.smooth, flow, columns.start, rows.start)
            fills.append(np.asarray(moved.gain * sampled + local, np.float32))
        return cls((fills[0], fills[1]), (flows[0], flows[1]), ground)


def dilated(mask: Mask, reach: int) -> Mask:
    """The mask and all pixels within `reach` of it."""
    kernel: Any = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), kernel)).astype(bool)


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
