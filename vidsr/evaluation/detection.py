"""Metrics of face detectors against reference boxes: recall, precision, false alarms, landmark error.

Faces are matched as in PASCAL VOC (Everingham et al., 2010, section 4.2): best score first, each reference face at most
once, where the intersection over union of the boxes is at least 0.5. A match does not depend on detections with lower
scores, so one list with a low minimum score serves every threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidsr.faces.detections import Array, Detections, pairwise_iou

MIN_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class ImageResult:
    """The result of a detector on one image with `wanted` faces to be found.

    For each of the N detections: its score, whether it hits a wanted face, whether it is a false alarm (neither wanted
    nor excused), and its landmark error in eye distances, NaN unless it is a hit.
    """

    wanted: int
    scores: Array
    is_hit: NDArray[np.bool_]
    is_false: NDArray[np.bool_]
    errors: Array


@dataclass(frozen=True, slots=True)
class DetectorMetrics:
    """The metrics of a detector at one score threshold; NaN where there was nothing to count.

    `recall` of the wanted faces and `precision` of the detections that are not excused, both 0..1; `false_alarms` per
    image; `landmark_error` of the hits: mean distance of the five points, in eye distances.
    """

    threshold: float
    recall: float
    precision: float
    false_alarms: float
    landmark_error: float


def match(found: Detections, wanted: Detections, min_overlap: float = MIN_OVERLAP) -> NDArray[np.intp]:
    """For each detection the row of `wanted` that it hits, or -1: by descending score, the best free overlap."""
    rows = np.full(len(found), -1)
    ious = pairwise_iou(found.boxes, wanted.boxes)
    for i in np.argsort(-found.scores, kind="stable"):
        if len(wanted) and ious[i].max() >= min_overlap:
            rows[i] = ious[i].argmax()
            ious[:, rows[i]] = -1.0
    return rows


def evaluate_image(
    found: Detections, reference: Detections, min_side: float, sure: float = 0.8, excuse: float = 0.5
) -> ImageResult:
    """Compares the detections in an image, of any score, with the reference detector's faces.

    Wanted are reference faces with a score of at least `sure` and a side (root of the area) of at least `min_side`
    pixels. A detection of a reference face with a score of at least `excuse`, of any size, is not a false alarm.
    """
    sides = np.sqrt(np.prod(reference.boxes[:, 2:], axis=1))
    wanted = reference.take((reference.scores >= sure) & (sides >= min_side))
    excused = reference.take(reference.scores >= excuse)
    rows = match(found, wanted)
    is_hit = rows >= 0
    is_near = (pairwise_iou(found.boxes, excused.boxes) >= MIN_OVERLAP).any(1)
    # A second box on a wanted face is a false alarm and is not excused.
    is_second = ~is_hit & (pairwise_iou(found.boxes, wanted.boxes) >= MIN_OVERLAP).any(1)
    errors = np.full(len(found), np.nan)
    truth = wanted.landmarks[rows[is_hit]]
    eyes = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1)
    errors[is_hit] = np.linalg.norm(found.landmarks[is_hit] - truth, axis=2).mean(1) / eyes
    return ImageResult(len(wanted), found.scores, is_hit, is_second | ~(is_hit | is_near), errors)


def detector_metrics(results: Sequence[ImageResult], threshold: float) -> DetectorMetrics:
    """The metrics over many images when detections below `threshold` are dropped."""
    scores, is_hit, is_false, errors = _joined(results)
    kept = scores >= threshold
    hits, false = int((is_hit & kept).sum()), int((is_false & kept).sum())
    wanted = sum(result.wanted for result in results)
    return DetectorMetrics(
        threshold,
        hits / wanted if wanted else np.nan,
        hits / (hits + false) if hits + false else np.nan,
        false / len(results) if results else np.nan,
        float(errors[is_hit & kept].mean()) if hits else np.nan,
    )


def metrics_at_precision(results: Sequence[ImageResult], precision: float) -> DetectorMetrics:
    """The metrics at the lowest threshold that reaches this precision; an infinite threshold if none does."""
    scores, is_hit, is_false, _ = _joined(results)
    order = np.argsort(-scores, kind="stable")
    hits, false = np.cumsum(is_hit[order]), np.cumsum(is_false[order])
    reached = hits >= precision * np.maximum(hits + false, 1)
    ends = np.append(scores[order][1:] < scores[order][:-1], True) if len(order) else np.zeros(0, bool)
    places = np.flatnonzero(reached & ends & (hits > 0))
    return detector_metrics(results, float(scores[order][places[-1]]) if len(places) else np.inf)


def _joined(results: Sequence[ImageResult]) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_], Array]:
    if not results:
        return np.zeros(0), np.zeros(0, bool), np.zeros(0, bool), np.zeros(0)
    return (
        np.concatenate([result.scores for result in results]),
        np.concatenate([result.is_hit for result in results]),
        np.concatenate([result.is_false for result in results]),
        np.concatenate([result.errors for result in results]),
    )
