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

from vidsr.cardfile import check_file, fill_card, read_card_table
from vidsr.errors import ModelError
from vidsr.nets import build_detector
from vidsr.presets import DETECTOR, models_folder
from vidsr.stages.yunet import Yunet
from vidsr.weights import GOLDEN_TOLERANCE


@dataclass(frozen=True, slots=True)
class DetectorCard:
    """What is to be known of the detector's file; every field is required. `metrics` are of benchmarks/faces.py."""

    name: str
    summary: str
    architecture: str
    network: Mapping[str, Any]
    file: str
    bytes: int
    sha256: str
    golden: str
    golden_sha256: str
    licence: str
    recipe: str
    recipe_commit: str
    seed: int
    steps: int
    hardware: str
    date: str
    data: str
    data_licences: str
    metrics_command: str
    metrics: Mapping[str, float]
    path: Path

    @property
    def model_path(self) -> Path:
        """Where the file lies: beside the card."""
        return self.path.parent / self.file

    @property
    def golden_path(self) -> Path:
        """The stored numeric example, beside the card."""
        return self.path.parent / self.golden


def detector_card(folder: Path | None = None) -> DetectorCard:
    """The card of the shipped detector, or of that in another folder; raises ModelError if it is none."""
    path = (folder or models_folder()) / f"{DETECTOR}.toml"
    return fill_card(DetectorCard, read_card_table(path), path)


def shipped_detector(folder: Path | None = None) -> Path:
    """The file of the shipped detector; raises ModelError unless it is there and is what its card says."""
    card = detector_card(folder)
    check_file(card.model_path, card.sha256, card.bytes)
    return card.model_path


def verify_detector(folder: Path | None = None) -> float:
    """Runs the stored example on the CPU; returns the largest difference of an output.

    Raises ModelError if a file is not what the card says or the difference is above GOLDEN_TOLERANCE.
    """
    card = detector_card(folder)
    outputs = Yunet(shipped_detector(folder), torch.device("cpu"), 1).outputs
    check_file(card.golden_path, card.golden_sha256, None)
    with np.load(card.golden_path) as golden:
        stored = {name: golden[name] for name in golden.files}
    found = outputs(stored.pop("input").astype(np.float32))
    difference = max(_distance(found[name], value) for name, value in stored.items())
    if not difference <= GOLDEN_TOLERANCE:
        raise ModelError(f"{card.name} computes something else than stored in {card.golden}: off by {difference:.2g}")
    return difference


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
