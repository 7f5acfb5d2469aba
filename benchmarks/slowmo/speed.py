"""Speed of `vidsr slowmo --scale 4` compared with a two-stage baseline, its redundant work, and its speed on a GPU.

    python -m benchmarks.slowmo.speed [--model NAME] [--size WxH] [--frames N] [--runs N] [--cores N] [--json FILE]

End to end on the CPU: a video of 160x90 becomes 640x360 with twice the frames, by `vidsr slowmo --keep-duration`, and
by ffmpeg's minterpolate into a lossless file that `vidsr upscale` with secnet-fast then enlarges. Both make a video of
50 frames/s with the input's duration. `vidsr slowmo` without the option is timed too; it shows each frame twice as
long: for that x264 writes 1.4 times the bytes at the same crf, which takes time. All run in turn on the same cores, as
whole programs from start to exit. The seconds per output frame are compared, because minterpolate makes two frames
fewer.

Operations: multiply-adds per output frame of the engine on an endless video, over those of the network alone, which
computes each feature, alignment and step once.

With CUDA: output frames per second and peak memory of the engine, on frames that are on the device already, for Vid4's
size and for 1080p, compared with the published forward pass in float32 (torch's default): separate windows of 4 input
frames that overlap by one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path

import imageio_ffmpeg
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common.clips import make_video, markdown, parse_size, vidsr_command
from benchmarks.slowmo.baselines import MINTERPOLATE
from benchmarks.slowmo.published_forward import PlainZoomingSlowMo, is_published
from benchmarks.speed.rival import processor_seconds
from benchmarks.speed.runner import command_seconds, wait
from vidsr.engines.slowmo import SlowmoEngine
from vidsr.models.cards import Preset, list_presets
from vidsr.models.loading import multiply_adds_per_pixel
from vidsr.models.registry import build
from vidsr.nets.zsm.config import WINDOW
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.runtime.device import choose_precision
from vidsr.types import Frame

WANTED_RATIO, MAX_OPERATIONS, WANTED_GPU_RATIO = 1.0, 1.15, 3.0
PLAIN = "published forward, fp32"
CPU = torch.device("cpu")
OPERATIONS_SIDE = 32  # pixels; the counts per pixel do not depend on it
GPU_SIZES = {"Vid4": (180, 144), "1080p": (480, 270)}  # of the input frames
GPU_FRAMES = 1 + 8 * (WINDOW - 1)


@dataclass(frozen=True)
class Side:
    """One system: its output frames, elapsed seconds and processor seconds, for each run."""

    name: str
    frames: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    processors: list[float] = field(default_factory=list)

    @property
    def seconds_per_frame(self) -> float:
        return statistics.median(self.seconds) / self.frames[0]

    def row(self, ours: Side) -> tuple[str, ...]:
        processors = statistics.median(self.processors) / self.frames[0]
        figures = (f"{1 / self.seconds_per_frame:.2f}", f"{self.seconds_per_frame:.3f}", f"{processors:.3f}")
        return self.name, str(self.frames[0]), *figures, f"{self.seconds_per_frame / ours.seconds_per_frame:.2f}"


def end_to_end(model: str, size: tuple[int, int], frames: int, runs: int, cores: int) -> list[Side]:
    """Times `vidsr slowmo --keep-duration`, `vidsr slowmo`, and the two-stage baseline, in this order."""
    with tempfile.TemporaryDirectory() as folder:
        video, result, middle, report = (Path(folder, name) for name in ("a.mp4", "b.mp4", "c.mkv", "d.json"))
        make_video(video, frames, *size)
        vidsr, common = vidsr_command(), ["-y", "-q", "--progress", "none", "--scale", "4", "--report", str(report)]
        common += ["--device", "cpu", "--threads", str(cores)]
        slow = [vidsr, "slowmo", str(video), str(result), "--interp", "2", "--model", model, *common]
        ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-i", str(video), "-vf", MINTERPOLATE]
        ffmpeg += ["-c:v", "ffv1", str(middle)]
        two = [vidsr, "upscale", str(middle), str(result), "--model", "secnet-fast", "--no-faces", *common]
        ways = {
            f"vidsr slowmo --keep-duration, {model}": [[*slow, "--keep-duration"]],
            f"vidsr slowmo, {model}": [slow],
            "minterpolate=mci, then vidsr upscale, secnet-fast": [ffmpeg, two],
        }
        sides = [Side(name) for name in ways]
        for _ in range(runs):
            for side, commands in zip(sides, ways.values(), strict=True):
                used = processor_seconds()
                side.seconds.append(sum(command_seconds(*command) for command in commands))
                side.processors.append(processor_seconds() - used)
                side.frames.append(json.loads(report.read_text())["runs"][0]["frames_out"])
    return sides


def presets() -> list[Preset]:
    """The zsm presets, trained or not: speed does not depend on the weights."""
    return [preset for preset in list_presets() if preset.architecture == "zsm"]


def fresh(preset: Preset) -> ZoomingSlowMo:
    network = build(preset.architecture, preset.network)
    assert isinstance(network, ZoomingSlowMo)
    return network.eval().requires_grad_(False)


def streamed_operations(network: ZoomingSlowMo, name: str) -> float:
    """Multiply-adds per input pixel and output frame of an endless video, from two videos that differ by one window."""
    engine, counts = SlowmoEngine.of_network(network, name, CPU, "fp32", is_overlapped=False), []
    for frames in (4 * WINDOW, 5 * WINDOW - 1):
        clip = list(torch.zeros(frames, 3, OPERATIONS_SIDE, OPERATIONS_SIDE))
        with FlopCounterMode(display=False) as counter:
            run_engine(engine, clip)
        counts.append(counter.get_total_flops() / 2)
    return (counts[1] - counts[0]) / (2 * (WINDOW - 1)) / OPERATIONS_SIDE**2


def run_engine(engine: SlowmoEngine, clip: list[torch.Tensor]) -> int:
    """Runs the engine on a video of these images without keeping the results; returns their number."""
    state, count = engine.init_state(*clip[0].shape[1:]), 0
    for index, image in enumerate(clip):
        ready, state = engine.step(Frame(image, index, Fraction(1, 25), 1, index == 0), state)
        count += len(ready)
    return count + len(engine.flush(state))


@dataclass(frozen=True)
class GpuSide:
    """Seconds of each run of one system for `frames` results, and its peak memory on the device."""

    name: str
    frames: int
    seconds: list[float]
    peak_bytes: int

    @property
    def rate(self) -> float:
        return self.frames / statistics.median(self.seconds)


def on_gpu(size: tuple[int, int], runs: int, device: torch.device) -> list[GpuSide]:
    """Times the engine with each preset and the published forward pass, in turn, after one warm-up run."""
    width, height = size
    precision = choose_precision("auto", device)
    clip = torch.rand(GPU_FRAMES, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
    ways: dict[str, Callable[[], int]] = {}
    for preset in presets():
        network = fresh(preset)
        engine = SlowmoEngine.of_network(network, preset.name, device, precision)
        ways[f"{preset.name}, engine, {precision}"] = partial(run_engine, engine, list(clip))
        if is_published(network):
            ways[f"{preset.name}, {PLAIN}"] = partial(run_windows, PlainZoomingSlowMo(network, device), clip)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    peaks, frames = {}, {}
    for turn in range(runs + 1):
        for name, way in ways.items():
            wait(device)
            torch.cuda.reset_peak_memory_stats(device)
            started = time.perf_counter()
            frames[name] = way()
            wait(device)
            peaks[name] = torch.cuda.max_memory_allocated(device)
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return [GpuSide(name, frames[name], seconds[name], peaks[name]) for name in ways]


def run_windows(plain: PlainZoomingSlowMo, clip: torch.Tensor) -> int:
    """Runs the network on windows of WINDOW input frames that overlap by one; returns the number of results."""
    starts = range(0, len(clip) - 1, WINDOW - 1)
    return 1 + sum(len(plain(clip[start : start + WINDOW])) - 1 for start in starts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="zsm-fast")
    parser.add_argument("--size", type=parse_size, default=(160, 90), metavar="WxH")
    parser.add_argument("--frames", type=int, default=100, help="length of the input")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side; the medians are compared")
    parser.add_argument("--cores", type=int, default=2, help="all sides get these many cores, the same ones")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    # Before anything computes: the programs started from here inherit both.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    os.environ["OMP_NUM_THREADS"] = str(options.cores)
    torch.set_num_threads(options.cores)
    width, height = options.size
    try:
        sides = end_to_end(options.model, options.size, options.frames, options.runs, options.cores)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{' '.join(error.cmd)} ended with exit code {error.returncode}") from error
    print(
        f"{width}x{height} to {4 * width}x{4 * height}, {options.frames} input frames, {options.cores} cores, medians "
        f"of {options.runs} runs in turn; wanted: at least {WANTED_RATIO:g} times as fast\n"
    )
    columns = ("end to end", "frames", "frames/s", "s/frame", "processor s/frame", "--keep-duration is faster by")
    print(markdown(columns, [side.row(sides[0]) for side in sides]) + "\n")
    operations = {p.name: (streamed_operations(fresh(p), p.name), multiply_adds_per_pixel(fresh(p))) for p in presets()}
    columns = ("multiply-adds per input pixel and output frame", "engine", "network alone", "ratio", "limit")
    rows = []
    for name, (streamed, alone) in operations.items():
        verdict = f"{'within' if streamed / alone <= MAX_OPERATIONS else 'ABOVE'} {MAX_OPERATIONS}"
        rows.append((name, f"{streamed:,.0f}", f"{alone:,.0f}", f"{streamed / alone:.3f}", verdict))
    print(markdown(columns, rows) + "\n")
    on_device: dict[str, list[GpuSide]] = {}
    if torch.cuda.is_available():
        device = torch.device("cuda")
        on_device = {label: on_gpu(size, options.runs, device) for label, size in GPU_SIZES.items()}
        print(f"{torch.cuda.get_device_name(device)}; wanted: at least {WANTED_GPU_RATIO:g} times the plain rate\n")
        rows = []
        for label, row in on_device.items():
            (plain,) = (side.rate for side in row if side.name.endswith(PLAIN))
            for side in row:
                memory = f"{side.peak_bytes / 2**20:.0f} MiB"
                rows.append((label, side.name, f"{side.rate:.1f}", memory, f"{side.rate / plain:.2f}"))
        print(markdown(("size", "way", "output frames/s", "peak memory", "times the plain rate"), rows))
    else:
        print("torch finds no CUDA device: the comparison on a GPU is left out.")
    if options.json is not None:
        values = {
            "size": [width, height],
            "cores": options.cores,
            "torch": torch.__version__,
            "end_to_end": [asdict(side) | {"seconds_per_frame": side.seconds_per_frame} for side in sides],
            "operations": {name: {"engine": o[0], "network": o[1]} for name, o in operations.items()},
            "gpu": {label: [asdict(side) | {"rate": side.rate} for side in row] for label, row in on_device.items()},
        }
        options.json.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
