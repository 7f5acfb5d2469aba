"""The recipes for tiny faces train from scratch on the face of samples/: what they learn lowers their losses.

Networks, samples, losses and rates are those of the recipes, and so are degradations and the detector that finds the
face; there are only fewer steps, and for Attention-FH fewer faces in each. A minute each on one core.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vidsr.models.cards import models_folder
from vidsr.models.registry import build
from vidsr.nets.base import Network
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.data import Batch
from vidsr.train.dataset import find_training_files
from vidsr.train.face_clips import FaceBatches
from vidsr.train.loop import task_of, train
from vidsr.train.people import find_faces, find_people
from vidsr.train.recipe import Recipe, load_recipe
from vidsr.train.trainer import TrainOptions

CPU = torch.device("cpu")
SAMPLE = Path(__file__).parents[2] / "samples" / "portrait_448x336_truth.mp4"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One clip of one person."""
    path = tmp_path / "data" / "person" / SAMPLE.name
    path.parent.mkdir(parents=True)
    shutil.copyfile(SAMPLE, path)
    return tmp_path / "data"


def shortened(name: str, steps: int, alone: int = 0, batch: int | None = None) -> Recipe:
    """A shipped recipe with so many steps, of which the first `alone` are its pretraining."""
    recipe = load_recipe(models_folder() / "recipes" / f"{name}.toml")
    settings = replace(recipe.optimisation, steps=steps, fusion_steps=alone, warmup_steps=2)
    return replace(recipe, optimisation=settings, data=replace(recipe.data, batch=batch or recipe.data.batch))


def trained(recipe: Recipe, folder: Path) -> tuple[Network, Network]:
    """The network before and after; its steps were done, and all its losses are finite."""
    torch.manual_seed(recipe.seed)
    before, after = (build(recipe.architecture, recipe.network).requires_grad_(False) for _ in range(2))
    path = train(recipe, TrainOptions(folder, folder.parent / "run", workers=0))
    log = [json.loads(line) for line in (path.parent / "log.jsonl").read_text().splitlines()]
    assert log[-1]["step"] == recipe.optimisation.steps and torch.isfinite(torch.tensor(log[-1]["total"]))
    after.load_state_dict(load_checkpoint(path)["network"])
    return before, after


def unseen(recipe: Recipe, folder: Path) -> Batch:
    """A batch that no step had, of clean faces."""
    cache = folder.parent / "frames"
    people = find_people(find_training_files(folder, (), of_people=True), "", cache, find_faces)
    assert len(people) == 1
    longer = replace(recipe.optimisation, steps=recipe.optimisation.steps + 1)
    return FaceBatches(replace(recipe, optimisation=longer, real=None), people, cache, None)[recipe.optimisation.steps]


def losses(network: Network, batch: Batch, recipe: Recipe, pretraining: bool = False) -> dict[str, float]:
    found = task_of(network).losses(network, batch, recipe, pretraining, None)
    return {name: float(value) for name, value in found.items()}


def test_mpenet_learns_the_face_and_its_landmarks(folder: Path) -> None:
    recipe = shortened("mpenet-fast", 22)
    networks, batch = trained(recipe, folder), unseen(recipe, folder)
    before, after = (losses(network, batch, recipe) for network in networks)
    assert after["final"] < 0.99 * before["final"] and after["heatmaps"] < 0.5 * before["heatmaps"]
    assert after["total"] < 0.7 * before["total"]


def test_attention_fh_learns_in_its_boxes(folder: Path) -> None:
    """Compared in the same random boxes; the reward is the gain over bicubic enlargement, and coverage."""
    recipe = shortened("attention-fh-fast", 66, alone=60, batch=4)
    networks, batch = trained(recipe, folder), unseen(recipe, folder)
    before, after = (losses(network, batch, recipe, pretraining=True) for network in networks)
    assert after["local"] < 0.95 * before["local"] and after["reward"] > before["reward"] + 0.1
