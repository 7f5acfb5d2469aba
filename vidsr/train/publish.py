"""From a finished training to the files of a model: weights or graph, a stored numeric example and the card."""

from __future__ import annotations

import dataclasses
import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.errors import UsageError
from vidsr.faces.yunet import Yunet
from vidsr.models.onnx_export import detector_graph
from vidsr.models.writing import write_detector, write_model
from vidsr.nets import build, build_detector
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.detector.recipe import DetectorRecipe
from vidsr.train.recipe import Recipe


def publish_model(recipe: Recipe, recipe_path: Path, checkpoint: Path, folder: Path) -> Path:
    """Writes NAME.safetensors, NAME.golden.npz and NAME.toml into `folder`; returns the card's path.

    The weights are the averaged ones of `checkpoint`, rounded to fp16. The metrics of the card are empty: they are
    measured with the published files (`python -m benchmarks.quality`), never copied from training.
    """
    saved = load_checkpoint(checkpoint)
    if saved["recipe"]["name"] != recipe.name:
        raise UsageError(f"{checkpoint} holds '{saved['recipe']['name']}', not '{recipe.name}'")
    network = build(recipe.architecture, recipe.network)
    network.load_state_dict({name: tensor.to(torch.float16).float() for name, tensor in saved["average"].items()})
    head = {"name": recipe.name, "summary": recipe.summary, "architecture": recipe.architecture}
    facts = _facts(recipe, recipe_path, int(saved["step"]))
    return write_model(folder, head, network, torch.float16, np.float16, facts)


def publish_detector(recipe: DetectorRecipe, recipe_path: Path, checkpoint: Path, folder: Path) -> Path:
    """Writes NAME.onnx, NAME.golden.npz and NAME.toml into `folder`; returns the card's path.

    The weights are the averaged ones of `checkpoint`, in float32, with the recipe's `score_shift`. The metrics of the
    card are empty: they are measured with the published file (`python -m benchmarks.faces`).
    """
    saved = load_checkpoint(checkpoint)
    if saved["recipe"]["name"] != recipe.name:
        raise UsageError(f"{checkpoint} holds '{saved['recipe']['name']}', not '{recipe.name}'")
    network = build_detector(recipe.architecture, recipe.network)
    network.load_state_dict(saved["average"])
    network.shift_scores(recipe.score_shift)
    head = {"name": recipe.name, "summary": recipe.summary, "architecture": recipe.architecture}
    facts = _facts(recipe, recipe_path, int(saved["step"]))
    sizes = dataclasses.asdict(network.config)
    return write_detector(folder, head, detector_graph(network), sizes, facts, _run_detector)


def _run_detector(file: Path, image: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    return Yunet(file, torch.device("cpu"), 1).outputs(image)


def _facts(recipe: Recipe | DetectorRecipe, recipe_path: Path, steps: int) -> dict[str, Any]:
    return {
        "licence": "Apache-2.0",
        "recipe": f"recipes/{recipe_path.name}",
        "recipe_commit": _commit(),
        "seed": recipe.seed,
        "steps": steps,
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}, bf16",
        "date": datetime.date.today().isoformat(),
        "data": "curated set of clips and photographs, training split",
        "data_licences": "classes " + " and ".join(recipe.data.licence_classes),
        "metrics_command": "",
        "metrics": {},
    }


def _commit() -> str:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"
