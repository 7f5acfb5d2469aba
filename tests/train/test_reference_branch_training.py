"""Training of SECNet's branch of references: poses of samples, only the branch learns, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support.tiny_training_data import TINY_NETWORK
from tests.train.test_people import (  # noqa: F401 - two are fixtures
    DATA,
    RECIPE,
    REFERENCES,
    find,
    folder,
    people,
    person_of,
)
from vidsr.errors import UsageError
from vidsr.faces.alignment import UPRIGHT, mirrored_transform, similarity_between, transformed
from vidsr.models.registry import build
from vidsr.nets.layers.references import References
from vidsr.nets.secnet.references import pose_references
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.loop import task_of, train
from vidsr.train.people import Person, ReferenceBatches
from vidsr.train.recipe import OptimizationConfig, load_recipe
from vidsr.train.trainer import TrainOptions

NETWORK: dict[str, Any] = TINY_NETWORK | {"recurrent_width": 8, "reference_blocks": 1}
BRANCH = replace(
    RECIPE,
    architecture="secnet",
    network=NETWORK,
    data=replace(DATA, batch=2, frames=3, burn_in_share=0.5, burn_in_frames=2),
    references=replace(REFERENCES, canvas=40, branch_only=True),
    optimisation=OptimizationConfig(steps=2, learning_rate=1e-2, warmup_steps=1, validate_every=2),
)


def test_references_are_upright_and_poses_bring_them_to_every_frame(people: list[Person], tmp_path: Path) -> None:  # noqa: F811
    """Sampled through its pose, a photograph shows the same colors in the same place as the frame."""
    recipe = replace(BRANCH, references=replace(REFERENCES, canvas=40, stranger_share=0.0, none_share=0.0))
    made = ReferenceBatches(recipe, people, tmp_path, None)
    lengths = set()
    for index in range(8):
        batch = made[index]
        assert batch.references is not None and batch.poses is not None and batch.present is not None
        lengths.add(batch.poses.shape[1])
        assert batch.poses.shape[1:] == (batch.burn_in + 3, 2, 2, 3) and batch.references.shape[2:] == (3, 40, 40)
        for t in range(3):
            poses = batch.poses[:, batch.burn_in + t].clone()
            poses[..., 2] *= 4  # from pixels at low resolution
            shown = pose_references(References(batch.references, batch.references), poses, batch.present, (32, 32))
            for k in range(2):
                truth, moved = batch.truth[k, t], shown.high[k, 0]
                assert (truth - moved).abs().mean() < 0.09 and person_of(moved.permute(1, 2, 0) * 255)
                assert (truth - moved.flip(-1)).abs().mean() > 1.4 * (truth - moved).abs().mean()
    assert lengths == {3, 5}


@pytest.mark.numeric
def test_mirrored_poses_are_those_of_mirrored_points() -> None:
    generator = np.random.default_rng(3)
    for _ in range(5):
        points, target = generator.uniform(5, 30, (5, 2)), 20 + 12 * UPRIGHT
        pose = similarity_between(points, target)
        mirrored = mirrored_transform(pose[None], 36.0, 40.0)[0]
        given = np.array([36.0, 0]) + points * [-1, 1]
        expected = np.array([40.0, 0]) + transformed(pose, points) * [-1, 1]
        np.testing.assert_allclose(transformed(mirrored, given), expected, atol=1e-9)


def test_only_the_branch_learns(
    folder: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It starts from a network without a branch, whose weights stay bit for bit, and is validated in three ways."""
    monkeypatch.setattr("vidsr.train.loop.find_faces", find)
    torch.manual_seed(1)
    base = build("secnet", NETWORK | {"reference_blocks": 0}).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in base.items()}, tmp_path / "base.safetensors")
    options = TrainOptions(folder, tmp_path / "run", workers=0, init_from=tmp_path / "base.safetensors")
    saved = load_checkpoint(train(BRANCH, options))
    for part in ("network", "average"):
        assert all(torch.equal(saved[part][name], tensor) for name, tensor in base.items())
    assert saved["network"]["references.gain"].abs().max() > 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"psnr_none", "psnr_person", "psnr_stranger"} < log[-1].keys()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"references": None}, r"needs the table \[references\] for network.reference_blocks"),
        ({"network": TINY_NETWORK}, r"needs network.reference_blocks for the table \[references\]"),
        ({"references": replace(REFERENCES, canvas=0)}, "needs references.canvas"),
        ({"network": NETWORK | {"scale": 2}}, r"needs network.scale of 4 with \[references\]"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(change: dict[str, Any], why: str) -> None:
    recipe = replace(BRANCH, **change)
    network = build("secnet", recipe.network)
    with pytest.raises(UsageError, match=f"trains a secnet network; that {why}"):
        task_of(network).check(network, recipe)
    network = build("secnet", NETWORK)
    task_of(network).check(network, BRANCH)


@pytest.mark.parametrize("canvas", [-8, 12, 160])
def test_an_impossible_canvas_is_refused(tmp_path: Path, canvas: int) -> None:
    path = tmp_path / "recipe.toml"
    text = f"[references]\ncanvas = {canvas}\nface_side = [64.0, 160.0]"
    path.write_text(f'name = "a"\nsummary = "b"\narchitecture = "secnet"\n{text}\n')
    with pytest.raises(UsageError, match="canvas must be 0 or a multiple of 8, and larger than face_side"):
        load_recipe(path)
