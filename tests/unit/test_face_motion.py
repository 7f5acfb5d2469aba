"""A face's motion as a whole: pictures moved by a known similarity, parts of them covered."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.blobs import POINTS, texture
from vidsr.faces.optical_flow import Patch, carry, cut_patch, homecoming, patch_side

Array = NDArray[np.float64]
MIDDLE = np.array([120.0, 100.0])
FACE = MIDDLE + POINTS
TOLERANCE = 2.0


def moved(angle: float, size: float, shift: tuple[float, float]) -> tuple[NDArray[np.uint8], NDArray[np.uint8], Array]:
    """A picture, the same turned (degrees) and enlarged around MIDDLE and shifted, and the 2 x 3 map between them."""
    still = texture()
    matrix = cv2.getRotationMatrix2D((float(MIDDLE[0]), float(MIDDLE[1])), angle, size)
    matrix[:, 2] += shift
    return still, cv2.warpAffine(still, matrix, (240, 200), flags=cv2.INTER_CUBIC), matrix


def patches(before: NDArray[np.uint8], now: NDArray[np.uint8]) -> tuple[Patch, Patch]:
    side = patch_side(FACE)
    return cut_patch(before, FACE.mean(0), side), cut_patch(now, FACE.mean(0), side)


@pytest.mark.parametrize(
    ("angle", "size", "shift"), [(0.0, 1.0, (3.3, -1.7)), (5.0, 1.0, (0.0, 0.0)), (-3.0, 1.06, (2.0, 1.0))]
)
def test_a_similarity_is_found(angle: float, size: float, shift: tuple[float, float]) -> None:
    before, now, matrix = moved(angle, size, shift)
    points, trust = carry(*patches(before, now), FACE, TOLERANCE)
    np.testing.assert_allclose(points, FACE @ matrix[:, :2].T + matrix[:, 2], atol=0.12)
    assert (trust == trust[0]).all()
    assert 0.9 < trust[0] <= 1.0


def test_what_covers_a_part_of_the_face_does_not_lead() -> None:
    """A hand over the lower left quarter, with one landmark under it, that stays where it is in both frames."""
    before, now, matrix = moved(2.0, 1.0, (4.0, -2.0))
    for frame in (before, now):
        frame[100:140, 85:120] = texture(seed=5)[:40, :35]
    points, trust = carry(*patches(before, now), FACE, TOLERANCE)
    assert np.abs(points - (FACE @ matrix[:, :2].T + matrix[:, 2])).max() < 0.8  # of a motion of 4.5 pixels
    assert trust[0] > 0.5


def test_points_unknown_stay_unknown_and_the_others_are_carried() -> None:
    before, now, matrix = moved(0.0, 1.0, (2.0, 2.0))
    some = FACE.copy()
    some[3] = np.nan
    points, _ = carry(*patches(before, now), some, TOLERANCE)
    assert np.isnan(points[3]).all()
    rest = [0, 1, 2, 4]
    np.testing.assert_allclose(points[rest], FACE[rest] @ matrix[:, :2].T + matrix[:, 2], atol=0.12)


@pytest.mark.parametrize("points", [FACE, np.full((5, 2), np.nan)], ids=["a flat picture", "no point known"])
def test_no_telling(points: Array) -> None:
    flat = np.full((200, 240), 90, np.uint8)
    carried, trust = carry(*patches(flat, flat), points, TOLERANCE)
    assert np.isnan(carried).all()
    assert (trust == 0).all()


def test_another_picture_is_not_trusted() -> None:
    _, trust = carry(*patches(texture(), texture(seed=1)), FACE, TOLERANCE)
    assert trust[0] < 0.3


def test_homecoming_by_hand() -> None:
    back = np.array([[0.0, 0.0], [3.0, 4.0], [np.nan, np.nan]])
    np.testing.assert_allclose(homecoming(back, np.zeros((3, 2)), 5.0), [1.0, np.exp(-1.0), 0.0])
