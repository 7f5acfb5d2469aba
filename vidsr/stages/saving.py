"""States of stages as plain data: what torch.save stores and torch.load reads back without running any code.

A saved state lies on the disk between two runs, so it is data and nothing else. Only the dataclasses and named tuples
of vidsr are built from it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections import deque
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vidsr.errors import InputError

_PLAIN = (bool, int, float, str, type(None))


def freeze(value: Any) -> Any:
    """A value as numbers, texts, tensors, tuples and lists; it holds the same tensors, but copies of everything else.

    Takes dataclasses and named tuples of vidsr, containers, bytes, fractions, NumPy's arrays and numbers, and tensors.
    Raises TypeError for anything else.
    """
    if type(value) in _PLAIN or isinstance(value, Tensor):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return ("number" if isinstance(value, np.generic) else "array", torch.from_numpy(np.array(value)))
    if isinstance(value, Fraction):
        return ("fraction", value.numerator, value.denominator)
    if isinstance(value, bytes):
        return ("bytes", value.hex())
    if isinstance(value, set):
        return ("set", sorted(map(freeze, value)))
    if isinstance(value, deque):
        return ("deque", [freeze(each) for each in value], value.maxlen)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [each.name for each in dataclasses.fields(value)]
        return ("object", _name_of(value), [(name, freeze(getattr(value, name))) for name in names])
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return (
            "object",
            _name_of(value),
            [(name, freeze(each)) for name, each in zip(value._fields, value, strict=True)],
        )
    if isinstance(value, (tuple, list)):
        return ("tuple" if isinstance(value, tuple) else "list", [freeze(each) for each in value])
    if isinstance(value, Mapping):
        return ("dict", [(freeze(key), freeze(each)) for key, each in value.items()])
    raise TypeError(f"a {type(value).__name__} cannot be part of a saved state")


def thaw(value: Any) -> Any:
    """The value that `freeze` was given. Raises InputError for what `freeze` does not make."""
    if type(value) in _PLAIN or isinstance(value, Tensor):
        return value
    try:
        kind, first, *rest = value
        if kind == "array":
            return first.numpy()
        if kind == "number":
            return first.numpy()[()]
        if kind == "fraction":
            return Fraction(first, *rest)
        if kind == "bytes":
            return bytes.fromhex(first)
        if kind == "set":
            return set(map(thaw, first))
        if kind == "deque":
            return deque(map(thaw, first), *rest)
        if kind == "object":
            (fields,) = rest
            return _class_of(first)(**{name: thaw(each) for name, each in fields})
        if kind in ("tuple", "list"):
            return tuple(map(thaw, first)) if kind == "tuple" else list(map(thaw, first))
        if kind == "dict":
            return {thaw(key): thaw(each) for key, each in first}
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"a saved state is damaged: {error}") from error
    raise InputError(f"a saved state is damaged: it has a part of the unknown kind {str(kind)[:40]!r}")


def _name_of(value: Any) -> str:
    kind = type(value)
    if not kind.__module__.startswith("vidsr.") or "." in kind.__qualname__:
        raise TypeError(f"a {kind.__module__}.{kind.__qualname__} cannot be part of a saved state")
    return f"{kind.__module__}:{kind.__name__}"


def _class_of(name: str) -> Any:
    module, _, kind = name.partition(":")
    found = getattr(importlib.import_module(module), kind, None) if module.startswith("vidsr.") else None
    if not isinstance(found, type) or not (dataclasses.is_dataclass(found) or issubclass(found, tuple)):
        raise InputError(f"a saved state is damaged: vidsr has no value called {name[:80]!r}")
    return found
