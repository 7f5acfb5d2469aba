"""Images as the frames of a video: a single photograph, numbered files, or the images of a folder."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import cv2
import numpy as np
import torch
from av.container import InputContainer
from torch import Tensor

from vidsr.config import InputConfig
from vidsr.errors import InputError, UsageError
from vidsr.files import WatchedFile
from vidsr.types import Color, Damage, Frame, StreamInfo, VideoInfo
from vidsr.video.demuxers import open_media
from vidsr.video.image_names import NumberedName, images_in
from vidsr.video.probe import SideData, Source

if TYPE_CHECKING:
    from vidsr.video.image_files import ImageHeader, Samples

# A video without contents, in place of the container of a video: it has nothing to copy. Its frame is 2 x 2 pixels.
_NOTHING_ELSE = b"YUV4MPEG2 W2 H2 F25:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(6)
_COLOR = Color(matrix="gbr", range="pc", primaries="unknown", transfer="unknown", matrix_used="gbr", range_used="pc")
GAPS_DESCRIBED = 10
# Colors are continued this far into fully transparent parts, whose stored colors mean nothing.
_BLEED_PIXELS = 15


@dataclass(frozen=True, slots=True)
class ImageSource(Source):
    """Image files as a video with a constant rate; `path` is what the user named.

    Frame `n` is shown at `ticks[n]` / `rate` seconds. `number` is that of the first file, None if they have no numbers.
    With `keeps_alpha`, frames have the colors as stored, for a result that has the transparency too; otherwise they are
    composited over black.
    """

    files: tuple[Path, ...] = ()
    ticks: tuple[int, ...] = ()
    rate: Fraction = Fraction(25)
    number: int | None = None
    keeps_alpha: bool = False

    @property
    def is_single(self) -> bool:
        """Whether this is one photograph, not a sequence."""
        return self.files == (self.path,)

    def open(self, metadata_errors: str = "replace") -> InputContainer:
        """A container without other streams, tags or chapters, because images have nothing of the kind to copy."""
        return open_media(io.BytesIO(_NOTHING_ELSE), metadata_errors)

    def probe(self) -> VideoInfo:
        """Describes the images by their headers. Raises InputError if they have different sizes, or none is readable.

        A file that cannot be read is skipped here; the reader reports it.
        """
        header, file, bits, has_alpha = self._first_header()
        for other in self.files:
            found = self._header_of(other)
            if found is None:
                continue
            if (found.width, found.height) != (header.width, header.height):
                raise InputError(
                    f"{other} has {found.width}x{found.height} pixels, but {file} has {header.width}x{header.height}: "
                    "the frames of a video have one size; bring them to one size, or enlarge each by itself (name "
                    "a folder as the output)"
                )
            bits, has_alpha = max(bits, found.bits), has_alpha or found.has_alpha
        count = self.ticks[-1] - self.ticks[0] + 1
        return VideoInfo(
            path=str(self.path),
            container="images",
            video_stream=0,
            codec=header.format,
            width=header.width,
            height=header.height,
            pixel_format=header.pixel_format,
            bit_depth=bits,
            time_base=Fraction(1, self.rate.numerator),
            color=_COLOR,
            has_alpha=has_alpha,
            header_frame_count=len(self.files),
            header_rate=self.rate,
            header_duration_seconds=float(count / self.rate),
            streams=(StreamInfo(0, "video", header.format),),
        )

    def _first_header(self) -> tuple[ImageHeader, Path, int, bool]:
        from vidsr.video.image_files import read_header  # loads Pillow, which videos do not need

        failure: InputError | None = None
        for file in self.files:
            try:
                header = read_header(file)
            except InputError as error:
                failure = failure or error
                continue
            return header, file, header.bits, header.has_alpha
        assert failure is not None, "a source has files"
        raise failure

    def _header_of(self, file: Path) -> ImageHeader | None:
        from vidsr.video.image_files import read_header  # loads Pillow, which videos do not need

        if self.is_single:
            return None  # it is the first
        try:
            return read_header(file)
        except InputError:
            return None

    def with_clock(self, info: VideoInfo, end: Fraction | None = None) -> VideoInfo:  # noqa: ARG002 - as for a file
        """The description unchanged: the times of images do not jump."""
        return info

    def side_data(self, stream: int) -> SideData:  # noqa: ARG002 - as for a file
        """None: the reader turns the images upright."""
        return SideData()

    def watched(self) -> WatchedFile | None:
        """None: the copied streams, which images do not have, come from no file."""
        return None


def photograph(path: Path, keeps_alpha: bool) -> ImageSource:
    """A single image as a video of one frame."""
    return ImageSource(path, (path,), (0,), keeps_alpha=keeps_alpha)


def sequence(path: Path, name: NumberedName | None, rate: Fraction, keeps_alpha: bool) -> ImageSource:
    """Numbered files, or with `name` None the images of the folder `path`. Raises InputError if there are none."""
    if name is None:
        files = images_in(path)
        if not files:
            raise InputError(f"no image in the folder {path}: name another, or a folder as the output for its videos")
        return ImageSource(path, tuple(files), tuple(range(len(files))), rate, keeps_alpha=keeps_alpha)
    found = name.files()
    if not found:
        raise InputError(f"{path} does not exist, and no file has this name with a number in it")
    first = found[0][0]
    ticks = tuple(number - first for number, _ in found)
    return ImageSource(path, tuple(file for _, file in found), ticks, rate, first, keeps_alpha)


class ImageReader:
    """An open image sequence, with the interface of `Reader`. Files that cannot be read are damage."""

    def __init__(
        self, source: ImageSource, config: InputConfig, device: torch.device, info: VideoInfo | None = None
    ) -> None:
        """`info` is the source's description if it is known already; otherwise the files are probed."""
        self.warnings: list[str] = []
        self.damages: list[Damage] = []
        self.side_data: set[str] = set()
        self._source, self._config, self._device = source, config, device
        self._described = info
        self._last: float | None = None

    info: VideoInfo

    def __enter__(self) -> Self:
        self.info = self._described or self._source.probe()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def cancel(self) -> None:
        """Nothing waits for anything here."""

    def frames(self) -> Iterator[Frame]:
        """Yields the frames of the requested part in order. Call it once."""
        wanted = self._wanted()
        self._note_gaps(wanted)
        count = 0
        for place in wanted:
            image = self._read(place)
            self._last = float(self._source.ticks[place] / self._source.rate)
            if image is not None:
                count += 1
                unit = self._source.rate.denominator  # of the time base
                pts, duration = self._source.ticks[place] * unit, self._duration(place) * unit
                yield Frame(image, pts, self.info.time_base, duration)
        if not count:
            raise InputError(f"{self._source.path}: {self.damages[0].reason}")

    def _wanted(self) -> Sequence[int]:
        """The places of the files in the requested part."""
        start, end, rate = self._config.start, self._config.end, self._source.rate
        times = [tick / rate for tick in self._source.ticks]
        places = [
            place
            for place, time in enumerate(times)
            if (start is None or time >= start) and (end is None or time < end)
        ]
        if not places:
            raise UsageError(
                f"{self._source.path} has no frame in the requested part; its last frame is at {float(times[-1]):.3f} s"
            )
        return places

    def _note_gaps(self, places: Sequence[int]) -> None:
        number = self._source.number or 0
        gaps = [(a + 1, b - 1) for a, b in pairwise(self._source.ticks[place] for place in places) if b - a > 1]
        for low, high in gaps[:GAPS_DESCRIBED]:
            which = f"number {number + low} is" if low == high else f"numbers {number + low} to {number + high} are"
            self._record(float((low - 1) / self._source.rate), f"{which} missing; the frame before is shown longer")
        if more := gaps[GAPS_DESCRIBED:]:
            self._record(float((more[0][0] - 1) / self._source.rate), f"{len(more)} further gaps in the numbers")

    def _duration(self, place: int) -> int:
        ticks = self._source.ticks
        return ticks[place + 1] - ticks[place] if place + 1 < len(ticks) else 1

    def _record(self, seconds: float | None, reason: str) -> None:
        self.damages.append(Damage(seconds, reason))

    def _read(self, place: int) -> Tensor | None:
        from vidsr.video.image_files import read_header, read_image  # loads Pillow, which videos do not need

        file = self._source.files[place]
        try:
            header, stored = read_header(file), read_image(file)
        except InputError as error:
            if self._source.is_single:
                raise
            self._record(self._last, str(error))
            return None
        if stored.damage is not None:
            self._record(self._last, f"{file} is damaged, and what can be decoded is used: {stored.damage}")
        if stored.color.shape[:2] != (self.info.height, self.info.width):
            raise InputError(f"{file} has changed its size since the start of the run")
        self._note(header)
        color = stored.color
        if stored.alpha is not None and _is_transparent(stored.alpha):
            if self._source.keeps_alpha:
                color = bleed(color, stored.alpha)
            else:
                self._warn_once("the images are transparent in places; they are composited over black")
        return self._tensor(color, None if self._source.keeps_alpha else stored.alpha)

    def _tensor(self, color: Samples, alpha: Samples | None) -> Tensor:
        image = to_unit(color, self._device)
        if alpha is not None:
            image.mul_(to_unit(alpha[..., None], self._device))
        return image.expand(3, -1, -1).contiguous()

    def _note(self, header: ImageHeader) -> None:
        """Collects what the output must keep, or lose."""
        if header.metadata.icc is not None:
            self.side_data.add("ICC_PROFILE")
        if header.metadata.exif is not None:
            self.side_data.add("31")
        if header.is_cmyk:
            self._warn_once("the image is CMYK; it is converted to sRGB, by its color profile if it has one")

    def _warn_once(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)


def to_unit(samples: Samples, device: torch.device) -> Tensor:
    """Samples H x W x C as C x H x W float32 in 0..1."""
    scale = float(np.iinfo(samples.dtype).max)
    # torch has few operations for uint16, but NumPy's float32 is exact for it.
    return torch.from_numpy(np.ascontiguousarray(samples.transpose(2, 0, 1)).astype(np.float32) / scale).to(device)


def bleed(color: Samples, alpha: Samples) -> Samples:
    """The colors with those of visible pixels continued into fully transparent ones, whose stored color is arbitrary.

    Otherwise a network would draw them into the visible edge. `color` is H x W x C, `alpha` H x W.
    """
    weight = (alpha > 0).astype(np.float32)
    side = (2 * _BLEED_PIXELS + 1,) * 2
    spread = np.atleast_3d(cv2.blur(color.astype(np.float32) * weight[..., None], side))
    near = np.atleast_3d(cv2.blur(weight, side))
    reached = (alpha == 0)[..., None] & (near > 1e-6)
    continued = (spread / np.maximum(near, 1e-6)).clip(0, np.iinfo(color.dtype).max)
    return np.where(reached, continued.round().astype(color.dtype), color)


def _is_transparent(alpha: Samples) -> bool:
    return bool((alpha < np.iinfo(alpha.dtype).max).any())
