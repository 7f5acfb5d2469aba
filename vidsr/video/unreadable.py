"""Video whose frames must not be used as they decode: encrypted, or Dolby Vision whose colors need its metadata."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import av
from av.sidedata.sidedata import Type

from vidsr.errors import InputError
from vidsr.video.frame_data import frame_data
from vidsr.video.side_data_kinds import header_block

# AV1 (10) and MV-HEVC (20) are IPT only if no other system can show them, which the compatibility 0 says.
_IPT_ALWAYS, _IPT_IF_INCOMPATIBLE = (5,), (10, 20)
# Places in FFmpeg's AVDOVIRpuDataHeader (dovi_meta.h): vdr_rpu_profile and bl_video_full_range_flag.
_RPU_PROFILE, _IS_FULL_RANGE, _RPU_HEADER_BYTES = 4, 10, 20
_CONFIGURATION = re.compile(r"DOVI configuration record:.*?profile: (\d+).*?compatibility id: (\d+)")
_TS_PACKET, _TS_SYNC = 188, 0x47
_HEAD_BYTES = 4 << 20
# The header of a TS packet says in two bits whether its payload is scrambled; packets of stray data may look so too.
_SCRAMBLED_SHARE = 0.25
_VIDEO_PES = re.compile(rb"\x00\x00\x01[\xe0-\xef]", re.DOTALL)
_ASF_PROTECTION = (  # Content Encryption Object, Extended Content Encryption Object
    bytes.fromhex("fbb3112223bdd211b4b700a0c955fc6e"),
    bytes.fromhex("14e68a292226174cb935dae07ee9289c"),
)
# Sample entries that stand for encrypted ones, and those of FairPlay; version and count before the entries of a table.
_PROTECTED_ENTRIES = (b"encv", b"enca", b"enct", b"encs", b"encm", b"drmi", b"drms")
_STSD_HEAD, _MOST_BOXES = 8, 100_000
_TRACKS_WITH_STREAM = (1, 2, 17)  # video, audio, subtitles: for the others FFmpeg makes no stream
_MOST_STREAMS = 1024


def is_encrypted(kinds: Iterable[str]) -> bool:
    """Whether the side data of a packet, by its kinds, says that it is encrypted (MP4, MOV)."""
    return "encryption_info" in kinds


def refuse_encrypted(kinds: Iterable[str], path: Path) -> None:
    """Raises InputError if a packet is encrypted. Decoders conceal errors, so that it may seem to decode."""
    if is_encrypted(kinds):
        raise InputError(encrypted(path))


def encrypted(path: Path) -> str:
    """The sentence about an encrypted file."""
    return f"{path} is encrypted, and vidsr does not decrypt: give a copy without encryption or copy protection"


def refuse_protected(container: str, stream: int, path: Path, head: bytes | None = None) -> None:
    """Raises InputError if the headers of a file (`container` is FFmpeg's name) say that a stream is encrypted."""
    if stream in protected_streams(container, path, head):
        raise InputError(encrypted(path))


def protected_streams(container: str, path: Path, head: bytes | None = None) -> frozenset[int]:
    """The indexes of the streams that the headers of a file call encrypted.

    Matroska: tracks with a ContentEncryption (RFC 9559, section 5.1.4.1.31). ASF: all, if there is a Content Encryption
    Object (Advanced Systems Format, sections 3.14 and 3.15). MPEG-PS: all, if a considerable part of the video's PES
    packets is scrambled, as CSS does on DVDs.
    """
    if "matroska" in container:
        return _encrypted_tracks(path, head)
    is_protected = (container == "asf" and _has_asf_protection(path, head)) or (
        container == "mpeg" and _is_css(path, head)
    )
    return frozenset(range(_MOST_STREAMS)) if is_protected else frozenset()


def is_protected_movie(path: Path) -> bool:
    """Whether an MP4 or MOV file describes encrypted samples (ISO/IEC 14496-12, section 8.12).

    FFmpeg marks the packets of files that it can open; this is for those whose encryption it cannot read.
    """
    with path.open("rb") as file:
        levels = [(0, file.seek(0, os.SEEK_END))]
        for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd"):
            levels = [(at, to) for begin, end in levels for name, at, to in _boxes(file, begin, end) if name == kind]
        entries = [name for begin, end in levels for name, *_ in _boxes(file, begin + _STSD_HEAD, end)]
    return any(name in _PROTECTED_ENTRIES for name in entries)


def _boxes(file: BinaryIO, begin: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, begin and end of the contents of the boxes between two places of an MP4 file."""
    for _ in range(_MOST_BOXES):
        if begin + 8 > end:
            return
        file.seek(begin)
        head = file.read(16)
        size, content = int.from_bytes(head[:4], "big"), begin + 8
        if size == 1:
            size, content = int.from_bytes(head[8:16], "big"), begin + 16
        following = end if size == 0 else begin + size
        if following < content:
            return
        yield head[4:8], content, min(following, end)
        begin = following


def _start(path: Path, head: bytes | None) -> BinaryIO:
    """The beginning of a file; `head` are the first bytes of one that cannot be opened again, such as a pipe."""
    return path.open("rb") if head is None else io.BytesIO(head)


def _is_css(path: Path, head: bytes | None) -> bool:
    with _start(path, head) as file:
        data = file.read(_HEAD_BYTES)
    flags = [data[found.end() + 2] for found in _VIDEO_PES.finditer(data, 0, len(data) - 2)]
    flags = [flag for flag in flags if flag & 0xC0 == 0x80]  # else MPEG-1, or no header
    return sum(flag & 0x30 != 0 for flag in flags) > _SCRAMBLED_SHARE * len(flags)


def _has_asf_protection(path: Path, head: bytes | None) -> bool:
    with _start(path, head) as file:
        head = file.read(30)
        end, at = int.from_bytes(head[16:24], "little"), 30
        while at + 24 <= min(end, _HEAD_BYTES):
            file.seek(at)
            entry = file.read(24)
            size = int.from_bytes(entry[16:24], "little")
            if entry[:16] in _ASF_PROTECTION:
                return True
            if size < 24:
                break
            at += size
    return False


def _encrypted_tracks(path: Path, head: bytes | None) -> frozenset[int]:
    with _start(path, head) as file:
        data = file.read(_HEAD_BYTES)
    found, index = set(), 0
    for segment in _elements(data, b"\x18\x53\x80\x67"):
        for tracks in _elements(segment, b"\x16\x54\xae\x6b"):
            for track in _elements(tracks, b"\xae"):
                kind = next(_elements(track, b"\x83"), b"")
                if int.from_bytes(kind, "big") not in _TRACKS_WITH_STREAM:
                    continue
                encodings = (
                    encoding
                    for encodings in _elements(track, b"\x6d\x80")
                    for encoding in _elements(encodings, b"\x62\x40")
                )
                if any(next(_elements(encoding, b"\x50\x35"), None) is not None for encoding in encodings):
                    found.add(index)
                index += 1
    return frozenset(found)


def _elements(data: bytes, wanted: bytes) -> Iterator[bytes]:
    """The contents of the EBML elements with an identifier on the top level of `data`."""
    at = 0
    while at < len(data):
        width = 9 - data[at].bit_length()
        start = at + width
        if width > 4 or start >= len(data):
            return
        length = 9 - data[start].bit_length()
        if length > 8:
            return
        size = int.from_bytes(data[start : start + length], "big") & (1 << 7 * length) - 1
        if size == (1 << 7 * length) - 1:
            size = len(data)  # unknown: to the end
        begin = start + length
        if data[at:start] == wanted:
            yield data[begin : begin + size]
        at = begin + size


def is_scrambled(path: Path, head: bytes | None = None) -> bool:
    """Whether a considerable part of the packets at the start of an MPEG-TS file is scrambled."""
    with _start(path, head) as file:
        data = file.read(_HEAD_BYTES)
    headers = [data[at : at + 4] for at in range(0, len(data) - 3, _TS_PACKET)]
    scrambled = sum(header[0] == _TS_SYNC and header[3] & 0x80 != 0 for header in headers)
    return scrambled > _SCRAMBLED_SHARE * len(headers)


def refuse_unmapped(description: str, stream: int, path: Path) -> None:
    """Raises InputError for Dolby Vision without a base layer that can be shown without its metadata.

    Its frames are IPT (profile 5), whose colors are wrong as RGB or YCbCr. FFmpeg maps them in the filter libplacebo,
    which PyAV's FFmpeg lacks. `description` is FFmpeg's, of the whole file.
    """
    for found in _CONFIGURATION.finditer(header_block(description, stream)):
        profile, compatibility = int(found[1]), int(found[2])
        if profile in _IPT_ALWAYS or (profile in _IPT_IF_INCOMPATIBLE and not compatibility):
            raise InputError(_unmapped(path, profile))


def refuse_unmapped_frame(frame: av.VideoFrame, description: str, stream: int, codec: str, path: Path) -> None:
    """`refuse_unmapped` by the metadata of the first frame, for files that do not state a profile, such as raw HEVC.

    Profiles 5 and 10.0 are the only ones whose metadata have an RPU profile of 0 and a base layer of full range, which
    FFmpeg's decoder goes by, too.
    """
    data = frame_data(frame, Type.DOVI_METADATA)
    if data is None or _CONFIGURATION.search(header_block(description, stream)):
        return
    begin = int.from_bytes(data[:8], sys.byteorder)  # FFmpeg's AVDOVIMetadata begins with the offset of its header
    header = data[begin : begin + _RPU_HEADER_BYTES]
    if len(header) == _RPU_HEADER_BYTES and header[_RPU_PROFILE] == 0 and header[_IS_FULL_RANGE]:
        raise InputError(_unmapped(path, 10 if codec == "av1" else 5))


def _unmapped(path: Path, profile: int) -> str:
    return (
        f"{path} is Dolby Vision of profile {profile}, whose colors (IPT) only its own metadata can map: "
        "convert it to HDR10 or SDR first, for example with FFmpeg's filter libplacebo"
    )
