"""Training of SECNet's branch of references: poses of samples, only the branch learns, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

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
from vidsr.nets.secnet.references import PosedReferences, ReferenceBranch, Referred
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.loop import task_of, train
from vidsr.train.people import Person, ReferenceBatches
from vidsr.train.recipe import OptimizationConfig, load_recipe
from vidsr.train.reference_losses import detail_correlation, reference_losses
from vidsr.train.trainer import TrainOptions

NETWORK: dict[str, Any] = TINY_NETWORK | {"recurrent_width": 8, "reference_width": 8}
BRANCH = replace(
    RECIPE,
    architecture="secnet",
    network=NETWORK,
    data=replace(DATA, batch=2, frames=3, burn_in_share=0.5, burn_in_frames=2),
    references=replace(REFERENCES, canvas=40, branch_only=True, align_weight=0.01, match_weight=0.01),
    optimisation=OptimizationConfig(steps=2, learning_rate=1e-2, warmup_steps=1, validate_every=2),
)


def moved_to(photograph: Tensor, pose: Tensor) -> Tensor:
    """A photograph, 3 x 40 x 40, at a pose of a frame of 32 x 32, four times as large as the pixels of the pose."""
    matrix = pose.numpy().copy()
    matrix[:, 2] = 4 * matrix[:, 2] + matrix[:, :2].sum(1) / 2 - 0.5  # OpenCV counts from the middle of the first pixel
    image = photograph.permute(1, 2, 0).numpy()
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return torch.from_numpy(cv2.warpAffine(image, matrix, (32, 32), flags=flags)).permute(2, 0, 1)


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
            for k in range(2):
                truth, moved = batch.truth[k, t], moved_to(batch.references[k, 0], batch.poses[k, batch.burn_in + t, 0])
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
    base = build("secnet", NETWORK | {"reference_width": 0}).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in base.items()}, tmp_path / "base.safetensors")
    options = TrainOptions(folder, tmp_path / "run", workers=0, init_from=tmp_path / "base.safetensors")
    saved = load_checkpoint(train(BRANCH, options))
    for part in ("network", "average"):
        assert all(torch.equal(saved[part][name], tensor) for name, tensor in base.items())
    assert saved["network"]["references.out.weight"].abs().max() > 0
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"psnr_none", "psnr_person", "psnr_stranger"} < log[-1].keys()
    assert {"align", "match"} < log[0].keys()


# -------------------------------------------------------------------------------------------------------------- losses


def squared_correlation(images: Tensor, truth: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """`detail_correlation`, pixel by pixel in float64."""

    def detail(image: np.ndarray) -> np.ndarray:
        height, width = image.shape
        result = np.zeros_like(image)
        for y, x in np.ndindex(height, width):
            around = image[max(0, y - 6) : y + 7, max(0, x - 6) : x + 7]
            result[y, x] = image[y, x] - around.mean()
        return result

    batch, count, height, width = images.shape
    found, amount = (np.zeros((batch, count, height // 4, width // 4)) for _ in range(2))
    for b, k, y, x in np.ndindex(*found.shape):
        a = detail(np.tensordot([0.299, 0.587, 0.114], truth[b].numpy(), 1))
        c = detail(images[b, k].numpy())
        window = (slice(max(0, 4 * y - 4), 4 * y + 8), slice(max(0, 4 * x - 4), 4 * x + 8))
        both, first, second = ((p[window] * q[window]).mean() for p, q in ((a, c), (a, a), (c, c)))
        found[b, k, y, x] = both / np.sqrt((first + 1e-5) * (second + 1e-5))
        amount[b, k, y, x] = np.sqrt(first)
    return found, amount


@pytest.mark.numeric
def test_the_losses_are_their_formulas() -> None:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    truth, aligned, covered, logits = noise(2, 3, 16, 12), noise(2, 2, 16, 12), noise(2, 2, 4, 3), noise(2, 2, 4, 3)
    aligned[0, 0] += 2 * truth[0, 1]
    strangers = torch.tensor([[False, True], [False, False]])
    correlation, amount = squared_correlation(aligned, truth)
    for one, other in zip(detail_correlation(aligned, truth), (correlation, amount), strict=True):
        np.testing.assert_allclose(one.numpy(), other, atol=1e-10)
    right = 1.0 - strangers.numpy()[..., None, None]
    weight = amount * covered.numpy()
    target, score = np.clip(correlation, 0, 1) ** 2 * right, 1 / (1 + np.exp(-logits.numpy()))
    entropy = -(target * np.log(score) + (1 - target) * np.log(1 - score))
    losses = reference_losses(Referred(truth, covered, covered, logits, aligned), truth, strangers)
    assert float(losses.align) == pytest.approx((weight * right * (1 - correlation)).sum() / (weight * right).sum())
    assert float(losses.match) == pytest.approx((entropy * weight).sum() / weight.sum())
    assert correlation[0, 0].mean() > 0.5


def test_the_alignment_loss_moves_a_photograph_into_place() -> None:
    """The photograph of a pattern lies 3 pixels beside its frame; a new branch learns where it belongs."""
    torch.manual_seed(0)
    branch = ReferenceBranch(8, 4)
    picture = torch.nn.functional.interpolate(torch.rand(1, 3, 12, 12), size=(48, 48), mode="bicubic").clamp(0, 1)
    truth = picture[..., 8:40, 8:40]
    pose = torch.tensor([[[[1.0, 0.0, 2.0 + 0.75], [0.0, 1.0, 2.0]]]])
    posed = PosedReferences(branch.describe(picture[None]), pose)
    optimizer = torch.optim.Adam(branch.parameters(), lr=3e-3)
    found = []
    for _ in range(60):
        losses = reference_losses(branch(truth, posed), truth, torch.zeros(1, 1, dtype=torch.bool))
        optimizer.zero_grad()
        losses.align.backward()
        optimizer.step()
        found.append(float(losses.align.detach()))
    assert found[0] > 0.2 and found[-1] < 0.3 * found[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"references": None}, r"needs the table \[references\] for network.reference_width"),
        ({"network": TINY_NETWORK}, r"needs network.reference_width for the table \[references\]"),
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
