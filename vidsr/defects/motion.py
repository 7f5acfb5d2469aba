"""Motion-compensated neighbors of a frame: dense optical flow, warping, and correction of flicker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

Gray: TypeAlias = NDArray[np.uint8]
Plane: TypeAlias = NDArray[np.float32]

# The flow is computed at half size, after a median filter, so that most specks do not disturb it; frames with a short
# side below this many pixels keep their size.
HALF_SIZE_FROM = 240
MEDIAN = 5
# The standard deviation of the blur before frames are compared, in pixels; it averages grain.
BLUR = 0.8
# The side of the area, in pixels, over which the mean difference to a neighbor is taken to be flicker.
FLICKER_AREA = 65
# Differences are limited to this many levels before that, so that a bright object does not count as flicker.
FLICKER_LIMIT = 24.0
# A local gain is computed as if an area had at least this brightness, and is limited to this share.
DARK, LARGEST_LOCAL = 16.0, 0.5
# Every n-th row and column is used to fit a neighbor's gain.
FIT_STEP = 6


@dataclass(frozen=True, slots=True)
class Look:
    """A frame as its motion is estimated: `gray` (H x W, uint8), blurred `smooth` (float32), and the image for flow.

    `color`, H x W x 2, is how far red and blue lie above the gray, in levels; None if the film has no color.
    """

    gray: Gray
    smooth: Plane
    reduced: Gray
    color: Plane | None = None

    @classmethod
    def of(cls, gray: Gray, color: Plane | None = None) -> Look:
        """Prepares a frame."""
        filtered = np.asarray(cv2.medianBlur(gray, MEDIAN), np.uint8)
        height, width = gray.shape
        if min(height, width) >= HALF_SIZE_FROM:
            filtered = np.asarray(cv2.resize(filtered, (width // 2, height // 2), interpolation=cv2.INTER_AREA))
        smooth = np.asarray(cv2.GaussianBlur(gray.astype(np.float32), (0, 0), BLUR), np.float32)
        return cls(gray, smooth, filtered, color)


def flow_between(source: Look, target: Look) -> Plane:
    """DIS optical flow (Kroeger et al., 2016) from `source` to `target`: H x W x 2, x and y, in pixels."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)
    flow: Any = dis.calc(source.reduced, target.reduced, None)  # type: ignore[call-overload]
    (height, width), (rows, columns) = source.gray.shape, source.reduced.shape
    if (rows, columns) == (height, width):
        return np.asarray(flow, np.float32)
    enlarged = np.asarray(cv2.resize(flow, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
    return enlarged * np.array([width / columns, height / rows], np.float32)


@dataclass(frozen=True, slots=True)
class Motion:
    """The optical flow between two successive images, in both directions."""

    forth: Plane
    back: Plane

    @classmethod
    def between(cls, first: Look, second: Look) -> Motion:
        """Computes it."""
        return cls(flow_between(first, second), flow_between(second, first))

    def reversed(self) -> Motion:
        """The same motion, seen from the second image."""
        return Motion(self.back, self.forth)

    def inconsistency(self) -> Plane:
        """How far a pixel of the first image lies from where both flows in turn bring it, in pixels: H x W."""
        return np.asarray(np.hypot(*np.moveaxis(self.forth + warp(self.back, self.forth), 2, 0)), np.float32)


def warp(image: NDArray[Any], flow: Plane, left: int = 0, top: int = 0) -> NDArray[Any]:
    """Samples `image` at each pixel's place plus `flow`, bilinearly; edge pixels are repeated beyond the frame.

    `left` and `top` are the place of the flow's first pixel, if it is that of a part of the frame.
    """
    height, width = flow.shape[:2]
    x = flow[..., 0] + np.arange(left, left + width, dtype=np.float32)
    y = flow[..., 1] + np.arange(top, top + height, dtype=np.float32)[:, None]
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def smoothed_within(flow: Plane, unknown: NDArray[np.bool_], reach: int) -> Plane:
    """The flow with that of `unknown` pixels replaced by a mean of the flow around them, from up to `reach` pixels."""
    side = 2 * reach + 1
    weight = (~unknown).astype(np.float32)
    total = cv2.boxFilter(weight, -1, (side, side), normalize=False)
    parts = cv2.boxFilter(flow * weight[..., None], -1, (side, side), normalize=False)
    known = unknown & (total > 0)
    result = flow.copy()
    result[known] = parts[known] / total[known][:, None]
    return result


def flicker(image: Plane, reference: Plane) -> tuple[float, Plane]:
    """The gain with which `reference` comes nearest to `image` in brightness, and what a local gain adds to that.

    Both are H x W in levels, 0..255. The corrected reference is gain * reference + the second result. Nothing is added
    to black: flicker is uneven exposure, and the black around the image of a film does not flicker.
    """
    gain = _gain(reference[::FIT_STEP, ::FIT_STEP].ravel(), image[::FIT_STEP, ::FIT_STEP].ravel())
    difference = image - gain * reference
    np.clip(difference, -FLICKER_LIMIT, FLICKER_LIMIT, out=difference)
    corrected = gain * reference
    mean, brightness = (
        np.asarray(cv2.boxFilter(each, -1, (FLICKER_AREA, FLICKER_AREA), borderType=cv2.BORDER_REFLECT))
        for each in (difference, corrected)
    )
    share = np.clip(mean / np.maximum(brightness, DARK), -LARGEST_LOCAL, LARGEST_LOCAL)
    return gain, np.asarray(share * corrected, np.float32)


def _gain(x: Plane, y: Plane) -> float:
    """Least squares of gain * x against y, within 0.5 to 2; twice repeated without the points that fit worst."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    near, gain = np.ones(x.shape, bool), 1.0
    for _ in range(3):
        weight = float(np.square(x[near]).sum())
        if weight == 0:
            return 1.0
        gain = float(np.clip((x[near] * y[near]).sum() / weight, 0.5, 2.0))
        error = np.abs(y - gain * x)
        near = error <= max(4.0, 3 * float(np.median(error)))
    return gain
