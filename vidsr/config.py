"""Every option of a run: one field, one default. The command line fills these and nothing else reads options."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal

Precision = Literal["auto", "fp32", "fp16", "bf16"]
Backend = Literal["torch", "onnx"]
SceneMode = Literal["auto", "off"]
DuplicateMode = Literal["auto", "off"]
CopyMode = Literal["copy", "none"]
AudioMode = Literal["copy", "stretch", "none"]


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
    `stretch` is no option: how many times the result lasts longer than its input, as the run finds it.
    """

    codec: str = "auto"
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str = "auto"
    encoder_options: tuple[tuple[str, str], ...] = ()
    audio: AudioMode = "copy"
    subtitles: CopyMode = "copy"
    overwrite: bool = False
    stretch: int = 1


@dataclass(frozen=True, slots=True)
class SizeConfig:
    """The wanted size: at most one of the three is set; none means the command's own `default_scale`."""

    scale: float | None = None
    size: tuple[int, int] | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class ComputeConfig:
    """Which model runs where, and in what. `tile` is in input pixels; `threads` 0 leaves the choice to torch."""

    model: str = "auto"
    device: str = "auto"
    precision: Precision = "auto"
    threads: int = 0
    tile: int | Literal["auto", "off"] = "auto"
    backend: Backend = "torch"


@dataclass(frozen=True, slots=True)
class SceneConfig:
    """Scene cuts. `threshold` is in units of the detector's content value (0..255)."""

    mode: SceneMode = "auto"
    threshold: float = 27.0


@dataclass(frozen=True, slots=True)
class FaceConfig:
    """Finding faces. `detector` is a YuNet file, None the shipped one.

    `min_face` is the side in input pixels that must be found.

    `every`: one frame in so many is searched, and the tracks bridge those between.
    """

    detector: Path | None = None
    min_face: float = 16.0
    every: int = 2


@dataclass(frozen=True, slots=True)
class RestoreConfig:
    """Restoring faces. `use` None: the default of film.py.

    `strength`, 0..1, is how much of a restored face shows. Faces from `min_face` to `largest` input pixels are
    restored, `most` of them in a frame: from 15 to 115 pixels the gain is 0.36 to 0.62 dB on moved stills; what
    larger ones gain could not be measured, and they cost most.
    """

    use: bool | None = None
    strength: float = 1.0
    min_face: float = 16.0
    largest: float = 128.0
    most: int = 8
    detector: Path | None = None

    @property
    def finding(self) -> FaceConfig:
        """How faces are found for it."""
        return FaceConfig(self.detector, self.min_face)


@dataclass(frozen=True, slots=True)
class FacesConfig:
    """All of `vidsr faces`. `output` is for the film with the faces drawn in."""

    input: InputConfig = field(default_factory=InputConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    faces: FaceConfig = field(default_factory=FaceConfig)
    device: str = "auto"
    threads: int = 0


@dataclass(frozen=True, slots=True)
class FilmConfig:
    """What every run from a film to a film is told."""

    input: InputConfig = field(default_factory=InputConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    size: SizeConfig = field(default_factory=SizeConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    scenes: SceneConfig = field(default_factory=SceneConfig)
    strict: bool = False


@dataclass(frozen=True, slots=True)
class UpscaleConfig(FilmConfig):
    """All of `vidsr upscale`, which leaves frames and times as they are."""

    default_scale: ClassVar[float] = 4.0
    interp: ClassVar[int] = 1
    stretch: ClassVar[int] = 1

    faces: RestoreConfig = field(default_factory=RestoreConfig)


@dataclass(frozen=True, slots=True)
class SlowmoConfig(FilmConfig):
    """All of `vidsr slowmo`: `interp` frames for one; the film becomes slower by as much, or keeps its duration.

    `duplicates` "auto": a frame that only repeats the one before it becomes one of its own moment.
    """

    default_scale: ClassVar[float] = 1.0

    output: OutputConfig = field(default_factory=lambda: OutputConfig(audio="stretch"))
    interp: Literal[2, 4, 8] = 2
    keep_duration: bool = False
    duplicates: DuplicateMode = "auto"

    @property
    def stretch(self) -> int:
        """How many times the result is as long as its input."""
        return 1 if self.keep_duration else self.interp


RunConfig = UpscaleConfig | SlowmoConfig
