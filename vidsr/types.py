"""Data types shared by all packages. Imports no other module of vidsr and nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Color:
    """Color space and range of a video, in FFmpeg's names ("bt709", "smpte2084", "tv").

    The tags are those of the file ("unknown" if it has none). `matrix_used` and `range_used` are what the conversion
    uses; they differ from the tags only where those are unknown.
    """

    matrix: str = "unknown"
    range: str = "unknown"
    primaries: str = "unknown"
    transfer: str = "unknown"
    chroma_location: str = "unknown"
    matrix_used: str = "bt601"
    range_used: str = "tv"

    @property
    def is_guessed(self) -> bool:
        """True if the file does not tag its matrix or range, so that the conversion uses the usual guess."""
        return self.matrix == "unknown" or self.range == "unknown"

    @property
    def guess(self) -> str | None:
        """What is used instead of missing tags, in words; None if the file has them, or its frames are RGB."""
        if not self.is_guessed or self.matrix_used == "gbr":
            return None
        levels = "limited" if self.range_used == "tv" else "full"
        return (
            f"the file does not tag both its color matrix ({self.matrix}) and range ({self.range}); "
            f"{self.matrix_used} and {levels} range are used"
        )


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """One stream of a container, as its header describes it."""

    index: int
    kind: str
    codec: str
    language: str | None = None
    title: str | None = None
    is_default: bool = False
    is_attached_picture: bool = False


@dataclass(frozen=True, slots=True)
class ClockShift:
    """A jump of a file's clock in one stream: from its packet number `packet` on, `seconds` are added to its times.

    Packets that hold data are counted, from 0. With the shift the stream continues at `begins`, in seconds after the
    first frame of the video. A shift holds until the next one of the same stream; it does not add to it.
    """

    stream: int
    packet: int
    seconds: Fraction
    begins: float


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """Properties of a video from its header. Fields named `header_*` may be wrong: headers are unreliable.

    `path` is for messages and reports; a `Source` opens the file. It is empty for frames without a file. `clock` is
    found by reading the packets of files whose clock may jump; it is empty if that was not done.
    """

    path: str
    container: str
    video_stream: int
    codec: str
    width: int
    height: int
    pixel_format: str
    bit_depth: int
    time_base: Fraction
    color: Color
    rotation_degrees: int = 0
    pixel_aspect: Fraction = Fraction(1)
    is_interlaced: bool = False
    has_alpha: bool = False
    header_frame_count: int | None = None
    header_rate: Fraction | None = None
    header_duration_seconds: float | None = None
    streams: tuple[StreamInfo, ...] = ()
    clock: tuple[ClockShift, ...] = ()


Point = tuple[float, float]
Box = tuple[float, float, float, float]  # left, top, width, height


@dataclass(frozen=True, slots=True)
class Crop:
    """A rectangle of whole pixels inside the source frame, as coded."""

    left: int
    top: int
    width: int
    height: int

    @property
    def area(self) -> int:
        """The number of pixels."""
        return self.width * self.height


@dataclass(frozen=True, slots=True)
class RestoredFace:
    """A restored face to be blended into the enlarged frame: 3 x H x W, RGB, float32, for the pixels of `crop`.

    `box` is that of the face in source pixels, smoothed in time: left, top, width, height. `weight`, 0..1, is its
    opacity, which fades in and out at the ends of a track. `boxes`, in source pixels, are where a network that chooses
    its places worked, in order; others have none.
    """

    image: Tensor
    crop: Crop
    box: Box
    weight: float
    boxes: tuple[Box, ...] = ()


@dataclass(frozen=True, slots=True)
class Face:
    """One face in one frame, in pixels of the source as coded, from the upper left corner; parts may lie outside.

    `box` is left, top, width, height. `landmarks` are the two eyes, the tip of the nose and the two corners of the
    mouth, the person's right one of each pair first; `smoothed` are the landmarks after temporal smoothing, if any.
    `track` numbers the person's track from 1. If `is_found` is false, the face was not detected in this frame and
    its position comes from the frames around it. `restored` is set if the face was restored.
    """

    box: tuple[float, float, float, float]
    landmarks: tuple[Point, ...]
    score: float
    track: int
    is_found: bool = True
    smoothed: tuple[Point, ...] | None = None
    restored: RestoredFace | None = None

    @property
    def side(self) -> float:
        """The size of the face in pixels: the square root of the box's area."""
        return math.sqrt(self.box[2] * self.box[3])


@dataclass(frozen=True, slots=True)
class FaceTrack:
    """One face through time, for the report. It was detected in `found` of its `frames`; sides are in source pixels."""

    track: int
    first_pts: int
    last_pts: int
    time_base: Fraction
    frames: int
    found: int
    smallest_side: float
    largest_side: float
    best_score: float


@dataclass(frozen=True, slots=True)
class Person:
    """The tracks that show one person, in order. `number` is that of the first one."""

    number: int
    tracks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReferenceReport:
    """A photograph that served a track: the name it was given for, and its file.

    `mean_weight`, 0..1, is what it got of the aggregation of all photographs and none, over the restored frames; None
    if there were none. `similarity` is the cosine between person and photographs, None if the track was given by hand.
    """

    name: str
    file: str
    mean_weight: float | None
    similarity: float | None


@dataclass(frozen=True, slots=True)
class TrackReport:
    """In how many frames a track was restored, and in how many it was not, by reason; the photographs that served.

    `boxes` are where a face model that chooses its places worked in the first restored frame, in order, in source
    pixels as coded (left, top, width, height); in later frames they move along with the face. Other models have none.
    """

    seen: FaceTrack
    restored: int
    skipped: dict[str, int]
    references: list[ReferenceReport] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Defect:
    """A defect of the film in one frame, in pixels of the source as coded: bounding box, center and size.

    `kind` is "speck", "hair" or "scratch" (a vertical line that stays for many frames). `major_axis` and `minor_axis`
    are those of the equal ellipse. `severity` is the sum of the differences to the neighbors in the defect, divided by
    that around it; `contrast` is the mean difference in levels (0..255).
    """

    kind: str
    is_light: bool
    left: int
    top: int
    width: int
    height: int
    x: float
    y: float
    size: int
    major_axis: float
    minor_axis: float
    severity: float
    contrast: float
    is_repaired: bool = False


@dataclass(frozen=True, slots=True)
class FrameDefects:
    """How many defects one frame has, how many pixels they cover, and how many of them were repaired.

    `seconds` is the time of the frame after the first one. `left` says why defects were not repaired, None if all were
    or none was to be.
    """

    seconds: float
    specks: int
    hairs: int
    scratches: int
    pixels: int
    repaired: int
    left: str | None


@dataclass(slots=True)
class DefectReport:
    """The defects of a film: counts over all frames by kind, brightness and size in pixels, and an entry per frame.

    `frames` holds the frames that have any. `left` counts frames with defects that were to be repaired and were not,
    by reason.
    """

    specks: int = 0
    hairs: int = 0
    scratches: int = 0
    light: int = 0
    dark: int = 0
    sizes: dict[str, int] = field(default_factory=dict)
    repaired: int = 0
    left: dict[str, int] = field(default_factory=dict)
    frames: list[FrameDefects] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class DegradationLevels:
    """How degraded frames are, or are taken to be: each level in 0 (not at all) to 1 (very strongly)."""

    blur: float
    noise: float
    compression: float

    @classmethod
    def of(cls, values: Sequence[float]) -> DegradationLevels:
        """From blur, noise and compression; rounded to 3 decimals."""
        blur, noise, compression = (round(float(value), 3) for value in values)
        return cls(blur, noise, compression)

    def __str__(self) -> str:
        return f"blur {_graded(self.blur)}, noise {_graded(self.noise)}, compression {_graded(self.compression)}"


def _graded(level: float) -> str:
    """A level in words and as a number."""
    word = "none" if level < 0.08 else "slight" if level < 0.3 else "moderate" if level < 0.55 else "strong"
    return f"{word} ({level:.2f})"


@dataclass(frozen=True, slots=True)
class SceneDegradation:
    """The degradation levels that the network worked with in one scene, and where in the output it starts."""

    start_seconds: float
    levels: DegradationLevels


@dataclass(frozen=True, slots=True)
class Message:
    """Data that lies beside a frame in the bitstream, such as closed captions.

    `kind` is a name of `video.side_data_kinds`; `payload_type` and `payload` are those of the SEI message of H.264 and
    H.265 that holds it. The payload is None if there is no such message for the data.
    """

    kind: str
    payload_type: int
    payload: bytes | None


@dataclass(frozen=True, slots=True)
class Frame:
    """A video frame and its side data. The image is 3 x H x W, RGB, float32, 0..1, on the compute device.

    `pts` and `duration` count ticks of `time_base` seconds; a duration of 0 means unknown. `faces` are ordered by track
    and stay in source pixels when the image is enlarged, as do `defects`. In the output of a network with an estimator
    of degradation, `levels` are the levels that it worked with: blur, noise and compression, 3 values in 0..1, on the
    compute device. In its input, where the image is a tile, they are its estimate of the whole frame, B x 3, which
    replaces that of the tile. `messages` go into the output's bitstream; interpolated frames have none.
    """

    image: Tensor
    pts: int
    time_base: Fraction
    duration: int = 0
    starts_scene: bool = False
    faces: tuple[Face, ...] = ()
    levels: Tensor | None = None
    messages: tuple[Message, ...] = ()
    defects: tuple[Defect, ...] = ()

    def with_image(self, image: Tensor) -> Frame:
        """A copy of the frame with another image."""
        return replace(self, image=image)


@dataclass(frozen=True, slots=True)
class Damage:
    """A place where input data was lost: the time of the last intact frame before it, and the cause.

    The time is in seconds after the beginning of the file, which is that of its first stream.
    """

    after_seconds: float | None
    reason: str

    @property
    def place(self) -> str:
        """Where the damage is, in words."""
        return "before the first frame" if self.after_seconds is None else f"after {self.after_seconds:.3f} s"


@dataclass(frozen=True, slots=True)
class MemoryStep:
    """A step to less memory, made because memory had run out after `frames_done` output frames.

    `what` continues "from here on ...".
    """

    frames_done: int
    what: str

    def __str__(self) -> str:
        return f"memory ran out after {self.frames_done} frames; from here on {self.what}"


@dataclass(slots=True)
class RunReport:
    """What a run did, for messages and for `--report`; filled in during the run.

    `decoder` is "software" or the device that decoded the input. N input frames give (N - 1) * `interp` + 1 output
    frames. The output is `stretch` times as long as the trimmed input. `duration_seconds` and `rate`, the average
    frames per second, are those of the output. `degradation` has an entry for each scene if the model works with
    degradation levels, else none. `chosen_for` are the levels for which `--model auto` chose the model, None where it
    did not go by the input. `clean_model` has cleaned the frames first, None without. `defects` is None if the video
    was not searched for them. `memory_steps` are also among the warnings. `notes` are usual things that need no
    attention, such as colors that the file does not tag. `resumed_frames` of the output are from an interrupted run.
    """

    input: str
    output: str
    model: str
    model_sha256: str | None
    device: str
    precision: str
    decoder: str = "software"
    frames_in: int = 0
    frames_out: int = 0
    input_size: tuple[int, int] = (0, 0)
    output_size: tuple[int, int] = (0, 0)
    duplicates_replaced: int = 0
    defects: DefectReport | None = None
    chosen_for: DegradationLevels | None = None
    clean_model: str | None = None
    clean_model_sha256: str | None = None
    face_model: str | None = None
    faces: list[TrackReport] = field(default_factory=list)
    interp: int = 1
    stretch: int = 1
    duration_seconds: float = 0.0
    rate: float | None = None
    scenes: int = 0
    degradation: list[SceneDegradation] = field(default_factory=list)
    tile: int | None = None
    memory_steps: list[MemoryStep] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    resumed_frames: int = 0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    peak_memory_bytes: int = 0
