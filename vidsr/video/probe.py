"""Probing of an input file: its streams, and the properties of the video from the header and the first frame."""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, Self, cast

import av
from av.container import InputContainer
from av.packet import Packet
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.stream import VideoStream

from vidsr.config import SOFTWARE
from vidsr.errors import DeviceError, InputError
from vidsr.files import WatchedFile
from vidsr.types import StreamInfo, VideoInfo
from vidsr.video.clock import can_jump, find_jumps
from vidsr.video.color import color_of
from vidsr.video.decoding import acceleration_of, decoder_of
from vidsr.video.demuxers import Demuxer, open_file
from vidsr.video.errors import error_detail, log_switched_on, plain_text, raise_shortage, reading
from vidsr.video.frame_data import frame_data
from vidsr.video.pixel_formats import layout_of
from vidsr.video.side_data_kinds import kinds_of_packet
from vidsr.video.timestamps import clear_absurd_times
from vidsr.video.unreadable import (
    encrypted,
    is_scrambled,
    refuse_encrypted,
    refuse_protected,
    refuse_unmapped,
    refuse_unmapped_frame,
)

# How each encoder takes light levels: (list option, mastering key, light key, True for integers in HEVC SEI units).
_LISTS = {
    "libx264": ("x264-params", "mastering-display", "cll", True),
    "libx265": ("x265-params", "master-display", "max-cll", True),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light", False),
}


# How much of a stream is tried before a run: some audio decoders give nothing for the first packets.
FIRST_PACKETS = 8
FIRST_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class SideData:
    """Side data of a video.

    `matrix` is FFmpeg's display matrix (nine numbers). `mastering` is the mastering display: (x, y) of red, green, blue
    and white, then minimum and maximum luminance in cd/m2. `light` is MaxCLL and MaxFALL in cd/m2. `spherical` and
    `stereo` are FFmpeg's AVSphericalMapping and AVStereo3D.
    """

    matrix: tuple[int, ...] | None = None
    mastering: tuple[Fraction, ...] | None = None
    light: tuple[int, int] | None = None
    spherical: bytes | None = None
    stereo: bytes | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """An input video file. The caller closes the containers that it opens.

    Probing, decoding and copying each open the file on their own. `demuxer` is the format if the user names it;
    `decoder` is what decodes the frames of the video for a run, see `hardware.py`.
    """

    path: Path
    demuxer: Demuxer | None = field(default=None, kw_only=True)
    decoder: str = field(default=SOFTWARE, kw_only=True)

    @classmethod
    def of(cls, source: Source | Path) -> Source:
        """The source at a path; a source is returned unchanged."""
        return source if isinstance(source, Source) else cls(source)

    def open(self, metadata_errors: str = "replace") -> InputContainer:
        """Opens the container; `metadata_errors` says how tags that are not UTF-8 are decoded. Raises InputError."""
        return open_file(self.path, metadata_errors, self.demuxer)

    @property
    def head(self) -> bytes | None:
        """The first bytes of a source that cannot be opened again; None for a file."""
        return None

    @property
    def is_stream(self) -> bool:
        """Whether it can be read only once."""
        return False

    def open_frames(self) -> InputContainer:
        """Opens the container to read the frames of the video. Raises InputError, or DeviceError for the decoder."""
        if self.decoder == SOFTWARE:
            return self.open()
        try:
            return open_file(self.path, "replace", self.demuxer, acceleration_of(self.decoder))
        except (InputError, RuntimeError, ValueError) as error:  # FFmpeg's errors, and PyAV's
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise DeviceError(f"{self.decoder} does not work here ({error_detail(cause)})") from error

    def decoded_by(self, decoder: str) -> Self:
        """This source with another decoder."""
        return replace(self, decoder=decoder)

    def open_copies(self, metadata_errors: str) -> InputContainer:
        """Opens the container to copy its other streams. Raises InputError."""
        return self.open(metadata_errors)

    def begin(self) -> None:
        """Says that frames are read from now on."""

    def release_copies(self) -> None:
        """Says that nothing is copied."""

    def cancel(self) -> None:
        """Ends a read that waits; a file never waits."""

    def watched(self) -> WatchedFile | None:
        """The file, held open to notice changes; None for a source that cannot be watched. The caller closes it."""
        return WatchedFile(self.path)

    def video_of(self, container: InputContainer) -> VideoStream:
        """The default video stream, else the first; cover art does not count. Raises InputError without a video."""
        return video_of(container, self.path)

    def probe(self) -> VideoInfo:
        """Describes the video. Raises InputError if the file has none or cannot be opened."""
        with self.open() as container, reading(self.path):
            return describe(container, self.video_of(container), self.path)

    def with_clock(self, info: VideoInfo, end: Fraction | None = None) -> VideoInfo:
        """The description of this source with the jumps of its clock, up to `end` seconds after the first frame.

        If the clock may jump in files of this format, all packets are read.
        """
        with self.open() as container, reading(self.path):
            if not can_jump(container, self.path):
                return info
            jumps, seconds = find_jumps(container, info.video_stream, end)
        if seconds is None:
            return info
        return replace(info, clock=jumps, header_duration_seconds=float(seconds))

    def side_data(self, stream: int) -> SideData:
        """Side data of the first decodable frame of a stream; empty if no frame decodes."""
        try:
            with self.open() as container:
                for frame in container.decode(cast(VideoStream, container.streams[stream])):
                    return SideData(
                        matrix=_matrix(frame_data(frame, Type.DISPLAYMATRIX)),
                        mastering=_mastering(frame_data(frame, Type.MASTERING_DISPLAY_METADATA)),
                        light=_light(frame_data(frame, Type.CONTENT_LIGHT_LEVEL)),
                        spherical=frame_data(frame, Type.SPHERICAL),
                        stereo=frame_data(frame, Type.STEREO3D),
                    )
        except (av.FFmpegError, InputError):
            pass  # the reader reports an unreadable video
        return SideData()

    def first_packets(self) -> dict[int, list[Packet[Any]]]:
        """The first packets of every stream, at most FIRST_PACKETS of each, within the first FIRST_BYTES of packets."""
        found: dict[int, list[Packet[Any]]] = {}
        size = 0
        try:
            with self.open() as container:
                found = {stream.index: [] for stream in container.streams}
                for packet in container.demux():
                    packets = found.setdefault(packet.stream_index, [])
                    size += packet.size
                    clear_absurd_times(packet)
                    if packet.size and len(packets) < FIRST_PACKETS:
                        packets.append(packet)
                    if size > FIRST_BYTES or all(len(each) == FIRST_PACKETS for each in found.values()):
                        break
        except (av.FFmpegError, InputError, IndexError):
            pass  # the run reports what cannot be read
        return found

    def attached_picture(self, stream: int) -> bytes:
        """The first packet of a stream that holds an image, such as a cover; empty if there is none."""
        with self.open() as container:
            for packet in container.demux(container.streams[stream]):
                if packet.size:
                    return bytes(packet)
        return b""


def light_options(data: SideData, codec: str) -> tuple[tuple[str, str], ...] | None:
    """The encoder options that keep the HDR light levels; None if the encoder cannot store the levels that exist."""
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
    # The translation is dropped: it is in source pixels, and players shift the rotated image back anyway.
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


_CHROMA_LOCATIONS = frozenset({"left", "center", "topleft", "top", "bottomleft", "bottom"})
_FIELD_ORDERS = {
    "top first": "tff",
    "bottom first": "bff",
    "top coded first (swapped)": "bff",
    "bottom coded first (swapped)": "tff",
}


def probe(path: Path) -> VideoInfo:
    """Describes the video in a file. Raises InputError if it has none or cannot be opened."""
    return Source(path).probe()


def video_of(container: InputContainer, path: Path) -> VideoStream:
    """The default video stream, else the first; cover art does not count. Raises InputError without a video.

    Of several, those that FFmpeg can decode come first, and then those of more than one frame: an animated AVIF has a
    still image beside its video, and covers are not always marked as such.
    """
    streams = list(container.streams.video)
    videos = [stream for stream in streams if not _is_cover(stream)]
    videos = [stream for stream in videos if stream.codec_context is not None] or videos
    videos = [stream for stream in videos if stream.frames != 1] or videos
    if not videos:
        kinds = {stream.type for stream in container.streams}
        if streams:
            raise InputError(f"{path} has only cover art, no video")
        raise InputError(f"{path} has no video stream" + (", only audio" if kinds == {"audio"} else ""))
    video = next((stream for stream in videos if stream.disposition & Disposition.default), videos[0])
    if video.codec_context is None:
        raise InputError(f"{path} uses a video codec that this FFmpeg cannot decode")
    if not video.disposition & Disposition.default and any(s.disposition & Disposition.dependent for s in streams):
        # Beside the tiles there may be a thumbnail, which is no tile and looks like the only whole image.
        raise InputError(f"{path} is an image made of tiles, which vidsr cannot join: convert it to .png or .jpg first")
    if _is_image_file(container) and video.frames == 1 and not video.disposition & Disposition.default:
        # FFmpeg marks the image that is to be shown, unless it is derived from others, which are all that it gives.
        raise InputError(
            f"{path} shows an image that is made of others (turned, cropped or laid over each other), which vidsr "
            "cannot make: convert it to .png or .jpg first"
        )
    return video


def _is_image_file(container: InputContainer) -> bool:
    """Whether a file says that it holds images (HEIF, ISO/IEC 23008-12, section 10.2)."""
    brands = container.metadata.get("major_brand", "") + container.metadata.get("compatible_brands", "")
    return container.format.name.startswith("mov") and "mif1" in brands


def describe(container: InputContainer, video: VideoStream, path: Path, head: bytes | None = None) -> VideoInfo:
    """Describes a video stream by its header and first frame, and leaves the container at an undefined position.

    `head` are the first bytes of a pipe, which cannot be opened again. Raises InputError if no frame decodes.
    """
    _refuse_pages(container, path)
    refuse_protected(container.format.name, video.index, path, head)
    text = header_text(container)
    refuse_unmapped(text, video.index, path)
    frame = _first_frame(container, video, path, head)
    refuse_unmapped_frame(frame, text, video.index, video.codec_context.codec.canonical_name, path)
    location, field_order = _header_words(container, video)
    context = video.codec_context
    layout = layout_of(frame.format.name)
    aspect = video.sample_aspect_ratio
    seconds = video.duration * video.time_base if video.duration and video.time_base else None
    if seconds is None and container.duration:
        seconds = Fraction(container.duration, av.time_base)
    return VideoInfo(
        path=str(path),
        container=container.format.name,
        video_stream=video.index,
        codec=context.codec.canonical_name,
        width=frame.width,
        height=frame.height,
        pixel_format=frame.format.name,
        bit_depth=layout.bits,
        time_base=Fraction(video.time_base or Fraction(1, av.time_base)),
        color=color_of(frame, context, location),
        rotation_degrees=rotation_of(frame),
        pixel_aspect=Fraction(aspect) if aspect else Fraction(1),
        is_interlaced=frame.interlaced_frame or header_field_order(video, field_order) is not None,
        has_alpha=layout.has_alpha,
        header_frame_count=video.frames or None,
        header_rate=_rate(video),
        header_duration_seconds=None if seconds is None else float(seconds),
        streams=tuple(_stream_info(stream) for stream in container.streams),
    )


def rotation_of(frame: av.VideoFrame) -> int:
    """The angle of the display matrix, counterclockwise, -180..180, whole degrees; 0 if there is none."""
    matrix = _matrix(frame_data(frame, Type.DISPLAYMATRIX))
    return 0 if matrix is None else _angle(matrix)


def mirror_and_rotation(matrix: tuple[int, ...]) -> tuple[bool, int]:
    """Whether a display matrix mirrors a frame left to right, and the angle by which it is rotated afterwards."""
    a, b, _, c, d, *_ = matrix
    is_mirrored = a * d < b * c
    return is_mirrored, _angle((-a, -b, *matrix[2:]) if is_mirrored else matrix)


def _angle(matrix: tuple[int, ...]) -> int:
    a, b, _, c, d, *_ = matrix
    across, down = math.hypot(a, c), math.hypot(b, d)
    return round(-math.degrees(math.atan2(b / down, a / across))) if across and down else 0


def header_field_order(video: VideoStream, words: str | None) -> str | None:
    """The first field ("tff", "bff") of a video that is interlaced according to its header alone, else None.

    The header counts only for intra-only codecs: others flag every frame, and their headers often call progressive
    video interlaced. `words` is the field order in the header.
    """
    return words if video.codec_context.codec.intra_only else None


def field_order_of(container: InputContainer, video: VideoStream) -> str | None:
    """`header_field_order` of an open file."""
    return header_field_order(video, _header_words(container, video)[1])


def _rate(video: VideoStream) -> Fraction | None:
    """The average frame rate; None if unknown.

    For some containers (raw DV) FFmpeg gives one frame per tick as average, and the right rate only as its guess.
    """
    average, guess = video.average_rate, video.guessed_rate
    if average and guess and video.time_base and average * video.time_base == 1:
        average = min(average, guess)
    rate = average or guess
    return Fraction(rate) if rate else None


def _is_cover(video: VideoStream) -> bool:
    return bool(video.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _refuse_pages(container: InputContainer, path: Path) -> None:
    """Raises InputError for a TIFF file of several images, of which FFmpeg reads the first."""
    if container.format.name == "tiff_pipe" and _has_second_image(path):
        raise InputError(f"{path} holds several images, of which only the first would be read: save each by itself")


def _has_second_image(path: Path) -> bool:
    """Whether the first directory of a TIFF or BigTIFF file links to another one inside the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        order: Literal["little", "big"] = "little" if file.read(2) == b"II" else "big"

        def number(position: int, length: int) -> int:
            file.seek(min(position, size))
            return int.from_bytes(file.read(length), order)

        if number(2, 2) == 43:  # BigTIFF
            first = number(8, 8)
            following = number(first + 8 + 20 * number(first, 8), 8)
        else:
            first = number(4, 4)
            following = number(first + 2 + 12 * number(first, 2), 4)
    return 0 < following < size


def _first_frame(container: InputContainer, video: VideoStream, path: Path, head: bytes | None) -> av.VideoFrame:
    reasons = []
    has_packets = False
    decoder = decoder_of(video)
    try:
        for packet in container.demux(video):
            refuse_encrypted(set(kinds_of_packet(packet)), path)
            has_packets = has_packets or packet.size > 0
            try:
                for frame in decoder.decode(packet):
                    return frame
            except (av.error.FFmpegError, ValueError) as error:
                raise_shortage(error)
                reasons.append(plain_text(error))
    except av.error.FFmpegError as error:
        raise_shortage(error)
        reasons.append(plain_text(error))
    if container.format.name == "mpegts" and is_scrambled(path, head):
        raise InputError(encrypted(path))
    reason = reasons[-1] if reasons else "its packets give none" if has_packets else "it holds no packets"
    raise InputError(f"{path} holds no frame that can be decoded: {reason}")


def header_text(container: InputContainer) -> str:
    """FFmpeg's description of an open file, which holds some things that PyAV does not expose."""
    with log_switched_on(av.logging.VERBOSE):
        text: str = container.dumps_format()  # type: ignore[attr-defined]
    return text


def _header_words(container: InputContainer, video: VideoStream) -> tuple[str, str | None]:
    """Chroma location and field order, which PyAV exposes only in FFmpeg's textual description of the stream."""
    text = header_text(container)
    line = next((line for line in text.splitlines() if re.match(rf"\s*Stream #0:{video.index}\D", line)), "")
    words = set(re.split(r"\((?!swapped)|(?<!swapped)\)|, ", line))
    location = next(iter(words & _CHROMA_LOCATIONS), "unknown")
    return location, next((order for name, order in _FIELD_ORDERS.items() if name in words), None)


def _stream_info(stream: av.stream.Stream) -> StreamInfo:
    context = stream.codec_context
    language = stream.metadata.get("language")
    return StreamInfo(
        index=stream.index,
        kind=stream.type,
        codec=context.codec.canonical_name if context is not None else "unknown",
        language=None if language in (None, "und") else language,
        title=stream.metadata.get("title"),
        is_default=bool(stream.disposition & Disposition.default),
        is_attached_picture=bool(stream.disposition & Disposition.attached_pic),
    )
