"""How well a face detector agrees with reference boxes: recall, precision, false alarms, landmark error. No pictures.

Faces are matched as in PASCAL VOC (Everingham et al., 2010, section 4.2): best score first, each reference once, where
the boxes' intersection over union is at least 0.5. A detection's match does not depend on weaker ones, so one list at a
low score serves every threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vidsr.faces.detections import Array, Detections, overlaps

LEAST_OVERLAP = 0.5


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a detector did in one picture: `wanted` faces were to be found.

    For each of the N faces that it found: the score, whether it is a wanted face, whether it is a false alarm (neither
    wanted nor excused), and the landmark error in eye distances, NaN where there is none.
    """

    wanted: int
    scores: Array
    is_hit: NDArray[np.bool_]
    is_false: NDArray[np.bool_]
    errors: Array


@dataclass(frozen=True, slots=True)
class Figures:
    """A detector at one threshold. Shares are of 1, NaN where nothing was there to count.

    `recall` of the wanted faces, `precision` of what was found and not merely excused, `false_alarms` per picture,
    `landmark_error` of the hits: mean distance of the five points, in eye distances.
    """

    threshold: float
    recall: float
    precision: float
    false_alarms: float
    landmark_error: float


def match(found: Detections, wanted: Detections, least_overlap: float = LEAST_OVERLAP) -> NDArray[np.intp]:
    """For each face found the row of `wanted` that it hits, or -1: best score first, the best overlap that is free."""
    rows = np.full(len(found), -1)
    shares = overlaps(found.boxes, wanted.boxes)
    for i in np.argsort(-found.scores, kind="stable"):
        if len(wanted) and shares[i].max() >= least_overlap:
            rows[i] = shares[i].argmax()
            shares[:, rows[i]] = -1.0
    return rows


def judge(
    found: Detections, reference: Detections, least_side: float, sure: float = 0.8, excuse: float = 0.5
) -> Judgement:
    """Compares what was found in a picture, at any score, with the reference detector's faces.

    Wanted are reference faces with a score of at least `sure` and a side (root of the area) of `least_side` pixels.
    Reference faces from the score `excuse` on, of any size, are no false alarms, however often they are found.
    """
    sides = np.sqrt(np.prod(reference.boxes[:, 2:], axis=1))
    wanted = reference.take((reference.scores >= sure) & (sides >= least_side))
    excused = reference.take(reference.scores >= excuse)
    rows = match(found, wanted)
    is_hit = rows >= 0
    is_near = (overlaps(found.boxes, excused.boxes) >= LEAST_OVERLAP).any(1)
    # A second box on a wanted face is an error of the detector, not an excused one.
    is_second = ~is_hit & (overlaps(found.boxes, wanted.boxes) >= LEAST_OVERLAP).any(1)
    errors = np.full(len(found), np.nan)
    truth = wanted.landmarks[rows[is_hit]]
    eyes = np.linalg.norm(truth[:, 0] - truth[:, 1], axis=1)
    errors[is_hit] = np.linalg.norm(found.landmarks[is_hit] - truth, axis=2).mean(1) / eyes
    return Judgement(len(wanted), found.scores, is_hit, is_second | ~(is_hit | is_near), errors)


def figures(judgements: Sequence[Judgement], threshold: float) -> Figures:
    """The figures over many pictures of a detector whose faces below `threshold` are dropped."""
    scores, is_hit, is_false, errors = _joined(judgements)
    kept = scores >= threshold
    hits, false = int((is_hit & kept).sum()), int((is_false & kept).sum())
    wanted = sum(judgement.wanted for judgement in judgements)
    return Figures(
        threshold,
        hits / wanted if wanted else np.nan,
        hits / (hits + false) if hits + false else np.nan,
        false / len(judgements) if judgements else np.nan,
        float(errors[is_hit & kept].mean()) if hits else np.nan,
    )


def figures_at_precision(judgements: Sequence[Judgement], precision: float) -> Figures:
    """The figures at the lowest threshold from which the precision is reached; infinite if it is at none."""
    scores, is_hit, is_false, _ = _joined(judgements)
    order = np.argsort(-scores, kind="stable")
    hits, false = np.cumsum(is_hit[order]), np.cumsum(is_false[order])
    reached = hits >= precision * np.maximum(hits + false, 1)
    ends = np.append(scores[order][1:] < scores[order][:-1], True) if len(order) else np.zeros(0, bool)
    places = np.flatnonzero(reached & ends & (hits > 0))
    return figures(judgements, float(scores[order][places[-1]]) if len(places) else np.inf)


def _joined(judgements: Sequence[Judgement]) -> tuple[Array, NDArray[np.bool_], NDArray[np.bool_], Array]:
    if not judgements:
        return np.zeros(0), np.zeros(0, bool), np.zeros(0, bool), np.zeros(0)
    return (
        np.concatenate([judgement.scores for judgement in judgements]),
        np.concatenate([judgement.is_hit for judgement in judgements]),
        np.concatenate([judgement.is_false for judgement in judgements]),
        np.concatenate([judgement.errors for judgement in judgements]),
    )
