"""Writing frames as image files: a photograph, numbered files, or files named like those of the input."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import CheckError, DeviceError, InputError, OutputError, UsageError
from vidsr.files import HiddenFile, HiddenFolder, check_target, stale_warnings
from vidsr.nets.layers.resize import resize
from vidsr.runtime.memory import free_memory
from vidsr.types import Frame, StreamInfo, VideoInfo
from vidsr.video.errors import writing
from vidsr.video.image_names import NumberedName, is_image, numbered
from vidsr.video.image_source import ImageSource, to_unit
from vidsr.video.probe import Source, mirror_and_rotation
from vidsr.video.side_data_kinds import losses

if TYPE_CHECKING:
    from vidsr.video.image_files import ImageHeader, Metadata, Samples

# Bytes per pixel of a frame while it is resized and rounded or faces are put in: two copies in float32, two in 8 bits.
# Measured with faces at 24000x16000: 29.
_BYTES_PER_PIXEL = 2 * 3 * 4 + 2 * 3
# Rows that are rounded at a time.
_BAND = 256
_RGB_WEIGHTS = (0.299, 0.587, 0.114)  # of luma in BT.601, as gray is defined for JPEG
_BITS = {"rgb24": 8, "rgb48le": 16, "rgb48be": 16}
_APPLIED = ("DISPLAYMATRIX",)  # side data that images need not hold, because it has been applied
_USUAL_COLORS = ("unknown", "bt709", "smpte170m", "bt470bg", "smpte240m", "iec61966-2-1", "gbr")


@dataclass(frozen=True, slots=True)
class ImageOutputPlan:
    """The settings with which frames are written as images, made by `plan_images`.

    `name` says how the files are called; None for a single file (`target`), or for files named like those of the input
    (`target` is a folder). `bits` are those of each sample; None: as many as the input's file. `first` is the number of
    the first file, and `keeps_numbers` whether numbers are those of the input. A frame becomes upright if it is
    mirrored left to right (`is_mirrored`) and then turned by counterclockwise quarter `turns`. `losses` name what no
    image holds.
    """

    target: Path
    source: Source
    info: VideoInfo
    size: tuple[int, int]
    options: OutputConfig
    name: NumberedName | None
    bits: int | None
    first: int
    keeps_numbers: bool
    turns: int
    is_mirrored: bool
    warnings: tuple[str, ...]
    losses: tuple[str, ...]

    @property
    def template(self) -> ImageSource | None:
        """The input, if each frame of the result has the transparency and metadata of one of its files."""
        return self.source if isinstance(self.source, ImageSource) and self.source.keeps_alpha else None

    @property
    def is_single(self) -> bool:
        """Whether one file is written."""
        return self.name is None and not self.is_folder

    @property
    def is_folder(self) -> bool:
        """Whether files are named like those of the input."""
        return _is_folder(self.target, self.name)

    @property
    def description(self) -> str:
        """Format and depth, for people."""
        from vidsr.video.image_files import FORMATS  # loads Pillow, which videos do not need

        depth = "" if self.bits is None else f" {self.bits} bits"
        return f"{'as the input' if self.is_folder else FORMATS[self.target.suffix.lower()]}{depth}"

    def path_of(self, frame: Frame, count: int) -> Path:
        """The final path of a frame; `count` frames precede it."""
        if self.is_single:
            return self.target
        place = self.place_of(frame)
        if self.name is None:
            assert self.template is not None and place is not None
            return self.target / self.template.files[place].name
        if self.keeps_numbers and place is not None and self.template is not None:
            return self.name.path(self.first + self.template.ticks[place])
        return self.name.path(self.first + count)

    def place_of(self, frame: Frame) -> int | None:
        """Which file of the input a frame comes from; None if that has no meaning."""
        if self.template is None:
            return None
        return bisect_left(self.template.ticks, round(frame.pts * frame.time_base * self.template.rate))


def _is_folder(target: Path, name: NumberedName | None) -> bool:
    return name is None and not is_image(target)


def check_images(target: Path, source: Source, may_overwrite: bool, also_read: Iterable[Path] = ()) -> None:
    """Checks that images may be written, as `check_target` does for a file; creates nothing. Raises OutputError."""
    name = numbered(target)
    if name is None and not _is_folder(target, name):
        check_target(target, source.path, may_overwrite, also_read)
        return
    folder = target.absolute() if name is None else target.parent.absolute()
    inputs = source.files if isinstance(source, ImageSource) else ()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file, but a folder is needed for {target}: choose another name")
    parent = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {parent} is not writable: choose another or change its permissions")
    if name is None:
        existing = [folder / file.name for file in inputs if (folder / file.name).exists()]
    else:
        existing = [path for _, path in name.files()] if folder.exists() else []
    if any(path.samefile(file) for path in existing for file in inputs if path.name == file.name):
        raise OutputError(f"{target} are files of the input itself: choose another folder or name for the output")
    if existing and not may_overwrite:
        raise OutputError(
            f"{existing[0]} already exists ({len(existing)} files of such a name): choose another name or give "
            "--overwrite"
        )


def plan_images(
    target: Path, source: Source, info: VideoInfo, size: tuple[int, int], options: OutputConfig,
    trim: InputConfig, interp: int,
) -> ImageOutputPlan:  # fmt: skip
    """Decides how frames are written as images, without writing anything. Raises OutputError or UsageError.

    `size` is (width, height) of the frames; `info` describes them. N frames of the input become (N - 1) * `interp` + 1.
    """
    check_images(target, source, options.overwrite)
    name = numbered(target)
    is_single_source = isinstance(source, ImageSource) and source.is_single
    is_folder = _is_folder(target, name)
    if name is None and not is_folder and not is_single_source:
        raise UsageError(
            f"{target} is one image, but the input is a video: put a number into the name, such as "
            f"{target.with_name(f'{target.stem}_%06d{target.suffix}')}"
        )
    if is_folder and interp > 1:
        raise UsageError(f"{target}: new frames need numbers as names; give a name such as {target / '%06d.png'}")
    from vidsr.video.image_files import FORMATS  # loads Pillow, which videos do not need

    _refuse_encoder_options(options)
    format_ = info.codec if is_folder else FORMATS[target.suffix.lower()]
    bits, warnings = _depth(format_, info, options)
    _refuse_size(target, format_, size)
    has_numbers = isinstance(source, ImageSource) and source.number is not None
    matrix = source.side_data(info.video_stream).matrix
    is_mirrored, degrees = (False, info.rotation_degrees) if matrix is None else mirror_and_rotation(matrix)
    turns = degrees // 90 % 4 if degrees % 90 == 0 else 0
    return ImageOutputPlan(
        target=target, source=source, info=info, size=size, options=options, name=name, bits=bits,
        first=source.number if isinstance(source, ImageSource) and source.number is not None else 1,
        keeps_numbers=has_numbers and interp == 1, turns=turns, is_mirrored=is_mirrored,
        warnings=tuple(warnings),
        losses=tuple(_losses(source, info, options, trim)),
    )  # fmt: skip


def _refuse_encoder_options(options: OutputConfig) -> None:
    for given, name in (
        (options.codec != "auto", "--codec"),
        (options.crf is not None, "--crf"),
        (options.preset is not None, "--preset"),
        (bool(options.encoder_options), "--encoder-option"),
    ):
        if given:
            raise UsageError(f"{name} is for videos, and the output is an image: leave it out, or use --quality")
    if options.pix_fmt != "auto" and options.pix_fmt not in _BITS:
        raise OutputError(
            f"images are written as rgb24 (8 bits per sample) or rgb48le (16), not as '{options.pix_fmt}'; gray stays "
            "gray with either"
        )


def _depth(format_: str, info: VideoInfo, options: OutputConfig) -> tuple[int | None, list[str]]:
    """Bits per sample of the output (None: those of each input file), and a warning if they are fewer."""
    holds_16 = format_ in ("png", "tiff")
    if options.pix_fmt != "auto":
        bits = _BITS[options.pix_fmt]
        if bits > 8 and not holds_16:
            raise OutputError(f"{format_} images have 8 bits per sample: write .png or .tif for {options.pix_fmt}")
    elif info.container == "images" and holds_16:
        return None, []
    else:
        bits = 16 if info.bit_depth > 8 and holds_16 else 8
    if bits < info.bit_depth:
        remedy = "" if holds_16 else "; .png and .tif keep 16"
        return bits, [f"the output holds {bits} bits per sample, the source has {info.bit_depth}{remedy}"]
    return bits, []


def _refuse_size(target: Path, format_: str, size: tuple[int, int]) -> None:
    from vidsr.video.image_files import LONGEST_SIDES  # loads Pillow, which videos do not need

    longest = LONGEST_SIDES.get(format_)
    if longest is not None and max(size) > longest:
        raise OutputError(
            f"{target}: {format_} images have at most {longest} pixels on a side, not {max(size)}: write .png or .tif"
        )
    needed, free = size[0] * size[1] * _BYTES_PER_PIXEL, free_memory(torch.device("cpu"))
    if needed > free:
        raise DeviceError(
            f"an image of {size[0]}x{size[1]} pixels needs {needed / 2**30:.1f} GiB of memory, and "
            f"{free / 2**30:.1f} GiB are free: choose a smaller --scale"
        )


def _losses(source: Source, info: VideoInfo, options: OutputConfig, trim: InputConfig) -> list[str]:  # noqa: ARG001
    """What of a video no image holds, in sentences."""
    if isinstance(source, ImageSource):
        return []
    left_out = {"audio"} if options.audio == "none" else set()
    left_out |= {"subtitle"} if options.subtitles == "none" else set()
    found = [
        f"{_named(stream)} is left out: images hold none"
        for stream in info.streams
        if stream.index != info.video_stream and stream.kind not in left_out
    ]
    if info.pixel_aspect != 1:
        aspect = f"{info.pixel_aspect.numerator}:{info.pixel_aspect.denominator}"
        found.append(f"the pixel aspect {aspect} is not kept: images have square pixels")
    if info.rotation_degrees % 90:
        found.append(f"the rotation by {info.rotation_degrees} degrees is not applied")
    colors = {info.color.primaries, info.color.transfer} - set(_USUAL_COLORS)
    if colors:
        found.append(f"the colors stay as coded ({', '.join(sorted(colors))}), which the images do not say")
    return found


def _named(stream: StreamInfo) -> str:
    language = f", {stream.language}" if stream.language else ""
    return f"stream {stream.index} ({stream.kind} {stream.codec}{language})"


class ImageWriter:
    """Writes frames as planned, with the interface of `Writer`.

    The files go to a hidden file or folder beside their place. Each is read back and compared; `commit` gives them
    their names. Leaving the `with` block without `commit` removes them.
    """

    def __init__(self, plan: ImageOutputPlan) -> None:
        self.plan = plan
        self.warnings: list[str] = list(plan.warnings)
        self._losses: list[str] = list(plan.losses)
        self._stack = ExitStack()
        self._single: HiddenFile | None = None
        self._folder: HiddenFolder | None = None
        self._names: set[str] = set()
        self._last: Fraction | None = None
        self._steps: set[Fraction] = set()

    def __enter__(self) -> Self:
        plan = self.plan
        target, overwrite = plan.target, plan.options.overwrite
        folder = target.absolute() if plan.is_folder else target.absolute().parent
        with writing(target):
            if plan.is_single:
                self._single = self._stack.enter_context(HiddenFile(target, overwrite=overwrite))
            else:
                self.warnings += stale_warnings(folder)
                self._folder = self._stack.enter_context(HiddenFolder(folder, target.stem, overwrite=overwrite))
        if plan.is_single:
            self.warnings += stale_warnings(folder)
        return self

    def cancel(self) -> None:
        """Nothing waits for anything here."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def write(self, frame: Frame) -> None:
        """Writes the next frame, of the planned size. Raises OutputError or CheckError."""
        from vidsr.video.image_files import (  # loads Pillow, which videos do not need
            FORMATS,
            QUALITY,
            resized_metadata,
            write_image,
        )

        plan = self.plan
        path = plan.path_of(frame, len(self._names))
        hidden = self._single.path if self._single is not None else self._hidden(path.name)
        self._names.add(path.name)
        self._note_time(frame)
        format_ = FORMATS[path.suffix.lower()]
        color, alpha, metadata = self._samples(frame, format_)
        height, width = color.shape[:2]
        quality = QUALITY if plan.options.quality is None else plan.options.quality
        with writing(path):
            lost = write_image(hidden, format_, color, alpha, resized_metadata(metadata, width, height), quality)
        for each in lost:
            self._lose(f"{format_} images do not keep {each} of the input")
        _check(hidden, path.name, format_, color, alpha, is_exact=format_ in ("png", "tiff"))

    def commit(self, is_strict: bool = False, side_data: Collection[str] = ()) -> None:
        """Gives the files their names. Raises OutputError, or CheckError if something is lost with `is_strict`.

        `side_data` are the kinds of side data of the input's video, which images do not hold.
        """
        plan = self.plan
        if not self._names:
            raise OutputError(f"{plan.target.name}: there is no frame to write")
        if len(self._steps) > 1 and plan.template is None:
            self._lose("the frames do not come at even times, and images hold none")
        if not isinstance(plan.source, ImageSource):  # what images lose of images is known already
            for sentence in losses(side_data, _APPLIED):
                self._lose(sentence)
        if is_strict and self._losses:
            raise CheckError(f"{plan.target.name} was not made, because --strict allows no loss: {self._losses[0]}")
        with writing(plan.target):
            if self._single is not None:
                self._single.publish()
            if self._folder is not None:
                self._folder.publish()
        if plan.name is not None:
            others = [path for _, path in plan.name.files() if path.name not in self._names]
            if others:
                self.warnings.append(
                    f"{len(others)} other files of such a name are in the folder, first {others[0]}: they are not of "
                    "this run"
                )
        self.warnings += self._losses

    def _hidden(self, name: str) -> Path:
        assert self._folder is not None, "a writer is used in a `with` block"
        return self._folder.path / name

    def _lose(self, text: str) -> None:
        if text not in self._losses:
            self._losses.append(text)

    def _note_time(self, frame: Frame) -> None:
        time = frame.pts * frame.time_base
        if self._last is not None:
            self._steps.add(time - self._last)
        self._last = time

    def _samples(self, frame: Frame, format_: str) -> tuple[Samples, Samples | None, Metadata]:
        """Color, alpha and metadata of a frame, as they are written."""
        from vidsr.video.image_files import Metadata, read_header  # loads Pillow, which videos do not need

        plan = self.plan
        place = plan.place_of(frame)
        if plan.template is None or place is None:
            image = frame.image.flip(2) if plan.is_mirrored else frame.image
            image = torch.rot90(image, plan.turns, (1, 2)) if plan.turns else image
            is_gray = plan.info.pixel_format.startswith(("gray", "ya"))
            return to_samples(image, plan.bits or 8, is_gray), None, Metadata()
        file = plan.template.files[place]
        header = read_header(file)
        self._note_header(header, format_)
        bits = plan.bits or header.bits
        alpha = self._alpha(file, bits, frame.image) if header.has_alpha else None
        color = to_samples(frame.image, bits, header.is_gray)
        if alpha is not None and format_ == "jpeg":
            self._lose("jpeg images hold no transparency: it is composited over white")
            color, alpha = _over_white(color, alpha), None
        return color, alpha, header.metadata

    def _note_header(self, header: ImageHeader, format_: str) -> None:
        for extra in header.extras:
            self._lose(f"the result lacks {extra} of the input")
        if header.is_gray and format_ == "webp":
            self._warn_once("webp images hold no grayscale: gray is stored as color with equal red, green and blue")
        if header.is_gray and header.has_alpha and header.bits == 16:
            self._warn_once("gray with transparency and 16 bits is stored as color with equal red, green and blue")
        if header.orientation != 1:
            self._warn_once("the orientation that EXIF states is applied to the image")

    def _warn_once(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _alpha(self, file: Path, bits: int, image: Tensor) -> Samples | None:
        from vidsr.video.image_files import read_image  # loads Pillow, which videos do not need

        try:
            alpha = read_image(file).alpha
        except InputError as error:
            raise InputError(f"{error}; it was read before, so it has changed since") from error
        if alpha is None:
            return None
        larger = resize(to_unit(alpha[..., None], torch.device("cpu")), (image.shape[1], image.shape[2]))
        return to_samples(larger, bits, is_gray=False)[..., 0]


def to_samples(image: Tensor, bits: int, is_gray: bool) -> Samples:
    """An image C x H x W in 0..1 as H x W x C integers of 8 or 16 bits, rounded; `is_gray`: RGB becomes luma."""
    channels, height, width = image.shape
    peak, kind = (65535, np.uint16) if bits > 8 else (255, np.uint8)
    result = np.empty((height, width, 1 if is_gray else channels), kind)
    for top in range(0, height, _BAND):  # a photograph is large: few rows in float32 at a time
        band = image[:, top : top + _BAND].detach().to("cpu", torch.float32)
        if is_gray:
            red, green, blue = (weight * band[index] for index, weight in enumerate(_RGB_WEIGHTS))
            band = (red + green + blue)[None]
        levels = band.clamp(0, 1).mul(peak).add_(0.5).permute(1, 2, 0).numpy()
        result[top : top + _BAND] = levels.astype(kind)
    return result


def _over_white(color: Samples, alpha: Samples) -> Samples:
    peak = float(np.iinfo(color.dtype).max)
    weight = alpha[..., None].astype(np.float32) / peak
    mixed = color * weight + peak * (1 - weight) + 0.5
    return np.asarray(mixed.clip(0, peak).astype(color.dtype))


def _check(file: Path, name: str, format_: str, color: Samples, alpha: Samples | None, is_exact: bool) -> None:
    """Reads a finished file back. Raises CheckError if it is not what was written."""
    from vidsr.video.image_files import read_image  # loads Pillow, which videos do not need

    try:
        found = read_image(file, color.shape[0] * color.shape[1])  # which may be more than of an input
    except InputError as error:
        raise CheckError(f"{name} cannot be read back ({error}); nothing was kept") from error
    expected = color if color.shape[2] == found.color.shape[2] else np.repeat(color, 3, axis=2)
    is_same = found.color.shape == expected.shape and found.damage is None
    # WebP drops an alpha channel that is opaque everywhere.
    has_alpha = found.alpha is not None or alpha is None or (format_ == "webp" and bool((alpha == 255).all()))
    if is_same and is_exact:
        is_same = np.array_equal(found.color, expected)
        is_same &= alpha is None or (found.alpha is not None and np.array_equal(found.alpha, alpha))
    if not (is_same and has_alpha):
        raise CheckError(f"the finished {name} failed its check: it differs from what was written; nothing was kept")
