"""The videos or still images that are compared: opened, upright with square pixels, and read in step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vidsr.config import InputConfig
from vidsr.errors import InputError, UsageError
from vidsr.faces.detector import View
from vidsr.nets.layers.resize import resize
from vidsr.types import Frame, VideoInfo
from vidsr.video.image_names import is_image, numbered
from vidsr.video.image_source import photograph
from vidsr.video.probe import Source
from vidsr.video.sources import open_reader, source_of, with_true_length

# Slow motion makes a video this many times as long; the header's durations agree with that to TOLERANCE.
STRETCHES = (2, 4, 8)
TOLERANCE = 0.05
# A frame belongs to a moment that it misses by this many seconds at most, and by a quarter of the distance to the frame
# before it: containers round times, .mkv to 1 ms.
ROUNDING = Fraction(1, 200)
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Input:
    """A video or still image to compare.

    `size` is (width, height) as displayed, with square pixels. The video takes `stretch` times as long as BEFORE.
    `first` is the time in seconds at which BEFORE begins, in the clock of the file: that of its first frame, unless the
    file `is_excerpt`, which begins later than BEFORE. `is_still`: whether it has just one frame. `name` is shown as the
    file's name.
    """

    source: Source
    label: str
    info: VideoInfo
    view: View
    size: tuple[int, int]
    first: Fraction
    is_still: bool
    name: str
    stretch: int = 1
    is_excerpt: bool = False

    @property
    def path(self) -> Path:
        """What the user named."""
        return self.source.path

    @property
    def seconds(self) -> float | None:
        """Its duration, in the time of BEFORE; None if unknown."""
        duration = self.info.header_duration_seconds
        return None if duration is None else duration / self.stretch

    @property
    def rate(self) -> Fraction:
        """Frames per second of BEFORE; 0 if unknown."""
        return (self.info.header_rate or Fraction(0)) * self.stretch

    def trim(self, part: Part) -> InputConfig:
        """The trim range of a part in this file; all of an excerpt, which holds the part only."""
        if self.is_excerpt:
            return InputConfig()
        end = None if part.end is None else part.end * self.stretch
        return InputConfig(start=part.start * self.stretch or None, end=end)

    def displayed(self, image: Tensor) -> Tensor:
        """A frame's image, 3 x H x W, as it is displayed: upright and with square pixels."""
        upright = torch.rot90(image, self.view.quarters, (1, 2))
        width, height = self.size
        return upright if upright.shape[1:] == (height, width) else resize(upright, (height, width)).clamp(0, 1)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the videos to compare: seconds of BEFORE from its first frame on.

    `end` is exclusive; None is the end of the videos. `middle` is about the middle of the part.
    """

    label: str
    start: Fraction
    end: Fraction | None
    middle: Fraction


@dataclass(frozen=True, slots=True)
class Moment:
    """The frames of all inputs at one moment, in seconds of BEFORE from its first frame: each 3 x H x W, in 0..1."""

    seconds: Fraction
    images: tuple[Tensor, ...]


def sources_of(paths: Sequence[Path], rate: Fraction | None) -> list[Source]:
    """What the paths stand for: videos, photographs, numbered images or folders of images with this rate.

    Raises InputError, and UsageError for a rate without images in a sequence.
    """
    sequences = [path for path in paths if numbered(path) is not None or path.is_dir()]
    if rate is not None and not sequences:
        raise UsageError("--rate is for numbered images and folders, and there are none: leave it out")
    timed, plain = InputConfig(rate=rate), InputConfig()
    return [
        photograph(path, keeps_alpha=False)
        if is_image(path) and path.is_file()
        else source_of(path, timed if path in sequences else plain)
        for path in paths
    ]


def open_inputs(sources: Sequence[Source], labels: Sequence[str] = ()) -> list[Input]:
    """Describes the inputs, the first of which is BEFORE; decodes the first two frames of each.

    Names without a label are those of the files. Raises InputError for a file that cannot be read, UsageError for a
    mixture of videos and still images or more labels than files.
    """
    if len(labels) > len(sources):
        raise UsageError(f"--label is given {len(labels)} times for {len(sources)} inputs: give at most one for each")
    shown = _labels([source.path for source in sources], labels)
    inputs = [_opened(source, label) for source, label in zip(sources, shown, strict=True)]
    stills = [each for each in inputs if each.is_still]
    if stills and len(stills) < len(inputs):
        video = next(each for each in inputs if not each.is_still)
        raise UsageError(
            f"{stills[0].path} is a still image, but {video.path} is a video: compare images with images and videos "
            "with videos"
        )
    return [inputs[0], *(replace(each, stretch=_stretch(inputs[0], each)) for each in inputs[1:])]


@contextmanager
def in_step(inputs: Sequence[Input], part: Part, notes: list[str] | None = None) -> Iterator[Iterator[Moment]]:
    """Opens the inputs and yields the moments of a part, in order; at the end adds warnings and damage to `notes`.

    There is a moment for each frame of the input with the most frames; of the others the frame that is displayed at
    that time is taken. The moments end with the shortest input. Reading raises InputError or UsageError.
    """
    with ExitStack() as stack:
        readers, streams = [], []
        for each in inputs:
            reader = stack.enter_context(open_reader(each.source, each.trim(part), CPU))
            readers.append(reader)
            streams.append(_Stream(each, reader.frames()))
        yield _moments(streams)
        for each, reader in zip(inputs, readers, strict=True):
            said = [*reader.warnings, *(f"damaged {damage.place}: {damage.reason}" for damage in reader.damages)]
            _add(notes, [f"{each.label}: {text}" for text in said])


def _add(notes: list[str] | None, texts: list[str]) -> None:
    if notes is not None:
        notes += [text for text in texts if text not in notes]


def _moments(streams: Sequence[_Stream]) -> Iterator[Moment]:
    lead = max(range(len(streams)), key=lambda index: (streams[index].input.rate, index == 1))
    for seconds, image in streams[lead].all():
        images = [image if stream is streams[lead] else stream.at(seconds) for stream in streams]
        shown = tuple(image for image in images if image is not None)
        if len(shown) < len(streams):
            return
        yield Moment(seconds, shown)


class _Stream:
    """The frames of one input, by time."""

    def __init__(self, each: Input, frames: Iterator[Frame]) -> None:
        self.input = each
        self._frames = frames
        self._current: tuple[Fraction, Tensor] | None = None
        self._next: tuple[Fraction, Tensor] | None = None
        self._step = 1 / each.rate if each.rate else Fraction(1, 25)
        self._is_started = False

    def all(self) -> Iterator[tuple[Fraction, Tensor]]:
        """Every frame with its time."""
        while (following := self._pull()) is not None:
            yield following

    def at(self, seconds: Fraction) -> Tensor | None:
        """The frame that is displayed at a time; None after the end. Times must not decrease."""
        if not self._is_started:
            self._current, self._next, self._is_started = self._pull(), self._pull(), True
        if self._current is None:
            return None
        while self._next is not None:
            step = self._next[0] - self._current[0]
            if self._next[0] > seconds + min(step / 4, ROUNDING):
                return self._current[1]
            self._step, self._current, self._next = step, self._next, self._pull()
        end = self._current[0] + self._step - min(self._step / 4, ROUNDING)
        return None if seconds >= end else self._current[1]

    def _pull(self) -> tuple[Fraction, Tensor] | None:
        frame = next(self._frames, None)
        if frame is None:
            return None
        seconds = (frame.pts * frame.time_base - self.input.first) / self.input.stretch
        return seconds, self.input.displayed(frame.image)


def _opened(source: Source, label: str) -> Input:
    info = source.probe()
    with open_reader(source, InputConfig(), CPU, info) as reader:
        frames = reader.frames()
        first = next(frames, None)
        is_still = next(frames, None) is None
    if first is None:
        raise InputError(f"{source.path} holds no frame that can be decoded")
    if not is_still:
        info = with_true_length(source, info)
    view = View.of(info)
    width, height = (info.height, info.width) if view.quarters % 2 else (info.width, info.height)
    aspect = 1 / view.aspect if view.quarters % 2 else view.aspect
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    return Input(source, label, info, view, size, first.pts * first.time_base, is_still, _name(source.path))


def _labels(paths: Sequence[Path], labels: Sequence[str]) -> list[str]:
    """The labels given, then file names; those of the same name in different folders with the folder."""
    names = [_name(path) for path in paths]
    shown = [
        f"{path.parent.name}/{name}" if names.count(name) > 1 else name for path, name in zip(paths, names, strict=True)
    ]
    return [*labels, *shown[len(labels) :]]


def _name(path: Path) -> str:
    """A file's name; that of numbered images with their folder, which tells more."""
    return path.name if numbered(path) is None else f"{path.absolute().parent.name}/{path.name}"


def _stretch(before: Input, after: Input) -> int:
    """How many times as long `after` is, if that is the factor of slow motion, else 1."""
    first, second = before.info.header_duration_seconds, after.info.header_duration_seconds
    if not first or not second:
        return 1
    return next((factor for factor in STRETCHES if abs(second / first / factor - 1) < TOLERANCE), 1)


def same_size(inputs: Sequence[Input]) -> tuple[int, int]:
    """The size at which all inputs are compared: that of the one with the most pixels."""
    return max((each.size for each in inputs), key=lambda size: size[0] * size[1])


def enlarged(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image, 3 x H x W, brought to (width, height) by bicubic resampling."""
    width, height = size
    return image if image.shape[1:] == (height, width) else resize(image, (height, width)).clamp(0, 1)


def levels(image: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """An image, 3 x H x W in 0..1, as H x W x 3 in 8 bits."""
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] = (
        image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).contiguous().numpy()
    )
    return pixels
