"""Times of an output's frames: from the time of a frame to the ticks of the encoder and of the file."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from vidsr.errors import OutputError
from vidsr.types import Frame
from vidsr.video.output import OutputPlan
from vidsr.video.passthrough import shift_of_start
from vidsr.video.timestamps import to_ticks

# Frames that come too closely for the file's unit of time are moved up to this much, in seconds; it is not noticed.
LATEST = Fraction(1, 50)


class Placed(NamedTuple):
    """A frame's time and duration in ticks of the encoder, and its time in ticks of the file."""

    pts: int
    duration: int
    out_pts: int


@dataclass(slots=True)
class OutputTimes:
    """Places the frames of one output one after the other; plain data.

    `base` is the encoder's time base, `out_base` the file's. All streams are moved back by `shift` seconds of the
    output. `rounded` and `moved` count frames whose time is not exact, and those that came less than a tick after the
    frame before them.
    """

    base: Fraction
    out_base: Fraction
    shift: Fraction = Fraction(0)
    frames: int = 0
    rounded: int = 0
    moved: int = 0
    last_pts: int = 0
    last_out_pts: int = 0

    def begin(self, plan: OutputPlan, time: Fraction, audio_start: Fraction | None) -> list[str]:
        """Chooses the shift from the time of the first frame and that of the first audio; returns a warning, if any."""
        if plan.trim.start is not None:
            self.shift = time
            return []
        # Whole ticks of the video, so that its times need no rounding.
        tick = plan.info.time_base
        self.shift = shift_of_start(time / plan.stretch, audio_start) * plan.stretch // tick * tick
        if time >= 0:
            return []
        return [f"the video begins at {float(time):.3f} s, before zero; it is moved as a whole to begin at 0"]

    def place(self, frame: Frame, target: Path) -> Placed:
        """The times of the next frame. Raises OutputError if it does not come after the one before it."""
        base, out_base = self.base, self.out_base
        time = frame.pts * frame.time_base
        out_pts = to_ticks(time - self.shift, out_base)
        if self.frames and out_pts <= self.last_out_pts:
            out_pts = self._next_tick(time, frame.pts, target)
        self.rounded += out_pts * out_base != time - self.shift
        self.frames += 1
        self.last_pts, self.last_out_pts = frame.pts, out_pts
        pts = to_ticks(time - self.shift, base)
        if to_ticks(pts * base, out_base) != out_pts:  # a frame that was moved
            pts = to_ticks(out_pts * out_base, base)
        return Placed(pts, to_ticks(frame.duration * frame.time_base, base), out_pts)

    def add(self, following: OutputTimes) -> None:
        """Adds the frames that follow, which were placed with the same shift."""
        self.frames += following.frames
        self.rounded += following.rounded
        self.moved += following.moved
        self.last_pts, self.last_out_pts = following.last_pts, following.last_out_pts

    def warnings(self, target: Path) -> list[str]:
        """Sentences about the frames that are not exactly at their times."""
        unit = f"{float(self.out_base) * 1000:g} ms, the unit of {target.suffix} files"
        found = []
        if self.rounded:
            found.append(f"{self.rounded} of {self.frames} frame times are rounded to {unit}")
        if self.moved:
            found.append(
                f"{self.moved} frames come less than {unit}, after the one before; they are moved to the next unit"
            )
        return found

    def _next_tick(self, time: Fraction, pts: int, target: Path) -> int:
        """The tick after the last one of the file, for a frame that comes less than a tick after the one before it."""
        tick = self.last_out_pts + 1
        late = tick * self.out_base - (time - self.shift)
        if pts <= self.last_pts or late > LATEST:
            raise OutputError(
                f"{target.name}: the frame at {float(time):.6f} s does not come after the one before it in "
                f"units of {self.out_base} s, the file's; "
                f"{'write .mp4' if self.out_base > self.base else 'repair the input'}"
            )
        self.moved += 1
        return tick
