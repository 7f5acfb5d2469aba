"""How a video is written, decided and tried before any work: target, encoder, pixel format, shape, what is copied."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from vidsr.config import InputConfig, OutputConfig
from vidsr.files import check_target
from vidsr.types import VideoInfo
from vidsr.video.containers import muxer_of
from vidsr.video.encoder import Encoding, choose
from vidsr.video.probe import Source

# Sizes are whole pixels, so an enlargement changes the aspect a little; more than this was asked for.
ASPECT_TOLERANCE = Fraction(1, 50)


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """How a video is written, decided and tried beforehand by `plan_output`; a plain value.

    `source` says in which time base and at which rate frames come. `size` is (width, height) of the frames. `matrix` is
    FFmpeg's display matrix. `warnings` name what the output cannot be given.
    """

    target: Path
    source: VideoInfo
    size: tuple[int, int]
    options: OutputConfig
    trim: InputConfig
    stretch: int
    encoding: Encoding
    pixel_aspect: Fraction
    matrix: tuple[int, ...] | None
    warnings: tuple[str, ...]


def plan_output(
    target: Path, source: VideoInfo, size: tuple[int, int], options: OutputConfig, trim: InputConfig, stretch: int = 1
) -> OutputPlan:
    """Decides how a video is written and refuses what can be refused; writes nothing.

    `size` is (width, height) of the frames; `source` says in which time base and at which rate they come.

    `stretch`, 1 or 2, 4, 8, is how many times the result lasts longer than its input; copied audio cannot follow.

    Raises OutputError.
    """
    assert stretch == 1 or options.audio != "copy", "a SlowmoConfig refuses audio that cannot follow"
    target = check_target(target, Path(source.path), options.overwrite)
    container = muxer_of(target)
    side = Source(Path(source.path)).side_data(source.video_stream)
    encoding = choose(container, source, size, options, side)
    aspect, warnings = _pixel_aspect(source, size)
    return OutputPlan(
        target, source, size, options, trim, stretch, encoding, aspect, side.matrix, (*encoding.warnings, *warnings)
    )


def _pixel_aspect(source: VideoInfo, size: tuple[int, int]) -> tuple[Fraction, list[str]]:
    """The source's, or what keeps the shape of things if the wanted size has other proportions; and a warning then."""
    stretch = Fraction(source.width * size[1], source.height * size[0])
    if abs(stretch - 1) <= ASPECT_TOLERANCE:
        return source.pixel_aspect, []
    aspect = (source.pixel_aspect * stretch).limit_denominator(255)
    warning = (
        f"{size[0]}x{size[1]} has other proportions than the input; the pixel aspect "
        f"{aspect.numerator}:{aspect.denominator} keeps the shape of things"
    )
    return aspect, [warning]
