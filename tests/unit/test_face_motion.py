"""The motion of a whole face: images moved by a known similarity, partly occluded."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.blobs import POINTS, texture
from vidsr.faces.optical_flow import (
    TrackingPatch,
    cut_patch,
    forward_backward_confidence,
    patch_side,
    propagate_landmarks,
)

Array = NDArray[np.float64]
CENTER = np.array([120.0, 100.0])
FACE = CENTER + POINTS
TOLERANCE = 2.0


def moved(angle: float, size: float, shift: tuple[float, float]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Array]:
    """An image, a copy rotated (degrees) and scaled around CENTER and shifted, and the 2 x 3 matrix between them."""
    still = texture()
    matrix = cv2.getRotationMatrix2D((float(CENTER[0]), float(CENTER[1])), angle, size)
    matrix[:, 2] += shift
    return still, cv2.warpAffine(still, matrix, (240, 200), flags=cv2.INTER_CUBIC), matrix


def patches(before: NDArray[np.uint8], now: NDArray[np.uint8]) -> tuple[TrackingPatch, TrackingPatch]:
    side = patch_side(FACE)
    return cut_patch(before, FACE.mean(0), side), cut_patch(now, FACE.mean(0), side)


@pytest.mark.parametrize(
    ("angle", "size", "shift"), [(0.0, 1.0, (3.3, -1.7)), (5.0, 1.0, (0.0, 0.0)), (-3.0, 1.06, (2.0, 1.0))]
)
def test_similarity_is_recovered(angle: float, size: float, shift: tuple[float, float]) -> None:
    before, now, matrix = moved(angle, size, shift)
    points, confidence = propagate_landmarks(*patches(before, now), FACE, TOLERANCE)
    np.testing.assert_allclose(points, FACE @ matrix[:, :2].T + matrix[:, 2], atol=0.12)
    assert (confidence == confidence[0]).all()
    assert 0.9 < confidence[0] <= 1.0


def test_partial_occlusion_does_not_mislead() -> None:
    """An occluder that stays in place over the lower left quarter and one landmark."""
    before, now, matrix = moved(2.0, 1.0, (4.0, -2.0))
    for frame in (before, now):
        frame[100:140, 85:120] = texture(seed=5)[:40, :35]
    points, confidence = propagate_landmarks(*patches(before, now), FACE, TOLERANCE)
    assert np.abs(points - (FACE @ matrix[:, :2].T + matrix[:, 2])).max() < 0.8  # of a motion of 4.5 pixels
    assert confidence[0] > 0.5


def test_unknown_points_stay_unknown_and_others_are_propagated() -> None:
    before, now, matrix = moved(0.0, 1.0, (2.0, 2.0))
    some = FACE.copy()
    some[3] = np.nan
    points, _ = propagate_landmarks(*patches(before, now), some, TOLERANCE)
    assert np.isnan(points[3]).all()
    rest = [0, 1, 2, 4]
    np.testing.assert_allclose(points[rest], FACE[rest] @ matrix[:, :2].T + matrix[:, 2], atol=0.12)


@pytest.mark.parametrize("points", [FACE, np.full((5, 2), np.nan)], ids=["a flat image", "no point known"])
def test_tracking_failure_gives_nan_and_zero_confidence(points: Array) -> None:
    flat = np.full((200, 240), 90, np.uint8)
    carried, confidence = propagate_landmarks(*patches(flat, flat), points, TOLERANCE)
    assert np.isnan(carried).all()
    assert (confidence == 0).all()


def test_different_image_has_low_confidence() -> None:
    _, confidence = propagate_landmarks(*patches(texture(), texture(seed=1)), FACE, TOLERANCE)
    assert confidence[0] < 0.3


def test_forward_backward_confidence_by_hand() -> None:
    back = np.array([[0.0, 0.0], [3.0, 4.0], [np.nan, np.nan]])
    np.testing.assert_allclose(forward_backward_confidence(back, np.zeros((3, 2)), 5.0), [1.0, np.exp(-1.0), 0.0])
