"""Reads TOML files, and fills dataclasses from their tables with type checks."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vidsr.errors import VidsrError

T = TypeVar("T")

# Limits for files from strangers. The largest recipe has 5 kB, its tables are two deep; TOML's integers have 64 bits.
LARGEST_FILE = 64 << 10
MOST_DOTS = 200  # in one line: the time to parse a dotted key grows with the square of its length
DEEPEST = 8
LONGEST_TEXT = 10_000
LONGEST_KEY = 100
LARGEST_INTEGER = 2**63
_LONGEST_SHOWN = 80


def read_table(path: Path, kind: str, error: type[VidsrError]) -> dict[str, Any]:
    """The content of a TOML file; messages call the file a `kind`. Raises `error` if it cannot be read."""
    try:
        if path.exists() and not path.is_file():
            raise error(f"the {kind} {path} is not a regular file")
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except OSError as reason:
        raise error(f"cannot read the {kind} {path}: {reason.strerror}") from reason
    if len(content) > LARGEST_FILE:
        raise error(f"the {kind} {path} is larger than {LARGEST_FILE >> 10} kB, which is no {kind}")
    if any(line.count(b".") > MOST_DOTS for line in content.splitlines()):
        raise error(f"the {kind} {path} is not valid: its tables are nested too deeply")
    try:
        table = tomllib.loads(content.decode())
    except ValueError as reason:  # not TOML, not UTF-8, or an integer of thousands of digits
        raise error(f"the {kind} {path} is not valid TOML: {shortened(str(reason))}") from reason
    except RecursionError as reason:
        raise error(f"the {kind} {path} is not valid: its tables are nested too deeply") from reason
    _check_limits(table, f"the {kind} {path}", error)
    return table


def shortened(text: str) -> str:
    """Text that may be long, as part of a message."""
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def _check_limits(table: dict[str, Any], where: str, error: type[VidsrError]) -> None:
    """Raises `error` for tables too deep, texts too long and integers too large for anything that vidsr reads."""
    level: list[Any] = [table]
    for _ in range(DEEPEST):
        for value in level:
            if isinstance(value, dict) and any(len(key) > LONGEST_KEY for key in value):
                raise error(f"{where} is not valid: a key is longer than {LONGEST_KEY} characters")
            if isinstance(value, str) and len(value) > LONGEST_TEXT:
                raise error(f"{where} is not valid: a text is longer than {LONGEST_TEXT} characters")
            if isinstance(value, int) and not -LARGEST_INTEGER <= value < LARGEST_INTEGER:
                raise error(f"{where} is not valid: an integer has more than 64 bits")
        tables = [value.values() for value in level if isinstance(value, dict)]
        lists = [value for value in level if isinstance(value, list)]
        level = [value for values in (*tables, *lists) for value in values]
    if level:
        raise error(f"{where} is not valid: its tables are nested too deeply")


def fill(
    kind: type[T], table: Mapping[str, Any], where: str, error: type[VidsrError],
    extra: Mapping[str, Any] | None = None,
) -> T:  # fmt: skip
    """Builds a dataclass of this kind from a table; lists become tuples. `extra` are fields not read from the table.

    Raises `error`, with a message that begins with `where`, for an unknown key, a wrong type or a missing field.
    """
    if not isinstance(table, Mapping):
        raise error(f"{where} must be a table")
    extra = extra or {}
    declared = get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    known = fields.keys() - extra.keys()
    if unknown := sorted(table.keys() - known):
        raise error(f"{where} has the unknown key '{unknown[0]}'; known are {', '.join(sorted(known))}")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in table.items()}
    for name, value in values.items():
        if not _fits(value, declared[name]):
            raise error(f"{where}: '{name}' must be {_shown(declared[name])}, not {shortened(repr(value))}")
    needed = [f.name for f in fields.values() if f.default is f.default_factory is dataclasses.MISSING]
    if missing := [name for name in needed if name not in values.keys() | extra.keys()]:
        raise error(f"{where} is incomplete: '{missing[0]}' is missing")
    return kind(**values, **extra)


def _fits(value: Any, declared: Any) -> bool:
    """Whether a value fits a field's type; a boolean is not a number, and an integer fits a float field."""
    origin, arguments = get_origin(declared), get_args(declared)
    if declared is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, each) for each in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        kinds = arguments[:1] * len(value) if arguments[-1] is ... and isinstance(value, tuple) else arguments
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if origin is not None:  # dict[str, ...], Mapping[str, ...]
        return isinstance(value, dict) and all(_fits(each, arguments[1]) for each in value.values())
    if declared is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is declared


def _shown(declared: Any) -> str:
    if get_origin(declared) is Literal:
        return "one of " + ", ".join(map(repr, get_args(declared)))
    return f"of type {declared.__name__ if isinstance(declared, type) and not get_args(declared) else declared}"
