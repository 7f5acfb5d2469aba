"""Configuration of a run: one field, one default and one check per option, for the command line and the library.

Each class checks its values on construction and raises a UsageError that names the command-line option. Checks that
need the input file or the device happen later, where these are known. The `parse_*` functions parse what a user writes:
"1:02.5" for a time, "1280x720" for a size.
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
# Returns what a value must be ("a number from 0 to 1") if it is invalid, None if it is valid.
Check = Callable[[Any], str | None]

Precision = Literal["auto", "fp32", "fp16", "bf16"]
Backend = Literal["torch", "onnx"]
SceneMode = Literal["auto", "off"]
DuplicateMode = Literal["auto", "off"]
DustMode = Literal["off", "report", "repair"]
CopyMode = Literal["copy", "none"]
AudioMode = Literal["copy", "stretch", "none"]
PipeFormat = Literal["auto", "matroska", "y4m"]
Interp = Literal[2, 4, 8]
Layout = Literal["side", "wipe"]
Tile = int | Literal["auto", "off"]
Level = float | Literal["auto"]

SOFTWARE = "software"  # the usual value of --decoder

# Enlargement of each side.
LARGEST_SCALE = 8
# Sides in input pixels.
SMALLEST_TILE = 64
SMALLEST_FACE = 8
MOST_BOXES = 64
MAX_THREADS = 256
MAX_RATE = 1000  # frames per second


def option(name: str, default: T, check: Check) -> T:
    """A dataclass field with its command-line option and its check."""
    return field(default=default, metadata={"option": name, "check": check})


def part(kind: type[T]) -> T:
    """A dataclass field that holds a nested configuration, by default that of `kind`."""
    return field(default_factory=kind, metadata={"check": _is_a(kind, kind.__name__)})


class Checked:
    """Base class that runs each field's check on construction and raises UsageError if one fails."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for each in fields(cast(Any, self)):
            value = getattr(self, each.name)
            if (wanted := each.metadata["check"](value)) is not None:
                raise UsageError(f"{each.metadata.get('option', each.name)} must be {wanted}, not {_shown(value)}")


def _shown(value: Any) -> str:
    """A value as the user wrote it, on one line of at most 60 characters."""
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


def _one_of(kind: Any) -> Check:
    """One of the values of a Literal; types are compared too, because True equals 1."""
    allowed = get_args(kind)
    listed = ", ".join(map(str, allowed[:-1])) + f" or {allowed[-1]}"
    return lambda value: None if any(type(value) is type(a) and value == a for a in allowed) else listed


def _within(low: float, high: float = math.inf, kind: Any = (int, float)) -> Check:
    """A finite number from `low` to `high`; an integer if `kind` is int."""
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


def _texts(value: Any) -> str | None:
    is_right = isinstance(value, tuple) and all(_text(each) is None for each in value)
    return None if is_right else "a list of names"


def _or_none(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def _exact_time(value: Any) -> str | None:
    is_exact = isinstance(value, (int, Fraction)) and not isinstance(value, bool)
    return None if is_exact and value >= 0 else "an exact time of 0 seconds or more"


def _rate(value: Any) -> str | None:
    is_exact = isinstance(value, (int, Fraction)) and not isinstance(value, bool)
    is_right = is_exact and Fraction(1, MAX_RATE) <= value <= MAX_RATE
    return None if is_right else f"an exact number of frames per second of at most {MAX_RATE}"


def _two_sides(value: Any) -> str | None:
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)
    return None if is_pair else "a width and a height of 1 or more"


def _device(value: Any) -> str | None:
    is_right = isinstance(value, str) and re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,4})?", value)
    return None if is_right else "auto, cpu, cuda, cuda:N or mps"


def _decoder(value: Any) -> str | None:
    pattern = r"auto|software|cuda(:[0-9]{1,4})?|d3d11va(:[0-9]{1,4})?|vaapi(:/.{1,200})?|videotoolbox"
    is_right = isinstance(value, str) and re.fullmatch(pattern, value)
    return None if is_right else "software, auto, cuda, cuda:N, vaapi, vaapi:/dev/dri/renderDN, videotoolbox or d3d11va"


def _tile(value: Any) -> str | None:
    is_right = value in ("auto", "off") if isinstance(value, str) else type(value) is int and value >= SMALLEST_TILE
    return None if is_right else f"auto, off, or {SMALLEST_TILE} input pixels or more"


def _level(value: Any) -> str | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return None if value == "auto" or (is_number and 0 <= value <= 1) else "auto or a number from 0 to 1"


def _references(value: Any) -> str | None:
    is_right = isinstance(value, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and _text(pair[0]) is None and isinstance(pair[1], Path)
        for pair in value
    )
    return None if is_right else "pairs of a name and the path of a photograph"


def _pairs(value: Any) -> str | None:
    is_right = isinstance(value, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(text, str) for text in pair) and pair[0]
        for pair in value
    )
    return None if is_right else "pairs of a key and a value"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputConfig(Checked):
    """The trim range, and how an input without times is read.

    Times are exact seconds from the first frame of the video; `end` is exclusive. `rate` is in frames per second, of
    images and raw video; None: 25. `format` is FFmpeg's name or a short one, None: found out. For raw video
    `frame_size`, width and height, and `pixel_format` (FFmpeg's name) describe the frames. `decoder` is "software", the
    kind of a device that decodes, perhaps with its number or path, or "auto": the first kind that can, else software.
    """

    start: Fraction | None = option("--start", None, _or_none(_exact_time))
    end: Fraction | None = option("--end", None, _or_none(_exact_time))
    rate: Fraction | None = option("--rate", None, _or_none(_rate))
    format: str | None = option("--input-format", None, _or_none(_text))
    frame_size: tuple[int, int] | None = option("--input-size", None, _or_none(_two_sides))
    pixel_format: str | None = option("--input-pix-fmt", None, _or_none(_text))
    decoder: str = option("--decoder", SOFTWARE, _decoder)

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        if self.end is not None and self.end <= (self.start or 0):
            raise UsageError(f"--end must be later than --start ({float(self.start or 0):g} s): give a later time")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig(Checked):
    """How the output is encoded, and which streams are taken over from the input.

    `codec`, `pix_fmt` "auto": libx264 with yuv420p for 8-bit sources, above that an encoder that keeps the bit depth.
    `crf`, `preset` None: vidsr's default quality for the encoder.
    `encoder_options`: private FFmpeg options of the encoder, as (key, value).
    `audio` None: copied, or stretched if the output is longer than the input.
    `quality`: of JPEG and WebP images; None: 95. `format`: of an output that is a pipe; "auto" is Matroska.
    """

    codec: str = option("--codec", "auto", _text)
    crf: float | None = option("--crf", None, _or_none(_finite))
    preset: str | None = option("--preset", None, _or_none(_text))
    pix_fmt: str = option("--pix-fmt", "auto", _text)
    encoder_options: tuple[tuple[str, str], ...] = option("--encoder-option", (), _pairs)
    audio: AudioMode | None = option("--audio", None, _or_none(_one_of(AudioMode)))
    subtitles: CopyMode = option("--subtitles", "copy", _one_of(CopyMode))
    overwrite: bool = option("--overwrite", False, _flag)
    quality: int | None = option("--quality", None, _or_none(_within(1, 100, int)))
    format: PipeFormat = option("--output-format", "auto", _one_of(PipeFormat))


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeConfig(Checked):
    """The output size as displayed. At most one of the three is set; if none, the command's `default_scale` applies."""

    scale: float | None = option("--scale", None, _or_none(_within(1, LARGEST_SCALE)))
    size: tuple[int, int] | None = option("--size", None, _or_none(_two_sides))
    height: int | None = option("--height", None, _or_none(_within(1, kind=int)))

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        if sum(value is not None for value in (self.scale, self.size, self.height)) > 1:
            raise UsageError("--scale, --size and --height are mutually exclusive: give only one of them")

    def is_scale(self, scale: float, default_scale: float) -> bool:
        """Whether the output is larger by this factor, whatever the size of the input."""
        given = default_scale if self.scale is None else self.scale
        return self.size is None and self.height is None and given == scale


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeConfig(Checked):
    """Model, device, precision and backend. `tile` is in input pixels; with `threads` 0 torch chooses."""

    model: str = option("--model", "auto", _text)
    device: str = option("--device", "auto", _device)
    precision: Precision = option("--precision", "auto", _one_of(Precision))
    threads: int = option("--threads", 0, _within(0, MAX_THREADS, int))
    tile: Tile = option("--tile", "auto", _tile)
    backend: Backend = option("--backend", "torch", _one_of(Backend))

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        if self.backend == "onnx" and self.precision not in ("auto", "fp32"):
            raise UsageError("--backend onnx supports fp32 only: use --precision auto or fp32, or --backend torch")
        if self.backend == "onnx" and self.model == "bicubic":
            raise UsageError(
                "bicubic is not a network, so --backend onnx cannot run it: leave it out, or choose another model"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneConfig(Checked):
    """Scene cut detection. `threshold` is in units of the detector's content value (0..255)."""

    mode: SceneMode = option("--scenes", "auto", _one_of(SceneMode))
    threshold: float = option("--scene-threshold", 27.0, _within(0, 255))


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceConfig(Checked):
    """Face detection. `detector` is a YuNet model (.onnx), None the built-in one.

    `embedding` tells people apart: a file with SFace's interface (.onnx), "auto" for that of the extra `identity` if it
    is installed, or "off".

    `min_face` is the side of the smallest face to detect, in input pixels. Faces are detected in every `every`-th
    frame; tracking fills in the frames between.
    """

    detector: Path | None = option("--face-detector", None, _or_none(_is_a(Path, "a path")))
    min_face: float = option("--min-face", 16.0, _within(SMALLEST_FACE))
    every: int = option("every", 2, _within(1, kind=int))
    embedding: str = option("--face-embedding", "auto", _text)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreConfig(FaceConfig):
    """Face detection and restoration. `use` None: on where a face model fits the model for the frames.

    `strength`, 0..1, is the opacity of a restored face. Faces from `min_face` to `largest` input pixels are restored,
    at most `max_faces` per frame. From 15 to 115 pixels the gain is 0.36 to 0.62 dB on moved stills; the gain for
    larger faces could not be measured, and they cost most.

    `model` restores them, "auto" for the shipped one that fits (faces/handover.py). `references` are photographs of
    people, as pairs of a name, or of the number of a track, and a path; `reference_strength`, 0..1, multiplies what
    they add, and with 0 none is used. `boxes` is how many boxes a face model that chooses them has for a face, None for
    its own number.
    """

    use: bool | None = option("--faces", None, _or_none(_flag))
    strength: float = option("--face-strength", 1.0, _within(0, 1))
    largest: float = option("largest", 128.0, _within(SMALLEST_FACE))
    max_faces: int = option("--max-faces", 8, _within(1, kind=int))
    model: str = option("--face-model", "auto", _text)
    references: tuple[tuple[str, Path], ...] = option("--reference", (), _references)
    reference_strength: float = option("--reference-strength", 1.0, _within(0, 1))
    boxes: int | None = option("--face-boxes", None, _or_none(_within(1, MOST_BOXES, kind=int)))

    @property
    def photographs(self) -> tuple[tuple[str, Path], ...]:
        """The references that are used: none with a strength of 0."""
        return self.references if self.strength > 0 and self.reference_strength > 0 else ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CleaningConfig(Checked):
    """How degraded the network takes the input to be, each in 0..1: the higher, the more it removes.

    "auto" is the network's own estimate. Only models with an estimator of degradation take a number.
    """

    deblur: Level = option("--deblur", "auto", _level)
    denoise: Level = option("--denoise", "auto", _level)
    deblock: Level = option("--deblock", "auto", _level)

    @property
    def levels(self) -> tuple[float | None, float | None, float | None]:
        """Blur, noise and compression; None is an estimated level."""
        blur, noise, compression = (
            None if value == "auto" else float(value) for value in (self.deblur, self.denoise, self.deblock)
        )
        return blur, noise, compression


@dataclass(frozen=True, slots=True, kw_only=True)
class FindFacesConfig(Checked):
    """Configuration of `vidsr faces`. `output` applies to the video with the faces drawn in.

    With a face `model` that chooses where it works, its boxes are listed and drawn; "off": none is used. `boxes` as in
    RestoreConfig.
    """

    input: InputConfig = part(InputConfig)
    output: OutputConfig = part(OutputConfig)
    scenes: SceneConfig = part(SceneConfig)
    faces: FaceConfig = part(FaceConfig)
    model: str = option("--face-model", "off", _text)
    boxes: int | None = option("--face-boxes", None, _or_none(_within(1, MOST_BOXES, kind=int)))
    device: str = option("--device", ComputeConfig().device, _device)
    threads: int = option("--threads", ComputeConfig().threads, _within(0, MAX_THREADS, int))

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        _refuse_stretched_audio(self.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class FindDefectsConfig(Checked):
    """Configuration of `vidsr defects`. `output` applies to the video with the defects drawn in.

    `dpi` is the resolution of a scanned page, None for that of its file; it has no effect on films.
    """

    input: InputConfig = part(InputConfig)
    output: OutputConfig = part(OutputConfig)
    scenes: SceneConfig = part(SceneConfig)
    dpi: float | None = option("--dpi", None, _or_none(_within(50, 4800)))
    threads: int = option("--threads", ComputeConfig().threads, _within(0, MAX_THREADS, int))

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        _refuse_stretched_audio(self.output)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig(Checked):
    """Configuration of `vidsr compare`. `layout` applies to images and videos: all inputs in a row, or two with a wipe.

    `labels` replace the names of the first inputs. `faces`: whether the page shows the faces that are found.
    `input` is the part of BEFORE to compare; None for `start` and `end`: about the middle (page, image), all (video).
    """

    input: InputConfig = part(InputConfig)
    layout: Layout = option("--layout", "side", _one_of(Layout))
    labels: tuple[str, ...] = option("--label", (), _texts)
    faces: bool = option("--faces", True, _flag)
    overwrite: bool = option("--overwrite", False, _flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoConfig(Checked):
    """Configuration shared by `vidsr upscale` and `vidsr slowmo`.

    `clean`: a model of scale 1 that every frame passes first, None for none.

    `dust`: defects of film (dust, dirt, hairs, scratches) are ignored, counted in the report, or also repaired.

    `resume`: the work is kept in segments of `segment_frames` input frames, so that an interrupted run can go on; None:
    for jobs that are expected to take more than ten minutes.
    """

    input: InputConfig = part(InputConfig)
    output: OutputConfig = part(OutputConfig)
    size: SizeConfig = part(SizeConfig)
    compute: ComputeConfig = part(ComputeConfig)
    scenes: SceneConfig = part(SceneConfig)
    clean: str | None = option("--clean", None, _or_none(_text))
    cleaning: CleaningConfig = part(CleaningConfig)
    dust: DustMode = option("--dust", "off", _one_of(DustMode))
    strict: bool = option("--strict", False, _flag)
    resume: bool | None = option("--resume", None, _or_none(_flag))
    segment_frames: int = option("--segment-frames", 250, _within(1, kind=int))


@dataclass(frozen=True, slots=True, kw_only=True)
class UpscaleConfig(VideoConfig):
    """Configuration of `vidsr upscale`, which keeps the number of frames and their timestamps."""

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
                "faces cannot be restored with bicubic, which is not a network: leave out --faces, or choose a model"
            )
        if self.faces.photographs and (self.faces.use is False or self.compute.model == "bicubic"):
            why = "with --no-faces" if self.faces.use is False else "with bicubic, which is not a network"
            raise UsageError(f"--reference restores faces, which are not restored {why}: leave out one of the two")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowmoConfig(VideoConfig):
    """Configuration of `vidsr slowmo`: N frames become (N - 1) * `interp` + 1.

    The video becomes `interp` times as long, or keeps its duration at a higher rate.

    `duplicates` "auto": a frame that repeats the one before it is replaced by an interpolated one.
    """

    default_scale: ClassVar[float] = 1.0

    interp: Interp = option("--interp", 2, _one_of(Interp))
    keep_duration: bool = option("--keep-duration", False, _flag)
    duplicates: DuplicateMode = option("--duplicates", "auto", _one_of(DuplicateMode))

    def __post_init__(self) -> None:
        """Raises UsageError, as for every configuration."""
        Checked.__post_init__(self)
        if self.output.audio == "copy" and self.stretch > 1:
            raise UsageError(
                f"audio cannot be copied into a video that becomes {self.stretch} times as long: "
                "use --audio stretch, --audio none or --keep-duration"
            )

    @property
    def stretch(self) -> int:
        """Duration of the output relative to the input."""
        return 1 if self.keep_duration else self.interp


RunConfig = UpscaleConfig | SlowmoConfig


def _refuse_stretched_audio(output: OutputConfig) -> None:
    if output.audio == "stretch":
        raise UsageError(
            "--audio stretch is for slow motion, but this output is as long as the input: use copy or none"
        )


def parse_time(value: str | float | Fraction | None) -> Fraction | None:
    """Seconds (12.5 or "12.5") or "H:MM:SS.mmm" ("1:02:03.250", "02:03") as an exact number. Raises UsageError."""
    if value is None or isinstance(value, Fraction):
        return value
    if isinstance(value, str) and re.fullmatch(r"([0-9]+:){0,2}[0-9]+(\.[0-9]+)?", value):
        seconds = Fraction(0)
        for digits in value.split(":"):
            seconds = seconds * 60 + Fraction(digits)
        return seconds
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return Fraction(str(value))  # its decimal digits: 0.1 is a tenth, not the nearest binary fraction
    raise UsageError(f"invalid time {_shown(value)}: use seconds (12.5) or H:MM:SS.mmm (1:02:03.250)")


# Rates that people write with few decimals, and that are exact as a fraction of 1001.
_NTSC = {"23.976": 24, "23.98": 24, "29.97": 30, "47.952": 48, "47.95": 48, "59.94": 60, "119.88": 120}


def parse_rate(value: str | float | Fraction | None) -> Fraction | None:
    """Frames per second from a number (25, "29.97") or a fraction ("30000/1001"). Raises UsageError.

    The decimals of NTSC rates, such as 29.97, stand for the exact rate, 30000/1001.
    """
    if value is None or isinstance(value, Fraction):
        return value
    text = str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value
    if isinstance(text, str) and (nominal := _NTSC.get(text)) is not None:
        return Fraction(nominal * 1000, 1001)
    if isinstance(text, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}|/0*[1-9][0-9]{0,8})?", text):
        return Fraction(text)
    raise UsageError(f"invalid rate {_shown(value)}: use frames per second (25, 29.97 or 30000/1001)")


def parse_size(value: str | Sequence[int] | None) -> tuple[int, int] | None:
    """Width and height from "WxH" ("1920x1080") or a pair of numbers. Raises UsageError."""
    if value is None:
        return None
    if isinstance(value, str):
        if not (match := re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", value)):
            raise UsageError(f"invalid size '{value}': use WxH, for example 1920x1080")
        return int(match[1]), int(match[2])
    try:
        width, height = value
    except (TypeError, ValueError) as error:
        raise UsageError(f"invalid size {_shown(value)}: give a width and a height, for example 1920, 1080") from error
    return width, height


def parse_tile(value: str | int) -> Tile:
    """Converts digits to a number of pixels and returns anything else unchanged; ComputeConfig checks the value."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):  # isdigit accepts digits that int cannot parse
        return int(value)
    return cast(Tile, value)


def parse_level(value: str | float) -> Level:
    """Converts a decimal number to a float and returns anything else unchanged; CleaningConfig checks the value."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}", value):
        return float(value)
    return cast(Level, value)


def parse_encoder_options(
    value: Mapping[str, object] | Iterable[str | tuple[str, str]],
) -> tuple[tuple[str, str], ...]:
    """Pairs from a mapping, from "key=value" strings or from pairs. Raises UsageError."""
    if isinstance(value, Mapping):
        return tuple((key, str(each)) for key, each in value.items())
    if isinstance(value, str):
        value = (value,)
    pairs = []
    for each in value:
        if isinstance(each, tuple):
            pairs.append(each)  # OutputConfig checks it
            continue
        key, separator, text = each.partition("=") if isinstance(each, str) else ("", "", "")
        if not separator or not key:
            raise UsageError(f"invalid encoder option {_shown(each)}: use key=value")
        pairs.append((key, text))
    return tuple(pairs)


def parse_references(
    value: Mapping[str | int, Any] | Iterable[str | tuple[str | int, Any]],
) -> tuple[tuple[str, Path], ...]:
    """Pairs of a name or a track's number, as text, and a path: from "NAME=photo.jpg" strings, from pairs, or from a
    mapping to a path or to several. Raises UsageError.
    """  # fmt: skip
    pairs: list[tuple[Any, Any]] = []
    if isinstance(value, Mapping):
        for name, paths in value.items():
            several = isinstance(paths, Iterable) and not isinstance(paths, (str, os.PathLike))
            pairs += [(name, path) for path in (paths if several else (paths,))]
        value = ()
    for each in (value,) if isinstance(value, str) else value:
        if isinstance(each, tuple) and len(each) == 2:
            pairs.append(each)
            continue
        name, separator, path = each.partition("=") if isinstance(each, str) else ("", "", "")
        if not separator:
            raise UsageError(f"invalid reference {_shown(each)}: use NAME=photo.jpg, or the number of `vidsr faces`")
        pairs.append((name, path))
    return tuple(_reference(name, path) for name, path in pairs)


def _reference(name: Any, path: Any) -> tuple[str, Path]:
    is_number = isinstance(name, int) and not isinstance(name, bool)
    text = str(name).strip() if isinstance(name, str) or is_number else ""
    if not text or (is_track_number(text) and int(text) < 1) or not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"invalid reference {_shown((name, path))}: use NAME=photo.jpg, or the number of a track")
    if not os.fspath(path):
        raise UsageError(f"the reference {_shown(text)} names no photograph: use {text}=photo.jpg")
    return text, Path(path)


def is_track_number(name: str) -> bool:
    """Whether the name of a reference is the number of a track, as `vidsr faces` shows it."""
    return re.fullmatch(r"-?[0-9]{1,9}", name) is not None


def parse_path(value: str | os.PathLike[str] | None) -> Path | None:
    """Converts a path to a Path; None stays None."""
    return None if value is None else Path(value)
