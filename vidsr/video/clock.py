"""Clock of a file: finds places where it jumps, and corrects packets so that their times run on continuously.

Recordings that were joined byte by byte, and broadcasts that changed their source, go on with another clock in the
middle of the file. Each stream is moved by the same amount there, so that audio and video stay in sync on both sides.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from vidsr.types import ClockShift
from vidsr.video.decoding import end_of_segment
from vidsr.video.timestamps import to_ticks

# A decoding time that steps back by BACK within its stream, or ahead of all streams by AHEAD, belongs to another clock.
# FFmpeg's own program uses the same limits for MPEG streams.
BACK = Fraction(1, 10)
AHEAD = Fraction(10)
# The clock of MPEG streams wraps around after this time; what follows belongs to the same recording.
WRAP = Fraction(1 << 33, 90_000)
# Reading stops this much after the end of the wanted part, because streams may be stored apart from each other.
TRAILING = Fraction(20)
READ_ERRORS_ALLOWED = 100
_TS_DISCONT = 0x200  # AVFMT_TS_DISCONT


def can_jump(container: InputContainer, path: Path) -> bool:
    """True if the clock of the file may jump: in formats that allow it, and in Matroska files that were joined."""
    name = container.format.name
    if container.format.flags & _TS_DISCONT or name in ("flv", "live_flv"):
        return True
    return "matroska" in name and _is_joined(path)


def find_jumps(
    container: InputContainer, video: int, end: Fraction | None = None
) -> tuple[tuple[ClockShift, ...], Fraction | None]:
    """Reads the packets of an open file: the shifts that make its times continuous, and the length of its video.

    Without a jump there are no shifts, and the length is None: the header is right. `video` is the index of the video
    stream. `end` is where the wanted part of the video ends, in seconds; reading stops soon after it.
    """
    scan = _Scan(container, video)
    for packet in _packets(container):
        scan.add(packet)
        if end is not None and scan.elapsed > end + TRAILING:
            break
    return scan.shifts(), scan.length()


def jump_times(shifts: Sequence[ClockShift], video: int) -> list[float]:
    """Where the clock of the video jumps, in seconds of the continuous times."""
    return [shift.begins for shift in shifts if shift.stream == video]


class Clock:
    """Adds the shifts of a file to its packets. Every packet that holds data has to pass, from the first one on."""

    def __init__(self, shifts: Sequence[ClockShift]) -> None:
        self._shifts: dict[int, list[ClockShift]] = {}
        for shift in shifts:
            self._shifts.setdefault(shift.stream, []).append(shift)
        self._passed: Counter[int] = Counter()
        self._ticks: dict[int, int] = {}

    def correct(self, packet: Packet[Any]) -> None:
        """Shifts the times of the next packet of its stream."""
        stream = packet.stream_index
        coming = self._shifts.get(stream)
        if coming is None:
            return
        while coming and coming[0].packet <= self._passed[stream]:
            self._ticks[stream] = to_ticks(coming.pop(0).seconds, packet.time_base)
        self._passed[stream] += 1
        ticks = self._ticks.get(stream, 0)
        packet.pts = None if packet.pts is None else packet.pts + ticks
        packet.dts = None if packet.dts is None else packet.dts + ticks


@dataclass(slots=True)
class _Extent:
    """First and last time of one stream in one part of the file, in seconds of its clock."""

    begin: Fraction
    end: Fraction


@dataclass(slots=True)
class _Stream:
    """What is known of a stream while the file is read; times are seconds of the file's clock."""

    base: Fraction
    is_timed: bool  # audio or video; the packets of other streams come at any time
    is_video: bool
    packets: int = 0
    part: int = 0
    last: Fraction | None = None
    step: Fraction = Fraction(0)
    extents: dict[int, _Extent] = field(default_factory=dict)
    changes: list[tuple[int, int]] = field(default_factory=list)  # number of the packet, part that begins with it


@dataclass(slots=True)
class _Part:
    """A part of the file with one clock. `entries` are the end of each stream in the part that it came from."""

    low: Fraction
    high: Fraction
    entries: dict[int, tuple[int, Fraction]] = field(default_factory=dict)


class _Scan:
    """Divides the packets of a file into parts with one clock each."""

    def __init__(self, container: InputContainer, video: int) -> None:
        self._streams = {
            stream.index: _Stream(
                stream.time_base or Fraction(1, av.time_base), _is_timed(stream), stream.index == video
            )
            for stream in container.streams
        }
        self._video = video
        self._parts: list[_Part] = []

    @property
    def elapsed(self) -> Fraction:
        """The length of the video so far, in seconds."""
        video = self._streams[self._video]
        return sum((extent.end - extent.begin for extent in video.extents.values()), Fraction(0))

    def add(self, packet: Packet[Any]) -> None:
        """Adds the next packet of the file."""
        stream = self._streams.get(packet.stream_index)
        if stream is None:
            return  # a stream that appears in the middle of the file is not read
        time = self._time(packet, stream)
        if time is not None and stream.is_timed:
            self._place(packet.stream_index, stream, time)
        elif time is not None and self._parts:
            self._move(stream, self._nearest(time))
        if stream.is_timed and self._parts:
            self._extend(packet, stream)
        stream.packets += 1

    def shifts(self) -> tuple[ClockShift, ...]:
        """The shifts of all streams, in the order of their packets."""
        if len(self._parts) < 2:
            return ()
        amounts = self._amounts()
        found = []
        for index, stream in self._streams.items():
            for packet, part in stream.changes:
                extent = stream.extents.get(part)
                begins = (self._parts[part].low if extent is None else extent.begin) + amounts[part]
                found.append(ClockShift(index, packet, amounts[part], float(begins - self._start())))
        return tuple(found)

    def length(self) -> Fraction | None:
        """The length of the video with continuous times, in seconds; None if the clock does not jump."""
        extents = self._streams[self._video].extents
        if len(self._parts) < 2 or not extents:
            return None
        amounts = self._amounts()
        return max(extent.end + amounts[part] for part, extent in extents.items()) - self._start()

    def _start(self) -> Fraction:
        first = self._streams[self._video].extents.get(0)
        return self._parts[0].low if first is None else first.begin

    def _time(self, packet: Packet[Any], stream: _Stream) -> Fraction | None:
        """The decoding time; where there is none, the time of presentation of a packet that nothing precedes."""
        if packet.dts is not None:
            return packet.dts * stream.base
        if packet.pts is None or (stream.is_video and not packet.is_keyframe):
            return None
        return packet.pts * stream.base

    def _place(self, index: int, stream: _Stream, time: Fraction) -> None:
        """Decides to which part a packet of audio or video belongs."""
        if not self._parts:
            self._parts.append(_Part(time, time))
        if stream.last is not None:
            if self._has_jumped(stream, time):
                self._enter(index, stream, time)
            elif time > stream.last:
                stream.step = time - stream.last
        elif len(self._parts) > 1:
            self._move(stream, self._nearest(time))
        stream.last = time
        part = self._parts[stream.part]
        part.low, part.high = min(part.low, time), max(part.high, time)

    def _has_jumped(self, stream: _Stream, time: Fraction) -> bool:
        assert stream.last is not None
        if time < stream.last - BACK:
            return True
        beside = (other.last for other in self._streams.values() if other.is_timed and other.part == stream.part)
        reached = max(last for last in beside if last is not None)
        return time > reached + max(AHEAD, 4 * stream.step)

    def _enter(self, index: int, stream: _Stream, time: Fraction) -> None:
        """Moves a stream to the part of this time: one that another stream has entered, else a new one."""
        before = stream.part
        left = stream.extents.get(before)
        known = next(
            (number for number in range(len(self._parts) - 1, -1, -1) if self._fits(stream, number, time)), None
        )
        if known is None:
            known = len(self._parts)
            self._parts.append(_Part(time, time))
        if left is not None and known > before:
            self._parts[known].entries.setdefault(index, (before, left.end))
        self._move(stream, known)

    def _fits(self, stream: _Stream, number: int, time: Fraction) -> bool:
        """True if a part is at this time: a later one, or an earlier one to which a stray packet's stream returns."""
        part = self._parts[number]
        if number == stream.part or not part.low - AHEAD <= time <= part.high + AHEAD:
            return False
        extent = stream.extents.get(number)
        return number > stream.part or (extent is not None and time >= extent.end - stream.step - BACK)

    def _nearest(self, time: Fraction) -> int:
        """The part whose times are nearest; of equally near ones the last."""
        return min(
            range(len(self._parts)),
            key=lambda number: (
                max(self._parts[number].low - time, time - self._parts[number].high, Fraction(0)),
                -number,
            ),
        )

    def _move(self, stream: _Stream, part: int) -> None:
        if part != stream.part:
            stream.part = part
            stream.changes.append((stream.packets, part))

    def _extend(self, packet: Packet[Any], stream: _Stream) -> None:
        """Adds a packet's times of presentation to the extent of its part."""
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is None:
            return
        begin = ticks * stream.base
        end = begin + ((packet.duration or 0) * stream.base or stream.step)
        extent = stream.extents.setdefault(stream.part, _Extent(begin, end))
        extent.begin, extent.end = min(extent.begin, begin), max(extent.end, end)

    def _amounts(self) -> list[Fraction]:
        """The shift of each part: the least one with which no stream overlaps its end in the part before."""
        amounts = [Fraction(0)]
        for number, part in enumerate(self._parts[1:], start=1):
            joints = [
                (amounts[before], end - self._streams[index].extents[number].begin)
                for index, (before, end) in part.entries.items()
                if number in self._streams[index].extents
            ]
            amount = max((before + step for before, step in joints), default=amounts[-1])
            for before, step in joints:
                wraps = round(step / WRAP)
                if wraps and abs(step - wraps * WRAP) < BACK:
                    amount = before + wraps * WRAP
            amounts.append(amount)
        return amounts


def _is_timed(stream: Stream) -> bool:
    is_cover = bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))
    return stream.type in ("audio", "video") and not is_cover


def _packets(container: InputContainer) -> Iterator[Packet[Any]]:
    """All packets that hold data, past read errors; the run itself reports what cannot be read."""
    for _ in range(READ_ERRORS_ALLOWED):
        try:
            for packet in container.demux():
                if packet.size:
                    yield packet
            return
        except (av.EOFError, IndexError):
            return
        except av.FFmpegError:
            continue


def _is_joined(path: Path) -> bool:
    """True if a Matroska file goes on after its first segment."""
    return 0 < end_of_segment(path) < path.stat().st_size
