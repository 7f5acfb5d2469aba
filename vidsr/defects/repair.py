"""Fills defects from the neighbors of their frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from vidsr.defects.film import FEATURES, LINES, Compensated, Region, dilated
from vidsr.defects.matching import corrected
from vidsr.defects.motion import Look, Plane, smoothed_within, warp

# A region is enlarged by this many pixels, over which the repair fades out (both at 480 lines).
MARGIN, FEATHER = 1, 1
# The width of the ring around it in which the brightness is compared, and the motion taken from, at 480 lines.
RING = 4
# The neighbors' fillings may differ by this many levels, or this share of the defect's contrast; else the motion around
# the defect is not what the fillings assume.
DISAGREEMENT, SHARE = 12.0, 0.5
# Motion is not trusted where there and back misses by this many pixels at 480 lines, or the neighbors differ from the
# frame around the defect by this many times its contrast. In held-out films 9 % of the defects that are found lie
# beyond the first and 2 % beyond the second; in untouched clips nearly all that is taken for one.
LARGEST_INCONSISTENCY, LARGEST_ERROR = 12.0, 2.4
# What is likely enough to be reported need not be likely enough to be changed. A thing that is nearby in a neighbor, or
# on a path through both, may move; the detector's fillings may differ by this share of the contrast. Of the training
# samples that the tree is sure of, these limits keep 92 % of the drawn defects, 76 % of the real ones, and 15 of the 58
# false ones in untouched films and films with particles.
LEAST_PROBABILITY, LEAST_MATCH, LEAST_PATH, LARGEST_FILL_ERROR = 0.9, 0.42, 0.6, 0.33


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A neighbor to fill from: its image, H x W x 3, float32 in 0..1, its look, and how it is moved."""

    image: NDArray[np.float32]
    look: Look
    moved: Compensated


@dataclass(frozen=True, slots=True)
class Patch:
    """New pixels, h x w x 3, for the part of a frame that begins at (left, top), and their opacity, h x w, 0..1."""

    left: int
    top: int
    pixels: NDArray[np.float32]
    opacity: Plane

    @property
    def changed(self) -> int:
        """The number of pixels that are not fully transparent."""
        return int((self.opacity > 0).sum())


def is_safe(region: Region, height: int, width: int) -> bool:
    """Whether a region is a defect beyond doubt, and the motion around it known well enough to fill it.

    At the edge of the frame, height x width, a neighbor may not show what is behind it.
    """
    high, wide = region.mask.shape
    if min(region.top, region.left, height - region.top - high, width - region.left - wide) < 1:
        return False
    measured = dict(zip(FEATURES, region.features, strict=True))
    return bool(
        region.probability >= LEAST_PROBABILITY
        and measured["inconsistency"] <= LARGEST_INCONSISTENCY
        and measured["motion_error"] <= LARGEST_ERROR
        and measured["match_one"] >= LEAST_MATCH
        and measured["path"] >= LEAST_PATH
        and measured["fill_error"] <= LARGEST_FILL_ERROR
    )


def fill(
    image: NDArray[np.float32],
    look: Look,
    region: Region,
    occupied: NDArray[np.bool_],
    around: Sequence[Neighbor],
) -> Patch | None:
    """The repair of a region from both neighbors; None if their fillings do not agree.

    `image` is H x W x 3, 0..1, and `look` belongs to it; `occupied`, H x W, are the pixels of all defects of the frame.
    The motion inside the region is that around it, corrected so that the neighbor fits the surroundings best. Each
    filling gets the median color of the ring around the region, so that no seam shows.
    Where the fillings agree their mean is taken (the median of two), which keeps them from passing on a defect of
    their own unnoticed.
    """
    height, width = image.shape[:2]
    unit = max(1.0, min(height, width) / LINES)
    margin, feather, ring = (round(each * unit) for each in (MARGIN, FEATHER, RING))
    pad = margin + feather + 2 * ring + 1
    high, wide = region.mask.shape
    rows = slice(max(0, region.top - pad), min(height, region.top + high + pad))
    columns = slice(max(0, region.left - pad), min(width, region.left + wide + pad))
    inside = np.zeros((rows.stop - rows.start, columns.stop - columns.start), bool)
    inside[region.top - rows.start :, region.left - columns.start :][:high, :wide] = region.mask
    core = dilated(inside, margin)
    clear = ~core & ~dilated(occupied[rows, columns], margin)
    ground = dilated(core, ring) & clear
    if not ground.any():
        return None
    shown, fillings = image[rows, columns], []
    for neighbor in around:
        gain, local = neighbor.moved.gain, neighbor.moved.local[rows, columns]
        flow = smoothed_within(neighbor.moved.flow[rows, columns], core, max(high, wide) // 2 + margin + ring)
        target = (look.smooth[rows, columns] - local) / np.float32(gain)
        flow = corrected(target, neighbor.look.smooth, flow, (columns.start, rows.start), clear)
        moved = gain * warp(neighbor.image, flow, columns.start, rows.start)
        fillings.append(moved + np.median(shown[ground] - moved[ground], axis=0))
    first, second = fillings
    apart = 255 * float(np.abs(first - second)[inside].mean())
    mean = (first + second) / 2
    if apart > max(DISAGREEMENT, SHARE * 255 * float(np.abs(shown - mean)[inside].mean())):
        return None
    opacity = _feathered(core, feather)
    return Patch(columns.start, rows.start, np.clip(mean, 0, 1).astype(np.float32), opacity)


def paste(image: NDArray[np.float32], patches: Sequence[Patch]) -> None:
    """Blends the patches into an image, H x W x 3, in place; pixels with an opacity of 0 keep their exact values."""
    for patch in patches:
        part = image[patch.top :, patch.left :][: patch.pixels.shape[0], : patch.pixels.shape[1]]
        touched = patch.opacity > 0
        weight = patch.opacity[touched][:, None]
        part[touched] += weight * (patch.pixels[touched] - part[touched])


def _feathered(core: NDArray[np.bool_], reach: int) -> Plane:
    """1 inside, falling linearly to 0 over `reach` pixels outside."""
    distance = np.asarray(cv2.distanceTransform((~core).astype(np.uint8), cv2.DIST_L2, 5), np.float32)
    return np.clip(1 - distance / (reach + 1), 0, 1).astype(np.float32)
