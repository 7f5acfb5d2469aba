"""The authors' checkpoint as a model of the user's: read without running it, checked, written, found by name."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import tomllib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from tests.golden.test_zsm import PARITY, published_values
from vidsr.cli import app
from vidsr.engines.slowmo import SlowmoEngine
from vidsr.errors import ModelError, OutputError
from vidsr.models import importers as imported
from vidsr.models.cards import (
    ImportedCard,
    TrainedCard,
    find_card,
    list_cards,
    models_folder,
    own_models_folder,
    read_card,
    resolve_model,
)
from vidsr.models.importers import import_model
from vidsr.models.loading import load_network, verify
from vidsr.models.registry import build
from vidsr.nets.zsm.config import ZSMConfig
from vidsr.types import Frame

pytestmark = pytest.mark.usefixtures("two_threads")  # engines that overlap

SMALL = ZSMConfig(width=4, front_blocks=1, back_blocks=1, groups=2, state_width=4, upsampler_width=4)


def vidsr_cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without models."""
    for name in ("XDG_DATA_HOME", "HOME", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "user"))
    return own_models_folder()


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parity fixture's tensors under the authors' names."""
    shapes = json.loads((PARITY / "zsm_state_dict.json").read_text())
    path = tmp_path_factory.mktemp("authors") / "xiang2020_zsm.pth"
    torch.save({name: published_values(name, shape) for name, shape in shapes.items()}, path)
    return path


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """Stands for the published size, so that a test takes no second; its tensors."""
    monkeypatch.setattr(imported, "build", lambda name, arguments: build(name, arguments | dataclasses.asdict(SMALL)))
    torch.manual_seed(0)
    return dict(build("zsm", dataclasses.asdict(SMALL)).state_dict())


def test_the_published_checkpoint_becomes_a_model_that_computes_the_same(authors: Path, own_folder: Path) -> None:
    result = vidsr_cli("models", "import", "zsm", authors)
    assert result.exit_code == 0 and result.stdout == f"{own_folder / 'zsm.toml'}\n" and "GPL-3.0" in result.stderr
    assert sorted(path.name for path in own_folder.iterdir()) == ["zsm.golden.npz", "zsm.safetensors", "zsm.toml"]
    card = find_card(resolve_model("zsm"))
    assert isinstance(card, ImportedCard)
    assert card.origin == authors.name
    assert card.origin_sha256 == hashlib.sha256(authors.read_bytes()).hexdigest()
    assert "GPL-3.0" in card.licence and card == read_card(own_folder / "zsm.toml")
    network = load_network(card)
    values = torch.load(authors, weights_only=True)
    assert all(torch.equal(value, values[name]) for name, value in network.state_dict().items())
    engine = SlowmoEngine.of_network(network, "zsm", torch.device("cpu"), "fp32", window=4, lookahead=0, carry=False)
    with np.load(PARITY / "zsm_parity.npz") as stored:
        clip, expected = torch.from_numpy(stored["input"])[0], stored["output"][0]
    frames = [Frame(image, t, Fraction(1, 25), 1, t == 0) for t, image in enumerate(clip)]
    state, given = engine.init_state(16, 24), list[Frame]()
    for frame in frames:
        ready, state = engine.step(frame, state)
        given += ready
    given += engine.flush(state)
    results = torch.stack([frame.image for frame in given]).numpy()
    assert expected.min() < 0 or expected.max() > 1 or results.std() > 0.01
    assert results.shape == expected.shape and np.abs(results - expected.clip(0, 1)).max() < 1e-4
    listed = json.loads(vidsr_cli("models", "list", "--json").stdout)
    assert [model["trained"] for model in listed if model["name"] == "zsm"] == [True]
    assert "zsm: intact" in vidsr_cli("models", "verify", "zsm").stderr


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda tensors: tensors,
    "data parallel": lambda tensors: {f"module.{name}": value for name, value in tensors.items()},
    "state_dict": lambda tensors: {"state_dict": tensors, "epoch": 3},
    "params": lambda tensors: {"params": {f"module.{name}": value for name, value in tensors.items()}},
    "half": lambda tensors: {name: value.half() for name, value in tensors.items()},
    "shared": lambda tensors: dict(zip(tensors, _parts_of_one(list(tensors.values())), strict=True)),
}


def _parts_of_one(values: list[Tensor]) -> list[Tensor]:
    """Equal tensors that all lie in one storage."""
    row = torch.cat([value.flatten() for value in values])
    lengths = [value.numel() for value in values]
    return [part.view(value.shape) for part, value in zip(row.split(lengths), values, strict=True)]


@pytest.mark.parametrize("is_zip", [True, False], ids=["new format", "old format"])
@pytest.mark.parametrize("form", WRAPPED)
def test_a_checkpoint_in_any_wrapping(tmp_path: Path, small: dict[str, Tensor], form: str, is_zip: bool) -> None:
    torch.save(WRAPPED[form](small), tmp_path / "a.pth", _use_new_zipfile_serialization=is_zip)
    card = read_card(import_model("zsm", tmp_path / "a.pth", tmp_path / "models"))
    for name, value in load_network(card).state_dict().items():
        assert torch.equal(value, small[name].half().float() if form == "half" else small[name])


class Harmful:
    """What a pickle may do."""

    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        return os.mkdir, ("harm",)


FIRST = "conv_first.weight"
WRONG: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "a tensor too few": (lambda t: {k: v for k, v in t.items() if k != FIRST}, FIRST),
    "a tensor too many": (lambda t: t | {"extra": torch.zeros(1)}, "'extra'"),
    "another shape": (lambda t: t | {FIRST: torch.zeros(4, 3, 1, 1)}, r"\(4, 3, 1, 1\) instead of \(4, 3, 3, 3\)"),
    "not finite": (lambda t: t | {FIRST: torch.full((4, 3, 3, 3), float("nan"))}, "values that are not finite"),
    "no tensor": (lambda t: t | {"epoch": 3}, "'epoch', which is not a tensor"),
    "a number for a name": (lambda t: t | {3: torch.zeros(1)}, "'3'"),
    "a list": (lambda t: list(t.values()), "no named tensors"),
    "nothing": (lambda t: {}, "no named tensors"),
    "code": (lambda t: t | {FIRST: Harmful()}, "not a PyTorch checkpoint"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_another_file_is_refused_in_one_sentence(
    tmp_path: Path, small: dict[str, Tensor], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    change, reason = WRONG[fault]
    torch.save(change(small), "a.pth")
    with pytest.raises(ModelError, match=reason) as refusal:
        import_model("zsm", Path("a.pth"), Path("models"))
    assert "\n" not in str(refusal.value) and "a.pth" in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"], "no code ran and nothing was written"


@pytest.mark.parametrize("content", [b"", b"nothing of torch's\n" * 30, b"PK\x03\x04" + bytes(500), b"\x80\x02}q\x00."])
def test_what_is_no_checkpoint(tmp_path: Path, own_folder: Path, content: bytes) -> None:
    (tmp_path / "a.pth").write_bytes(content)
    result = vidsr_cli("models", "import", "zsm", tmp_path / "a.pth")
    assert (result.exit_code, result.stdout) == (5, "") and "a.pth" in result.stderr.replace("\n", "")
    assert not own_folder.exists()


def test_a_file_that_is_not_there_and_a_model_that_is_not_released(tmp_path: Path) -> None:
    assert vidsr_cli("models", "import", "zsm", tmp_path / "none.pth").exit_code == 5
    assert vidsr_cli("models", "import", "zsm", tmp_path).exit_code == 5
    with pytest.raises(ModelError, match="known are zsm"):
        import_model("secnet", tmp_path / "none.pth", tmp_path)


def test_an_earlier_import_is_replaced_only_if_asked(tmp_path: Path, small: dict[str, Tensor]) -> None:
    torch.save(small, tmp_path / "a.pth")
    path = import_model("zsm", tmp_path / "a.pth", tmp_path / "models")
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    torch.save({name: value * 0.5 for name, value in small.items()}, tmp_path / "b.pth")
    with pytest.raises(OutputError, match="exists already"):
        import_model("zsm", tmp_path / "b.pth", path.parent)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
    import_model("zsm", tmp_path / "b.pth", path.parent, overwrite=True)
    assert read_card(path).origin == "b.pth" and verify(read_card(path)) == 0
    assert {file.name for file in path.parent.iterdir()} == set(before)


def test_a_folder_of_ones_own_choice(tmp_path: Path, small: dict[str, Tensor], own_folder: Path) -> None:
    torch.save(small, tmp_path / "a.pth")
    result = vidsr_cli("models", "import", "zsm", tmp_path / "a.pth", "--output", tmp_path / "here")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'here' / 'zsm.toml'}\n")
    assert not own_folder.exists() and resolve_model("zsm") == "zsm"
    shown = json.loads(vidsr_cli("models", "show", result.stdout.strip(), "--json").stdout)
    assert shown["origin"] == "a.pth" and shown["parameters"]["total"] == sum(x.numel() for x in small.values())
    blocked = vidsr_cli("models", "import", "zsm", tmp_path / "a.pth", "--output", tmp_path / "a.pth")
    assert blocked.exit_code == 4


def test_without_weights_the_message_says_how_to_get_them(tmp_path: Path) -> None:
    (tmp_path / "in.mp4").touch()
    with pytest.raises(ModelError, match=r"vidsr train .*zsm\.toml.* or import .*vidsr models import zsm FILE"):
        find_card("zsm")
    with pytest.raises(ModelError, match="vidsr train") as refusal:
        find_card("secnet")
    assert "import" not in str(refusal.value)
    assert vidsr_cli("models", "verify", "zsm").exit_code == 5


def test_a_users_model_stands_for_a_shipped_one_of_its_name(own_folder: Path) -> None:
    assert resolve_model("secnet-fast") == "secnet-fast"
    shutil.copytree(models_folder(), own_folder)
    own_card = own_folder / "secnet-fast.toml"
    own_card.write_text(own_card.read_text().replace('summary = "', 'summary = "mine: '))
    assert resolve_model("secnet-fast") == str(own_card)
    assert resolve_model(str(own_card)) == str(own_card) and resolve_model("../models/secnet-fast")[:2] == ".."
    listed = json.loads(vidsr_cli("models", "list", "--json").stdout)
    assert [model["summary"][:5] for model in listed if model["name"] == "secnet-fast"] == ["mine:"]


def test_a_shipped_card_must_say_how_it_was_trained(
    tmp_path: Path, small: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert all(isinstance(card, TrainedCard) for card in list_cards())
    torch.save(small, tmp_path / "a.pth")
    path = import_model("zsm", tmp_path / "a.pth", tmp_path / "models")
    monkeypatch.setattr("vidsr.models.cards.models_folder", lambda: path.parent)
    with pytest.raises(ModelError, match="does not say how it was trained"):
        list_cards()


@pytest.mark.parametrize("name", ["origin_sha256", "licence", "sha256"])
def test_an_imported_card_without_one_field_is_refused(tmp_path: Path, small: dict[str, Tensor], name: str) -> None:
    torch.save(small, tmp_path / "a.pth")
    path = import_model("zsm", tmp_path / "a.pth", tmp_path / "models")
    assert name in tomllib.loads(path.read_text())
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{name} =")]
    path.write_text("\n".join(lines))
    with pytest.raises(ModelError, match=f"is incomplete: '{name}' is missing"):
        read_card(path)
