"""Estimates the time that a run still takes, from how long its frames took so far.

A frame takes a part that is the same for all, and a part in proportion to the area of the faces in it. Both are fitted
to all that was measured; the ratio of measured to fitted time in the recent past says how fast the machine is now; and
the frames to come are taken to have as many faces as those so far. So neither a slow start nor a scene full of faces
is taken for the rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

# The recent past: this part of the time so far, but at least so many seconds.
RECENT_SHARE, RECENT_SECONDS = 1 / 3, 20.0
# Measurements are kept at least so far apart, and at most so many; then every other one is dropped.
SPACING_SECONDS, MOST_KEPT = 0.5, 400


class Measured(NamedTuple):
    """Where a run stood: seconds since its beginning, output frames done, and area of faces in their inputs."""

    seconds: float
    frames: int
    face_pixels: float


@dataclass(slots=True)
class TimeLeft:
    """Estimates the time left of one run. Asks no clock: the times are those that it is given."""

    expected: int | None = None
    _kept: list[Measured] = field(default_factory=list)
    _last: Measured | None = None
    _spacing: float = SPACING_SECONDS

    def update(self, seconds: float, frames: int, expected: int | None, face_pixels: float = 0.0) -> None:
        """Takes a measurement later than all before. `expected` is the number of output frames, None if unknown."""
        self.expected = expected
        self._last = Measured(seconds, frames, face_pixels)
        if not self._kept or seconds - self._kept[-1].seconds >= self._spacing:
            self._kept.append(self._last)
        if len(self._kept) > MOST_KEPT:
            self._kept = self._kept[::2]
            self._spacing *= 2

    @property
    def frames_per_second(self) -> float | None:
        """Output frames per second in the recent past; None before the second measurement."""
        if self._last is None or (since := self._recent()) is None:
            return None
        return (self._last.frames - since.frames) / (self._last.seconds - since.seconds)

    @property
    def seconds(self) -> float | None:
        """Seconds from the last measurement to the last frame; None if unknown."""
        last, since = self._last, self._recent()
        if last is None or since is None or self.expected is None or last.frames <= since.frames:
            return None
        first = self._kept[0]
        per_face = self._seconds_per_face_pixel()
        done = last.frames - first.frames + per_face * (last.face_pixels - first.face_pixels)
        recent = last.frames - since.frames + per_face * (last.face_pixels - since.face_pixels)
        left = max(0, self.expected - last.frames) * done / (last.frames - first.frames)
        return left * (last.seconds - since.seconds) / recent

    def _recent(self) -> Measured | None:
        """The measurement at the beginning of the recent past; without time since the first one, None."""
        if self._last is None or self._last.seconds <= self._kept[0].seconds:
            return None
        length = max(RECENT_SECONDS, RECENT_SHARE * (self._last.seconds - self._kept[0].seconds))
        since = self._last.seconds - length
        return next((kept for kept in reversed(self._kept) if kept.seconds <= since), self._kept[0])

    def _seconds_per_face_pixel(self) -> float:
        """How much longer a frame takes for a pixel of faces, in units of a frame without faces; at least 0.

        By least squares over the intervals between the measurements.
        """
        ff = fp = pp = ft = pt = 0.0
        for before, after in zip(self._kept, self._kept[1:], strict=False):
            frames, pixels = after.frames - before.frames, after.face_pixels - before.face_pixels
            seconds = after.seconds - before.seconds
            ff, fp, pp = ff + frames * frames, fp + frames * pixels, pp + pixels * pixels
            ft, pt = ft + frames * seconds, pt + pixels * seconds
        determinant = ff * pp - fp * fp
        if determinant <= 1e-3 * ff * pp:  # all frames have as many faces: the parts cannot be told apart
            return 0.0
        frame, pixel = (ft * pp - pt * fp) / determinant, (pt * ff - ft * fp) / determinant
        return pixel / frame if frame > 0 and pixel > 0 else 0.0
