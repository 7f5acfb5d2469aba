"""Speed and memory of a model on this machine: the network alone, its convolutions in isolation, a film end to end.

How convolutions are found and timed is `convolutions.py`. Nothing is shown here.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vidsr.bench.convolutions import Convolution, ConvolutionRecorder, PartClock, device_clock, watch_parts
from vidsr.config import ComputeConfig, InputConfig, RestoreConfig, SizeConfig, UpscaleConfig
from vidsr.engines.base import Measurable
from vidsr.engines.select import build_engine, select_card
from vidsr.engines.tiled import TiledEngine
from vidsr.errors import UsageError
from vidsr.pipeline.plan import plan
from vidsr.pipeline.run import run
from vidsr.runtime.memory import keep_freed_memory, peak_memory_bytes
from vidsr.types import Frame
from vidsr.video.reader import Reader
from vidsr.video.synthetic import make_film

SCALE = 4
# The sides are measured in turn, this often, so that what else the machine does troubles all of them alike.
ROUNDS = 5
# Pictures of the film that the network is given in a loop, there and back.
PICTURES = 8
# Steps before anything is measured, besides the look-ahead: thread pools, caches, a window that is still filling.
WARM_UP = 8
# Seconds that one convolution is repeated in each round.
SLICE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class LayerSpeed:
    """One shape of convolution: how often a frame needs it, and the seconds of one call in isolation."""

    convolution: Convolution
    calls: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON, the multiply-adds of one call too."""
        convolution = self.convolution
        return asdict(convolution) | {
            "dtype": str(convolution.dtype).removeprefix("torch."),
            "multiply_adds": convolution.multiply_adds,
            "calls": self.calls,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class NetworkSpeed:
    """The network alone, on frames that lie on the device. All seconds are medians, for one frame.

    `parts` are the children of the network and "rest", measured in rounds of their own; empty for a model that is no
    network. `multiply_adds` are torch's count of one frame. `layers` are the convolutions.
    """

    seconds: float
    parts: Mapping[str, float]
    multiply_adds: int
    layers: tuple[LayerSpeed, ...]
    peak_memory_bytes: int

    @property
    def rate(self) -> float:
        """Multiply-adds per second of the network."""
        return self.multiply_adds / self.seconds

    @property
    def isolated_seconds(self) -> float:
        """The seconds of all convolutions of one frame, each timed by itself."""
        return sum(layer.calls * layer.seconds for layer in self.layers)

    @property
    def isolated_rate(self) -> float | None:
        """Multiply-adds per second of the convolutions in isolation; None if there is none."""
        work = sum(layer.calls * layer.convolution.multiply_adds for layer in self.layers)
        return work / self.isolated_seconds if self.layers else None

    @property
    def share(self) -> float | None:
        """The network's rate as a part of the isolated one; None if there is no convolution."""
        return None if self.isolated_rate is None else self.rate / self.isolated_rate


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What `vidsr bench` measures. Sizes are (width, height); the film's figures are those of its RunReport."""

    model: str
    device: str
    precision: str
    threads: int
    size: tuple[int, int]
    output_size: tuple[int, int]
    frames: int
    network: NetworkSpeed
    film_stage_seconds: Mapping[str, float]
    film_wall_seconds: float
    film_peak_memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values for JSON, the rates and the share too."""
        network = self.network
        return {
            "model": self.model, "device": self.device, "precision": self.precision, "threads": self.threads,
            "torch": torch.__version__, "size": list(self.size), "output_size": list(self.output_size),
            "frames": self.frames,
            "network": {
                "seconds_per_frame": network.seconds,
                "parts_seconds_per_frame": dict(network.parts),
                "multiply_adds_per_frame": network.multiply_adds,
                "multiply_adds_per_second": network.rate,
                "peak_memory_bytes": network.peak_memory_bytes,
            },
            "isolated": {
                "seconds_per_frame": network.isolated_seconds,
                "multiply_adds_per_second": network.isolated_rate,
                "layers": [layer.to_dict() for layer in network.layers],
            },
            "share": network.share,
            "film": {
                "stage_seconds": dict(self.film_stage_seconds),
                "wall_seconds": self.film_wall_seconds,
                "frames_per_second": self.frames / self.film_wall_seconds,
                "peak_memory_bytes": self.film_peak_memory_bytes,
            },
        }  # fmt: skip


def bench(compute: ComputeConfig, size: tuple[int, int], frames: int) -> BenchReport:
    """Measures a model on a film of `frames` pictures of `size` (width, height), made in a temporary folder.

    Raises UsageError, ModelError or DeviceError as `enhance` does, and UsageError for sides that no film can have.
    """
    if frames < ROUNDS:
        raise UsageError(f"{frames} frames are too few to measure: give {ROUNDS} or more")
    keep_freed_memory()  # as `enhance` does
    width, height = size
    options = UpscaleConfig(size=SizeConfig(scale=SCALE), compute=compute, faces=RestoreConfig(use=False))
    select_card(compute.model, "upscale")  # an unknown model is refused before a video is made
    if compute.threads:
        torch.set_num_threads(compute.threads)
    with tempfile.TemporaryDirectory(prefix="vidsr-") as folder:
        film, result = Path(folder, "film.mp4"), Path(folder, "result.mp4")
        make_film(film, frames, width, height)
        planned = plan(film, result, options)
        device = torch.device(planned.device)
        with Reader(film, InputConfig(), device, planned.info) as reader:
            pictures = list(islice(reader.frames(), PICTURES))
        network = measure_network(build_engine(planned.engine).engine, pictures, frames // ROUNDS, device)
        report = run(planned)
    return BenchReport(
        model=planned.model, device=planned.device, precision=planned.precision,
        threads=torch.get_num_threads(), size=size, output_size=report.output_size, frames=report.frames_out,
        network=network, film_stage_seconds=report.stage_seconds, film_wall_seconds=report.wall_seconds,
        film_peak_memory_bytes=report.peak_memory_bytes,
    )  # fmt: skip


class _Player:
    """An engine that is given the pictures there and back without end."""

    def __init__(self, engine: TiledEngine, pictures: list[Frame]) -> None:
        self._engine, self._pictures = engine, cycle(pictures + pictures[-2:0:-1])
        self._state = engine.init_state(*pictures[0].image.shape[-2:])

    def play(self, steps: int) -> None:
        for picture in islice(self._pictures, steps):
            _, self._state = self._engine.step(picture, self._state)


def measure_network(engine: TiledEngine, pictures: list[Frame], steps: int, device: torch.device) -> NetworkSpeed:
    """Runs the engine and each of its convolutions in turn; `steps` frames in each round, on the device already."""
    now = device_clock(device)
    network = None
    if isinstance(engine.inner, Measurable):  # one frame after the other: what runs in another thread is not seen
        inner = engine.inner.without_overlap()
        assert isinstance(inner, Measurable), "it is the same engine"
        engine, network = engine.around(inner), inner.network
    player = _Player(engine, pictures)
    player.play(engine.info.lookahead + WARM_UP)
    now()
    peak = peak_memory_bytes(device)
    with FlopCounterMode(display=False) as counter, ConvolutionRecorder() as recorder:
        if network is None:
            player.play(1)
        else:
            with watch_parts(network, recorder.on_change):
                player.play(1)
    calls = Counter(recorder.calls)
    whole: list[float] = []
    parts: dict[str, list[float]] = {}
    layers: dict[Convolution, list[float]] = {convolution: [] for convolution in calls}
    for _ in range(ROUNDS):
        player.play(1)  # the round before ended with something else in the caches
        whole.append(_seconds(lambda: player.play(steps), now) / steps)
        if network is not None:
            clock = PartClock(now)
            with watch_parts(network, clock.on_change):
                player.play(steps)
            for part, seconds in clock.stop().items():
                parts.setdefault(part, []).append(seconds / steps)
        for convolution, seconds_of in layers.items():
            seconds_of.append(_isolated_seconds(convolution, device, now))
    return NetworkSpeed(
        seconds=statistics.median(whole),
        parts={part: statistics.median(seconds) for part, seconds in parts.items()},
        multiply_adds=counter.get_total_flops() // 2,
        layers=tuple(LayerSpeed(c, calls[c], statistics.median(seconds)) for c, seconds in layers.items()),
        peak_memory_bytes=peak,
    )


@torch.inference_mode()
def _isolated_seconds(convolution: Convolution, device: torch.device, now: Callable[[], float]) -> float:
    call = convolution.prepare(device)
    call()
    repeats = math.ceil(SLICE_SECONDS / max(_seconds(call, now), SLICE_SECONDS / 1000))

    def repeat() -> None:
        for _ in range(repeats):
            call()

    return _seconds(repeat, now) / repeats


def _seconds(work: Callable[[], object], now: Callable[[], float]) -> float:
    started = now()
    work()
    return now() - started
