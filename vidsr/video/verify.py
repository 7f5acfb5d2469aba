"""Reads a finished file back and compares it with what was meant to be in it.

Every packet of the file is read (about the speed of the disk); of the pictures only the first, and those after the
last key frame, are decoded, and all of sound that was stretched. That costs a few seconds for an hour of film, and the
encoder's work is not repeated.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import av
from av.codec.context import ThreadType
from av.container.input import InputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Discard, Disposition, Stream

from vidsr.errors import CheckError
from vidsr.video.errors import plain_text

# Muxers or demuxers cut these into other packets than they were given; the bytes in a row stay the same.
_RECUT = ("pcm_", "adpcm_", "eac3", "truehd", "mlp", "hdmv_pgs")


@dataclass(slots=True)
class PacketChecksum:
    """One stream's packets. `kind`: audio, subtitle, data, cover or attachment; `name` is for messages.

    `seconds`, of stretched sound only: when it must begin and end in the output.
    """

    kind: str
    name: str
    codec: str
    tags: dict[str, str]
    disposition: Disposition
    packets: int = field(default=0)
    size: int = field(default=0)
    crc: int = field(default=0)
    seconds: tuple[Fraction, Fraction] | None = None

    def add(self, payload: bytes) -> None:
        """Counts a packet; empty ones (the pauses of mov_text, which muxers make as they need) do not count."""
        if payload:
            self.packets += 1
            self.size += len(payload)
            self.crc = zlib.crc32(payload, self.crc)

    def differs_from(self, other: PacketChecksum) -> str | None:
        """What is not the same, in words; None if the contents are the same."""
        if self.packets != other.packets and not self.codec.startswith(_RECUT):
            return f"{other.packets} packets instead of {self.packets}"
        if self.size != other.size:
            return f"{other.size} bytes instead of {self.size}"
        return None if self.crc == other.crc else "other contents"


def payload_of(codec: str, data: bytes) -> bytes:
    """The part of a packet that every container keeps: AAC without its ADTS header, no empty mov_text."""
    if codec == "aac" and len(data) > 9 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return data[7 if data[1] & 1 else 9 :]
    return b"" if codec == "mov_text" and data[:2] == b"\0\0" else data


SYNC_TOLERANCE = Fraction(1, 50)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the file must hold: frame times in ticks of `time_base`, ascending; what was copied; the film's tags."""

    times: array[int]
    time_base: Fraction
    size: tuple[int, int]
    checksums: list[PacketChecksum]
    tags: dict[str, str]


def verify(path: Path, name: str, expected: Expected) -> list[str]:
    """Checks a file and gives warnings about tags that its container does not keep.

    `name` is how messages call it. Raises CheckError if a frame, a time or a copied packet is not as it should be.
    """
    try:
        with av.open(str(path), metadata_errors="surrogateescape") as container:
            return _Check(container, name, expected).run()
    except av.FFmpegError as error:
        raise CheckError(f"{name} cannot be read back ({plain_text(error)}); nothing was kept") from error


@dataclass(slots=True)
class _Sound:
    """What decoding a stretched sound gave, in seconds; `frame` is the length of its longest frame."""

    checksum: PacketChecksum
    begin: Fraction | None = None
    end: Fraction = Fraction(0)
    length: Fraction = Fraction(0)
    frame: Fraction = Fraction(0)


class _Check:
    def __init__(self, container: InputContainer, name: str, expected: Expected) -> None:
        self.container, self.name, self.expected = container, name, expected
        covers = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
        films = [s for s in container.streams.video if s not in covers]
        if not films:
            self._fail("it has no pictures")
        self.film = films[0]
        self.film.thread_type = ThreadType.AUTO  # a frame that draining loses is noticed below
        self.found: dict[int, PacketChecksum] = {}
        self.pairs: list[tuple[PacketChecksum, Stream]] = []
        self.sounds: dict[int, _Sound] = {}
        ours = {
            kind: [s for s in container.streams if s.type == kind and s.discard != Discard.all]
            for kind in ("audio", "subtitle", "data", "attachment")
        }
        by_kind: dict[str, list[Stream]] = {**ours, "cover": list(covers)}
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
                self.sounds[stream.index] = _Sound(checksum)

    def run(self) -> list[str]:
        """All checks, cheapest first."""
        width, height = self.film.codec_context.width, self.film.codec_context.height
        if (width, height) != self.expected.size:
            self._fail(f"its pictures are {width}x{height} instead of {self.expected.size[0]}x{self.expected.size[1]}")
        times = array("q")
        last_key: int | None = None
        is_first_decoded = False
        for packet in self._packets():
            if packet.stream_index == self.film.index:
                if packet.pts is None:
                    self._fail("a frame has no time")
                times.append(packet.pts)
                last_key = packet.pts if packet.is_keyframe else last_key
                is_first_decoded = is_first_decoded or bool(self._decode(packet))
            else:
                checksum = self.found[packet.stream_index]
                checksum.add(payload_of(checksum.codec, bytes(packet)))
                if packet.stream_index in self.sounds:
                    self._add_sound(packet)
        self._check_times(times)
        self._check_copies()
        self._check_sounds()
        self._check_last_frame(last_key, max(times))
        return self._lost_tags()

    def _packets(self) -> Iterable[Packet[Any]]:
        wanted = [self.film, *(s for _, s in self.pairs if not isinstance(s, AttachmentStream))]
        for stream in self.container.streams:
            if stream not in wanted:
                stream.discard = Discard.all
        return (packet for packet in self.container.demux(wanted) if packet.size)

    def _decode(self, packet: Packet[Any]) -> list[Any]:
        try:
            return packet.decode()
        except av.FFmpegError as error:
            what = "frame" if packet.stream_index == self.film.index else "sound"
            self._fail(f"the {what} at tick {packet.pts} cannot be decoded ({plain_text(error)})")

    def _check_times(self, times: array[int]) -> None:
        expected, base = self.expected.times, self.expected.time_base
        if len(times) != len(expected):
            self._fail(f"it has {len(times)} frames instead of {len(expected)}")
        factor = base / (self.film.time_base or base)
        for number, (time, wanted) in enumerate(zip(sorted(times), expected, strict=True)):
            if time != wanted * factor:
                found, meant = float(time * (self.film.time_base or base)), float(wanted * base)
                self._fail(f"frame {number} is at {found:.6f} s instead of {meant:.6f} s")

    def _check_copies(self) -> None:
        for checksum, stream in self.pairs:
            found = self.found[stream.index]
            if isinstance(stream, AttachmentStream):
                found.add(stream.data)
            difference = checksum.differs_from(found)
            if difference is not None:
                self._fail(f"the copy of {checksum.name} has {difference}")

    def _add_sound(self, packet: Packet[Any]) -> None:
        sound, base = self.sounds[packet.stream_index], packet.time_base
        if packet.pts is not None:
            sound.end = max(sound.end, (packet.pts + (packet.duration or 0)) * base)
        for frame in self._decode(packet):
            if sound.begin is None and frame.pts is not None:
                sound.begin = frame.pts * base
            sound.length += Fraction(frame.samples, frame.sample_rate)
            sound.frame = max(sound.frame, Fraction(frame.samples, frame.sample_rate))

    def _check_sounds(self) -> None:
        """Stretched sound must begin and end when it should, and there must be that much of it.

        Its last frame may be padded, as Matroska does not say how much of it counts, and where a track starts late the
        encoder's delay, at most a frame, is played before it.
        """
        for sound in self.sounds.values():
            begin, end = sound.checksum.seconds or (Fraction(0), Fraction(0))
            for what, found, wanted, less, more in (
                ("begins at", sound.begin or Fraction(0), begin, 1, 0),
                ("ends at", sound.end, end, 0, 1),
                ("has a length of", sound.length, end - begin, 0, 2),
            ):
                low, high = (SYNC_TOLERANCE + frames * sound.frame for frames in (less, more))
                if not -low <= found - wanted <= high:
                    self._fail(f"{sound.checksum.name} {what} {float(found):.3f} s instead of {float(wanted):.3f} s")

    def _check_last_frame(self, last_key: int | None, last: int) -> None:
        """Decodes from the last key frame to the end of the film."""
        if last_key is None:
            self._fail("it has no key frame")
        self.container.seek(last_key, stream=self.film)
        shown = [frame.pts for frame in self.container.decode(self.film)]
        if not shown or max(pts for pts in shown if pts is not None) != last:
            self._fail("its last frame cannot be decoded")

    def _lost_tags(self) -> list[str]:
        lost = _missing(self.expected.tags, dict(self.container.metadata))
        warnings = [f"{self.name} does not keep these tags of the film: {', '.join(lost)}"] if lost else []
        for checksum, stream in self.pairs:
            tags = {key: value for key, value in checksum.tags.items() if key != "creation_time"}  # the film's is kept
            lost = _missing(tags, dict(stream.metadata))
            flags = checksum.disposition & ~stream.disposition
            lost += [flag.name or "" for flag in Disposition if flag & flags]
            if lost:
                warnings.append(f"{self.name} does not keep this of {checksum.name}: {', '.join(lost)}")
        return warnings

    def _fail(self, what: str) -> NoReturn:
        raise CheckError(f"The finished {self.name} failed its check: {what}; nothing was kept")


def _missing(wanted: dict[str, str], found: dict[str, str]) -> list[str]:
    """Keys whose value is not there; case of the key does not count, nor an undefined language."""
    there = {key.lower(): value for key, value in found.items()}
    ignored = {"handler_name", "filename", "mimetype"} | ({"language"} if wanted.get("language") == "und" else set())
    return sorted(k for k, v in wanted.items() if k.lower() not in ignored and there.get(k.lower()) != v)
