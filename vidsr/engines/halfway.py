"""The times of a film with twice as many frames, and what stands before a scene cut. No picture is computed here.

Times are in ticks of half the length, so that half-way between two frames is exact for any frame rate.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from vidsr.types import Frame


def on_half_ticks(frame: Frame) -> Frame:
    """A given frame as the film's last one: at its time, as long as it was."""
    return replace(frame, pts=2 * frame.pts, time_base=frame.time_base / 2, duration=2 * frame.duration)


def halfway(before: Frame, after: Frame, image: Tensor) -> tuple[Frame, Frame]:
    """`before` until the new frame half-way between the two, and that frame with its picture `image` until `after`.

    Both neighbours on half ticks. A new frame starts no scene.
    """
    gap = (after.pts - before.pts) // 2
    new = replace(before, image=image, pts=before.pts + gap, duration=gap, starts_scene=False)
    return replace(before, duration=gap), new


def before_a_cut(near: Frame, far_pts: int, interp: int = 2) -> list[Frame]:
    """The near side's last result and the `interp` - 1 new frames before one at `far_pts` that starts a scene.

    They repeat that result. `far_pts` counts the ticks of `near`.
    """
    gap = (far_pts - near.pts) // interp
    new = [replace(near, pts=near.pts + i * gap, duration=gap, starts_scene=False) for i in range(1, interp)]
    return [replace(near, duration=gap), *new]
