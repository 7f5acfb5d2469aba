"""Several videos at once: the same results, failures that stay with their video, and clean ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

import vidsr
from tests.support import media
from vidsr.cli import app
from vidsr.config import ComputeConfig, SizeConfig, UpscaleConfig
from vidsr.errors import DeviceError, UsageError
from vidsr.pipeline.batch import BatchReport, Jobs, Outcome, find_jobs
from vidsr.pipeline.plan import Plan
from vidsr.pipeline.run import Progress
from vidsr.pipeline.workers import Watcher, divide_threads, run_parallel
from vidsr.types import RunReport

ROOT = Path(__file__).parents[2]
FAST = ("--model", "bicubic", "--scale", "1", "--threads", "1")


def test_two_at_once_make_what_one_makes(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    (folder / "inner").mkdir(parents=True)
    for name, count in (("a.mp4", 4), ("inner/c.mp4", 3)):
        media.clip(folder / name, count)
    (folder / "b.mp4").write_text("no video")
    results = {}
    for jobs in ("1", "2"):
        arguments = [folder, tmp_path / jobs, "--recursive", *FAST, "--jobs", jobs, "--progress", "json"]
        results[jobs] = CliRunner().invoke(app, ["upscale", *map(str, arguments)])
        assert results[jobs].exit_code == 3
    for name in ("a.mp4", "inner/c.mp4"):
        one, two = (media.ffmpeg_framemd5(tmp_path / jobs / name) for jobs in ("1", "2"))
        assert one.frames == two.frames and one.times == two.times
    events = [json.loads(line) for line in results["2"].stderr.splitlines()]
    assert "2 at once, each with 1 thread and " in events[0]["text"]
    files = {event["input"]: event["status"] for event in events if event["event"] == "file"}
    assert files == {
        str(folder / "a.mp4"): "done", str(folder / "b.mp4"): "failed", str(folder / "inner/c.mp4"): "done",
    }  # fmt: skip
    (end,) = (event for event in events if event["event"] == "end")
    assert (end["files"], end["files_done"], end["files_failed"], end["exit_code"]) == (3, 2, 1, 3)
    assert sorted(results["2"].stdout.splitlines()) == [str(tmp_path / "2" / name) for name in ("a.mp4", "inner/c.mp4")]


def test_the_library_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos, seen = [tmp_path / "a.mkv", tmp_path / "b.mkv"], list[Progress]()
    report = RunReport("a", "b", "none", None, "cpu", "fp32")

    def pretend(
        jobs: Jobs, options: UpscaleConfig, processes: int, watcher: Watcher, skip: object
    ) -> Iterator[Outcome[RunReport]]:
        assert (processes, options.size.scale, [source for source, _ in jobs.pairs]) == (2, 2, videos)
        watcher.progressed(videos[0], Progress(1, 2, 0.5), 1)
        yield Outcome(videos[1], tmp_path, report)
        yield Outcome(videos[0], tmp_path, error=DeviceError("no memory"))

    monkeypatch.setattr(vidsr.pipeline.workers, "run_parallel", pretend)
    batch = vidsr.upscale(videos, tmp_path / "out", model="bicubic", scale=2, jobs=2, on_progress=seen.append)
    assert isinstance(batch, BatchReport) and (batch.exit_code, batch.reports) == (6, (report,))
    assert seen == [Progress(1, 2, 0.5)]
    with pytest.raises(UsageError, match="--jobs must be from 1 to 64, not 65"):
        vidsr.upscale(videos, tmp_path / "out", jobs=65)


class Killer:
    """Kills the only process when the first frame of `victim` is done."""

    def __init__(self, victim: Path) -> None:
        self.victim, self.seen = victim, list[Path]()

    def started(self, source: Path, plan: Plan) -> None:
        self.seen.append(source)

    def progressed(self, source: Path, progress: Progress, memory_bytes: int) -> None:
        assert memory_bytes > 0
        if source == self.victim:
            (process,) = multiprocessing.active_children()
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)


def test_a_process_that_is_killed_takes_only_its_video_along(tmp_path: Path) -> None:
    first, second = media.clip(tmp_path / "a.mkv", 300), media.clip(tmp_path / "b.mkv", 3)
    options = UpscaleConfig(size=SizeConfig(scale=8), compute=ComputeConfig(model="bicubic"))
    jobs, killer = find_jobs([first, second], tmp_path / "out"), Killer(first)
    lost, done = run_parallel(jobs, options, 1, killer)
    assert isinstance(lost.error, DeviceError) and "was killed" in str(lost.error) and lost.source == first
    assert done.result is not None and done.result.frames_out == 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.mkv"] and killer.seen == [first, second]
    assert multiprocessing.active_children() == []


def test_threads_are_divided_unless_they_are_given() -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    assert divide_threads(0, 1) == cores
    assert divide_threads(0, 2 * cores) == 1
    assert divide_threads(3, 8) == 3


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL], ids=lambda sent: sent.name)
def test_all_processes_end_with_the_program(tmp_path: Path, sent: signal.Signals) -> None:
    (tmp_path / "videos").mkdir()
    source, out = media.clip(tmp_path / "videos" / "a.mkv", 400), tmp_path / "out"
    (source.parent / "b.mkv").write_bytes(source.read_bytes())
    arguments = [
        "upscale",
        source.parent,
        out,
        "--model",
        "bicubic",
        "--scale",
        "8",
        "--jobs",
        "2",
        "--progress",
        "json",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "vidsr", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stderr is not None
        running = set[str]()
        while len(running) < 2:
            event = json.loads(process.stderr.readline())
            if event.get("frames_done"):
                running.add(event["input"])
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(sent)
        _, stderr = process.communicate()
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert len(gone) >= 2 and alive == []
    assert not out.exists() or list(out.iterdir()) == []
    if sent == signal.SIGTERM:
        assert process.returncode == 143 and not out.exists()
        assert json.loads(stderr.splitlines()[-1])["text"] == "interrupted: no unfinished output was kept"
        assert "0 of 2 videos were done before the interruption" in stderr
