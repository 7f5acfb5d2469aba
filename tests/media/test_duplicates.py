"""Repeated frames: detected in real encodings, replaced evenly, and nothing else changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.support.media import encode
from tests.support.tiny_networks import slowmo_network
from vidsr.config import InputConfig
from vidsr.engines.slowmo import InterpolationEngine
from vidsr.stages.base import through
from vidsr.stages.duplicates import MAX_RUN, TIME_STEPS, Duplicates
from vidsr.types import Frame
from vidsr.video.reader import Reader

HEIGHT, WIDTH = 96, 128
SPEED = 4.0  # pixels per different image
PATTERNS = {
    "twos": (2,),
    "threes": (3,),
    "fours": (4,),
    "25 in 30": (1, 1, 1, 1, 2),
    "24 in 30": (1, 1, 1, 2),
    "24 in 60": (3, 2),
}


def spectrum(seed: int = 0) -> np.ndarray:
    """A seamless texture whose amplitude falls with frequency, as in photographs."""
    random = np.random.default_rng(seed)
    y, x = np.meshgrid(np.fft.fftfreq(HEIGHT), np.fft.fftfreq(WIDTH), indexing="ij")
    distance = np.hypot(y, x)
    shape = np.where((distance > 0) & (distance < 0.25), 1 / np.maximum(distance, 1e-6), 0.0)
    return np.fft.fft2(random.standard_normal((HEIGHT, WIDTH))) * shape


TEXTURE = spectrum()


def view(position: float, contrast: float = 0.15, level: float = 0.5) -> Tensor:
    """The texture moved to the right, with subpixel accuracy."""
    phase = np.exp(-2j * math.pi * np.fft.fftfreq(WIDTH) * position)
    plane = np.fft.ifft2(TEXTURE * phase).real
    plane = level + contrast * plane / plane.std()
    return torch.from_numpy(plane.clip(0, 1)).float().expand(3, -1, -1).contiguous()


def shift(before: Tensor, after: Tensor) -> float:
    """Motion to the right in pixels, from the phase of the lowest frequencies; independent of the code under test."""
    waves = [np.fft.fft2(image.mean(0).double().numpy())[:, 1] for image in (before, after)]
    return float(np.angle(np.vdot(waves[1], waves[0]))) * WIDTH / (2 * math.pi)


def video(images: Sequence[Tensor], cuts: Sequence[int] = ()) -> list[Frame]:
    return [Frame(image, 512 * t, Fraction(1, 12800), 512, t == 0 or t in cuts) for t, image in enumerate(images)]


def numbers(name: str, count: int) -> list[int]:
    """The index of the image that each frame shows."""
    pattern = PATTERNS[name]
    return [i for i in range(count) for _ in range(pattern[i % len(pattern)])]


class Halfway:
    """An interpolator (interp 2, scale 1) by phase correlation; counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def init_state(self, height: int, width: int) -> list[Frame]:
        return []

    def step(self, frame: Frame, state: list[Frame]) -> tuple[list[Frame], list[Frame]]:
        if not state:
            assert frame.starts_scene
            return [], [frame]
        self.calls += 1
        before = state[0].image
        phase = np.exp(-2j * math.pi * np.fft.fftfreq(WIDTH) * shift(before, frame.image) / 2)
        moved = np.fft.ifft2(np.fft.fft2(before.numpy()) * phase).real
        return [state[0], frame.with_image(torch.from_numpy(moved).float())], [frame]

    def flush(self, state: list[Frame]) -> list[Frame]:
        return state


def filled(frames: Sequence[Frame]) -> tuple[list[Frame], set[int]]:
    """The output and the indices of replaced frames; checks that everything else is unchanged."""
    duplicates = Duplicates(Halfway())
    result = list(through(duplicates, iter(frames)))
    assert [(f.pts, f.duration, f.time_base, f.starts_scene) for f in result] == [
        (f.pts, f.duration, f.time_base, f.starts_scene) for f in frames
    ]
    new = {t for t, (a, b) in enumerate(zip(frames, result, strict=True)) if a.image is not b.image}
    assert duplicates.replaced == len(new)
    return result, new


def inner_repeats(shown: list[int]) -> set[int]:
    """Frames that repeat an image that lies between two others."""
    return {t for t, (a, b) in enumerate(pairwise(shown), start=1) if a == b and b not in (shown[0], shown[-1])}


# -------------------------------------------------------------------------------------------------- filling


@pytest.mark.parametrize("name", PATTERNS)
def test_motion_that_froze_goes_on(name: str) -> None:
    shown = numbers(name, 14)
    frames = video([view(SPEED * i) for i in shown])
    result, new = filled(frames)
    assert new == inner_repeats(shown)
    inside = range(shown.index(1), shown.index(13))
    before = [shift(frames[t].image, frames[t + 1].image) for t in inside]
    after = [shift(result[t].image, result[t + 1].image) for t in inside]
    assert min(before) == pytest.approx(0, abs=0.02)
    runs = [shown.count(shown[t]) for t in inside]
    for step, run in zip(after, runs, strict=True):
        # If every image is shown equally long, this is the same everywhere: the motion is even.
        assert step == pytest.approx(SPEED / run, abs=SPEED / TIME_STEPS + 0.05 if run == 3 else 0.05)


def test_images_stand_at_the_nearest_eighth_of_their_time() -> None:
    """Also with uneven times: here the repeats are at 1/10 and 6/10 of the interval."""
    positions = [0, 1, 2, 2, 2, 3, 4]
    frames = video([view(SPEED * i) for i in positions])
    times = [0, 100, 200, 210, 260, 300, 400]
    uneven = [Frame(f.image, t, Fraction(1, 1000), 0, f.starts_scene) for f, t in zip(frames, times, strict=True)]
    result, new = filled(uneven)
    assert new == {3, 4}
    assert shift(result[2].image, result[3].image) == pytest.approx(SPEED / 8, abs=0.05)
    assert shift(result[2].image, result[4].image) == pytest.approx(SPEED * 5 / 8, abs=0.05)


@pytest.mark.parametrize(("run", "calls"), [(1, 1), (2, 5), (3, 3)])
def test_each_image_is_made_once(run: int, calls: int) -> None:
    """3/8 and 5/8 also need 1/4, 1/2 and 3/4."""
    halfway = Halfway()
    positions = [0, 1, 2, *[2] * run, 3, 4]
    list(through(Duplicates(halfway), video([view(SPEED * i) for i in positions])))
    assert halfway.calls == calls


def test_zooming_slowmo_fills_the_gap() -> None:
    """With the real engine, the image is the one it interpolates between the two neighbors."""
    engine = InterpolationEngine.of_network(slowmo_network("fast"), "untrained", torch.device("cpu"), "fp32")
    positions = [0, 1, 2, 2, 3, 4]
    frames = video([view(SPEED * i) for i in positions])
    result = list(through(Duplicates(engine), frames))
    state = engine.init_state(HEIGHT, WIDTH)
    made = []
    for frame in (frames[2], frames[4]):
        ready, state = engine.step(frame, state)
        made += ready
    assert torch.equal(result[3].image, made[1].image)
    assert all(torch.equal(result[t].image, frames[t].image) for t in (0, 1, 2, 4, 5))


# ---------------------------------------------------------------------------------------------- what stays


def noisy(images: Sequence[Tensor], sigma: float, seed: int = 3) -> list[Tensor]:
    random = torch.Generator().manual_seed(seed)
    return [
        (image + sigma / 255 * torch.randn(image.shape, generator=random)).clamp(0, 1).mul(255).round().div(255)
        for image in images
    ]


def pointer(x: float) -> Tensor:
    screen = view(0)
    left = round(x)
    screen[:, 40:52, left : left + 8] = 1.0
    return screen


@pytest.mark.parametrize(
    "images",
    [
        [view(0)] * 30,
        [view(0.1 * t) for t in range(30)],
        [view(SPEED * t) for t in range(30)],
        [view(2 * SPEED * math.sin(t)) for t in range(30)],
        [view(0.3 * t * t) for t in range(20)],
        [pointer(3 * t) for t in range(30)],
        [pointer(12 * t) for t in range(9)],
        noisy([view(0)] * 30, 3),
        noisy([view(0, level=0.03, contrast=0.005)] * 30, 1),
        noisy([view(0.2 * t, level=0.03, contrast=0.01) for t in range(30)], 1),
        noisy([pointer(3 * t) for t in range(30)], 2),
        [view(0).mul(1 - t / 30) for t in range(30)],
    ],
    ids=[
        "still", "slow pan", "pan", "sway", "faster and faster", "pointer", "fast pointer", "noise", "dark noise",
        "dark slow pan", "noisy pointer", "fade",
    ],
)  # fmt: skip
def test_frames_that_are_not_repeats_stay(images: list[Tensor]) -> None:
    assert filled(video(images))[1] == set()


@pytest.mark.parametrize("run", [MAX_RUN + 1, MAX_RUN + 2, 2 * MAX_RUN + 3, 30])
def test_a_pause_stays(run: int) -> None:
    positions = [0, 1, 2, 3, *[3] * run, 4, 5, 6, *[6] * run, 7]
    assert filled(video([view(SPEED * i) for i in positions]))[1] == set()


def test_a_pointer_at_half_the_rate_of_the_screen_is_filled() -> None:
    assert filled(video([pointer(4 * (t // 2)) for t in range(24)]))[1] == set(range(3, 22, 2))


def test_noisy_repeats_are_found() -> None:
    shown = numbers("25 in 30", 20)
    assert filled(video(noisy([view(SPEED * i) for i in shown], 3)))[1] == inner_repeats(shown)


def test_repeats_in_the_dark_are_found() -> None:
    shown = numbers("twos", 12)
    dark = [view(SPEED * i, level=0.06, contrast=0.02) for i in shown]
    assert filled(video(noisy(dark, 0.5)))[1] == inner_repeats(shown)


def test_nothing_is_made_across_a_cut_or_at_the_ends() -> None:
    positions = [0, 0, 1, 2, 2, 3, 4, 4, 104, 105, 106, 106, 107, 107]
    frames = video([view(SPEED * i) for i in positions], cuts=[8])
    assert filled(frames)[1] == {4, 11}
    assert filled(video([f.image for f in frames], cuts=[4, 8, 11]))[1] == set()


# ---------------------------------------------------------------------------------------------- real coding


@pytest.mark.parametrize("crf", [18, 23, 28])
@pytest.mark.parametrize("name", PATTERNS)
def test_repeats_are_found_after_h264(tmp_path: Path, name: str, crf: int) -> None:
    """Repeats differ after lossy coding; the camera moves over grain at 0.7 to 2.5 pixels per image."""
    shown = numbers(name, 30)
    grainy = noisy([view(1.6 * i + 5 * math.sin(i / 6)) for i in range(30)], 2)
    options = ("-c:v", "libx264", "-crf", str(crf), "-preset", "medium", "-pix_fmt", "yuv420p", "-threads", "1")
    images = [grainy[i].mul(255).round().byte().permute(1, 2, 0).numpy() for i in shown]
    with Reader(encode(tmp_path / "video.mp4", images, options), InputConfig(), torch.device("cpu")) as reader:
        frames = list(reader.frames())
    frames[0] = Frame(frames[0].image, frames[0].pts, frames[0].time_base, frames[0].duration, starts_scene=True)
    assert len(frames) == len(shown)
    new, wanted = filled(frames)[1], inner_repeats(shown)
    assert new <= wanted
    assert len(new) >= 0.95 * len(wanted)


@pytest.mark.parametrize("crf", [18, 28])
def test_a_video_without_repeats_comes_back_from_h264_unchanged(tmp_path: Path, crf: int) -> None:
    grainy = noisy([view(1.6 * i + 5 * math.sin(i / 6)) for i in range(50)], 2)
    options = ("-c:v", "libx264", "-crf", str(crf), "-preset", "veryfast", "-pix_fmt", "yuv420p", "-threads", "1")
    images = [image.mul(255).round().byte().permute(1, 2, 0).numpy() for image in grainy]
    with Reader(encode(tmp_path / "video.mp4", images, options), InputConfig(), torch.device("cpu")) as reader:
        assert filled(list(reader.frames()))[1] == set()


# -------------------------------------------------------------------------------------------------- always


@settings(max_examples=60, deadline=None)
@given(
    runs=st.lists(st.tuples(st.integers(1, 7), st.integers(0, 3), st.booleans()), max_size=14),
    gaps=st.lists(st.integers(1, 900), min_size=98, max_size=98),
)
def test_count_order_and_times_never_change(runs: list[tuple[int, int, bool]], gaps: list[int]) -> None:
    """Any lengths, speeds and cuts: nothing crosses a cut, and at most four frames wait."""
    frames, position, pts, scene, scenes = [], 0.0, -40, 0, []
    for length, speed, is_cut in runs:
        position += 3.0 * speed
        scene += is_cut
        for place in range(length):
            pts += gaps[len(frames)]
            starts = is_cut and place == 0
            frames.append(Frame(view(position + 500 * scene), pts, Fraction(1, 1000), 7, starts))
            scenes.append(scene)
    taken = 0

    def source() -> Iterator[Frame]:
        nonlocal taken
        for frame in frames:
            taken += 1
            yield frame

    scene_of = {id(frame.image): scene for frame, scene in zip(frames, scenes, strict=True)}

    class Watched(Halfway):
        def step(self, frame: Frame, state: list[Frame]) -> tuple[list[Frame], list[Frame]]:
            here = scene_of.get(id(frame.image))
            before = scene_of.get(id(state[0].image)) if state else None
            assert None in (here, before) or here == before
            return super().step(frame, state)

    duplicates, count = Duplicates(Watched()), 0
    for t, (input_frame, result) in enumerate(zip(frames, through(duplicates, source()), strict=True)):
        count += result.image is not input_frame.image
        assert taken - t - 1 <= MAX_RUN + 1
        assert result.with_image(input_frame.image) == input_frame
        assert result.image.shape == input_frame.image.shape
    assert duplicates.replaced == count
    assert taken == len(frames)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (3, 900), (600, 9)])
def test_any_size_is_taken(height: int, width: int) -> None:
    random = torch.Generator().manual_seed(1)
    frames = video([torch.rand(3, height, width, generator=random) for _ in range(6)])
    assert [f.image for f in through(Duplicates(Halfway()), frames)] == [f.image for f in frames]


def test_an_empty_video_stays_empty() -> None:
    assert list(through(Duplicates(Halfway()), [])) == []
