"""Recall, precision, false alarms and landmark error by hand, and thresholds against exhaustive search."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vidsr.evaluation.detection import ImageResult, detector_metrics, evaluate_image, match, metrics_at_precision
from vidsr.faces.detections import LANDMARKS, Detections

POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])


def faces(*rows: tuple[float, float, float, float]) -> Detections:
    """Faces, each given by (left, top, side, score)."""
    boxes = np.array([[left, top, side, side] for left, top, side, _ in rows]).reshape(-1, 4)
    return Detections(
        boxes,
        (boxes[:, None, :2] + POINTS * boxes[:, None, 2:]).reshape(-1, LANDMARKS, 2),
        np.array([row[3] for row in rows]),
    )


def test_each_reference_is_hit_once_by_the_best_score() -> None:
    found = faces((1, 0, 40, 0.7), (0, 0, 40, 0.9), (100, 0, 40, 0.8))
    assert match(found, faces((0, 0, 40, 0.9), (60, 0, 40, 0.9))).tolist() == [-1, 0, -1]


def test_wanted_excused_and_false_detections() -> None:
    reference = faces((0, 0, 40, 0.9), (100, 0, 40, 0.6), (200, 0, 10, 0.9), (300, 0, 40, 0.3))
    found = faces((0, 0, 40, 0.9), (100, 0, 40, 0.9), (200, 0, 10, 0.9), (300, 0, 40, 0.9), (2, 0, 40, 0.5))
    result = evaluate_image(found, reference, min_side=20)
    assert result.wanted == 1
    assert result.is_hit.tolist() == [True, False, False, False, False]
    assert result.is_false.tolist() == [False, False, False, True, True]  # unknown, and the second box on one face


def test_landmark_error_is_in_eye_distances() -> None:
    reference = faces((0, 0, 50, 0.9))
    found = Detections(reference.boxes, reference.landmarks + np.array([3.0, 4.0]), reference.scores)
    errors = evaluate_image(found, reference, 20).errors
    assert errors == pytest.approx(5 / (0.4 * 50))


def test_metrics_count_over_all_images() -> None:
    reference, nothing = faces((0, 0, 40, 0.9), (60, 0, 40, 0.9)), faces()
    results = [
        evaluate_image(faces((0, 0, 40, 0.9), (60, 0, 40, 0.4)), reference, 20),
        evaluate_image(faces((5, 5, 30, 0.6)), nothing, 20),
        evaluate_image(nothing, nothing, 20),
    ]
    strict, loose = detector_metrics(results, 0.5), detector_metrics(results, 0.3)
    assert (strict.recall, strict.precision, strict.false_alarms) == (0.5, 0.5, pytest.approx(1 / 3))
    assert (loose.recall, loose.precision) == (1.0, pytest.approx(2 / 3))
    assert loose.landmark_error == 0.0
    assert math.isnan(detector_metrics([], 0.5).recall) and math.isnan(detector_metrics(results, 0.95).landmark_error)


@pytest.mark.parametrize("seed", range(5))
def test_lowest_threshold_that_reaches_the_precision(seed: int) -> None:
    random = np.random.default_rng(seed)
    results = []
    for _ in range(6):
        count = int(random.integers(0, 6))
        is_hit = random.random(count) < 0.7
        scores = random.integers(1, 10, count) / 10  # with ties, which a threshold keeps or drops together
        results.append(ImageResult(int(is_hit.sum()) + 1, scores, is_hit, ~is_hit, np.where(is_hit, 0.1, np.nan)))
    best = metrics_at_precision(results, 0.75)
    reached = [t / 10 for t in range(1, 10) if detector_metrics(results, t / 10).precision >= 0.75]
    if not reached:
        assert best.threshold == math.inf
        return
    assert best.recall == max(detector_metrics(results, t).recall for t in reached)
    assert best.precision >= 0.75
