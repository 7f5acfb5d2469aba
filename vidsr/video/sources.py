"""What a path stands for, and who reads and writes it: a video file, or images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import torch

from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import UsageError
from vidsr.files import PIPE_MUXERS, check_target
from vidsr.types import Damage, Frame, VideoInfo
from vidsr.video.demuxers import ALLOWED, NAMED, Demuxer
from vidsr.video.image_names import is_image, numbered
from vidsr.video.image_source import ImageReader, ImageSource, photograph, sequence
from vidsr.video.image_writer import ImageOutputPlan, ImageWriter, check_images, plan_images
from vidsr.video.output import OutputPlan, plan_encoding, plan_output
from vidsr.video.pipe_source import PipeSource
from vidsr.video.pipe_writer import PipeOutputPlan, PipeWriter
from vidsr.video.pipes import STDIN, is_named_pipe, is_pipe_input, is_pipe_output, refuse_terminal
from vidsr.video.pixel_formats import is_pixel_format
from vidsr.video.probe import Source
from vidsr.video.reader import Reader, StartTooLate
from vidsr.video.writer import Writer

LAST_PART = 0.1  # of a video's duration, in which there are frames if its header tells the truth

AnyOutputPlan = OutputPlan | ImageOutputPlan | PipeOutputPlan


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

    def cancel(self) -> None:
        """Ends a read that waits, so that `frames` ends; may be called from any thread."""

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

    def cancel(self) -> None:
        """Ends a `write` that waits; may be called from any thread."""

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
    demuxer = _demuxer(config)
    if is_pipe_input(source):
        _refuse_rate(source, config)
        return PipeSource.opened(source, demuxer)
    source = STDIN if str(source) == "-" else source
    rate = DEFAULT_RATE if config.rate is None else config.rate
    name = numbered(source)
    is_sequence = name is not None or _is_folder(source)
    keeps_alpha = target is not None and _is_for_images(target, is_sequence) and interp == 1
    if name is not None:
        return sequence(source, name, rate, keeps_alpha)
    if _is_folder(source):
        return sequence(source, None, rate, keeps_alpha)
    _refuse_rate(source, config)
    if demuxer is None and is_image(source) and source.exists() and target is not None and is_image(target):
        return photograph(source, keeps_alpha)
    return Source(source, demuxer=demuxer)


def _refuse_rate(source: Path, config: InputConfig) -> None:
    if config.rate is not None and config.format != "rawvideo":
        raise UsageError(f"--rate is for images and raw video without times, and {source} has its own: leave it out")


def _demuxer(config: InputConfig) -> Demuxer | None:
    """The format that the user names."""
    is_raw, described = config.format == "rawvideo", (config.frame_size, config.pixel_format)
    if is_raw and None in described:
        raise UsageError(
            "raw video does not say what it is: give --input-size and --input-pix-fmt with --input-format rawvideo"
        )
    if not is_raw and described != (None, None):
        raise UsageError("--input-size and --input-pix-fmt describe raw video: give --input-format rawvideo too")
    if config.format is None:
        return None
    name = NAMED.get(config.format, config.format)
    if name not in NAMED.values() and name not in ALLOWED:
        raise UsageError(
            f"--input-format '{config.format}' is no format that vidsr reads: use {', '.join(NAMED)}, or FFmpeg's name "
            "of another one"
        )
    if config.pixel_format is not None and not is_pixel_format(config.pixel_format):
        raise UsageError(f"--input-pix-fmt '{config.pixel_format}' is no pixel format of FFmpeg: use yuv420p or rgb24")
    return Demuxer(name, config.frame_size, config.pixel_format, config.rate)


def _is_for_images(target: Path, is_sequence: bool) -> bool:
    """Whether an output path stands for images: by its extension, or as a folder for the images of a sequence."""
    is_folder = is_sequence and (target.suffix == "" or target.is_dir())
    return (is_image(target) or is_folder) and not is_pipe_output(target)


def writes_images(target: Path, source: Source) -> bool:
    """Whether the output of a source is images."""
    return _is_for_images(target, isinstance(source, ImageSource))


def check_result(target: Path, source: Source, may_overwrite: bool, also_read: Iterable[Path] = ()) -> None:
    """`check_target` for whatever an output path stands for."""
    if is_pipe_output(target):
        if not is_named_pipe(target):
            refuse_terminal()
        return
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
    if is_pipe_output(target):
        return _plan_pipe(target, source, info, size, options, trim, stretch)
    if options.format != "auto":
        raise UsageError("--output-format is for pipes, and the extension of a file says its format: leave it out")
    if writes_images(target, source):
        return plan_images(target, source, info, size, options, trim, interp)
    if options.quality is not None:
        raise UsageError("--quality is for images, and the output is a video: use --crf")
    return plan_output(target, source, info, size, options, trim, stretch)


def _plan_pipe(
    target: Path, source: Source, info: VideoInfo, size: tuple[int, int], options: OutputConfig, trim: InputConfig,
    stretch: int,
) -> PipeOutputPlan:  # fmt: skip
    if options.quality is not None:
        raise UsageError("--quality is for images, and the output is a video: use --crf")
    is_y4m = options.format == "y4m" or (options.format == "auto" and target.suffix.lower() in PIPE_MUXERS)
    name = Path(("stdout" if not is_named_pipe(target) else target.stem) + (".y4m" if is_y4m else ".mkv"))
    video = plan_encoding(name, source, info, size, options, trim, stretch)
    if is_y4m:
        video = replace(video, encoding=replace(video.encoding, time_base=1 / video.encoding.rate))
    return PipeOutputPlan(target, video)


def open_reader(
    source: Source, config: InputConfig, device: torch.device, info: VideoInfo | None = None
) -> FrameReader:
    """The reader of a source."""
    if isinstance(source, ImageSource):
        return ImageReader(source, config, device, info)
    return Reader(source, config, device, info)


def with_true_length(source: Source, info: VideoInfo) -> VideoInfo:
    """The description with the duration that can be read, where a part is to be chosen by it.

    A header announces more than there is in a download that broke off, and sometimes anything. If nothing lies in the
    last tenth, the duration becomes the time of the last frame.
    """
    whole = info.header_duration_seconds
    if whole is None or isinstance(source, ImageSource):
        return info
    late = InputConfig(start=Fraction(whole * (1 - LAST_PART)).limit_denominator(1000) or None)
    with open_reader(source, late, torch.device("cpu"), info) as reader:
        try:
            next(reader.frames(), None)
        except StartTooLate as error:
            return replace(info, header_duration_seconds=float(error.length))
    return info


def open_writer(plan: AnyOutputPlan) -> FrameWriter:
    """The writer of a plan."""
    if isinstance(plan, PipeOutputPlan):
        return PipeWriter(plan)
    return ImageWriter(plan) if isinstance(plan, ImageOutputPlan) else Writer(plan)


def _is_folder(path: Path) -> bool:
    """Whether a path is a folder; False for names that no file can have, which opening them reports."""
    try:
        return path.is_dir()
    except OSError:
        return False
