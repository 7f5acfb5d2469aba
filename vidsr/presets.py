"""The model presets by name: recipes in the models folder say what each one is; cards say which have weights."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vidsr.errors import ModelError

DETECTOR = "face-detector"  # its recipe makes no preset, and its card is read by stages/shipped.py
RELEASED = ("zsm",)  # presets whose architecture's authors have released weights, which a user may import


@dataclass(frozen=True, slots=True)
class Preset:
    """What a recipe says of the model that it makes; `network` are the architecture's arguments."""

    name: str
    summary: str
    architecture: str
    network: Mapping[str, Any]
    recipe: Path

    @property
    def train_command(self) -> str:
        """What makes the weights, and a card beside them."""
        return f"vidsr train {self.recipe} --data DIR --output runs/{self.name} --publish FOLDER"

    @property
    def import_command(self) -> str | None:
        """What makes a model of the authors' released weights; None where there are none."""
        return f"vidsr models import {self.name} FILE" if self.name in RELEASED else None

    @property
    def remedy(self) -> str:
        """How a user comes by weights, as the end of a sentence."""
        train = f"train it with '{self.train_command}', then give --model FOLDER/{self.name}.toml"
        if self.import_command is None:
            return train
        return f"{train}; or import the authors' checkpoint with '{self.import_command}'"


def models_folder() -> Path:
    """The folder of the shipped cards and recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "models", package.parent / "models"):
        if folder.is_dir():
            return folder
    raise ModelError("the shipped models are missing: install vidsr again")


def list_presets() -> list[Preset]:
    """All presets by name, with and without weights; raises ModelError for a recipe that cannot be read."""
    presets = []
    for path in sorted((models_folder() / "recipes").glob("*.toml")):
        if path.stem == DETECTOR:
            continue
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
            presets.append(
                Preset(table["name"], table["summary"], table["architecture"], table.get("network", {}), path)
            )
        except (OSError, ValueError, KeyError) as error:
            raise ModelError(f"the recipe {path} cannot be read: {error}; install vidsr again") from error
    return sorted(presets, key=lambda preset: preset.name)
