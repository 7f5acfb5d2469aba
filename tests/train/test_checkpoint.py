"""Checkpoint files: complete or absent, and code in them never runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from vidsr.errors import InputError, OutputError
from vidsr.train.checkpoint import load_checkpoint, save_checkpoint


def test_a_damaged_checkpoint_is_an_input_error(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last.pt", {"recipe": {}, "network": {"weight": torch.rand(1000)}})
    good = (tmp_path / "last.pt").read_bytes()
    for content in (b"", b"no checkpoint at all", good[: len(good) // 2], good[:700]):
        (tmp_path / "last.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"last\.pt"):
            load_checkpoint(tmp_path / "last.pt")
    torch.save([1, 2], tmp_path / "last.pt")
    with pytest.raises(InputError, match="is not a checkpoint of vidsr"):
        load_checkpoint(tmp_path / "last.pt")


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "bang"),)

    torch.save({"recipe": Bomb()}, tmp_path / "bomb.pt")
    with pytest.raises(InputError, match=r"bomb\.pt"):
        load_checkpoint(tmp_path / "bomb.pt")
    assert not (tmp_path / "bang").exists()


@pytest.mark.parametrize("error", [RuntimeError("disk full"), OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_checkpoint_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "deep" / "last.pt"
    save_checkpoint(path, {"recipe": {}, "step": 1})

    def half(_: object, target: Path) -> None:
        target.write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", half)
        with pytest.raises(KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else OutputError):
            save_checkpoint(path, {"recipe": {}, "step": 2})
    assert load_checkpoint(path) == {"recipe": {}, "step": 1}
    assert list(path.parent.iterdir()) == [path]
    save_checkpoint(path, {"recipe": {}, "step": 3})
    assert load_checkpoint(path)["step"] == 3
