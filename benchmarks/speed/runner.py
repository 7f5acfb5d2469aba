"""Time of `vidsr upscale` relative to the network alone, and of `vidsr --help` relative to `import torch`.

    python -m benchmarks.speed [--model NAME] [--size WxH] [--frames N] [--runs N] [--json FILE]

The two sides of a ratio run in turn, so that other load affects both; the ratio is that of the medians. The command is
timed as a whole, from start to exit, and also by its own report, which excludes the start of the program. Network and
command process the same frames.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.common.clips import make_video, markdown, parse_size, vidsr_command
from vidsr.config import ComputeConfig, InputConfig
from vidsr.engines.select import build_engine, select
from vidsr.runtime.device import choose_device
from vidsr.types import Frame
from vidsr.video.reader import Reader

WARM_UP_FRAMES = 3


@dataclass(frozen=True)
class Comparison:
    """Seconds of two things, run in turn."""

    name: str
    seconds: list[float]
    against: str
    against_seconds: list[float]
    limit: float | None

    @property
    def ratio(self) -> float:
        return statistics.median(self.seconds) / statistics.median(self.against_seconds)

    def row(self) -> tuple[str, ...]:
        sides = [f"{statistics.median(side):.2f} s" for side in (self.seconds, self.against_seconds)]
        limit = "" if self.limit is None else f"{'within' if self.ratio <= self.limit else 'ABOVE'} {self.limit}"
        return self.name, sides[0], self.against, sides[1], f"{self.ratio:.2f}", limit


def command_seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def network_seconds(frames: list[Frame], compute: ComputeConfig) -> float:
    """Seconds of the engine alone, on frames that are on the device already, after a warm-up."""
    height, width = frames[0].image.shape[-2:]
    chosen = build_engine(select(compute, "upscale", height, width))
    device = torch.device(chosen.selection.device)
    run_engine(chosen.engine, frames[:WARM_UP_FRAMES])
    wait(device)
    started = time.perf_counter()
    assert run_engine(chosen.engine, frames) == len(frames)
    wait(device)
    return time.perf_counter() - started


def run_engine(engine, frames: list[Frame]) -> int:
    state = engine.init_state(*frames[0].image.shape[-2:])
    count = 0
    for frame in frames:
        ready, state = engine.step(frame, state)
        count += len(ready)
    return count + len(engine.flush(state))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the whole command against the network alone.")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--size", type=parse_size, default=(320, 180), metavar="WxH")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--runs", type=int, default=3, help="runs of each side; the medians are compared")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    width, height = options.size
    vidsr, compute = vidsr_command(), ComputeConfig(model=options.model, device=options.device)
    whole, inside, network, stages = [], [], [], []
    shown, imported = [], []
    with tempfile.TemporaryDirectory() as folder:
        video, result, report = (str(Path(folder, name)) for name in ("video.mp4", "result.mp4", "report.json"))
        make_video(Path(video), options.frames, width, height)
        upscale = [vidsr, "upscale", video, result, "-y", "-q", "--progress", "none", "--no-faces", "--report", report]
        upscale += ["--model", options.model, "--device", options.device]
        with Reader(Path(video), InputConfig(), choose_device(options.device)) as reader:
            frames = list(reader.frames())
        for _ in range(options.runs):
            whole.append(command_seconds(*upscale))
            (run,) = json.loads(Path(report).read_text())["runs"]
            inside.append(run["wall_seconds"])
            stages.append(run["stage_seconds"])
            network.append(network_seconds(frames, compute))
        for _ in range(2 * options.runs + 1):
            shown.append(command_seconds(vidsr, "--help"))
            imported.append(command_seconds(sys.executable, "-c", "import torch"))
    comparisons = [
        Comparison("vidsr upscale, from start to exit", whole, "network alone", network, 1.25),
        Comparison("the same without the start of the program", inside, "network alone", network, None),
        Comparison("vidsr --help", shown, "import torch", imported, 0.4),
    ]
    print(
        f"{width}x{height} to {4 * width}x{4 * height}, {options.frames} frames, {run['model']} on {run['device']} "
        f"({run['precision']}), {torch.get_num_threads()} threads, torch {torch.__version__}\n"
    )
    print(markdown(("what", "median", "against", "median", "ratio", "limit"), [each.row() for each in comparisons]))
    if options.json is not None:
        values = {
            "size": [width, height],
            "frames": options.frames,
            "model": run["model"],
            "device": run["device"],
            "precision": run["precision"],
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "comparisons": [asdict(each) | {"ratio": each.ratio} for each in comparisons],
            "stage_seconds": stages,
        }
        options.json.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
