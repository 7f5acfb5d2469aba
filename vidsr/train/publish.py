"""Publishing of a trained model: weights or graph, a stored numeric example, and the card."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

import vidsr
from vidsr.errors import UsageError
from vidsr.faces.yunet import Yunet
from vidsr.models.cards import models_folder
from vidsr.models.onnx_export import detector_graph
from vidsr.models.registry import build
from vidsr.models.writing import write_detector, write_model
from vidsr.nets.facepyramid import FacePyramid
from vidsr.runtime.device import choose_device, trains_in_bf16
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.detector.recipe import DetectorRecipe
from vidsr.train.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Provenance:
    """The facts on a card that are neither in the recipe nor in the checkpoint."""

    licence: str
    data: str
    data_licences: str
    hardware: str


def publish_model(recipe: Recipe, recipe_path: Path, checkpoint: Path, folder: Path, provenance: Provenance) -> Path:
    """Writes NAME.safetensors, NAME.golden.npz and NAME.toml into `folder`; returns the card's path.

    The weights are the averaged ones of `checkpoint`, rounded to fp16. The card's metrics stay empty: they are measured
    with the published files (`python -m benchmarks.quality`), not copied from training.
    """
    saved = _load_checkpoint_of(recipe, checkpoint)
    network = build(recipe.architecture, recipe.network)
    network.load_state_dict({name: tensor.to(torch.float16).float() for name, tensor in saved["average"].items()})
    facts = _facts(recipe, recipe_path, int(saved["step"]), provenance)
    return write_model(folder, _head(recipe), network, torch.float16, np.float16, facts)


def publish_detector(
    recipe: DetectorRecipe, recipe_path: Path, checkpoint: Path, folder: Path, provenance: Provenance
) -> Path:
    """Writes NAME.onnx, NAME.golden.npz and NAME.toml into `folder`; returns the card's path.

    The weights are the averaged ones of `checkpoint`, in float32, with the recipe's `score_shift`. The card's metrics
    stay empty: they are measured with the published file (`python -m benchmarks.faces`).
    """
    saved = _load_checkpoint_of(recipe, checkpoint)
    network = cast(FacePyramid, build(recipe.architecture, recipe.network))
    network.load_state_dict(saved["average"])
    network.shift_scores(recipe.score_shift)
    facts = _facts(recipe, recipe_path, int(saved["step"]), provenance)
    sizes = dataclasses.asdict(network.config)
    return write_detector(folder, _head(recipe), detector_graph(network), sizes, facts, _run_detector)


def _load_checkpoint_of(recipe: Recipe | DetectorRecipe, checkpoint: Path) -> dict[str, Any]:
    saved = load_checkpoint(checkpoint)
    if saved["recipe"]["name"] != recipe.name:
        raise UsageError(
            f"{checkpoint} holds '{saved['recipe']['name']}', not '{recipe.name}': give its --output folder"
        )
    return saved


def _head(recipe: Recipe | DetectorRecipe) -> dict[str, str]:
    """The fields with which a card begins."""
    return {"name": recipe.name, "summary": recipe.summary, "architecture": recipe.architecture}


def _run_detector(file: Path, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return Yunet(file, torch.device("cpu"), 1).outputs(image)


def provenance_of(
    recipe: Recipe | DetectorRecipe, data: Path, device: str, licence: str | None, data_name: str | None,
    data_licences: str | None,
) -> Provenance:  # fmt: skip
    """Collects the facts for a card that are not in the training files.

    `licence`, `data_name` and `data_licences` are the values of the options of these names. `data_licences` may be None
    if the data has an index: then the card states the recipe's license classes. Raises UsageError for a missing fact,
    DeviceError for a device that does not exist.
    """
    if data_licences is None and (data / "index.json").is_file():
        data_licences = "classes " + " and ".join(recipe.data.licence_classes)
    values = {"--licence": licence, "--data-name": data_name, "--data-licences": data_licences}
    if missing := [option for option, value in values.items() if not value]:
        raise UsageError(
            f"a published model's card needs {' and '.join(missing)}: add {'it' if len(missing) == 1 else 'them'}"
        )
    assert licence and data_name and data_licences, "checked above"
    return Provenance(licence, data_name, data_licences, _hardware(choose_device(device)))


def _facts(recipe: Recipe | DetectorRecipe, recipe_path: Path, steps: int, provenance: Provenance) -> dict[str, Any]:
    is_shipped = recipe_path.resolve().parent == (models_folder() / "recipes").resolve()
    return {
        "licence": provenance.licence,
        "recipe": f"recipes/{recipe_path.name}" if is_shipped else recipe_path.name,
        "recipe_commit": package_commit(),
        "seed": recipe.seed,
        "steps": steps,
        "hardware": provenance.hardware,
        "date": datetime.date.today().isoformat(),
        "data": provenance.data,
        "data_licences": provenance.data_licences,
        "metrics_command": "",
        "metrics": {},
    }


def _hardware(device: torch.device) -> str:
    """The description of the training device, with the precision of its convolutions."""
    precision = "bf16" if trains_in_bf16(device) else "fp32"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {precision}"
    if device.type == "cpu":
        return f"{torch.get_num_threads()} threads on {os.cpu_count()} CPU cores, {platform.machine()}, {precision}"
    return f"{device.type}, {platform.machine()}, {precision}"


def package_commit(package: Path = Path(vidsr.__file__).parent) -> str:
    """The commit of the checkout that vidsr runs from, with "-dirty" if it was changed; else "unknown".

    For an installed package it is "unknown", even if its environment lies inside another repository.
    """
    root = package.resolve().parent
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return answer.stdout.strip() or "unknown"
