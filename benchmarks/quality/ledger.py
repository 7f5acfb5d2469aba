"""A file of figures that were measured, so that a long measurement can be interrupted and continued."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from vidsr.files import atomic_write

Figures = dict[str, float | None]


class Ledger:
    """Figures by key: a text that says what was measured, on what and with which weights. Written after every entry."""

    def __init__(self, path: Path | None, resume: bool) -> None:
        """`path` None: nothing is kept. `resume`: what the file holds counts; otherwise it is written anew.

        Raises SystemExit if it holds something else.
        """
        self._path = path
        self._entries: dict[str, Figures] = {}
        if path is None or not resume or not path.exists():
            return
        try:
            read = json.loads(path.read_text())
            self._entries = {key: dict(figures) for key, figures in read.items()}
        except (ValueError, AttributeError, TypeError) as error:
            raise SystemExit(f"{path} is no file of figures, give --json another one: {error}") from error

    def get(self, key: str, wanted: Iterable[str]) -> Figures | None:
        """The figures of a key if they hold all `wanted` ones."""
        figures = self._entries.get(key)
        return figures if figures is not None and all(name in figures for name in wanted) else None

    def put(self, key: str, figures: Figures) -> None:
        """Adds figures to those of a key."""
        self._entries[key] = self._entries.get(key, {}) | figures
        if self._path is not None:
            with atomic_write(self._path, overwrite=True, sync=False) as hidden:
                hidden.write_text(json.dumps(self._entries, indent=1, allow_nan=False) + "\n")


def known(figures: Figures, name: str) -> float:
    """A figure that was measured."""
    value = figures[name]
    assert value is not None
    return value


def mean(figures: list[Figures]) -> Figures:
    """The mean over clips. A figure that is None for some clips is averaged over the others."""
    names = dict.fromkeys(name for each in figures for name in each)
    known = {name: [value for each in figures if (value := each.get(name)) is not None] for name in names}
    return {name: sum(values) / len(values) if values else None for name, values in known.items()}
