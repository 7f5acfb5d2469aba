"""Model cards and presets: what is known about a model's files, where they lie, and whether they are intact."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from vidsr.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray

C = TypeVar("C", bound="Card")

# Float32 on another processor sums in another order; a wrong weight moves the output by far more.
GOLDEN_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Card:
    """What is to be known of any model's file; every field of a card is required, those of its kind too."""

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
    date: str
    path: Path

    @property
    def weights_path(self) -> Path:
        """Where the weights lie: beside the card."""
        return self.path.parent / self.file

    @property
    def golden_path(self) -> Path:
        """The stored numeric example, beside the card."""
        return self.path.parent / self.golden

    def check_weights(self) -> None:
        """Raises ModelError unless the weights are there and are what the card says."""
        check_file(self.weights_path, self.sha256, self.bytes)

    def read_golden(self) -> dict[str, NDArray[Any]]:
        """The arrays of the stored example; raises ModelError unless it is what the card says."""
        import numpy as np

        check_file(self.golden_path, self.golden_sha256, None)
        with np.load(self.golden_path) as golden:
            return {name: golden[name] for name in golden.files}

    def check_difference(self, difference: float) -> float:
        """Gives it back; raises ModelError if the example is missed by more than GOLDEN_TOLERANCE."""
        if not difference <= GOLDEN_TOLERANCE:
            raise ModelError(
                f"{self.name} computes something else than stored in {self.golden}: off by {difference:.2g}"
            )
        return difference


def read_card_table(path: Path) -> dict[str, Any]:
    """A card's fields as they stand; raises ModelError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ModelError(f"cannot read the model card {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"the model card {path} is not valid TOML: {error}") from error


def fill_card(kind: type[C], table: dict[str, Any], path: Path) -> C:
    """A card of this kind; raises ModelError if a field lacks, is too many or holds no such value."""
    fields = {field.name for field in dataclasses.fields(kind)} - {"path"}
    if wrong := sorted(fields ^ set(table)):
        state = "misses" if wrong[0] in fields else "has the unknown"
        raise ModelError(f"the model card {path} {state} field '{wrong[0]}'")
    for name, value in table.items():
        if not _is_right_kind(name, value):
            raise ModelError(f"the model card {path} has an impossible value in its field '{name}'")
    return kind(**table | {"path": path})


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: Path, sha256: str, size: int | None) -> None:
    """Raises ModelError if a file is missing or is not the one with this SHA-256 and, if given, size in bytes."""
    if not path.is_file():
        raise ModelError(f"the model file {path} is missing")
    if size is not None and path.stat().st_size != size:
        raise ModelError(f"the model file {path} has {path.stat().st_size} bytes, its card says {size}: fetch it again")
    if sha256_of(path) != sha256:
        raise ModelError(f"the model file {path} is not the one its card describes (SHA-256 differs): fetch it again")


def _is_right_kind(name: str, value: Any) -> bool:
    """Whether a card's field may hold the value; `type`, because for `isinstance` true is a whole number."""
    if name == "network":
        return type(value) is dict  # what the architecture makes of it is said by `build`
    if name == "metrics":
        return type(value) is dict and all(type(figure) in (int, float) for figure in value.values())
    return type(value) is (int if name in ("scale", "lookahead", "bytes", "seed", "steps") else str)


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
    here = Path(__file__).resolve().parent
    for folder in (here / "shipped", here.parent.parent / "models"):
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


def own_models_folder() -> Path:
    """The folder of this user's models: `vidsr/models` in the system's data folder for users (XDG_DATA_HOME counts)."""
    from platformdirs import user_data_path

    return user_data_path("vidsr", appauthor=False) / "models"


def resolve_model(name: str) -> str:
    """The path of the card if the user has a model of this name, which then stands for a shipped one; else `name`."""
    card = own_models_folder() / f"{name}.toml"
    return str(card) if Path(name).name == name and card.is_file() else name
