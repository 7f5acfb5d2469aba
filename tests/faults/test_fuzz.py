"""Damaged files of every container, through whole commands: documented exit codes, no traceback, no hang, no leftovers.

The mutations are seeded, so a fault can be repeated: its message names the seed, and `mutated` makes the same file from
it. VIDSR_FUZZ_SECONDS=N mutates for N seconds, with seeds that the short run does not use.
"""

from __future__ import annotations

import faulthandler
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from tests.support import media
from vidsr.cli import app
from vidsr.errors import EXIT_CODES
from vidsr.video.probe import probe

FRAMES = 4
# Seconds of the processor that a run on such a tiny file may take, and seconds in which it must end although other
# programs use the processor. What does not return to Python ends the whole process a while later.
LIMIT = 20
STUCK = 300
HARD_LIMIT = 400
# Pixels from which on time is no hang: a damaged header may announce frames of any size, which are then computed.
LARGE = 4_000_000
STOPPED = -1  # in place of an exit code: stopped after LIMIT
SEEDS = 3  # of each container, in the short run
FIRST_LONG_SEED = 1_000_000

_AAC = ("-f", "lavfi", "-i", f"sine=440:duration={FRAMES / 25}", "-map", "0:v", "-map", "1:a")
_X264 = (*media.X264, "-bf", "1")


def _clip(*options: str, audio: str | None = None, rate: str = "25") -> Callable[[Path], Path]:
    sound = (*_AAC, "-c:a", audio) if audio else ()

    def make(path: Path) -> Path:
        return media.encode(path, media.numbered_images(FRAMES), (*sound, *options), rate)

    return make


def _subtitled(path: Path) -> Path:
    """Video, audio, a text and chapters."""
    text, chapters = path.with_name("lines.srt"), path.with_name("chapters.txt")
    text.write_text(media.SUBTITLES)
    chapters.write_text(media.CHAPTERS)
    inputs = (*_AAC[:4], "-i", f"file:{text}", "-i", f"file:{chapters}", "-map_metadata", "3", "-map", "0:v")
    maps = ("-map", "1:a", "-map", "2:s", "-c:s", "mov_text" if path.suffix == ".mp4" else "srt")
    media.encode(path, media.numbered_images(FRAMES), (*inputs, *maps, *_X264))
    text.unlink()
    chapters.unlink()
    return path


# One file of each container, most with audio, some with texts and chapters.
CONTAINERS: dict[str, Callable[[Path], Path]] = {
    "a.mp4": _subtitled,
    "b.mp4": _clip(*_X264, "-movflags", "frag_keyframe+empty_moov", audio="aac"),
    "a.mov": _clip("-c:v", "prores", audio="pcm_s16le"),
    "a.mkv": _subtitled,
    "a.webm": _clip("-c:v", "libvpx", "-b:v", "400k", "-cpu-used", "8", audio="libopus"),
    "a.avi": _clip("-c:v", "mpeg4", "-bf", "1", "-q:v", "3", audio="mp3"),
    "a.ts": _clip(*_X264, audio="aac"),
    "a.m2ts": _clip(*_X264, audio="ac3"),
    "a.mpg": _clip("-c:v", "mpeg2video", "-bf", "1", "-q:v", "3", audio="mp2"),
    "a.ogv": _clip("-c:v", "libtheora", "-q:v", "6", audio="libvorbis"),
    "a.flv": _clip("-c:v", "flv", "-q:v", "3", audio="mp3"),
    "a.gif": lambda path: media.animated_gif(path, FRAMES),
    "a.wmv": _clip("-c:v", "wmv2", "-q:v", "3", audio="wmav2"),
    "a.mxf": _clip("-c:v", "mpeg2video", "-q:v", "3"),
    "a.3gp": _clip("-c:v", "mpeg4", "-q:v", "3", audio="aac"),
    "a.nut": _clip("-c:v", "ffv1", audio="flac"),
    "a.y4m": _clip("-pix_fmt", "yuv420p"),
    "a.mjpeg": lambda path: media.with_exif(path.with_suffix(".mov"), 6, FRAMES).rename(path),
    "a.h264": _clip(*_X264, "-f", "h264"),
    "a.apng": _clip("-c:v", "apng"),
    "a.ivf": _clip("-c:v", "libvpx", "-b:v", "400k", "-cpu-used", "8"),
    "c.mp4": media.closed_captions,
}

COMMANDS: dict[str, Callable[[Path, Path], tuple[str | Path, ...]]] = {
    "upscale": lambda source, target: (source, target / "out.mkv", "--model", "bicubic", "--scale", "1"),
    "upscale to mp4": lambda source, target: (source, target / "out.mp4", "--model", "bicubic", "--scale", "1"),
    "slowmo": lambda source, target: (source, target / "out.mkv", "--end", "0.1"),
    "faces": lambda source, target: (source, "--json", target / "faces.json"),
}


def mutated(data: bytes, seed: int) -> bytes:
    """A copy of a file with one to three faults: flipped bits, ranges that are cut, repeated, moved or overwritten."""
    chance = random.Random(seed)
    damaged = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        fault = chance.choice(("bits", "bits", "header bits", "numbers", "end", "hole", "repeat", "zeros", "noise"))
        length = len(damaged)
        if length < 2:
            break
        at = chance.randrange(length)
        span = min(length - at, 1 << chance.randrange(13))
        if fault in ("bits", "header bits"):
            reach = length if fault == "bits" else min(length, 1024)
            for _ in range(1 << chance.randrange(6)):
                damaged[chance.randrange(reach)] ^= 1 << chance.randrange(8)
        elif fault == "numbers":  # extreme values where containers keep sizes, counts and times
            size = chance.choice((1, 2, 4, 8))
            extreme = chance.choice((0, 1, (1 << 8 * size - 1) - 1, 1 << 8 * size - 1, (1 << 8 * size) - 1))
            damaged[at : at + size] = extreme.to_bytes(size, chance.choice(("big", "little")))
        elif fault == "end":
            del damaged[at:]
        elif fault == "hole":
            del damaged[at : at + span]
        elif fault == "repeat":
            damaged[at:at] = damaged[at : at + span]
        else:
            damaged[at : at + span] = bytes(span) if fault == "zeros" else chance.randbytes(span)
    return bytes(damaged)


class _HangError(BaseException):
    """Not an Exception, so that no command takes it for a fault of the file."""


@contextmanager
def _alarm() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _HangError

    before = {number: signal.signal(number, stop) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(STUCK)
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    faulthandler.dump_traceback_later(HARD_LIMIT, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        for number, handler in before.items():
            signal.signal(number, handler)


class Run(NamedTuple):
    """A run's exit code, what is wrong with it (empty if nothing is), and the sentence that it ended with."""

    code: int
    fault: str
    sentence: str = ""


def run(command: str, source: Path, target: Path) -> Run:
    """Runs a command on a file."""
    target.mkdir()
    arguments = [command.split()[0], *(str(argument) for argument in COMMANDS[command](source, target))]
    try:
        with _alarm():
            result = CliRunner().invoke(app, arguments)
    except _HangError:
        shutil.rmtree(target)
        info = probe(source)
        is_large = info.width * info.height > LARGE
        return Run(
            STOPPED,
            "" if is_large else f"took more than {LIMIT} s of the processor, or {STUCK} s\n{traceback.format_exc()}",
        )
    code, faults = result.exit_code, []
    if code not in EXIT_CODES or code == 1:
        faults.append(f"exit code {code}: {result.exception!r}")
        faults += traceback.format_exception(result.exception) if result.exception else []
    if code == 7:
        faults.append(f"the result failed its check: {result.stderr}")
    if "Traceback" in result.stderr:
        faults.append(result.stderr)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    if code and len(lines) != 1:
        faults.append(f"exit code {code} without one sentence: {result.stderr!r}")
    left = sorted(path.name for path in target.iterdir())
    expected = [Path(arguments[-1] if command == "faces" else arguments[2]).name] if code == 0 else []
    if left != expected:
        faults.append(f"exit code {code} leaves {left}")
    shutil.rmtree(target)
    return Run(code, "\n".join(faults), " ".join(lines))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    return {name: make(folder / name).read_bytes() for name, make in CONTAINERS.items()}


def _checked(originals: dict[str, bytes], name: str, seed: int, folder: Path) -> tuple[str, Run]:
    """Mutates a file with a seed and runs the command that the seed chooses on it; its fault names command and seed."""
    command = random.Random(f"command {seed}").choice(list(COMMANDS))
    source = folder / name
    source.write_bytes(mutated(originals[name], seed))
    result = run(command, source, folder / "out")
    return command, result._replace(fault=result.fault and f"{command} of {name} with seed {seed}: {result.fault}")


WHOLE = [*((name, "upscale") for name in CONTAINERS), *(("a.mp4", command) for command in list(COMMANDS)[1:])]


@pytest.mark.parametrize(("name", "command"), WHOLE)
def test_whole_files_are_done(originals: dict[str, bytes], tmp_path: Path, name: str, command: str) -> None:
    """Otherwise the mutations would try nothing."""
    (tmp_path / name).write_bytes(originals[name])
    assert run(command, tmp_path / name, tmp_path / "out") == Run(0, "")


@pytest.mark.parametrize("name", CONTAINERS)
def test_damaged_files(originals: dict[str, bytes], tmp_path: Path, name: str) -> None:
    number = list(CONTAINERS).index(name)
    for seed in range(number, number + SEEDS):
        _, result = _checked(originals, name, seed, tmp_path)
        assert not result.fault, result.fault


@pytest.mark.skipif("VIDSR_FUZZ_SECONDS" not in os.environ, reason="runs for as long as VIDSR_FUZZ_SECONDS says")
def test_damaged_files_for_long(
    originals: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Prints how many runs ended with which exit code, and the sentence of each that names anything but its input.

    Fails with all faults at the end.
    """
    end = time.monotonic() + float(os.environ["VIDSR_FUZZ_SECONDS"])
    seed = int(os.environ.get("VIDSR_FUZZ_SEED", FIRST_LONG_SEED))
    codes: Counter[tuple[str, int]] = Counter()
    faults, sentences = [], []
    while time.monotonic() < end:
        for name in CONTAINERS:
            command, result = _checked(originals, name, seed, tmp_path)
            codes[command, result.code] += 1
            if result.fault:
                faults.append(result.fault)
            if result.code not in (0, 3):
                sentences.append(f"{command} of {name} with seed {seed}: {result.code}, {result.sentence}")
            seed += 1
    with capsys.disabled():
        print(f"\n{codes.total()} runs, {len(faults)} faults, seeds up to {seed - 1}")
        for (command, code), count in sorted(codes.items()):
            print(f"  {command}: exit code {code} {count} times")
        print("\n".join(sentences))
    assert not faults, "\n\n".join(faults)
