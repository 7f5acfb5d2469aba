"""Segments: a video that is encoded in pieces, each into a file of its own, and joined without encoding it again.

Each segment has its own encoder, so that it begins with a key frame and refers to no other segment. Its file holds the
encoder's packets in their order, each with the time at which it is shown. The decoding times are chosen when all
segments are known: the n-th packet of the video is decoded when the frame that is shown D places earlier is, with the
smallest D that no frame contradicts. So they increase across borders, whatever the encoder makes of the frames at its
beginning.
"""

from __future__ import annotations

import copy
import hashlib
import io
import os
import struct
from array import array
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import av
from av.packet import Packet
from av.video.stream import VideoStream

from vidsr.errors import CheckError, OutputError
from vidsr.files import HiddenFile, stale_warnings
from vidsr.runtime.priority import open_with_low_priority
from vidsr.types import Frame
from vidsr.video.containers import muxer_of, open_output
from vidsr.video.encoder import Encoder
from vidsr.video.errors import writing
from vidsr.video.messages import MessageChecksum
from vidsr.video.muxer import Muxer, add_video
from vidsr.video.output import OutputPlan
from vidsr.video.output_times import OutputTimes
from vidsr.video.timestamps import to_ticks
from vidsr.video.writer import Content, complete

# Encoders whose segments, joined, decode to the frames of the segments (tests/media/test_segments.py), and those of
# NVIDIA's hardware, which make the same streams. Others would have to be tried first. libx265 joins too, but it has
# aborted the process when the encoder of a last, short segment was freed, and the cause is not known.
JOINED_ENCODERS = frozenset(
    {"libx264", "libx264rgb", "libsvtav1", "libvpx-vp9", "libvpx", "ffv1", "prores_ks", "mpeg4"}
    | {"h264_nvenc", "hevc_nvenc", "av1_nvenc"}
)
_MAGIC = b"vidsr segment 1\n"
_PACKET = struct.Struct("<qqBI")  # time, duration, whether it is a key frame, size of the data that follows


@dataclass(frozen=True, slots=True)
class Segment:
    """A finished segment: its file in the job's folder, with size and SHA-256, and its frames.

    `end` is when its last frame ends, in ticks of the encoder.
    """

    name: str
    size: int
    sha256: str
    frames: int
    end: int

    def is_intact(self, folder: Path) -> bool:
        """Whether the file is what was written."""
        path = folder / self.name
        try:
            if path.stat().st_size != self.size:
                return False
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256
        except OSError:
            return False


def segment_name(number: int) -> str:
    """The name of the file of a segment; they count from 0."""
    return f"segment-{number:06}"


class WriterState(NamedTuple):
    """What a `SegmentWriter` has to know of the segments before a border; plain data."""

    placing: OutputTimes | None
    messages: MessageChecksum | None
    segments: list[Segment]
    warnings: list[str]


class SegmentWriter:
    """Writes one video as planned, in segments. Use it as a context manager, from one thread at a time.

    `cut` ends a segment, whose file is then complete and on the disk. `join` makes the video of all segments. Leaving
    the `with` block removes the segment that is not finished; the finished ones stay in the folder. `warnings` name
    what is not carried over, and are complete after `join`.
    """

    def __init__(self, plan: OutputPlan, folder: Path, state: WriterState | None = None, number: int = 0) -> None:
        """`folder` exists and belongs to this run. With a `state` the writer goes on after the segments in it.

        `number` is that of the first segment: those before it are written by others.
        """
        self.plan = plan
        self._folder, self._number = folder, number
        self._placing, self._messages, segments, warnings = state or WriterState(None, None, [], list(plan.warnings))
        self._segments = list(segments)
        self._hidden: HiddenFile | None = None
        self.warnings = list(warnings)
        self._piece: _Piece | None = None
        self._out_base: Fraction
        self._audio_start: Fraction | None
        self._extradata: bytes | None

    def __enter__(self) -> Self:
        plan = self.plan
        self.warnings += stale_warnings(plan.target.absolute().parent)
        with writing(plan.target):
            muxer = Muxer(io.BytesIO(), plan)
            try:
                muxer.begin()
                self._out_base, self._audio_start = muxer.time_base, muxer.copies.audio_start
                self._extradata = muxer.context.extradata
            finally:
                muxer.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._piece is not None:
            self._piece.discard()
            self._piece = None

    @property
    def state(self) -> WriterState:
        """The state at a border; `cut` has been called since the last frame."""
        assert self._piece is None, "the segment before the border has not been ended"
        return copy.deepcopy(WriterState(self._placing, self._messages, self._segments, self.warnings))

    @property
    def frames(self) -> int:
        """The number of frames in finished segments."""
        return sum(segment.frames for segment in self._segments)

    def write(self, frame: Frame) -> None:
        """Encodes the next frame, of the planned size. Raises OutputError; frame times must increase."""
        with writing(self.plan.target):
            placing = self._placing or self.begin(frame.pts * frame.time_base)
            if self._piece is None:
                path = self._folder / segment_name(self._number + len(self._segments))
                self._piece = _Piece(self.plan, path, self._extradata, self._messages)
            self._piece.write(frame, placing)

    def begin(self, time: Fraction) -> OutputTimes:
        """Chooses how all streams are moved, from the time of the first frame; for a video written by several."""
        assert self._placing is None, "the first frame has been written"
        self._placing = OutputTimes(self.plan.info.time_base, self._out_base)
        self.warnings += self._placing.begin(self.plan, time, self._audio_start)
        return self._placing

    def take(self, segment: Segment, written: WriterState) -> None:
        """Adds the next segment, which another writer has written; `written` is that one's state at its end.

        Raises OutputError if its first frame does not come after the last one.
        """
        placing, messages = written.placing, written.messages
        assert self._placing is not None and placing is not None and messages is not None, "both have begun"
        first = to_ticks(min(pts for pts, _ in _read_times(self._folder / segment.name)) * placing.base, self._out_base)
        if self._segments and first <= self._placing.last_out_pts:
            raise OutputError(
                f"{self.plan.target.name}: the frame after {float(first * self._out_base):.3f} s does not come after "
                "the one before it, so this video cannot be made by several devices: leave out --devices and --cluster"
            )
        self._placing.add(placing)
        if self._messages is None:
            self._messages = copy.deepcopy(messages)
        else:
            self._messages.join(messages)
        self._segments.append(segment)

    def cut(self, is_end: bool = False) -> Segment | None:
        """Ends the current segment and returns it; None if it has no frames. Raises OutputError or CheckError."""
        if self._piece is None:
            return None
        with writing(self.plan.target):
            segment = self._piece.finish(is_end)
        self._messages, self._piece = self._piece.messages, None
        self._segments.append(segment)
        return segment

    def join(self, is_strict: bool = False, side_data: Collection[str] = ()) -> None:
        """Ends the last segment, and makes and checks the video, as `Writer.commit` does with the same errors.

        Also raises CheckError if a segment is not what was written.
        """
        plan = self.plan
        self.cut(is_end=True)
        if self._placing is None or self._messages is None or not self._segments:
            raise OutputError(f"{plan.target.name}: there is no frame to write")
        self._hidden = hidden = HiddenFile(plan.target, overwrite=plan.options.overwrite)
        with writing(plan.target), hidden:
            muxer = Muxer(hidden.path, plan)
            try:
                muxer.begin()
                muxer.copies.shift = self._placing.shift / plan.stretch
                end = self._segments[-1].end * plan.info.time_base
                content = Content(self._mux(muxer), end, self._messages)
                found = complete(plan, muxer, hidden, content, is_strict, side_data)
            finally:
                muxer.close()
        self.warnings += [*self._placing.warnings(plan.target), *found]

    @property
    def is_published(self) -> bool:
        """Whether the video has its final name."""
        return self._hidden is not None and self._hidden.is_published

    def _mux(self, muxer: Muxer) -> array[int]:
        """Writes the packets of all segments; returns the times of the frames in ticks of the file, ascending."""
        base = self.plan.encoding.time_base
        shown = array("q")
        for segment in self._segments:
            shown.extend(pts for pts, _ in _read_times(self._folder / segment.name))
        decoded = array("q", decoding_times(shown, to_ticks(1 / self.plan.encoding.rate, base)))
        number = 0
        for segment in self._segments:
            for packet in _read_packets(self._folder, segment):
                packet.dts, packet.time_base = decoded[number], base
                number += 1
                muxer.write([packet])
        return array("q", (to_ticks(pts * base, muxer.time_base) for pts in sorted(shown)))


class _Piece:
    """The segment that is being written: an encoder, and a file that gets its final name when it is complete."""

    def __init__(self, plan: OutputPlan, path: Path, extradata: bytes | None, messages: MessageChecksum | None) -> None:
        """`extradata`: what the header of the video says to decoders, which has to be true for every segment.

        `messages` are those of the segments before.
        """
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._target, self._extradata = plan.target, extradata
        self._container = open_output(io.BytesIO(), muxer_of(plan.target), plan.encoding.time_base)
        self._file: BinaryIO | None = None
        try:
            self._context = add_video(self._container, plan).codec_context
            open_with_low_priority(self._context.open)
            self._encoder = Encoder(self._context, plan.encoding, plan.size, messages)
            self._file = self._part.open("wb")
            self._hash = hashlib.sha256()
            self._size = 0
            self._put(_MAGIC)
        except BaseException:
            self.discard()
            raise
        self._given, self._got = array("q"), array("q")
        self._begins_with_key = False

    @property
    def messages(self) -> MessageChecksum:
        return self._encoder.messages

    def write(self, frame: Frame, placing: OutputTimes) -> None:
        placed = placing.place(frame, self._target)
        self._given.append(placed.pts)
        self._put_packets(self._encoder.encode(frame.image, placed.pts, placed.duration, frame.messages))

    def finish(self, is_end: bool) -> Segment:
        self._put_packets(self._encoder.flush(is_end))
        assert self._file is not None and self._encoder.end is not None
        if sorted(self._got) != self._given.tolist() or not self._begins_with_key:
            raise CheckError(
                f"{self._target.name}: the encoder returned other frames than it was given; nothing was kept"
            )
        if self._context.extradata != self._extradata:
            raise CheckError(
                f"{self._target.name}: the encoder describes its output differently each time, so that segments "
                "cannot be joined: use --no-resume, or another --codec"
            )
        self._file.flush()
        os.fsync(self._file.fileno())
        self._close()
        self._part.replace(self._path)
        return Segment(self._path.name, self._size, self._hash.hexdigest(), len(self._given), self._encoder.end)

    def discard(self) -> None:
        """Removes the unfinished file."""
        with suppress(OSError):  # the last bytes may not find room on the disk
            self._close()
        self._part.unlink(missing_ok=True)

    def _close(self) -> None:
        with suppress(av.FFmpegError, OSError):  # nothing was muxed
            self._container.close()
        if self._file is not None:
            self._file.close()

    def _put_packets(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            assert packet.pts is not None
            if not self._got:
                self._begins_with_key = packet.is_keyframe
            self._got.append(packet.pts)
            self._put(_PACKET.pack(packet.pts, packet.duration or 0, packet.is_keyframe, packet.size))
            self._put(bytes(packet))

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._hash.update(data)
        self._size += len(data)


def decoding_times(shown: Sequence[int], step: int) -> Iterator[int]:
    """The decoding times of packets that are `shown` at these times; both in the order of decoding.

    They increase, and no packet is decoded after it is shown. Before the first time they go on in steps of `step`.
    """
    ordered = sorted(shown)
    delay = max((number - bisect_left(ordered, time) for number, time in enumerate(shown)), default=0)
    for number in range(len(ordered)):
        yield ordered[number - delay] if number >= delay else ordered[0] - (delay - number) * max(1, step)


def _read_times(path: Path) -> Iterator[tuple[int, int]]:
    """The time and the size of each packet of a segment, in the order of decoding."""
    with path.open("rb") as file:
        file.seek(len(_MAGIC))
        while len(head := file.read(_PACKET.size)) == _PACKET.size:
            pts, _, _, size = _PACKET.unpack(head)
            yield pts, size
            file.seek(size, os.SEEK_CUR)


def _read_packets(folder: Path, segment: Segment) -> Iterator[Packet[Any]]:
    """The packets of a segment. Raises CheckError, after the last one, if the file is not what was written."""
    digest, path = hashlib.sha256(), folder / segment.name
    with path.open("rb") as file:
        digest.update(file.read(len(_MAGIC)))
        while len(head := file.read(_PACKET.size)) == _PACKET.size:
            pts, duration, is_key, size = _PACKET.unpack(head)
            data = file.read(size)
            digest.update(head)
            digest.update(data)
            packet: Packet[Any] = Packet(data)
            packet.pts, packet.duration, packet.is_keyframe = pts, duration, bool(is_key)
            yield packet
        digest.update(head)
    if digest.hexdigest() != segment.sha256:
        raise CheckError(
            f"{path} is not what was written, and the video was not made: run the same command again, which makes this "
            "part anew"
        )
