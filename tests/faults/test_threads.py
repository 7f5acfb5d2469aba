"""A real limit on processes and threads: one sentence, exit code 6, no crash of a library, nothing left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import media
from vidsr.runtime.threads import THREADS_BESIDE

pytestmark = pytest.mark.slow

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
# Version 1 of control groups has a tree for each controller, version 2 one tree for all.
TREES = (Path("/sys/fs/cgroup/pids"), Path("/sys/fs/cgroup"))
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def limited() -> Iterator[Run]:
    """Runs vidsr in a control group that allows a number of threads; skips where no such group can be made."""
    group = None
    for tree in TREES:
        candidate = tree / f"vidsr-test-{os.getpid()}"
        try:
            candidate.mkdir()
            (candidate / "pids.max").write_text("max")
        except OSError:
            if candidate.is_dir():
                candidate.rmdir()
            continue
        group = candidate
        break
    if group is None:
        pytest.skip("no control group that limits processes can be made here (needs root and the pids controller)")

    def run(count: int, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        (group / "pids.max").write_text(str(count))

        def enter() -> None:
            (group / "cgroup.procs").write_text(str(os.getpid()))

        command = [sys.executable, "-m", "vidsr", *map(str, arguments)]
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=300, preexec_fn=enter, env=environment
        )

    try:
        yield run
    finally:
        group.rmdir()


def refused(done: subprocess.CompletedProcess[str], out: Path) -> None:
    assert done.returncode == 6, done
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: the system allows no more threads: raise the limit") and "--pids-limit" in line
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("count", [1, CORES + THREADS_BESIDE])
@pytest.mark.parametrize("command", ["info", "upscale", "slowmo"])
def test_too_few_threads_for_what_is_loaded(tmp_path: Path, limited: Run, command: str, count: int) -> None:
    """With the main thread, one more than the second count is needed."""
    source, out = media.clip(tmp_path / "a.mp4", 3), tmp_path / "out"
    out.mkdir()
    refused(limited(count, command, source, *([] if command == "info" else [out / "b.mp4"])), out)


def test_more_threads_wanted_than_the_system_allows(tmp_path: Path, limited: Run) -> None:
    """OpenMP would end the process in the middle of the run."""
    source, out = media.clip(tmp_path / "a.mp4", 3), tmp_path / "out"
    out.mkdir()
    few = CORES + THREADS_BESIDE + 4
    options = ("--model", "bicubic", "--scale", "1", "--threads", str(few + 8))
    refused(limited(few, "upscale", source, out / "b.mp4", *options), out)


def test_enough_threads(tmp_path: Path, limited: Run) -> None:
    """The encoder has more threads than there are cores."""
    source, target = media.clip(tmp_path / "a.mp4", 3), tmp_path / "b.mp4"
    done = limited(4 * CORES + THREADS_BESIDE, "upscale", source, target, "--threads", "1")
    assert done.returncode == 0, done.stderr
    assert target.is_file()
