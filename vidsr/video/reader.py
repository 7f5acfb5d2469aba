"""A video file as a stream of frames: decoded, timed, deinterlaced, cut to the wanted part, converted to RGB."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import torch
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from torch import Tensor
from torch.nn.functional import interpolate

from vidsr.config import InputConfig
from vidsr.errors import InputError, UsageError
from vidsr.types import Colour, Damage, Frame, VideoInfo
from vidsr.video.chroma_resampling import is_known_location
from vidsr.video.color import colour_of, frame_to_rgb
from vidsr.video.decoding import Decoding, missing_bytes
from vidsr.video.deinterlace import Deinterlacer, Picture
from vidsr.video.errors import reading
from vidsr.video.pixel_formats import is_transparent
from vidsr.video.probe import Source, field_order_of
from vidsr.video.timestamps import FrameTimes

# How far before the wanted start a key frame is looked for, one after the other; then the film is read from its start.
_SEEK_MARGINS_SECONDS = (1, 4, 16, 64)


class _Wanted(NamedTuple):
    """Ticks of the film's first frame, of the wanted start and of the wanted end (exclusive)."""

    first: int
    start: int | None
    end: int | None


class Reader:
    """An open film. `warnings` and `damages` are complete when `frames` has ended.

    Times are the file's own. `--start` and `--end` count from the first frame of the film; a start after the last frame
    raises UsageError when the frames are read, a file without pictures InputError at once.
    """

    info: VideoInfo

    def __init__(
        self, source: Source | Path, config: InputConfig, device: torch.device, info: VideoInfo | None = None
    ) -> None:
        """`info` saves describing the source again where that has been done."""
        self.warnings: list[str] = []
        self._source = Source.of(source)
        self._path = self._source.path
        self._described = info
        self._config = config
        self._device = device
        self._colours: dict[tuple[object, ...], Colour] = {}
        self._container: InputContainer | None = None
        self._film: VideoStream
        self._decoding: Decoding
        self._times: FrameTimes

    def __enter__(self) -> Self:
        self.info = self._described or self._source.probe()
        self._open()
        self._warn_of_header()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    @property
    def damages(self) -> list[Damage]:
        """Where data was lost so far."""
        return self._decoding.damages

    def frames(self) -> Iterator[Frame]:
        """The frames of the wanted part, in order, times strictly increasing. To be called once."""
        with reading(self._path):
            wanted = self._wanted()
            given = 0
            for picture in self._deinterlaced(wanted):
                if wanted.end is not None and picture.pts >= wanted.end:
                    break
                if wanted.start is None or picture.pts >= wanted.start:
                    given += 1
                    yield self._frame(picture)
            else:
                self._finish()
            self._warn_of_repairs()
            if not given:
                self._refuse_empty(wanted.first)

    def _open(self) -> None:
        self.__exit__(None, None, None)
        self._container = self._source.open()
        self._film = self._source.video_of(self._container)
        self._restart()

    def _restart(self) -> None:
        assert self._container is not None
        self._decoding = Decoding(self._container, self._film)
        rate = self._film.guessed_rate or self._film.average_rate or Fraction(25)
        self._times = FrameTimes(round(1 / (rate * self.info.time_base)), math.ceil(1 / self.info.time_base))

    def _wanted(self) -> _Wanted:
        """The wanted part in ticks; leaves the reader at the start of the film."""
        start, end = self._config.start, self._config.end
        if start is None and end is None:
            return _Wanted(0, None, None)
        picture = next(self._pictures(), None)
        self._open()
        if picture is None:
            raise InputError(f"{self._path} holds no picture that can be decoded")
        ticks = [None if t is None else picture.pts + math.ceil(t / self.info.time_base) for t in (start, end)]
        return _Wanted(picture.pts, *ticks)

    def _pictures(self) -> Iterator[Picture]:
        """Decoded pictures with their times, from where the container stands."""
        for frame in self._decoding.frames():
            picture = Picture(frame, self._times.next(frame), max(0, frame.duration))
            self._decoding.last_seconds = picture.pts * self.info.time_base
            yield picture

    def _pictures_from(self, wanted: _Wanted) -> Iterator[Picture]:
        """Pictures from some key frame not after the start; exact, because what is skipped is known to lie before."""
        for margin in _SEEK_MARGINS_SECONDS if wanted.start is not None else ():
            target = (wanted.start or 0) - math.ceil(margin / self.info.time_base)
            if target <= wanted.first or not self._seek(target):
                break
            pictures = self._pictures()
            head = next((picture for picture in pictures if picture.frame.key_frame), None)
            if head is not None and head.pts <= (wanted.start or 0) and not self._times.missing:
                self._decoding.damages.clear()
                yield head
                yield from pictures
                return
            self._open()
        yield from self._pictures()

    def _seek(self, target: int) -> bool:
        assert self._container is not None
        try:
            self._container.seek(target, stream=self._film, backward=True)
        except FFmpegError:
            self._open()
            return False
        self._restart()
        return True

    def _deinterlaced(self, wanted: _Wanted) -> Iterator[Picture]:
        assert self._container is not None
        filter_ = Deinterlacer(field_order_of(self._container, self._film))
        for picture in self._pictures_from(wanted):
            yield from filter_.step(picture)
            if filter_.used:
                self._warn_once("the film is interlaced; FFmpeg's bwdif makes one whole picture of each frame")
        yield from filter_.flush()

    def _frame(self, picture: Picture) -> Frame:
        frame = picture.frame
        key = (frame.format.name, frame.colorspace, frame.color_range, frame.width, frame.height)
        if key not in self._colours:
            self._colours[key] = colour_of(frame, self._film.codec_context, self.info.colour.chroma_location)
        if self.info.has_alpha and is_transparent(frame):
            self._warn_once("the film is transparent in places; it is laid over black")
        image = frame_to_rgb(frame, self._colours[key], self._device)
        size = (self.info.height, self.info.width)
        if image.shape[1:] != size:
            self._warn_once(
                f"the pictures change their size in mid-film, to {frame.width}x{frame.height} at "
                f"{_seconds(picture.pts * self.info.time_base)}; they are scaled to {size[1]}x{size[0]}"
            )
            image = _scaled(image, size)
        return Frame(image, picture.pts, self.info.time_base, picture.duration)

    def _finish(self) -> None:
        """At the end of the film: was it the end?"""
        decoding, announced = self._decoding, self.info.header_frame_count
        absent = missing_bytes(self._path)
        if absent:
            decoding.record(f"the file ends early: {absent} bytes are missing")
        # The count in an MP4 is its list of packets; elsewhere it is only what a writer once claimed.
        if announced and "mp4" in self.info.container and self._config.start is None:
            lost = announced - decoding.frames_discarded - decoding.frames_given
            if lost > 0 and not decoding.damages:
                decoding.record(f"{lost} of the {announced} pictures that the header announces are not there")

    def _refuse_empty(self, first: int) -> None:
        last = self._decoding.last_seconds
        if last is None:
            raise InputError(f"{self._path} holds no picture that can be decoded")
        begin = self._config.start or Fraction()
        if self._config.end is not None and begin <= last - first * self.info.time_base:
            raise UsageError(f"{self._path} has no frame between {_seconds(begin)} and {_seconds(self._config.end)}")
        length = last - first * self.info.time_base
        raise UsageError(f"--start {_seconds(begin)} lies after the last frame of {self._path}, at {_seconds(length)}")

    def _warn_of_header(self) -> None:
        colour = self.info.colour
        if colour.is_guessed and colour.matrix_used != "gbr":
            levels = "limited" if colour.range_used == "tv" else "full"
            self._warn_once(
                f"the file does not say all of its colour matrix ({colour.matrix}) and range ({colour.range}); "
                f"{colour.matrix_used} and {levels} range are used"
            )
        if colour.matrix == "bt2020c":
            self._warn_once("constant-luminance BT.2020 is converted with the matrix of the non-constant kind")
        if not is_known_location(colour.chroma_location):
            self._warn_once(f"chroma at {colour.chroma_location} is converted as if its rows were centred")

    def _warn_of_repairs(self) -> None:
        if self._times.missing:
            self._warn_once(f"{self._times.missing} frames had no time; they continue from the frame before")
        if self._times.backward:
            self._warn_once(f"the times of {self._times.backward} frames ran backwards and were put right")

    def _warn_once(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def _scaled(image: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp_(0, 1)


def _seconds(time: Fraction) -> str:
    return f"{float(time):.3f} s"
