"""Realistic degradation: every step, the stated quantities, and repeatability."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidsr.evaluation.metrics import to_8_bits
from vidsr.train.codecs import FAMILIES, Encoding, compression_of, draw_encoding, equivalent_crf
from vidsr.train.degrade import bicubic_taps, degrade_bi, gaussian_taps, random_taps, reduce
from vidsr.train.degrade_real import (
    MAX_BLUR,
    add_noise,
    bilinear_taps,
    blur_kernel,
    blur_of,
    combine_kernels,
    degrade_real,
    encode_frames,
    encode_resized,
    lanczos_taps,
    reduce_by,
    sharpen,
    simulate_enlargement,
)
from vidsr.train.recipe import DegradationConfig, RealConfig
from vidsr.video.roundtrip import codec_roundtrip

CLEAN = DegradationConfig(noise_share=0, jpeg_share=0, h264_share=0)
REAL = RealConfig()
SHAPES = ("isotropic", "anisotropic", "defocus", "motion")


def clip_of(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Structure of every size, moving by two pixels a frame."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, height // 8, (width + 2 * count) // 8 + 1, generator=generator)
    wide = torch.nn.functional.interpolate(coarse, (height, width + 2 * count), mode="bicubic")[0]
    wide = (0.75 * wide + 0.25 * torch.rand(wide.shape, generator=generator)).clamp(0, 1)
    return torch.stack([wide[:, :, 2 * t : 2 * t + width] for t in range(count)])


def frames_of(count: int = 6, height: int = 40, width: int = 48) -> np.ndarray:  # type: ignore[type-arg]
    """Low-resolution frames that an encoder can encode: soft, with little color and some grain."""
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(1, 3, height // 8 + 1, (width + 2 * count) // 8 + 1, generator=generator)
    coarse = 0.8 * coarse.mean(1, keepdim=True) + 0.2 * coarse
    wide = torch.nn.functional.interpolate(coarse, (height, width + 2 * count), mode="bicubic")[0]
    wide = (wide + 0.03 * torch.randn(1, *wide.shape[1:], generator=generator)).clamp(0, 1)
    low = torch.stack([wide[:, :, 2 * t : 2 * t + width] for t in range(count)])
    return np.ascontiguousarray((low * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def psnr(a: np.ndarray, b: np.ndarray) -> float:  # type: ignore[type-arg]
    return float(-10 * np.log10(np.square(a.astype(float) - b).mean() / 255**2))


# ------------------------------------------------------------------------------------------------------------ kernels


@pytest.mark.parametrize("taps", [bilinear_taps(), lanczos_taps()], ids=["bilinear", "lanczos"])
def test_reductions_are_centered_symmetric_and_keep_brightness(taps: Tensor) -> None:
    assert len(taps) % 2 == 0 and float(taps.sum()) == pytest.approx(1, abs=1e-6)
    torch.testing.assert_close(taps, taps.flip(0))
    ramp = (torch.arange(64.0) / 64).expand(1, 3, 64, 64)
    inside = reduce(ramp, taps)[0, 0, 8, 4:-4]
    torch.testing.assert_close(inside * 64, 4 * torch.arange(4.0, 12) + 1.5, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "taps", [bicubic_taps(), gaussian_taps(3.0), lanczos_taps()], ids=["bicubic", "wide", "lanczos"]
)
def test_a_separable_kernel_is_the_same_reduction(taps: Tensor) -> None:
    clip = clip_of(2, 48, 64)
    torch.testing.assert_close(reduce_by(clip, torch.outer(taps, taps)), reduce(clip, taps), atol=1e-6, rtol=0)


@settings(deadline=None, max_examples=30)
@given(shape=st.sampled_from(SHAPES), sigma=st.floats(0.3, 3.0), other=st.floats(0.3, 3.0), angle=st.floats(0, math.pi))
def test_blur_then_reduction_equal_one_kernel(shape: str, sigma: float, other: float, angle: float) -> None:
    """Against the two steps in sequence, away from the border."""
    blur = blur_kernel(shape, sigma, other, angle)
    assert float(blur.sum()) == pytest.approx(1, abs=1e-5) and float(blur.min()) >= 0
    torch.testing.assert_close(blur, blur.flip(0, 1), atol=1e-7, rtol=0)
    taps = bicubic_taps()
    kernel = combine_kernels(torch.outer(taps, taps), blur)
    clip = clip_of(1, 96, 96)
    pad = len(blur) // 2
    blurred = torch.nn.functional.conv2d(
        torch.nn.functional.pad(clip, (pad,) * 4, mode="reflect")[0][:, None], blur.flip(0, 1)[None, None]
    )[:, 0][None]
    expected = reduce(blurred, taps)[..., 7:-7, 7:-7]
    torch.testing.assert_close(reduce_by(clip, kernel)[..., 7:-7, 7:-7], expected, atol=4e-3, rtol=0)


@settings(deadline=None, max_examples=30)
@given(sigma=st.floats(0.8, 3.0), angle=st.floats(0, math.pi))
def test_blur_is_measured_as_standard_deviation(sigma: float, angle: float) -> None:
    assert blur_of(torch.outer(gaussian_taps(1.5), gaussian_taps(1.5))) == pytest.approx(1.5 / MAX_BLUR, rel=0.02)
    for shape in ("isotropic", "defocus"):
        assert blur_of(blur_kernel(shape, sigma, 0, angle)) * MAX_BLUR == pytest.approx(sigma, rel=0.2)
    motion = blur_of(blur_kernel("motion", sigma, 0, angle)) * MAX_BLUR
    assert motion == pytest.approx(math.sqrt((sigma / 2) ** 2 / 2), abs=0.45)


@pytest.mark.parametrize("shape", SHAPES)
def test_more_blur_is_a_larger_number_and_a_worse_clip(shape: str) -> None:
    clip, numbers, errors = clip_of(2, 96, 96), [], []
    taps = bicubic_taps()
    for sigma in (0.4, 1.2, 2.0, 2.8):
        kernel = combine_kernels(torch.outer(taps, taps), blur_kernel(shape, sigma, sigma, 0.4))
        numbers.append(blur_of(kernel))
        errors.append(float((reduce_by(clip, kernel) - degrade_bi(clip)).square().mean()))
    assert numbers == sorted(numbers) and errors == sorted(errors) and errors[-1] > errors[0]


# ------------------------------------------------------------------------------------------- steps at low resolution


def test_simulated_enlargement_is_soft_and_keeps_position_and_brightness() -> None:
    low = degrade_bi(clip_of(2, 128, 160))
    energies = [
        float((x[..., 1:] - x[..., :-1]).square().mean())
        for x in (low, *(simulate_enlargement(low, f) for f in (1.2, 1.5, 2.0)))
    ]
    assert energies == sorted(energies, reverse=True)
    assert float((simulate_enlargement(low, 1.7).mean() - low.mean()).abs()) < 2e-3
    torch.testing.assert_close(
        simulate_enlargement(low.flip(-1), 2.0), simulate_enlargement(low, 2.0).flip(-1), atol=1e-4, rtol=0
    )


def test_sharpening_leaves_halos_and_flat_ground_alone() -> None:
    edge = torch.zeros(1, 3, 24, 24)
    edge[..., 12:] = 0.5
    result = sharpen(edge + 0.25, 1.0, 1.0)
    assert float(result.max()) > 0.80 and float(result.min()) < 0.20
    flat = torch.full((2, 3, 16, 16), 0.4)
    torch.testing.assert_close(sharpen(flat, 1.5, 1.2), flat)
    torch.testing.assert_close(sharpen(edge, 0.0, 1.0), edge)


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(["gaussian", "signal", "chroma", "grain"]), sigma=st.floats(0.5, 20.0), seed=st.integers(0, 99)
)
def test_noise_has_the_requested_strength(kind: str, sigma: float, seed: int) -> None:
    low = torch.full((5, 3, 40, 40), 0.5)
    noise = add_noise(low, kind, sigma, np.random.default_rng(seed)) - low
    assert float(noise.std()) * 255 == pytest.approx(sigma, rel=1e-3)
    assert abs(float(noise.mean())) * 255 < 0.2 * sigma


def test_kinds_of_noise_differ_as_they_should() -> None:
    low = torch.full((8, 3, 64, 64), 0.1)
    low[..., 32:] = 0.9
    noises = {
        kind: add_noise(low, kind, 10, np.random.default_rng(1)) - low
        for kind in ("gaussian", "signal", "chroma", "grain")
    }
    assert float(noises["signal"][..., 32:].std()) > 2 * float(noises["signal"][..., :32].std())
    assert float(noises["gaussian"][..., 32:].std()) == pytest.approx(
        float(noises["gaussian"][..., :32].std()), rel=0.05
    )
    grain = noises["grain"]
    assert torch.equal(grain[:, 0], grain[:, 1]), "grain is colorless"
    color = {kind: float((noise[:, 0] - noise[:, 2]).std() / noise.mean(1).std()) for kind, noise in noises.items()}
    assert color["chroma"] > color["grain"]

    def lasting(noise: Tensor) -> float:
        a, b = noise[:-1].flatten(), noise[1:].flatten()
        return float(torch.corrcoef(torch.stack((a, b)))[0, 1])

    longest = max(lasting(add_noise(low, "grain", 10, np.random.default_rng(seed)) - low) for seed in range(6))
    assert longest > 0.6 > 0.1 > abs(lasting(noises["gaussian"]))


# ----------------------------------------------------------------------------------------------------------- encoders


@pytest.mark.parametrize("family", FAMILIES)
def test_every_encoder_is_real_and_stronger_settings_lose_more(family: str) -> None:
    frames, spans = frames_of(), FAMILIES[family].strengths
    steps = np.linspace(*((spans[0], spans[-1]) if family != "x264" else (16, 44)), 4)
    losses = []
    for strength in steps:
        way = draw_encoding(family, float(strength), np.random.default_rng(3))
        result = encode_frames(frames, way, np.random.default_rng(4), codec_roundtrip)
        assert result.shape == frames.shape and result.dtype == np.uint8
        losses.append(psnr(result, frames))
    expected = sorted(losses, reverse=family != "jpeg")
    assert losses == expected and max(losses) - min(losses) > 4, losses
    assert max(losses) > 28, "the frames come back in order and in place"


@pytest.mark.parametrize("family", FAMILIES)
def test_stronger_compression_has_a_higher_equivalent_crf(family: str) -> None:
    strengths, crfs = FAMILIES[family].strengths, FAMILIES[family].crfs
    assert [equivalent_crf(family, strength) for strength in strengths] == pytest.approx(crfs)
    assert list(strengths) == sorted(strengths) and list(crfs) == sorted(crfs, reverse=family == "jpeg")


def test_compression_is_between_0_and_1() -> None:
    assert [compression_of(crf) for crf in (0, 12, 27, 42, 51)] == [0, 0, 0.5, 1, 1]


def test_blocks_start_anywhere_and_frames_keep_their_position() -> None:
    corners, sizes = [], set()

    def spy(frames: np.ndarray, codec: str, options: Mapping[str, str]) -> np.ndarray:  # type: ignore[type-arg]
        sizes.add(frames.shape[1:3])
        corners.append(frames[0, 0, 0].tobytes())
        return frames

    frames = frames_of(1, 37, 41)
    way = Encoding("libx264", {"crf": "20"}, 20.0)
    for seed in range(30):
        assert np.array_equal(encode_frames(frames, way, np.random.default_rng(seed), spy), frames)
    assert len(set(corners)) > 10 and len(sizes) > 5 and all(h % 2 == w % 2 == 0 for h, w in sizes)


@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_a_second_upload_loses_more_and_moves_nothing(factor: float) -> None:
    frames = frames_of()
    way = draw_encoding("x264", 20, np.random.default_rng(0))
    before = encode_resized(frames, factor, way, np.random.default_rng(1), codec_roundtrip)
    assert before.shape == frames.shape and psnr(before, frames) > 24
    once = encode_frames(frames, way, np.random.default_rng(2), codec_roundtrip)
    twice = encode_frames(before, way, np.random.default_rng(2), codec_roundtrip)
    assert psnr(twice, frames) < psnr(once, frames)


def test_an_encoder_that_loses_frames_is_an_error() -> None:
    with pytest.raises(ValueError, match="of 6 frames"):
        codec_roundtrip(
            frames_of(),
            "libvpx",
            {
                "deadline": "realtime",
                "drop-threshold": "100",
                "b": "1000",
                "maxrate": "1000",
                "minrate": "1000",
                "bufsize": "1000",
            },
        )


# ----------------------------------------------------------------------------------------------------------- complete


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_random_parameters_are_repeatable_and_stated(seed: int) -> None:
    clip = clip_of(4, 96, 128)
    (low, applied), (again, same) = (
        degrade_real(clip, CLEAN, REAL, np.random.default_rng(seed), codec_roundtrip) for _ in range(2)
    )
    assert torch.equal(low, again) and applied == same
    assert low.shape == (4, 3, 24, 32) and float(low.min()) >= 0 and float(low.max()) <= 1
    torch.testing.assert_close(low * 255, (low * 255).round(), atol=1e-4, rtol=0)
    assert all(0 <= value <= 1 for value in applied.values())
    assert (applied.noise > 0) == ("noise_sigma" in applied.drawn)
    assert ("codec" in applied.drawn) or applied.compression == 0


def test_clean_clips_are_only_reduced_bit_for_bit() -> None:
    clip, real = clip_of(3, 64, 64), replace(REAL, clean_share=1.0)
    for seed in range(10):
        low, applied = degrade_real(clip, CLEAN, real, np.random.default_rng(seed), codec_roundtrip)
        generator = np.random.default_rng(seed)
        generator.random()  # whether it is clean
        taps = random_taps(CLEAN, generator)
        assert torch.equal(low, to_8_bits(reduce(clip, taps)))
        assert applied.values() == (blur_of(torch.outer(taps, taps)), 0.0, 0.0)


def test_subsampled_chroma_changes_colors_only_and_is_no_compression() -> None:
    """The luma stays within rounding, chroma is as coarse as in 4:2:0, and the rest of a sample is as without it."""
    clip = clip_of(3, 64, 64)
    luma = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    found = 0
    for seed in range(8):
        for share in (0.0, 1.0):
            real = replace(REAL, clean_share=1.0, subsampled_share=share)
            low, applied = degrade_real(clip, CLEAN, real, np.random.default_rng(seed), codec_roundtrip)
            if share == 0:
                before, same = low, applied
        assert applied.values() == same.values() and applied.drawn == same.drawn | {"chroma": "4:2:0"}
        assert not torch.equal(low, before) and low.shape == before.shape
        inside = (low > 0.02) & (low < 0.98) & (before > 0.02) & (before < 0.98)  # what is cut off changes its luma
        inside = inside.all(1)
        difference = ((low - before) * luma).sum(1)[inside].abs()
        assert float(difference.max()) <= 2.5 / 255
        found += int(inside.sum())
    assert found > 1000


def test_shares_are_met_and_every_kind_occurs() -> None:
    clip, codecs, kinds, noises, twice = clip_of(2, 64, 64), Counter[str](), Counter[str](), Counter[str](), 0
    calls = []

    def fast(frames: np.ndarray, codec: str, options: Mapping[str, str]) -> np.ndarray:  # type: ignore[type-arg]
        calls.append(codec)
        return frames

    count = 600
    for seed in range(count):
        _, applied = degrade_real(clip, CLEAN, REAL, np.random.default_rng(seed), fast)
        kinds[str(applied.drawn["kind"])] += 1
        codecs.update(str(applied.drawn.get("codec", "")).split())
        twice += "rescaled" in applied.drawn
        noises[str(applied.drawn.get("noise", ""))] += 1
    assert kinds["clean"] / count == pytest.approx(REAL.clean_share, abs=0.06)
    real = kinds["real"]
    assert (sum(codecs.values()) - twice) / real == pytest.approx(REAL.encode_share, abs=0.06)
    assert twice / real == pytest.approx(REAL.encode_share * REAL.twice_share, abs=0.05)
    assert set(codecs) == {codec for family in FAMILIES.values() for codec in family.codecs}
    assert set(noises) == {"", "gaussian", "signal", "chroma", "grain"}
    assert "jpeg" not in calls, "stills are not encoded as video"
