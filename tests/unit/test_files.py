"""Atomic writes: a complete file under its name, or nothing left behind and an existing file unchanged."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vidsr import files
from vidsr.errors import DeviceError, OutputError
from vidsr.files import HiddenFile, _is_locked_from_the_start, atomic_write, check_target, remove_stale_files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_has_its_name_only_when_the_block_has_ended(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    with atomic_write(target, overwrite=False) as hidden:
        assert hidden.parent == tmp_path and hidden.name.startswith(".a.") and hidden.suffix == ".json"
        hidden.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new" and names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (OSError(28, "No space left on device"), OutputError),
        (MemoryError(), DeviceError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (ValueError("a defect"), ValueError),
    ],
)
@pytest.mark.parametrize("before", [None, b"precious"])
def test_a_failure_leaves_nothing_and_what_was_there(
    tmp_path: Path, error: BaseException, raised: type[BaseException], before: bytes | None
) -> None:
    target = tmp_path / "a.bin"
    if before is not None:
        target.write_bytes(before)
    with pytest.raises(raised), atomic_write(target, overwrite=True) as hidden:
        hidden.write_bytes(b"half")
        raise error
    assert names(tmp_path) == ([] if before is None else ["a.bin"])
    assert before is None or target.read_bytes() == before


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_at_the_end_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    target = tmp_path / "a.bin"
    target.write_bytes(b"precious")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), fail)
    with (
        pytest.raises(OutputError, match="the disk reports an error"),
        atomic_write(target, overwrite=True) as hidden,
    ):
        hidden.write_bytes(b"new")
    assert names(tmp_path) == ["a.bin"] and target.read_bytes() == b"precious"


def test_the_file_is_on_the_disk_before_it_has_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, synced = tmp_path / "a.bin", []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append((stat.S_ISDIR(os.fstat(number).st_mode), names())))

    def names() -> bool:
        return target.exists()

    with atomic_write(target, overwrite=False) as hidden:
        hidden.write_bytes(b"new")
    assert synced == [(False, False), (True, True)]
    synced.clear()
    with atomic_write(target, overwrite=True, sync=False) as hidden:
        hidden.write_bytes(b"newer")
    assert synced == [] and target.read_bytes() == b"newer"


def test_a_target_that_appears_meanwhile_is_untouched(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with pytest.raises(OutputError, match="has appeared"), atomic_write(target, overwrite=False) as hidden:
        hidden.write_bytes(b"new")
        target.write_bytes(b"precious")
    assert names(tmp_path) == ["a.bin"] and target.read_bytes() == b"precious"


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").write_bytes(b"")
    with atomic_write(tmp_path / "a.bin", overwrite=False) as hidden:
        hidden.write_bytes(b"new")
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("name", ["a" * 240 + ".toolongasuffix", "a." + "b" * 250, "ü" * 125 + ".mp4"])
def test_names_of_the_greatest_length(tmp_path: Path, name: str) -> None:
    with atomic_write(check_target(tmp_path / name, None, False), overwrite=False) as hidden:
        hidden.write_bytes(b"new")
    assert names(tmp_path) == [name]


def test_a_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with (
        pytest.raises(OutputError, match="its folder does not exist"),
        atomic_write(tmp_path / "no" / "a", overwrite=True),
    ):
        raise AssertionError("the block runs only if the file can be written")


def test_a_hidden_file_is_not_there_before_it_is_entered(tmp_path: Path) -> None:
    hidden = HiddenFile(tmp_path / "a.bin", overwrite=False)
    assert names(tmp_path) == []
    with hidden:
        assert names(tmp_path) == [hidden.path.name]
    assert names(tmp_path) == []


# ------------------------------------------------------------------------------------------------------- stale files

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from vidsr.files import HiddenFile
with HiddenFile(Path(sys.argv[1]), overwrite=False) as hidden:
    if sys.argv[2] != "kill before a byte is written":
        hidden.path.write_bytes(b"half")
    if sys.argv[2] == "wait":
        print("ready", flush=True)
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def process(target: Path, how: str) -> subprocess.Popen[str]:
    call = [sys.executable, "-c", KILLED, str(target), how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(call, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("name", ["a.mp4", "noending", "a b.tar.gz", ".hidden.mkv", "\udcff\n.mp4", "x" * 200 + ".mov"])
def test_the_file_of_a_killed_process_is_removed(tmp_path: Path, name: str) -> None:
    with process(tmp_path / name, "kill") as killed:
        killed.wait()
    (left,) = tmp_path.iterdir()
    assert remove_stale_files(tmp_path) == [left]
    assert names(tmp_path) == []


@contextmanager
def locked_in_two_steps() -> Iterator[None]:
    """As where a file cannot be created without a name, for instance on macOS."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_nameless_file", lambda folder: None)
        yield


def test_an_empty_file_of_a_killed_process_is_removed_at_once_where_it_was_locked_at_birth(tmp_path: Path) -> None:
    if not _is_locked_from_the_start(tmp_path):
        pytest.skip("this system or file system creates no file without a name")
    with process(tmp_path / "a.mp4", "kill before a byte is written") as killed:
        killed.wait()
    (left,) = tmp_path.iterdir()
    assert left.stat().st_size == 0
    with locked_in_two_steps():
        assert remove_stale_files(tmp_path) == []
    assert remove_stale_files(tmp_path) == [left]


def test_the_file_is_the_same_where_it_is_locked_in_two_steps(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.json", overwrite=False) as hidden:
        hidden.write_text("one")
    with locked_in_two_steps(), atomic_write(tmp_path / "b.json", overwrite=False) as hidden:
        hidden.write_text("two")
        assert remove_stale_files(tmp_path) == []
    assert names(tmp_path) == ["a.json", "b.json"]
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "b.json").stat().st_mode


def test_the_file_of_a_living_process_stays(tmp_path: Path) -> None:
    with process(tmp_path / "a.mp4", "wait") as living:
        assert living.stdout is not None and living.stdout.readline() == "ready\n"
        with HiddenFile(tmp_path / "b.mp4", overwrite=False) as mine:  # of this process
            mine.path.write_bytes(b"half")
            assert remove_stale_files(tmp_path) == [] and len(names(tmp_path)) == 2
        living.communicate("")
    assert len(remove_stale_files(tmp_path)) == 1 and names(tmp_path) == []


@pytest.mark.leaves_hidden_files
def test_only_files_of_our_own_kind_are_removed(tmp_path: Path) -> None:
    kept = [".a.mp4", ".a.part.mp4", "a.0123456789ab.part.mp4", ".a.0123456789ag.part.mp4", ".a.0123456789ab.partial"]
    for name in kept:
        (tmp_path / name).write_bytes(b"yours")
    (tmp_path / ".a.0123456789ab.part.mkv").mkdir()
    (tmp_path / ".b.0123456789ab.part.mkv").symlink_to(tmp_path / ".a.mp4")
    (tmp_path / ".c.0123456789ab.part.mkv").touch()  # perhaps created this moment, and not locked yet
    before = names(tmp_path)
    with locked_in_two_steps():
        assert remove_stale_files(tmp_path) == [] and names(tmp_path) == before
    os.utime(tmp_path / ".c.0123456789ab.part.mkv", (0, 0))
    assert [path.name for path in remove_stale_files(tmp_path)] == [".c.0123456789ab.part.mkv"]
    assert remove_stale_files(tmp_path / "none") == []


def test_a_target_that_the_run_reads_is_refused(tmp_path: Path) -> None:
    """By any name: a hard link too."""
    (tmp_path / "weights").write_bytes(b"precious")
    (tmp_path / "b.json").hardlink_to(tmp_path / "weights")
    with pytest.raises(OutputError, match="reads"):
        check_target(tmp_path / "b.json", None, True, [tmp_path / "none", tmp_path / "weights"])
