"""Benchmark of everything that concerns faces, with targets: detector, tracks, landmarks, restoration, cost.

    python -m benchmarks.faces --data DIR [--detector FILE] [--reference FILE] [--only PART,...]
                               [--json FILE] [--markdown FILE] [--sheets FOLDER]
                               [--embedding FILE] [--embeddings-cache FILE]

DIR holds eval/ (faces/, general/, wild/) and faces_stills/. Both FILEs are detectors with YuNet's interface: the one to
measure (by default the shipped one), and a published one as the reference (by default
DIR/reference/yunet_n_dynamic.onnx). detection.py, identities.py, landmarks.py, restoration.py, cost.py and persons.py
describe what each part compares. The part persons is left out where there is no face embedding: it needs the extra
`identity`, or a file with SFace's interface. The output files are rewritten after each part. --sheets makes images of
the restoration: ten consecutive frames of three faces, one row for each system and one for the truth, and parts of the
border at 400 %.
Everything runs in one thread.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.faces import cost, detection, identities, landmarks, persons, restoration
from benchmarks.faces.scores import Figure, table
from vidsr.errors import VidsrError
from vidsr.faces.embedding import choose_embedding, load_embedding
from vidsr.faces.landmark_smoothing import LOOKAHEAD
from vidsr.models.cards import shipped_detector

Array = landmarks.Array
PARTS = ("detector", "tracks", "landmarks", "restoration", "cost", "persons")
LANDMARK_CLIPS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--detector", type=Path, metavar="FILE")
    parser.add_argument("--reference", type=Path, metavar="FILE")
    parser.add_argument("--only", type=parse_parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    parser.add_argument("--sheets", type=Path, metavar="FOLDER", help="images of the restoration")
    parser.add_argument("--embedding", default="auto", metavar="FILE", help="with SFace's interface, for the persons")
    parser.add_argument("--embeddings-cache", type=Path, metavar="FILE.npz", help="keeps the embeddings of the persons")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data: Path = options.data
    reference: Path = options.reference or data / "reference" / "yunet_n_dynamic.onnx"
    try:
        detector: Path = options.detector or shipped_detector()
    except VidsrError as error:
        parser.error(f"{error}; --detector FILE names another one")
    measured: dict[str, Callable[[], Iterator[Figure]]] = {
        "detector": lambda: detection.measure(data, detector, reference),
        "tracks": lambda: identities.measure(data, detector, reference),
        "landmarks": lambda: landmark_figures(data, detector, LANDMARK_CLIPS),
        "restoration": lambda: restoration.measure(data, detector, reference, options.sheets),
        "cost": lambda: cost.measure(data, detector),
        "persons": lambda: person_figures(data, options.embedding, options.embeddings_cache),
    }
    figures: list[Figure] = []
    for part in (part for part in PARTS if part in options.only):
        started = time.monotonic()
        figures += measured[part]()
        print(f"{part}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        if options.markdown is not None:
            options.markdown.write_text(table(figures) + "\n")
        if options.json is not None:
            values = [asdict(figure) | {"value": finite(figure.value)} for figure in figures]
            options.json.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")
    print(table(figures))


def person_figures(data: Path, wanted: str, cache: Path | None) -> Iterator[Figure]:
    """Who is who, with a file or the embedding of the extra; nothing without any."""
    choice = choose_embedding(wanted)
    if choice is None:
        print("persons: left out, because there is no face embedding", file=sys.stderr)
        return
    yield from persons.measure(data, load_embedding(choice, torch.device("cpu"), 1), cache)


def parse_parts(text: str) -> tuple[str, ...]:
    """Parts by name, from "detector,tracks"."""
    parts = tuple(text.split(","))
    if unknown := [part for part in parts if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(PARTS)}")
    return parts


def finite(value: float) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return float(value) if math.isfinite(value) else None


def landmark_figures(data: Path, file: Path, count: int) -> Iterator[Figure]:
    """Raw landmarks against landmarks smoothed as in vidsr, for each kind of clip; landmarks.py prints more."""
    config = landmarks.SmoothingConfig(lookahead=LOOKAHEAD)

    def compared(clip: landmarks.Clip, raw: Array) -> dict[str, Array]:
        return {"truth": clip.truth, "raw": raw, "smoothed": landmarks.smoothed(clip, raw, config)}

    for label, scores in landmarks.measure(data, landmarks.Detector(file), count, compared).items():
        mean = landmarks.means(scores)
        raw, new = mean["raw"], mean["smoothed"]
        truth, ratio, error = mean["truth"][1] / raw[1], new[1] / raw[1], new[3] / raw[3]
        errors = f"{100 * raw[0]:.2f} to {100 * new[0]:.2f} %"
        kind = f"pseudo-videos, {label.removeprefix('stills, ')}" if label.startswith("stills") else f"eval/{label}"
        yield Figure(
            "landmark jitter (STD) to raw",
            f"{kind}, {np.isfinite([entry['raw'][1] for entry in scores]).sum()} clips",
            float(ratio),
            f"{ratio:.2f} (truth {truth:.2f}); of the error {error:.2f}; NME {errors}",
            "<= 0.5, NME not worse",
            landmarks.is_met(new, raw),
        )


if __name__ == "__main__":
    main()
