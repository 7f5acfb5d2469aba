"""Who is who, measured and trained: which halves are compared, the whitening, and the threshold without own people."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faces.persons import Half, comparable, measure_pairs
from benchmarks.faces.persons_training import (
    RECIPE,
    THRESHOLDS,
    card,
    covariances,
    cross_validated_threshold,
    rounded,
    text_of,
    whitening,
    with_mean,
)
from vidsr.faces.embedding import LENGTH
from vidsr.faces.heads import Head, plain_head, read_head

pytestmark = pytest.mark.numeric

N = 4


def halves_of(people: int, spread: float, seed: int = 3, draws: tuple[int, ...] = (1, 2)) -> list[Half]:
    """Halves of N numbers, of which the last says nothing about the person."""
    random = np.random.default_rng(seed)
    centers = random.normal(size=(people, N))
    found = []
    for person, draw, number in np.ndindex(people, len(draws), 3):
        noise = random.normal(0, spread, N) * [*[1] * (N - 1), 10]
        found.append(Half(f"p{person}", f"c{person}", draws[draw], number, 30.0, 25, (centers[person] + noise)[None]))
    return found


def test_only_halves_of_one_draw_are_compared() -> None:
    halves = [Half(person, "c", draw, 0, 30.0, 25, np.ones((1, N))) for draw in (1, 2) for person in "aab"]
    rows, columns, is_same = comparable(halves)
    assert list(zip(rows.tolist(), columns.tolist(), is_same.tolist(), strict=True)) == [
        (0, 1, True), (0, 2, False), (1, 2, False), (3, 4, True), (3, 5, False), (4, 5, False),
    ]  # fmt: skip


def test_recall_and_precision_are_those_of_all_draws_together() -> None:
    """At 0 and 2, 90 and 95 degrees two people; in the second draw the second person is once where the first is."""
    angles = {1: (0, 2, 90, 95), 2: (0, 2, 10, 100)}
    halves = [
        Half(person, "c", draw, k, 30.0, 25, np.array([[math.cos(math.radians(a)), math.sin(math.radians(a))]]))
        for draw, row in angles.items()
        for k, (person, a) in enumerate(zip("aabb", row, strict=True))
    ]
    found = measure_pairs(halves, plain_head(2, 0.9))
    # Found: 0-2 and 90-95, then 0-2, 0-10 and 2-10; of one person are two pairs in each draw.
    assert (found.recall, found.precision, found.best, found.count) == (3 / 4, 3 / 5, 3 / 4, 4)


def test_whitening_makes_the_shrunk_covariance_within_people_the_unit_matrix() -> None:
    halves = halves_of(5, 0.2)
    vectors = np.stack([half.vectors[0] for half in halves])
    people = np.array([half.person for half in halves])
    matrix = whitening(covariances(vectors, people), 0.5)
    mean = np.zeros((N, N))
    for name in set(people):
        own = [row for row, person in zip(vectors, people, strict=True) if person == name]
        center = [sum(row[k] for row in own) / len(own) for k in range(N)]
        for a, b in np.ndindex(N, N):
            mean[a, b] += sum((row[a] - center[a]) * (row[b] - center[b]) for row in own) / (len(own) - 1) / 5
    shrunk = mean / (sum(mean[k, k] for k in range(N)) / N) + 0.5 * np.eye(N)
    np.testing.assert_allclose(matrix @ shrunk @ matrix.T, np.eye(N), atol=1e-12)
    np.testing.assert_array_equal(np.tril(matrix, -1), 0)


def test_the_threshold_is_the_lowest_with_the_wanted_precision() -> None:
    """Four people, of whom two are 60 degrees apart: below a cosine of 0.5 these two are one cluster.

    Then 12 of 21 pairs of each draw are right.
    """
    random = np.random.default_rng(6)
    centers = np.array([[1, 0, 0, 0], [0.5, math.sqrt(0.75), 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    halves = [
        Half(f"p{person}", "c", draw, k, 30.0, 25, (centers[person] + random.normal(0, 0.002, N))[None])
        for person, draw, k in np.ndindex(N, 2, 3)
    ]
    recipe, head = replace(RECIPE, shrinkage=100.0), plain_head(N, 1.0)
    assert cross_validated_threshold(halves, head, replace(recipe, precision=0.58)) == pytest.approx(0.505, abs=0.006)
    assert cross_validated_threshold(halves, head, replace(recipe, precision=0.57)) == THRESHOLDS[-1]
    # A range has to have the precision on its own: of large faces only those two people are left, 6 of 15 pairs.
    large = [replace(half, side=14.0) if half.person in ("p2", "p3") else half for half in halves]
    assert cross_validated_threshold(large, head, replace(recipe, precision=0.5)) == pytest.approx(0.505, abs=0.006)
    assert cross_validated_threshold(large, head, replace(recipe, precision=0.39)) == THRESHOLDS[-1]


def test_the_mean_follows_the_qualities_within_people() -> None:
    """Vectors are a person's own plus a linear function of two qualities, of which one differs between people."""
    random = np.random.default_rng(8)
    slopes, middles = random.normal(size=(2, LENGTH)), random.normal(size=(4, LENGTH))
    halves = []
    for person, count in enumerate((2, 3, 5, 4)):
        for k in range(count):
            qualities = random.normal([person, 0], size=(3, 2))
            vectors = np.column_stack([middles[person] + qualities @ slopes, qualities])
            halves.append(Half(f"p{person}", "c", 1, k, 30.0, 25, vectors))
    head = with_mean(halves, np.array([half.person for half in halves]), replace(RECIPE, tails=0.0))
    np.testing.assert_allclose(head.slopes, slopes, atol=1e-9)
    np.testing.assert_allclose(head.mean, middles.mean(0), atol=1e-9)
    qualities = np.concatenate([half.vectors[:, LENGTH:] for half in halves])
    np.testing.assert_array_equal(head.limits, np.column_stack([qualities.min(0), qualities.max(0)]))


def test_a_head_is_read_as_it_was_trained(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    mean, quality, content, slopes, limits = (random.normal(size=size) for size in (N, N, 2 * N, (3, N), (3, 2)))
    matrix = np.triu(random.normal(size=(N, N)))
    head = rounded(Head(mean, quality, content, (0.1234, 2.0), 0.5, slopes, limits, matrix))
    path = tmp_path / "head.toml"
    path.write_text(text_of(card(head, 10, 20)))
    again = read_head(path)
    assert again.whitening is not None and np.abs(again.whitening - matrix).max() <= 0.0005
    for name in ("mean", "slopes", "limits", "quality", "content", "whitening"):
        np.testing.assert_array_equal(getattr(again, name), getattr(head, name))
    assert (again.biases, again.threshold) == ((0.123, 2.0), 0.5)
