"""Spherical and stereoscopic layout of a video, which PyAV cannot pass to FFmpeg's muxers.

In MP4 and MOV the boxes sv3d and st3d of Google's Spherical Video V2 specification are put into the sample entry of the
finished file. In Matroska a tag of the video stream gives the stereoscopic layout.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

_EQUIRECTANGULAR, _CUBE, _EQUIRECTANGULAR_TILE = 0, 1, 2  # FFmpeg's AVSphericalProjection
_STEREO_MODES = {0: 0, 1: 2, 2: 1}  # FFmpeg's AVStereo3DType (none, side by side, top and bottom): the box's mode
# FFmpeg's AVStereo3DType and whether the views are swapped: StereoMode (RFC 9559, section 5.1.4.1.28.3), as a tag.
_STEREO_TAGS = {
    (1, 0): "left_right",
    (1, 1): "right_left",
    (2, 0): "top_bottom",
    (2, 1): "bottom_top",
    (3, 0): "block_lr",
    (3, 1): "block_rl",
    (4, 0): "checkerboard_lr",
    (4, 1): "checkerboard_rl",
    (6, 0): "row_interleaved_lr",
    (6, 1): "row_interleaved_rl",
    (7, 0): "col_interleaved_lr",
    (7, 1): "col_interleaved_rl",
}
_PATH = (b"mdia", b"minf", b"stbl", b"stsd")
_FIXED_PART = 8  # of stsd, before its entries: version, flags and their number
CONTAINERS = ("mp4", "mov")


def layout_boxes(spherical: bytes | None, stereo: bytes | None) -> bytes:
    """The boxes for FFmpeg's AVSphericalMapping and AVStereo3D; empty for a layout that these boxes do not know."""
    return _stereo_box(stereo) + _spherical_box(spherical)


def stereo_tag(stereo: bytes | None) -> str | None:
    """The tag `stereo_mode` of Matroska for FFmpeg's AVStereo3D; None if there is none, or for one view of several."""
    if stereo is None or len(stereo) < 12:
        return None
    kind, flags, view = struct.unpack_from("=3i", stereo)
    return None if view else _STEREO_TAGS.get((kind, flags))


def add_layout(path: Path, boxes: bytes) -> None:
    """Adds boxes to the sample entry of the first video of a file whose header (moov) is its last box.

    Raises ValueError if the file has another structure.
    """
    if not boxes:
        return
    with path.open("r+b") as file:
        size, position = path.stat().st_size, 0
        while position < size:
            file.seek(position)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            length = int.from_bytes(head[8:], "big") if length == 1 else length
            if head[4:8] == b"moov" and position + length == size:
                file.seek(position)
                header = bytearray(file.read(length))
                _insert(header, boxes)
                file.seek(position)
                file.write(header)
                return
            if length < 8:
                break
            position += length
    raise ValueError("the header is not at the end of the file")


def _insert(moov: bytearray, boxes: bytes) -> None:
    for track in _boxes(moov, 8, len(moov), b"trak"):
        parents, begin = [0, track], track + 8
        for kind in _PATH:
            begin = next(_boxes(moov, begin, _end(moov, parents[-1]), kind), -1)
            if begin < 0:
                break
            parents.append(begin)
            begin += 8
        else:
            if moov.find(b"vmhd", track, _end(moov, track)) < 0:
                continue
            entry = begin + _FIXED_PART
            place = _end(moov, entry)
            for parent in (*parents, entry):
                moov[parent : parent + 4] = (int.from_bytes(moov[parent : parent + 4], "big") + len(boxes)).to_bytes(
                    4, "big"
                )
            moov[place:place] = boxes
            return
    raise ValueError("there is no video in the header")


def _boxes(data: bytearray, at: int, end: int, kind: bytes) -> Iterator[int]:
    while at + 8 <= end:
        if data[at + 4 : at + 8] == kind:
            yield at
        at = max(_end(data, at), at + 8)


def _end(data: bytearray, at: int) -> int:
    return at + int.from_bytes(data[at : at + 4], "big")


def _box(kind: bytes, content: bytes) -> bytes:
    return (8 + len(content)).to_bytes(4, "big") + kind + content


def _stereo_box(stereo: bytes | None) -> bytes:
    if stereo is None or len(stereo) < 8:
        return b""
    kind, flags = struct.unpack_from("=ii", stereo)
    return _box(b"st3d", bytes(4) + bytes([_STEREO_MODES[kind]])) if kind in _STEREO_MODES and not flags else b""


def _spherical_box(spherical: bytes | None) -> bytes:
    if spherical is None or len(spherical) < 36:
        return b""
    projection, yaw, pitch, roll = struct.unpack_from("=4i", spherical)
    left, top, right, bottom, padding = struct.unpack_from("=5I", spherical, 16)
    if projection in (_EQUIRECTANGULAR, _EQUIRECTANGULAR_TILE):
        shape = _box(b"equi", bytes(4) + struct.pack(">4I", top, bottom, left, right))
    elif projection == _CUBE and not padding:  # padding counts pixels of the input
        shape = _box(b"cbmp", bytes(12))
    else:
        return b""
    pose = _box(b"prhd", bytes(4) + struct.pack(">3i", yaw, pitch, roll))
    return _box(b"sv3d", _box(b"svhd", bytes(4) + b"vidsr\0") + _box(b"proj", pose + shape))
