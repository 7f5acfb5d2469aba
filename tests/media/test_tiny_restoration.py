"""`vidsr upscale` with weights for tiny faces: who restores what, what the report says; without them nothing changes.

The model is tiny and has random weights, but its files are those of any model.
"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.media.test_restoration import (  # noqa: F401 - room is a fixture
    FACE_MODEL,
    FIRST,
    PLACES,
    assert_only_faces_differ,
    changes,
    images_of,
    near,
    room,
    run_of,
    upscale,
)
from tests.support.tiny_networks import mpenet_network, narrow_network
from vidsr.config import ComputeConfig, RestoreConfig, UpscaleConfig
from vidsr.faces import handover
from vidsr.faces.engine import select_tiny_engine
from vidsr.faces.handover import HANDOVER, TINY_MODEL, SizedFaceEngine
from vidsr.faces.pipeline import FacePlan, Restoration, plan_faces
from vidsr.models.cards import ModelCard, list_cards, models_folder, read_card
from vidsr.models.writing import write_model
from vidsr.nets.layers.resize import resize
from vidsr.pipeline.signature import chosen_weights, planned_weights
from vidsr.types import Color, VideoInfo

FACTS = {"licence": "none", "date": "2026-01-01", "origin": "random", "origin_sha256": "none"}
SENTENCE = "such a face is plausible, not evidence"


@pytest.fixture
def tiny_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """A model for tiny faces as if it had been shipped."""
    head = {"name": TINY_MODEL, "summary": "a test", "architecture": "secnet"}
    network = narrow_network(t1=2, mirrored=True)
    card = read_card(write_model(tmp_path / "models", head, network, torch.float32, np.float32, FACTS))
    assert isinstance(card, ModelCard)
    others = [each for each in list_cards() if each.name != TINY_MODEL]
    monkeypatch.setattr(handover, "list_cards", lambda: [*others, card])
    monkeypatch.setattr("vidsr.engines.select.list_cards", lambda: [*others, card])
    return card


@pytest.fixture
def eightfold(tmp_path: Path) -> ModelCard:
    """A face model with a scale of 8, to be given by name."""
    head = {"name": "eightfold", "summary": "a test", "architecture": "mpenet"}
    card = read_card(write_model(tmp_path / "models", head, mpenet_network("fast"), torch.float32, np.float32, FACTS))
    assert isinstance(card, ModelCard)
    return card


@pytest.fixture
def no_tiny_model(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [each for each in list_cards() if each.name != TINY_MODEL]
    monkeypatch.setattr(handover, "list_cards", lambda: others)


@pytest.mark.usefixtures("tiny_model")
def test_faces_in_the_handover_are_restored_by_both_networks(
    room: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only faces change, at the video's factor of 4; the report says what such faces are worth."""
    monkeypatch.setattr(handover, "HANDOVER", (18.0, 24.0))
    result = upscale(room, "video.mkv", tmp_path / "a.mkv", "--faces", "--report", tmp_path / "a.json")
    assert_only_faces_differ(changes(room, "plain.mkv", tmp_path / "a.mkv"), PLACES)
    run = run_of(tmp_path / "a.json")
    sides = [each["seen"]["smallest_side"] for each in run["faces"]]
    assert 18 < min(sides) <= max(sides) < 24 and run["face_model"] == FACE_MODEL
    assert any(SENTENCE in warning and "3 faces were" in warning for warning in run["warnings"])
    assert SENTENCE in " ".join(result.stderr.split())


def test_at_a_scale_of_8_faces_are_pasted_as_they_were_enlarged(
    room: Path,  # noqa: F811
    tmp_path: Path,
    eightfold: ModelCard,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In faces there is detail that is lost where they are reduced to the four times of the network for frames."""

    def run(name: str, *options: str) -> Path:
        upscale(room, "video.mkv", tmp_path / name, "--scale", "8", "--start", "0.24", "--end", "0.32", *options)
        return tmp_path / name

    faces = "--faces", "--face-model", str(eightfold.path)
    without, pasted = run("a.mkv", "--no-faces"), run("b.mkv", *faces)
    monkeypatch.setattr(FacePlan, "blending_scale", lambda _plan, network_scale, _enlargement: network_scale)
    reduced = run("c.mkv", *faces)
    places = PLACES[FIRST : FIRST + 2]
    assert_only_faces_differ(changes(room, without, pasted), places, scale=8)
    for one, other, here in zip(images_of(pasted), images_of(reduced), places, strict=True):
        for x, y in here:
            detail, less = (fine_detail(image)[near(x, y, 8, 8)].mean() for image in (one, other))
            assert detail > 2 * less


def fine_detail(image: Tensor) -> Tensor:
    """What an image loses where it is reduced by 2 and enlarged again, H x W."""
    height, width = image.shape[-2:]
    return (image - resize(resize(image, (height // 2, width // 2)), (height, width))).abs().amax(0)


def test_faces_are_pasted_at_the_larger_factor_only_where_a_model_reaches_it(eightfold: ModelCard) -> None:
    large, without = (
        plan_faces(RestoreConfig(model=model), ComputeConfig(threads=1), described())
        for model in (str(eightfold.path), "auto")
    )
    assert [large.blending_scale(4, factor) for factor in (2, 4, 5, 8, None)] == [4, 4, 5, 8, 4]
    assert [without.blending_scale(4, factor) for factor in (2, 4, 5, 8, None)] == [4] * 5
    assert without.blending_scale(2, 4) == 4 and without.blending_scale(2, 8) == 2


@pytest.mark.usefixtures("no_tiny_model")
def test_without_weights_nothing_changes_and_nothing_is_claimed(room: Path, tmp_path: Path) -> None:  # noqa: F811
    upscale(room, "video.mkv", tmp_path / "a.mkv", "--faces", "--report", tmp_path / "a.json")
    assert not any(TINY_MODEL in warning for warning in run_of(tmp_path / "a.json")["warnings"])
    plan = plan_faces(RestoreConfig(min_face=8), ComputeConfig(threads=1), described())
    assert plan.tiny is None
    (warning,) = Restoration(plan, described(), 4).warnings
    assert warning == f"faces below 16 pixels are restored by the model for larger ones, {FACE_MODEL}"


def test_the_plan_and_the_signature_have_both_models(tiny_model: ModelCard) -> None:
    compute = ComputeConfig(threads=1)
    plan = plan_faces(RestoreConfig(), compute, described())
    assert plan.tiny is not None and plan.tiny.sha256 == tiny_model.sha256 and plan.selection.model == FACE_MODEL
    engine = Restoration(plan, described(), 4).restore[0]._network  # type: ignore[attr-defined]
    assert isinstance(engine, SizedFaceEngine) and engine.lookahead == 2
    assert select_tiny_engine(compute, RestoreConfig(min_face=HANDOVER[1]), 64, 96, plan.selection) is None
    by_name = plan_faces(RestoreConfig(model=TINY_MODEL), compute, described())
    assert by_name.tiny is None and by_name.tiny_model == TINY_MODEL
    options = UpscaleConfig(compute=compute)
    weights = chosen_weights(options)
    assert weights.tiny_model == tiny_model.sha256 and tiny_model.sha256 in weights.digests()
    assert planned_weights(plan.selection, None, plan).tiny_model == tiny_model.sha256


def described() -> VideoInfo:
    return VideoInfo("a", "none", 0, "none", 96, 64, "rgb24", 8, Fraction(1, 25), Color())


def test_its_recipe_is_shipped() -> None:
    assert (models_folder() / "recipes" / f"{TINY_MODEL}.toml").is_file()
