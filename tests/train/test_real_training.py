"""Training with realistic degradation: batches state it, the network learns it, other recipes are unaffected."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from tests.support.tiny_training_data import TINY_NETWORK, tiny_recipe, training_folder
from vidsr.errors import UsageError
from vidsr.models.registry import build
from vidsr.nets.layers.conditioning import Estimate, Estimator
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.data import Batches
from vidsr.train.dataset import find_training_files
from vidsr.train.degrade import degrade_random
from vidsr.train.degrade_real import MAX_NOISE, add_noise, degrade_real
from vidsr.train.loop import task_of, train
from vidsr.train.losses import estimate_loss
from vidsr.train.recipe import DataConfig, DegradationConfig, OptimizationConfig, RealConfig, Recipe, load_recipe
from vidsr.train.trainer import TrainOptions
from vidsr.video.roundtrip import codec_roundtrip, h264_roundtrip

CLEAN = DegradationConfig(noise_share=0, jpeg_share=0, h264_share=0)
DATA = DataConfig(crop=64, frames=3, batch=4, burn_in_share=0.5, burn_in_frames=3, holdout_clips=2)
OPTIMIZATION = OptimizationConfig(steps=3, learning_rate=1e-3, warmup_steps=1, validate_every=3)
ESTIMATOR_NETWORK = TINY_NETWORK | {"estimator_width": 4, "modulation_width": 4}


def real_recipe(real: RealConfig | None = None) -> Recipe:
    recipe = tiny_recipe(DATA, CLEAN, OPTIMIZATION)
    return replace(recipe, network=ESTIMATOR_NETWORK, real=RealConfig() if real is None else real)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_folder(tmp_path_factory.mktemp("data"))


def batches(recipe: Recipe, folder: Path, cache: Path) -> Batches:
    items = find_training_files(folder, recipe.data.licence_classes)
    return Batches(recipe, items, cache, h264_roundtrip, codec_roundtrip)


# ------------------------------------------------------------------------------------------------------------- batches


def test_a_recipe_without_real_draws_what_it_always_drew(folder: Path, tmp_path: Path) -> None:
    """Draw by draw: burn-in, then for each sample the clip and `degrade_random`, from one generator."""
    degradation = DegradationConfig(noise_share=0.4, jpeg_share=0.5, h264_share=0)
    recipe = tiny_recipe(DATA, degradation, OPTIMIZATION)
    made = batches(recipe, folder, tmp_path)
    for index in range(4):
        generator = np.random.default_rng([recipe.seed, index])
        burn_in = 3 if generator.random() < 0.5 else 0
        batch = made[index]
        assert (
            batch.burn_in == burn_in and batch.quantities is None and batch.overrides is None and batch.guides is None
        )
        for low, truth in zip(batch.low, batch.truth, strict=True):
            clip = torch.from_numpy(made._draw_clip(generator, burn_in + 3)).permute(0, 3, 1, 2).float() / 255
            assert torch.equal(low, degrade_random(clip, degradation, generator, h264_roundtrip))
            assert torch.equal(truth, clip[burn_in:])


def test_batches_of_realistic_degradation(folder: Path, tmp_path: Path) -> None:
    recipe = real_recipe()
    made = batches(recipe, folder, tmp_path)
    for index in range(6):
        batch, again = made[index], made[index]
        assert all(torch.equal(a, b) for a, b in zip(batch[:2], again[:2], strict=True))
        assert batch.low.shape == (4, batch.burn_in + 3, 3, 16, 16) and batch.truth.shape == (4, 3, 3, 64, 64)
        assert batch.quantities is not None and batch.overrides is not None
        assert batch.quantities.shape == (4, 3) and 0 <= batch.quantities.min() <= batch.quantities.max() <= 1
        is_known = ~torch.isnan(batch.overrides)
        assert torch.equal(batch.overrides[is_known], batch.quantities[is_known])


def test_leading_frames_are_encoded_and_then_dropped(folder: Path, tmp_path: Path) -> None:
    recipe = real_recipe(RealConfig(clean_share=0, lead_frames=5))
    made = batches(recipe, folder, tmp_path)
    leads = []
    for index in range(5):
        generator = np.random.default_rng([recipe.seed, index])
        burn_in = 3 if generator.random() < 0.5 else 0
        batch = made[index]
        for low, truth in zip(batch.low, batch.truth, strict=True):
            lead = int(generator.integers(6))
            clip = torch.from_numpy(made._draw_clip(generator, lead + burn_in + 3)).permute(0, 3, 1, 2).float() / 255
            whole, _ = degrade_real(clip, CLEAN, RealConfig(clean_share=0), generator, codec_roundtrip)
            assert torch.equal(low, whole[lead:]) and torch.equal(truth, clip[lead + burn_in :])
            leads.append(lead)
    assert len(set(leads)) > 2


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_fraction_of_known_quantities(folder: Path, tmp_path: Path, share: float) -> None:
    recipe = real_recipe(RealConfig(override_share=share, encode_share=0))
    made = batches(replace(recipe, data=replace(DATA, batch=40, burn_in_share=0)), folder, tmp_path)
    overrides = torch.cat([made[index].overrides for index in range(3)])  # type: ignore[misc]
    assert float((~torch.isnan(overrides)).float().mean()) == pytest.approx(share, abs=0.12)


# ------------------------------------------------------------------------------------------------------------ training


def test_it_trains_logs_the_estimate_and_resumes(folder: Path, tmp_path: Path) -> None:
    entries: list[dict[str, float]] = []
    options = TrainOptions(folder, tmp_path / "run", workers=0)
    last = train(real_recipe(), options, entries.append)
    losses = [entry for entry in entries if "estimate" in entry]
    assert [set(entry) & {"psnr_bi", "psnr_bd", "psnr_jpeg"} for entry in entries if "psnr_bi" in entry] == [
        {"psnr_bi", "psnr_bd", "psnr_jpeg"}
    ]
    assert losses and all(math.isfinite(value) for entry in entries for value in entry.values())
    saved = load_checkpoint(last)
    assert saved["step"] == 3 and saved["recipe"]["real"]["clean_share"] == 0.35
    fresh = build("secnet", ESTIMATOR_NETWORK).state_dict()
    assert saved["network"].keys() == fresh.keys()
    assert saved["network"]["tune_fusion.tune.weight"].abs().max() > 0, "the modulation learns"


def trained(real: RealConfig, folder: Path, tmp_path: Path) -> tuple[Recipe, set[str]]:
    """The recipe of a short training in tmp_path / "run", and the names of the weights that it changed."""
    recipe = real_recipe(real)
    recipe = replace(recipe, data=replace(recipe.data, burn_in_share=0))
    saved = load_checkpoint(train(recipe, TrainOptions(folder, tmp_path / "run", workers=0)))
    torch.manual_seed(recipe.seed)
    fresh = build("secnet", ESTIMATOR_NETWORK).state_dict()
    changed = {name for name, value in saved["network"].items() if not torch.equal(value, fresh[name])}
    return recipe, changed


@pytest.mark.parametrize("learns_by", ["estimates", "results"])
def test_with_estimator_only_nothing_else_learns(
    folder: Path, tmp_path: Path, learns_by: Literal["estimates", "results"]
) -> None:
    recipe, changed = trained(RealConfig(estimator_only=learns_by), folder, tmp_path)
    assert changed and all(name.startswith("estimator.") for name in changed)
    entry = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert entry["total"] > 0 and ("final" in entry) == (learns_by == "results")
    without = {key: value for key, value in recipe.network.items() if key != "estimator_width"}
    with pytest.raises(UsageError, match=r"needs network\.estimator_width"):
        train(replace(recipe, network=without), TrainOptions(folder, tmp_path / "other", workers=0))


def test_a_frozen_estimator_stays_and_all_else_learns(folder: Path, tmp_path: Path) -> None:
    recipe, changed = trained(RealConfig(estimator_frozen=True), folder, tmp_path)
    assert {"tune_fusion.tune.weight", "flow.levels.0.0.weight"} & changed
    assert not any(name.startswith("estimator.") for name in changed)
    entry = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[0])
    assert "estimate" not in entry
    without = {key: value for key, value in recipe.network.items() if key != "estimator_width"}
    with pytest.raises(UsageError, match=r"needs network\.estimator_width for real\.estimator_frozen"):
        train(replace(recipe, network=without), TrainOptions(folder, tmp_path / "other", workers=0))


def test_an_estimator_learns_the_noise() -> None:
    """On soft images with more or less noise; tested on new images."""
    generator, random = torch.Generator().manual_seed(0), np.random.default_rng(0)

    def sample() -> tuple[torch.Tensor, torch.Tensor]:
        soft = torch.nn.functional.interpolate(torch.rand(8, 3, 4, 4, generator=generator), (32, 32), mode="bicubic")
        sigmas = 25 * torch.rand(8, generator=generator)
        low = [add_noise(each[None], "gaussian", float(s), random) for each, s in zip(soft, sigmas, strict=True)]
        return torch.cat(low), torch.stack((torch.zeros(8), sigmas / MAX_NOISE, torch.zeros(8)), dim=1)

    torch.manual_seed(0)
    estimator = Estimator(8)
    optimizer = torch.optim.Adam(estimator.parameters(), lr=5e-3)
    for _ in range(120):
        low, quantities = sample()
        loss = estimate_loss(Estimate(*(part[:, None] for part in estimator.logits(low))), quantities)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    low, quantities = sample()
    with torch.no_grad():
        estimate = estimator(low).overall
    assert float((estimate - quantities).abs().mean()) < 0.06
    assert float(torch.corrcoef(torch.stack((estimate[:, 1], quantities[:, 1])))[0, 1]) > 0.9


# -------------------------------------------------------------------------------------------------------------- recipes

HEAD = 'name = "a"\nsummary = "b"\narchitecture = "secnet"\n'
NOT_DEGRADED = "[degradation]\nnoise_share = 0\njpeg_share = 0\nh264_share = 0\n"


def test_the_table_real_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(HEAD + NOT_DEGRADED + "[real]\nclean_share = 0.4\nh264_crf = [20, 30]\n")
    assert load_recipe(path).real == RealConfig(clean_share=0.4, h264_crf=(20, 30))
    path.write_text(HEAD)
    assert load_recipe(path).real is None


@pytest.mark.parametrize(
    "text, message",
    [
        ("[real]\n", r"\[degradation\] describes clean samples"),
        (
            NOT_DEGRADED + '[real]\nestimator_only = "results"\nestimator_frozen = true\n',
            r"real\.estimator_only and estimator_frozen leave nothing to learn",
        ),
        (NOT_DEGRADED + "[real]\nshare = 1\n", "unknown key 'share'"),
    ],
)
def test_what_a_real_recipe_cannot_say(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(HEAD + text)
    with pytest.raises(UsageError, match=message):
        load_recipe(path)


def test_an_estimator_cannot_be_trained_without_realistic_degradation(folder: Path, tmp_path: Path) -> None:
    recipe = replace(real_recipe(), real=None)
    with pytest.raises(UsageError, match=r"trains an estimator: add the table \[real\]"):
        train(recipe, TrainOptions(folder, tmp_path / "run", workers=0))


def test_the_shipped_recipe_fits_its_network() -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "models" / "recipes" / "secnet-fast-real.toml")
    network = build(recipe.architecture, recipe.network)
    task_of(network).check(network, recipe)
    assert recipe.real is not None and 0.2 <= recipe.real.clean_share <= 0.4
