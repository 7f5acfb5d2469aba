"""The JSON report of a run, for `--report`. What is in it lives in types.RunReport."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from vidsr import __version__
from vidsr.errors import OutputError
from vidsr.types import RunReport


def write_reports(path: Path, reports: Sequence[RunReport], failures: Sequence[tuple[str, str]]) -> None:
    """Writes one JSON object: version, the runs, the failed inputs with their sentences. Raises OutputError."""
    content = {
        "vidsr": __version__,
        "runs": [dataclasses.asdict(report) for report in reports],
        "failures": [{"input": film, "error": error} for film, error in failures],
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    try:
        # A name that is not UTF-8 holds lone surrogates; written with a backslash they are valid JSON.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"cannot write the report {path}: {error.strerror}") from error
