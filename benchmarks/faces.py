"""The figures that faces are to reach, with their bars: detector, tracks, landmarks.

    python benchmarks/faces.py --data DIR [--detector FILE] [--reference FILE] [--only PART,...]
                               [--json FILE] [--markdown FILE]

DIR holds eval/ (faces/, general/, wild/) and faces_stills/. FILEs are detectors with YuNet's interface: what vidsr
takes (default: the one that comes with it), and the published one as yardstick (default:
DIR/reference/yunet_n_dynamic.onnx). What each part compares with what is said in the file that measures it:
face_detection.py, face_identities.py, landmarks.py. The files are written anew after
each part.
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

import face_detection
import face_identities
import landmarks
import numpy as np
import torch
from face_scores import Figure, table

Array = landmarks.Array
PARTS = ("detector", "tracks", "landmarks")
LANDMARK_CLIPS = 12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--detector", type=Path, metavar="FILE")
    parser.add_argument("--reference", type=Path, metavar="FILE")
    parser.add_argument("--only", type=parse_parts, default=PARTS, metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--clips", type=int, default=LANDMARK_CLIPS, help="clips of each source for the landmarks")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    reference: Path = options.reference or options.data / "reference" / "yunet_n_dynamic.onnx"
    detector: Path = options.detector or reference
    measured: dict[str, Callable[[], Iterator[Figure]]] = {
        "detector": lambda: face_detection.measure(options.data, detector, reference),
        "tracks": lambda: face_identities.measure(options.data, detector, reference),
        "landmarks": lambda: landmark_figures(options.data, detector, options.clips),
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


def parse_parts(text: str) -> tuple[str, ...]:
    """Parts by name, from "detector,tracks"."""
    parts = tuple(text.split(","))
    if unknown := [part for part in parts if part not in PARTS]:
        raise argparse.ArgumentTypeError(f"'{unknown[0]}' is none of {', '.join(PARTS)}")
    return parts


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if math.isfinite(value) else None


def landmark_figures(data: Path, file: Path, count: int) -> Iterator[Figure]:
    """Raw against steadied, for each kind of clip: benchmarks/landmarks.py has more rows and columns."""

    def compared(clip: landmarks.Clip, raw: Array) -> dict[str, Array]:
        return {"truth": clip.truth, "raw": raw, "steadied": landmarks.steadied(clip, raw, landmarks.SteadyConfig())}

    for label, scores in landmarks.measure(data, landmarks.Detector(file), count, compared).items():
        mean = landmarks.means(scores)
        raw, new = mean["raw"], mean["steadied"]
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
