"""Output plan: target, encoder, pixel format and aspect ratio, chosen and tested before any frame is processed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

from vidsr.config import InputConfig, OutputConfig
from vidsr.files import check_target
from vidsr.types import VideoInfo
from vidsr.video.containers import MATROSKA, muxer_of, refuse_pipe_format
from vidsr.video.encoder import Encoding, choose
from vidsr.video.mux_trial import refused_parts
from vidsr.video.passthrough import Part
from vidsr.video.probe import Source
from vidsr.video.projection import CONTAINERS, layout_boxes, stereo_tag

# Rounding sizes to whole pixels changes the aspect ratio by less than this; a larger change was requested by the user.
ASPECT_TOLERANCE = Fraction(1, 50)


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """The settings with which a video is written, made by `plan_output`.

    `source` is the input, whose other streams are copied; `info` gives the time base and the rate of the frames. `size`
    is (width, height) of the frames. `stretch` is the ratio of the output's duration to the input's. `matrix` is
    FFmpeg's display matrix. `refused` are parts of the input that the muxer does not accept. `warnings` name what the
    output cannot keep. `signature` becomes the encoder tag of the video stream; MP4 keeps 31 characters of it. `layout`
    are boxes of a spherical or stereoscopic layout for MP4 and MOV, `stereo` is the tag of the latter for Matroska.
    """

    target: Path
    source: Source
    info: VideoInfo
    size: tuple[int, int]
    options: OutputConfig
    trim: InputConfig
    stretch: int
    encoding: Encoding
    pixel_aspect: Fraction
    matrix: tuple[int, ...] | None
    warnings: tuple[str, ...]
    refused: tuple[Part, ...] = ()
    signature: str | None = None
    layout: bytes = b""
    stereo: str | None = None

    @property
    def description(self) -> str:
        """Encoder and pixel format, for people."""
        return f"{self.encoding.codec} {self.encoding.pixel_format}"


def plan_output(
    target: Path, source: Source | Path, info: VideoInfo, size: tuple[int, int], options: OutputConfig,
    trim: InputConfig, stretch: int = 1,
) -> OutputPlan:  # fmt: skip
    """Chooses how a video is written, without writing anything. Raises OutputError for settings that cannot work.

    Everything that the muxer may refuse is tried in memory.

    `source` is the input, whose other streams are copied. `size` is (width, height) of the frames, and `info` gives
    their time base and rate. `stretch` (1, 2, 4 or 8) is the ratio of the output's duration to the input's; above 1,
    audio cannot be copied.
    """
    assert stretch == 1 or options.audio != "copy", "SlowmoConfig rejects copied audio for a longer video"
    source = Source.of(source)
    refuse_pipe_format(target)
    return plan_encoding(
        check_target(target, source.path, options.overwrite), source, info, size, options, trim, stretch
    )


def plan_encoding(
    target: Path, source: Source, info: VideoInfo, size: tuple[int, int], options: OutputConfig, trim: InputConfig,
    stretch: int = 1,
) -> OutputPlan:  # fmt: skip
    """`plan_output` without a look at what is under the name `target`."""
    side = source.side_data(info.video_stream)
    encoding = choose(muxer_of(target), info, size, options, side)
    aspect, warnings = _pixel_aspect(info, size)
    plan = OutputPlan(
        target=target, source=source, info=info, size=size, options=options, trim=trim, stretch=stretch,
        encoding=encoding, pixel_aspect=aspect, matrix=side.matrix, warnings=(*encoding.warnings, *warnings),
        layout=layout_boxes(side.spherical, side.stereo) if muxer_of(target) in CONTAINERS else b"",
        stereo=stereo_tag(side.stereo) if muxer_of(target) in MATROSKA else None,
    )  # fmt: skip
    return replace(plan, refused=refused_parts(plan))


def _pixel_aspect(info: VideoInfo, size: tuple[int, int]) -> tuple[Fraction, list[str]]:
    """The pixel aspect ratio that keeps the display aspect ratio of the source at a new size, and a warning if it
    differs from the source's.
    """
    stretch = Fraction(info.width * size[1], info.height * size[0])
    if abs(stretch - 1) <= ASPECT_TOLERANCE:
        return info.pixel_aspect, []
    aspect = (info.pixel_aspect * stretch).limit_denominator(255)
    warning = (
        f"{size[0]}x{size[1]} has other proportions than the input; the pixel aspect "
        f"{aspect.numerator}:{aspect.denominator} keeps the display aspect ratio"
    )
    return aspect, [warning]
