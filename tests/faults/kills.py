"""Kills many runs of upscale and slowmo at random times, continues each until it is done, and compares the results.

    python -m tests.faults.kills [--kills 100] [--programs 10] [--seed 0] [--frames 24] [--keep FOLDER]

The networks are the shipped ones, with faces. SIGKILL, SIGTERM and SIGINT come after random numbers of processor
seconds, so that some jobs are killed several times and others not at all. The last `--programs` kills hit `python -m
vidsr`, started anew for each run; the others hit processes that were forked from one that has imported everything
(`tests/support/forking.py`), because importing takes longer than these runs. Compared with an unbroken run are times
and pixels of all frames, times and bytes of the audio's packets, and the report. Prints a Markdown table, after Ctrl-C
that of the jobs so far, and ends with 1 if anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.test_resume import contents, written_figures
from tests.support import media
from tests.support.forking import CODES, ENVIRONMENT, ROOT, Ended, Forker, stop_after

SAMPLE = ROOT / "samples" / "portrait_112x84.mp4"
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
# Latest moment of a kill, as a part of the processor seconds of an unbroken run. With faces, 16 frames are on their way
# at a border, so that runs of short videos take nearly as long after it as before; some have to come to their end.
LATEST = 1.2


@dataclass
class Command:
    """A command, the file name of its output, and what an unbroken run of it makes and takes."""

    name: str
    arguments: list[str]
    output: str
    wanted: Any = None
    figures: Any = None
    seconds: float = 0.0


@dataclass
class Row:
    """What happened to the jobs of one command."""

    kills: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    most_kills: int = 0
    continued: int = 0
    named: int = 0
    differences: list[str] = field(default_factory=list)


def make_videos(folder: Path, frames: int) -> None:
    """A face whose head moves, and moving stripes with repeated frames and a cut; both with audio."""
    audio = ("-f", "lavfi", "-i", f"sine=frequency=440:duration={frames / 25 - 0.1}")
    crop = "crop=52:40:22:3,format=yuv420p"
    media.ffmpeg(
        "-i", str(SAMPLE), *audio, "-frames:v", str(frames), "-vf", crop, "-c:v", "ffv1", "-c:a", "aac",
        str(folder / "face.mkv"),
    )  # fmt: skip
    moving = [media.numbered_image(n - n // 3, 52, 40, hue=0.5 * (n > frames // 2)) for n in range(frames)]
    media.encode(folder / "silent.mkv", moving, media.LOSSLESS)
    media.ffmpeg("-i", str(folder / "silent.mkv"), *audio, "-c:v", "copy", "-c:a", "aac", str(folder / "stripes.mkv"))


def commands(folder: Path) -> list[Command]:
    common = ["--device", "cpu", "--threads", "1", "--progress", "none", "--resume", "--segment-frames", "4"]
    up = ["upscale", str(folder / "face.mkv"), "--faces", *common]
    slow = ["slowmo", str(folder / "stripes.mkv"), *common]
    return [
        Command("upscale, faces, x264", up, "film.mp4"),
        Command("slowmo, x264", slow, "film.mp4"),
        Command("upscale, faces, FFV1", [*up, "--codec", "ffv1", "--pix-fmt", "yuv420p"], "film.mkv"),
        Command("slowmo, FFV1", [*slow, "--codec", "ffv1", "--pix-fmt", "yuv420p"], "film.mkv"),
    ]


class Killer:
    def __init__(self, forker: Forker, folder: Path, programs: int, seed: int) -> None:
        self._forker, self._folder, self._programs = forker, folder, programs
        self._chance = random.Random(seed)

    def run(self, command: Command, here: Path, left: int, kind: str | None) -> Ended:
        """Runs a command once, and kills it if a kind is given. `left` kills are to come."""
        given = [*command.arguments, str(here / command.output), "--report", str(here / "report.json"), "-y"]
        after = None if kind is None else self._chance.uniform(0, LATEST * command.seconds)
        if 0 < left <= self._programs:
            return run_program(given, after, kind or "SIGKILL")
        every = self._chance.random() < 0.7  # else only where it takes at most 2 % of the time
        return self._forker.run(*given, after=after, kind=kind or "SIGKILL", every_border=every)

    def job(self, command: Command, number: int, kills: int, row: Row) -> int:
        """Kills and continues one job until it is done; returns the number of kills."""
        here = self._folder / f"job-{number}"
        here.mkdir()
        output, report, done = here / command.output, here / "report.json", 0
        row.jobs += 1
        while True:
            kind = self._chance.choice(SIGNALS) if done < kills else None
            ended = self.run(command, here, kills - done, kind)
            if ended.code == 0:
                break
            # Before its handlers are set and after they are gone, Python ends by the signal itself: to a shell, this
            # is the same code.
            if kind is None or ended.code not in (CODES[kind], -getattr(signal, kind)):
                row.differences.append(f"job {number}: code {ended.code} after {kind}: {ended.said[-400:]}")
                return done
            row.kills[kind] += 1
            done += 1
            if output.exists():
                row.named += 1
                break
        if contents(output) != command.wanted:
            row.differences.append(f"job {number}: other frames, times or audio after {done} kills")
        if ended.code == 0:
            if written_figures(report) != command.figures:
                row.differences.append(f"job {number}: another report after {done} kills")
            if {path.name for path in here.iterdir()} != {output.name, report.name}:
                row.differences.append(f"job {number}: files are left")
            resumed = json.loads(report.read_text())["runs"][0]["resumed_frames"]
            row.continued += resumed > 0
        row.most_kills = max(row.most_kills, done)
        if not row.differences:
            shutil.rmtree(here)
        return done


def run_program(arguments: list[str], after: float | None, kind: str) -> Ended:
    """Runs `python -m vidsr`; `after` counts from the moment at which it says that work is kept."""
    program = subprocess.Popen(
        [sys.executable, "-m", "vidsr", *arguments], cwd=ROOT, env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stderr is not None
    lines, ended = [], threading.Event()
    for line in program.stderr:
        lines.append(line)
        if "finished work is kept" in line or "goes on after" in line:
            break
    watcher = threading.Thread(target=stop_after, args=(program.pid, after, kind, ended))
    if after is not None:
        watcher.start()
    said = program.stderr.read()
    ended.set()
    if after is not None:
        watcher.join()
    program.communicate()
    return Ended(program.returncode, "".join(lines) + said, 0, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description="Kills runs at random times, and continues them.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--programs", type=int, default=10, help="kills of programs that are started anew")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--frames", type=int, default=24, help="of each video")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="work there, and keep what differs")
    options = parser.parse_args()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = options.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        make_videos(folder, options.frames)
        planned = commands(folder)
        warm_ups = [(*each.arguments, "-q", "--end", "0.2", folder / f"warm-{n}.mkv") for n, each in enumerate(planned)]
        forker = stack.enter_context(Forker(*warm_ups))
        killer = Killer(forker, folder, options.programs, options.seed)
        for number, command in enumerate(planned):
            here = folder / f"unbroken-{number}"
            here.mkdir()
            ended = killer.run(command, here, 0, None)
            if ended.code:
                raise SystemExit(f"{command.name}: {ended.said}")
            command.wanted, command.figures = contents(here / command.output), written_figures(here / "report.json")
            command.seconds = ended.seconds
            print(f"{command.name}: {len(command.wanted[0])} frames, {ended.seconds:.1f} s", file=sys.stderr)
        rows = [Row() for _ in planned]
        left, number = options.kills, 0
        with suppress(KeyboardInterrupt):  # the table then shows the jobs so far
            while left:
                chosen = number % len(planned)
                left -= killer.job(planned[chosen], number, left, rows[chosen])
                number += 1
                print(f"job {number}: {left} kills left", file=sys.stderr, flush=True)
                if number > 20 * options.kills:
                    raise SystemExit("the runs end before they can be killed: use more --frames")
    show(planned, rows)


def show(planned: list[Command], rows: list[Row]) -> None:
    columns = ("command", "kills", *SIGNALS, "jobs", "most in one job", "continued", "named when killed", "different")
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for command, row in zip(planned, rows, strict=True):
        kills = [row.kills[kind] for kind in SIGNALS]
        figures = (sum(kills), *kills, row.jobs, row.most_kills, row.continued, row.named, len(row.differences))
        print(f"| {command.name} | " + " | ".join(map(str, figures)) + " |")
    for row in rows:
        for text in row.differences:
            print(text)
    if any(row.differences for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
