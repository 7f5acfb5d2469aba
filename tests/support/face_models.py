"""Files of small face models with random weights, as if they had been trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from tests.support.tiny_networks import attention_fh_network
from vidsr.models.cards import ModelCard, read_card
from vidsr.models.writing import write_model

FACTS = {"licence": "none", "date": "2026-01-01", "origin": "random", "origin_sha256": "none"}


def attention_model(folder: Path, **arguments: int) -> ModelCard:
    """The card of an Attention-FH in `folder`, which enlarges by 4 with 2 boxes."""
    head = {"name": "attention-fh-fast", "summary": "a test", "architecture": "attention-fh"}
    network = attention_fh_network("fast", **arguments)
    card = read_card(write_model(folder, head, network, torch.float32, np.float32, FACTS))
    assert isinstance(card, ModelCard)
    return card
