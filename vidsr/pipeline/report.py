"""The JSON report of a run, for `--report`. What is in it lives in types.RunReport."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from vidsr import __version__
from vidsr.files import atomic_write
from vidsr.types import RunReport


def write_reports(path: Path, reports: Sequence[RunReport], failures: Sequence[tuple[str, str]]) -> None:
    """Writes one JSON object: version, the runs, the failed inputs with their sentences. Raises OutputError."""
    content = {
        "vidsr": __version__,
        "runs": [dataclasses.asdict(report) for report in reports],
        "failures": [{"input": film, "error": error} for film, error in failures],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    with atomic_write(path, overwrite=True) as hidden:
        # A name that is not UTF-8 holds lone surrogates; written with a backslash they are valid JSON.
        hidden.write_text(text, encoding="utf-8", errors="backslashreplace")
