"""Peak memory of `vidsr upscale` or `vidsr slowmo` for a short and a long video, which must not grow with the length.

    python -m benchmarks.speed.memory [--command upscale|slowmo] [--faces] [--resume] [--model NAME] [--size WxH]
        [--frames SHORT LONG] [--json FILE]

Prints a Markdown table, and on stderr the peak so far for every 5 % of a run. With `--faces` the video shows a face
that moves, and goes and comes, so that tracks end and begin. Linux and macOS only: the peak is the kernel's figure for
the child process.
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

from benchmarks.common.clips import make_face_video, make_video, markdown, parse_size, vidsr_command

LIMIT = 1.05


def peak_bytes(video: Path, result: Path, options: argparse.Namespace, frames: int) -> int:
    """Runs the command in a separate process and returns its peak resident memory in bytes."""
    command = [vidsr_command(), options.command, str(video), str(result), "-y", "--progress", "json"]
    command += ["--model", options.model, "--resume" if options.resume else "--no-resume"]
    if options.command == "upscale":
        command.append("--faces" if options.faces else "--no-faces")
    # A child's figure starts at what its parent had at the fork, so nothing large may be loaded in this process.
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    shown = 0
    for line in child.stderr:
        event = json.loads(line)
        if event["event"] != "progress":
            print(event.get("text", ""), file=sys.stderr)
        elif event["frames_done"] >= shown:
            done, peak = event["frames_done"], event["memory_bytes"]
            print(f"{done} frames: {peak / 2**20:.1f} MiB", file=sys.stderr, flush=True)
            shown = done + frames // 20
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"vidsr {options.command} ended with exit code {child.returncode}")
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description="Peak memory against the length of the video.")
    parser.add_argument("--command", choices=("upscale", "slowmo"), default="upscale")
    parser.add_argument("--faces", action="store_true", help="with a face, and restored")
    parser.add_argument("--resume", action="store_true", help="in segments that are kept")
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
            make = make_face_video if options.faces else make_video
            make(Path(folder, f"{frames}.mp4"), frames, width, height)
        for _ in range(options.runs):
            for frames, found in peaks.items():
                found.append(peak_bytes(Path(folder, f"{frames}.mp4"), Path(folder, "result.mp4"), options, frames))
    short, long = (statistics.median(found) for found in peaks.values())
    ratio = long / short
    rows = [
        (f"{frames}", f"{statistics.median(found) / 2**20:.0f} MiB", ", ".join(f"{peak / 2**20:.0f}" for peak in found))
        for frames, found in peaks.items()
    ]
    verdict = "within" if ratio <= LIMIT else "ABOVE"
    what = (
        f"`vidsr {options.command} --model {options.model}`{', faces' * options.faces}{', resumable' * options.resume}"
    )
    print(f"{what}, {width}x{height}, peak resident memory of the process\n")
    print(markdown(("frames", "median", "runs (MiB)"), [*rows, ("ratio", f"{ratio:.3f}", f"{verdict} {LIMIT}")]))
    if options.json is not None:
        values = {
            "command": options.command, "model": options.model, "faces": options.faces, "resume": options.resume,
            "size": [width, height], "peak_bytes": peaks, "ratio": ratio, "limit": LIMIT,
        }  # fmt: skip
        options.json.write_text(json.dumps(values, indent=2) + "\n")


if __name__ == "__main__":
    main()
