"""Output plan: target, encoder, pixel format and aspect ratio, chosen and tested before any frame is processed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from vidsr.config import InputConfig, OutputConfig
from vidsr.files import check_target
from vidsr.types import VideoInfo
from vidsr.video.containers import muxer_of
from vidsr.video.encoder import Encoding, choose
from vidsr.video.mux_trial import refused_parts
from vidsr.video.passthrough import Part
from vidsr.video.probe import Source

# Rounding sizes to whole pixels changes the aspect ratio by less than this; a larger change was requested by the user.
ASPECT_TOLERANCE = Fraction(1, 50)


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """The settings with which a video is written, made by `plan_output`.

    `source` gives the time base and the rate of the frames. `size` is (width, height) of the frames. `stretch` is the
    ratio of the output's duration to the input's. `matrix` is FFmpeg's display matrix. `refused` are parts of the input
    that the muxer does not accept. `warnings` name what the output cannot keep.
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
    refused: tuple[Part, ...] = ()


def plan_output(
    target: Path, source: VideoInfo, size: tuple[int, int], options: OutputConfig, trim: InputConfig, stretch: int = 1
) -> OutputPlan:
    """Chooses how a video is written, without writing anything. Raises OutputError for settings that cannot work.

    Everything that the muxer may refuse is tried in memory.

    `size` is (width, height) of the frames; `source` gives their time base and rate. `stretch` (1, 2, 4 or 8) is the
    ratio of the output's duration to the input's; above 1, audio cannot be copied.
    """
    assert stretch == 1 or options.audio != "copy", "SlowmoConfig rejects copied audio for a longer video"
    target = check_target(target, Path(source.path), options.overwrite)
    container = muxer_of(target)
    side = Source(Path(source.path)).side_data(source.video_stream)
    encoding = choose(container, source, size, options, side)
    aspect, warnings = _pixel_aspect(source, size)
    plan = OutputPlan(
        target, source, size, options, trim, stretch, encoding, aspect, side.matrix, (*encoding.warnings, *warnings)
    )
    return replace(plan, refused=refused_parts(plan))


def _pixel_aspect(source: VideoInfo, size: tuple[int, int]) -> tuple[Fraction, list[str]]:
    """The pixel aspect ratio that keeps the display aspect ratio of the source at a new size, and a warning if it
    differs from the source's.
    """
    stretch = Fraction(source.width * size[1], source.height * size[0])
    if abs(stretch - 1) <= ASPECT_TOLERANCE:
        return source.pixel_aspect, []
    aspect = (source.pixel_aspect * stretch).limit_denominator(255)
    warning = (
        f"{size[0]}x{size[1]} has other proportions than the input; the pixel aspect "
        f"{aspect.numerator}:{aspect.denominator} keeps the display aspect ratio"
    )
    return aspect, [warning]
