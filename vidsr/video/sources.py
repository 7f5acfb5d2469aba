"""What a path stands for, and who reads and writes it: a video file, or images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch

from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import UsageError
from vidsr.files import check_target
from vidsr.types import Damage, Frame, VideoInfo
from vidsr.video.image_names import is_image, numbered
from vidsr.video.image_source import ImageReader, ImageSource, photograph, sequence
from vidsr.video.image_writer import ImageOutputPlan, ImageWriter, check_images, plan_images
from vidsr.video.output import OutputPlan, plan_output
from vidsr.video.probe import Source
from vidsr.video.reader import Reader
from vidsr.video.writer import Writer

AnyOutputPlan = OutputPlan | ImageOutputPlan


class FrameReader(Protocol):
    """What reads the frames of a source; see `Reader`."""

    @property
    def warnings(self) -> Sequence[str]:
        """What the user should know, complete when `frames` has ended."""

    @property
    def damages(self) -> Sequence[Damage]:
        """The damage found so far."""

    @property
    def side_data(self) -> Collection[str]:
        """The kinds of side data that were seen so far."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    def frames(self) -> Iterator[Frame]:
        """Yields the frames of the requested part in order."""


class FrameWriter(Protocol):
    """What writes frames; see `Writer`."""

    @property
    def warnings(self) -> Sequence[str]:
        """What is not carried over, complete after `commit`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...

    def write(self, frame: Frame) -> None:
        """Takes the next frame."""

    def commit(self, is_strict: bool = False, side_data: Collection[str] = ()) -> None:
        """Completes the output, checks it, and gives it its name."""


DEFAULT_RATE = Fraction(25)


def source_of(source: Source | Path, config: InputConfig, target: Path | None = None, interp: int = 1) -> Source:
    """What an input path stands for; a source is returned unchanged. Raises InputError or UsageError.

    A name with a place for a number is a sequence of images, a folder the sequence of its images. A single image is a
    photograph if `target` is an image, and a video of one frame otherwise. With `interp` above 1 frames have no one
    image that they come from.
    """
    if isinstance(source, Source):
        return source
    rate = DEFAULT_RATE if config.rate is None else config.rate
    name = numbered(source)
    is_sequence = name is not None or source.is_dir()
    keeps_alpha = target is not None and _is_for_images(target, is_sequence) and interp == 1
    if name is not None:
        return sequence(source, name, rate, keeps_alpha)
    if source.is_dir():
        return sequence(source, None, rate, keeps_alpha)
    if config.rate is not None:
        raise UsageError(f"--rate is for images without times, and {source} is a file: leave it out")
    if is_image(source) and source.exists() and target is not None and is_image(target):
        return photograph(source, keeps_alpha)
    return Source(source)


def _is_for_images(target: Path, is_sequence: bool) -> bool:
    """Whether an output path stands for images: by its extension, or as a folder for the images of a sequence."""
    return is_image(target) or (is_sequence and (target.suffix == "" or target.is_dir()))


def writes_images(target: Path, source: Source) -> bool:
    """Whether the output of a source is images."""
    return _is_for_images(target, isinstance(source, ImageSource))


def check_result(target: Path, source: Source, may_overwrite: bool, also_read: Iterable[Path] = ()) -> None:
    """`check_target` for whatever an output path stands for."""
    if writes_images(target, source):
        check_images(target, source, may_overwrite, also_read)
    else:
        check_target(target, source.path, may_overwrite, also_read)


def source_files(source: Source) -> Sequence[Path]:
    """The files that a source consists of."""
    return source.files if isinstance(source, ImageSource) else (source.path,)


def plan_result(
    target: Path, source: Source, info: VideoInfo, size: tuple[int, int], options: OutputConfig, trim: InputConfig,
    stretch: int = 1, interp: int = 1,
) -> AnyOutputPlan:  # fmt: skip
    """Chooses how frames are written. Raises OutputError or UsageError for what cannot work; see `plan_output`."""
    if writes_images(target, source):
        return plan_images(target, source, info, size, options, trim, interp)
    if options.quality is not None:
        raise UsageError("--quality is for images, and the output is a video: use --crf")
    return plan_output(target, source, info, size, options, trim, stretch)


def open_reader(
    source: Source, config: InputConfig, device: torch.device, info: VideoInfo | None = None
) -> FrameReader:
    """The reader of a source."""
    if isinstance(source, ImageSource):
        return ImageReader(source, config, device, info)
    return Reader(source, config, device, info)


def open_writer(plan: AnyOutputPlan) -> FrameWriter:
    """The writer of a plan."""
    return ImageWriter(plan) if isinstance(plan, ImageOutputPlan) else Writer(plan)
