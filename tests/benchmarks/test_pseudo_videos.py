"""The metrics of landmarks by hand, and pseudo-videos against their own maps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.faces.landmark_metrics import eye_distance, nme, overall, sdd, std, std_moving
from benchmarks.faces.pseudo_videos import Shot, play
from tests.support.blobs import POINTS, texture


def test_metrics_by_hand() -> None:
    truth = np.array([[[0.0, 0.0], [10.0, 0.0]], [[0.0, 0.0], [0.0, 20.0]]])
    found = truth + np.array([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 2.0], [-6.0, 8.0]]])
    distance = eye_distance(truth)
    np.testing.assert_allclose(distance, [10.0, 20.0])
    # ((5 + 0) / 2) / 10 and ((2 + 10) / 2) / 20
    assert nme(found, truth, distance) == pytest.approx((0.25 + 0.3) / 2)
    # Two values a and b deviate by |a - b| / sqrt(2), with n - 1 = 1.
    by_hand = np.array([[3.0, 2.0], [6.0, 8.0]]) / math.sqrt(2) / 15.0
    np.testing.assert_allclose(sdd(found, truth, 15.0), by_hand)
    np.testing.assert_allclose(std(found - truth, 15.0), by_hand)
    assert overall(by_hand) == pytest.approx(math.sqrt((9 + 4 + 36 + 64) / 2 / 4) / 15)
    with pytest.raises(ValueError, match="NaN"):
        nme(np.full_like(truth, np.nan), truth, distance)
    with pytest.raises(ValueError, match="at least 2"):
        std(truth[:1], 1.0)


def test_std_of_a_moving_face_sees_noise_and_no_parabola() -> None:
    time = np.arange(2000.0)
    path = np.stack([0.01 * time**2, 5 - 3 * time], 1)[:, None]
    assert overall(std_moving(path, 1.0)) < 1e-6
    noise = np.random.default_rng(0).normal(0, 2.0, path.shape)
    assert overall(std_moving(path + noise, 4.0)) == pytest.approx(0.5, rel=0.05)


def test_pseudo_video_moves_its_landmarks_with_the_picture() -> None:
    """Bright dots at the landmarks: their centers in each frame are found without the camera's formula."""
    still = np.zeros((200, 200), np.float64)
    dots = np.array([[70.0, 80.0], [130.0, 85.0], [100.0, 110.0], [80.0, 130.0], [120.0, 132.0]])
    rows, columns = np.mgrid[:200, :200]
    for x, y in dots:
        still += 230 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 2.5**2))
    start = Shot(100, 100, scale=0.9, shutter=0.8)
    end = Shot(110, 95, scale=1.5, angle=20, tilt_x=0.2, tilt_y=-0.15, brightness=0.8, noise=1.0, shutter=0.8)
    shown = list(play(still.astype(np.uint8), dots, start, end, 6, (220, 200), 0))
    assert len(shown) == 6
    for image, points in shown:
        for x, y in points:
            near = np.hypot(columns[:, :200] - x, rows - y)[: image.shape[0]] < 11
            light = np.where(near, np.maximum(image[:200, :200].astype(float) - 12, 0), 0)
            center = np.array([(light * columns).sum(), (light * rows).sum()]) / light.sum()
            np.testing.assert_allclose(center, (x, y), atol=0.25)
    np.testing.assert_allclose(shown[0][1], (dots - 100) * 0.9 + (109.5, 99.5))


def test_pseudo_video_repeats_with_its_seed_and_changes_as_told() -> None:
    still = texture()
    start, end = Shot(120, 100), Shot(120, 100, brightness=0.5, noise=8.0)
    first, again, other = (list(play(still, POINTS + 100, start, end, 3, (90, 80), seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[-1][0], other[-1][0])
    assert first[-1][0].mean() == pytest.approx(first[0][0].mean() / 2, rel=0.03)
    # Half a pixel off the still's grid: the middle of an even size lies between two pixels.
    rest = first[-1][0].astype(float) - 0.5 * first[0][0]
    assert rest.std() == pytest.approx(8.0, rel=0.1)
