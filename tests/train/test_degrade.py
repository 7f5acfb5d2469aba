"""Reductions against their definitions (MATLAB's imresize, Pillow, float64 sums), and random degradation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from vidsr.nets.layers.resize import resize
from vidsr.train.degrade import (
    area_taps,
    bicubic_taps,
    degrade_bd,
    degrade_bi,
    degrade_random,
    gaussian_taps,
    reduce,
    relight,
    to_8_bits,
)
from vidsr.train.recipe import DegradationConfig
from vidsr.video.roundtrip import h264_roundtrip

Array = np.ndarray[Any, np.dtype[np.float64]]
PLAIN = DegradationConfig(
    weight_bicubic=1, weight_blur=0, weight_area=0, noise_share=0, jpeg_share=0, h264_share=0
)  # fmt: skip
EVERY_KIND = {"bicubic": bicubic_taps(), "paper": gaussian_taps(1.5), "narrow": gaussian_taps(0.6), "area": area_taps()}


def cubic(x: Array) -> Array:
    """MATLAB's cubic kernel, as in imresize.m."""
    a = np.abs(x)
    return (1.5 * a**3 - 2.5 * a**2 + 1) * (a <= 1) + (-0.5 * a**3 + 2.5 * a**2 - 4 * a + 2) * ((a > 1) & (a <= 2))


def matlab_matrix(size: int, scale: float) -> Array:
    """The matrix of imresize(..., 'bicubic') along one axis, from its `contributions`, positions counted from 1."""
    length = math.ceil(size * scale)
    width = 4 / scale
    matrix = np.zeros((length, size))
    for out in range(1, length + 1):
        u = out / scale + 0.5 * (1 - 1 / scale)
        indices = np.floor(u - width / 2) + np.arange(math.ceil(width) + 2)
        weights = scale * cubic(scale * (u - indices))
        weights /= weights.sum()
        mirror = [*range(size), *reversed(range(size))]
        for index, weight in zip(indices, weights, strict=True):
            matrix[out - 1, mirror[(int(index) - 1) % (2 * size)]] += weight
    return matrix


def clip_of(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))


def smooth_clip(count: int = 4, height: int = 128, width: int = 160) -> Tensor:
    """Images with structure of every size, for codecs."""
    noise = torch.nn.functional.interpolate(clip_of(count, height // 8, width // 8, 3), (height, width), mode="bicubic")
    return (0.75 * noise + 0.25 * clip_of(count, height, width, 4)).clamp(0, 1)


def random(clip: Tensor, config: DegradationConfig, seed: int = 0) -> Tensor:
    return degrade_random(clip, config, np.random.default_rng(seed), h264_roundtrip)


# --------------------------------------------------------------------------------------------------- reductions


def test_bicubic_is_matlabs_imresize() -> None:
    clip = clip_of(2, 24, 40).double()
    rows, columns = matlab_matrix(24, 0.25), matlab_matrix(40, 0.25)
    expected = np.einsum("ih,nchw,jw->ncij", rows, clip.numpy(), columns)
    np.testing.assert_allclose(reduce(clip, bicubic_taps()).numpy(), expected, atol=1e-7)
    np.testing.assert_allclose(reduce(clip.float(), bicubic_taps()).numpy(), expected, atol=1e-6)


def test_bicubic_is_our_own_resize() -> None:
    clip = clip_of(1, 32, 20)
    torch.testing.assert_close(reduce(clip, bicubic_taps()), resize(clip, (8, 5)), atol=1e-6, rtol=0)


def test_bicubic_is_pillows_inside_the_border() -> None:
    """Pillow cuts its kernel off at the border, so only the middle can agree."""
    plane = clip_of(1, 48, 64)[0, 0]
    pillow = np.asarray(Image.fromarray(plane.numpy()).resize((16, 12), Image.Resampling.BICUBIC))
    ours = reduce(plane.expand(1, 1, 48, 64), bicubic_taps())[0, 0].numpy()
    np.testing.assert_allclose(ours[2:-2, 2:-2], pillow[2:-2, 2:-2], atol=2e-6)


def test_area_is_the_mean_of_each_block() -> None:
    clip = clip_of(2, 16, 24)
    expected = clip.numpy().reshape(2, 3, 4, 4, 6, 4).mean((3, 5))
    np.testing.assert_allclose(reduce(clip, area_taps()).numpy(), expected, atol=1e-6)


def test_the_papers_gaussian_has_14_weights() -> None:
    taps = gaussian_taps(1.5).double()
    assert len(taps) == 14
    distance = np.arange(14) - 6.5
    expected = np.exp(-(distance**2) / (2 * 1.5**2))
    np.testing.assert_allclose(taps.numpy(), expected / expected.sum(), atol=1e-7)


@settings(deadline=None)
@given(sigma=st.floats(0.6, 2.0))
def test_gaussians_have_even_length_and_are_symmetric_and_complete(sigma: float) -> None:
    taps = gaussian_taps(sigma)
    assert len(taps) % 2 == 0
    torch.testing.assert_close(taps, taps.flip(0), atol=0, rtol=0)
    assert float(taps.sum()) == pytest.approx(1, abs=1e-6)
    lost = math.erfc(len(taps) / 2 / sigma / math.sqrt(2))
    assert lost < 1e-4
    spread = float((taps.double() * (torch.arange(len(taps)) - (len(taps) - 1) / 2) ** 2).sum()) ** 0.5
    assert spread == pytest.approx(sigma, rel=0.02)


def test_the_gaussian_is_in_the_middle_of_each_block() -> None:
    clip = clip_of(1, 16, 20).double()
    image = np.pad(clip[0, 0].numpy(), 16, mode="symmetric")  # the edge pixel is repeated
    expected = np.zeros((4, 5))
    for i, j in np.ndindex(4, 5):
        y, x = (np.arange(n + 32) - 16 - (4 * k + 1.5) for n, k in ((16, i), (20, j)))
        wy, wx = (np.exp(-(d**2) / 4.5) * (np.abs(d) < 7) for d in (y, x))
        expected[i, j] = (wy / wy.sum()) @ image @ (wx / wx.sum())
    np.testing.assert_allclose(reduce(clip, gaussian_taps(1.5))[0, 0].numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_reduction_is_centered_symmetric_and_keeps_brightness(kind: str) -> None:
    taps = EVERY_KIND[kind]
    ramp = (torch.arange(64.0) / 64).expand(1, 3, 32, 64)
    inside = reduce(ramp, taps)[0, 0, 3, 3:-3]
    torch.testing.assert_close(inside * 64, 4 * torch.arange(3.0, 13) + 1.5, atol=1e-4, rtol=0)
    clip = clip_of(1, 32, 24)
    for axis in (2, 3):
        torch.testing.assert_close(reduce(clip.flip(axis), taps), reduce(clip, taps).flip(axis), atol=1e-6, rtol=0)
    torch.testing.assert_close(reduce(clip.mT, taps), reduce(clip, taps).mT, atol=1e-6, rtol=0)
    flat = reduce(torch.full((1, 3, 8, 8), 0.3), taps)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.3), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind, tolerance", [("bicubic", 1e-6), ("area", 1e-6), ("paper", 0.003)])
def test_the_mean_is_kept(kind: str, tolerance: float) -> None:
    """With mirrored borders every pixel has the same total weight; exactly so for Keys' and the area kernel."""
    clip = clip_of(1, 40, 32)
    assert float(reduce(clip, EVERY_KIND[kind]).mean()) == pytest.approx(float(clip.mean()), abs=tolerance)


def test_small_images_mirror_more_than_once() -> None:
    clip = clip_of(1, 4, 8)
    expected = np.einsum("ih,nchw,jw->ncij", matlab_matrix(4, 0.25), clip.double().numpy(), matlab_matrix(8, 0.25))
    np.testing.assert_allclose(reduce(clip, bicubic_taps()).numpy(), expected, atol=1e-6)


def test_other_light_changes_brightness_and_keeps_detail() -> None:
    """Brightness changes by gamma and a smooth field; what is left without it is the detail of the image."""
    detail = np.random.default_rng(1).normal(0, 12, (96, 80, 1)).round()
    image = np.asarray(np.repeat(128 + detail, 3, axis=2), np.uint8)
    means, lefts, likeness = [], [], []
    for seed in range(40):
        lit = relight(image, np.random.default_rng(seed))
        assert np.array_equal(lit, relight(image, np.random.default_rng(seed)))
        green = lit[..., 1].astype(np.float64)
        smooth = cv2.GaussianBlur(green, (0, 0), 8)
        means.append(green.mean())
        lefts.append(np.ptp(smooth) / smooth.mean())
        likeness.append(np.corrcoef(((green - smooth) / smooth).ravel(), detail.ravel())[0, 1])
    assert np.median(likeness) > 0.85 and min(likeness) > 0.5  # what is too bright is cut off
    assert 10 < np.std(means) < 60 and np.median(lefts) > 0.3


def test_rounding_to_8_bits() -> None:
    values = torch.tensor([-0.2, 0.0, 0.4999 / 255, 0.5001 / 255, 100.4 / 255, 1.0, 1.7])
    assert (to_8_bits(values) * 255).tolist() == pytest.approx([0, 0, 0, 1, 100, 255, 255])
    for low, taps in (
        (degrade_bi(clip_of(1, 16, 16)), bicubic_taps()),
        (degrade_bd(clip_of(1, 16, 16)), gaussian_taps(1.5)),
    ):
        assert (low * 255 - (low * 255).round()).abs().max() < 1e-4
        assert (low - reduce(clip_of(1, 16, 16), taps)).abs().max() < 0.5001 / 255


# ------------------------------------------------------------------------------------------------------- random


def test_the_same_seed_gives_the_same_frames() -> None:
    clip = smooth_clip()
    config = DegradationConfig(noise_share=0.5, jpeg_share=0.3, h264_share=0.3)

    def again(seed: int) -> Tensor:
        return degrade_random(clip, config, np.random.default_rng(seed), h264_roundtrip)

    results = [again(seed) for seed in range(12)]
    assert all(torch.equal(result, again(seed)) for seed, result in enumerate(results))
    assert len({result.numpy().tobytes() for result in results}) >= 10
    assert all(result.shape == (4, 3, 32, 40) and result.min() >= 0 and result.max() <= 1 for result in results)


@pytest.mark.parametrize(
    "config, expected",
    [
        (PLAIN, degrade_bi),
        (replace(PLAIN, weight_bicubic=0, weight_blur=1, blur_paper_share=1.0), degrade_bd),
        (replace(PLAIN, weight_bicubic=0, weight_area=1), lambda clip: to_8_bits(reduce(clip, area_taps()))),
    ],
    ids=["bicubic", "paper", "area"],
)
def test_weights_choose_the_reduction(config: DegradationConfig, expected: Callable[[Tensor], Tensor]) -> None:
    clip = clip_of(2, 16, 24)
    assert all(torch.equal(random(clip, config, seed), expected(clip)) for seed in range(5))


def test_blur_widths_come_from_the_configured_range() -> None:
    impulse = torch.zeros(1, 3, 64, 64)
    impulse[:, :, 32:36, 32:36] = 1  # one block: the narrower the blur, the brighter its pixel
    config = replace(PLAIN, weight_bicubic=0, weight_blur=1, blur_paper_share=0.0, blur_sigma=(0.8, 1.2))
    peaks = [float(random(impulse, config, seed).max()) for seed in range(30)]
    widest, narrowest = (float(degrade_bd(impulse, sigma).max()) for sigma in (1.2, 0.8))
    assert widest <= min(peaks) < max(peaks) <= narrowest and len(set(peaks)) > 10


def test_shares_are_met() -> None:
    """Of 400 draws, those that match one of the two fixed reductions; binomial, six standard deviations."""
    clip = clip_of(1, 16, 16)
    config = replace(PLAIN, weight_bicubic=3, weight_area=1)
    area = to_8_bits(reduce(clip, area_taps()))
    count = sum(torch.equal(random(clip, config, seed), area) for seed in range(400))
    assert abs(count - 100) < 6 * math.sqrt(400 * 0.25 * 0.75)


def test_noise_is_white_of_the_configured_strength_and_differs_between_frames() -> None:
    gray = torch.full((4, 3, 256, 256), 0.5)
    config = replace(PLAIN, noise_share=1.0, noise_sigma=(3.0, 3.0))
    noise = (random(gray, config) - 0.5) * 255
    noise = noise - noise.mean()
    assert noise.std().item() == pytest.approx(math.sqrt(9 + 1 / 12), rel=0.02)
    neighbors = (noise[..., 1:] * noise[..., :-1]).mean() / noise.square().mean()
    frames = (noise[1:] * noise[:-1]).mean() / noise.square().mean()
    colors = (noise[:, 1:] * noise[:, :-1]).mean() / noise.square().mean()
    assert max(abs(neighbors), abs(frames), abs(colors)) < 0.03
    assert abs(float((random(gray, config) - 0.5).mean() * 255 - 0.0)) < 0.6  # 127.5 itself lies between two levels


def coded(kind: str, quality: int) -> tuple[Tensor, Tensor]:
    """Frames before and after JPEG or H.264."""
    clip = smooth_clip()
    share = {"jpeg": {"jpeg_share": 1.0, "jpeg_quality": (quality, quality)}}.get(
        kind, {"h264_share": 1.0, "h264_crf": (quality, quality)}
    )
    return degrade_bi(clip), random(clip, replace(PLAIN, **share))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind, good, bad", [("jpeg", 95, 50), ("h264", 16, 30)])
def test_compression_really_changes_frames(kind: str, good: int, bad: int) -> None:
    errors = []
    for quality in (good, bad):
        before, after = coded(kind, quality)
        assert after.shape == before.shape and after.dtype == torch.float32
        assert (after * 255 - (after * 255).round()).abs().max() < 1e-4
        assert (after.mean((0, 2, 3)) - before.mean((0, 2, 3))).abs().max() < 1.5 / 255
        errors.append(float((after - before).square().mean()))
    assert 0 < errors[0] < errors[1] < 0.05


@pytest.mark.parametrize("share", ["jpeg_share", "h264_share"])
def test_compression_keeps_colors_and_the_order_of_frames(share: str) -> None:
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.9, 0.9, 0.1], [0.2, 0.2, 0.2]])
    clip = colors[:, :, None, None].expand(5, 3, 64, 64)
    after = random(clip.contiguous(), replace(PLAIN, **{share: 1.0}))  # type: ignore[arg-type]
    torch.testing.assert_close(after.mean((2, 3)), colors, atol=4 / 255, rtol=0)


def test_h264_without_an_encoder_is_a_programming_error() -> None:
    with pytest.raises(AssertionError, match=r"H\.264 round trip"):
        degrade_random(clip_of(1, 16, 16), replace(PLAIN, h264_share=1.0), np.random.default_rng(0), None)
