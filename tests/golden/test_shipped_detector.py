"""The shipped face detector: its card, its file, and the errors when they are invalid."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from vidsr.cli import app
from vidsr.errors import ModelError
from vidsr.models.cards import detector_card, find_card, list_cards, models_folder
from vidsr.models.loading import describe, load_network, verify
from vidsr.models.registry import build
from vidsr.train.detector.recipe import load_detector_recipe


def models(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["models", *arguments])


def test_the_shipped_detector_is_whole_and_its_card_complete() -> None:
    assert verify(detector_card()) <= 1e-3
    card = detector_card()
    recipe = load_detector_recipe(models_folder() / card.recipe)
    assert (card.name, card.architecture, card.seed) == (recipe.name, recipe.architecture, recipe.seed)
    network = build(card.architecture, card.network)
    assert network.config == build(recipe.architecture, recipe.network).config
    assert recipe.data.licence_classes == ("A", "B")
    assert card.licence == "Apache-2.0" and card.metrics and card.metrics_command
    described = describe("face-detector")
    assert described["parameters"]["total"] == sum(p.numel() for p in network.parameters()) < 200_000


def test_models_command_lists_it_and_no_engine_accepts_it() -> None:
    listed = json.loads(models("list", "--json").stdout)
    assert [entry["trained"] for entry in listed if entry["name"] == "face-detector"] == [True]
    assert "face-detector" in models("list").stderr
    shown = json.loads(models("show", "face-detector", "--json").stdout)
    assert shown["sha256"] == detector_card().sha256 and shown["metrics"] == detector_card().metrics
    for arguments in ([], ["face-detector"]):
        result = models("verify", *arguments)
        assert result.exit_code == 0 and "face-detector: intact" in result.stderr
    assert "face-detector" not in {card.name for card in list_cards()}
    assert find_card("face-detector") == detector_card()
    with pytest.raises(ModelError, match="is an ONNX file already"):
        load_network(detector_card())
