"""Time stretching: exact length, pitch, and the places of transients, on synthetic audio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.flashes import click_times, clicks, pitch
from vidsr.video.audio.time_stretch import TimeStretcher, TransientSplitter

RATE = 16_000


def stretched(audio: NDArray[np.float32], factor: int, sizes: list[int], rate: int = RATE) -> NDArray[np.float32]:
    """Runs a TimeStretcher on blocks of these sizes, cyclically."""
    stretcher = TimeStretcher(rate, {1: "mono", 2: "stereo"}[len(audio)], factor)
    parts, position, turn = [], 0, 0
    while position < audio.shape[1]:
        size = sizes[turn % len(sizes)]
        parts.append(stretcher.step(audio[:, position : position + size]))
        position, turn = position + size, turn + 1
    return np.concatenate([*parts, stretcher.flush()], axis=1)


@settings(max_examples=20, deadline=None)
@example(samples=3494, sizes=[1], factor=2, channels=1)  # FFmpeg's atempo alone repeats 14 samples here
@given(
    samples=st.integers(0, 9000),
    sizes=st.lists(st.integers(1, 4000), min_size=1, max_size=4),
    factor=st.sampled_from([2, 4, 8]),
    channels=st.integers(1, 2),
)
def test_length_is_exact_for_any_block_sizes(samples: int, sizes: list[int], factor: int, channels: int) -> None:
    audio = np.random.default_rng(samples).normal(0, 0.2, (channels, samples)).astype(np.float32)
    result = stretched(audio, factor, [max(size, samples // 20) for size in sizes])
    assert result.shape == (channels, samples * factor)
    assert np.isfinite(result).all()
    whole = stretched(audio, factor, [max(1, samples)])
    assert np.allclose(result, whole, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), samples=st.integers(1, 3000), size=st.integers(100, 900))
def test_sustained_part_and_transients_add_up_to_the_input(seed: int, samples: int, size: int) -> None:
    chance = np.random.default_rng(seed)
    loudness = np.exp(chance.normal(0, 3, samples // 50 + 1)).repeat(50)[:samples]
    audio = (chance.normal(0, 0.01, (2, samples)) * loudness).astype(np.float32)
    splitter = TransientSplitter(RATE, 2)
    found = [splitter.step(audio[:, n : n + size]) for n in range(0, samples, size)]
    found.append(splitter.flush())
    total = np.concatenate([sustained for sustained, _ in found], axis=1)
    assert total.shape == audio.shape
    total = np.pad(total, ((0, 0), (0, 2 * splitter.hop)))
    ends = 0
    for transient in (transient for _, transients in found for transient in transients):
        assert ends <= transient.start <= transient.anchor < transient.start + transient.samples.shape[1]
        ends = transient.start + transient.samples.shape[1]
        total[:, transient.start : ends] += transient.samples
    assert np.allclose(total[:, :samples], audio, atol=1e-6 * float(np.abs(audio).max()))
    assert not total[:, samples:].any()


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("rate", [8000, 44_100, 96_000])
def test_clicks_keep_their_times_and_tones_their_pitch(factor: int, rate: int) -> None:
    moments = [0.2, 0.55, 1.013, 1.4]
    audio = clicks(moments, 1.8, rate)[None].astype(np.float32)
    found = click_times(stretched(audio, factor, [rate // 4], rate), rate)
    assert found == pytest.approx([moment * factor for moment in moments], abs=0.005)
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)[None].astype(np.float32)
    assert abs(pitch(stretched(tone, factor, [rate // 4], rate)[0], rate) - 440) < 4.4


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_short_clicks_are_preserved(factor: int) -> None:
    """A click of 3 ms is neither lost nor smeared; FFmpeg's atempo alone does both."""
    audio = np.zeros((1, 2 * RATE), np.float32)
    starts = [4000, 11_111, 20_000]
    for start in starts:
        audio[0, start : start + 48] = np.random.default_rng(start).uniform(-0.8, 0.8, 48)
    result = stretched(audio, factor, [4000])[0]
    for start in starts:
        around = result[(start - 1500) * factor : (start + 1500) * factor] ** 2
        click = result[start * factor - 32 : start * factor + 320] ** 2
        assert click.sum() > 0.9 * around.sum()
        assert click.sum() == pytest.approx(float((audio[0, start : start + 48] ** 2).sum()), rel=0.1)


def test_silence_before_an_onset_stays_silent() -> None:
    """What atempo plays too early is removed: nothing may be heard before its cause is seen."""
    audio = np.zeros((1, 2 * RATE), np.float32)
    audio[0, RATE:] = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    result = stretched(audio, 8, [4000])[0]
    assert np.abs(result[: 8 * RATE - 32]).max() < 1e-3
    assert np.abs(result[8 * RATE : 8 * RATE + RATE // 10]).max() > 0.3
