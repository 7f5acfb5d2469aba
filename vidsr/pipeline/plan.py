"""Decides everything about a run before its first frame; `run.run` then executes the plan."""

from __future__ import annotations

import math
import stat
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from vidsr.config import LARGEST_SCALE, SOFTWARE, InputConfig, RunConfig, SizeConfig, SlowmoConfig, UpscaleConfig
from vidsr.engines.select import Selection, default_scale, levels_of, select, select_cleaner, task_of
from vidsr.errors import UsageError
from vidsr.faces.handover import BodyModel, wants_faces
from vidsr.pipeline.degradation import ModelChoice, choose_model
from vidsr.pipeline.options import files_read
from vidsr.pipeline.signature import planned_weights, sign
from vidsr.types import VideoInfo
from vidsr.video.hardware import choose_decoder
from vidsr.video.output import OutputPlan
from vidsr.video.probe import Source
from vidsr.video.segments import JOINED_ENCODERS
from vidsr.video.sources import AnyOutputPlan, check_result, plan_result, source_of

if TYPE_CHECKING:
    from vidsr.faces.pipeline import FacePlan


@dataclass(frozen=True, slots=True)
class ExpectedOutput:
    """Size, length and rate of the output, as expected from the header.

    Frames, seconds and rates are None if the header does not state them, and may be wrong. `size` is (width, height)
    as coded. `input_seconds` and `input_rate` are those of the trimmed input.
    """

    size: tuple[int, int]
    frames: int | None
    interp: int
    stretch: int
    input_seconds: float | None
    input_rate: Fraction | None

    @property
    def seconds(self) -> float | None:
        """Duration of the output in seconds."""
        return None if self.input_seconds is None else self.input_seconds * self.stretch

    @property
    def rate(self) -> Fraction | None:
        """Average frame rate of the output."""
        return None if self.input_rate is None else self.input_rate * self.interp / self.stretch

    def describe(self, info: VideoInfo) -> VideoInfo:
        """The header for the writer: the output's frame rate, and a time base in which all its timestamps are exact."""
        return replace(info, time_base=info.time_base * self.stretch / self.interp, header_rate=self.rate)

    def whole_enlargement(self, info: VideoInfo) -> int | None:
        """The whole factor by which both sides are enlarged; None if there is none."""
        factor = self.enlargement(info)
        return factor if self.size == (factor * info.width, factor * info.height) else None

    def enlargement(self, info: VideoInfo) -> int:
        """The smallest whole factor that reaches `size` on both sides."""
        return max(math.ceil(self.size[0] / info.width), math.ceil(self.size[1] / info.height))


@dataclass(frozen=True, slots=True)
class Plan:
    """All decisions about a run; a plain value that can be printed, compared, pickled and sent elsewhere.

    `source` is None for frames in memory. `engine` holds model, device, precision, backend and tile; `cleaner` the same
    of the model that cleans frames first, None without; `faces` how faces
    are restored, None if they are not; `output` target, encoder and pixel format, None if nothing is written. Scenes,
    trim range, audio and subtitles are as in `options`. `fills_duplicates` depends on the model as well as on the
    options. `choice` says why `--model auto` is this model, None where the input did not decide; `options` name the
    chosen model. `warnings` are to be shown before the run. `job` is the folder in which a run keeps its finished work,
    None if it keeps none, and `frames_done` the output frames that an interrupted run has left there; only a run knows
    them.
    """

    source: Source | None
    target: Path | None
    options: RunConfig
    info: VideoInfo
    expected: ExpectedOutput
    engine: Selection
    cleaner: Selection | None
    faces: FacePlan | None
    fills_duplicates: bool
    output: AnyOutputPlan | None
    warnings: tuple[str, ...]
    choice: ModelChoice | None = None
    job: Path | None = None
    frames_done: int = 0

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
    def decoder(self) -> str:
        """What decodes the input: "software", or a device; see `video/hardware.py`."""
        return SOFTWARE if self.source is None else self.source.decoder

    @property
    def tile(self) -> int | None:
        """The side of a tile in input pixels; None for whole frames."""
        return self.engine.tile

    @property
    def face_model(self) -> str | None:
        """The name of the model that restores faces; None without face restoration."""
        return None if self.faces is None else self.faces.selection.model

    @property
    def clean_model(self) -> str | None:
        """The name of the model that cleans frames first; None without."""
        return None if self.cleaner is None else self.cleaner.model

    @property
    def written(self) -> AnyOutputPlan:
        """`output` of a plan with a target."""
        assert self.output is not None, "planned without a target"
        return self.output

    @property
    def written_video(self) -> OutputPlan:
        """`output` of a plan whose target is a video."""
        assert isinstance(self.output, OutputPlan), "planned without a video as its target"
        return self.output


def plan(source: Source | Path, target: Path | None, options: RunConfig) -> Plan:
    """Decides what a run does: the only place that chooses device, model, tile, encoder, sizes and face restoration.

    Decodes the first frame of the input and tries the encoder; writes nothing. With `--model auto` it also looks at a
    few frames, to choose the model; where reference photographs are looked for by their faces, it reads the whole
    input. Without a `target` only the processing of frames is planned. Raises the errors of vidsr.errors for all
    problems that can be detected beforehand.
    """
    source = source_of(source, options.input, target, options.interp)
    if target is not None:
        check_result(target, source, options.output.overwrite, files_read(options))
    info = source.probe()
    if target is not None:
        info = source.with_clock(info, options.input.end)
    expected = expected_output(info, options)  # a size that is refused needs no look at frames
    keeps_size = isinstance(options, SlowmoConfig) and expected.enlargement(info) == 1
    choice = None if keeps_size else choose_model(source, info, options)
    source = source.decoded_by(choose_decoder(options.input.decoder, source, info))
    if choice is not None:
        options = replace(options, compute=replace(options.compute, model=choice.model))
    frames = plan_frames(info, options)
    output = None
    if target is not None:
        result = frames.expected
        output = plan_result(
            target, source, result.describe(info), result.size, options.output, options.input, result.stretch,
            result.interp,
        )  # fmt: skip
    fills_duplicates, warnings = _duplicates(options, frames.engine)
    faces = plan_face_restoration(options, frames.engine, info)
    if options.resume and output is not None and (reason := resume_refusal(source, output)):
        raise UsageError(f"--resume is not possible, because {reason}: leave it out")
    decided = replace(
        frames, source=source, target=target, faces=faces, fills_duplicates=fills_duplicates, output=output,
        warnings=warnings, choice=choice,
    )  # fmt: skip
    decided = replace(decided, output=_signed(decided, source))
    if faces is None or not faces.options.photographs:
        return decided
    from vidsr.pipeline.references import plan_references  # last, because it may read the whole video

    assert isinstance(options, UpscaleConfig), "only it has faces"
    faces = plan_references(source, info, options, faces)
    return replace(decided, faces=faces, warnings=(*warnings, *faces.warnings))


def _signed(decided: Plan, source: Source) -> AnyOutputPlan | None:
    """The output with its signature; images, and outputs of inputs that are no regular file, have none."""
    output = decided.output
    if not isinstance(output, OutputPlan) or not source.path.is_file():
        return output
    weights = planned_weights(decided.engine, decided.cleaner, decided.faces)
    return replace(output, signature=str(sign(source.path, decided.options, weights)))


def resume_refusal(source: Source, output: AnyOutputPlan) -> str | None:
    """Why the run of a plan cannot be resumed; None if it can."""
    if type(source) is not Source or not isinstance(output, OutputPlan):
        return "that is for videos, and this job reads or writes images or a pipe"
    with suppress(OSError):
        if not stat.S_ISREG(source.path.stat().st_mode):
            return f"{source.path} is no file, which could be read again from its beginning"
    if output.encoding.codec not in JOINED_ENCODERS:
        return f"the output of {output.encoding.codec} cannot be joined of segments"
    return None


def plan_frames(info: VideoInfo, options: RunConfig) -> Plan:
    """A plan for frames with this header: sizes, times and the engine, without faces, duplicates and files.

    Raises UsageError, ModelError or DeviceError.
    """
    expected = expected_output(info, options)
    engine = select(
        options.compute, task_of(options), info.height, info.width, enlargement=expected.enlargement(info),
        interp=options.interp, levels=levels_of(options),
    )  # fmt: skip
    cleaner = None
    if options.clean is not None:
        cleaner = select_cleaner(options.compute, options.clean, info.height, info.width)
    return Plan(
        source=None, target=None, options=options, info=info, expected=expected, engine=engine, cleaner=cleaner,
        faces=None, fills_duplicates=False, output=None, warnings=(),
    )  # fmt: skip


def _duplicates(options: RunConfig, engine: Selection) -> tuple[bool, tuple[str, ...]]:
    """Whether repeated frames are replaced, and a warning if the model cannot do so."""
    if not isinstance(options, SlowmoConfig) or options.duplicates == "off":
        return False, ()
    if engine.has_interpolator:
        return True, ()
    return False, (f"repeated frames are kept: the model '{engine.model}' cannot interpolate at the input's size",)


def plan_face_restoration(options: RunConfig, engine: Selection, info: VideoInfo) -> FacePlan | None:
    """How faces are restored; None without. Raises ModelError, UsageError or DeviceError."""
    if not isinstance(options, UpscaleConfig) or not wants_faces(options, BodyModel.of(engine.card)):
        return None
    from vidsr.faces.pipeline import plan_faces  # imports SciPy, a third of start-up time where faces are off

    return plan_faces(options.faces, options.compute, info, engine)


def expected_output(info: VideoInfo, config: RunConfig) -> ExpectedOutput:
    """The expected output for an input video. Raises UsageError for an enlargement outside 1 to 8."""
    frames = _input_frames(info, config.input)
    return ExpectedOutput(
        size=_target_size(info, config.size, default_scale(config)),
        frames=(frames - 1) * config.interp + 1 if frames else frames,
        interp=config.interp,
        stretch=config.stretch,
        input_seconds=_input_seconds(info, config.input),
        input_rate=info.header_rate,
    )


def _target_size(info: VideoInfo, config: SizeConfig, default_scale: float) -> tuple[int, int]:
    """Width and height of the output as coded; the configured `size` and `height` are as displayed, after rotation."""
    is_turned = info.rotation_degrees % 180 == 90
    shown_width, shown_height = (info.height, info.width) if is_turned else (info.width, info.height)
    if config.size is not None:
        width, height = config.size
    elif config.height is not None:
        width, height = 2 * max(1, round(shown_width * config.height / shown_height / 2)), config.height
    else:
        scale = default_scale if config.scale is None else config.scale
        width, height = round(shown_width * scale), round(shown_height * scale)
    for target, source in ((width, shown_width), (height, shown_height)):
        if not source <= target <= LARGEST_SCALE * source:
            raise UsageError(
                f"cannot scale {shown_width}x{shown_height} to {width}x{height}: "
                f"choose a size of 1 to {LARGEST_SCALE} times the input's"
            )
    return (height, width) if is_turned else (width, height)


def _input_frames(info: VideoInfo, trim: InputConfig) -> int | None:
    """Number of frames in the trim range according to the header."""
    count, rate = info.header_frame_count, info.header_rate
    if count is None and rate and info.header_duration_seconds:
        count = round(rate * info.header_duration_seconds)
    if count is None or (trim.start is None and trim.end is None) or not rate:
        return count
    first = min(count, round((trim.start or 0) * rate))
    last = count if trim.end is None else min(count, round(trim.end * rate))
    return max(0, last - first)


def _input_seconds(info: VideoInfo, trim: InputConfig) -> float | None:
    """Duration of the trim range in seconds according to the header."""
    whole = info.header_duration_seconds
    if whole is None:
        return None
    end = whole if trim.end is None else min(whole, float(trim.end))
    return max(0.0, end - float(trim.start or 0))
