"""Training of HIME: its losses by hand, a loop that learns, resumes and is published, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.tiny_networks import CAJNN_FORMS, HIME_FORMS, SLOWMO_FORMS
from tests.support.tiny_training_data import TINY_NETWORK
from tests.train.test_hime_losses import narrow_vgg
from tests.train.test_people import BI, DATA, find, folder  # noqa: F401 - folder is a fixture
from tests.train.test_people import RECIPE as PEOPLE
from vidsr.errors import UsageError
from vidsr.models.cards import read_card
from vidsr.models.loading import verify
from vidsr.models.registry import build
from vidsr.nets.hime.network import HIME
from vidsr.train.adversarial import Adversary
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.data import Batch
from vidsr.train.degrade import degrade_bi
from vidsr.train.loop import task_of, train, train_step, validate
from vidsr.train.losses import correlation_loss
from vidsr.train.people import ReferenceClip
from vidsr.train.perceptual import Vgg19Distance
from vidsr.train.publish import Provenance, publish_model
from vidsr.train.recipe import (
    AdversarialConfig,
    CorrelationConfig,
    GuidanceConfig,
    JpegConfig,
    OptimizationConfig,
    PerceptualConfig,
    load_recipe,
)
from vidsr.train.trainer import TrainOptions

CPU = torch.device("cpu")
OTHERS: dict[str, dict[str, Any]] = {
    "secnet": TINY_NETWORK,
    "zsm": SLOWMO_FORMS["fast"],
    "cajnn": CAJNN_FORMS["fast"],
}
OPTIMIZATION = OptimizationConfig(steps=3, learning_rate=2e-3, warmup_steps=1, validate_every=2)
RECIPE = replace(PEOPLE, network=HIME_FORMS["fast"], optimisation=OPTIMIZATION)
# The perception-oriented form, equation (5.9).
PERCEPTION = replace(
    RECIPE,
    correlation=CorrelationConfig(weight=0.3, size=3),
    adversarial=AdversarialConfig(weight=0.2, width=2, largest=4, learning_rate=1e-3),
    perceptual=PerceptualConfig(weight=0.4, crop=32, network="vgg19"),
)


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def tiny_network(form: str = "fast") -> HIME:
    torch.manual_seed(0)
    network = build("hime", HIME_FORMS[form])
    assert isinstance(network, HIME)
    return network


def batch_of(count: int = 2) -> Batch:
    """Images whose first reference is the truth itself; the second reference of the first image does not exist."""
    truth = torch.nn.functional.interpolate(noise(count, 3, 16, 16), scale_factor=2.0, mode="bilinear")
    references = torch.stack([truth, noise(*truth.shape, seed=2)], dim=1)
    present = torch.ones(count, 2, dtype=torch.bool)
    present[0, 1] = False
    return Batch(degrade_bi(truth)[:, None], truth[:, None], 0, references=references, present=present)


# -------------------------------------------------------------------------------------------------------------- losses


@pytest.mark.numeric
def test_the_loss_is_the_weighted_sum_5_9(tmp_path: Path) -> None:
    narrow_vgg(tmp_path / "vgg.pth")
    network, batch, distance = tiny_network(), batch_of(), Vgg19Distance(tmp_path / "vgg.pth")
    adversary = Adversary(PERCEPTION.adversarial or AdversarialConfig(), 32, CPU)
    task = task_of(network)
    with torch.no_grad():
        plain = task.losses(network, batch, RECIPE, False, None)
        found = task.losses(network, batch, PERCEPTION, False, distance, adversary)
        result = network(batch.low[:, 0], batch.references, batch.present)
    truth = batch.truth[:, 0]
    # bf16 in the network and the feature extractors; the differences of the terms are an order larger
    charbonnier = ((result - truth).square() + 1e-3**2).sqrt().mean()
    assert set(plain) == {"total", "final"} and torch.equal(plain["total"], plain["final"])
    assert float(plain["final"]) == pytest.approx(float(charbonnier), rel=5e-3)
    assert float(found["correlation"]) == pytest.approx(float(correlation_loss(result, truth, 3)), rel=2e-2)
    assert float(found["perceptual"]) == pytest.approx(float(distance(result, truth).mean()), rel=5e-2)
    assert float(found["adversarial"]) == pytest.approx(float(adversary.judge(result, truth)), rel=5e-2)
    terms = {"final": 1.0, "correlation": 0.3, "perceptual": 0.4, "adversarial": 0.2}
    total = sum(weight * float(found[name]) for name, weight in terms.items())
    assert float(found["total"]) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("form", HIME_FORMS)
def test_the_loss_falls(form: str) -> None:
    network, batch = tiny_network(form), batch_of()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2, betas=(0.9, 0.99))
    totals = [train_step(network, batch, optimizer, RECIPE, CPU)["total"] for _ in range(16)]
    assert np.mean(totals[-3:]) < 0.97 * totals[0]


# ---------------------------------------------------------------------------------------------------------------- loop


def test_it_trains_resumes_validates_and_is_published(
    folder: Path,  # noqa: F811 - the fixture
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the discriminator: stopped after every step, it ends with the same weights of both networks."""
    monkeypatch.setattr("vidsr.train.loop.find_faces", find)
    recipe = replace(PERCEPTION, perceptual=None)
    for _ in range(3):
        train(recipe, TrainOptions(folder, tmp_path / "run", workers=0, stop_after_minutes=0.0))
    whole = train(recipe, TrainOptions(folder, tmp_path / "whole", workers=0))
    stopped, expected = load_checkpoint(tmp_path / "run" / "last.pt"), load_checkpoint(whole)
    assert stopped["step"] == expected["step"] == 3
    for part in ("network", "average"):
        assert all(torch.equal(stopped[part][name], value) for name, value in expected[part].items())
    rivals = stopped["adversary"]["network"], expected["adversary"]["network"]
    assert all(torch.equal(rivals[0][name], value) for name, value in rivals[1].items())
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    scores = [entry for entry in log if "psnr_none" in entry]
    assert [entry["step"] for entry in scores] == [2, 3] and {"psnr_person", "psnr_stranger"} < scores[0].keys()
    assert {"correlation", "adversarial", "discriminator"} < log[-2].keys() | log[-1].keys()
    provenance = Provenance("MIT", "drawn faces", "none", "a test machine")
    path = publish_model(recipe, tmp_path / "tiny.toml", tmp_path / "whole" / "best.pt", tmp_path / "out", provenance)
    card = read_card(path)
    assert (card.architecture, card.scale, card.lookahead) == ("hime", 4, 0)
    assert verify(card) < 1e-3


def test_scores_are_those_without_with_right_and_with_wrong_references() -> None:
    network = tiny_network().eval()
    torch.nn.init.normal_(network.reconstruction.enlarge.weight, std=0.3)
    clip = ReferenceClip(noise(1, 3, 48, 48), noise(2, 3, 48, 48, seed=2), noise(1, 3, 48, 48, seed=3))
    scores = validate(network, [clip], CPU)
    low = degrade_bi(clip.truth)
    given = {"none": None, "person": clip.references[None], "stranger": clip.strangers[None]}
    with torch.no_grad():
        for name, references in given.items():
            error = (network(low, references).clamp(0, 1) - clip.truth)[..., 8:-8, 8:-8].square().mean()
            assert scores[f"psnr_{name}"] == pytest.approx(-10 * float(torch.log10(error)), abs=0.05)
    assert len(set(scores.values())) == 3


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"references": None}, r"needs the table \[references\]"),
        ({"network": HIME_FORMS["fast"] | {"scale": 8}}, "needs network.scale of 4"),
        ({"data": replace(DATA, frames=2)}, "takes single images: set data.frames to 1"),
        ({"data": replace(DATA, burn_in_share=0.1)}, "has no burn-in"),
        ({"optimisation": replace(OPTIMIZATION, fusion_steps=1)}, "has no pretraining"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(change: dict[str, Any], why: str) -> None:
    recipe = replace(RECIPE, **change)
    network = build("hime", recipe.network)
    with pytest.raises(UsageError, match=f"the recipe 'tiny' trains a hime network; that {why}"):
        task_of(network).check(network, recipe)
    task_of(network).check(tiny_network(), PERCEPTION)


@pytest.mark.parametrize("table", ["references", "correlation", "adversarial"])
@pytest.mark.parametrize("architecture", OTHERS)
def test_other_networks_refuse_the_tables(architecture: str, table: str) -> None:
    recipe = replace(PERCEPTION, architecture=architecture, perceptual=None, jpeg=JpegConfig())
    recipe = replace(recipe, **{name: None for name in ("references", "correlation", "adversarial") if name != table})
    recipe = replace(recipe, guidance=GuidanceConfig() if architecture == "zsm" else None)
    recipe = replace(recipe, data=replace(DATA, frames=7))
    network = build(architecture, OTHERS[architecture])
    why = rf"cannot use the table \[{table}\]"
    if (architecture, table) == ("secnet", "references"):
        why = r"needs network.reference_width for the table \[references\]"
    with pytest.raises(UsageError, match=f"trains a {architecture} network; that {why}"):
        task_of(network).check(network, recipe)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[references]\ncount = 0", "references.count must be at least 1"),
        ("[references]\nstranger_share = 0.6\nnone_share = 0.5", "nor above 1 together"),
        ("[references]\nnone_share = -0.1", "must not be negative"),
        ("[references]\nperson_pattern = '('", "must be a regular expression with a group"),
        ("[references]\nperson_pattern = 'a'", "must be a regular expression with a group"),
        ("[references]\nface_side = [0.0, 9.0]", "references.face_side must be a range above 0"),
        ("[references]\nface_side = [10.0, 9.0]", "references.face_side must be a range above 0"),
        ("[references]\npoint_noise = -0.1", "must not be negative"),
        ("[references]\n[guidance]", "cannot be combined"),
        ("[correlation]\nsize = 4", "correlation.size must be odd"),
        ("[correlation]\ndilation = 0", "dilation at least 1"),
        ("[correlation]\nweight = -1.0", "must not be negative"),
        ("[adversarial]\nwidth = 0", r"adversarial.width must be in 1\.\.largest"),
        ("[adversarial]\n[data]\ncrop = 96", "data.crop must be 4 times a power of 2"),
        ("[perceptual]\nnetwork = 'vgg16'", "one of 'alex', 'vgg19'"),
    ],
)
def test_impossible_tables_are_refused(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f'name = "a"\nsummary = "b"\narchitecture = "hime"\n{text}\n')
    with pytest.raises(UsageError, match=rf"recipe\.toml.*{why}"):
        load_recipe(path)


def test_bi_is_what_these_tests_degrade_with() -> None:
    assert RECIPE.degradation == BI
