"""Files of small face models with random weights, as if they had been trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import vidsr.engines.select
from tests.support.tiny_networks import attention_fh_network
from tests.unit.test_conditioning import conditioned_network
from vidsr.engines.select import DEGRADED_FACE_MODEL
from vidsr.faces import handover
from vidsr.models import cards
from vidsr.models.cards import ModelCard, list_cards, read_card
from vidsr.models.writing import write_model

FACTS = {"licence": "none", "date": "2026-01-01", "origin": "random", "origin_sha256": "none"}


def attention_model(folder: Path, **arguments: int) -> ModelCard:
    """The card of an Attention-FH in `folder`, which enlarges by 4 with 2 boxes."""
    head = {"name": "attention-fh-fast", "summary": "a test", "architecture": "attention-fh"}
    network = attention_fh_network("fast", **arguments)
    card = read_card(write_model(folder, head, network, torch.float32, np.float32, FACTS))
    assert isinstance(card, ModelCard)
    return card


def degraded_face_model(folder: Path) -> ModelCard:
    """The card of a SECNet with an estimator in `folder`, with the name of the face model for degraded videos."""
    head = {"name": DEGRADED_FACE_MODEL, "summary": "a test", "architecture": "secnet"}
    network = conditioned_network(t1=2, t2=2, attention=True, mirrored=True)
    card = read_card(write_model(folder, head, network, torch.float32, np.float32, FACTS))
    assert isinstance(card, ModelCard)
    return card


def ship(monkeypatch: pytest.MonkeyPatch, name: str, card: ModelCard | None) -> None:
    """Makes `card` the shipped model of this name; None: there is none."""
    shipped = [each for each in list_cards() if each.name != name] + ([] if card is None else [card])

    def listed(folder: Path | None = None) -> list[ModelCard]:
        return shipped if folder is None else list_cards(folder)

    for module in (cards, handover, vidsr.engines.select):
        monkeypatch.setattr(module, "list_cards", listed)
