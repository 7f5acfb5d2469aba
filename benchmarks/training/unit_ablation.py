"""Trains four MPENets that differ in their branches only, and prints what each branch gains, beside the paper's table.

    python -m benchmarks.training.unit_ablation --data FOLDER --output DIR [--steps N] [--minutes M] [--markdown FILE]

FOLDER comes from benchmarks.training.label_units; its units are a teacher's pseudo-labels, no coded action units. The
recipe is units.toml beside this file. Each network has a folder in DIR, in which an interrupted training goes on. With
`--minutes` each stops after so many; the row says how far it came. The figure is the largest gain of PSNR of Y over
bicubic enlargement on the people who are held out (12 in all).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import torch

from benchmarks.common.clips import markdown
from vidsr.train.loop import train
from vidsr.train.recipe import Recipe, load_recipe
from vidsr.train.trainer import TrainOptions

RECIPE = Path(__file__).with_name("units.toml")
PRINTED = {"none": 31.87, "landmarks": 32.12, "units": 32.15, "unit maps": 32.22}  # BP4D, PSNR of Y in dB


def recipes(units: Sequence[int], steps: int | None = None, base: Path = RECIPE) -> Iterator[tuple[str, Recipe]]:
    """The recipe of each network, by what it has; `steps` None: as many as the recipe says."""
    recipe = load_recipe(base)
    if steps is not None:
        recipe = replace(recipe, optimisation=replace(recipe.optimisation, steps=steps))
    points = recipe.network["points"]
    for name, network in (
        ("none", {"points": 0, "units": []}),
        ("landmarks", {"points": points, "units": []}),
        ("units", {"points": points, "units": list(units), "unit_maps": False}),
        ("unit maps", {"points": points, "units": list(units), "unit_maps": True}),
    ):
        yield name, replace(recipe, name=f"mpenet-units-{name.replace(' ', '-')}", network=recipe.network | network)


def best_gain(log: Path) -> tuple[float, int]:
    """The largest validated gain over bicubic in dB, and the last step of a log."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    gains = [entry["gain_afresh"] for entry in entries if "gain_afresh" in entry]
    return max(gains, default=float("nan")), max((entry["step"] for entry in entries), default=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--minutes", type=float, default=inf)
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    content = json.loads((options.data / "units.json").read_text(encoding="utf-8"))
    rows, before = [], float("nan")
    for name, recipe in recipes(content["units"], options.steps):
        folder = options.output / recipe.name
        task = TrainOptions(options.data, folder, stop_after_minutes=options.minutes)
        train(recipe, task, lambda entry: print(entry, flush=True))
        gain, step = best_gain(folder / "log.jsonl")
        rows.append((name, f"{gain:+.2f}", f"{gain - before:+.2f}", f"{step}", f"{PRINTED[name]:.2f}"))
        before = gain
    heads = ("branches", "gain over bicubic, dB", "over the row above", "steps", "paper, BP4D")
    text = markdown(heads, rows) + f"\n\nUnits (a teacher's, not coded by people): {content['units']}"
    if options.markdown is not None:
        options.markdown.write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
