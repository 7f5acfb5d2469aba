"""Decodes the packets of one stream, records every loss, and checks whether a file ends where its container says."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from vidsr.types import Damage
from vidsr.video.errors import log_switched_on, plain_text

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


class VideoDecoder:
    """Decodes the film of an open container from where it stands to its end, whatever happens on the way.

    Damage never ends the film early: after an error the next packet is tried, until the container gives no more.
    `last_seconds` is kept up to date by the caller, who knows the times of the frames.
    """

    def __init__(self, container: InputContainer, film: VideoStream) -> None:
        self.damages: list[Damage] = []
        self.last_seconds: Fraction | None = None
        self.packets = 0
        self.frames_decoded = 0
        self.frames_discarded = 0
        self._container = container
        self._film = film
        # With frame threads PyAV loses the frames behind an error while the decoder is drained, and errors surface
        # frames too late; slices are decoded in parallel without either.
        if not film.codec_context.is_open:
            film.codec_context.thread_type = "SLICE"
            film.codec_context.options = {"err_detect": "crccheck"}

    def frames(self) -> Iterator[av.VideoFrame]:
        """Every frame that decodes, in output order, those that conceal damage included."""
        for packet in self._packets():
            self.packets += 1
            self.frames_discarded += packet.is_discard
            if packet.is_corrupt:
                self.record("the container marks a packet as damaged")
            yield from self._decoded(packet)
        yield from self._decoded(None)

    def record(self, reason: str) -> None:
        """Notes a loss after the last frame given."""
        seconds = None if self.last_seconds is None else float(self.last_seconds)
        self.damages.append(Damage(seconds, reason))

    def _packets(self) -> Iterator[av.Packet[VideoStream]]:
        """The film's packets that hold data (an empty one would end the decoding), past read errors where possible."""
        packets_before_error = -1
        while True:
            try:
                packets = self._container.demux(self._film)
                while (packet := self._read(packets)) is not None:
                    if packet.size > 0:
                        yield packet
                return
            except IndexError:
                # PyAV at the end of a file in which streams appeared on the way; every packet has been given by then.
                return
            except av.error.FFmpegError as error:
                self.record(f"the container cannot be read on: {plain_text(error)}")
                if self.packets == packets_before_error:
                    return
                packets_before_error = self.packets

    def _read(self, packets: Iterator[av.Packet[VideoStream]]) -> av.Packet[VideoStream] | None:
        """The next packet. What a container skips over or lacks it only writes to its log, so that is read too."""
        with log_switched_on(), av.logging.Capture() as log:
            packet = next(packets, None)
        if said := _said_by(self._container.format.name, log):
            self.record(f"the container is damaged: {said}")
        return packet

    def _decoded(self, packet: av.Packet[VideoStream] | None) -> Iterator[av.VideoFrame]:
        context, frames, failure = self._film.codec_context, [], None
        # Several decoders patch up a picture, say so in the log and nowhere else. Slice threads log too: not local.
        with log_switched_on(), av.logging.Capture(local=False) as log:
            try:
                frames = context.decode(packet)
            except (av.error.EOFError, av.error.BlockingIOError):
                pass
            except (av.error.FFmpegError, ValueError) as error:
                failure = plain_text(error)
        said = _said_by(context.codec.name, log)
        if failure is not None:
            self.record(f"a packet cannot be decoded: {said or failure}")
        elif said or any(frame.is_corrupt for frame in frames):
            self.record(f"a picture is damaged: {said or 'the decoder patched it up'}")
        self.frames_decoded += len(frames)
        yield from frames


def _said_by(source: str, log: list[tuple[int, str, str]]) -> str:
    """The first error in a log from this demuxer or decoder; libraries around them complain about healthy files."""
    return next((" ".join(message.split()) for _, name, message in log if name == source), "")
