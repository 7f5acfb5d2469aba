"""Faces in degraded videos: which face model is chosen behind which model for the frames, and what it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.laws.test_conditioned_faces import CPU, changing
from tests.laws.test_face_engine import run
from tests.media.test_restoration import PLACES, assert_only_faces_differ, changes, room, run_of, upscale  # noqa: F401
from tests.support import media
from tests.support.face_models import degraded_face_model, ship
from vidsr.config import CleaningConfig, ComputeConfig, RestoreConfig, UpscaleConfig
from vidsr.engines.select import DEFAULT_MODELS, DEGRADED_FACE_MODEL, DEGRADED_MODEL
from vidsr.errors import ModelError
from vidsr.faces.engine import (
    DEGRADED_REFERENCE_MODEL,
    REFERENCE_MODEL,
    FaceEngine,
    build_face_engine,
    face_model_name,
    select_face_engine,
)
from vidsr.faces.handover import BodyModel, fitting_face_model, wants_faces
from vidsr.models.cards import ModelCard, find_card, list_presets
from vidsr.models.loading import load_network
from vidsr.pipeline.plan import Plan, plan
from vidsr.pipeline.signature import chosen_weights, sign
from vidsr.types import Crop

FACE_MODEL = DEFAULT_MODELS["restore_face"]
DEGRADED = ("--model", DEGRADED_MODEL)


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """The face model for degraded videos, as if vidsr came with its weights."""
    card = degraded_face_model(tmp_path / "models")
    ship(monkeypatch, DEGRADED_FACE_MODEL, card)
    return card


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    ship(monkeypatch, DEGRADED_FACE_MODEL, None)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "a.mp4", 3)


def options(body: str, cleaning: CleaningConfig | None = None, **faces: Any) -> UpscaleConfig:
    compute = ComputeConfig(model=body, device="cpu", threads=1)
    return UpscaleConfig(compute=compute, cleaning=cleaning or CleaningConfig(), faces=RestoreConfig(**faces))


def planned(video: Path, wanted: UpscaleConfig) -> Plan:
    """The plan, whose signature is the one that is looked for where there is no plan."""
    found = plan(video, video.with_name("b.mp4"), wanted)
    assert found.written_video.signature == str(sign(video, wanted, chosen_weights(wanted)))
    return found


# ---------------------------------------------------------------------------------------------------------- the choice

LEVELS = CleaningConfig(denoise=0.5)


@pytest.mark.parametrize(
    ("model", "cleaning", "use", "with_weights", "without"),
    [
        (DEGRADED_MODEL, None, None, DEGRADED_FACE_MODEL, None),
        (DEGRADED_MODEL, None, True, DEGRADED_FACE_MODEL, FACE_MODEL),
        (DEGRADED_MODEL, LEVELS, None, DEGRADED_FACE_MODEL, None),
        (DEGRADED_MODEL, None, False, None, None),
        ("auto", LEVELS, None, DEGRADED_FACE_MODEL, None),
        ("auto", LEVELS, True, DEGRADED_FACE_MODEL, FACE_MODEL),
        ("secnet-fast-x2", None, None, DEGRADED_FACE_MODEL, None),
        ("secnet-fast", None, None, FACE_MODEL, FACE_MODEL),
        ("cajnn-fast", None, None, FACE_MODEL, FACE_MODEL),
        (FACE_MODEL, None, None, None, None),
        (FACE_MODEL, None, True, FACE_MODEL, FACE_MODEL),
        ("bicubic", None, None, None, None),
    ],
)
def test_the_face_model_follows_the_model_for_the_frames(
    monkeypatch: pytest.MonkeyPatch, video: Path, model: str, cleaning: CleaningConfig | None, use: bool | None,
    with_weights: str | None, without: str | None,
) -> None:  # fmt: skip
    wanted = options(model, cleaning, use=use)
    for card, expected in ((degraded_face_model(video.parent), with_weights), (None, without)):
        ship(monkeypatch, DEGRADED_FACE_MODEL, card)
        assert planned(video, wanted).face_model == expected


def test_what_is_no_face_model_for_it() -> None:
    assert fitting_face_model(BodyModel("any", is_foreign=True)) is None
    assert not wants_faces(UpscaleConfig(), BodyModel("any", is_foreign=True))
    assert BodyModel.of(find_card(DEGRADED_MODEL)) == BodyModel(DEGRADED_MODEL, has_estimator=True)


@pytest.mark.usefixtures("shipped")
def test_a_face_model_by_name_is_taken_as_it_is(video: Path) -> None:
    found = planned(video, options(DEGRADED_MODEL, LEVELS, model=FACE_MODEL))
    assert found.faces is not None and found.face_model == FACE_MODEL
    assert found.faces.selection.levels == (None, None, None), "it has no estimator"
    by_name = planned(video, options("secnet-fast", model=DEGRADED_FACE_MODEL))
    assert by_name.face_model == DEGRADED_FACE_MODEL
    assert not wants_faces(options(DEGRADED_FACE_MODEL), BodyModel(DEGRADED_FACE_MODEL, has_estimator=True))


def test_levels_reach_the_face_model(shipped: ModelCard, video: Path) -> None:
    wanted = options("auto", CleaningConfig(deblur=0.25, deblock=0.75))
    found = planned(video, replace(wanted, compute=replace(wanted.compute, precision="fp32")))
    assert found.faces is not None
    levels = found.engine.levels
    assert found.faces.selection.levels == levels == (0.25, None, 0.75)
    network, crop = load_network(shipped), Crop(8, 8, 24, 16)
    engines = build_face_engine(found.faces.selection, 0), FaceEngine(network, CPU, "fp32", levels=levels)
    built, direct = (run(engine, changing(3), [{1: crop}] * 3)[1] for engine in engines)
    assert all(torch.equal(one.image, other.image) for one, other in zip(built, direct, strict=True))
    estimated = planned(video, options(DEGRADED_MODEL))
    assert estimated.faces is not None and estimated.faces.selection.levels == (None, None, None)


def test_reference_photographs_have_a_model_for_clean_and_one_for_degraded_videos(video: Path) -> None:
    """Whether or not there is a face model for degraded videos without photographs."""
    bodies = {body: BodyModel.of(find_card(body)) for body in ("secnet-fast", DEGRADED_MODEL)}
    assert face_model_name("auto", True, bodies["secnet-fast"]) == face_model_name("auto", True) == REFERENCE_MODEL
    assert face_model_name("auto", True, bodies[DEGRADED_MODEL]) == DEGRADED_REFERENCE_MODEL
    assert face_model_name("auto", True, BodyModel("any", has_estimator=True, is_foreign=True)) == REFERENCE_MODEL
    assert face_model_name("mine.toml", True, bodies[DEGRADED_MODEL]) == "mine.toml"
    for name in (REFERENCE_MODEL, DEGRADED_REFERENCE_MODEL):
        assert select_face_engine(ComputeConfig(), 64, 64, name, wants_references=True).model == name


@pytest.mark.usefixtures("untrained")
def test_without_its_weights_it_says_how_to_train_it(video: Path) -> None:
    assert DEGRADED_FACE_MODEL in {preset.name for preset in list_presets()}
    with pytest.raises(ModelError, match=f"'{DEGRADED_FACE_MODEL}' comes without weights: train it with"):
        plan(video, video.with_name("b.mp4"), options(DEGRADED_MODEL, use=True, model=DEGRADED_FACE_MODEL))


def test_the_signature_knows_the_face_model(shipped: ModelCard, video: Path) -> None:
    wanted = options(DEGRADED_MODEL)
    assert chosen_weights(wanted).face_model == shipped.sha256
    assert chosen_weights(replace(wanted, faces=RestoreConfig(use=False))).face_model is None


# ---------------------------------------------------------------------------------------------------- from file to file


@pytest.mark.usefixtures("shipped")
def test_faces_of_degraded_videos_are_restored(room: Path, tmp_path: Path) -> None:  # noqa: F811
    """By default, and only where faces are."""
    upscale(room, "video.mkv", tmp_path / "plain.mkv", *DEGRADED, "--no-faces")
    upscale(room, "video.mkv", tmp_path / "faces.mkv", *DEGRADED, "--report", tmp_path / "r.json")
    assert_only_faces_differ(changes(room, tmp_path / "plain.mkv", tmp_path / "faces.mkv"), PLACES)
    report = run_of(tmp_path / "r.json")
    assert (report["model"], report["face_model"]) == (DEGRADED_MODEL, DEGRADED_FACE_MODEL)
    assert [each["restored"] > 0 for each in report["faces"]] == [True] * 3
