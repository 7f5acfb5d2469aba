"""Timestamps: exact conversion between time bases, and strictly increasing times for decoded frames."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import av
from av.packet import Packet

# The farthest time that is believed, in seconds (68 years): clocks that count from 1970 lie below it, and in every time
# base of video it fits in 64 bits several times.
LONGEST = 1 << 31


def to_ticks(seconds: Fraction, base: Fraction) -> int:
    """Converts seconds to the nearest tick of `base`; halves are rounded away from zero, as in av_rescale_q."""
    ticks = seconds / base
    doubled, divisor = 2 * abs(ticks.numerator) + ticks.denominator, 2 * ticks.denominator
    nearest = doubled // divisor
    return nearest if ticks >= 0 else -nearest


def clear_absurd_times(packet: Packet[Any]) -> bool:
    """Removes the times and the duration of a packet that only damage explains, so that sums stay within 64 bits.

    True if there was one.
    """
    base = packet.time_base or Fraction(1)
    found = False
    for name in ("pts", "dts"):
        ticks = getattr(packet, name)
        if ticks is not None and abs(ticks) * base > LONGEST:
            setattr(packet, name, None)
            found = True
    if packet.duration and abs(packet.duration) * base > LONGEST:
        packet.duration, found = 0, True
    return found


class FrameTimes:
    """Chooses a time for each frame as the ffmpeg program does, and repairs times that are missing or run backwards.

    The frame's PTS is used unless PTS have been out of order more often than DTS. A missing time continues from the
    previous frame, or is `first` if there is none. After a jump back by a second or more, times are shifted so that
    they continue from the previous frame; after a smaller step back, the frame is placed after the previous one, where
    it would be at an even rate if the next frame leaves room. `missing` and `backward` count these repairs.
    `default_duration` is in ticks of the stream.
    """

    def __init__(self, default_duration: int, ticks_per_second: int) -> None:
        self.missing = 0
        self.backward = 0
        self.first = 0
        self._default_duration = max(1, default_duration)
        self._second = ticks_per_second
        self._offset = 0
        self._last: int | None = None
        self._last_duration = 0
        self._last_pts: int | None = None
        self._last_dts: int | None = None
        self._faulty_pts = 0
        self._faulty_dts = 0

    def next(self, frame: av.VideoFrame, coming: Callable[[int], int | None] = lambda _: None) -> int:
        """The time of the next frame in output order, in ticks of the stream.

        `coming` gives the time of the first frame after a time, as the file has it; None if it is not known.
        """
        guess = self._best_guess(frame)
        expected = None if self._last is None else self._last + (self._last_duration or self._default_duration)
        if guess is None:
            self.missing += 1
            time = expected if expected is not None else self.first
        else:
            time = guess + self._offset
            if self._last is not None and expected is not None and time <= self._last:
                self.backward += 1
                if self._last - time >= self._second:
                    self._offset += expected - time
                    time = expected
                else:
                    following = coming(self._last - self._offset)
                    room = 0 if following is None else following + self._offset - self._last
                    time = expected if expected - self._last < room else self._last + max(1, room // 2)
        self._last, self._last_duration = time, frame.duration
        return time

    def _best_guess(self, frame: av.VideoFrame) -> int | None:
        """FFmpeg's guess_correct_pts (libavcodec), which PyAV does not expose."""
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
