"""Tries a few settings on a short part of a video, and chooses one for its degradation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from vidsr.comparison.sheet import GAP, Sheet
from vidsr.config import CleaningConfig, ComputeConfig, InputConfig, SizeConfig, UpscaleConfig
from vidsr.engines.select import DEFAULT_MODELS, DEGRADED_MODEL
from vidsr.errors import InputError, UsageError
from vidsr.files import atomic_write
from vidsr.pipeline.compose import compose
from vidsr.pipeline.degradation import estimate_degradation, is_degraded
from vidsr.pipeline.plan import Plan, plan
from vidsr.pipeline.run import load
from vidsr.runtime.profiling import StageClock
from vidsr.types import DegradationLevels, VideoInfo
from vidsr.video.probe import Source
from vidsr.video.sources import open_reader, with_true_length

# How much higher the levels of the third setting are, for videos that are worse than their estimate.
STRONGER = 0.3
LARGEST_HEIGHT = 2160  # of a result whose size the user leaves to vidsr
MAX_SECONDS, MAX_FRAMES = 10, 48  # of the part that is tried
# Seconds after which a trial ends, but not before it has so many frames.
BUDGET, MIN_FRAMES = 20.0, 4
ROWS, CELL = 3, (400, 300)  # of the contact sheet; width and height in output pixels

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Choice:
    """Settings to try: options of `vidsr upscale` as on the command line, and the configuration that they make."""

    options: tuple[str, ...]
    config: UpscaleConfig

    @property
    def label(self) -> str:
        """The model, and the levels that the setting fixes."""
        return " ".join(self.options[1:])


@dataclass(frozen=True, slots=True)
class Crop:
    """The part of the frames that a contact sheet shows, in output pixels."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def of(cls, image: Tensor) -> Crop:
        """The part with the most detail, of at most CELL, in an image of 3 x H x W."""
        width, height = min(CELL[0], image.shape[2]), min(CELL[1], image.shape[1])
        gray = image.float().mean(0, keepdim=True)[None]
        detail = (gray - avg_pool2d(gray, 9, 1, 4, count_include_pad=False)).abs()
        sums = avg_pool2d(detail, (height, width), stride=(max(1, height // 4), max(1, width // 4)))[0, 0]
        row, column = divmod(int(sums.argmax()), sums.shape[1])
        return cls(row * max(1, height // 4), column * max(1, width // 4), height, width)

    def cut(self, image: Tensor) -> Pixels:
        """The part of an image as H x W x 3."""
        part = image[:, self.top : self.top + self.height, self.left : self.left + self.width]
        pixels: Pixels = (part.float().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        return pixels


@dataclass(frozen=True, slots=True)
class Trial:
    """What a setting gave: the seconds per output frame without encoding, and the same crop of every frame."""

    choice: Choice
    plan: Plan
    seconds_per_frame: float
    crop: Crop
    images: list[Pixels] = field(repr=False)

    @property
    def label(self) -> str:
        """The model, and the levels that the setting fixes."""
        return self.choice.label

    @property
    def seconds(self) -> float | None:
        """How long the whole video would take; None if its length is unknown."""
        frames = self.plan.expected.frames
        return None if frames is None else frames * self.seconds_per_frame


@dataclass(frozen=True, slots=True)
class Tuning:
    """The result: what was measured, the trials, bicubic first, and the one that was chosen.

    `size_options` are to be added to the options of a trial.
    """

    levels: DegradationLevels
    trials: tuple[Trial, ...]
    chosen: Trial
    size_options: tuple[str, ...]


def tune(
    source: Path,
    size: SizeConfig,
    compute: ComputeConfig,
    seconds: Fraction,
    on_trial: Callable[[Choice], None] = lambda _: None,
) -> Tuning:
    """Measures `seconds` from the middle of a video and tries settings on them; writes nothing.

    A size that is not given is four times the input's, up to LARGEST_HEIGHT lines. A trial ends early after BUDGET
    seconds; the others have as many frames then. Raises the errors of a run, and UsageError for a length out of range.
    """
    if not 0 < seconds <= MAX_SECONDS:
        raise UsageError(f"--seconds must be more than 0 and at most {MAX_SECONDS}, not {float(seconds):g}")
    opened = Source.of(source)
    info = with_true_length(opened, opened.probe())
    trim = middle(info, seconds)
    size_options, size = _size(info, size)
    levels = estimate_degradation(opened, trim, info)
    trials: list[Trial] = []
    for choice in candidates(levels, UpscaleConfig(input=trim, size=size, compute=compute)):
        on_trial(choice)
        crop = trials[0].crop if trials else None
        trials.append(_try(opened, choice, min((len(trial.images) for trial in trials), default=MAX_FRAMES), crop))
    return Tuning(levels, tuple(trials), trials[2 if is_degraded(levels) else 1], size_options)


def middle(info: VideoInfo, seconds: Fraction) -> InputConfig:
    """The trim range of this length around the middle; the beginning if the header states no length."""
    whole = info.header_duration_seconds
    start = Fraction(0) if whole is None else Fraction(max(0.0, whole - float(seconds)) / 2).limit_denominator(1000)
    return InputConfig(start=start or None, end=start + seconds)


def candidates(levels: DegradationLevels, base: UpscaleConfig) -> Iterator[Choice]:
    """The settings to try: bicubic, for clean videos, for degraded ones, and with a stronger cleaning than estimated.

    Bicubic shows the input as it is.
    """
    plain = replace(base.compute, model="bicubic", backend="torch")
    yield Choice(("--model", "bicubic"), replace(base, compute=plain))
    clean, degraded = (replace(base, compute=replace(base.compute, model=model)) for model in _MODELS)
    yield Choice(("--model", _MODELS[0]), clean)
    yield Choice(("--model", _MODELS[1]), degraded)
    blur, noise = (round(min(1.0, level + STRONGER), 2) for level in (levels.blur, levels.noise))
    options = ("--model", _MODELS[1], "--deblur", f"{blur:g}", "--denoise", f"{noise:g}")
    yield Choice(options, replace(degraded, cleaning=CleaningConfig(deblur=blur, denoise=noise)))


_MODELS = (DEFAULT_MODELS["upscale"], DEGRADED_MODEL)


def _size(info: VideoInfo, size: SizeConfig) -> tuple[tuple[str, ...], SizeConfig]:
    """The options for the size, and the size."""
    if size.scale is not None:
        return ("--scale", f"{size.scale:g}"), size
    if size.size is not None:
        return ("--size", "{}x{}".format(*size.size)), size
    if size.height is not None:
        return ("--height", str(size.height)), size
    shown = info.width if info.rotation_degrees % 180 == 90 else info.height
    if shown * UpscaleConfig.default_scale <= LARGEST_HEIGHT:
        return (), size
    if shown < LARGEST_HEIGHT:
        return ("--height", str(LARGEST_HEIGHT)), SizeConfig(height=LARGEST_HEIGHT)
    return ("--scale", "1"), SizeConfig(scale=1)


def _try(source: Source, choice: Choice, most: int, crop: Crop | None) -> Trial:
    """Runs a setting on at most `most` frames. Raises InputError if there is none.

    `crop` is the part that is kept of each; None for the one with the most detail in the first frame.
    """
    planned = plan(source, None, choice.config)
    parts = load(planned)
    stages, clock = parts.stages(planned), StageClock({})
    reader = open_reader(source, choice.config.input, torch.device(planned.device), planned.info)
    images: list[Pixels] = []
    began = first = last = time.monotonic()
    with reader:
        for frame in compose(compose(reader.frames(), stages.ahead, clock), stages.beside, clock):
            crop = crop or Crop.of(frame.image)
            images.append(crop.cut(frame.image))
            last = time.monotonic()
            first = last if len(images) == 1 else first
            if len(images) == most or (last - began > BUDGET and len(images) >= MIN_FRAMES):
                break
    if crop is None:
        raise InputError(f"{source.path} has no frame in the part that was to be tried")
    # The first frame takes longer: it waits for the look-ahead, and libraries start.
    per_frame = (last - first) / (len(images) - 1) if len(images) > 1 else last - began
    return Trial(choice, planned, per_frame, crop, images)


def draw_sheet(tuning: Tuning) -> Pixels:
    """The contact sheet, H x W x 3: a row for each of up to three frames, a column for each trial."""
    frames = min(len(trial.images) for trial in tuning.trials)
    places = sorted({round(place * (frames - 1)) for place in np.linspace(0, 1, ROWS)})
    crop = tuning.trials[0].crop
    sheet = Sheet([trial.label for trial in tuning.trials], (crop.width, crop.height), "side")
    rows = [sheet.arrange([_tensor(trial.images[place]) for trial in tuning.trials]) for place in places]
    gap = torch.zeros(3, GAP, sheet.size[0])
    whole = torch.cat([part for row in rows for part in (row, gap)][:-1], dim=1)
    pixels: Pixels = (whole * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels


def write_sheet(pixels: Pixels, target: Path, overwrite: bool) -> None:
    """Writes an image of H x W x 3 as PNG. Raises OutputError."""
    _, png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    with atomic_write(target, overwrite=overwrite) as hidden:
        hidden.write_bytes(png.tobytes())


def _tensor(pixels: Pixels) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
