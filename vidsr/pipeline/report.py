"""Writes the JSON file of `--report`; its content is types.RunReport."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from vidsr import __version__
from vidsr.files import atomic_write
from vidsr.types import RunReport


def write_reports(
    path: Path,
    reports: Sequence[RunReport],
    failures: Sequence[tuple[str, str]],
    skipped: Sequence[tuple[str, str]] = (),
    overwrite: bool = False,
) -> None:
    """Writes one JSON object: version, reports of all runs, failed and skipped inputs with the reasons.

    Raises OutputError if it cannot be written, or a file of this name has appeared (unless `overwrite`).
    """
    content = {
        "vidsr": __version__,
        "runs": [dataclasses.asdict(report) for report in reports],
        "failures": [{"input": video, "error": error} for video, error in failures],
        "skipped": [{"input": video, "reason": reason} for video, reason in skipped],
    }
    text = json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"
    with atomic_write(path, overwrite=overwrite) as hidden:
        # A file name that is not UTF-8 contains lone surrogates; backslash escapes make them valid JSON.
        hidden.write_text(text, encoding="utf-8", errors="backslashreplace")
