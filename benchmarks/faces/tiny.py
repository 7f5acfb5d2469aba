"""Tiny faces: the whole table in one command, with the papers' figures beside it.

    python -m benchmarks.faces.tiny --data DIR [--model CARD] [--attention CARD] [--only PART,...] [--detector FILE]
                                    [--reference FILE] [--json FILE] [--markdown FILE]

DIR holds eval/ (faces/, general/); the people in eval/faces are in no training. The parts are "detection" (see
tiny_detection.py), "restoration" (tiny_restoration.py), "cost" (tiny_cost.py) and "attention" (attention.py). All but
the first need weights, those of secnet-fast-face-tiny and attention-fh-fast or of the CARDs given; rows without say so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.common.clips import markdown
from benchmarks.faces import attention, tiny_cost, tiny_detection, tiny_restoration
from benchmarks.faces.detection import CPU
from benchmarks.faces.scores import Figure, table
from vidsr.faces.engine import BOX_MODEL
from vidsr.faces.handover import TINY_MODEL
from vidsr.faces.yunet import Yunet
from vidsr.models.cards import shipped_detector

PARTS = ("detection", "restoration", "cost", "attention")
PRINTED = (
    ("MPENet's paper, BP4D, x8 from 16 px: bicubic, DIC, SISN, MPENet, MPEGAN", "28.67, 31.74, 32.02, 32.22, 31.43"),
    ("MPENet's paper, DISFA", "28.88, 31.40, 31.78, 32.02, 31.46"),
    ("MPENet's paper, steps 1, 2, 3 (BP4D; DISFA)", "31.70, 32.21, 32.22; 30.84, 32.02, 32.02"),
    ("MPENet's paper, BP4D: none, landmarks, units, unit maps", "31.87, 32.12, 32.15, 32.22"),
    *((f"Attention-FH, {words}", figures) for words, figures in attention.PRINTED),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default=TINY_MODEL, metavar="CARD")
    parser.add_argument("--attention", default=BOX_MODEL, metavar="CARD")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--detector", type=Path, metavar="FILE")
    parser.add_argument("--reference", type=Path, metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    chosen = options.only.split(",")
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"there is no part {', '.join(sorted(unknown))}: choose of {', '.join(PARTS)}")
    torch.set_num_threads(1)
    detector = options.detector or shipped_detector()
    reference = Yunet(options.reference or options.data / "reference" / "yunet_n_dynamic.onnx", CPU, 1)
    figures: list[Figure] = []
    if "detection" in chosen:
        figures += tiny_detection.measure(options.data, Yunet(detector, CPU, 1), reference)
    if "restoration" in chosen:
        figures += tiny_restoration.measure(options.data, reference, options.model)
    if "cost" in chosen:
        figures += tiny_cost.measure(options.data, detector, reference, options.model)
    if "attention" in chosen:
        figures += attention.measure(options.data, reference, options.attention)
    text = table(figures) + "\n\n" + markdown(("printed", "PSNR of Y in dB; Attention-FH: x4 and x8"), PRINTED)
    if options.markdown is not None:
        options.markdown.write_text(text + "\n")
    if options.json is not None:
        options.json.write_text(attention.as_json(figures))
    print(text)


if __name__ == "__main__":
    main()
