"""Compares the regions that the detector finds in a damaged film with the truth."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.defects.drawing import FAINT, VISIBLE, Damaged
from vidsr.defects.film import FilmDetector, Region
from vidsr.defects.motion import Look, Motion

# A defect counts if it is at least 4 pixels across (the area of a disk) and this many levels strong somewhere.
LEAST_AREA, LEAST_PEAK = np.pi * 4, 25.0
# It is plain to the eye if its mean change is at least the standard deviation of the clean, grainy luma in this area
# around each of its pixels: fainter ones drown in texture or grain.
AROUND = 15
# It is found if this share of its visible pixels is; a region is a defect if this share of its pixels is damaged.
FOUND = 0.3


@dataclass(frozen=True, slots=True)
class Cover:
    """A region: its label (1 defect, 0 none, -1 the faint edge of one), and how much it covers of each true defect."""

    label: int
    covered: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Examined:
    """A frame: the areas of its true defects (0: does not count), which are plain, candidates, and what was found."""

    areas: NDArray[Any]
    plain: NDArray[np.bool_]
    candidates: list[Cover]
    defects: list[Cover]
    features: list[NDArray[np.float64]]


@dataclass(slots=True)
class Score:
    """Counts over films: true defects, missed ones, the same of plain ones, reported regions, and false ones."""

    defects: int = 0
    missed: int = 0
    plain: int = 0
    plain_missed: int = 0
    reported: int = 0
    false: int = 0
    frames: int = 0

    @property
    def miss(self) -> float:
        """The share of the defects that were missed."""
        return self.missed / max(1, self.defects)

    @property
    def plain_miss(self) -> float:
        """The share of the plain defects that were missed."""
        return self.plain_missed / max(1, self.plain)

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


def look(image: NDArray[np.uint8]) -> Look:
    """A frame as the detector takes it."""
    luma = gray(image)
    return Look.of(luma, image[..., ::2].astype(np.float32) - luma[..., None])


def undamaged(frames: list[NDArray[np.uint8]]) -> Damaged:
    """A film as it is."""
    return Damaged(frames, frames, [np.zeros(frame.shape[:2], np.float32) for frame in frames])


def examine(film: Damaged, detector: FilmDetector) -> list[Examined]:
    """What the detector finds in a film, beside the truth; the first and last frame have no two neighbors."""
    looks = [look(frame) for frame in film.frames]
    motions = [Motion.between(first, second) for first, second in pairwise(looks)]
    frames = []
    for index in range(1, len(looks) - 1):
        change = film.change[index]
        around, flows = (looks[index - 1], looks[index + 1]), (motions[index - 1].reversed(), motions[index])
        found = detector.find(looks[index], around, flows)
        labels, areas, plain = _truth(change, gray(film.clean[index]))
        covers = [
            [_cover(region, change, labels, len(areas)) for region in regions]
            for regions in (found.candidates, found.defects)
        ]
        features = [region.features for region in found.candidates]
        frames.append(Examined(areas, plain, covers[0], covers[1], features))
    return frames


def _truth(
    change: NDArray[np.float32], clean: NDArray[np.uint8]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """The number of the true defect of each pixel, and for each number its area, or 0, and whether it is plain."""
    count, labels = cv2.connectedComponents((change >= VISIBLE).astype(np.uint8), connectivity=8)
    flat, luma = labels.ravel(), clean.astype(np.float32)
    areas = np.bincount(flat, minlength=count)
    peaks = np.zeros(count)
    np.maximum.at(peaks, flat, change.ravel())
    mean, square = (cv2.blur(each, (AROUND, AROUND), borderType=cv2.BORDER_REFLECT) for each in (luma, luma * luma))
    deviation = np.sqrt(np.maximum(square - mean * mean, 0))
    plain = np.bincount(flat, change.ravel(), count) >= np.bincount(flat, deviation.ravel(), count)
    areas = np.where((peaks >= LEAST_PEAK) & (areas >= LEAST_AREA), areas, 0)
    areas[0] = 0
    return labels, areas, plain


def _cover(region: Region, change: NDArray[np.float32], labels: NDArray[Any], count: int) -> Cover:
    """What a region covers of the truth."""
    inside = change[region.place][region.mask]
    is_defect, is_near = (inside >= VISIBLE).mean() > FOUND, (inside >= FAINT).any()
    label = 1 if is_defect else -1 if is_near else 0
    return Cover(label, np.bincount(labels[region.place][region.mask], minlength=count))


def score(frames: Iterable[Examined], of_candidates: bool = False) -> Score:
    """How well what was found, or all candidates, covers the true defects of these frames."""
    total = Score()
    for frame in frames:
        covers = frame.candidates if of_candidates else frame.defects
        covered = sum((cover.covered for cover in covers), np.zeros_like(frame.areas))
        counts = frame.areas > 0
        missed = counts & (covered < FOUND * frame.areas)
        total.defects += int(counts.sum())
        total.missed += int(missed.sum())
        total.plain += int((counts & frame.plain).sum())
        total.plain_missed += int((missed & frame.plain).sum())
        total.reported += len(covers)
        total.false += sum(cover.label == 0 for cover in covers)
        total.frames += 1
    return total
