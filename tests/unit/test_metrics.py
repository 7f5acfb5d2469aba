"""PSNR, SSIM and the evaluation of clips against scikit-image and a double loop in plain Python."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from vidsr.errors import InputError, UsageError
from vidsr.evaluation import metrics
from vidsr.evaluation.evaluate import evaluate_clip, score_clip, summarize
from vidsr.evaluation.presentation import table
from vidsr.evaluation.videos import find_pairs
from vidsr.nets.layers.resize import resize
from vidsr.train.degrade import degrade_bd, degrade_bi


def pair(frames: int, height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A smooth moving uint8 clip and a disturbed copy."""
    noise = np.random.default_rng(seed)
    clip = gaussian_filter(noise.random((frames, 3, height, width)), (1, 0, 2, 2), mode="wrap")
    clip = (clip - clip.min()) / (clip.max() - clip.min())
    worse = np.clip(clip + noise.normal(0, 0.04, clip.shape), 0, 1)
    first, second = (torch.from_numpy((x * 255).round().astype(np.uint8)) for x in (clip, worse))
    return first, second


def unit64(clip: Tensor) -> np.ndarray:
    return clip.double().numpy() / 255


def skimage_ssim(x: np.ndarray, y: np.ndarray) -> float:
    return float(
        structural_similarity(x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1)
    )


def ssim_by_hand(x: np.ndarray, y: np.ndarray) -> float:
    """Equations (12) to (15) as printed; along an axis shorter than 11 the largest odd window."""
    radius = [min(5, (n - 1) // 2) for n in x.shape]
    values = []
    for i in range(radius[0], x.shape[0] - radius[0]):
        for j in range(radius[1], x.shape[1] - radius[1]):
            total = mean_x = mean_y = 0.0
            places = [
                (math.exp(-(a * a + b * b) / (2 * 1.5**2)), x[i + a, j + b], y[i + a, j + b])
                for a in range(-radius[0], radius[0] + 1)
                for b in range(-radius[1], radius[1] + 1)
            ]
            for w, p, q in places:
                total, mean_x, mean_y = total + w, mean_x + w * p, mean_y + w * q
            mean_x, mean_y = mean_x / total, mean_y / total
            var_x = sum(w * (p - mean_x) ** 2 for w, p, _ in places) / total
            var_y = sum(w * (q - mean_y) ** 2 for w, _, q in places) / total
            covariance = sum(w * (p - mean_x) * (q - mean_y) for w, p, q in places) / total
            c1, c2 = 0.01**2, 0.03**2
            values.append(
                (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
                / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
            )  # fmt: skip
    return float(np.mean(values))


def test_psnr_equals_scikit_image() -> None:
    a, b = pair(5, 20, 24)
    x, y = unit64(a), unit64(b)
    assert metrics.psnr(a, b) == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1), abs=1e-4)
    inner = np.s_[..., 4:-4, 4:-4]
    assert metrics.psnr(a, b, 4) == pytest.approx(peak_signal_noise_ratio(x[inner], y[inner], data_range=1), abs=1e-4)
    each = [peak_signal_noise_ratio(p, q, data_range=1) for p, q in zip(x, y, strict=True)]
    assert metrics.psnr_per_frame(a, b) == pytest.approx(each, abs=1e-4)


def test_psnr_of_known_errors() -> None:
    black = torch.zeros(2, 3, 4, 4)
    assert metrics.psnr(black, black + 0.1) == pytest.approx(20, abs=1e-5)
    assert metrics.psnr(black, black) == 100
    assert metrics.psnr(black.double(), black.double() + 1e-9) == 100
    worse = black.clone()
    worse[1] += 0.1  # the mean of the errors, not of the decibels
    assert metrics.psnr(black, worse) == pytest.approx(20 + 10 * math.log10(2), abs=1e-5)
    assert metrics.psnr_per_frame(black, worse) == pytest.approx([100, 20], abs=1e-5)


def test_luma_equals_scikit_image() -> None:
    clip, _ = pair(2, 9, 7)
    expected = rgb2ycbcr(unit64(clip), channel_axis=1)[:, :1]
    np.testing.assert_allclose(metrics.luma(clip).numpy() * 255, expected, rtol=0, atol=1e-4)
    ends = metrics.luma(torch.stack([torch.zeros(3, 1, 1), torch.ones(3, 1, 1)])).flatten() * 255
    assert ends.tolist() == pytest.approx([16, 235])


@pytest.mark.parametrize("border", [0, 3])
def test_ssim_equals_scikit_image(border: int) -> None:
    a, b = pair(30, 30, 41)
    crop = np.s_[..., border : 30 - border, border : 41 - border]
    x, y = unit64(a)[crop], unit64(b)[crop]
    each = [[skimage_ssim(x[t, c], y[t, c]) for c in range(3)] for t in range(30)]
    np.testing.assert_allclose(metrics.ssim(a, b, border).numpy(), each, rtol=0, atol=1e-6)
    assert metrics.ssim_vh(a, b, border) == pytest.approx(np.mean(each), abs=1e-6)
    slices = [
        skimage_ssim(x[:, c, :, column].T, y[:, c, :, column].T) for c in range(3) for column in range(x.shape[3])
    ]
    assert metrics.ssim_vt(a, b, border) == pytest.approx(np.mean(slices), abs=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 3, 10, 11, 12])
def test_ssim_equals_the_double_loop_even_for_short_axes(frames: int) -> None:
    a, b = pair(frames, 13, 9, seed=frames)
    x, y = unit64(a), unit64(b)
    spatial = [ssim_by_hand(x[t, c], y[t, c]) for t in range(frames) for c in range(3)]
    assert metrics.ssim_vh(a, b) == pytest.approx(np.mean(spatial), abs=1e-6)
    slices = [ssim_by_hand(x[:, c, :, column].T, y[:, c, :, column].T) for c in range(3) for column in range(9)]
    assert metrics.ssim_vt(a, b) == pytest.approx(np.mean(slices), abs=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 20))
def test_ssim_of_any_length_in_small_passes(frames: int, height: int, width: int) -> None:
    a, b = (clip.double() / 255 for clip in pair(frames, height, width))
    whole = metrics.ssim_vh(a, b), metrics.ssim_vt(a, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_VALUES_PER_PASS", 700)
        patch.setattr(metrics, "_FRAMES_PER_PASS", 3)
        pieces = metrics.ssim_vh(a, b), metrics.ssim_vt(a, b)
        assert metrics.psnr(a, b) == pytest.approx(-10 * math.log10((a - b).square().mean().item()), abs=1e-9)
    assert pieces == pytest.approx(whole, abs=1e-12)


def test_flat_images_keep_precision_in_float32() -> None:
    for level, other in [(0.02, 0.021), (0.999, 0.997), (0.0, 1.0)]:
        a, b = torch.full((12, 3, 12, 12), level), torch.full((12, 3, 12, 12), other)
        expected = (2 * level * other + 1e-4) / (level**2 + other**2 + 1e-4)
        assert metrics.ssim_vh(a, b) == pytest.approx(expected, abs=1e-6)
        assert metrics.ssim_vt(a, b) == pytest.approx(expected, abs=1e-6)


def test_equal_clips_are_perfect_and_flicker_lowers_only_the_temporal_score() -> None:
    a, _ = pair(14, 16, 16)
    assert metrics.ssim_vh(a, a) == 1
    assert metrics.ssim_vt(a, a) == 1
    still = a[:1].expand(14, -1, -1, -1).contiguous().float() / 255 * 0.8
    flicker = still + 0.05 * torch.tensor([0.0, 1.0] * 7)[:, None, None, None]
    steady = still + 0.025
    assert metrics.ssim_vt(still, flicker) < metrics.ssim_vt(still, steady) - 0.1
    assert metrics.ssim_vh(still, flicker) == pytest.approx(metrics.ssim_vh(still, steady), abs=0.02)


def test_metrics_refuse_invalid_input() -> None:
    a, b = pair(2, 8, 8)
    with pytest.raises(ValueError, match="same shape"):
        metrics.psnr(a, b[:1])
    with pytest.raises(ValueError, match="same shape"):
        metrics.ssim_vt(a[:0], b[:0])
    with pytest.raises(ValueError, match="border of 4"):
        metrics.ssim_vh(a, b, 4)
    with pytest.raises(TypeError, match="int64"):
        metrics.psnr(a.long(), b.long())
    meter = metrics.TemporalSsim()
    meter.step(a[0], b[0])
    with pytest.raises(ValueError, match="float32"):  # otherwise it would be truncated to integers silently
        meter.step(a[1], b[1].float())


def test_score_clip_agrees_with_the_metrics() -> None:
    a, b = pair(23, 22, 27)
    clip = score_clip("x", iter(a), iter(b.float() / 255), border=2)
    scores = clip.scores
    assert (clip.name, clip.frames, clip.width, clip.height, clip.border) == ("x", 23, 27, 22, 2)
    assert scores.psnr == pytest.approx(metrics.psnr(a, b, 2), abs=1e-4)
    assert scores.ssim_vh == pytest.approx(metrics.ssim_vh(a, b, 2), abs=1e-6)
    assert scores.ssim_vt == pytest.approx(metrics.ssim_vt(a, b, 2), abs=1e-6)
    assert clip.frame_psnr == pytest.approx(metrics.psnr_per_frame(a, b, 2), abs=1e-4)
    x, y = metrics.luma(a), metrics.luma(b)
    assert scores.psnr_y == pytest.approx(metrics.psnr(x, y, 2), abs=1e-4)
    assert scores.ssim_vh_y == pytest.approx(metrics.ssim_vh(x, y, 2), abs=1e-6)
    assert scores.ssim_vt_y == pytest.approx(metrics.ssim_vt(x, y, 2), abs=1e-6)
    assert clip.frame_psnr_y == pytest.approx(metrics.psnr_per_frame(x, y, 2), abs=1e-4)


@pytest.mark.parametrize("temporal", [False, True])
def test_score_clip_holds_few_frames(temporal: bool) -> None:
    alive: set[int] = set()
    most = 0

    def frames() -> Iterator[Tensor]:
        nonlocal most
        for index in range(60):
            array = np.zeros((3, 16, 16), np.uint8)  # lives as long as the tensor's memory does
            alive.add(index)
            weakref.finalize(array, alive.discard, index)
            most = max(most, len(alive))
            frame = torch.from_numpy(array)
            del array
            yield frame

    same = (torch.zeros(3, 16, 16, dtype=torch.uint8) for _ in range(60))
    scores = score_clip("x", frames(), same, temporal=temporal).scores
    assert scores.static_flicker == (0 if temporal else None)
    assert most < 30


def test_score_clip_refuses_mismatched_clips() -> None:
    a, b = pair(4, 12, 16)
    with pytest.raises(InputError, match="result ends after 3 frames"):
        score_clip("x", a, b[:3])
    with pytest.raises(InputError, match="reference ends after 3 frames"):
        score_clip("x", a[:3], b)
    with pytest.raises(InputError, match="frame 0 of the result is 15x12, that of the reference 16x12"):
        score_clip("x", a, b[..., :15])
    with pytest.raises(InputError, match="frame 1 of the result is 16x11"):
        score_clip("x", a, [b[0], b[1, :, :11]])
    with pytest.raises(InputError, match="no frames"):
        score_clip("x", a[:0], b)
    with pytest.raises(UsageError, match="border of 6 pixels"):
        score_clip("x", a, b, border=6)


def bicubic(low: Tensor) -> Tensor:
    return resize(low, (4 * low.shape[2], 4 * low.shape[3]))


@pytest.mark.parametrize("degradation", [degrade_bi, degrade_bd])
def test_protocol_equals_its_steps(degradation: object) -> None:
    assert callable(degradation)
    clip, _ = pair(12, 51, 62)
    seen = []

    def engine(low: Tensor) -> Tensor:
        seen.append(low)
        return bicubic(low) * 1.2 - 0.1  # exceeds 0..1, so that clamping matters

    result = evaluate_clip(engine, clip, degradation, border=4)
    truth = clip[:, :, :48, :60]
    low = degradation(truth.float() / 255)
    assert torch.equal(seen[0], low)
    assert torch.equal((low * 255).round() / 255, low)
    expected = ((bicubic(low) * 1.2 - 0.1).clamp(0, 1) * 255).round().to(torch.uint8)
    assert (result.width, result.height, result.border) == (60, 48, 4)
    assert result.scores.psnr == pytest.approx(metrics.psnr(truth, expected, 4), abs=1e-9)
    assert result.scores.ssim_vt == pytest.approx(metrics.ssim_vt(truth, expected, 4), abs=1e-7)
    other_order = evaluate_clip(engine, clip.permute(0, 2, 3, 1).contiguous(), degradation, border=4)
    assert other_order == result


def test_protocol_refuses_an_invalid_engine() -> None:
    clip, _ = pair(2, 24, 24)
    with pytest.raises(ValueError, match="engine returned"):
        evaluate_clip(lambda low: low, clip, degrade_bi)
    with pytest.raises(ValueError, match="not finite"):
        evaluate_clip(lambda low: bicubic(low) * math.nan, clip, degrade_bi)
    with pytest.raises(ValueError, match="uint8"):
        evaluate_clip(bicubic, clip.float(), degrade_bi)


def test_evaluation_as_json_and_table() -> None:
    a, b = pair(3, 12, 16)
    first, second = score_clip("a|b", a, b), score_clip("long name", a, a)
    evaluation = summarize([first, second])
    assert evaluation.mean.psnr == pytest.approx((first.scores.psnr + 100) / 2)
    loaded = json.loads(evaluation.to_json())
    assert loaded["clips"][1]["scores"]["psnr"] == 100
    assert loaded["clips"][0]["frame_psnr"] == pytest.approx(list(first.frame_psnr))
    assert loaded["mean"]["ssim_vt"] == evaluation.mean.ssim_vt
    lines = table(evaluation).splitlines()
    assert len(lines) == 4
    assert len({len(line) for line in lines}) == 1
    assert lines[2].split() == ["long", "name", "3", "100.00", "100.00", *["1.0000"] * 4]
    assert lines[3].split()[:3] == ["mean", "6", f"{evaluation.mean.psnr:.2f}"]
    marked = table(evaluation, markdown=True).splitlines()
    assert len(marked) == 5
    assert marked[2].startswith("| a\\|b | 3 | ")
    assert {line.replace("\\|", "").count("|") for line in marked} == {9}
    with pytest.raises(ValueError, match="no clips"):
        summarize([])


@pytest.mark.leaves_hidden_files
def test_pairs_of_files_and_folders(tmp_path: Path) -> None:
    truth, result = tmp_path / "truth", tmp_path / "result"
    for folder, names in ((truth, ("b.mkv", "a.mp4", "notes.txt", ".c.mp4")), (result, ("a.mp4", "b.mp4"))):
        folder.mkdir()
        for name in names:
            (folder / name).touch()
    assert find_pairs(truth, result) == [
        ("a", truth / "a.mp4", result / "a.mp4"),
        ("b", truth / "b.mkv", result / "b.mp4"),
    ]
    single = find_pairs(
        truth / "notes.txt", result / "a.mp4"
    )  # files given by name are accepted, whatever their extension
    assert single == [("notes", truth / "notes.txt", result / "a.mp4")]
    with pytest.raises(InputError, match="no such file or folder"):
        find_pairs(truth / "none.mp4", result)
    with pytest.raises(InputError, match="not one of each"):
        find_pairs(truth, result / "a.mp4")
    (result / "d.mkv").touch()
    with pytest.raises(InputError, match="truth: no video named d here"):
        find_pairs(truth, result)
    (truth / "d.mkv").touch()
    (truth / "e.mkv").touch()
    with pytest.raises(InputError, match="result: no video named e here"):
        find_pairs(truth, result)
    (truth / "e.mp4").touch()
    with pytest.raises(InputError, match=r"e\.mkv and e\.mp4"):
        find_pairs(truth, result)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no video in this folder"):
        find_pairs(empty, result)


def test_evaluation_works_without_pyav() -> None:
    code = (
        "import sys; sys.modules['av'] = None; import vidsr.evaluation.evaluate; "
        "assert 'vidsr.video' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
