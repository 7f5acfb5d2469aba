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
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tomli_w
from numpy.typing import NDArray

from benchmarks.defects.clips import training_clips
from benchmarks.defects.drawing import PARTICLES, damaged, read_shapes, with_particles
from benchmarks.defects.pages import blocks
from benchmarks.defects.scoring import examine, read_clip, undamaged
from vidsr.defects import film, page
from vidsr.defects.repair import LEAST_PROBABILITY
from vidsr.defects.tree import parse_tree, text_hash

TREES = Path(film.__file__).parent / "trees"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a tree is trained.

    `weights` are those of a sample: of a drawn defect, of a real shape (or a spot of a page), of a false candidate in a
    damaged film, in an untouched one, and in one with particles. `rising` are the features of which a larger value
    never speaks against a defect, `falling` those of which it never speaks for one. `levels` are the probabilities,
    beside `cut`, that something depends on.

    With `teacher`, the number of steps of gradient boosting, the tree is fitted to the log-odds of a boosted ensemble
    instead of the labels, with at most `leaves` leaves and with copies of the samples: each feature of a copy is
    multiplied by a random factor, whose logarithm has the standard deviation `jitter`. The copies show the tree where
    the borders of the ensemble lie, which the labels alone do not (Breiman and Shang, "Born again trees", 1996).
    """

    seed: int
    depth: int
    least_leaf: int
    weights: tuple[float, float, float, float, float]
    cut: float
    levels: tuple[float, ...] = ()
    rising: tuple[str, ...] = ()
    falling: tuple[str, ...] = ()
    teacher: int = 0
    leaves: int = 0
    copies: int = 0
    jitter: float = 0.0


FILM = Recipe(
    seed=1, depth=10, least_leaf=40, weights=(3.0, 1.0, 1.0, 1.0, 0.5), cut=0.85,
    levels=(film.CONTINUATION, LEAST_PROBABILITY),
    rising=("contrast", "match_both", "match_one", "visibility", "path", "unexplained"),
    falling=("disagreement", "motion_error", "fill_error", "inconsistency", "tint", "ground_error"),
    teacher=100, leaves=64, copies=6, jitter=0.15,
)  # fmt: skip
# The text: a miss costs twice as much as a false alarm.
PAGE = Recipe(seed=1, depth=6, least_leaf=10, weights=(2.0, 2.0, 1.0, 1.0, 1.0), cut=0.5)
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


def film_samples(data: Path, seed: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Features, labels, and the kind of film: 0 drawn damage, 1 real shapes, 2 untouched, 3 with moving particles."""
    shapes = read_shapes(data / "film_damage", held_out=False)
    # The answers of a tree do not matter here.
    detector = film.FilmDetector(parse_tree("1", film.FEATURES, 1.0))
    features: list[NDArray[Any]] = []
    labels: list[int] = []
    kinds: list[int] = []
    for number, path in enumerate(training_clips(data)):
        frames = read_clip(path, FRAMES)
        random = np.random.default_rng((seed, number))
        films = [
            damaged(frames, random),
            damaged(frames, random, shapes),
            undamaged(frames),
            undamaged(with_particles(frames[:5], random, PARTICLES[number % len(PARTICLES)])),
        ]
        for kind, damage in enumerate(films):
            for frame in examine(damage, detector):
                features += frame.features
                labels += [cover.label for cover in frame.candidates]
                kinds += [kind] * len(frame.candidates)
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
    how = "fitted to a boosted ensemble" if recipe.teacher else "by entropy"
    facts = {
        "name": f"{kind}-defects",
        "summary": "tells defects of film from motion" if kind == "film" else "tells spots from uneven tint",
        "licence": "Apache-2.0",
        "date": datetime.date.today().isoformat(),
        "recipe": f"scikit-learn decision tree, {how}: {recipe}; {len(labels)} samples, {labels.sum()} defects; "
        f"python -m benchmarks.defects.training {kind}{' --data DIR' if kind == 'film' else ''}",
        "data": "every third source of the curated set that is not held out, with drawn damage "
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


def classified(
    recipe: Recipe, directions: list[int], features: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any]
) -> tuple[Any, NDArray[Any]]:
    """A tree by information gain (entropy), and the share of defects at each node."""
    from sklearn.tree import DecisionTreeClassifier

    classifier = DecisionTreeClassifier(
        criterion="entropy", max_depth=recipe.depth, min_samples_leaf=recipe.least_leaf, monotonic_cst=directions,
        random_state=recipe.seed,
    ).fit(features, labels, sample_weight=weights)  # fmt: skip
    tree = classifier.tree_
    return tree, tree.value[:, 0, 1] / tree.value[:, 0, :].sum(1)


def distilled(
    recipe: Recipe, directions: list[int], features: NDArray[Any], labels: NDArray[Any], weights: NDArray[Any]
) -> tuple[Any, NDArray[Any]]:
    """A tree by least squares that answers as a boosted ensemble does, and the probability at each node."""
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.tree import DecisionTreeRegressor

    teacher = HistGradientBoostingClassifier(
        max_iter=recipe.teacher, learning_rate=0.08, max_leaf_nodes=12, min_samples_leaf=30, monotonic_cst=directions,
        early_stopping=False, random_state=recipe.seed,
    ).fit(features, labels, sample_weight=weights)  # fmt: skip
    random = np.random.default_rng(recipe.seed)
    copies = np.tile(features, (1 + recipe.copies, 1))
    copies[len(features) :] *= np.exp(
        random.normal(0, recipe.jitter, (recipe.copies * len(features), features.shape[1]))
    )
    # Beyond these odds nothing depends on them.
    odds = np.clip(teacher.decision_function(copies), -5, 5)
    tree = DecisionTreeRegressor(
        max_depth=recipe.depth, max_leaf_nodes=recipe.leaves, min_samples_leaf=recipe.least_leaf,
        random_state=recipe.seed,
    ).fit(copies, odds, sample_weight=np.tile(weights, 1 + recipe.copies)).tree_  # fmt: skip
    return tree, 1 / (1 + np.exp(-tree.value[:, 0, 0]))


def grown(
    recipe: Recipe, names: tuple[str, ...], features: NDArray[Any], labels: NDArray[Any], kinds: NDArray[Any]
) -> Iterator[str]:
    """The lines of a tree (see vidsr/defects/tree.py); branches whose leaves all lie between two levels are one."""
    drawn, real, *false = recipe.weights
    weights = np.where(labels == 1, np.where(kinds == 0, drawn, real), np.array([false[0], *false])[kinds])
    directions = [int(name in recipe.rising) - int(name in recipe.falling) for name in names]
    fitted = distilled if recipe.teacher else classified
    tree, shares = fitted(recipe, directions, features, labels, weights)

    levels = [0.0, *sorted((recipe.cut, *recipe.levels)), 1.0]

    def decisions(node: int) -> set[int]:
        if tree.children_left[node] < 0:
            return {int(np.searchsorted(levels, shares[node], side="right"))}
        return decisions(tree.children_left[node]) | decisions(tree.children_right[node])

    def lines(node: int, depth: int) -> Iterator[str]:
        space = "  " * depth
        if len(decisions(node)) == 1:
            # The probability of the whole branch may lie on the other side of a level than all of its leaves.
            above = decisions(node).pop()
            highest = levels[above] - 0.001 if above < len(levels) else 1.0
            yield f"{space}{np.clip(shares[node], levels[above - 1], highest):.3f}"
            return
        yield f"{space}{names[tree.feature[node]]} <= {tree.threshold[node]:.4g}"
        yield from lines(tree.children_left[node], depth + 1)
        yield from lines(tree.children_right[node], depth + 1)

    return lines(0, 0)


if __name__ == "__main__":
    main()
