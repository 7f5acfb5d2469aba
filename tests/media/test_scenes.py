"""Scene cut detection at exact positions, on synthetic images with known cuts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import interpolate

from vidsr.config import SceneConfig
from vidsr.stages.base import through
from vidsr.stages.scenes import SceneMarker
from vidsr.types import Frame


def scene(seed: int, height: int = 90, width: int = 160) -> Tensor:
    """An image with coarse and fine structure, different for each seed."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 6, generator=random)
    fine = torch.rand(1, 3, 16, 24, generator=random)
    size = (height, width)
    return (0.7 * interpolate(coarse, size, mode="bilinear") + 0.3 * interpolate(fine, size, mode="bilinear"))[0]


def video(images: Iterable[Tensor]) -> list[Frame]:
    return [Frame(image, 512 * t, Fraction(1, 12800), 512) for t, image in enumerate(images)]


def starts(frames: Iterable[Frame], config: SceneConfig | None = None) -> list[int]:
    return [t for t, frame in enumerate(through(SceneMarker(config or SceneConfig()), frames)) if frame.starts_scene]


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([12], [0]),
        ([6, 6], [0, 6]),
        ([1, 11], [0, 1]),
        ([11, 1], [0, 11]),
        ([4, 1, 1, 1, 4], [0, 4, 5, 6, 7]),
        ([2, 2, 2, 2], [0, 2, 4, 6]),
        ([1], [0]),
        ([1, 1], [0, 1]),
        ([40, 3, 40], [0, 40, 43]),
    ],
)
def test_hard_cuts_are_found_where_they_are(lengths: list[int], expected: list[int]) -> None:
    images = [scene(seed) for seed, length in enumerate(lengths) for _ in range(length)]
    assert starts(video(images)) == expected


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(1, 5), min_size=1, max_size=6), first=st.integers(0, 500))
def test_any_pattern_of_cuts_is_found(lengths: list[int], first: int) -> None:
    random = torch.Generator().manual_seed(first)
    # Neighbors differ in brightness by 0.4 or more: 34 in the detector's content value, a third of 102 levels.
    levels = 0.3 * torch.rand(len(lengths), 3, generator=random) + 0.7 * (torch.arange(len(lengths))[:, None] % 2)
    images = [levels[i][:, None, None].expand(3, 24, 32) for i, length in enumerate(lengths) for _ in range(length)]
    assert starts(video(images)) == [sum(lengths[:i]) for i in range(len(lengths))]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (16, 16), (90, 160), (160, 90), (333, 1001), (3, 2000)])
def test_cuts_are_found_at_any_size(height: int, width: int) -> None:
    dark, light = torch.full((3, height, width), 0.1), torch.full((3, height, width), 0.8)
    assert starts(video([dark, dark, light, light])) == [0, 2]


def test_a_pan_is_not_a_cut() -> None:
    wide = scene(3, 90, 600)
    assert starts(video(wide[:, :, 8 * t : 8 * t + 160] for t in range(50))) == [0]


def test_a_fade_is_not_a_cut() -> None:
    image = scene(4)
    levels = [t / 24 for t in range(24, -1, -1)] + [t / 24 for t in range(25)]
    assert starts(video(image * level for level in levels)) == [0]


def test_a_dissolve_is_not_a_cut() -> None:
    before, after = scene(5), scene(6)
    assert starts(video(torch.lerp(before, after, t / 24) for t in range(25))) == [0]


@pytest.mark.parametrize("level", [0.0, 0.01, 0.5, 1.0])
def test_still_frames_of_one_color_have_no_cut(level: float) -> None:
    assert starts(video([torch.full((3, 72, 128), level)] * 20)) == [0]


@pytest.mark.parametrize("level", [0.0, 4.0, 16.0, 128.0])
@pytest.mark.parametrize("noise", [1.0, 4.0])
def test_noise_in_dark_and_gray_frames_is_not_a_cut(level: float, noise: float) -> None:
    """Hue and saturation of such frames are random; the detector's content value alone reports a cut at every frame."""
    random = torch.Generator().manual_seed(7)
    images = [(level + noise * torch.randn(3, 72, 128, generator=random)).clamp(0, 255).round() for _ in range(12)]
    assert starts(video(image / 255 for image in images)) == [0]


def test_black_between_two_scenes_is_a_scene() -> None:
    black = torch.zeros(3, 90, 160)
    assert starts(video([scene(1)] * 3 + [black] * 2 + [scene(2)] * 3)) == [0, 3, 5]


def test_a_flash_is_a_scene_of_its_own() -> None:
    """A flash must not influence later frames, which a minimum scene length would allow."""
    assert starts(video([scene(1)] * 5 + [torch.ones(3, 90, 160)] + [scene(1)] * 5)) == [0, 5, 6]


def test_off_marks_only_the_first_frame() -> None:
    frames = video([scene(seed) for seed in range(5)])
    assert starts(frames, SceneConfig(mode="off")) == [0]


def test_the_threshold_is_used() -> None:
    before = scene(8)
    frames = video([before] * 3 + [(before * 0.9).clamp(0, 1)] * 3)
    assert starts(frames) == [0]
    assert starts(frames, SceneConfig(threshold=3.0)) == [0, 3]
    assert starts(video([scene(1), scene(2)]), SceneConfig(threshold=255.0)) == [0]


@pytest.mark.parametrize("mode", ["auto", "off"])
def test_no_frame_waits_and_nothing_else_changes(mode: str) -> None:
    frames = [
        Frame(scene(t // 3), pts, Fraction(1, 1000), 7, starts_scene=t == 2)
        for t, pts in enumerate([-40, 0, 1, 500, 501, 9000])
    ]
    taken = 0

    def source() -> Iterator[Frame]:
        nonlocal taken
        for frame in frames:
            taken += 1
            yield frame

    for t, marked in enumerate(through(SceneMarker(SceneConfig(mode="auto" if mode == "auto" else "off")), source())):
        assert taken == t + 1
        assert marked.image is frames[t].image
        assert (marked.pts, marked.time_base, marked.duration) == (frames[t].pts, Fraction(1, 1000), 7)
        assert marked.starts_scene == (t in ((0, 3) if mode == "auto" else (0,)))


def test_an_empty_video_stays_empty() -> None:
    assert starts([]) == []
