"""Warping error and flicker against sums over single pixels in float64, on clips whose motion is known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor

from vidsr.evaluation.evaluate import evaluate_clip, score_clip, summarize
from vidsr.evaluation.temporal import (
    FlickerScore,
    MotionEstimator,
    StaticFlicker,
    WarpingError,
    WarpingScore,
    dis_motion,
    visible_in_both,
)
from vidsr.train.degrade import degrade_bi

HEIGHT, WIDTH = 40, 56


def texture(height: int, width: int, seed: int = 0, sigma: float = 1.5) -> np.ndarray:
    """A smooth random image, 3 x H x W in 0..255."""
    image = gaussian_filter(np.random.default_rng(seed).random((3, height, width)), (0, sigma, sigma))
    return (image - image.min()) / (image.max() - image.min()) * 255


def pan(frames: int, right: int, down: int, seed: int = 0) -> np.ndarray:
    """N x 3 x H x W, integers in 0..255; the scene moves this many pixels right and down per frame."""
    room = frames * max(abs(right), abs(down))
    canvas = texture(HEIGHT + 2 * room, WIDTH + 2 * room, seed).round()
    corners = [(room - t * down, room - t * right) for t in range(frames)]
    return np.stack([canvas[:, y : y + HEIGHT, x : x + WIDTH] for y, x in corners])


def eight_bits(clip: np.ndarray) -> Tensor:
    return torch.from_numpy(clip.clip(0, 255).round().astype(np.uint8))


def shift(right: int, down: int) -> Tensor:
    return torch.tensor([right, down], dtype=torch.float32)[None, :, None, None].expand(1, 2, HEIGHT, WIDTH)


def known_motion(first: np.ndarray, forth: Tensor, back: Tensor) -> MotionEstimator:
    """The motion of a clip of two frames or of a constant pan: forth from its first frame, and back to it."""
    start_of_clip = torch.from_numpy(first).float()

    def motion(start: Tensor, end: Tensor) -> Tensor:
        return forth if torch.equal(start, start_of_clip) else back

    return motion


def warping(reference: Tensor, result: Tensor, motion: MotionEstimator = dis_motion) -> WarpingScore:
    meter = WarpingError(motion)
    for a, b in zip(reference, result, strict=True):
        meter.step(a, b)
    return meter.flush()


def flicker(reference: Tensor, result: Tensor) -> FlickerScore:
    meter = StaticFlicker()
    for a, b in zip(reference, result, strict=True):
        meter.step(a, b)
    return meter.flush()


# ------------------------------------------------------------------------------------------------------ warping error


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, 2), (-4, 1), (0, -5)])
def test_error_of_a_known_translation_equals_the_noise(right: int, down: int) -> None:
    reference = pan(2, right, down)
    noise = np.random.default_rng(1).normal(0, 6, reference.shape)
    motion = known_motion(reference[0], shift(right, down), shift(-right, -down))
    score = warping(eight_bits(reference), torch.from_numpy((reference + noise) / 255), motion)
    squares = []
    for y in range(HEIGHT):
        for x in range(WIDTH):
            if 0 <= y - down < HEIGHT and 0 <= x - right < WIDTH:
                squares += [(noise[1, c, y, x] - noise[0, c, y - down, x - right]) ** 2 for c in range(3)]
    assert score.result == pytest.approx(np.mean(squares) ** 0.5, rel=1e-4)
    assert score.reference == pytest.approx(0, abs=1e-3)
    assert score.fraction == pytest.approx(len(squares) / 3 / (HEIGHT * WIDTH), abs=1e-12)


def test_estimated_motion_is_nearly_as_good_as_the_known_one() -> None:
    reference = pan(6, 2, -1)
    noise = np.random.default_rng(1).normal(0, 5, reference.shape)
    score = warping(eight_bits(reference), torch.from_numpy((reference + noise) / 255))
    assert score.result == pytest.approx(5 * 2**0.5, rel=0.03)
    assert score.reference is not None and score.reference < 1
    assert 0.85 < score.fraction < (HEIGHT - 1) * (WIDTH - 2) / (HEIGHT * WIDTH) + 0.03


def test_uncovered_pixels_do_not_count() -> None:
    scene = texture(HEIGHT, WIDTH).round()
    square = texture(12, 12, seed=5).round()
    reference = np.stack([scene, scene])
    reference[0, :, 10:22, 20:32] = square
    reference[1, :, 10:22, 24:36] = square
    forth, back = shift(0, 0).clone(), shift(0, 0).clone()
    forth[0, 0, 10:22, 20:32] = 4
    back[0, 0, 10:22, 24:36] = -4
    result = reference / 255
    result[1, :, 10:22, 20:24] = 0.5  # uncovered by the square
    seen = visible_in_both(back, forth)
    hidden = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    hidden[10:22, 20:24] = True
    assert torch.equal(seen, ~hidden)
    motion = known_motion(reference[0], forth, back)
    score = warping(eight_bits(reference), torch.from_numpy(result), motion)
    assert score.fraction == pytest.approx(1 - 48 / (HEIGHT * WIDTH), abs=1e-12)
    assert score.result == pytest.approx(0, abs=1e-3)
    result[1, :, 10:22, 25] += 9 / 255  # visible in both frames
    disturbed = warping(eight_bits(reference), torch.from_numpy(result), motion)
    assert disturbed.result == pytest.approx((81 * 12 / (HEIGHT * WIDTH - 48)) ** 0.5, rel=1e-3)


def test_small_disagreement_of_the_two_directions_is_tolerated() -> None:
    for gap, is_seen in [
        (0.7, True),
        (0.72, False),
    ]:  # tolerated: a squared distance of 0.5 plus 1 % of the squared motion
        assert visible_in_both(shift(0, 0), shift(0, 0) + gap / 2**0.5).all() == is_seen
    middle = (slice(None), slice(20, 40))
    for gap, is_seen in [(1.5, True), (1.8, False)]:  # 0.01 (10^2 + 11.5^2) + 0.5 = 1.68^2
        forth = shift(10, 0).clone()
        forth[:, 0] += gap
        assert visible_in_both(shift(-10, 0), forth)[middle].all() == is_seen


def test_cut_counts_only_with_its_few_matching_pixels() -> None:
    one, other = eight_bits(pan(4, 1, 1, seed=0)), eight_bits(pan(4, -1, 2, seed=9))
    cut, whole = warping(*[torch.stack([one[3], other[0]])] * 2), warping(*[torch.cat([one, other])] * 2)
    parts = [warping(one, one), warping(other, other)]
    assert cut.fraction < 0.5 < 0.9 < min(part.fraction for part in parts)
    assert whole.fraction == pytest.approx((3 * parts[0].fraction + cut.fraction + 3 * parts[1].fraction) / 7)
    by_pair = (sum(n * (part.reference or 0) ** 2 for n, part in ((3, parts[0]), (1, cut), (3, parts[1]))) / 7) ** 0.5
    assert whole.reference is not None and whole.reference < 0.8 * by_pair


def test_frame_by_frame_equals_pair_by_pair() -> None:
    reference = eight_bits(pan(7, 2, 1))
    result = eight_bits(pan(7, 2, 1) + np.random.default_rng(2).normal(0, 4, (7, 3, HEIGHT, WIDTH)))
    pairs = [warping(reference[t : t + 2], result[t : t + 2]) for t in range(6)]
    fraction = sum(pair.fraction for pair in pairs)
    whole = warping(reference, result)
    assert whole.fraction == pytest.approx(fraction / 6)
    assert whole.result == pytest.approx((sum(p.fraction * (p.result or 0) ** 2 for p in pairs) / fraction) ** 0.5)
    squares = sum(p.fraction * (p.reference or 0) ** 2 for p in pairs)
    assert whole.reference == pytest.approx((squares / fraction) ** 0.5)


@pytest.mark.parametrize("size", [(12, 12), (12, 13), (200, 12), (12, 200), (13, 300), (33, 47)])
def test_motion_of_narrow_images(size: tuple[int, int]) -> None:
    still = torch.from_numpy(texture(*size)).float()
    field = dis_motion(still, still)
    assert field.shape == (1, 2, *size) and field.abs().max() < 0.05


def test_motion_is_right_and_points_from_start_to_end() -> None:
    clip = torch.from_numpy(pan(2, 3, -2)).float()
    inner = (slice(None), slice(None), slice(6, -6), slice(6, -6))
    assert (dis_motion(clip[0], clip[1]) - shift(3, -2))[inner].abs().mean() < 0.02
    assert (dis_motion(clip[1], clip[0]) - shift(-3, 2))[inner].abs().mean() < 0.02


# ------------------------------------------------------------------------------------------------------------ flicker


def flicker_by_hand(reference: np.ndarray, result: np.ndarray) -> tuple[float, float]:
    """Root mean square and fraction, pixel by pixel in float64."""
    squares, places = [], 0
    frames, channels, height, width = reference.shape
    for t in range(4, frames):
        for y in range(height):
            for x in range(width):
                places += 1
                window = reference[t - 4 : t + 1, :, y, x]
                if np.abs(np.diff(window, axis=0)).mean() <= 1:
                    error = result[t - 1 : t + 1, :, y, x] - reference[t - 1 : t + 1, :, y, x]
                    squares += [(error[1, c] - error[0, c]) ** 2 for c in range(channels)]
    return (float(np.mean(squares)) ** 0.5 if squares else 0.0), len(squares) / channels / places


@settings(max_examples=25, deadline=None)
@given(st.integers(5, 12), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_flicker_equals_the_sum_over_pixels(frames: int, height: int, width: int, seed: int) -> None:
    noise = np.random.default_rng(seed)
    steps = noise.choice([0, 1, -1, 2, -3, 40], (frames, 3, height, width), p=[0.4, 0.2, 0.2, 0.1, 0.08, 0.02])
    reference = (128 + np.cumsum(steps, 0)).clip(0, 255).astype(np.float64)
    result = (reference + noise.integers(-9, 10, reference.shape)).clip(0, 255)
    expected, fraction = flicker_by_hand(reference, result)
    score = flicker(eight_bits(reference), eight_bits(result))
    assert score.fraction == pytest.approx(fraction, abs=1e-12)
    if fraction < 0.01:
        assert score.result is None
    else:
        assert score.result == pytest.approx(expected, rel=1e-6)


def test_flicker_of_known_offsets_beside_something_that_moves() -> None:
    offsets = np.array([0, 2, -1, 3, 3, 8, 0, -4, 1], dtype=np.float64)
    reference = np.full((9, 3, 12, 20), 100.0)
    reference[:, :, :, 10:] += 7.0 * np.arange(9)[:, None, None, None]  # the right half changes
    result = reference + offsets[:, None, None, None]
    result[:, :, :, 10:] += np.random.default_rng(0).normal(0, 30, (9, 3, 12, 10))
    score = flicker(eight_bits(reference), eight_bits(result))
    assert score.fraction == 0.5
    assert score.result == pytest.approx(np.mean(np.diff(offsets)[3:] ** 2) ** 0.5, rel=1e-6)
    constant = flicker(eight_bits(reference), eight_bits(reference + 9))
    assert constant == FlickerScore(0.0, 0.5)  # a constant brightness error is not flicker


def test_scores_are_none_without_enough_pixels() -> None:
    moving = eight_bits(np.stack([np.full((3, 16, 16), 20.0 * t) for t in range(8)]))
    assert flicker(moving, moving) == FlickerScore(None, 0.0)
    still = moving[:1].expand(8, -1, -1, -1)
    assert flicker(still[:4], still[:4]) == FlickerScore(None, 0.0)
    assert flicker(still[:5], still[:5]) == FlickerScore(0.0, 1.0)
    few = moving.clone()
    few[:, :, 0, :2] = 5  # 2 of 256 pixels
    assert flicker(few, few) == FlickerScore(None, 2 / 256)
    assert warping(still[:1], still[:1]) == WarpingScore(None, None, 0.0)
    assert warping(still[..., :11], still[..., :11]) == WarpingScore(None, None, 0.0)


# ------------------------------------------------------------------------------------------------------- both, and eval


def test_both_metrics_grow_with_noise() -> None:
    reference = pan(8, 1, 1)
    reference[:, :, :, :20] = reference[:1, :, :, :20]
    noise = np.random.default_rng(3).normal(0, 1, reference.shape)
    clip = eight_bits(reference)
    results = [torch.from_numpy((reference + sigma * noise) / 255) for sigma in (0, 1, 2, 4, 8)]
    errors = [warping(clip, result).result or 0.0 for result in results]
    flickers = [flicker(clip, result).result or 0.0 for result in results]
    assert errors == sorted(errors) and errors[-1] > errors[0] + 5
    assert flickers == sorted(flickers) and flickers[-1] == pytest.approx(8 * flickers[1], rel=1e-3)


def test_frames_are_copied_and_may_be_uint8_or_float() -> None:
    clip = pan(6, 1, 0)
    clip[..., :20] = clip[:1, ..., :20]
    reference, result = eight_bits(clip), eight_bits(clip + np.random.default_rng(4).normal(0, 4, clip.shape))
    floats = WarpingError(), StaticFlicker()
    buffer = torch.empty(2, 3, HEIGHT, WIDTH)
    for a, b in zip(reference, result, strict=True):
        buffer[0], buffer[1] = a / 255, b / 255
        for meter in floats:
            meter.step(buffer[0], buffer[1])
    warped, flickered = floats[0].flush(), floats[1].flush()
    assert warped.result == pytest.approx(warping(reference, result).result, rel=1e-4)
    assert flickered.result == pytest.approx(flicker(reference, result).result, rel=1e-4)


def test_score_clip_includes_them_on_request() -> None:
    clip = pan(7, 1, 0)
    clip[..., :20] = clip[:1, ..., :20]
    reference, result = eight_bits(clip), eight_bits(clip + np.random.default_rng(4).normal(0, 4, clip.shape))
    without = score_clip("x", reference, result, 2).scores
    assert without.warping_error is without.static_flicker is without.warping_share is without.static_share is None
    scores = score_clip("x", reference, result, 2, temporal=True).scores
    inner = (..., slice(2, -2), slice(2, -2))
    warped, flickered = warping(reference[inner], result[inner]), flicker(reference[inner], result[inner])
    assert (scores.warping_error, scores.reference_warping_error) == (warped.result, warped.reference)
    assert (scores.static_flicker, scores.static_share) == (flickered.result, flickered.fraction)
    assert scores.warping_share == warped.fraction
    assert (scores.psnr, scores.ssim_vt_y) == (without.psnr, without.ssim_vt_y)
    protocol = evaluate_clip(lambda low: low.repeat_interleave(4, 2).repeat_interleave(4, 3), reference, degrade_bi, 0,
                             temporal=True)  # fmt: skip
    assert protocol.scores.warping_error is not None and protocol.scores.static_flicker is not None


def test_mean_covers_only_clips_with_a_value() -> None:
    moving = eight_bits(pan(6, 3, 0))
    still = moving[:1].expand(6, -1, -1, -1)
    noisy = eight_bits(still.numpy() + np.random.default_rng(5).normal(0, 3, still.shape))
    clips = [score_clip("moving", moving, moving, temporal=True), score_clip("still", still, noisy, temporal=True)]
    assert clips[0].scores.static_flicker is None and clips[0].scores.static_share is not None
    evaluation = summarize(clips)
    assert evaluation.mean.static_flicker == clips[1].scores.static_flicker
    shares = [clip.scores.static_share or 0.0 for clip in clips]
    assert evaluation.mean.static_share == pytest.approx(sum(shares) / 2)
    loaded = json.loads(evaluation.to_json())
    assert loaded["clips"][0]["scores"]["static_flicker"] is None
    assert loaded["mean"]["warping_error"] == evaluation.mean.warping_error
    assert loaded["clips"][1]["scores"]["reference_warping_error"] == pytest.approx(0, abs=0.05)
    assert summarize([score_clip("x", still, noisy)]).mean.static_flicker is None
