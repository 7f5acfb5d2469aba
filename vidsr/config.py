"""Every option of a run: one field, one default. The command line fills these and nothing else reads options."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

Precision = Literal["auto", "fp32", "fp16", "bf16"]
SceneMode = Literal["auto", "off"]
CopyMode = Literal["copy", "none"]


@dataclass(frozen=True, slots=True)
class InputConfig:
    """What is read. Times are exact seconds from the first frame of the film; `end` is exclusive."""

    start: Fraction | None = None
    end: Fraction | None = None


@dataclass(frozen=True, slots=True)
class OutputConfig:
    """How the result is encoded and what is carried over from the input.

    `codec`, `pix_fmt` "auto": libx264 with yuv420p for 8-bit sources, an encoder that holds the source's depth above.
    `crf`, `preset` None: the encoder's own scale is used with vidsr's default quality.
    `encoder_options` are FFmpeg private options of the encoder, as (key, value).
    """

    codec: str = "auto"
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str = "auto"
    encoder_options: tuple[tuple[str, str], ...] = ()
    audio: CopyMode = "copy"
    subtitles: CopyMode = "copy"
    overwrite: bool = False


@dataclass(frozen=True, slots=True)
class SizeConfig:
    """The wanted size: at most one of the three is set; none means `scale` 4."""

    scale: float | None = None
    size: tuple[int, int] | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """Which model runs where. `tile` is in input pixels; `threads` 0 leaves the choice to torch."""

    model: str = "auto"
    device: str = "auto"
    precision: Precision = "auto"
    threads: int = 0
    tile: int | Literal["auto", "off"] = "auto"


@dataclass(frozen=True, slots=True)
class SceneConfig:
    """Scene cuts. `threshold` is in units of the detector's content value (0..255)."""

    mode: SceneMode = "auto"
    threshold: float = 27.0


@dataclass(frozen=True, slots=True)
class UpscaleConfig:
    """All of `vidsr upscale`."""

    input: InputConfig = field(default_factory=InputConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    size: SizeConfig = field(default_factory=SizeConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    strict: bool = False
