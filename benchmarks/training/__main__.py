"""Plots the log of a training: losses, learning rate and validation PSNR by step.

    python -m benchmarks.training runs/secnet-fast/log.jsonl training.png

After a resume a log may hold a step twice; the later entry counts. Needs matplotlib (the dev extra).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

# Losses of SECNet and of Zooming SlowMo; only those that the log has are drawn.
LOSSES = (
    ("final", "final result"),
    ("result", "results"),
    ("first", "first"),
    ("second", "second"),
    ("flow", "flow"),
)
SCORES = (
    ("psnr_bi", "BI"),
    ("psnr_bd", "BD, sigma 1.5"),
    ("psnr_existing", "BI, input frames"),
    ("psnr_synthetic", "BI, interpolated frames"),
)


def read(path: Path, key: str) -> tuple[list[int], list[float]]:
    """Steps and values of one figure."""
    values = {entry["step"]: entry[key] for entry in map(json.loads, path.read_text().splitlines()) if key in entry}
    return list(values), list(values.values())


def draw(axes: Axes, log: Path, key: str, label: str, marker: str = "") -> None:
    """The curve of one figure, if the log has it."""
    steps, values = read(log, key)
    if steps:
        axes.plot(steps, values, label=label, marker=marker)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("image", type=Path)
    options = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for key, label in LOSSES:
        draw(left, options.log, key, label)
    left.set(xlabel="step", ylabel="loss", yscale="log", title="training losses")
    left.legend()
    for key, label in SCORES:
        draw(right, options.log, key, label, marker=".")
    right.set(xlabel="step", ylabel="PSNR, dB (RGB, 8-pixel border left out)", title="held-out clips, averaged weights")
    right.legend()
    figure.savefig(options.image, dpi=80)


if __name__ == "__main__":
    main()
