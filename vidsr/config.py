"""Every option of a run: one field, one default, one check. The command line and the library fill these alike.

Each class refuses a wrong value when it is made, with a UsageError that names the option as the command line does.
What only the input file or the device can tell is checked where these are known. The `parse_*` functions read what a
user may write for a value: "1:02.5" for a time, "1280x720" for a size.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, cast, get_args

from vidsr.errors import UsageError

T = TypeVar("T")
# Says what a value must be ("from 0 to 1") if it is something else, None if it is right.
Check = Callable[[Any], str | None]

Precision = Literal["auto", "fp32", "fp16", "bf16"]
Backend = Literal["torch", "onnx"]
SceneMode = Literal["auto", "off"]
DuplicateMode = Literal["auto", "off"]
CopyMode = Literal["copy", "none"]
AudioMode = Literal["copy", "stretch", "none"]
Interp = Literal[2, 4, 8]
Tile = int | Literal["auto", "off"]

# Enlargement of each side.
LARGEST_SCALE = 8
# Sides in input pixels.
SMALLEST_TILE = 64
SMALLEST_FACE = 8
MAX_THREADS = 256


def option(name: str, default: T, check: Check) -> T:
    """A field with its option's name on the command line and what its values must be."""
    return field(default=default, metadata={"option": name, "check": check})


def part(kind: type[T]) -> T:
    """A field that holds other options, by default those of `kind` as they are."""
    return field(default_factory=kind, metadata={"check": _is_a(kind, kind.__name__)})


class Checked:
    """What every configuration does when it is made: each field passes its own check, or a UsageError is raised."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for each in fields(cast(Any, self)):
            value = getattr(self, each.name)
            if (wanted := each.metadata["check"](value)) is not None:
                raise UsageError(f"{each.metadata.get('option', each.name)} must be {wanted}, not {_shown(value)}")


def _shown(value: Any) -> str:
    """A value as a user wrote it, on one line."""
    if isinstance(value, (bool, int)) or value is None:
        return str(value)
    if isinstance(value, (float, Fraction)):
        return f"{float(value):g}"
    text = repr(value) if isinstance(value, (str, tuple, list, dict)) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_a(kind: type[Any], name: str) -> Check:
    return lambda value: None if isinstance(value, kind) else name


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "True or False"


def _word(kind: Any) -> Check:
    """One of the values of a Literal; `type` too, because True equals 1."""
    allowed = get_args(kind)
    listed = ", ".join(map(str, allowed[:-1])) + f" or {allowed[-1]}"
    return lambda value: None if any(type(value) is type(a) and value == a for a in allowed) else listed


def _within(low: float, high: float = math.inf, kind: Any = (int, float)) -> Check:
    """A finite number from `low` to `high`; a whole one if `kind` is int."""
    noun = "a whole number" if kind is int else "a number"
    limits = f"{noun} of {low} or more" if high == math.inf else f"{noun} from {low} to {high}"

    def check(value: Any) -> str | None:
        is_number = isinstance(value, kind) and not isinstance(value, bool)
        return None if is_number and low <= value <= high and value != math.inf else limits

    return check


def _finite(value: Any) -> str | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return None if is_number and math.isfinite(value) else "a finite number"


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value else "a name"


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _moment(value: Any) -> str | None:
    is_exact = isinstance(value, (int, Fraction)) and not isinstance(value, bool)
    return None if is_exact and value >= 0 else "an exact time of 0 seconds or more"


def _two_sides(value: Any) -> str | None:
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    return None if is_pair else "a width and a height of 1 or more"


def _device(value: Any) -> str | None:
    is_right = isinstance(value, str) and re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,4})?", value)
    return None if is_right else "auto, cpu, cuda, cuda:N or mps"


def _tile(value: Any) -> str | None:
    is_right = value in ("auto", "off") if isinstance(value, str) else type(value) is int and value >= SMALLEST_TILE
    return None if is_right else f"auto, off, or {SMALLEST_TILE} input pixels or more"


def _pairs(value: Any) -> str | None:
    is_right = isinstance(value, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair) and pair[0]
        for pair in value
    )
    return None if is_right else "pairs of a key and a value"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputConfig(Checked):
    """What is read. Times are exact seconds from the first frame of the video; `end` is exclusive."""

    start: Fraction | None = option("--start", None, _or_none(_moment))
    end: Fraction | None = option("--end", None, _or_none(_moment))

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        if self.end is not None and self.end <= (self.start or 0):
            raise UsageError(f"--end must lie after --start, at {float(self.start or 0):g} s: give a later time")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig(Checked):
    """How the result is encoded and what is carried over from the input.

    `codec`, `pix_fmt` "auto": libx264 with yuv420p for 8-bit sources, an encoder that holds the source's depth above.
    `crf`, `preset` None: the encoder's own scale is used with vidsr's default quality.
    `encoder_options` are FFmpeg private options of the encoder, as (key, value).
    `audio` None: copied, or stretched where the result lasts longer than its input.
    """

    codec: str = option("--codec", "auto", _text)
    crf: float | None = option("--crf", None, _or_none(_finite))
    preset: str | None = option("--preset", None, _or_none(_text))
    pix_fmt: str = option("--pix-fmt", "auto", _text)
    encoder_options: tuple[tuple[str, str], ...] = option("--encoder-option", (), _pairs)
    audio: AudioMode | None = option("--audio", None, _or_none(_word(AudioMode)))
    subtitles: CopyMode = option("--subtitles", "copy", _word(CopyMode))
    overwrite: bool = option("--overwrite", False, _flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeConfig(Checked):
    """The wanted size as displayed: at most one of the three is set; none means the command's own `default_scale`."""

    scale: float | None = option("--scale", None, _or_none(_within(1, LARGEST_SCALE)))
    size: tuple[int, int] | None = option("--size", None, _or_none(_two_sides))
    height: int | None = option("--height", None, _or_none(_within(1, kind=int)))

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        if sum(value is not None for value in (self.scale, self.size, self.height)) > 1:
            raise UsageError("--scale, --size and --height exclude each other: give only one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig(Checked):
    """Which model runs where, and in what. `tile` is in input pixels; `threads` 0 leaves the choice to torch."""

    model: str = option("--model", "auto", _text)
    device: str = option("--device", "auto", _device)
    precision: Precision = option("--precision", "auto", _word(Precision))
    threads: int = option("--threads", 0, _within(0, MAX_THREADS, int))
    tile: Tile = option("--tile", "auto", _tile)
    backend: Backend = option("--backend", "torch", _word(Backend))

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        if self.backend == "onnx" and self.precision not in ("auto", "fp32"):
            raise UsageError("--backend onnx computes in fp32 only: use --precision auto, or --backend torch")
        if self.backend == "onnx" and self.model == "bicubic":
            raise UsageError("bicubic is not a network: --backend onnx is for models")


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneConfig(Checked):
    """Scene cuts. `threshold` is in units of the detector's content value (0..255)."""

    mode: SceneMode = option("--scenes", "auto", _word(SceneMode))
    threshold: float = option("--scene-threshold", 27.0, _within(0, 255))


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceConfig(Checked):
    """Finding faces. `detector` is a YuNet file, None the shipped one.

    `min_face` is the side in input pixels that must be found. One frame in `every` is searched; the tracks bridge
    those between.
    """

    detector: Path | None = option("--face-detector", None, _or_none(_is_a(Path, "a path")))
    min_face: float = option("--min-face", 16.0, _within(SMALLEST_FACE))
    every: int = option("every", 2, _within(1, kind=int))


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreConfig(FaceConfig):
    """Finding and restoring faces. `use` None: with a network, but not with one for faces.

    `strength`, 0..1, is how much of a restored face shows. Faces from `min_face` to `largest` input pixels are
    restored, at most `max_faces` of them in a frame: from 15 to 115 pixels the gain is 0.36 to 0.62 dB on moved stills;
    what larger ones gain could not be measured, and they cost most.
    """

    use: bool | None = option("--faces", None, _or_none(_flag))
    strength: float = option("--face-strength", 1.0, _within(0, 1))
    largest: float = option("largest", 128.0, _within(SMALLEST_FACE))
    max_faces: int = option("--max-faces", 8, _within(1, kind=int))


@dataclass(frozen=True, slots=True, kw_only=True)
class FindFacesConfig(Checked):
    """All of `vidsr faces`. `output` is for the video with the faces drawn in."""

    input: InputConfig = part(InputConfig)
    output: OutputConfig = part(OutputConfig)
    scenes: SceneConfig = part(SceneConfig)
    faces: FaceConfig = part(FaceConfig)
    device: str = option("--device", ComputeConfig().device, _device)
    threads: int = option("--threads", ComputeConfig().threads, _within(0, MAX_THREADS, int))

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        _refuse_stretched_audio(self.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoConfig(Checked):
    """What every run from a video to a video is told."""

    input: InputConfig = part(InputConfig)
    output: OutputConfig = part(OutputConfig)
    size: SizeConfig = part(SizeConfig)
    compute: ComputeConfig = part(ComputeConfig)
    scenes: SceneConfig = part(SceneConfig)
    strict: bool = option("--strict", False, _flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaleConfig(VideoConfig):
    """All of `vidsr upscale`, which leaves frames and times as they are."""

    default_scale: ClassVar[float] = 4.0
    interp: ClassVar[int] = 1
    stretch: ClassVar[int] = 1

    faces: RestoreConfig = part(RestoreConfig)

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        _refuse_stretched_audio(self.output)
        if self.compute.model == "bicubic" and self.faces.use and self.faces.strength > 0:
            raise UsageError(
                "bicubic is not a network, and faces are restored beside one: leave out --faces, or choose a model"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowmoConfig(VideoConfig):
    """All of `vidsr slowmo`: `interp` frames for one; the video becomes slower by as much, or keeps its duration.

    `duplicates` "auto": a frame that only repeats the one before it becomes one of its own moment.
    """

    default_scale: ClassVar[float] = 1.0

    interp: Interp = option("--interp", 2, _word(Interp))
    keep_duration: bool = option("--keep-duration", False, _flag)
    duplicates: DuplicateMode = option("--duplicates", "auto", _word(DuplicateMode))

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        if self.output.audio == "copy" and self.stretch > 1:
            raise UsageError(
                f"audio cannot be copied into a video that becomes {self.stretch} times as long; "
                "use --audio stretch, --audio none or --keep-duration"
            )

    @property
    def stretch(self) -> int:
        """How many times the result is as long as its input."""
        return 1 if self.keep_duration else self.interp


RunConfig = UpscaleConfig | SlowmoConfig


def _refuse_stretched_audio(output: OutputConfig) -> None:
    if output.audio == "stretch":
        raise UsageError("--audio stretch is for slow motion; this result is as long as its input: use copy or none")


def parse_time(value: str | float | Fraction | None) -> Fraction | None:
    """Seconds (12.5 or "12.5") or "H:MM:SS.mmm" ("1:02:03.250", "02:03") as an exact number; raises UsageError."""
    if value is None or isinstance(value, Fraction):
        return value
    if isinstance(value, str) and re.fullmatch(r"([0-9]+:){0,2}[0-9]+(\.[0-9]+)?", value):
        seconds = Fraction(0)
        for digits in value.split(":"):
            seconds = seconds * 60 + Fraction(digits)
        return seconds
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return Fraction(str(value))  # what its digits say: 0.1 is a tenth, not the nearest binary fraction
    raise UsageError(f"{_shown(value)} is not a time: write seconds (12.5) or H:MM:SS.mmm (1:02:03.250)")


def parse_size(value: str | Sequence[int] | None) -> tuple[int, int] | None:
    """WxH ("1920x1080") or two numbers as width and height; raises UsageError."""
    if value is None:
        return None
    if isinstance(value, str):
        if not (match := re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", value)):
            raise UsageError(f"'{value}' is not a size: write WxH, for example 1920x1080")
        return int(match[1]), int(match[2])
    try:
        width, height = value
    except (TypeError, ValueError) as error:
        raise UsageError(f"{_shown(value)} is not a size: give a width and a height, for example 1920, 1080") from error
    return width, height


def parse_tile(value: str | int) -> Tile:
    """A tile's side in pixels, or a word, as a number or as it is; what is neither is refused by ComputeConfig."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):  # isdigit knows digits that int does not read
        return int(value)
    return cast(Tile, value)


def parse_encoder_options(
    value: Mapping[str, object] | Iterable[str | tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    """A mapping, or each "key=value" or pair, as pairs; raises UsageError."""
    if isinstance(value, Mapping):
        return tuple((key, str(each)) for key, each in value.items())
    if isinstance(value, str):
        value = (value,)
    pairs = []
    for each in value:
        if isinstance(each, tuple):
            pairs.append(each)  # OutputConfig says what is wrong with it
            continue
        key, separator, given = each.partition("=") if isinstance(each, str) else ("", "", "")
        if not separator or not key:
            raise UsageError(f"{_shown(each)} is not an encoder option: write key=value")
        pairs.append((key, given))
    return tuple(pairs)


def parse_path(value: str | os.PathLike[str] | None) -> Path | None:
    """A path as a Path."""
    return None if value is None else Path(value)
