"""Smoothed landmarks on synthetic images, the metrics by hand, and pseudo-videos against their own transforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.faces.landmark_metrics import eye_distance, nme, overall, sdd
from benchmarks.faces.pseudo_videos import Shot, play
from tests.support.blobs import POINTS, texture
from vidsr.faces.landmark_smoothing import LandmarkSmoother, SmoothedLandmarks, SmoothingConfig
from vidsr.faces.optical_flow import track

Array = NDArray[np.float64]
Frames = list[NDArray[np.uint8]]
EYES = 30.0


def moving(
    frames: int, step: tuple[float, float] = (1.7, -0.6), noise: float = 2.0
) -> tuple[list[NDArray[np.uint8]], Array]:
    """A textured face that moves this many pixels per frame, and its true landmarks."""
    still, middle = texture(), np.array([110.0, 110.0])
    # The face moves opposite to the camera.
    reach = np.array(step) * (frames - 1) / 2
    ends = [Shot(*(middle + way * reach), noise=noise) for way in (1, -1)]
    shown = list(play(still, POINTS + middle, ends[0], ends[1], frames, (160, 140), 7))
    return [image for image, _ in shown], np.array([points for _, points in shown])


def noisy(truth: Array, pixels: float = 1.0, seed: int = 3) -> Array:
    return truth + np.random.default_rng(seed).normal(0, pixels, truth.shape)


def run(
    frames: Frames, raw: Array, config: SmoothingConfig | None = None, cuts: tuple[int, ...] = ()
) -> list[SmoothedLandmarks]:
    smoother = LandmarkSmoother(config)
    state, results = smoother.init_state(), []
    for index, (frame, points) in enumerate(zip(frames, raw, strict=True)):
        ready, state = smoother.step(frame, {7: points}, state, starts_scene=index in cuts)
        results += ready
    return [faces[7] for faces in results + smoother.flush(state)]


def points_of(results: list[SmoothedLandmarks]) -> Array:
    return np.array([face.points for face in results])


def test_synthetic_image_moves_as_documented() -> None:
    _, truth = moving(5)
    np.testing.assert_allclose(np.diff(truth, axis=0), np.broadcast_to([1.7, -0.6], (4, 5, 2)), atol=1e-9)


@pytest.mark.parametrize("lookahead", [0, 3])
def test_noise_is_halved_without_lag(lookahead: int) -> None:
    frames, truth = moving(30)
    raw = noisy(truth)
    found = points_of(run(frames, raw, SmoothingConfig(lookahead=lookahead)))
    assert overall(sdd(found[5:], truth[5:], EYES)) <= 0.5 * overall(sdd(raw[5:], truth[5:], EYES))
    assert nme(found, truth, eye_distance(truth)) < 0.7 * nme(raw, truth, eye_distance(truth))
    # A filter of the points alone with this memory would lag by several frames of 1.7 pixels.
    trail = (found - truth)[10:].mean((0, 1))
    np.testing.assert_allclose(trail, 0.0, atol=0.3)


def test_noise_falls_too_when_landmarks_are_tracked_individually_as_printed() -> None:
    frames, truth = moving(30)
    raw = noisy(truth)
    found = points_of(run(frames, raw, SmoothingConfig(as_face=False, consistency=0.05)))
    assert overall(sdd(found[5:], truth[5:], EYES)) <= 0.5 * overall(sdd(raw[5:], truth[5:], EYES))


def test_exact_detections_of_constant_motion_stay_exact() -> None:
    frames, truth = moving(20, noise=0.0)
    found = points_of(run(frames, truth))
    assert np.abs(found - truth).max() < 0.15


@pytest.mark.parametrize("size", [0.35, 3.0])
def test_result_is_independent_of_face_size(size: float) -> None:
    still = cv2.resize(texture(), None, fx=2, fy=2, interpolation=cv2.INTER_CUBIC)
    start = Shot(200.0, 215.0, scale=size, noise=1.0)
    shown = list(play(still, 2 * POINTS + 220, start, replace(start, x=215.0, angle=4.0), 20, (300, 260), 1))
    truth = np.array([points for _, points in shown])
    raw = noisy(truth, 2 * EYES * size * 0.03)
    found = points_of(run([image for image, _ in shown], raw))
    distance = float(eye_distance(truth).mean())
    assert overall(sdd(found[5:], truth[5:], distance)) <= 0.5 * overall(sdd(raw[5:], truth[5:], distance))


def test_lookahead_improves_the_first_frames() -> None:
    frames, truth = moving(12)
    raw = noisy(truth, 1.5)
    errors = [
        np.linalg.norm(points_of(run(frames, raw, SmoothingConfig(lookahead=ahead)))[:4] - truth[:4], axis=2).mean()
        for ahead in (0, 6)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_change_affects_no_frame_before_the_lookahead() -> None:
    frames, truth = moving(10)
    raw = noisy(truth)
    changed = raw.copy()
    changed[7] += 1.0
    config = SmoothingConfig(lookahead=2)
    same = points_of(run(frames, raw, config)) == points_of(run(frames, changed, config))
    assert same[:5].all()
    assert not same[5:].all((1, 2)).any()


def test_occlusion_falls_back_to_the_detection() -> None:
    """A static occluder covers the face while the detector still follows it."""
    frames, truth = moving(24, step=(3.0, 0.0))
    for frame in frames[10:]:
        frame[20:130, 10:150] = texture(110, 140, seed=9)
    found = run(frames, truth)
    errors = np.linalg.norm(points_of(found) - truth, axis=2).max(1)
    config = SmoothingConfig()
    # Optical flow sticks to the occluder: it may prevail for `patience` frames, then the detection wins.
    assert errors[:10].max() < 0.5
    assert errors[10:].max() < 3.0 * (config.patience + 2)
    assert errors[10 + config.patience + 4 :].max() < 3.0
    assert np.mean([face.tracking.mean() for face in found[14:]]) < np.mean(
        [face.tracking.mean() for face in found[4:10]]
    )


def test_flat_image_leaves_detections_unchanged() -> None:
    frames = [np.full((140, 160), 90, np.uint8)] * 6
    raw = noisy(np.broadcast_to(POINTS + 70, (6, 5, 2)))
    found = run(frames, raw)
    np.testing.assert_array_equal(points_of(found), raw)
    assert all((face.tracking == 0).all() for face in found)


def test_single_outlier_is_rejected() -> None:
    frames, truth = moving(12)
    raw = truth.copy()
    raw[6] += (25.0, 10.0)
    assert np.abs(points_of(run(frames, raw)) - truth).max() < 1.0
    # The dissertation's own rule accepts it.
    assert np.abs(points_of(run(frames, raw, SmoothingConfig(patience=0)))[6] - truth[6]).max() > 20


def test_lost_detections_are_bridged_and_unknown_stays_unknown() -> None:
    frames, truth = moving(14)
    raw = truth.copy()
    raw[5:9] = np.nan
    raw[9:, 2] = np.nan
    found = points_of(run(frames, raw))
    assert np.abs(found - truth).max() < 1.0
    frames[6] = np.full_like(frames[6], 90)
    assert np.isnan(points_of(run(frames, raw))[6:9]).all()


@pytest.mark.parametrize("lookahead", [0, 2])
def test_cut_resets_the_state(lookahead: int) -> None:
    """The results after a cut equal those of that part alone; so do the results before it."""
    frames, truth = moving(12)
    raw = noisy(truth)
    config = SmoothingConfig(lookahead=lookahead)
    whole = points_of(run(frames, raw, config, cuts=(5,)))
    parts = [points_of(run(frames[part], raw[part], config)) for part in (slice(0, 5), slice(5, 12))]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, points_of(run(frames, raw, config)))


def test_faces_are_independent_and_dropped_when_absent() -> None:
    frames, truth = moving(10)
    raw = noisy(truth)
    other = noisy(truth + np.array([12, -9]), seed=8)
    smoother = LandmarkSmoother(SmoothingConfig(lookahead=1))
    state, results = smoother.init_state(), []
    for index, frame in enumerate(frames):
        faces = {7: raw[index]} | ({3: other[index]} if index not in (4, 5) else {})
        ready, state = smoother.step(frame, faces, state)
        results += ready
        assert set(state.faces) == set(faces)
        assert len(state.pending) <= 1
    results += smoother.flush(state)
    alone = points_of(run(frames, raw, SmoothingConfig(lookahead=1)))
    np.testing.assert_array_equal(np.array([faces[7].points for faces in results]), alone)
    np.testing.assert_array_equal(
        np.array([faces[3].points for faces in results[6:]]),
        points_of(run(frames[6:], other[6:], SmoothingConfig(lookahead=1))),
    )
    assert [3 in faces for faces in results] == [index not in (4, 5) for index in range(10)]


def test_fast_constant_motion_is_bridged_by_prediction() -> None:
    """More than an eye distance per frame, which Lucas-Kanade alone cannot track."""
    still = texture(200, 600)
    start = Shot(450.0, 100.0)
    shown = list(play(still, POINTS + np.array([300, 100]), start, replace(start, x=150.0), 9, (480, 160), 0))
    truth = np.array([points for _, points in shown])
    raw = truth.copy()
    raw[5:] = np.nan
    assert np.abs(points_of(run([image for image, _ in shown], raw)) - truth).max() < 1.0


def test_face_at_and_beyond_the_frame_edge() -> None:
    frames, truth = moving(10)
    for shift in ((-70.0, 0.0), (0.0, 65.0), (500.0, -500.0)):
        raw = noisy(truth + shift)
        found = points_of(run(frames, raw))
        assert np.isfinite(found).all()
        assert (
            np.linalg.norm(found - truth - shift, axis=2).mean()
            <= 1.2 * np.linalg.norm(raw - truth - shift, axis=2).mean()
        )


def test_state_holds_no_view_of_the_inputs() -> None:
    frames, truth = moving(6)
    raw = noisy(truth)
    expected = points_of(run(frames, raw))
    smoother = LandmarkSmoother()
    state, results = smoother.init_state(), []
    for frame, points in zip(frames, raw, strict=True):
        mine, mine_too = frame.copy(), points.copy()
        ready, state = smoother.step(mine, {0: mine_too}, state)
        mine[:], mine_too[:] = 0, 0
        results.append(ready[0][0].points)
    np.testing.assert_array_equal(np.array(results), expected)


@pytest.mark.parametrize(
    "broken",
    [
        lambda before, now, points: (points.copy(), points.copy()),
        lambda before, now, points: (np.full_like(points, np.nan), np.full_like(points, np.nan)),
        lambda before, now, points: (track(before, now, points)[0], points + before.side),
    ],
    ids=["points that stand still", "never found", "never consistent"],
)
def test_tests_detect_a_broken_tracker(
    broken: Callable[..., tuple[Array, Array]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsr.faces.optical_flow.track", broken)
    with pytest.raises(AssertionError):
        test_noise_is_halved_without_lag(0)


def test_invalid_input_is_refused() -> None:
    smoother = LandmarkSmoother()
    gray = np.zeros((20, 20), np.uint8)
    for points in (np.zeros((1, 2)), np.zeros((5, 3)), np.zeros(10)):
        with pytest.raises(ValueError, match="K x 2"):
            smoother.step(gray, {0: points}, smoother.init_state())
    with pytest.raises(ValueError, match="uint8"):
        smoother.step(gray.astype(np.float32), {0: POINTS}, smoother.init_state())
    for wrong in ({"memory": -1.0}, {"similarity": 0.0}, {"consistency": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            SmoothingConfig(**wrong)
    for name in ("patience", "lookahead"):
        with pytest.raises(ValueError, match="must be"):
            replace(SmoothingConfig(), **{name: -1})
