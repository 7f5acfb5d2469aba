"""What keeping finished work costs: `vidsr upscale` in segments with a journal, against the same run in one piece.

    python -m benchmarks.speed.segments [--model NAME] [--size WxH] [--frames N] [--segment-frames N] [--pairs N]

The two run in turn as whole programs, in alternating order. Processor seconds (user and system) depend less on what
else the machine does than wall seconds, which contain waiting for the disk. Prints a Markdown table; the ratio is the
median of the ratios of the pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.common.clips import make_video, markdown, parse_size, vidsr_command

LIMIT = 1.03


def seconds(video: Path, result: Path, options: argparse.Namespace, is_kept: bool) -> tuple[float, float]:
    """Processor and wall seconds of one run."""
    command = [vidsr_command(), "upscale", str(video), str(result), "-y", "-q", "--progress", "none", "--no-faces"]
    command += ["--model", options.model, "--segment-frames", str(options.segment_frames)]
    command.append("--resume" if is_kept else "--no-resume")
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"vidsr upscale ended with exit code {child.returncode}")
    return usage.ru_utime + usage.ru_stime, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of segments and the journal.")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--size", type=parse_size, default=(96, 64), metavar="WxH")
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--segment-frames", type=int, default=250)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    width, height = options.size
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        video, result = Path(folder, "video.mp4"), Path(folder, "result.mp4")
        make_video(video, options.frames, width, height)
        for number in range(options.pairs):
            order = (False, True) if number % 2 else (True, False)
            found = {is_kept: seconds(video, result, options, is_kept) for is_kept in order}
            pairs.append((found[True], found[False]))
    rows = []
    ratios = {}
    for index, name in enumerate(("processor", "wall")):
        kept, whole = ([pair[side][index] for pair in pairs] for side in (0, 1))
        ratios[name] = statistics.median(a / b for a, b in zip(kept, whole, strict=True))
        spread = [f"{a / b:.3f}" for a, b in zip(kept, whole, strict=True)]
        verdict = "within" if ratios[name] <= LIMIT else "ABOVE"
        rows.append((
            f"{name} seconds", f"{statistics.median(kept):.2f}", f"{statistics.median(whole):.2f}",
            f"{ratios[name]:.3f}", ", ".join(spread), f"{verdict} {LIMIT}",
        ))  # fmt: skip
    print(f"{width}x{height}, {options.frames} frames, segments of {options.segment_frames}, {options.model}\n")
    print(markdown(("", "in segments", "in one piece", "ratio", "pairs", "limit"), rows))
    if options.json is not None:
        options.json.write_text(json.dumps({"pairs": pairs, "ratios": ratios, "limit": LIMIT}, indent=2) + "\n")


if __name__ == "__main__":
    main()
