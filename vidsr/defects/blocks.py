"""Statistics of blocks and regions, shared by film and pages: the measures of chapter 1 of Xiang (2021).

Xiang, "Image and video enhancement and analysis" (dissertation, Purdue 2021), chapter 1: equations (1.1) to (1.8) and
the features of section 1.2.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 256


@dataclass(frozen=True, slots=True)
class BlockStatistics:
    """Mean and sample standard deviation of the distance from the mean: in L* (MDL, DDL) and color (MDE, DDE)."""

    mdl: float
    ddl: float
    mde: float
    dde: float


def color_difference(block: NDArray[Any]) -> NDArray[np.float64]:
    """The distance of each pixel from the mean of the block, equations (1.1) and (1.4).

    `block` is H x W x C, or H x W for a single channel; the result is H x W, in the units of the block.
    """
    values = block.astype(np.float64)
    values = values[..., None] if values.ndim == 2 else values
    centered = values - values.mean((0, 1))
    return np.asarray(np.sqrt(np.square(centered).sum(-1)))


def block_statistics(lab: NDArray[Any]) -> BlockStatistics:
    """MDL, DDL, MDE and DDE of a block in CIE L*a*b*, H x W x 3: equations (1.2), (1.3), (1.5) and (1.6)."""
    lightness, difference = color_difference(lab[..., 0]), color_difference(lab)
    return BlockStatistics(
        float(lightness.mean()), float(lightness.std(ddof=1)), float(difference.mean()), float(difference.std(ddof=1))
    )


def valley_threshold(values: NDArray[Any]) -> int:
    """The level t that separates defect and background by valley emphasis, equation (1.8); class 1 is `values` <= t.

    `values` are whole levels, 0..255. t maximizes (1 - p(t)) (w1 m1^2 + w2 m2^2): p(t) is the share of the level, w and
    m are share and mean of the two classes (Ng, 2006). A uniform block gives its own level, so that class 2 is empty.
    """
    counts = np.bincount(np.asarray(values).ravel(), minlength=LEVELS).astype(np.float64)
    share = counts / counts.sum()
    levels = np.arange(LEVELS)
    below, sums = np.cumsum(share), np.cumsum(share * levels)
    above, rest = 1 - below, sums[-1] - sums
    with np.errstate(divide="ignore", invalid="ignore"):
        between = np.nan_to_num(sums**2 / below, posinf=0) + np.where(above > 1e-12, rest**2 / above, 0)
    used = np.flatnonzero(counts)
    between[: used[0]] = between[used[-1] :] = -1.0  # one of the two classes would be empty
    return int(used[-1]) if len(used) == 1 else int(np.argmax((1 - share) * between))


def ellipse_axes(mask: NDArray[np.bool_]) -> tuple[float, float]:
    """Major and minor axis, in pixels, of the ellipse with the second moments of the mask's pixels.

    A pixel is a unit square, so a single one has axes of 2 / sqrt(3). The mask has at least one pixel.
    """
    y, x = np.nonzero(mask)
    return axes_of_moments(float(x.var()), float(y.var()), float(((x - x.mean()) * (y - y.mean())).mean()))


def axes_of_moments(xx: float, yy: float, xy: float) -> tuple[float, float]:
    """Major and minor axis of the ellipse with these central second moments of pixel centers."""
    xx, yy = xx + 1 / 12, yy + 1 / 12
    middle, root = (xx + yy) / 2, float(np.hypot((xx - yy) / 2, xy))
    return 4 * float(np.sqrt(middle + root)), 4 * float(np.sqrt(max(middle - root, 0.0)))


def severity(difference: NDArray[Any], mask: NDArray[np.bool_]) -> float:
    """Sum of the difference in the defect divided by that in the background of a block; infinite without background."""
    inside, outside = float(difference[mask].sum()), float(difference[~mask].sum())
    return inside / outside if outside > 0 else float("inf")
