"""Interpolated frames: their mean color, and motion extrapolation before a cut."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from tests.support.toy_engine import make_clip
from vidsr.stages.base import through
from vidsr.stages.interpolated import InterpolatedFrameFinisher, extrapolate_motion
from vidsr.types import Frame

pytestmark = pytest.mark.numeric

SIDE = 96


def pan(count: int, step: float, seed: int = 0) -> list[Tensor]:
    """A texture that moves to the left by `step` pixels per frame."""
    noise = np.random.default_rng(seed).random((SIDE, 4 * SIDE))
    texture = gaussian_filter(noise, 1.5)
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    places = np.arange(SIDE)
    images = []
    for k in range(count):
        x = places + 20 + k * step
        left = np.floor(x).astype(int)
        rest = x - left
        image = texture[:, left] * (1 - rest) + texture[:, left + 1] * rest
        images.append(torch.from_numpy(image).float().expand(3, -1, -1).contiguous())
    return images


def video(images: list[Tensor], interp: int, cuts: tuple[int, ...] = ()) -> list[Frame]:
    """Input and interpolated frames in order; `cuts` are indices of input frames."""
    time = Fraction(1, 25)
    return [
        Frame(image, index, time, 1, index % interp == 0 and index // interp in (0, *cuts))
        for index, image in enumerate(images)
    ]


@pytest.mark.parametrize("interp", [2, 4, 8])
def test_new_frames_get_the_color_between_their_neighbors(interp: int) -> None:
    frames = [frame.with_image(frame.image * 0.3 + 0.3) for frame in make_clip(3 * interp + 1, seed=3)]
    frames = [replace(frame, starts_scene=index == 0) for index, frame in enumerate(frames)]
    finished = list(through(InterpolatedFrameFinisher(interp), frames))
    assert [replace(a, image=b.image) for a, b in zip(frames, finished, strict=True)] == finished
    for index, (raw, frame) in enumerate(zip(frames, finished, strict=True)):
        k = index % interp
        if not k:
            assert frame is raw
            continue
        before, after = (finished[index - k + offset].image.double().mean((1, 2)) for offset in (0, interp))
        expected = before + (after - before) * k / interp
        torch.testing.assert_close(frame.image.double().mean((1, 2)), expected, rtol=0, atol=1e-6)
        apart = frame.image - raw.image
        torch.testing.assert_close(apart, apart.mean((1, 2), keepdim=True).expand_as(apart), rtol=0, atol=1e-6)


@pytest.mark.parametrize("interp", [2, 4])
def test_before_a_cut_the_near_side_moves_on(interp: int) -> None:
    """Motion of 4 pixels per input frame must continue at the same speed in the frames before the cut."""
    step = 4.0
    near, far = pan(2 * interp + 1, step / interp), pan(interp + 1, 0.0, seed=1)
    given = near[: interp + 1]
    repeats = [near[interp]] * (interp - 1)
    frames = video([*given, *repeats, *far], interp, cuts=(2,))
    finished = list(through(InterpolatedFrameFinisher(interp), frames))
    assert len(finished) == len(frames)
    inner = (slice(12, -12), slice(12, -12))
    for k in range(1, interp):
        result, truth = finished[interp + k].image[0], near[interp + k][0]
        error, repeated = ((image - truth)[inner].square().mean() for image in (result, near[interp][0]))
        assert error < 0.05 * repeated
        assert not finished[interp + k].starts_scene


def test_after_a_scenes_first_frame_nothing_is_known_of_its_motion() -> None:
    images = [*pan(1, 0.0), torch.zeros(3, SIDE, SIDE), *pan(1, 0.0, seed=2), *pan(2, 3.0, seed=2)]
    frames = video(images, 2, cuts=(1,))
    finished = list(through(InterpolatedFrameFinisher(2), frames))
    assert torch.equal(finished[1].image, images[0])


def test_the_motion_before_a_cut_is_not_used_behind_it() -> None:
    """A scene of a single frame between two cuts: the frame is repeated."""
    first, second, third = pan(3, 4.0), pan(1, 0.0, seed=1), pan(1, 0.0, seed=2)
    gray = torch.full((3, SIDE, SIDE), 0.5)
    finished = list(through(InterpolatedFrameFinisher(2), video([*first, gray, *second, gray, *third], 2, cuts=(2, 3))))
    assert torch.equal(finished[5].image, second[0])
    assert not torch.equal(finished[3].image, first[2])


@pytest.mark.parametrize("size", [(8, 9), (40, 300), (300, 40), (250, 260)])
def test_every_size_stays_in_range(size: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(1)
    last, before = (torch.rand(3, *size, generator=random) for _ in range(2))
    moved = extrapolate_motion(last, before, 0.5)
    assert moved.shape == last.shape and moved.dtype == last.dtype
    assert moved.min() >= 0 and moved.max() <= 1


def test_what_stands_still_stays() -> None:
    (image,) = pan(1, 0.0)
    torch.testing.assert_close(extrapolate_motion(image, image.clone(), 0.5), image, rtol=0, atol=2e-3)
