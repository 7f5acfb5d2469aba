"""The face detector that comes with vidsr: its card, found, checked and tried on its stored example."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.faces.yunet import Yunet
from vidsr.models.cards import DETECTOR, Card, fill_card, models_folder, read_card_table
from vidsr.nets import build_detector


@dataclass(frozen=True, slots=True)
class DetectorCard(Card):
    """The detector that vidsr trained. `metrics` are of `python -m benchmarks.faces`."""

    recipe: str
    recipe_commit: str
    seed: int
    steps: int
    hardware: str
    data: str
    data_licences: str
    metrics_command: str
    metrics: Mapping[str, float]


def detector_card(folder: Path | None = None) -> DetectorCard:
    """The card of the shipped detector, or of that in another folder; raises ModelError if it is none."""
    path = (folder or models_folder()) / f"{DETECTOR}.toml"
    return fill_card(DetectorCard, read_card_table(path), path)


def shipped_detector(folder: Path | None = None) -> Path:
    """The file of the shipped detector; raises ModelError unless it is there and is what its card says."""
    card = detector_card(folder)
    card.check_weights()
    return card.weights_path


def verify_detector(folder: Path | None = None) -> float:
    """Runs the stored example on the CPU; returns the largest difference of an output.

    Raises ModelError if a file is not what the card says or the difference is above GOLDEN_TOLERANCE.
    """
    card = detector_card(folder)
    outputs = Yunet(shipped_detector(folder), torch.device("cpu"), 1).outputs
    stored = card.read_golden()
    found = outputs(stored.pop("input").astype(np.float32))
    return card.check_difference(max(_distance(found[name], value) for name, value in stored.items()))


def describe_detector(folder: Path | None = None) -> dict[str, Any]:
    """The card as plain values, with the parameters of each part and the work for each pixel of the picture."""
    from torch.utils.flop_counter import FlopCounterMode

    card = detector_card(folder)
    values = dataclasses.asdict(card) | {"trained": True}
    del values["path"]
    network, side = build_detector(card.architecture, card.network).eval(), 64
    parts = {part: sum(p.numel() for p in module.parameters()) for part, module in network.named_children()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    return values | {
        "parameters": parts | {"total": sum(parts.values())},
        "multiply_adds_per_pixel": counter.get_total_flops() / 2 / side**2,
    }


def _distance(found: NDArray[np.float32], stored: NDArray[np.float32]) -> float:
    if found.shape != stored.shape:
        return float("inf")
    return float(np.abs(found - stored).max(initial=0.0))
