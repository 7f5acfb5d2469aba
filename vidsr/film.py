"""A film opened for a run: what reads it, what writes the result, and all that lies between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from vidsr.config import RestoreConfig, RunConfig, SlowmoConfig, UpscaleConfig
from vidsr.engines.choose import (
    FACE_MODEL,
    ChosenEngine,
    choose_card,
    choose_device,
    choose_engine,
    choose_slowmo,
    choose_slowmo_card,
)
from vidsr.errors import UsageError
from vidsr.forecast import Forecast, forecast
from vidsr.nets.resize import resize
from vidsr.stages.newframes import finish_new_frames
from vidsr.stages.scenes import mark_scenes
from vidsr.types import Frame, VideoInfo
from vidsr.video.reader import Reader
from vidsr.video.target import check_target
from vidsr.video.writer import Writer

if TYPE_CHECKING:
    from vidsr.restoration import Restoration


@dataclass(frozen=True, slots=True)
class OpenFilm:
    """A film that can be read, a result that may be written, and the engine between them."""

    reader: Reader
    writer: Writer
    chosen: ChosenEngine
    forecast: Forecast
    faces: Restoration | None

    def given(self, config: RunConfig) -> Iterator[Frame]:
        """The frames of the film: with its cuts, and its faces if they are to be restored."""
        frames = mark_scenes(self.reader.frames(), config.scenes)
        return frames if self.faces is None else self.faces.find(frames)

    def enhanced(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames of the result: of its size, at its times, in 0..1."""
        results = self._results(frames if self.faces is None else self.faces.restore(frames))
        if self.faces is not None:
            results = self.faces.paste(results)
        if self.forecast.interp > 1:
            results = finish_new_frames(results, self.forecast.interp)
        return map(self._finished, results)

    def _results(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        engine, info = self.chosen.engine, self.reader.info
        state = engine.init_state(info.height, info.width)
        for frame in frames:
            ready, state = engine.step(frame, state)
            yield from ready
        yield from engine.flush(state)

    def _finished(self, frame: Frame) -> Frame:
        width, height = self.forecast.size
        image = frame.image
        if image.shape[-2:] != (height, width):
            image = resize(image, (height, width)).clamp(0, 1)
        return replace(frame, image=image, time_base=frame.time_base * self.forecast.stretch)


@contextmanager
def open_film(source: Path, target: Path, config: RunConfig) -> Iterator[OpenFilm]:
    """Opens the film and whatever else a run needs. What can be refused before any work is refused here."""
    check_target(target, source, config.output.overwrite)
    if isinstance(config, SlowmoConfig):
        choose_slowmo_card(config.compute.model)
    else:
        choose_card(config.compute.model)
    if config.compute.threads:
        torch.set_num_threads(config.compute.threads)
    with Reader(source, config.input, choose_device(config.compute.device)) as reader:
        info = reader.info
        expected = forecast(info, config)
        output = replace(config.output, stretch=expected.stretch)
        writer = Writer(target, expected.describe(info), expected.size, output, config.input)
        wanted = (config.compute, info.height, info.width, expected.enlargement(info))
        chosen = choose_slowmo(*wanted, config.interp) if isinstance(config, SlowmoConfig) else choose_engine(*wanted)
        yield OpenFilm(reader, writer, chosen, expected, _restoration(config, chosen, info))


def _restoration(config: RunConfig, chosen: ChosenEngine, info: VideoInfo) -> Restoration | None:
    """What restores faces in this run, if anything does."""
    if not isinstance(config, UpscaleConfig) or not _is_wanted(config.faces, chosen.model):
        return None
    if chosen.card is None:
        raise UsageError(
            "bicubic is no network, and faces are restored beside one: leave out --faces, or choose a model"
        )
    from vidsr.restoration import Restoration  # SciPy comes along, a third of the start of a run that needs it not

    return Restoration(config.faces, config.compute, info)


def _is_wanted(config: RestoreConfig, model: str) -> bool:
    """Whether faces are restored in a run with this model.

    If nothing was said, not with bicubic, which is to be itself, nor with the network for faces, which runs anyway.
    """
    wanted = model not in ("bicubic", FACE_MODEL) if config.use is None else config.use
    return wanted and config.strength > 0
