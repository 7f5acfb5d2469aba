"""Whether a file ends where its container says it ends. Reads a few bytes of the file; decodes nothing.

FFmpeg reports a file that was cut off as one that ended, so the sizes that MP4, Matroska and AVI write at their
beginnings are compared with the size of the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_MOVIE_BOXES = (
    b"ftyp",
    b"moov",
    b"mdat",
    b"moof",
    b"free",
    b"skip",
    b"wide",
    b"uuid",
    b"sidx",
    b"styp",
    b"mfra",
    b"udta",
)
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def missing_bytes(path: Path) -> int:
    """How many bytes the container announces beyond the end of the file; 0 if none, or if the format does not say."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in _MOVIE_BOXES:
            end = _end_of_boxes(file, size)
        elif head[:4] == _EBML:
            end = _end_of_segment(file)
        elif head[:4] == b"RIFF":
            end = 8 + int.from_bytes(head[4:8], "little") if head[4:8] not in (b"\0\0\0\0", b"\xff\xff\xff\xff") else 0
        else:
            end = 0
    return max(0, end - size)


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last top-level box of an MP4 ends; junk after the boxes is not taken for one."""
    position = 0
    while position < size:
        file.seek(position)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if header[4:8] not in _MOVIE_BOXES or length < 8:
            return position
        position += length
    return position


def _end_of_segment(file: BinaryIO) -> int:
    """Where the first segment of a Matroska file ends; 0 if it does not say (live streams)."""
    file.seek(4)
    length = _ebml_size(file)
    if length is None:
        return 0
    file.seek(length, 1)
    if file.read(4) != _SEGMENT:
        return 0
    length = _ebml_size(file)
    return 0 if length is None else file.tell() + length


def _ebml_size(file: BinaryIO) -> int | None:
    """A size whose first byte tells by its leading zeros how many follow; None if unknown (all ones)."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] ^ (0x80 >> extra)]) + file.read(extra), "big")
    return None if value == (1 << 7 * (extra + 1)) - 1 else value
