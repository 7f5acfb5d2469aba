"""Faults while writing: existing targets, bad paths, full disks and killed processes leave no damage behind."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.support import media
from tests.support.writing import frames, steps, write
from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import CheckError, InputError, OutputError
from vidsr.types import Frame
from vidsr.video.output import plan_output
from vidsr.video.probe import probe
from vidsr.video.writer import Writer

# Writes frames until it is killed; prints a line after the first ten.
PROGRAM = """
import sys
from pathlib import Path
import torch
from vidsr.config import InputConfig, OutputConfig
from vidsr.types import Frame
from vidsr.types import Frame
from vidsr.video.probe import probe
from vidsr.video.output import plan_output
from vidsr.video.writer import Writer

torch.set_num_threads(1)
source = Path(sys.argv[1])
info = probe(source)
plan = plan_output(Path(sys.argv[2]), source, info, (64, 48), OutputConfig(codec="ffv1"), InputConfig())
with Writer(plan) as writer:
    for number in range(100_000):
        writer.write(Frame(torch.rand(3, 48, 64), number * 512, info.time_base))
        if number == 10:
            print("begun", flush=True)
"""


@pytest.fixture
def video(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return media.clip_with_audio(folder / "video.mp4")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "out"
    path.mkdir()
    return path


def open_writer(target: Path, video: Path, overwrite: bool = False) -> Writer:
    return Writer(plan_output(target, video, probe(video), (64, 48), OutputConfig(overwrite=overwrite), InputConfig()))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --------------------------------------------------------------------------------------------------- where it may go


def test_existing_target_is_refused_and_untouched(video: Path, folder: Path) -> None:
    target = folder / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(OutputError, match="already exists"):
        open_writer(target, video)
    assert target.read_bytes() == b"precious" and names(folder) == ["out.mp4"]


def test_overwrite_replaces_only_at_the_end(video: Path, folder: Path) -> None:
    target = folder / "out.mp4"
    target.write_bytes(b"precious")
    with open_writer(target, video, overwrite=True) as writer:
        for frame in frames(steps(video, 3), probe(video).time_base):
            writer.write(frame)
        assert target.read_bytes() == b"precious"
        writer.commit()
    assert len(media.ffmpeg_framemd5(target).frames) == 3


def test_target_that_appears_meanwhile_is_untouched(video: Path, folder: Path) -> None:
    target = folder / "out.mp4"
    with pytest.raises(OutputError, match="has appeared"), open_writer(target, video) as writer:
        for frame in frames(steps(video, 3), probe(video).time_base):
            writer.write(frame)
        target.write_bytes(b"precious")
        writer.commit()
    assert target.read_bytes() == b"precious" and names(folder) == ["out.mp4"]


def test_input_itself_is_refused_even_with_overwrite(video: Path) -> None:
    before = video.read_bytes()
    link = video.with_name("link.mp4")
    link.symlink_to(video)
    for name in (video, link, video.parent / ".." / video.parent.name / video.name):
        with pytest.raises(OutputError, match="the input itself"):
            open_writer(name, video, overwrite=True)
    assert video.read_bytes() == before


def test_places_that_are_none(video: Path, folder: Path) -> None:
    (folder / "file").write_bytes(b"")
    for target, words in [
        (folder / "missing" / "out.mp4", "does not exist"),
        (folder / "file" / "out.mp4", "does not exist"),
        (folder, "is a folder"),
        (Path("/dev/null"), "not a regular file"),
        (folder / ("x" * 300 + ".mp4"), "too long"),
    ]:
        with pytest.raises(OutputError, match=words) as caught, open_writer(target, video, overwrite=True):
            pass
        assert "\n" not in str(caught.value)
    assert names(folder) == ["file"]


def test_folder_that_is_not_writable(video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.chmod(0o555)
    if os.geteuid() == 0:  # permissions mean nothing to root, so the system's answer is given in its place
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    try:
        with pytest.raises(OutputError, match="not writable"):
            open_writer(folder / "out.mp4", video)
    finally:
        folder.chmod(0o755)
    assert names(folder) == []


@pytest.mark.parametrize(
    "name", ["-y.mp4", "two words.mp4", "a\"b'c.mp4", "日本 é.mp4", "a:b.mp4", "50%d.mp4", "A.MP4"]
)
def test_awkward_names(video: Path, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    write(Path(name), video, steps(video, 2))
    assert names(folder) == [name]


def test_name_of_the_greatest_length(video: Path, folder: Path) -> None:
    name = "ü" * 125 + ".mp4"
    write(folder / name, video, steps(video, 2))
    assert names(folder) == [name]


# ------------------------------------------------------------------------------------------------------ what is left


@pytest.mark.parametrize("count", [0, 1, 10])
@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_nothing_is_left_after_a_fault(video: Path, folder: Path, fault: type[BaseException], count: int) -> None:
    with pytest.raises(fault), open_writer(folder / "out.mp4", video) as writer:
        for frame in frames(steps(video, count), probe(video).time_base):
            writer.write(frame)
        raise fault
    assert names(folder) == []


def test_leaving_without_commit_leaves_nothing(video: Path, folder: Path) -> None:
    with open_writer(folder / "out.mp4", video) as writer:
        for frame in frames(steps(video, 5), probe(video).time_base):
            writer.write(frame)
    assert names(folder) == []


def test_unreadable_source_leaves_nothing(video: Path, folder: Path) -> None:
    info, gone = probe(video), video.with_name("gone.mp4")
    with (
        pytest.raises(InputError, match="does not exist"),
        Writer(plan_output(folder / "out.mp4", gone, info, (64, 48), OutputConfig(), InputConfig())),
    ):
        pass
    assert names(folder) == []


def test_failed_check_leaves_nothing(video: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = folder / "out.mp4"
    target.write_bytes(b"precious")
    with pytest.raises(CheckError) as caught, open_writer(target, video, overwrite=True) as writer:
        for frame in frames(steps(video, 5), probe(video).time_base):
            writer.write(frame)
        writer._times[2] += 1
        writer.commit()
    assert caught.value.exit_code == 7
    assert target.read_bytes() == b"precious" and names(folder) == ["out.mp4"]


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Every write beyond `size` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("codec", ["libx264", "ffv1"])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize("limit", [16, 5_000, 70_000, -10])
def test_full_disk(video: Path, folder: Path, codec: str, ending: str, limit: int) -> None:
    """Disk full at the header, in the first frames, later, and 10 bytes before the end of the file."""
    target = folder / f"out.{ending}"
    config = OutputConfig(codec=codec, overwrite=True, crf=1 if codec == "libx264" else None)
    noise = torch.rand(40, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    info = probe(video)

    def run() -> None:
        with Writer(plan_output(target, video, info, (64, 48), config, InputConfig())) as writer:
            for image, time in zip(noise, steps(video, 40), strict=True):
                writer.write(Frame(image, time, info.time_base))
            writer.commit()

    if limit < 0:
        run()
        limit += target.stat().st_size
    target.write_bytes(b"precious")
    with pytest.raises(OutputError, match="would exceed the size limit") as caught, largest_file(limit):
        run()
    assert caught.value.exit_code == 4 and "\n" not in str(caught.value)
    assert target.read_bytes() == b"precious" and names(folder) == [target.name]


@pytest.mark.leaves_hidden_files  # a killed process cannot remove its hidden file
def test_killed_process_leaves_no_file_under_the_name(video: Path, folder: Path) -> None:
    target = folder / "out.mp4"
    command = [sys.executable, "-c", PROGRAM, str(video), str(target)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not target.exists()
    (left,) = names(folder)
    assert left.startswith(".out.") and left.endswith(".mp4")
