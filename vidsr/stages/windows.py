"""The window around a face that a network sees: whole pixels of the source, still as long as the face is well inside.

So nothing is resampled and the network's past keeps its place. Crops aligned to a template by a similarity transform of
the steadied landmarks, as is usual for faces, gave 1.5 to 2.2 dB less on four clips (Lanczos both ways, template at the
face's own scale): low-resolution pixels hold detail right up to the limit of their grid, and resampling wipes it out.
"""

from __future__ import annotations

import math

from vidsr.stages.paste import REACH
from vidsr.types import Window

# Windows begin and end at multiples of this: pyramids of pictures then need no padding.
STEP = 8
# What a window shows around a face and its soft border, in source pixels, and in sides of the face when it is new.
MARGIN, SLACK = 4.0, 0.1
# A window is given up when a new one would be this much smaller.
WASTE = 1.7


def choose_window(box: tuple[float, float, float, float], width: int, height: int, before: Window | None) -> Window:
    """The window for a face, inside a frame of this size; the one `before` as long as it serves."""
    needed = _around(box, MARGIN, 1, width, height)
    fresh = _around(box, MARGIN + SLACK * max(box[2], box[3]), STEP, width, height)
    if before is not None and _holds(before, needed) and before.area <= WASTE * fresh.area:
        return before
    return fresh


def _around(box: tuple[float, float, float, float], margin: float, step: int, width: int, height: int) -> Window:
    """The pixels of the box, its soft border and the margin, out to the next multiples of `step`."""
    spans = []
    for start, length, limit in ((box[0], box[2], width), (box[1], box[3], height)):
        half = length / 2 * REACH + margin
        low = math.floor((start + length / 2 - half) / step) * step
        high = math.ceil((start + length / 2 + half) / step) * step
        low = min(max(0, low), max(0, limit - STEP))
        spans.append((low, min(limit, max(high, low + STEP))))
    (left, right), (top, bottom) = spans
    return Window(left, top, right - left, bottom - top)


def _holds(window: Window, part: Window) -> bool:
    return (
        window.left <= part.left
        and window.top <= part.top
        and window.left + window.width >= part.left + part.width
        and window.top + window.height >= part.top + part.height
    )
