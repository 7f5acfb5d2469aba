"""The facts about the training on a published card."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner, Result

from tests.support.tiny_networks import SLOWMO_FORMS, slowmo_network
from vidsr.cli import app
from vidsr.errors import DeviceError, UsageError
from vidsr.models.cards import TrainedCard, models_folder, read_card
from vidsr.runtime.device import choose_precision
from vidsr.train.checkpoint import save_checkpoint
from vidsr.train.publish import Provenance, package_commit, provenance_of, publish_model
from vidsr.train.recipe import load_recipe

SHIPPED = models_folder() / "recipes" / "zsm-fast.toml"
RECIPE = replace(load_recipe(SHIPPED), name="tiny", network=SLOWMO_FORMS["fast"])
PROVENANCE = Provenance("MIT", "clips of a canal", "CC0", "one core")


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def repository(folder: Path) -> str:
    """A repository with one file; its commit."""
    folder.mkdir(exist_ok=True)
    git(folder, "init", "-q")
    (folder / "file").write_text("a")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "best.pt"
    average = slowmo_network("fast").state_dict()
    save_checkpoint(path, {"recipe": {"name": "tiny"}, "average": average, "step": 7})
    return path


def test_the_card_states_the_provenance(checkpoint: Path, tmp_path: Path) -> None:
    card = read_card(publish_model(RECIPE, tmp_path / "mine.toml", checkpoint, tmp_path / "out", PROVENANCE))
    assert isinstance(card, TrainedCard)
    assert (card.licence, card.data, card.data_licences, card.hardware) == (
        "MIT",
        "clips of a canal",
        "CC0",
        "one core",
    )
    assert (card.recipe, card.steps, card.seed, dict(card.metrics)) == ("mine.toml", 7, RECIPE.seed, {})
    shipped = read_card(publish_model(RECIPE, SHIPPED, checkpoint, tmp_path / "out", PROVENANCE))
    assert isinstance(shipped, TrainedCard) and shipped.recipe == "recipes/zsm-fast.toml"


def test_the_card_ends_with_its_metrics(checkpoint: Path, tmp_path: Path) -> None:
    """Benchmarks write their figures at its end (`--write-card`)."""
    path = publish_model(RECIPE, tmp_path / "mine.toml", checkpoint, tmp_path / "out", PROVENANCE)
    assert path.read_text().endswith("[metrics]\n")
    path.write_text(path.read_text() + "vid4_bi_psnr_y = 1.5\n")
    card = read_card(path)
    assert isinstance(card, TrainedCard) and dict(card.metrics) == {"vid4_bi_psnr_y": 1.5}


def test_the_commit_is_never_that_of_the_users_folder(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stranger = repository(tmp_path / "stranger")
    monkeypatch.chdir(tmp_path / "stranger")
    card = read_card(publish_model(RECIPE, SHIPPED, checkpoint, tmp_path / "out", PROVENANCE))
    assert isinstance(card, TrainedCard) and stranger not in card.recipe_commit


def test_the_commit_of_a_package(tmp_path: Path) -> None:
    commit = repository(tmp_path / "checkout")
    package = tmp_path / "checkout" / "vidsr"
    assert package_commit(package) == commit
    (tmp_path / "checkout" / "file").write_text("b")
    assert package_commit(package) == f"{commit}-dirty"
    assert package_commit(tmp_path / "checkout" / "site-packages" / "vidsr") == "unknown"
    assert package_commit(tmp_path / "elsewhere" / "vidsr") == "unknown"


def test_without_git_the_commit_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path / "checkout")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert package_commit(tmp_path / "checkout" / "vidsr") == "unknown"


def test_the_hardware_is_the_device_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = ("MIT", "clips", "CC0")
    on_cpu = provenance_of(RECIPE, tmp_path, "cpu", *values).hardware
    is_native = choose_precision("auto", torch.device("cpu")) == "bf16"
    assert f"{torch.get_num_threads()} threads" in on_cpu and on_cpu.endswith("bf16" if is_native else "fp32")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card {device.index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7 + device.index, 0))
    assert provenance_of(RECIPE, tmp_path, "cuda:0", *values).hardware == "Card 0, fp32"
    assert provenance_of(RECIPE, tmp_path, "cuda:1", *values).hardware == "Card 1, bf16"
    with pytest.raises(DeviceError, match="device 'cuda:2' is not available"):
        provenance_of(RECIPE, tmp_path, "cuda:2", *values)


def test_only_an_index_states_the_licenses_of_the_data(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="card needs --data-licences: "):
        provenance_of(RECIPE, tmp_path, "cpu", "MIT", "clips", None)
    (tmp_path / "index.json").write_text("[]")
    assert provenance_of(RECIPE, tmp_path, "cpu", "MIT", "clips", None).data_licences == "classes A and B"
    assert provenance_of(RECIPE, tmp_path, "cpu", "MIT", "clips", "CC0").data_licences == "CC0"


def train(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["train", *(str(argument) for argument in arguments)])


def test_missing_facts_are_refused_before_any_work(tmp_path: Path) -> None:
    common = (SHIPPED, "--data", tmp_path, "--output", tmp_path / "run")
    result = train(*common, "--publish", tmp_path / "out", "--licence", "MIT")
    assert result.exit_code == 2
    assert "card needs --data-name and --data-licences" in result.stderr
    for option in ("--licence", "--data-name", "--data-licences"):
        result = train(*common, option, "x")
        assert result.exit_code == 2 and "have no effect without --publish" in result.stderr
    assert not (tmp_path / "run").exists() and not (tmp_path / "out").exists()
