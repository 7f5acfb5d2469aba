"""From a finished training to the files of a model: fp16 weights, a stored numeric example and the card."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from vidsr.errors import UsageError
from vidsr.nets import build
from vidsr.train.checkpoint import load_checkpoint
from vidsr.train.recipe import Recipe
from vidsr.weights import run_golden, sha256_of

GOLDEN_SHAPE = (4, 3, 16, 12)


def publish_model(recipe: Recipe, recipe_path: Path, checkpoint: Path, folder: Path) -> Path:
    """Writes NAME.safetensors, NAME.golden.npz and NAME.toml into `folder`; returns the card's path.

    The weights are the averaged ones of `checkpoint`, rounded to fp16. The metrics of the card are empty: they are
    measured with the published files (see benchmarks/quality.py), never copied from training.
    """
    saved = load_checkpoint(checkpoint)
    if saved["recipe"]["name"] != recipe.name:
        raise UsageError(f"{checkpoint} holds '{saved['recipe']['name']}', not '{recipe.name}'")
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: tensor.to(torch.float16).contiguous() for name, tensor in saved["average"].items()}
    weights, golden = folder / f"{recipe.name}.safetensors", folder / f"{recipe.name}.golden.npz"
    _replace(weights, lambda path: save_file(half, str(path)))
    network = build(recipe.architecture, recipe.network)
    network.load_state_dict({name: tensor.float() for name, tensor in half.items()})
    generator = np.random.default_rng(7)
    # Smooth pictures that move, so that the flow network has something to find.
    coarse = generator.integers(0, 256, (GOLDEN_SHAPE[0], 3, 4, 3)).astype(np.uint8)
    clip = coarse.repeat(4, axis=2).repeat(4, axis=3)
    clip = np.stack([np.roll(clip[0], shift, axis=2) for shift in range(GOLDEN_SHAPE[0])])
    output = run_golden(network.eval(), clip)
    _replace(golden, lambda path: np.savez_compressed(path, input=clip, output=output.astype(np.float16)))
    card = {
        "name": recipe.name,
        "summary": recipe.summary,
        "architecture": recipe.architecture,
        "scale": network.config.scale,
        "lookahead": network.config.lookahead,
        "file": weights.name,
        "bytes": weights.stat().st_size,
        "sha256": sha256_of(weights),
        "golden": golden.name,
        "golden_sha256": sha256_of(golden),
        "licence": "Apache-2.0",
        "recipe": f"recipes/{recipe_path.name}",
        "recipe_commit": _commit(),
        "seed": recipe.seed,
        "steps": int(saved["step"]),
        "hardware": f"{os.cpu_count()} CPU cores, {platform.machine()}, bf16",
        "date": datetime.date.today().isoformat(),
        "data": "curated set of clips and photographs, training split",
        "data_licences": "classes " + " and ".join(recipe.data.licence_classes),
        "metrics_command": "",
    }
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in card.items()]
    lines += [
        "",
        "[network]",
        *(f"{key} = {json.dumps(value)}" for key, value in dataclasses.asdict(network.config).items()),
        "",
        "[metrics]",
        "",
    ]
    path = folder / f"{recipe.name}.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def _replace(target: Path, write: Callable[[Path], None]) -> None:
    temporary = target.with_name(f".{os.getpid()}.{target.name}")
    write(temporary)
    temporary.chmod(0o644)
    temporary.replace(target)


def _commit() -> str:
    answer = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"
