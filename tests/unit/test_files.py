"""Atomic writes: a complete file under its name, or nothing left behind and an existing file unchanged."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from vidsr.errors import DeviceError, OutputError
from vidsr.files import HiddenFile, atomic_write, check_target


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
