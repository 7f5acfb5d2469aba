"""Checkpoints of a training, written atomically so that a stopped run can be resumed, and the training log."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vidsr.errors import InputError, OutputError, UsageError
from vidsr.files import atomic_write

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Writes `content` to `path` atomically: a reader sees the old file or the new one.

    Raises OutputError if it cannot be written; the old file is then untouched and no partial file remains.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path, overwrite=True) as hidden:
            torch.save(content, hidden)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        raise OutputError(f"cannot write the checkpoint {path}: {_first_line(error)}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote (tensors and plain values only); raises InputError for anything else."""
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"cannot read the checkpoint {path}: {_first_line(error)}") from error
    except Exception as error:  # pickle.UnpicklingError and others without a common base class
        raise InputError(f"{path} is not a checkpoint of vidsr") from error
    if not isinstance(content, dict) or "recipe" not in content:
        raise InputError(f"{path} is not a checkpoint of vidsr")
    return content


def check_same_recipe(saved: dict[str, Any], recipe: DataclassInstance, path: Path) -> None:
    """Raises UsageError if a checkpoint was made by another recipe; only the summary may differ.

    A setting that came after the checkpoint was made counts there as its default.
    """
    current = plain_values(recipe)
    for key in sorted((saved.keys() | current.keys()) - {"summary"}):
        part, before = getattr(recipe, key, None), saved.get(key)
        if dataclasses.is_dataclass(part) and not isinstance(part, type) and before is not None:
            before = _defaults(part) | before
        if before != current.get(key):
            raise UsageError(f"{path} was made by another recipe ('{key}' differs); choose another --output folder")


def plain_values(recipe: DataclassInstance) -> dict[str, Any]:
    """The recipe as JSON values, so that a checkpoint can be read without running code."""
    return _as_json(dataclasses.asdict(recipe))


def _defaults(part: DataclassInstance) -> dict[str, Any]:
    """The settings of a table that have a default, with these."""
    fields = dataclasses.fields(part)
    return _as_json({field.name: field.default for field in fields if field.default is not dataclasses.MISSING})


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(values))
    return plain


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def append_entry(path: Path, entry: dict[str, Any]) -> None:
    """Appends one line of JSON to a training log; raises OutputError if it cannot be written."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise OutputError(f"cannot write the log {path}: {error.strerror}") from error
