"""Everything about a run that can be decided before its first frame: `plan` asks, `run.run` carries out."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from vidsr.config import LARGEST_SCALE, InputConfig, RunConfig, SizeConfig, SlowmoConfig, UpscaleConfig
from vidsr.engines.select import DEFAULT_MODELS, Selection, select
from vidsr.errors import UsageError
from vidsr.files import check_target
from vidsr.models.registry import Task
from vidsr.types import VideoInfo
from vidsr.video.output import OutputPlan, plan_output
from vidsr.video.probe import Source

if TYPE_CHECKING:
    from vidsr.faces.pipeline import FacePlan


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """What a result will be. Frames, seconds and rates are None where the header tells nothing, and may be wrong.

    `size` is (width, height) as coded. `input_seconds` and `input_rate` are those of the part that is read.
    """

    size: tuple[int, int]
    frames: int | None
    interp: int
    stretch: int
    input_seconds: float | None
    input_rate: Fraction | None

    @property
    def seconds(self) -> float | None:
        """How long the result lasts."""
        return None if self.input_seconds is None else self.input_seconds * self.stretch

    @property
    def rate(self) -> Fraction | None:
        """Frames a second of the result, on average."""
        return None if self.input_rate is None else self.input_rate * self.interp / self.stretch

    def describe(self, info: VideoInfo) -> VideoInfo:
        """The video as a writer of the result sees it: at its rate, in ticks so small that all times are exact."""
        return replace(info, time_base=info.time_base * self.stretch / self.interp, header_rate=self.rate)

    def enlargement(self, info: VideoInfo) -> int:
        """The smallest whole factor that reaches `size` on both sides."""
        return max(math.ceil(self.size[0] / info.width), math.ceil(self.size[1] / info.height))


@dataclass(frozen=True, slots=True)
class Plan:
    """A run, decided from end to end; a plain value that can be printed, compared, pickled and sent elsewhere.

    `source` is None for frames that are not in a file. `engine` tells model, device, precision, backend and tile;
    `faces` how faces are restored, None if they are not; `output` the target, encoder and pixel format, None if only
    the frames were asked about. Scenes, duplicates, the trim, audio and subtitles are as in `options`, but for
    `fills_duplicates`, which the model has a say in. `warnings` are what the user should know before the run.
    """

    source: Source | None
    target: Path | None
    options: RunConfig
    info: VideoInfo
    expected: ExpectedOutput
    engine: Selection
    faces: FacePlan | None
    fills_duplicates: bool
    output: OutputPlan | None
    warnings: tuple[str, ...]

    @property
    def model(self) -> str:
        """The name of the model."""
        return self.engine.model

    @property
    def device(self) -> str:
        """The device as torch writes it, such as "cpu" or "cuda:1"."""
        return self.engine.device

    @property
    def precision(self) -> str:
        """The precision of the convolutions."""
        return self.engine.precision

    @property
    def tile(self) -> int | None:
        """The side of a tile in input pixels; None for whole frames."""
        return self.engine.tile

    @property
    def face_model(self) -> str | None:
        """The model that restores faces, if any does."""
        return None if self.faces is None else self.faces.selection.model

    @property
    def written(self) -> OutputPlan:
        """How the result is written; only of a plan with a target."""
        assert self.output is not None, "planned without a target"
        return self.output


def plan(source: Source | Path, target: Path | None, options: RunConfig) -> Plan:
    """Decides what a run does: the only place that asks for device, model, tile, encoder, sizes and faces.

    Reads the input's first frame, tries the encoder, loads no weights and writes nothing. Without a `target` only the
    frames are planned. Raises the errors of vidsr.errors for everything that can be refused beforehand.
    """
    source = Source.of(source)
    if target is not None:
        check_target(target, source.path, options.output.overwrite)
    info = source.probe()
    frames = plan_frames(info, options)
    output = None
    if target is not None:
        result = frames.expected
        output = plan_output(target, result.describe(info), result.size, options.output, options.input, result.stretch)
    fills_duplicates, warnings = _duplicates(options, frames.engine)
    return replace(
        frames, source=source, target=target, faces=_faces(options, frames.engine, info),
        fills_duplicates=fills_duplicates, output=output, warnings=warnings,
    )  # fmt: skip


def plan_frames(info: VideoInfo, options: RunConfig) -> Plan:
    """A plan for frames of this description: sizes, times and the engine, without faces, duplicates and files.

    Raises UsageError, ModelError or DeviceError.
    """
    expected = expected_output(info, options)
    engine = select(
        options.compute, task_of(options), info.height, info.width, enlargement=expected.enlargement(info),
        interp=options.interp,
    )  # fmt: skip
    return Plan(
        source=None, target=None, options=options, info=info, expected=expected, engine=engine, faces=None,
        fills_duplicates=False, output=None, warnings=(),
    )  # fmt: skip


def task_of(options: RunConfig) -> Task:
    """What the model of a run must be able to do."""
    return "interpolate" if isinstance(options, SlowmoConfig) else "upscale"


def _duplicates(options: RunConfig, engine: Selection) -> tuple[bool, tuple[str, ...]]:
    """Whether repeated frames get a moment of their own, and what is said where that was wanted but cannot be."""
    if not isinstance(options, SlowmoConfig) or options.duplicates == "off":
        return False, ()
    if engine.has_midpoint:
        return True, ()
    return False, (
        f"repeated frames are left as they are: the model '{engine.model}' makes no frames of the input's size",
    )


def _faces(options: RunConfig, engine: Selection, info: VideoInfo) -> FacePlan | None:
    """How faces are restored; by default not with bicubic, which stays itself, nor with the network for faces."""
    if not isinstance(options, UpscaleConfig):
        return None
    by_default = engine.model not in ("bicubic", DEFAULT_MODELS["restore_face"])
    wanted = by_default if options.faces.use is None else options.faces.use
    if not wanted or options.faces.strength == 0:
        return None
    from vidsr.faces.pipeline import plan_faces  # imports SciPy, a third of start-up time where faces are off

    return plan_faces(options.faces, options.compute, info)


def expected_output(info: VideoInfo, config: RunConfig) -> ExpectedOutput:
    """What a run makes of this film. Raises UsageError for a size that is no enlargement by 1 to 8."""
    frames = _input_frames(info, config.input)
    return ExpectedOutput(
        size=_target_size(info, config.size, config.default_scale),
        frames=(frames - 1) * config.interp + 1 if frames else frames,
        interp=config.interp,
        stretch=config.stretch,
        input_seconds=_input_seconds(info, config.input),
        input_rate=info.header_rate,
    )


def _target_size(info: VideoInfo, config: SizeConfig, default_scale: float) -> tuple[int, int]:
    """Width and height of the output as coded; `size` and `height` are meant as displayed, after rotation."""
    is_turned = info.rotation_degrees % 180 == 90
    shown_width, shown_height = (info.height, info.width) if is_turned else (info.width, info.height)
    if config.size is not None:
        width, height = config.size
    elif config.height is not None:
        width, height = 2 * max(1, round(shown_width * config.height / shown_height / 2)), config.height
    else:
        scale = default_scale if config.scale is None else config.scale
        width, height = round(shown_width * scale), round(shown_height * scale)
    for wanted, given in ((width, shown_width), (height, shown_height)):
        if not given <= wanted <= LARGEST_SCALE * given:
            raise UsageError(
                f"{shown_width}x{shown_height} to {width}x{height} is not an enlargement by 1 to {LARGEST_SCALE}"
            )
    return (height, width) if is_turned else (width, height)


def _input_frames(info: VideoInfo, window: InputConfig) -> int | None:
    """How many frames the header promises within the window."""
    count, rate = info.header_frame_count, info.header_rate
    if count is None and rate and info.header_duration_seconds:
        count = round(rate * info.header_duration_seconds)
    if count is None or (window.start is None and window.end is None) or not rate:
        return count
    first = min(count, round((window.start or 0) * rate))
    last = count if window.end is None else min(count, round(window.end * rate))
    return max(0, last - first)


def _input_seconds(info: VideoInfo, window: InputConfig) -> float | None:
    """How long the header says that the part within the window lasts."""
    whole = info.header_duration_seconds
    if whole is None:
        return None
    end = whole if window.end is None else min(whole, float(window.end))
    return max(0.0, end - float(window.start or 0))
