"""Trains the decision trees of vidsr/defects/trees and writes them with their recipe.

    python -m benchmarks.defects.training film --data DIR [--output FILE]
    python -m benchmarks.defects.training page [--output FILE]

Needs scikit-learn (the extra `train`). DIR holds train/clips/ (general/, faces/), film_damage/ and index.json. Film:
the first frames of clips of licence classes A and B: with drawn specks and hairs, with real shapes (four in five of
them; the benchmark uses the rest), untouched, and untouched with drawn snow, rain, sparks, balls or confetti. Page:
drawn pages. What is measured afterwards (python -m benchmarks.defects) uses other clips, shapes and pages.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tomli_w
from numpy.typing import NDArray

from benchmarks.defects.drawing import PARTICLES, damaged, read_shapes, with_particles
from benchmarks.defects.pages import blocks
from benchmarks.defects.scoring import examine, read_clip, undamaged
from vidsr.defects import film, page
from vidsr.defects.tree import text_hash

TREES = Path(film.__file__).parent / "trees"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a tree is trained.

    `costs` are those of the cost matrix: of a miss, of a false alarm in a damaged film, in an untouched one, and in one
    with particles. `rising` are the features of which a larger value never speaks against a defect, `falling` those
    of which it never speaks for one.
    """

    seed: int
    depth: int
    least_leaf: int
    costs: tuple[float, float, float, float]
    cut: float
    rising: tuple[str, ...] = ()
    falling: tuple[str, ...] = ()


FILM = Recipe(
    seed=1, depth=6, least_leaf=15, costs=(1.0, 1.0, 1.0, 0.5), cut=0.7,
    rising=("contrast", "match_both", "match_one", "visibility"),
    falling=("disagreement", "motion_error", "fill_error", "inconsistency"),
)  # fmt: skip
# The text: a miss costs twice as much as a false alarm.
PAGE = Recipe(seed=1, depth=6, least_leaf=10, costs=(2.0, 1.0, 1.0, 1.0), cut=0.5)
FRAMES = 7
PAGES = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("film", "page"))
    parser.add_argument("--data", type=Path, metavar="DIR")
    parser.add_argument("--output", type=Path, metavar="FILE")
    parser.add_argument(
        "--samples", type=Path, metavar="FILE.npz", help="keep the samples here, or take them from here"
    )
    options = parser.parse_args()
    if options.kind == "film" and options.data is None:
        parser.error("film needs --data DIR")
    cv2.setNumThreads(1)
    recipe = FILM if options.kind == "film" else PAGE
    if options.samples is not None and options.samples.exists():
        kept = np.load(options.samples)
        samples = kept["features"], kept["labels"], kept["kinds"]
    else:
        samples = film_samples(options.data, recipe.seed) if options.kind == "film" else page_samples(recipe.seed)
        if options.samples is not None:
            np.savez_compressed(options.samples, features=samples[0], labels=samples[1], kinds=samples[2])
    target = options.output or TREES / f"{options.kind}.toml"
    target.write_text(card(options.kind, recipe, *samples))
    print(f"{target}: {len(samples[1])} samples, {int(samples[1].sum())} defects", file=sys.stderr)


def training_clips(data: Path) -> list[Path]:
    """Every fourth general clip and every thirtieth face clip of licence classes A and B."""
    entries = json.loads((data / "index.json").read_text())
    entries = entries if isinstance(entries, list) else entries["files"]
    allowed = sorted(entry["path"] for entry in entries if entry.get("licence_class") in ("A", "B"))
    return [
        data / path
        for folder, step in (("train/clips/general/", 4), ("train/clips/faces/", 30))
        for path in [each for each in allowed if each.startswith(folder)][::step]
    ]


def film_samples(data: Path, seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Features, labels, and the kind of film: 0 drawn damage, 1 real shapes, 2 untouched, 3 with moving particles."""
    shapes = read_shapes(data / "film_damage", held_out=False)
    features, labels, kinds = [], [], []
    for number, path in enumerate(training_clips(data)):
        frames = read_clip(path, FRAMES)
        random = np.random.default_rng((seed, number))
        films = [damaged(frames, random), damaged(frames, random, shapes), undamaged(frames)]
        if number % 2:
            films.append(undamaged(with_particles(frames[:5], random, PARTICLES[number // 2 % len(PARTICLES)])))
        for kind, damage in enumerate(films):
            found = examine(damage)
            features += found.features
            labels += found.labels
            kinds += [kind] * len(found.labels)
        print(f"{path.name}: {len(labels)} samples", file=sys.stderr)
    known = np.array(labels) >= 0
    return np.array(features)[known], np.array(labels)[known], np.array(kinds)[known]


def page_samples(seed: int, pages: int = PAGES) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Features and labels of candidate blocks of drawn pages."""
    features: list[NDArray[Any]] = []
    labels: list[bool] = []
    for _, samples, marked, _, _ in blocks(np.random.default_rng(seed), pages):
        features += [sample.features for sample in samples]
        labels += marked
    return np.array(features), np.array(labels).astype(int), np.zeros(len(labels), int)


def card(kind: str, recipe: Recipe, features: NDArray[Any], labels: NDArray[Any], kinds: NDArray[Any]) -> str:
    """Trains a tree by information gain and returns the text of its file."""
    names = film.FEATURES if kind == "film" else page.FEATURES
    text = "\n".join(grown(recipe, names, features, labels, kinds))
    facts = {
        "name": f"{kind}-defects",
        "summary": "tells defects of film from motion" if kind == "film" else "tells spots from uneven tint",
        "licence": "Apache-2.0",
        "date": datetime.date.today().isoformat(),
        "recipe": f"scikit-learn decision tree by entropy: {recipe}; {len(labels)} samples, {labels.sum()} defects; "
        f"python -m benchmarks.defects.training {kind}{' --data DIR' if kind == 'film' else ''}",
        "data": "every fourth general and thirtieth face clip of the curated set, training split, with drawn damage "
        "and real shapes (FilmDamageSimulator)"
        if kind == "film"
        else "drawn pages",
        "data_licences": "classes A and B; shapes MIT" if kind == "film" else "none",
        "metrics_command": "python -m benchmarks.defects --data DIR",
        "cut": recipe.cut,
        "features": list(names),
        "sha256": text_hash(text),
        "tree": text + "\n",
    }
    return tomli_w.dumps(facts, multiline_strings=True)


def grown(
    recipe: Recipe, names: tuple[str, ...], features: NDArray[Any], labels: NDArray[Any], kinds: NDArray[Any]
) -> Iterator[str]:
    """The lines of a tree (see vidsr/defects/tree.py); branches with one decision at all leaves become a leaf."""
    from sklearn.tree import DecisionTreeClassifier

    miss, *alarms = recipe.costs
    weights = np.where(labels == 1, miss, np.array([alarms[0], *alarms])[kinds])
    directions = [int(name in recipe.rising) - int(name in recipe.falling) for name in names]
    classifier = DecisionTreeClassifier(
        criterion="entropy", max_depth=recipe.depth, min_samples_leaf=recipe.least_leaf, monotonic_cst=directions,
        random_state=recipe.seed,
    ).fit(features, labels, sample_weight=weights)  # fmt: skip
    tree = classifier.tree_
    shares = tree.value[:, 0, :] / tree.value[:, 0, :].sum(1, keepdims=True)

    def decisions(node: int) -> set[bool]:
        if tree.children_left[node] < 0:
            return {bool(shares[node, 1] >= recipe.cut)}
        return decisions(tree.children_left[node]) | decisions(tree.children_right[node])

    def lines(node: int, depth: int) -> Iterator[str]:
        space = "  " * depth
        if len(decisions(node)) == 1:
            # The share of the whole branch may lie on the other side of the cut than all of its leaves.
            is_defect = decisions(node).pop()
            share = max(shares[node, 1], recipe.cut) if is_defect else min(shares[node, 1], recipe.cut - 0.01)
            yield f"{space}{share:.3f}"
            return
        yield f"{space}{names[tree.feature[node]]} <= {tree.threshold[node]:.4g}"
        yield from lines(tree.children_left[node], depth + 1)
        yield from lines(tree.children_right[node], depth + 1)

    return lines(0, 0)


if __name__ == "__main__":
    main()
