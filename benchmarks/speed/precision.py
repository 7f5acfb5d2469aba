"""Time, deviation and memory of a network by precision, memory layout and compilation.

    python -m benchmarks.speed.precision [--model NAME] [--device D] [--size WxH] [--frames N] [--runs N] [--no-compile]
                                         [--json FILE]

The variants run in turn, so that other load affects all of them; a ratio is that of the medians, against float32 in
torch's default layout, uncompiled. The network runs whole clips; the rows "engine" are the streaming engine that users
run. Deviation: PSNR of the result against the float32 result, and the change of PSNR against the truth, on a synthetic
moving clip. Memory: on a CPU the peak resident memory of a separate process and the part that the run added (Linux
only), on CUDA torch's peak on the card. A variant that the device does not support shows the reason.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.common.clips import markdown, parse_size
from benchmarks.speed.variants import Enlarge, Variant, build, variants
from vidsr.config import ComputeConfig
from vidsr.engines.select import select_card
from vidsr.errors import VidsrError
from vidsr.evaluation.metrics import SCALE, decibels
from vidsr.models.loading import load_network
from vidsr.nets.secnet.network import SECNet
from vidsr.runtime.device import choose_device
from vidsr.train.degrade import degrade_bi

# A variant this many times slower than float32 (fp16 on most CPUs) is timed once and not again.
HOPELESS = 10.0


@dataclass
class Figures:
    """The figures of a variant; `failure` is the reason if it did not run, `start_seconds` loading and compiling."""

    name: str
    start_seconds: float = 0.0
    seconds_per_frame: list[float] = field(default_factory=list)
    ratio: float | None = None
    psnr_to_fp32: float | None = None
    psnr_change: float | None = None
    peak_bytes: int | None = None
    run_bytes: int | None = None
    failure: str = ""

    def row(self) -> tuple[str, ...]:
        if self.failure:
            return self.name, *("–",) * 5, self.failure
        memory = "unknown" if self.peak_bytes is None else f"{self.peak_bytes / 2**20:.0f} MiB"
        if self.run_bytes is not None:
            memory += f" ({self.run_bytes / 2**20:+.0f})"
        note = f"first run {self.start_seconds:.0f} s" if self.start_seconds >= 10 else ""
        note += f"{', ' if note else ''}timed once" if len(self.seconds_per_frame) == 1 else ""
        median = f"{1000 * statistics.median(self.seconds_per_frame):.0f} ms"
        deviation = (f"{self.psnr_to_fp32:.1f}", f"{self.psnr_change:+.3f}")
        return self.name, median, f"{self.ratio:.2f}", *deviation, memory, note


def make_clip(frames: int, width: int, height: int) -> Tensor:
    """A synthetic truth, `frames` x 3 x 4 height x 4 width in 0..1: moving multi-scale texture and a disc in front."""
    generator = torch.Generator().manual_seed(1)
    tall, wide = SCALE * height, SCALE * width
    canvas = torch.zeros(1, 3, tall + 2 * frames, wide + 3 * frames)
    for cell in (2, 4, 8, 16, 32, 64):
        noise = torch.randn(1, 3, canvas.shape[2] // cell + 2, canvas.shape[3] // cell + 2, generator=generator)
        canvas += F.interpolate(noise, size=canvas.shape[2:], mode="bicubic") * cell**0.5 / 40
    canvas = (canvas + 0.5).clamp(0, 1)
    y, x = torch.meshgrid(torch.arange(tall), torch.arange(wide), indexing="ij")
    clip = []
    for t in range(frames):
        image = canvas[0, :, 2 * t : 2 * t + tall, 3 * t : 3 * t + wide]
        center = wide // 2 + 5 * t
        disc = (x - center) ** 2 + (y - tall // 2) ** 2 < (tall // 5) ** 2
        clip.append(torch.where(disc, 0.5 + 0.4 * torch.sin((x - center) / 3), image))
    return torch.stack(clip)


def psnr(result: Tensor, truth: Tensor) -> float:
    return decibels((result.double() - truth.double()).square().mean().item())


def timed(enlarge: Enlarge, low: Tensor) -> tuple[float, Tensor]:
    """Seconds for each frame of one run, and its result in 0..1 on the CPU."""
    if low.device.type == "cuda":
        torch.cuda.synchronize(low.device)
    started = time.perf_counter()
    result = enlarge(low)
    if low.device.type == "cuda":
        torch.cuda.synchronize(low.device)
    return (time.perf_counter() - started) / len(low), result.float().clamp(0, 1).cpu()


def measure(
    found: list[Variant], network: SECNet, compute: ComputeConfig, low: Tensor, truth: Tensor, runs: int
) -> list[Figures]:
    """Measures all variants, except memory on a CPU. The first one is the reference and must not fail."""
    figures, enlargers, reference = [Figures(variant.name) for variant in found], dict[str, Enlarge](), None
    fastest = 0.0
    for variant, figure in zip(found, figures, strict=True):
        say(f"starting {variant.name}")
        if low.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(low.device)
        started = time.perf_counter()
        try:
            enlarge = build(variant, network, compute, low)
            enlarge(low)
            figure.start_seconds = time.perf_counter() - started
            seconds, result = timed(enlarge, low)
        except (RuntimeError, VidsrError) as error:  # a variant that this device lacks becomes a row with the reason
            if reference is None:
                raise
            figure.failure = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
            continue
        if low.device.type == "cuda":
            figure.peak_bytes = torch.cuda.max_memory_allocated(low.device)
        if reference is None:
            reference, fastest = result, seconds
        figure.psnr_to_fp32 = psnr(result, reference)
        figure.psnr_change = psnr(result, truth) - psnr(reference, truth)
        if seconds > HOPELESS * fastest:
            figure.seconds_per_frame.append(seconds)
        else:
            enlargers[variant.name] = enlarge
    for run in range(runs):
        say(f"run {run + 1} of {runs}")
        for figure in figures:
            if figure.name in enlargers:
                figure.seconds_per_frame.append(timed(enlargers[figure.name], low)[0])
    base = statistics.median(figures[0].seconds_per_frame)
    for figure in figures:
        if not figure.failure:
            figure.ratio = statistics.median(figure.seconds_per_frame) / base
    return figures


def resident_bytes() -> dict[str, int]:
    """Resident memory of this process (VmRSS) and its peak (VmHWM), in bytes; empty without /proc."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=parse_size, default=(320, 180), metavar="WxH")
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each variant; the medians are compared")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it needs a C++ compiler)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # for the subprocess whose memory is measured
    options = parser.parse_args()
    if options.frames < 1 or options.runs < 1:
        parser.error("--frames and --runs are 1 or more")
    compute = ComputeConfig(model=options.model, device=options.device)
    try:
        device, card = choose_device(options.device), select_card(options.model, "upscale")
        if card is None:
            parser.error("bicubic has no network: name a model")
        network = load_network(card)
    except VidsrError as error:
        parser.error(str(error))
    width, height = options.size
    truth = make_clip(options.frames, width, height)
    low = torch.cat([degrade_bi(frame[None]) for frame in truth]).to(device)
    found = variants(device, not options.no_compile)
    with torch.inference_mode():
        if options.memory_of:
            del truth
            report_memory(
                next(variant for variant in found if variant.name == options.memory_of), network, compute, low
            )
            return
        figures = measure(found, network, compute, low, truth, options.runs)
    if device.type == "cpu" and resident_bytes():
        for figure in figures:
            if not figure.failure:
                say(f"memory of {figure.name}")
                command = [sys.executable, "-m", "benchmarks.speed.precision", *sys.argv[1:]]
                command += ["--memory-of", figure.name]
                answer = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
                figure.peak_bytes, figure.run_bytes = answer["peak"], answer["peak"] - answer["idle"]
    print(
        f"{card.name} on {device}, {width}x{height} to {SCALE * width}x{SCALE * height}, {options.frames} frames, "
        f"{options.runs} runs, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    if device.type != "cuda":
        print("No CUDA device was used, so the rows of CUDA graphs and the memory of a card are absent.")
    head = (
        "variant",
        "time per frame",
        "ratio to fp32",
        "PSNR to fp32 (dB)",
        "PSNR change (dB)",
        "peak memory",
        "note",
    )
    print("\n" + markdown(head, [figure.row() for figure in figures]))
    if options.json:
        values = {"model": card.name, "device": str(device), "size": [width, height], "frames": options.frames}
        values |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
        options.json.write_text(json.dumps(values | {"variants": [asdict(each) for each in figures]}, indent=2) + "\n")


def report_memory(variant: Variant, network: SECNet, compute: ComputeConfig, low: Tensor) -> None:
    """Runs once in this process and prints the resident memory before and at its peak as JSON."""
    enlarge = build(variant, network, compute, low)
    idle = resident_bytes()["VmRSS"]
    enlarge(low)
    print(json.dumps({"idle": idle, "peak": resident_bytes()["VmHWM"]}))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
