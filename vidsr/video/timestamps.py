"""Timestamps: exact conversion between time bases, and one strictly increasing time for every decoded frame."""

from __future__ import annotations

from fractions import Fraction

import av


def to_ticks(seconds: Fraction, base: Fraction) -> int:
    """The nearest tick of `base`; halves away from zero, as av_rescale_q does."""
    ticks = seconds / base
    doubled, divisor = 2 * abs(ticks.numerator) + ticks.denominator, 2 * ticks.denominator
    nearest = doubled // divisor
    return nearest if ticks >= 0 else -nearest


class FrameTimes:
    """Frame times as FFmpeg's own program chooses them, repaired where they are missing or run backwards.

    As there, the decoder's presentation time is used unless such times were found out of order more often than the
    decoding times. A missing time continues from the frame before. A time that jumps back by a second or more starts a
    new count that continues where the last one ended; a smaller step back is moved to one tick after the last.
    """

    def __init__(self, usual_duration: int, ticks_per_second: int) -> None:
        self.missing = 0
        self.backward = 0
        self._usual = max(1, usual_duration)
        self._second = ticks_per_second
        self._offset = 0
        self._last: int | None = None
        self._last_duration = 0
        self._last_pts: int | None = None
        self._last_dts: int | None = None
        self._faulty_pts = 0
        self._faulty_dts = 0

    def next(self, frame: av.VideoFrame) -> int:
        """The time of the next frame in output order, in ticks of the stream."""
        found = self._best_guess(frame)
        expected = None if self._last is None else self._last + (self._last_duration or self._usual)
        if found is None:
            self.missing += 1
            time = expected if expected is not None else 0
        else:
            time = found + self._offset
            if self._last is not None and expected is not None and time <= self._last:
                self.backward += 1
                if self._last - time >= self._second:
                    self._offset += expected - time
                    time = expected
                else:
                    time = self._last + 1
        self._last, self._last_duration = time, frame.duration
        return time

    def _best_guess(self, frame: av.VideoFrame) -> int | None:
        """FFmpeg's guess_correct_pts, which PyAV does not expose."""
        pts, dts = frame.pts, frame.dts
        if dts is not None:
            self._faulty_dts += self._last_dts is not None and dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += self._last_pts is not None and pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        return pts if pts is not None and (self._faulty_pts <= self._faulty_dts or dts is None) else dts
