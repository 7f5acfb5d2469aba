"""Peak memory of `vidsr upscale` for a short and a long video, which must not grow with the length.

    python -m benchmarks.speed.memory [--model NAME] [--size WxH] [--frames SHORT LONG] [--json FILE]

Prints a Markdown table. Linux and macOS only: the peak is the kernel's figure for the child process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common.clips import make_video, markdown, parse_size, vidsr_command

LIMIT = 1.05


def peak_bytes(video: Path, result: Path, model: str) -> int:
    """Runs the command in a separate process and returns its peak resident memory in bytes."""
    command = [vidsr_command(), "upscale", str(video), str(result), "-y", "-q", "--progress", "none", "--no-faces"]
    command += ["--model", model]
    # A child's figure starts at what its parent had at the fork, so nothing large may be loaded in this process.
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"vidsr upscale ended with exit code {child.returncode}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory against the length of the video.")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--size", type=parse_size, default=(96, 64), metavar="WxH")
    parser.add_argument("--frames", type=int, nargs=2, default=(300, 3000), metavar=("SHORT", "LONG"))
    parser.add_argument("--runs", type=int, default=3, help="runs of each length; the medians are compared")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    width, height = options.size
    peaks: dict[int, list[int]] = {frames: [] for frames in options.frames}
    with tempfile.TemporaryDirectory() as folder:
        for frames in peaks:
            make_video(Path(folder, f"{frames}.mp4"), frames, width, height)
        for _ in range(options.runs):
            for frames, found in peaks.items():
                found.append(peak_bytes(Path(folder, f"{frames}.mp4"), Path(folder, "result.mp4"), options.model))
    short, long = (statistics.median(found) for found in peaks.values())
    ratio = long / short
    rows = [
        (f"{frames}", f"{statistics.median(found) / 2**20:.0f} MiB", ", ".join(f"{peak / 2**20:.0f}" for peak in found))
        for frames, found in peaks.items()
    ]
    verdict = "within" if ratio <= LIMIT else "ABOVE"
    print(f"`vidsr upscale --model {options.model}`, {width}x{height}, peak resident memory of the process\n")
    print(markdown(("frames", "median", "runs (MiB)"), [*rows, ("ratio", f"{ratio:.3f}", f"{verdict} {LIMIT}")]))
    if options.json is not None:
        values = {"model": options.model, "size": [width, height], "peak_bytes": peaks, "ratio": ratio, "limit": LIMIT}
        options.json.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
