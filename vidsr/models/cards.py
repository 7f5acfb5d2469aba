"""Model cards and presets: description, location and integrity of a model's files."""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidsr.errors import ModelError
from vidsr.models.registry import architecture_of, released_weights
from vidsr.toml import fill, read_table, shortened

if TYPE_CHECKING:
    from numpy.typing import NDArray

# The largest published network has 46 MB of weights in float32; reading and hashing more would take long.
LARGEST_MODEL_FILE = 512 << 20
LARGEST_EXAMPLE = 16 << 20  # bytes of a stored example, unpacked; the shipped ones have up to 0.2 MB
LONGEST_NAME = 100
# Covers float32 sums in another order on another processor; a wrong weight changes the output by far more.
GOLDEN_TOLERANCE = 1e-3
DETECTOR = "face-detector"  # name of the shipped detector
# How the names of other people's models end; `models/zoo.py` imports them.
FOREIGN_ENDINGS = (".pth", ".pt", ".ckpt", ".safetensors", ".onnx")


@dataclass(frozen=True, slots=True)
class Card:
    """The fields that all model cards have. Every field is required, and so are those of a subclass."""

    name: str
    summary: str
    architecture: str
    network: Mapping[str, Any] = field(hash=False)
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
        """The weight file, beside the card."""
        return self.path.parent / self.file

    @property
    def golden_path(self) -> Path:
        """The stored numeric example, beside the card."""
        return self.path.parent / self.golden

    def check_weights(self) -> None:
        """Raises ModelError if the weight file is missing or differs from the card in size or SHA-256."""
        check_file(self.weights_path, self.sha256, self.bytes)

    def read_golden(self) -> dict[str, NDArray[Any]]:
        """The arrays of the stored example, at least "input" (uint8).

        Raises ModelError if the file is missing, its SHA-256 differs, or it is no such file; no pickle in it is run.
        """
        check_file(self.golden_path, self.golden_sha256, None, LARGEST_EXAMPLE)
        try:
            arrays = _read_arrays(self.golden_path)
        except Exception as error:  # NumPy, zipfile and zlib raise many kinds for a damaged file
            reason = shortened(" ".join(str(error).split()))
            raise ModelError(f"the stored example {self.golden_path} cannot be read: {reason}") from error
        if "input" not in arrays or arrays["input"].dtype != "uint8" or len(arrays) < 2:
            raise ModelError(f"the stored example {self.golden_path} has no input of type uint8, or no output")
        for name, array in arrays.items():
            if array.dtype.kind not in "fu" or array.size == 0:
                raise ModelError(f"the stored example {self.golden_path} is misshapen: '{name}' holds no numbers")
        return arrays

    def check_difference(self, difference: float) -> float:
        """Returns `difference`; raises ModelError if it exceeds GOLDEN_TOLERANCE."""
        if not difference <= GOLDEN_TOLERANCE:
            raise ModelError(
                f"{self.name} does not reproduce its stored example {self.golden}: the largest difference is "
                f"{difference:.2g}: fetch the model again"
            )
        return difference


@dataclass(frozen=True)
class Training:
    """The provenance of a model that vidsr trained. `metrics` are measured by `metrics_command`."""

    # Without slots, because Python cannot combine two base classes with slots.
    recipe: str
    recipe_commit: str
    seed: int
    steps: int
    hardware: str
    data: str
    data_licences: str
    metrics_command: str
    metrics: Mapping[str, float] = field(hash=False)


@dataclass(frozen=True, slots=True)
class ModelCard(Card):
    """The card of a model that produces frames."""

    scale: int
    lookahead: int


@dataclass(frozen=True, slots=True)
class TrainedCard(Training, ModelCard):
    """The card of a model that vidsr trained, as all shipped ones are. `metrics` are in dB or SSIM."""


@dataclass(frozen=True, slots=True)
class ImportedCard(ModelCard):
    """The card of imported weights, released by others; `origin` is the file that they were read from."""

    origin: str
    origin_sha256: str


@dataclass(frozen=True, slots=True)
class DetectorCard(Training, Card):
    """The card of a face detector that vidsr trained. `metrics` come from `python -m benchmarks.faces`."""


def read_card(path: Path) -> Card:
    """Reads a card. Raises ModelError if it cannot be read, or a field is missing, unknown or of the wrong type."""
    table, where = read_table(path, "model card", ModelError), f"the model card {path}"
    if "architecture" not in table:
        raise ModelError(f"{where} is incomplete: 'architecture' is missing")
    kind: type[Card] = ImportedCard if "origin" in table else TrainedCard
    if architecture_of(str(table["architecture"])).tasks == ("detect",):
        kind = DetectorCard
    card = fill(kind, table, where, ModelError, {"path": path})
    for key, value in (("file", card.file), ("golden", card.golden)):
        # A name alone: what a card describes lies beside it. A backslash separates folders on Windows.
        if not value or value in (".", "..") or Path(value).name != value or "\\" in value or "\0" in value:
            raise ModelError(f"{where}: '{key}' must be the name of a file beside the card, not {shortened(value)!r}")
    if not 0 < len(card.name) <= LONGEST_NAME:
        raise ModelError(f"{where}: 'name' must have 1 to {LONGEST_NAME} characters")
    return card


def list_cards(folder: Path | None = None) -> list[ModelCard]:
    """The cards of the shipped models, or of another folder (empty if it does not exist), sorted by file name.

    Face detectors are left out. Raises ModelError for a card that cannot be read, or a shipped one without training
    provenance.
    """
    found = [read_card(path) for path in sorted((folder or models_folder()).glob("*.toml"))]
    cards = [card for card in found if isinstance(card, ModelCard)]
    for card in cards:
        if folder is None and not isinstance(card, TrainedCard):
            raise ModelError(f"the shipped card {card.path} does not say how it was trained: install vidsr again")
    return cards


def known_cards() -> list[ModelCard]:
    """The cards of the user's own and the shipped models; a user's model replaces a shipped one of the same name.

    Raises ModelError for a card that cannot be read.
    """
    cards = {card.name: card for card in (*list_cards(), *list_cards(own_models_folder()))}
    return list(cards.values())


def find_card(name: str) -> Card:
    """The card of a shipped model, or of a card file given by its path.

    Raises ModelError for an unknown name; for a preset without weights the message says how to get them.
    """
    if name.endswith(".toml"):
        return read_card(Path(name))
    if name == DETECTOR:
        return detector_card()
    cards = list_cards()
    for card in cards:
        if card.name == name:
            return card
    for preset in untrained_presets():
        if preset.name == name:
            raise ModelError(f"the model '{name}' comes without weights: {preset.remedy}")
    known = ", ".join(["bicubic", *(card.name for card in cards)])
    raise ModelError(f"unknown model '{name}'; known are {known}, or the path of a model card (.toml)")


def detector_card(folder: Path | None = None) -> DetectorCard:
    """The card of the face detector that is shipped, or lies in another folder. Raises ModelError for another kind."""
    path = (folder or models_folder()) / f"{DETECTOR}.toml"
    card = read_card(path)
    if not isinstance(card, DetectorCard):
        raise ModelError(f"the model card {path} is not a face detector's: install vidsr again")
    return card


def shipped_detector(folder: Path | None = None) -> Path:
    """The file of the shipped detector. Raises ModelError if it is missing or differs from its card."""
    card = detector_card(folder)
    card.check_weights()
    return card.weights_path


def model_files(model: str, detector: Path | None = None) -> list[Path]:
    """The files that a run with this model may read: those of the card, if it is a path, and all shipped ones.

    `model` is as for `find_card`, or any other name; `detector` is the file of `--face-detector`.
    """
    files = [path for path in models_folder().rglob("*") if path.is_file()]
    if model.endswith(".toml"):
        files.append(Path(model))
        with suppress(ModelError):
            card = read_card(Path(model))
            files += [card.weights_path, card.golden_path]
    return files if detector is None else [*files, detector]


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; raises many kinds of exceptions, ValueError for one that unpacks to too much."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > LARGEST_EXAMPLE:
            raise ValueError(f"it unpacks to more than {LARGEST_EXAMPLE >> 20} MB")
        for entry in archive.infolist():
            with archive.open(entry) as file:
                read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = read[np.lib.format.read_magic(file)](file)
                if dtype.hasobject or math.prod(shape) * dtype.itemsize > entry.file_size:
                    raise ValueError("an array is pickled, or claims more values than the file has")
    with np.load(path, allow_pickle=False) as golden:
        return {name: golden[name] for name in golden.files}


def check_file(path: Path, sha256: str, size: int | None, largest: int = LARGEST_MODEL_FILE) -> None:
    """Raises ModelError if a file is missing, has more than `largest` bytes, or differs in its SHA-256 or size.

    `size` is in bytes; None for any.
    """
    if not path.is_file():
        raise ModelError(f"the model file {path} is missing: fetch it again")
    if size is not None and path.stat().st_size != size:
        raise ModelError(f"the model file {path} has {path.stat().st_size} bytes, its card says {size}: fetch it again")
    if path.stat().st_size > largest:
        raise ModelError(f"the model file {path} has more than {largest >> 20} MB, which is more than vidsr reads")
    if sha256_of(path) != sha256:
        raise ModelError(f"the model file {path} is not the one its card describes (SHA-256 differs): fetch it again")


@dataclass(frozen=True, slots=True)
class Preset:
    """The model that a recipe trains; `network` holds the architecture's arguments."""

    name: str
    summary: str
    architecture: str
    network: Mapping[str, Any]
    recipe: Path

    @property
    def train_command(self) -> str:
        """The command that trains the weights and writes a card beside them."""
        facts = "--licence LICENCE --data-name WORDS"
        return f"vidsr train {self.recipe} --data DIR --output runs/{self.name} --publish FOLDER {facts}"

    @property
    def import_command(self) -> str | None:
        """The command that imports the weights released by the authors; None if there are none."""
        return f"vidsr models import {self.name} FILE" if self.name in released_weights() else None

    @property
    def remedy(self) -> str:
        """How a user gets weights, as the end of a sentence."""
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
    """All presets with or without weights, sorted by name, without face detectors.

    Raises ModelError for a damaged recipe.
    """
    presets = []
    for path in sorted((models_folder() / "recipes").glob("*.toml")):
        table = read_table(path, "recipe", ModelError)
        if absent := sorted({"name", "summary", "architecture"} - table.keys()):
            raise ModelError(f"the recipe {path} is incomplete: '{absent[0]}' is missing; install vidsr again")
        preset = Preset(table["name"], table["summary"], table["architecture"], table.get("network", {}), path)
        if architecture_of(preset.architecture).tasks != ("detect",):
            presets.append(preset)
    return sorted(presets, key=lambda preset: preset.name)


def untrained_presets() -> list[Preset]:
    """The presets that are shipped without weights."""
    trained = {card.name for card in list_cards()}
    return [preset for preset in list_presets() if preset.name not in trained]


def own_models_folder() -> Path:
    """The folder of the user's own models: `vidsr/models` in the system's user data folder (XDG_DATA_HOME on Linux)."""
    from platformdirs import user_data_path

    return user_data_path("vidsr", appauthor=False) / "models"


def resolve_model(name: str) -> str:
    """The path of the card if the user has a model of this name, which replaces a shipped one; else `name`.

    The file of somebody else's model (.pth, .safetensors, .onnx) stands for the model that was imported from it. Raises
    ModelError if there is none, or the file cannot be read.
    """
    if Path(name).suffix.lower() in FOREIGN_ENDINGS:
        return str(_imported_from(Path(name)).path)
    card = own_models_folder() / f"{name}.toml"
    return str(card) if Path(name).name == name and card.is_file() else name


def _imported_from(source: Path) -> ModelCard:
    """The user's model that was imported from a file of this content. Raises ModelError without one."""
    if not source.is_file():
        raise ModelError(f"there is no model file {source}: check its path")
    try:
        digest = sha256_of(source)
    except OSError as error:
        raise ModelError(f"cannot read {source}: {error.strerror}") from error
    for card in list_cards(own_models_folder()):
        if isinstance(card, ImportedCard) and digest in (card.origin_sha256, card.sha256):
            return card
    raise ModelError(
        f"{source} has to be imported once: run 'vidsr models import {shlex.quote(str(source))}', then the same command"
    )
