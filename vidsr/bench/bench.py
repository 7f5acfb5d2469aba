"""Benchmark of a model on this machine: the network alone, its convolutions in isolation, and a video end to end.

`convolutions.py` records and prepares the convolutions.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from vidsr.bench.convolutions import Convolution, ConvolutionRecorder, PartClock, device_clock, watch_parts
from vidsr.config import ComputeConfig, InputConfig, RestoreConfig, SizeConfig, UpscaleConfig
from vidsr.engines.base import Measurable
from vidsr.engines.select import DEFAULT_MODELS, build_engine, select_card
from vidsr.engines.tiled import TiledEngine
from vidsr.errors import UsageError
from vidsr.pipeline.plan import plan
from vidsr.pipeline.run import run
from vidsr.runtime.heap import keep_freed_memory
from vidsr.runtime.memory import peak_memory_bytes
from vidsr.runtime.threads import use_threads
from vidsr.types import Frame
from vidsr.video.reader import Reader
from vidsr.video.synthetic import write_synthetic_video

SCALE = 4
# Rounds in which network and convolutions are measured in turn, so that other load affects all of them alike.
ROUNDS = 5
# Frames of the video that the network gets in a loop, forward and backward.
CLIP_FRAMES = 8
# Steps before measuring, besides the look-ahead: they fill thread pools, caches and the temporal window.
WARM_UP = 8
# Seconds for which one convolution is repeated in each round.
SLICE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class LayerSpeed:
    """One shape of convolution: the number of calls per frame, and the seconds of one call in isolation."""

    convolution: Convolution
    calls: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """All fields and the multiply-adds of one call as plain values for JSON."""
        convolution = self.convolution
        return asdict(convolution) | {
            "dtype": str(convolution.dtype).removeprefix("torch."),
            "multiply_adds": convolution.multiply_adds,
            "calls": self.calls,
            "seconds": self.seconds,
        }


@dataclass(frozen=True, slots=True)
class NetworkSpeed:
    """Speed of the network alone, on frames that are on the device already. All seconds are medians per frame.

    `parts` are the network's children and "rest", measured in separate runs; empty for a model without a network.
    `multiply_adds` is torch's count for one frame. `layers` are the convolutions.
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
        """The sum of the seconds of all convolutions of one frame, each timed in isolation."""
        return sum(layer.calls * layer.seconds for layer in self.layers)

    @property
    def isolated_rate(self) -> float | None:
        """Multiply-adds per second of the convolutions in isolation; None without convolutions."""
        work = sum(layer.calls * layer.convolution.multiply_adds for layer in self.layers)
        return work / self.isolated_seconds if self.layers else None

    @property
    def isolated_fraction(self) -> float | None:
        """The network's rate as a fraction of the isolated rate; None without convolutions."""
        return None if self.isolated_rate is None else self.rate / self.isolated_rate


@dataclass(frozen=True, slots=True)
class BenchReport:
    """The result of `vidsr bench`. Sizes are (width, height). The `video_*` figures are those of the end-to-end run."""

    model: str
    device: str
    precision: str
    threads: int
    size: tuple[int, int]
    output_size: tuple[int, int]
    frames: int
    network: NetworkSpeed
    video_stage_seconds: Mapping[str, float]
    video_wall_seconds: float
    video_peak_memory_bytes: int

    def to_dict(self) -> dict[str, Any]:
        """All fields, the rates and the network's fraction of the isolated rate (`share`) as plain values for JSON."""
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
            "share": network.isolated_fraction,
            "film": {  # a public key, older than the term "video"
                "stage_seconds": dict(self.video_stage_seconds),
                "wall_seconds": self.video_wall_seconds,
                "frames_per_second": self.frames / self.video_wall_seconds,
                "peak_memory_bytes": self.video_peak_memory_bytes,
            },
        }  # fmt: skip


def bench(compute: ComputeConfig, size: tuple[int, int], frames: int) -> BenchReport:
    """Measures a model on a synthetic video of `frames` frames of `size` (width, height), in a temporary folder.

    Raises UsageError, ModelError or DeviceError as `enhance` does, and UsageError for sizes that H.264 cannot have.
    """
    if frames < ROUNDS:
        raise UsageError(f"{frames} frames are too few to measure: give {ROUNDS} or more")
    keep_freed_memory()  # as `enhance` does
    width, height = size
    if compute.model == "auto":  # by its frames, a synthetic video has no model of its own
        compute = replace(compute, model=DEFAULT_MODELS["upscale"])
    options = UpscaleConfig(size=SizeConfig(scale=SCALE), compute=compute, faces=RestoreConfig(use=False))
    select_card(compute.model, "upscale")  # an unknown model is refused before a video is made
    use_threads(compute.threads)
    with tempfile.TemporaryDirectory(prefix="vidsr-") as folder:
        video, result = Path(folder, "video.mp4"), Path(folder, "result.mp4")
        write_synthetic_video(video, frames, width, height)
        planned = plan(video, result, options)
        device = torch.device(planned.device)
        with Reader(video, InputConfig(), device, planned.info) as reader:
            clip = list(islice(reader.frames(), CLIP_FRAMES))
        network = measure_network(build_engine(planned.engine).engine, clip, frames // ROUNDS, device)
        report = run(planned)
    return BenchReport(
        model=planned.model, device=planned.device, precision=planned.precision,
        threads=torch.get_num_threads(), size=size, output_size=report.output_size, frames=report.frames_out,
        network=network, video_stage_seconds=report.stage_seconds, video_wall_seconds=report.wall_seconds,
        video_peak_memory_bytes=report.peak_memory_bytes,
    )  # fmt: skip


class _Player:
    """Runs an engine on the frames of a clip, endlessly forward and backward."""

    def __init__(self, engine: TiledEngine, clip: list[Frame]) -> None:
        self._engine, self._frames = engine, cycle(clip + clip[-2:0:-1])
        self._state = engine.init_state(*clip[0].image.shape[-2:])

    def play(self, steps: int) -> None:
        for frame in islice(self._frames, steps):
            _, self._state = self._engine.step(frame, self._state)


def measure_network(engine: TiledEngine, clip: list[Frame], steps: int, device: torch.device) -> NetworkSpeed:
    """Times the engine and each of its convolutions in turn, `steps` frames per round. `clip` is on the device."""
    now = device_clock(device)
    network = None
    if isinstance(engine.inner, Measurable):  # without a second thread, whose operations would not be recorded
        inner = engine.inner.without_overlap()
        assert isinstance(inner, Measurable), "an engine without overlap is of the same kind"
        engine, network = engine.around(inner), inner.network
    player = _Player(engine, clip)
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
        player.play(1)  # refills the caches after the convolutions of the round before
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
