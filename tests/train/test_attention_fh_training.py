"""Training of Attention-FH: what a recipe needs, both phases, and a loop that resumes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support.tiny_networks import ATTENTION_FH_FORMS
from tests.train.test_people import DATA, find, folder  # noqa: F401 - folder is a fixture
from tests.train.test_people import RECIPE as PEOPLE
from vidsr.errors import UsageError
from vidsr.models.registry import build
from vidsr.nets.attention_fh.boxes import sequential_actions
from vidsr.nets.attention_fh.network import AttentionFH
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.data import Batch
from vidsr.train.degrade import degrade_bi
from vidsr.train.loop import task_of, train, train_step
from vidsr.train.policy import local_loss
from vidsr.train.recipe import AdversarialConfig, FacesConfig, OptimizationConfig, PolicyConfig, load_recipe
from vidsr.train.trainer import TrainOptions

CPU = torch.device("cpu")
RECIPE = replace(
    PEOPLE, architecture="attention-fh", network=ATTENTION_FH_FORMS["fast"], references=None,
    faces=FacesConfig(holdout_people=1, face_side=(16.0, 24.0)), policy=PolicyConfig(sequences=2),
    data=replace(DATA, frames=1, batch=2, burn_in_share=0.0),
    optimisation=OptimizationConfig(steps=4, fusion_steps=2, learning_rate=2e-3, warmup_steps=1, validate_every=2),
)  # fmt: skip


def tiny_network() -> AttentionFH:
    torch.manual_seed(0)
    network = build("attention-fh", RECIPE.network)
    assert isinstance(network, AttentionFH)
    return network


@pytest.mark.parametrize("pretraining", [True, False])
def test_both_phases_lower_the_error_in_the_boxes(pretraining: bool) -> None:
    """Measured in the same boxes before and after; faces that are too dark are quickly learned."""
    network = tiny_network()
    optimizer = torch.optim.Adam(network.parameters(), lr=6e-3)
    random = torch.Generator().manual_seed(1)
    truth = torch.nn.functional.interpolate(torch.rand(2, 3, 8, 8, generator=random), scale_factor=4.0)
    batch = Batch(0.5 * degrade_bi(truth)[:, None], truth[:, None], 0)
    same = [sequential_actions(2, number, network.config) for number in range(network.config.steps)]

    @torch.no_grad()
    def error() -> float:
        return float(local_loss(network.steps(batch.low[:, 0], same), 2 * truth - 1))

    before = error()
    found = [train_step(network, batch, optimizer, RECIPE, CPU, pretraining) for _ in range(10)]
    assert error() < 0.6 * before
    assert all(parts["policy"] == 0 for parts in found) is pretraining
    assert set(found[0]) == {"total", "local", "policy", "reward", "gradient_norm"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": None}, r"\[policy\]"),
        ({"faces": None}, r"\[faces\]"),
        ({"adversarial": AdversarialConfig()}, r"\[adversarial\]"),
        ({"data": replace(RECIPE.data, burn_in_share=0.1)}, "burn-in"),
    ],
)
def test_what_a_recipe_cannot_have_is_refused(change: dict[str, object], words: str) -> None:
    network = tiny_network()
    with pytest.raises(UsageError, match=words):
        task_of(network).check(network, replace(RECIPE, **change))  # type: ignore[arg-type]


def test_a_training_resumes_where_it_ended(
    folder: Path,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through both phases; with validation on a person that was held out."""
    monkeypatch.setattr("vidsr.train.loop.find_faces", find)
    whole, parts = tmp_path / "whole" / "run", tmp_path / "parts" / "run"
    train(RECIPE, TrainOptions(folder, whole, workers=0))
    for _ in range(4):
        train(RECIPE, TrainOptions(folder, parts, workers=0, stop_after_minutes=0.0))
    assert load_checkpoint(parts / "last.pt")["step"] == 4
    one, other = (load_checkpoint(each / "last.pt")["network"] for each in (whole, parts))
    assert all(torch.equal(one[name], other[name]) for name in one)
    entries = [json.loads(line) for line in (whole / "log.jsonl").read_text().splitlines()]
    assert any({"gain", "gain_in_sequence"} <= entry.keys() for entry in entries)


@pytest.mark.parametrize("name", ["attention-fh", "attention-fh-fast"])
def test_the_recipes_fit_their_networks(name: str) -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "models" / "recipes" / f"{name}.toml")
    network = build(recipe.architecture, recipe.network)
    task_of(network).check(network, recipe)
    if name == "attention-fh-fast":
        assert sum(p.numel() for p in network.parameters()) == 275_889
