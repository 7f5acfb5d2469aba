"""Decoding of the video stream with a record of all damage, and detection of truncated files."""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, cast

import av
from av.codec.codec import UnknownCodecError
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vidsr.config import SOFTWARE
from vidsr.types import Damage
from vidsr.video.errors import log_switched_on, plain_text, raise_shortage
from vidsr.video.side_data_kinds import kinds_of_frame, kinds_of_packet
from vidsr.video.timestamps import LONGEST, clear_absurd_times
from vidsr.video.unreadable import refuse_encrypted

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
    """Bytes that the container declares beyond the end of the file; 0 if none, or if it does not declare its size."""
    with path.open("rb") as file:
        return missing_bytes_of(file)


def missing_bytes_of(file: BinaryIO) -> int:
    """`missing_bytes` of a file that is open."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
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


def end_of_segment(path: Path) -> int:
    """End of the first segment of a Matroska file, in bytes; 0 for other files, and if its size is unknown."""
    with path.open("rb") as file:
        if file.read(4) != _EBML:
            return 0
        return _end_of_segment(file)


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """End of the last top-level box of an MP4 file, in bytes; junk after the boxes is ignored."""
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
    """End of the first segment of a Matroska file, in bytes; 0 if its size is unknown (live streams)."""
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
    """Reads an EBML variable-length size: the leading zeros of its first byte count the bytes that follow.

    None if the size is unknown (all ones) or cannot be read.
    """
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    extra = 8 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] ^ (0x80 >> extra)]) + file.read(extra), "big")
    return None if value == (1 << 7 * (extra + 1)) - 1 else value


# Decoders that read the alpha channel which VP8 and VP9 store beside the frames; FFmpeg's own leave it out.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


def decoder_of(stream: VideoStream) -> VideoCodecContext:
    """The decoder of a stream: its own, or one that also decodes an alpha channel that lies beside the frames."""
    own = stream.codec_context
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    name = _ALPHA_DECODERS.get(own.codec.canonical_name)
    if tags.get("alpha_mode") != "1" or name is None:
        return own
    try:
        return cast(VideoCodecContext, av.CodecContext.create(name, "r"))
    except UnknownCodecError:
        return own  # the report then names additional data of the blocks as lost


def acceleration_of(decoder: str) -> HWAccel | None:
    """What a file is opened with for a decoder of `hardware.py`; None for software. It never falls back by itself."""
    if decoder == SOFTWARE:
        return None
    kind, _, device = decoder.partition(":")
    return HWAccel(kind, device=device or None, allow_software_fallback=False)


# What FFmpeg's decoder of HEVC says of layers that it does not read, with which the first one is intact.
_OF_OTHER_LAYERS = ("Scalability type", "SPS 1 does not exist")

# The first byte of the units that end a sequence or a bitstream (H.264 and H.265, table 7-1).
_ENDS = {"h264": (10, 11), "hevc": (36 << 1, 37 << 1)}

# The longest reordering of any codec, in frames: a packet that this many later ones overtook gives no frame.
_LONGEST_REORDER = 16
# Packets without any time at the beginning are held, undecoded, until this many.
_LONGEST_HEAD = 1000


def _has_decoding_times_only(
    container: InputContainer, context: VideoCodecContext, head: list[av.Packet[VideoStream]]
) -> bool:
    """True if the file says when frames are decoded, but not when they are shown.

    These are AVI, its codecs in Matroska, and MP4 and MOV files whose writer left out the table of delays (VC-1): both
    times of each packet are then the same, although the codec reorders frames. `head` are the first packets.
    """
    first = head[0]
    if first.dts is None:
        return False
    if container.format.name == "avi" or first.pts is None:
        return True
    return _may_lack_delays(container, context) and all(packet.pts == packet.dts for packet in head)


def _may_lack_delays(container: InputContainer, context: VideoCodecContext) -> bool:
    return container.format.name.startswith("mov") and bool(context.has_b_frames)


class DisplaySlots:
    """Times of frames from the times at which their packets are decoded.

    In such files the packets lie in the order of decoding, one for each tick. FFmpeg's demuxer invents times of
    presentation for them, which are wrong if frames are reordered. As many frames are shown as are decoded, so the
    n-th frame is shown at the n-th packet's time. Packets without a frame give up their time.
    """

    def __init__(self, leaves_pts: bool = False) -> None:
        """With `leaves_pts`, frames have times of presentation after all from the first packet on that has its own."""
        self._leaves_pts, self._is_over = leaves_pts, False
        self._free: deque[int] = deque()
        self._waiting: dict[int, int] = {}  # number in the order of decoding of each packet without a frame, by time
        self._count = 0

    def add(self, packet: av.Packet[VideoStream]) -> None:
        """Adds the next packet, before it is decoded: its frame can be recognized by its time."""
        if self._leaves_pts and packet.pts != packet.dts:
            self._is_over = True
        if packet.dts is None or self._is_over:
            return
        packet.pts = packet.dts
        self._free.append(packet.dts)
        self._waiting[packet.dts] = self._count
        self._count += 1

    def placed(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The next frame in output order, with the time at which it is shown."""
        number = None if frame.pts is None else self._waiting.pop(frame.pts, None)
        if number is not None:
            reorder = 0 if frame.key_frame else _LONGEST_REORDER  # frames before a key frame are shown before it
            for time in [time for time, waiting in self._waiting.items() if waiting < number - reorder]:
                del self._waiting[time]
                if self._free:
                    self._free.popleft()
        elif self._is_over:
            return frame
        frame.pts = self._free.popleft() if self._free else None
        frame.dts = frame.pts
        return frame


class VideoDecoder:
    """Decodes the video stream of an open container from its current position to its end, past any damage.

    After an error the next packet is tried, until the container has no more. The caller sets `last_seconds`, the time
    of the last frame after the beginning of the file, which only it knows. `packets`, `frames_decoded` and
    `frames_discarded` are counts so far, and `side_data` the kinds of side data that were seen. `first_time` is the
    time of the first frame, in ticks, if it follows only from later ones.
    """

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        path: Path,
        correct: Callable[[av.Packet[VideoStream]], None] = lambda _: None,
    ) -> None:
        """`correct` is called with every packet before it is decoded, and may change its times."""
        self.damages: list[Damage] = []
        self.last_seconds: Fraction | None = None
        self.packets = 0
        self.frames_decoded = 0
        self.frames_discarded = 0
        self.side_data: set[str] = set()
        self.first_time: int | None = None
        self._lacks_display_times = False
        self._coming: deque[int] = deque(maxlen=2 * _LONGEST_REORDER)
        self._path = path
        self._container = container
        self._stream = stream
        self._context = decoder_of(stream)
        self._has_layers = bool(stream.disposition & Disposition.multilayer)
        self._correct = correct
        # With frame threads, PyAV loses the frames after an error while the decoder is flushed, and errors are reported
        # several frames late. Slice threads have neither problem.
        if not self._context.is_open:
            self._context.thread_type = "SLICE"
            self._context.options = {"err_detect": "crccheck"}

    def frames(self) -> Iterator[av.VideoFrame]:
        """Yields every frame that decodes, in output order, including those whose damage the decoder conceals.

        Where the container stores only the order of decoding, the frames get their times from `DisplaySlots`.
        """
        slots: DisplaySlots | None = None
        for packet in self._timed():
            if not self.packets and self._lacks_display_times:
                slots = DisplaySlots(leaves_pts=_may_lack_delays(self._container, self._context))
            self.packets += 1
            self.frames_discarded += packet.is_discard
            if packet.is_corrupt:
                self.record("the container flags a packet as damaged")
            self.side_data.update(kinds_of_packet(packet))
            refuse_encrypted(self.side_data, self._path)
            if self._context is not self._stream.codec_context:
                self.side_data.discard("matroska_block_additional")  # the alpha channel, which is decoded
            self._correct(packet)
            if slots is not None and not packet.is_discard:  # before the edit list: it gives no frame
                slots.add(packet)
            if packet.pts is not None:
                self._coming.append(packet.pts)
            for frame in self._decoded(packet):
                yield frame if slots is None else slots.placed(frame)
        for frame in self._decoded(None):
            yield frame if slots is None else slots.placed(frame)

    def coming(self, time: int) -> int | None:
        """The first time after `time` among the packets that were read last, in ticks; None if there is none."""
        return min((pts for pts in self._coming if pts > time), default=None)

    def record(self, reason: str) -> None:
        """Records damage after the last frame that was decoded."""
        seconds = None if self.last_seconds is None else float(self.last_seconds)
        self.damages.append(Damage(seconds, reason))

    def _timed(self) -> Iterator[av.Packet[VideoStream]]:
        """The stream's packets; `first_time` is known with the first one.

        Matroska files that were cut have frames before 0, whose times FFmpeg leaves out.
        """
        packets = self._packets()
        head: list[av.Packet[VideoStream]] = []
        known: list[int] = []
        untimed = 0
        may_lack_delays = _may_lack_delays(self._container, self._context)
        for packet in packets:
            head.append(packet)
            if packet.pts is None and packet.dts is None and not known:
                untimed += 1
            elif packet.pts is not None:
                known.append(packet.pts)
            is_undecided = may_lack_delays and packet.pts == packet.dts and len(head) <= _LONGEST_REORDER
            if (not untimed and not is_undecided) or len(known) > _LONGEST_REORDER or untimed > _LONGEST_HEAD:
                break
        if head:
            self._lacks_display_times = _has_decoding_times_only(self._container, self._context, head)
        if untimed and known:
            step = head[0].duration or 0
            self.first_time = min(known) - sum(packet.duration or step for packet in head[:untimed])
        yield from head
        yield from packets

    def _packets(self) -> Iterator[av.Packet[VideoStream]]:
        """The stream's packets without empty ones, which would end the decoding, past read errors where possible."""
        packets_before_error = -1
        while True:
            try:
                packets = self._container.demux(self._stream)
                while (packet := self._read(packets)) is not None:
                    if clear_absurd_times(packet):
                        self.record(f"the time of a packet is more than {LONGEST} s from 0")
                    if packet.size > 0:
                        yield packet
                return
            except IndexError:
                # Raised by PyAV at the end of a file in which streams appeared midway; all packets are read by then.
                return
            except av.error.FFmpegError as error:
                raise_shortage(error)
                self.record(f"the container could not be read: {plain_text(error)}")
                if self.packets == packets_before_error:
                    return
                packets_before_error = self.packets

    def _read(self, packets: Iterator[av.Packet[VideoStream]]) -> av.Packet[VideoStream] | None:
        """The next packet. Demuxers report skipped and missing data only in FFmpeg's log, so the log is read too."""
        with log_switched_on(), av.logging.Capture() as log:
            packet = next(packets, None)
        message = _logged_error(self._container.format.name, log)
        if message and not _is_end_of_sequence(packet, self._context.codec.canonical_name, message):
            self.record(f"the container is damaged: {message}")
        return packet

    def _decoded(self, packet: av.Packet[VideoStream] | None) -> Iterator[av.VideoFrame]:
        context, frames, failure = self._context, [], None
        # Several decoders report concealed damage only in the log. Slice threads log too, so the capture is not local.
        with log_switched_on(), av.logging.Capture(local=False) as log:
            try:
                frames = context.decode(packet)
            except (av.error.EOFError, av.error.BlockingIOError):
                pass
            except (av.error.FFmpegError, ValueError) as error:
                raise_shortage(error)
                failure = plain_text(error)
        message = _logged_error(context.codec.name, log, _OF_OTHER_LAYERS if self._has_layers else ())
        if failure is not None:
            self.record(f"a packet cannot be decoded: {message or failure}")
        elif message or any(frame.is_corrupt for frame in frames):
            self.record(f"a frame is damaged: {message or 'the decoder concealed it'}")
        self.frames_decoded += len(frames)
        for frame in frames:
            self.side_data.update(kinds_of_frame(frame))
        yield from frames


def _is_end_of_sequence(packet: av.Packet[VideoStream] | None, codec: str, message: str) -> bool:
    """Whether FFmpeg misses an image in a packet that ends a sequence, which has none.

    Tools put the metadata of Dolby Vision behind the unit that ends the sequence, so that they look like a frame.
    """
    if packet is None or codec not in _ENDS or not message.startswith("missing picture in access unit"):
        return False
    kind = re.match(rb"\x00{2,3}\x01(.)", bytes(packet), re.DOTALL)
    return kind is not None and kind[1][0] in _ENDS[codec]


def _logged_error(source: str, log: list[tuple[int, str, str]], ignored: tuple[str, ...] = ()) -> str:
    """The first error that this demuxer or decoder logged; others also complain about intact files.

    Errors that begin with one of `ignored` do not count. White space is collapsed. Empty if there is none.
    """
    messages = (" ".join(message.split()) for _, name, message in log if name == source)
    return next((message for message in messages if not message.startswith(ignored)), "")
