"""What a video carries beside its samples: the display matrix and the light levels of HDR. Read here, not applied."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
from av.sidedata.sidedata import SideData as FrameSideData
from av.sidedata.sidedata import Type
from av.video.stream import VideoStream

from vidsr.video.ffmpeg import file_url

# How each encoder takes light levels: (list option, mastering key, light key, True for whole units of the HEVC SEI).
_LISTS = {
    "libx264": ("x264-params", "mastering-display", "cll", True),
    "libx265": ("x265-params", "master-display", "max-cll", True),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", False),
}


@dataclass(frozen=True, slots=True)
class SideData:
    """`matrix`: FFmpeg's nine display-matrix numbers; `mastering`: R, G, B, white (x, y), then least and most cd/m2;
    `light`: largest pixel and largest frame average, cd/m2.
    """

    matrix: tuple[int, ...] | None = None
    mastering: tuple[Fraction, ...] | None = None
    light: tuple[int, int] | None = None


def read_side_data(path: str, stream: int) -> SideData:
    """Side data of the first frame that decodes; all empty if none does."""
    try:
        with av.open(file_url(Path(path))) as container:
            video = cast(VideoStream, container.streams[stream])
            for frame in container.decode(video):
                sides = cast(Iterable[FrameSideData], frame.side_data)
                found = {data.type: bytes(data) for data in sides}
                return SideData(
                    matrix=_matrix(found.get(Type.DISPLAYMATRIX)),
                    mastering=_mastering(found.get(Type.MASTERING_DISPLAY_METADATA)),
                    light=_light(found.get(Type.CONTENT_LIGHT_LEVEL)),
                )
    except av.FFmpegError:
        pass  # an unreadable film is the reader's to report
    return SideData()


def light_options(data: SideData, codec: str) -> tuple[tuple[str, str], ...] | None:
    """The encoder options that keep the HDR light levels; None if there are levels that the encoder cannot be given."""
    if data.mastering is None and data.light is None:
        return ()
    if codec not in _LISTS:
        return None
    option, mastering_key, light_key, whole = _LISTS[codec]
    parts = []
    if data.mastering is not None:
        red, green, blue, white = (data.mastering[i : i + 2] for i in (0, 2, 4, 6))
        points = [
            f"{letter}({_number(x, 50000, whole)},{_number(y, 50000, whole)})"
            for letter, (x, y) in zip(("G", "B", "R", "WP"), (green, blue, red, white), strict=True)
        ]
        least, most = data.mastering[8:10]
        points.append(f"L({_number(most, 10000, whole)},{_number(least, 10000, whole)})")
        parts.append(f"{mastering_key}={''.join(points)}")
    if data.light is not None:
        parts.append(f"{light_key}={data.light[0]},{data.light[1]}")
    return ((option, ":".join(parts)),)


def _number(value: Fraction, unit: int, whole: bool) -> str:
    return str(round(value * unit)) if whole else f"{float(value):.5f}"


def _matrix(data: bytes | None) -> tuple[int, ...] | None:
    if data is None or len(data) != 36:
        return None
    values = struct.unpack("=9i", data)
    # The shift (in source pixels) would be wrong in a larger picture; players shift the turned picture back anyway.
    return (*values[:6], 0, 0, values[8])


def _mastering(data: bytes | None) -> tuple[Fraction, ...] | None:
    """AVMasteringDisplayMetadata: ten rationals, then two flags."""
    if data is None or len(data) < 88:
        return None
    numbers = struct.unpack("=22i", data[:88])
    has_primaries, has_luminance = numbers[20:22]
    if not (has_primaries and has_luminance) or not all(numbers[1:20:2]):
        return None
    return tuple(Fraction(numbers[i], numbers[i + 1]) for i in range(0, 20, 2))


def _light(data: bytes | None) -> tuple[int, int] | None:
    if data is None or len(data) < 8:
        return None
    peak, average = struct.unpack("=2I", data[:8])
    return (peak, average)
