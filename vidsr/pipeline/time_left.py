"""Estimates the time that a run still takes, from how long its frames took so far.

A frame takes a part that is the same for all, and a part in proportion to the extra work for it: the area of its faces,
or in slow motion the images that are interpolated. Both are fitted to all that was measured; the ratio of measured to
fitted time in the recent past says how fast the machine is now; and the frames to come are taken to have as much extra
work as those that are known, which may be more than those that are done. So neither a slow start nor a scene full of
faces is taken for the rule.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

# The recent past: this part of the time so far, but at least so many seconds.
RECENT_SHARE, RECENT_SECONDS = 1 / 3, 20.0
# Measurements are kept at least so far apart, and at most so many; then every other one is dropped.
SPACING_SECONDS, MOST_KEPT = 0.5, 400
# A frame without extra work takes at least this part of the mean.
LEAST_SHARE = 0.05


class Measured(NamedTuple):
    """Where a run stood: seconds since its beginning, output frames done, and the extra work for them, in any unit."""

    seconds: float
    frames: int
    extra: float


class Ahead(NamedTuple):
    """What is known of the next output frames: their number, and the extra work for all of them."""

    frames: int
    extra: float


NOTHING_AHEAD = Ahead(0, 0.0)


@dataclass(slots=True)
class TimeLeft:
    """Estimates the time left of one run. Asks no clock: the times are those that it is given."""

    expected: int | None = None
    _kept: list[Measured] = field(default_factory=list)
    _last: Measured | None = None
    _ahead: Ahead = NOTHING_AHEAD
    _spacing: float = SPACING_SECONDS

    def update(
        self, seconds: float, frames: int, expected: int | None, extra: float = 0.0, ahead: Ahead | None = None
    ) -> None:
        """Takes a measurement later than all before. `expected` is the number of output frames, None if unknown."""
        self.expected, self._ahead = expected, ahead or NOTHING_AHEAD
        self._last = Measured(seconds, frames, extra)
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
        first, ahead = self._kept[0], self._ahead
        frame, unit = self._costs()
        left = max(0, self.expected - last.frames, ahead.frames)
        extra_of_known = (last.extra - first.extra + ahead.extra) / (last.frames - first.frames + ahead.frames)
        extra_left = ahead.extra + (left - ahead.frames) * extra_of_known
        recent = frame * (last.frames - since.frames) + unit * (last.extra - since.extra)
        return (frame * left + unit * extra_left) * (last.seconds - since.seconds) / recent

    def _recent(self) -> Measured | None:
        """The measurement at the beginning of the recent past; without time since the first one, None."""
        if self._last is None or self._last.seconds <= self._kept[0].seconds:
            return None
        length = max(RECENT_SECONDS, RECENT_SHARE * (self._last.seconds - self._kept[0].seconds))
        since = self._last.seconds - length
        return next((kept for kept in reversed(self._kept) if kept.seconds <= since), self._kept[0])

    def _costs(self) -> tuple[float, float]:
        """The time of a frame, above 0, and of a unit of extra work, at least 0, relative to each other.

        By least squares over the intervals between the measurements.
        """
        ff = fe = ee = ft = et = 0.0
        for before, after in zip(self._kept, self._kept[1:], strict=False):
            frames, extra = after.frames - before.frames, after.extra - before.extra
            seconds = after.seconds - before.seconds
            ff, fe, ee = ff + frames * frames, fe + frames * extra, ee + extra * extra
            ft, et = ft + frames * seconds, et + extra * seconds
        determinant = ff * ee - fe * fe
        if determinant <= 1e-3 * ff * ee:  # all frames have as much of it: the parts cannot be told apart
            return 1.0, 0.0
        mean = (self._kept[-1].seconds - self._kept[0].seconds) / (self._kept[-1].frames - self._kept[0].frames)
        frame = max((ft * ee - et * fe) / determinant, LEAST_SHARE * mean)
        unit = (et - frame * fe) / ee
        return (frame, unit) if unit > 0 else (1.0, 0.0)
