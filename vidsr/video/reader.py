"""Reader of a video file: decoded, timed, deinterlaced frames of the requested part, converted to RGB."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import av
import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from torch import Tensor
from torch.nn.functional import interpolate

from vidsr.config import InputConfig
from vidsr.errors import InputError, UsageError
from vidsr.files import WatchedFile
from vidsr.types import Color, Damage, Frame, VideoInfo
from vidsr.video.chroma_resampling import is_known_location
from vidsr.video.clock import Clock, jump_times
from vidsr.video.color import color_of, frame_to_rgb
from vidsr.video.decoding import VideoDecoder, missing_bytes_of
from vidsr.video.deinterlace import DecodedFrame, Deinterlacer
from vidsr.video.errors import reading
from vidsr.video.frame_data import checksum
from vidsr.video.messages import messages_of
from vidsr.video.pixel_formats import is_transparent
from vidsr.video.probe import Source, field_order_of, header_text
from vidsr.video.side_data_kinds import kinds_of_header
from vidsr.video.timestamps import FrameTimes

# Distances before the requested start at which a key frame is searched, tried in order. If none works, the video is
# read from its beginning.
_SEEK_MARGINS_SECONDS = (1, 4, 16, 64)
SIZE_CHANGES_DESCRIBED = 10


class _Wanted(NamedTuple):
    """Ticks of the video's first frame, of the requested start and of the requested end (exclusive)."""

    first: int
    start: int | None
    end: int | None


class StartTooLate(UsageError):
    """No frame is left in the requested part; `length` is the time of the last frame, in seconds of the video."""

    def __init__(self, message: str, length: Fraction) -> None:
        super().__init__(message)
        self.length = length


class Reader:
    """An open video. `warnings` and `damages` are complete when `frames` has ended.

    Frame times are those of the file. `--start` and `--end` count from the first frame of the video. A start after the
    last frame raises UsageError when the frames are read; a file without a decodable frame raises InputError on entry.

    `digest` is the checksum of the last frame, its pixels and its time, if `keeps_digests` is set; else 0.
    """

    info: VideoInfo
    keeps_digests = False
    digest = 0

    def __init__(
        self, source: Source | Path, config: InputConfig, device: torch.device, info: VideoInfo | None = None
    ) -> None:
        """`info` is the source's description, with its clock, if it is known already; otherwise it is probed."""
        self.warnings: list[str] = []
        self._source = Source.of(source)
        self._path = self._source.path
        self._described = info
        self._config = config
        self._device = device
        self._origin = Fraction(0)
        self._size: tuple[int, ...] | None = None
        self._size_changes = 0
        self._colors: dict[tuple[object, ...], Color] = {}
        self._ahead: Iterator[DecodedFrame] | None = None  # of a stream, whose first frame has been read
        self._container: InputContainer | None = None
        self._watched: WatchedFile | None = None
        self._stream: VideoStream
        self._decoding: VideoDecoder
        self._times: FrameTimes

    def __enter__(self) -> Self:
        self.info = self._described or self._source.with_clock(self._source.probe(), self._config.end)
        with reading(self._path):
            self._watched = self._source.watched()
        try:
            self._open()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._warn_of_header()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._close_container()
        if self._watched is not None:
            self._watched.close()
            self._watched = None

    def cancel(self) -> None:
        """Ends a read that waits, such as for the writer of a pipe; may be called from any thread."""
        self._source.cancel()

    def _close_container(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    @property
    def damages(self) -> list[Damage]:
        """The damage found so far."""
        return self._decoding.damages

    @property
    def side_data(self) -> set[str]:
        """The kinds of side data of the video that were seen so far, by their names in `side_data_kinds`."""
        assert self._container is not None
        header = kinds_of_header(header_text(self._container), self._stream.index)
        return {*self._decoding.side_data, *header}

    def frames(self, skipped: int = 0, time: int | None = None) -> Iterator[Frame]:
        """Yields the frames of the requested part in order, with strictly increasing times. Call it once.

        The first `skipped` frames are decoded, so that everything is as if they had been read, but not yielded. With
        `time`, in ticks, reading begins at a key frame before that, if there is one, and frames before it are left out.
        """
        with reading(self._path):
            self._source.begin()
            wanted = self._wanted()
            if time is not None:
                wanted = wanted._replace(start=time)
            count = 0
            for decoded in self._deinterlaced(wanted):
                if wanted.end is not None and decoded.pts >= wanted.end:
                    break
                if wanted.start is None or decoded.pts >= wanted.start:
                    count += 1
                    if count > skipped:
                        yield self._frame(decoded)
                    else:
                        self._note_size((decoded.frame.height, decoded.frame.width), decoded)
            else:
                self._finish()
            if self._watched is not None and (change := self._watched.change):
                self._decoding.record(change)
            self._warn_of_repairs()
            if not count:
                self._refuse_empty(wanted.first)

    def _open(self) -> None:
        self._close_container()
        self._container = self._source.open_frames()
        self._stream = self._source.video_of(self._container)
        # As players count: from the first of the file's streams.
        self._origin = max(Fraction(0), Fraction(self._container.start_time or 0, av.time_base))
        self._restart()

    def _restart(self) -> None:
        assert self._container is not None
        self._decoding = VideoDecoder(self._container, self._stream, self._path, Clock(self.info.clock).correct)
        rate = self._stream.guessed_rate or self._stream.average_rate or Fraction(25)
        self._times = FrameTimes(round(1 / (rate * self.info.time_base)), math.ceil(1 / self.info.time_base))

    def _wanted(self) -> _Wanted:
        """The requested part in ticks; leaves the reader at the start of the video."""
        start, end = self._config.start, self._config.end
        if start is None and end is None:
            return _Wanted(0, None, None)
        decoded = self._decoded()
        first = next(decoded, None)
        if not self._source.is_stream:
            self._open()
        elif first is not None:
            self._ahead = chain([first], decoded)
        if first is None:
            raise InputError(f"{self._path} holds no frame that can be decoded")
        ticks = [None if t is None else first.pts + math.ceil(t / self.info.time_base) for t in (start, end)]
        return _Wanted(first.pts, *ticks)

    def _decoded(self) -> Iterator[DecodedFrame]:
        """Decoded frames with their times, from the container's current position."""
        for frame in self._decoding.frames():
            self._times.first = self._decoding.first_time or 0
            decoded = DecodedFrame(frame, self._times.next(frame, self._decoding.coming), max(0, frame.duration))
            time = decoded.pts * self.info.time_base
            self._origin = min(self._origin, time)  # headers may be late by the delay of the decoder
            self._decoding.last_seconds = time - self._origin
            yield decoded

    def _decoded_from(self, wanted: _Wanted) -> Iterator[DecodedFrame]:
        """Decoded frames from a key frame at or before the start, so that only frames before the start are skipped."""
        if self._ahead is not None:
            yield from self._ahead
            return
        for margin in _SEEK_MARGINS_SECONDS if wanted.start is not None else ():
            target = (wanted.start or 0) - math.ceil(margin / self.info.time_base)
            if target <= wanted.first or not self._seek(target):
                break
            following = self._decoded()
            head = next((decoded for decoded in following if decoded.frame.key_frame), None)
            if head is not None and head.pts <= (wanted.start or 0) and not self._times.missing:
                self._decoding.damages.clear()
                yield head
                yield from following
                return
            self._open()
        yield from self._decoded()

    def _seek(self, target: int) -> bool:
        assert self._container is not None
        if self.info.clock or self._source.is_stream:
            return False  # packets are counted from the first one
        try:
            self._container.seek(target, stream=self._stream, backward=True)
        except FFmpegError:
            self._open()
            return False
        self._restart()
        return True

    def _deinterlaced(self, wanted: _Wanted) -> Iterator[DecodedFrame]:
        assert self._container is not None
        filter_ = Deinterlacer(field_order_of(self._container, self._stream))
        for decoded in self._decoded_from(wanted):
            yield from filter_.step(decoded)
            if filter_.used:
                self._warn_once("the video is interlaced; FFmpeg's bwdif makes one progressive frame of each frame")
        yield from filter_.flush()

    def _frame(self, decoded: DecodedFrame) -> Frame:
        frame = decoded.frame
        key = (frame.format.name, frame.colorspace, frame.color_range, frame.width, frame.height)
        if key not in self._colors:
            self._colors[key] = color_of(frame, self._stream.codec_context, self.info.color.chroma_location)
        if self.info.has_alpha and is_transparent(frame):
            self._warn_once("the video is transparent in places; it is composited over black")
        image = frame_to_rgb(frame, self._colors[key], self._device)
        size = (self.info.height, self.info.width)
        self._note_size(image.shape[1:], decoded)
        if self.keeps_digests:
            self.digest = checksum(frame, decoded.pts & 0xFFFFFFFF)
        if image.shape[1:] != size:
            image = _scaled(image, size)
        return Frame(image, decoded.pts, self.info.time_base, decoded.duration, messages=messages_of(frame))

    def _note_size(self, size: tuple[int, ...], decoded: DecodedFrame) -> None:
        """Warns of a change of the frame size; of very many changes only the first are described."""
        if size == self._size:
            return
        height, width = size
        first = self._size is None and (height, width) == (self.info.height, self.info.width)
        self._size = (height, width)
        if first:
            return
        self._size_changes += 1
        if self._size_changes > SIZE_CHANGES_DESCRIBED:
            return
        is_original = (height, width) == (self.info.height, self.info.width)
        result = "" if is_original else f"; these frames are scaled to {self.info.width}x{self.info.height}"
        time = _seconds(decoded.pts * self.info.time_base - self._origin)
        self._warn_once(f"the frame size changes within the video, to {width}x{height} at {time}{result}")

    def _finish(self) -> None:
        """Records damage if the file or the video stream ends early."""
        decoding, announced = self._decoding, self.info.header_frame_count
        absent = 0 if self._watched is None else missing_bytes_of(self._watched.file)
        if absent:
            decoding.record(f"the file ends early: {absent} bytes are missing")
        # In MP4 the count is the length of the packet list; in other containers it is only a claim of the writer.
        if announced and "mp4" in self.info.container and self._config.start is None:
            lost = announced - decoding.frames_discarded - decoding.frames_decoded
            if lost > 0 and not decoding.damages:
                decoding.record(f"{lost} of the {announced} frames that the header announces are missing")

    def _refuse_empty(self, first: int) -> None:
        last = self._decoding.last_seconds
        if last is None:
            raise InputError(f"{self._path} holds no frame that can be decoded")
        begin = self._config.start or Fraction()
        length = last + self._origin - first * self.info.time_base
        if self._config.end is not None and begin <= length:
            raise UsageError(
                f"{self._path} has no frame between {_seconds(begin)} and {_seconds(self._config.end)}: "
                "choose a longer range"
            )
        raise StartTooLate(
            f"--start {_seconds(begin)} lies after the last frame of {self._path}, at {_seconds(length)}: "
            "choose an earlier start",
            length,
        )

    def _warn_of_header(self) -> None:
        color = self.info.color
        if color.matrix == "bt2020c":
            self._warn_once("constant-luminance BT.2020 is converted with the matrix of non-constant luminance")
        if not is_known_location(color.chroma_location):
            self._warn_once(f"chroma at {color.chroma_location} is converted as if its rows were centered")

    def _warn_of_repairs(self) -> None:
        if jumps := jump_times(self.info.clock, self.info.video_stream):
            places = f"{len(jumps)} places, first at" if len(jumps) > 1 else "one place, at"
            self._warn_once(
                f"the clock of the file jumps in {places} {jumps[0]:.3f} s; what follows is placed directly after what "
                "precedes"
            )
        if self._size_changes > SIZE_CHANGES_DESCRIBED:
            self._warn_once(f"the frame size changes {self._size_changes} times")
        if self._times.missing:
            self._warn_once(f"{self._times.missing} frames had no timestamp; they continue from the frame before")
        if self._times.backward:
            self._warn_once(f"the timestamps of {self._times.backward} frames ran backwards; they were corrected")

    def _warn_once(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _scaled(image: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp_(0, 1)


def _seconds(time: Fraction) -> str:
    return f"{float(time):.3f} s"
