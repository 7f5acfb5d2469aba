"""Cards: what is said of any model's file, and whether a file is the one its card means. No kind of model is known."""

from __future__ import annotations

import dataclasses
import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vidsr.errors import ModelError

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
