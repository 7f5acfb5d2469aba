"""Compares the regions that the detector finds in a damaged film with the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.defects.drawing import FAINT, VISIBLE, Damaged
from vidsr.defects.film import MAX_CANDIDATES, candidates, compensate
from vidsr.defects.motion import Look, Motion

# A defect counts if it is at least 4 pixels across (the area of a disk) and this many levels strong somewhere.
LEAST_AREA, LEAST_PEAK = np.pi * 4, 25.0
# It is found if this share of its visible pixels is; a candidate is a defect if this share of its pixels is damaged.
FOUND = 0.3


@dataclass(slots=True)
class Samples:
    """Candidates of a film: features (N x F), labels (1 defect, 0 none, -1 the faint edge of one), and what they cover.

    `frames` has an entry for each examined frame: the areas of the true defects, and for each candidate its row, how
    much it covers of each of them, and its size.
    """

    features: list[NDArray[np.float64]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    frames: list[tuple[NDArray[Any], list[tuple[int, NDArray[Any], int]]]] = field(default_factory=list)


@dataclass(slots=True)
class Score:
    """Counts over films: true defects, missed ones, reported regions, false ones, and pixels touched per frame."""

    defects: int = 0
    missed: int = 0
    reported: int = 0
    false: int = 0
    touched: int = 0
    frames: int = 0

    @property
    def miss(self) -> float:
        """The share of the defects that were missed."""
        return self.missed / max(1, self.defects)

    @property
    def false_alarms(self) -> float:
        """The share of the reported regions that are no defects."""
        return self.false / max(1, self.reported)


def read_clip(path: Path, count: int, step: int = 1) -> list[NDArray[np.uint8]]:
    """The first frames of a clip, H x W x 3."""
    frames = []
    with av.open(str(path)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index % step == 0:
                frames.append(frame.to_ndarray(format="rgb24"))
            if len(frames) == count:
                break
    return frames


def gray(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The luma of a frame."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def undamaged(frames: list[NDArray[np.uint8]]) -> Damaged:
    """A film as it is."""
    return Damaged(frames, frames, [np.zeros(frame.shape[:2], np.float32) for frame in frames])


def examine(film: Damaged) -> Samples:
    """All candidates of a film, labelled; the first and last frame have no two neighbors."""
    looks = [Look.of(gray(frame)) for frame in film.frames]
    motions = [Motion.between(first, second) for first, second in pairwise(looks)]
    samples = Samples()
    for index in range(1, len(looks) - 1):
        change = film.change[index]
        around = looks[index - 1], looks[index + 1]
        flows = motions[index - 1].reversed(), motions[index]
        moved = [compensate(looks[index], *each) for each in zip(around, flows, strict=True)]
        regions = candidates(looks[index], around, (moved[0], moved[1]))
        count, labels = cv2.connectedComponents((change >= VISIBLE).astype(np.uint8), connectivity=8)
        areas = np.bincount(labels.ravel(), minlength=count)
        peaks = np.zeros(count)
        np.maximum.at(peaks, labels.ravel(), change.ravel())
        areas = np.where((peaks >= LEAST_PEAK) & (areas >= LEAST_AREA), areas, 0)
        areas[0] = 0
        covers = []
        for region in regions if len(regions) <= MAX_CANDIDATES else []:
            high, wide = region.mask.shape
            place = slice(region.top, region.top + high), slice(region.left, region.left + wide)
            inside = change[place][region.mask]
            is_defect, is_near = (inside >= VISIBLE).mean() > FOUND, (inside >= FAINT).any()
            covered = np.bincount(labels[place][region.mask], minlength=count)
            covers.append((len(samples.labels), covered, region.size))
            samples.features.append(region.features)
            samples.labels.append(1 if is_defect else -1 if is_near else 0)
        samples.frames.append((areas, covers))
    return samples


def score(films: list[Samples], decide: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> Score:
    """How well a decision about candidates finds the defects of these films."""
    total = Score()
    for film in films:
        wanted = decide(np.array(film.features)) if film.features else np.zeros(0, bool)
        for areas, covers in film.frames:
            covered = np.zeros_like(areas)
            for row, cover, size in covers:
                if wanted[row]:
                    covered = covered + cover
                    total.reported += 1
                    total.false += film.labels[row] == 0
                    total.touched += size
            total.defects += int((areas > 0).sum())
            total.missed += int(((areas > 0) & (covered < FOUND * areas)).sum())
            total.frames += 1
    return total
