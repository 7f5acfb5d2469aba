"""Side data of decoded frames, read so that no kind of it can make a frame unreadable."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from typing import Any, cast

import av
import numpy as np
from av.sidedata.sidedata import SideData, Type


def all_data(frame: av.VideoFrame) -> list[SideData]:
    """All side data of a frame. A kind that PyAV does not name is called KIND_N, with FFmpeg's number N."""
    return list(cast(Iterable[SideData], frame.side_data))


def frame_data(frame: av.VideoFrame, kind: Type) -> bytes | None:
    """The side data of one kind; None if the frame has none. If it has several, the last one counts."""
    found = None
    for data in all_data(frame):
        if data.type == kind:
            found = bytes(data)
    return found


def checksum(frame: av.VideoFrame, value: int = 0) -> int:
    """The CRC-32 of a frame's pixels as they were decoded, continued from `value`; the padding of rows does not count.

    Samples that lie in one plane with filling bytes (such as rgb0) count up to the length of the samples alone.
    """
    parts = list(frame.format.components)
    for number, plane in enumerate(frame.planes):
        samples = sum(part.width * -(-part.bits // 8) for part in parts if part.plane == number)
        height, length = plane.height, abs(plane.line_size)
        rows = np.frombuffer(memoryview(plane), np.uint8)[: height * length].reshape(height, length)
        value = zlib.crc32(rows[:, : min(samples or plane.width, length)].tobytes(), value)
    return value


def _unnamed(kinds: type[Type], number: object) -> Any:
    """A member for a kind that PyAV does not name.

    PyAV lists the kinds of FFmpeg up to 27 and otherwise raises, for one unknown kind, on all side data of the frame:
    EXIF (31) beside the rotation of a JPEG, the view number (29) of stereoscopic video, and whatever FFmpeg adds next.
    """
    if not isinstance(number, int):
        return None
    member: Any = object.__new__(kinds)
    member._name_, member._value_ = f"KIND_{number}", number
    return kinds._value2member_map_.setdefault(number, member)


Type._missing_ = classmethod(_unnamed)  # type: ignore[assignment, method-assign]
