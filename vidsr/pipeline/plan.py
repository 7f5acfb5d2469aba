"""What a result will be, by its input's header: size, number of frames, duration, rate. Opens no film."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from vidsr.config import LARGEST_SCALE, InputConfig, RunConfig, SizeConfig
from vidsr.errors import UsageError
from vidsr.types import VideoInfo


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a result will be. Frames, seconds and rates are None where the header tells nothing, and may be wrong.

    `size` is (width, height) as coded. `given_seconds` and `given_rate` are those of the part that is read.
    """

    size: tuple[int, int]
    frames: int | None
    interp: int
    stretch: int
    given_seconds: float | None
    given_rate: Fraction | None

    @property
    def seconds(self) -> float | None:
        """How long the result lasts."""
        return None if self.given_seconds is None else self.given_seconds * self.stretch

    @property
    def rate(self) -> Fraction | None:
        """Frames a second of the result, on average."""
        return None if self.given_rate is None else self.given_rate * self.interp / self.stretch

    def describe(self, info: VideoInfo) -> VideoInfo:
        """The film as a writer of the result is told of it: at its rate, in ticks so small that all times are exact."""
        return replace(info, time_base=info.time_base * self.stretch / self.interp, header_rate=self.rate)

    def enlargement(self, info: VideoInfo) -> int:
        """The smallest whole factor that reaches `size` on both sides."""
        return max(math.ceil(self.size[0] / info.width), math.ceil(self.size[1] / info.height))


def forecast(info: VideoInfo, config: RunConfig) -> Forecast:
    """What a run makes of this film. Raises UsageError for a size that is no enlargement by 1 to 8."""
    frames = _frames_given(info, config.input)
    return Forecast(
        size=_target_size(info, config.size, config.default_scale),
        frames=(frames - 1) * config.interp + 1 if frames else frames,
        interp=config.interp,
        stretch=config.stretch,
        given_seconds=_seconds_given(info, config.input),
        given_rate=info.header_rate,
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


def _frames_given(info: VideoInfo, window: InputConfig) -> int | None:
    """How many frames the header promises within the window."""
    count, rate = info.header_frame_count, info.header_rate
    if count is None and rate and info.header_duration_seconds:
        count = round(rate * info.header_duration_seconds)
    if count is None or (window.start is None and window.end is None) or not rate:
        return count
    first = min(count, round((window.start or 0) * rate))
    last = count if window.end is None else min(count, round(window.end * rate))
    return max(0, last - first)


def _seconds_given(info: VideoInfo, window: InputConfig) -> float | None:
    """How long the header says that the part within the window lasts."""
    whole = info.header_duration_seconds
    if whole is None:
        return None
    end = whole if window.end is None else min(whole, float(window.end))
    return max(0.0, end - float(window.start or 0))
