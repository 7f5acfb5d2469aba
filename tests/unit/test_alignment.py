"""The similarity transform from five points, and the images that it brings to another pose."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vidsr.faces.alignment import similarity_between, transformed, warped

POINTS = np.array([[30.0, 40.0], [62.0, 38.0], [47.0, 55.0], [35.0, 70.0], [60.0, 69.0]])


def transform(angle: float, scale: float, x: float, y: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    return np.array([[cosine, -sine, x], [sine, cosine, y]])


@given(st.floats(-3, 3), st.floats(0.1, 5), st.floats(-99, 99), st.floats(-99, 99))
def test_an_exact_similarity_is_found(angle: float, scale: float, x: float, y: float) -> None:
    expected = transform(angle, scale, x, y)
    found = similarity_between(POINTS, transformed(expected, POINTS))
    np.testing.assert_allclose(found, expected, atol=1e-9)


@given(st.integers(0, 999))
def test_no_similarity_is_nearer_to_other_points(seed: int) -> None:
    """The least squares of four unknowns, by NumPy's solver."""
    generator = np.random.default_rng(seed)
    target = generator.uniform(0, 100, (5, 2))
    (x, y), one = POINTS.T, np.ones(5)
    rows = np.concatenate([np.stack([x, -y, one, 0 * one], 1), np.stack([y, x, 0 * one, one], 1)])
    (a, b, u, v), *_ = np.linalg.lstsq(rows, target.T.ravel())
    np.testing.assert_allclose(similarity_between(POINTS, target), [[a, -b, u], [b, a, v]], atol=1e-9)


def test_points_that_coincide_tell_nothing() -> None:
    with pytest.raises(ValueError, match="needs two different points"):
        similarity_between(np.ones((5, 2)), POINTS)


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 1.0), (0.3, 1.0), (-0.4, 0.5), (0.2, 0.3), (0.1, 1.8)])
def test_what_is_at_a_point_comes_to_its_target(angle: float, scale: float) -> None:
    """A soft dot at each point; its center is found where the transform puts it, to a twentieth of a pixel."""
    size, matrix = 360, transform(angle, scale, 60.0, 60.0)
    for point in 2 * POINTS:
        y, x = np.mgrid[:size, :size] + 0.5
        dot = 255 * np.exp(-((x - point[0]) ** 2 + (y - point[1]) ** 2) / (2 * (4 / min(scale, 1)) ** 2))
        moved = warped(np.repeat(dot[..., None], 3, 2).astype(np.uint8), matrix, size, size)[..., 1].astype(float)
        expected = transformed(matrix, point)
        moved = np.where(np.hypot(x - expected[0], y - expected[1]) < 18, moved, 0)  # the border mirrors the dot
        total = moved.sum()
        center = (moved * x).sum() / total, (moved * y).sum() / total
        np.testing.assert_allclose(center, expected, atol=0.05)


def test_fine_texture_is_filtered_before_it_is_reduced() -> None:
    """Stripes two pixels wide at a third of the size are gray, not a false pattern."""
    stripes = np.repeat(np.tile(np.array([0, 255], np.uint8), 120)[None, :, None], 240, 0).repeat(3, 2)
    reduced = warped(stripes, transform(0.0, 0.3, 0.0, 0.0), 60, 60)
    sampled = cv2.warpAffine(stripes, transform(0.0, 0.3, 0.0, 0.0), (60, 60), flags=cv2.INTER_CUBIC)
    assert reduced[8:-8, 8:-8].std() < 25 < sampled[8:-8, 8:-8].std()
