"""The space-time table: which frames are given, that results lie where they belong, means, places, colors."""

from __future__ import annotations

import argparse
import math
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from benchmarks.common.paper_results import rows_of
from benchmarks.quality.runner import compressed
from benchmarks.slowmo.baselines import RATE, aligned, between, check_times, minterpolate
from benchmarks.slowmo.published_forward import PlainZoomingSlowMo, is_published
from benchmarks.slowmo.runner import label_of, parse_set, with_input_ends
from benchmarks.slowmo.scoreboard import quality_table, read_json, write_json
from benchmarks.slowmo.scores import (
    KINDS,
    WINDOW_RESULTS,
    ClipFrames,
    gain_by_place,
    mean_scores,
    pulsing,
    score_frames,
)
from vidsr.nets.zsm.config import ZSMConfig
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.train.degrade import degrade_bd, degrade_bi


def moving(frames: int, height: int, width: int, step: int) -> Tensor:
    """A smooth texture on the move, uint8 T x 3 x H x W; every frame also differs from the others in brightness."""
    y, x = np.mgrid[0:height, 0 : width + frames * step]
    plane = 120 + 50 * np.sin(x / 5) * np.cos(y / 7) + 40 * np.sin(x / 11 + y / 6)
    clip = np.stack([plane[:, t * step : t * step + width] + t % 3 for t in range(frames)])
    return torch.from_numpy(clip.round().astype(np.uint8))[:, None].repeat(1, 3, 1, 1)


def clip_of(psnr: list[float], color: list[list[float]] | None = None) -> ClipFrames:
    colors = color or [[0.0, 0.0, 0.0]] * len(psnr)
    return ClipFrames("clip", psnr, psnr, [value / 100 for value in psnr], colors, colors)


def times(count: int) -> list[Fraction]:
    return [Fraction(index, 2 * RATE) for index in range(count)]


@pytest.mark.parametrize("length", range(1, 9))
def test_a_clip_ends_with_a_given_frame(length: int) -> None:
    clip = torch.arange(length)
    kept = with_input_ends(clip)
    given = kept[::2]
    assert kept[-1] == given[-1] and length - len(kept) in (0, 1)
    assert len(kept) == 2 * len(given) - 1
    assert torch.equal(torch.cat([kept[KINDS["existing"]], kept[KINDS["synthetic"]]]).sort()[0], kept)
    assert torch.equal(kept[KINDS["existing"]], given)


def test_sets_are_degraded_as_their_names_say() -> None:
    """Noise and compression see the input frames only, which follow each other."""
    truth = moving(5, 64, 80, 2)
    clean = parse_set("vid4-BI").degrade(truth)
    torch.testing.assert_close(clean, degrade_bi(truth.float() / 255), atol=0, rtol=0)
    assert torch.equal(parse_set("vid4-BI-crf28").degrade(truth), compressed(clean, 28))
    assert torch.equal(parse_set("vid4-BD-crf35").degrade(truth), compressed(degrade_bd(truth.float() / 255), 35))
    noisy = parse_set("faces-BI-noise-15")
    assert (noisy.folder, label_of(noisy)) == ("faces", "faces-BI-noise-15-x2")
    assert float((noisy.degrade(truth) - clean).std() * 255) == pytest.approx(15, rel=0.1)
    errors = [
        (parse_set(f"a-BI-jpeg-{quality}").degrade(truth) - clean).square().mean() for quality in (10, 20, 30, 40)
    ]
    assert errors == sorted(errors, reverse=True) and errors[0] > 1.5 * errors[-1] > 0
    with pytest.raises(argparse.ArgumentTypeError, match="is not FOLDER-BI"):
        parse_set("vid4-BI-fog")


def test_printed_rows_stand_beside_measured_ones() -> None:
    scores = [clip_of([20.0, 21.0, 22.0])]
    for condition in ("noise-15", "jpeg-10", "jpeg-20", "jpeg-30", "jpeg-40"):
        label = label_of(parse_set(f"vid4-BI-{condition}"))
        printed = [row for row in rows_of(label) if row.system.startswith("Zooming SlowMo")]
        assert len(printed) == 1 and printed[0].psnr_y is not None and 22 < printed[0].psnr_y < 24
        assert f"{printed[0].psnr_y:.2f}" in quality_table({label: {"zsm-fast": scores}})


def test_scores_of_given_and_new_frames_are_apart() -> None:
    truth = moving(5, 24, 32, 2)
    result = truth.float() / 255
    result[1::2] += 4 / 255
    clip = score_frames("clip", truth, result)
    existing, synthetic, both = (mean_scores([clip], kind) for kind in ("existing", "synthetic", "all"))
    assert (existing.frames, synthetic.frames, both.frames) == (3, 2, 5)
    assert existing.psnr_y == 100 and existing.ssim_y == 1
    # Luma of studio swing: a step of 4 in R, G and B is one of 4 * 219 / 255.
    expected = -20 * math.log10(4 * 219 / 255 / 255)
    assert synthetic.psnr_y == pytest.approx(expected, abs=1e-3)
    assert synthetic.psnr_rgb == pytest.approx(-20 * math.log10(4 / 255), abs=1e-3)
    assert both.psnr_y == pytest.approx((3 * 100 + 2 * expected) / 5, abs=1e-3)


def test_means_are_over_frames_then_over_clips() -> None:
    clips = [clip_of([20.0, 30.0, 40.0]), clip_of([50.0])]
    mean = mean_scores(clips, "all")
    assert mean.psnr_y == pytest.approx((30 + 50) / 2)
    pooled = -10 * math.log10((1e-2 + 1e-3 + 1e-4) / 3)
    assert mean.pooled_psnr_y == pytest.approx((pooled + 50) / 2)


def test_repetition_and_blending_lie_between() -> None:
    clip = torch.tensor([0.0, 1.0, 3.0]).view(3, 1, 1, 1)
    assert between(clip, 0.0).flatten().tolist() == [0, 0, 1, 1, 3]
    assert between(clip, 0.5).flatten().tolist() == [0, 0.5, 1, 2, 3]


@pytest.mark.parametrize("size", [(64, 80), (69, 83)])
def test_minterpolate_gives_every_frame_at_its_time(size: tuple[int, int]) -> None:
    truth = moving(13, *size, 3)
    low = truth[::2].float() / 255
    result = minterpolate(low)
    assert len(result) == len(truth)
    assert torch.equal(result[::2], low)

    def error(guess: Tensor, frames: slice) -> float:
        return float((guess - truth[frames].float() / 255)[..., 16:-16, 16:-16].square().mean())

    new = result[1::2]
    # Nearer to its own moment than to the given frames beside it: not shifted by half a step either way.
    assert error(new, slice(1, None, 2)) < min(error(new, slice(0, -1, 2)), error(new, slice(2, None, 2))) / 4


def test_results_at_other_times_are_refused() -> None:
    check_times(times(5), 3)
    late = [time + Fraction(1, 2 * RATE) for time in times(5)]
    for wrong in (late, times(4), times(6), [*times(4), Fraction(5, 2 * RATE)], []):
        with pytest.raises(SystemExit, match="results instead of 5"):
            check_times(wrong, 3)


def test_results_that_are_not_the_given_frames_are_refused() -> None:
    given = moving(3, 16, 16, 5).permute(0, 2, 3, 1).numpy()
    images = [given[index // 2] for index in range(5)]
    rounded = [image + 2 for image in images]
    result = aligned(times(5), rounded, given)
    assert np.array_equal(result[::2], given) and np.array_equal(result[1], rounded[1])
    with pytest.raises(SystemExit, match="changed an input frame"):
        aligned(times(5), [images[0], *images[:4]], given)  # the right times, everything one place late


def test_places_in_a_window_count_from_behind_its_border(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first window and those without all that lies behind are left out: here they would spoil every mean."""
    monkeypatch.setattr("benchmarks.slowmo.scores.LOOKAHEAD", 2)
    whole = 3 * WINDOW_RESULTS + 1  # the first window is one longer
    values = [1000.0] * (WINDOW_RESULTS + 1) + [float(place) for place in range(WINDOW_RESULTS)] * 2
    behind = [1000.0] * 4
    clip, base = clip_of([*values, *behind]), clip_of([0.0] * (whole + len(behind)))
    assert gain_by_place([clip], [base]) == [(2, float(place)) for place in range(WINDOW_RESULTS)]
    shorter = clip_of(values), clip_of([0.0] * whole)
    assert [frames for frames, _ in gain_by_place([shorter[0]], [shorter[1]])] == [1] * WINDOW_RESULTS
    assert gain_by_place([clip_of([1.0] * 5)], [clip_of([0.0] * 5)]) == [(0, 0.0)] * WINDOW_RESULTS


def test_pulsing_is_what_new_frames_differ_by_and_no_fading() -> None:
    fading = [[10.0 + 2 * t, 20.0 - t, 5.0] for t in range(7)]

    def pulse(amount: float, at: tuple[int, ...] = (1, 3, 5)) -> float:
        return pulsing([[red, green + amount * (t in at), blue] for t, (red, green, blue) in enumerate(fading)])

    assert pulse(0) == pytest.approx(0)
    assert pulse(0.75) == pulse(-0.75) == pytest.approx(0.75)
    assert pulse(30, at=(3,)) == pytest.approx(10)
    assert pulsing([[1.0, 2.0, 3.0]]) == 0


def test_what_is_kept_can_be_used_again(tmp_path: Path) -> None:
    truth = moving(3, 16, 16, 1)
    results = {"general-BI-x2": {"bicubic-blend": [score_frames("a", truth, between(truth[::2].float() / 255, 0.5))]}}
    write_json(tmp_path / "kept.json", results)
    assert read_json(tmp_path / "kept.json") == results


def test_the_plain_forward_pass_is_the_network() -> None:
    torch.manual_seed(0)
    network = ZoomingSlowMo(ZSMConfig(8, 2, 2, groups=2, state_width=8, upsampler_width=4)).requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.05)
    clip = torch.rand(3, 3, 13, 18)
    expected = network(clip[None])[0]
    result = PlainZoomingSlowMo(network, torch.device("cpu"))(clip)
    assert is_published(network) and expected.std() > 0.01
    torch.testing.assert_close(result, expected, atol=5e-5, rtol=0)


def test_networks_of_other_parts_are_not_written_out() -> None:
    network = ZoomingSlowMo(ZSMConfig(8, 1, 1, kernel=1, groups=2, state_width=8, upsampler_width=4))
    with pytest.raises(ValueError, match="published"):
        PlainZoomingSlowMo(network, torch.device("cpu"))
