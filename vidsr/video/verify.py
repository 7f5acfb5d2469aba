"""Verification of a finished file: it is read back and compared with its expected contents.

Every packet of the file is read, at about the speed of the disk. Only the first frame, the frames from the last key
frame on, and stretched audio are decoded. This takes a few seconds per hour of video.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

import av
from av.codec.context import ThreadType
from av.container.input import InputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Discard, Disposition, Stream

from vidsr.errors import CheckError
from vidsr.video.demuxers import open_media
from vidsr.video.errors import plain_text, printable
from vidsr.video.messages import MessageChecksum
from vidsr.video.side_data_kinds import kinds_of_frame, losses

TEXT_CODECS = ("subrip", "mov_text", "webvtt", "ass", "text")
# Muxers or demuxers may split audio (where it is damaged, in any codec) and these subtitles into packets differently;
# the concatenated bytes stay the same.
_RESPLIT = ("hdmv_pgs",)


@dataclass(slots=True)
class PacketChecksum:
    """Number, total size in bytes, and CRC-32 of one stream's packets.

    `kind` is "audio", "subtitle", "data", "cover" or "attachment"; `name` is for messages. `moments`, for subtitles
    only, are time and duration of each packet in ticks of the output. `seconds`, for stretched audio only, is when it
    must begin and end in the output.
    """

    kind: str
    name: str
    codec: str
    tags: dict[str, str]
    disposition: Disposition
    packets: int = field(default=0)
    size: int = field(default=0)
    crc: int = field(default=0)
    moments: list[tuple[int | None, int | None]] = field(default_factory=list)
    seconds: tuple[Fraction, Fraction] | None = None

    def add(self, payload: bytes, moment: tuple[int | None, int | None] = (None, None)) -> None:
        """Adds a packet. Empty ones do not count: they are the gaps of mov_text, which muxers insert as they need."""
        if payload:
            if self.kind == "subtitle":
                self.moments.append(moment)
            self.packets += 1
            self.size += len(payload)
            self.crc = zlib.crc32(payload, self.crc)

    def differs_from(self, other: PacketChecksum) -> str | None:
        """The difference in words; None if the contents are the same."""
        may_be_split = self.kind == "audio" or self.codec.startswith(_RESPLIT)
        if self.packets != other.packets and not may_be_split:
            return f"{other.packets} packets instead of {self.packets}"
        if self.size != other.size:
            return f"{other.size} bytes instead of {self.size}"
        if self.crc != other.crc:
            return "other contents"
        return self._other_times(other) if len(self.moments) == len(other.moments) else None

    def _other_times(self, other: PacketChecksum) -> str | None:
        """The first time that differs, and for text, whose end every container stores, the first duration."""
        lasts = self.codec in TEXT_CODECS
        for number, (wanted, found) in enumerate(zip(sorted(self.moments), sorted(other.moments), strict=True)):
            if wanted[0] != found[0] or (lasts and wanted[1] and wanted[1] != found[1]):
                return f"packet {number} at {found[0]} for {found[1]} ticks instead of {wanted[0]} for {wanted[1]}"
        return None


def payload_of(codec: str, data: bytes) -> bytes:
    """The part of a packet that every container keeps: AAC without its ADTS header; nothing of empty mov_text."""
    if codec == "aac" and len(data) >= 7 and data[0] == 0xFF and data[1] & 0xF0 == 0xF0:  # as FFmpeg's filter finds it
        return data[7 if data[1] & 1 else 9 :]
    return b"" if codec == "mov_text" and data[:2] == b"\0\0" else data


SYNC_TOLERANCE = Fraction(1, 50)  # seconds
DEGREES_TOLERANCE = 0.0002  # of a position on Earth: 20 m, more than any container's rounding
_NUMBER = r"[+-]\d+(?:\.\d+)?"
_COORDINATES = re.compile(f"(?:{_NUMBER}){{2,3}}/?(?:CRS.*)?")  # ISO 6709: latitude, longitude, altitude


@dataclass(frozen=True, slots=True)
class Expected:
    """Expected contents of a file.

    `times` are the frame times in ticks of `time_base`, ascending; `size` is (width, height). `checksums` are of the
    other streams, in the order of the file; `tags` are the tags of the file as a whole. `side_data` are the kinds of
    side data of the input's video, and `messages` what was put beside the frames.
    """

    times: array[int]
    time_base: Fraction
    size: tuple[int, int]
    checksums: list[PacketChecksum]
    tags: dict[str, str]
    side_data: frozenset[str] = frozenset()
    messages: MessageChecksum | None = None


def verify(path: Path, name: str, expected: Expected) -> list[str]:
    """Checks a file, and returns warnings about tags, flags and side data that it does not keep.

    `name` is the file's name in messages. Raises CheckError if a frame, a time or a packet differs from `expected`.
    """
    try:
        with open_media(path) as container:
            return _Check(container, name, expected).run()
    except av.FFmpegError as error:
        raise CheckError(f"{name} cannot be read back ({plain_text(error)}); nothing was kept") from error


@dataclass(slots=True)
class _DecodedAudio:
    """Begin, end and length of a stretched audio stream as decoded, and its longest frame; in seconds."""

    checksum: PacketChecksum
    begin: Fraction | None = None
    end: Fraction = Fraction(0)
    length: Fraction = Fraction(0)
    frame: Fraction = Fraction(0)


class _Check:
    def __init__(self, container: InputContainer, name: str, expected: Expected) -> None:
        self.container, self.name, self.expected = container, name, expected
        covers = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
        videos = [s for s in container.streams.video if s not in covers]
        if not videos:
            self._fail("it has no video stream")
        self.video = videos[0]
        self.video.thread_type = ThreadType.AUTO  # a frame lost while flushing is noticed below
        self.side_data: set[str] = set()
        wanted = expected.messages
        self.messages = MessageChecksum(wanted.codec) if wanted is not None and wanted.count else None
        self.found: dict[int, PacketChecksum] = {}
        self.pairs: list[tuple[PacketChecksum, Stream]] = []
        self.decoded_audio: dict[int, _DecodedAudio] = {}
        copied = {
            kind: [s for s in container.streams if s.type == kind and s.discard != Discard.all]
            for kind in ("audio", "subtitle", "data", "attachment")
        }
        by_kind: dict[str, list[Stream]] = {**copied, "cover": list(covers)}
        for checksum in expected.checksums:
            if not by_kind[checksum.kind]:
                if checksum.packets:
                    self._fail(f"the copy of {checksum.name} is missing")
                continue
            stream = by_kind[checksum.kind].pop(0)
            self.found[stream.index] = PacketChecksum(
                checksum.kind, checksum.name, checksum.codec, dict(stream.metadata), stream.disposition
            )
            self.pairs.append((checksum, stream))
            if checksum.seconds is not None:
                self.decoded_audio[stream.index] = _DecodedAudio(checksum)

    def run(self) -> list[str]:
        """Runs all checks, the cheapest first."""
        width, height = self.video.codec_context.width, self.video.codec_context.height
        if (width, height) != self.expected.size:
            self._fail(f"its frames are {width}x{height} instead of {self.expected.size[0]}x{self.expected.size[1]}")
        times = array("q")
        last_key: int | None = None
        is_first_decoded = False
        for packet in self._packets():
            if packet.stream_index == self.video.index:
                if packet.pts is None:
                    self._fail("a frame has no time")
                times.append(packet.pts)
                last_key = packet.pts if packet.is_keyframe else last_key
                if self.messages is not None:
                    self.messages.add_packet(bytes(packet))
                if not is_first_decoded:
                    shown = self._decode(packet)
                    is_first_decoded = bool(shown)
                    self.side_data.update(*map(kinds_of_frame, shown))
            else:
                checksum = self.found[packet.stream_index]
                checksum.add(payload_of(checksum.codec, bytes(packet)), (packet.pts, packet.duration))
                if packet.stream_index in self.decoded_audio:
                    self._add_audio(packet)
        self._check_times(times)
        self._check_copies()
        self._check_audio()
        self._check_last_frame(last_key, max(times))
        self._check_messages()
        return [*self._lost_tags(), *losses(self.expected.side_data, self.side_data)]

    def _packets(self) -> Iterable[Packet[Any]]:
        wanted = [self.video, *(s for _, s in self.pairs if not isinstance(s, AttachmentStream))]
        for stream in self.container.streams:
            if stream not in wanted:
                stream.discard = Discard.all
        return (packet for packet in self.container.demux(wanted) if packet.size)

    def _decode(self, packet: Packet[Any]) -> list[Any]:
        try:
            return packet.decode()
        except av.FFmpegError as error:
            what = "frame" if packet.stream_index == self.video.index else "audio"
            self._fail(f"the {what} at tick {packet.pts} cannot be decoded ({plain_text(error)})")

    def _check_times(self, times: array[int]) -> None:
        expected, base = self.expected.times, self.expected.time_base
        if len(times) != len(expected):
            self._fail(f"it has {len(times)} frames instead of {len(expected)}")
        factor = base / (self.video.time_base or base)
        for number, (time, wanted) in enumerate(zip(sorted(times), expected, strict=True)):
            if time != wanted * factor:
                found, meant = float(time * (self.video.time_base or base)), float(wanted * base)
                self._fail(f"frame {number} is at {found:.6f} s instead of {meant:.6f} s")

    def _check_copies(self) -> None:
        for checksum, stream in self.pairs:
            found = self.found[stream.index]
            if isinstance(stream, AttachmentStream):
                found.add(stream.data)
            difference = checksum.differs_from(found)
            if difference is not None:
                self._fail(f"the copy of {checksum.name} has {difference}")

    def _add_audio(self, packet: Packet[Any]) -> None:
        audio, base = self.decoded_audio[packet.stream_index], packet.time_base
        if packet.pts is not None:
            audio.end = max(audio.end, (packet.pts + (packet.duration or 0)) * base)
        for frame in self._decode(packet):
            if audio.begin is None and frame.pts is not None:
                audio.begin = frame.pts * base
            audio.length += Fraction(frame.samples, frame.sample_rate)
            audio.frame = max(audio.frame, Fraction(frame.samples, frame.sample_rate))

    def _check_audio(self) -> None:
        """Checks when stretched audio begins and ends, and its decoded length.

        The last frame may be padded, because Matroska does not store how much of it is valid. If a track starts late,
        the encoder delay of up to one frame is played before it.
        """
        for audio in self.decoded_audio.values():
            begin, end = audio.checksum.seconds or (Fraction(0), Fraction(0))
            for what, found, wanted, less, more in (
                ("begins at", audio.begin or Fraction(0), begin, 1, 0),
                ("ends at", audio.end, end, 0, 1),
                ("has a length of", audio.length, end - begin, 0, 2),
            ):
                low, high = (SYNC_TOLERANCE + frames * audio.frame for frames in (less, more))
                if not -low <= found - wanted <= high:
                    self._fail(f"{audio.checksum.name} {what} {float(found):.3f} s instead of {float(wanted):.3f} s")

    def _check_messages(self) -> None:
        wanted, found = self.expected.messages, self.messages
        if wanted is None:
            return
        if found is not None and (wanted.count, wanted.crc) != (found.count, found.crc):
            self._fail(f"it has other data beside its frames ({found.count} messages instead of {wanted.count})")
        self.side_data = (self.side_data | wanted.kinds) - wanted.dropped

    def _check_last_frame(self, last_key: int | None, last: int) -> None:
        """Decodes from the last key frame to the end of the video."""
        if last_key is None:
            self._fail("it has no key frame")
        self.container.seek(last_key, stream=self.video)
        shown = []
        for frame in self.container.decode(self.video):
            shown.append(frame.pts)
            self.side_data.update(kinds_of_frame(frame))
        if not shown or max(pts for pts in shown if pts is not None) != last:
            self._fail("its last frame cannot be decoded")

    def _lost_tags(self) -> list[str]:
        found = dict(self.container.metadata)
        if "timecode" in self.video.metadata:  # MP4 and MOV keep the file's time code in a track of its own
            found["timecode"] = self.video.metadata["timecode"]
        lost = _missing(self.expected.tags, found)
        warnings = [f"{self.name} does not keep these tags of the input: {', '.join(lost)}"] if lost else []
        for checksum, stream in self.pairs:
            tags = {key: value for key, value in checksum.tags.items() if key != "creation_time"}  # the file's is kept
            lost = _missing(tags, dict(stream.metadata))
            flags = checksum.disposition & ~stream.disposition
            lost += [flag.name or "" for flag in Disposition if flag & flags]
            if lost:
                warnings.append(f"{self.name} does not keep this of {checksum.name}: {', '.join(lost)}")
        return warnings

    def _fail(self, what: str) -> NoReturn:
        raise CheckError(f"the finished {self.name} failed its check: {what}; nothing was kept")


def _missing(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """Keys whose value is missing or differs; keys ignore case, and values that say nothing are not compared."""
    present = {key.lower(): value for key, value in found.items()}
    return sorted(
        printable(k)
        for k, v in wanted.items()
        if not _is_empty(k.lower(), v) and not _is_same(v, present.get(k.lower()))
    )


def _is_empty(key: str, value: str) -> bool:
    """True for tags that say nothing: an undefined language, and a creation time that was never set."""
    if key == "creation_time":
        return value.startswith(("1970-01-01T00:00:00", "1904-01-01T00:00:00"))
    return key in ("handler_name", "filename", "mimetype") or (key == "language" and value == "und")


def _is_same(wanted: str, found: str | None) -> bool:
    """True for equal values, and for equal positions on Earth, which containers write with other numbers of digits."""
    if found is None or wanted == found:
        return found is not None
    places = [_COORDINATES.fullmatch(value) and re.findall(_NUMBER, value) for value in (wanted, found)]
    if not all(places):
        return False
    pairs = zip_longest(*([float(n) for n in place or ()] for place in places), fillvalue=0.0)
    return all(abs(a - b) <= DEGREES_TOLERANCE for a, b in pairs)
