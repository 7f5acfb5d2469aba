"""Training of CAJNN: compressed samples, the loss by hand, a loop that learns and resumes, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.tiny_networks import CAJNN_FORMS
from tests.support.tiny_training_data import moving, tiny_recipe, training_folder
from vidsr.errors import UsageError
from vidsr.evaluation.metrics import decibels, to_8_bits
from vidsr.models.cards import read_card
from vidsr.models.loading import verify
from vidsr.models.registry import build
from vidsr.nets.cajnn.network import CAJNN
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.data import Batch, Batches
from vidsr.train.dataset import find_training_files
from vidsr.train.degrade import degrade_bi
from vidsr.train.degrade_real import degrade_compressed, degrade_jpeg
from vidsr.train.loop import task_of, train, train_step, validate
from vidsr.train.publish import Provenance, publish_model
from vidsr.train.recipe import (
    DataConfig,
    DegradationConfig,
    GuidanceConfig,
    JpegConfig,
    OptimizationConfig,
    PerceptualConfig,
    RealConfig,
    RestartsConfig,
    load_recipe,
)
from vidsr.train.trainer import TrainOptions, learning_rate
from vidsr.video.roundtrip import codec_roundtrip

CPU = torch.device("cpu")
BI = DegradationConfig(weight_blur=0, weight_area=0, noise_share=0, jpeg_share=0, h264_share=0)
DATA = DataConfig(crop=32, frames=1, batch=4, burn_in_share=0, holdout_clips=2)
RECIPE = replace(
    tiny_recipe(
        DATA,
        BI,
        OptimizationConfig(steps=3, learning_rate=2e-3, warmup_steps=1, validate_every=2),
    ),
    architecture="cajnn",
    network=CAJNN_FORMS["fast"],
    jpeg=JpegConfig((10, 100)),
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_folder(tmp_path_factory.mktemp("data"))


def tiny_network(form: str = "fast") -> CAJNN:
    torch.manual_seed(0)
    network = build("cajnn", CAJNN_FORMS[form])
    assert isinstance(network, CAJNN)
    return network


def clip_of(count: int, size: int = 64, seed: int = 3) -> Tensor:
    return torch.from_numpy(moving(count, size, size, seed)).permute(0, 3, 1, 2).float() / 255


def by_jpeg(image: Tensor, quality: int, top: int, left: int) -> Tensor:
    """One image through JPEG with the grid of blocks moved up and left, by OpenCV alone."""
    pixels = np.rint(image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    around = cv2.copyMakeBorder(pixels, top, 0, left, 0, cv2.BORDER_REFLECT_101)
    _, data = cv2.imencode(".jpg", around[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return torch.from_numpy(decoded[top:, left:, ::-1].copy()).permute(2, 0, 1).float() / 255


# ------------------------------------------------------------------------------------------------------------- samples


def test_every_frame_has_its_own_quality_and_grid_of_blocks() -> None:
    clip = clip_of(6)
    low = degrade_compressed(clip, BI, JpegConfig((10, 40)), np.random.default_rng(5))
    clean, found = degrade_bi(clip), []
    for image, truth in zip(low, clean, strict=True):
        choices = (
            (quality, top, left)
            for quality in range(10, 41)
            for top in range(8)
            for left in range(8)
            if torch.equal(by_jpeg(truth, quality, top, left), image)
        )
        found.append(next(choices))
    assert len({quality for quality, *_ in found}) > 2 and len({place[1:] for place in found}) > 2


def test_samples_are_drawn_as_always_and_then_compressed(data: Path, tmp_path: Path) -> None:
    """Draw by draw: burn-in, then for each sample the clip and `degrade_compressed`, from one generator."""
    made = Batches(RECIPE, find_training_files(data, ("A", "B")), tmp_path, None)
    for index in range(2):
        generator = np.random.default_rng([RECIPE.seed, index])
        generator.random()
        batch = made[index]
        assert batch.low.shape == (4, 1, 3, 8, 8) and batch.burn_in == 0 and batch.guides is None
        for low, truth in zip(batch.low, batch.truth, strict=True):
            clip = torch.from_numpy(made._draw_clip(generator, 1)).permute(0, 3, 1, 2).float() / 255
            assert torch.equal(truth, clip) and not torch.equal(low, degrade_bi(clip))
            assert torch.equal(low, degrade_compressed(clip, BI, JpegConfig((10, 100)), generator))


def test_samples_may_come_from_real_encoders(data: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, jpeg=None, real=RealConfig(clean_share=0, encode_share=1), data=replace(DATA, frames=2))
    batch = Batches(recipe, find_training_files(data, ("A", "B")), tmp_path, None, codec_roundtrip)[0]
    network = tiny_network()
    task_of(network).check(network, recipe)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert batch.low.shape == (4, 2, 3, 8, 8)
    assert 0 < train_step(network, batch, optimizer, recipe, CPU)["total"] < 1
    assert all(not torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


# ------------------------------------------------------------------------------------------------------------ training


def test_the_loss_is_charbonnier_over_all_frames_of_one_pass() -> None:
    network, truth = tiny_network("printed"), clip_of(4, size=32)
    batch = Batch(degrade_bi(truth).view(2, 2, 3, 8, 8), truth.view(2, 2, 3, 32, 32), 0)
    ensemble = build("cajnn", CAJNN_FORMS["printed"] | {"self_ensemble": True})
    ensemble.load_state_dict(network.state_dict())
    with torch.no_grad():
        plain, averaged = (task_of(each).losses(each, batch, RECIPE, False, None) for each in (network, ensemble))
        error = network(degrade_bi(truth)) - truth
    expected = (error.square() + 1e-3**2).sqrt().mean()
    assert set(plain) == {"total"} and float(plain["total"]) == pytest.approx(float(expected), rel=5e-3)
    assert torch.equal(plain["total"], averaged["total"])


@pytest.mark.parametrize("form", CAJNN_FORMS)
def test_the_loss_falls(form: str) -> None:
    network, truth = tiny_network(form), clip_of(2, size=32)
    batch = Batch(degrade_jpeg(truth, 40)[:, None], truth[:, None], 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3, betas=(0.9, 0.99))
    totals = [train_step(network, batch, optimizer, RECIPE, CPU)["total"] for _ in range(20)]
    assert np.mean(totals[-3:]) < 0.9 * totals[0]


def test_it_trains_validates_and_is_published(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    for _ in range(3):  # stopped after every step
        train(RECIPE, TrainOptions(data, output, workers=0, stop_after_minutes=0.0))
    whole = train(RECIPE, TrainOptions(data, tmp_path / "whole", workers=0))
    stopped, expected = load_checkpoint(output / "last.pt"), load_checkpoint(whole)
    assert stopped["step"] == expected["step"] == 3
    assert all(torch.equal(stopped["network"][name], value) for name, value in expected["network"].items())
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    scores = [entry for entry in log if "psnr_jpeg_10" in entry]
    assert [entry["step"] for entry in scores] == [2, 3]
    assert all(entry["psnr_jpeg_10"] < entry["psnr_jpeg_20"] < entry["psnr_jpeg_40"] for entry in scores)
    provenance = Provenance("MIT", "noise", "none", "a test machine")
    path = publish_model(RECIPE, tmp_path / "tiny.toml", tmp_path / "whole" / "best.pt", tmp_path / "out", provenance)
    card = read_card(path)
    assert (card.architecture, card.scale, card.lookahead) == ("cajnn", 4, 0)
    assert verify(card) < 1e-3


def test_scores_are_those_of_compressed_frames() -> None:
    network, clip = tiny_network().eval(), clip_of(6, size=48)
    scores = validate(network, [clip], CPU)
    assert set(scores) == {"psnr_jpeg_10", "psnr_jpeg_20", "psnr_jpeg_40"}
    frames = clip[[0, 5]]
    with torch.no_grad():
        result = to_8_bits(network(degrade_jpeg(frames, 20)))
    expected = decibels(float((result - frames)[..., 8:-8, 8:-8].square().mean()))
    assert scores["psnr_jpeg_20"] == pytest.approx(expected, abs=0.05)


def test_the_learning_rate_starts_again() -> None:
    settings = OptimizationConfig(steps=40, learning_rate=1.0, final_learning_rate=0.1, warmup_steps=0)
    recipe = replace(RECIPE, optimisation=settings, restarts=RestartsConfig(10))
    rates = [learning_rate(step, recipe) for step in range(40)]
    assert rates[0] == rates[10] == rates[30] == 1.0 and rates[5] == rates[25] == pytest.approx(0.55)
    assert rates[:10] == rates[10:20] and rates[9] < 0.13
    assert learning_rate(10, replace(recipe, restarts=None)) < 1.0


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"jpeg": None}, r"needs compressed samples: add the table \[jpeg\] or \[real\]"),
        ({"guidance": GuidanceConfig()}, r"cannot use the table \[guidance\]"),
        ({"perceptual": PerceptualConfig()}, r"cannot use the table \[perceptual\]"),
        ({"data": replace(RECIPE.data, burn_in_share=0.1)}, "has no burn-in: set data.burn_in_share to 0"),
        (
            {"optimisation": replace(RECIPE.optimisation, fusion_steps=1)},
            "has no pretraining: set optimisation.fusion_steps to 0",
        ),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(change: dict[str, Any], why: str) -> None:
    recipe = replace(RECIPE, **change)
    network = build("cajnn", recipe.network)
    with pytest.raises(UsageError, match=f"the recipe 'tiny' trains a cajnn network; that {why}"):
        task_of(network).check(network, recipe)
    task_of(network).check(tiny_network(), RECIPE)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[jpeg]\nquality = [0, 50]", "jpeg.quality must be a range in 1..100"),
        ("[jpeg]\nquality = [60, 50]", "jpeg.quality must be a range in 1..100"),
        ("[restarts]\nevery = 0", "restarts.every must be at least 1"),
        ("[jpeg]\n[degradation]\nnoise_share = 0.1", "with .jpeg., every frame is compressed: set noise_share"),
        ("[jpeg]\n[real]", "cannot be combined"),
        ("[jpeg]\n[guidance]", "cannot be combined"),
        ("[jpeg]\nqualities = [10, 20]", "unknown key 'qualities'"),
    ],
)
def test_impossible_tables_are_refused(tmp_path: Path, text: str, why: str) -> None:
    clean = "" if "degradation" in text else "[degradation]\nnoise_share = 0\njpeg_share = 0\nh264_share = 0\n"
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "a"\nsummary = "b"\narchitecture = "cajnn"\n{clean}{text}\n')
    with pytest.raises(UsageError, match=rf"recipe\.toml.*{why}"):
        load_recipe(path)
