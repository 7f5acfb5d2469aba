"""Files written by the Writer alone: numbered images and a probed source, without a Reader or an engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import torch

from tests.support.media import numbered_image
from vidsr.config import InputConfig, OutputConfig
from vidsr.types import Frame, VideoInfo
from vidsr.video.output import plan_output
from vidsr.video.probe import probe
from vidsr.video.writer import Writer


def frames(times: Iterable[int], base: Fraction, width: int = 64, height: int = 48, last: int = 0) -> Iterator[Frame]:
    """Numbered image n at the n-th time; `last` is the duration of the last frame, in ticks of `base`."""
    ticks = list(times)
    for number, time in enumerate(ticks):
        image = torch.from_numpy(numbered_image(number, width, height)).permute(2, 0, 1).float() / 255
        yield Frame(image, time, base, last if number == len(ticks) - 1 else 0)


def write(
    target: Path,
    source: Path,
    times: Sequence[int],
    config: OutputConfig | None = None,
    trim: InputConfig | None = None,
    size: tuple[int, int] | None = None,
    last: int = 0,
    stretch: int = 1,
    **changes: object,
) -> Writer:
    """Writes numbered images as the output of `source`; `changes` replace fields of its VideoInfo."""
    info: VideoInfo = replace(probe(source), **changes)  # type: ignore[arg-type]
    width, height = size or (info.width, info.height)
    plan = plan_output(target, source, info, (width, height), config or OutputConfig(), trim or InputConfig(), stretch)
    with Writer(plan) as writer:
        for frame in frames(times, info.time_base, width, height, last):
            writer.write(frame)
        writer.commit()
    return writer


def steps(source: Path, count: int, start: int = 0) -> list[int]:
    """Times of `count` frames at 25 frames/s, in ticks of the source."""
    step = Fraction(1, 25) / probe(source).time_base
    return [int(start + n * step) for n in range(count)]
