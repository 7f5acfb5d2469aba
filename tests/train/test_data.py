"""Training batches: pure functions of their index, with crops, motion and flips as in the recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.tiny_training_data import moving, noise, tiny_recipe, training_folder, write_clip, write_still
from vidsr.errors import InputError
from vidsr.train.data import Batch, Batches, _choose_crop, _flip, frame_order, still_motion
from vidsr.train.dataset import Item, find_training_files, split_holdout
from vidsr.train.degrade import degrade_bi
from vidsr.train.recipe import DataConfig, DegradationConfig

CLEAN = DegradationConfig(weight_blur=0, weight_area=0, noise_share=0, jpeg_share=0, h264_share=0)
# Clips without any option; each test enables the option that it checks.
DATA = DataConfig(
    crop=32, frames=4, batch=2, text_share=0, texture_choice_share=0, frozen_share=0, burn_in_share=0, holdout_clips=2
)
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("frames")


def batches(folder: Path, cache: Path, data: DataConfig = DATA, degradation: DegradationConfig = CLEAN) -> Batches:
    items, _ = split_holdout(find_training_files(folder, data.licence_classes), data.holdout_clips)
    return Batches(tiny_recipe(data=data, degradation=degradation), items, cache, None)


def stills(cache: Path, folder: Path, data: DataConfig, height: int = 160, width: int = 200) -> Batches:
    """One still of pure noise, so that every crop can be located."""
    item = Item(write_still(folder / "noise.png", noise(1, height, width, 5)[0]), "still", "noise", "A")
    return Batches(tiny_recipe(data=data, degradation=CLEAN), [item], cache, None)


def shift_between(first: Pixels, second: Pixels, max_shift: int) -> tuple[int, int] | None:
    """The one (dy, dx) with second[y, x] == first[y + dy, x + dx] wherever both exist; None if there is none."""
    height, width = first.shape[:2]
    for dy in range(-max_shift, max_shift + 1):
        for dx in range(-max_shift, max_shift + 1):
            a = first[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
            b = second[max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
            if np.array_equal(a, b):
                return dy, dx
    return None


def equal(a: Batch, b: Batch) -> bool:
    return torch.equal(a.low, b.low) and torch.equal(a.truth, b.truth) and a.burn_in == b.burn_in


def truths(source: Batches, count: int) -> Iterator[Pixels]:
    """Ground-truth clips, T x H x W x 3 in 8 bits."""
    for index in range(count):
        for clip in source[index].truth:
            yield (clip * 255).round().byte().permute(0, 2, 3, 1).numpy()


# --------------------------------------------------------------------------------------------------------- batches


def test_shapes_and_ranges(folder: Path, cache: Path) -> None:
    batch = batches(folder, cache)[0]
    assert batch.low.shape == (2, 4, 3, 8, 8) and batch.truth.shape == (2, 4, 3, 32, 32) and batch.burn_in == 0
    for images in (batch.low, batch.truth):
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1 and images.std() > 0.05
    assert (batch.truth * 255 - (batch.truth * 255).round()).abs().max() < 1e-4
    assert len(batches(folder, cache)) == 3600


def test_a_batch_depends_on_its_index_alone(folder: Path, cache: Path) -> None:
    degradation = DegradationConfig(noise_share=0.5, jpeg_share=0.5, h264_share=0)
    data = replace(DATA, burn_in_share=0.3, burn_in_frames=2, text_share=0.5, frozen_share=0.2)
    one, other = batches(folder, cache, data, degradation), batches(folder, cache, data, degradation)
    forwards = [one[index] for index in range(6)]
    assert all(equal(forwards[index], other[index]) for index in (5, 3, 0, 1, 3))
    distinct = {batch.truth.numpy().tobytes() for batch in forwards}
    assert len(distinct) == 6
    reseeded = Batches(
        replace(one.recipe, seed=8), [i for k in one.by_source.values() for g in k for i in g], cache, None
    )
    assert not equal(reseeded[0], forwards[0])


def test_low_frames_are_the_degraded_truth(folder: Path, cache: Path) -> None:
    for index in range(4):
        batch = batches(folder, cache)[index]
        for low, truth in zip(batch.low, batch.truth, strict=True):
            torch.testing.assert_close(low, degrade_bi(truth), atol=1e-6, rtol=0)


def test_burn_in_puts_frames_in_front(folder: Path, cache: Path) -> None:
    data = replace(DATA, burn_in_share=0.5, burn_in_frames=5)
    seen = set()
    for index in range(12):
        batch = batches(folder, cache, data)[index]
        seen.add(batch.burn_in)
        assert batch.low.shape[1] == batch.burn_in + 4 and batch.truth.shape[1] == 4
        torch.testing.assert_close(batch.low[0, batch.burn_in :], degrade_bi(batch.truth[0]), atol=1e-6, rtol=0)
    assert seen == {0, 5}


@pytest.mark.parametrize(
    "kind, share",
    [
        ("faces", "share_faces"),
        ("general", "share_general"),
        ("still", "share_stills"),
        ("face_still", "share_face_stills"),
    ],
)
def test_shares_choose_the_kind(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, kind: str, share: str
) -> None:
    picked = []
    data = replace(DATA, **{"share_faces": 0, "share_general": 0, "share_stills": 0, share: 2.0})  # type: ignore[arg-type]
    source = batches(folder, cache, data)
    original = source._pick
    monkeypatch.setattr(source, "_pick", lambda k, generator: (picked.append(k), original(k, generator))[1])
    assert source[0].truth.shape[0] == 2
    assert picked == [kind, kind]


def test_shares_of_missing_kinds_go_to_the_others(tmp_path: Path, cache: Path) -> None:
    source = stills(cache, tmp_path, DATA)  # no clips
    assert source[0].truth.shape == (2, 4, 3, 32, 32)


def test_stills_of_faces_have_their_own_share(tmp_path: Path, cache: Path) -> None:
    """Dark stills of faces and light ones of other things, 3 to 1; without a share they are not used."""
    items = [
        Item(write_still(tmp_path / f"{kind}.png", np.full((64, 64, 3), level, np.uint8)), kind, kind, "A")
        for kind, level in (("still", 200), ("face_still", 40))
    ]
    for share, expected in ((0.0, 0.0), (3.0, 0.75)):
        data = replace(DATA, share_stills=1.0, share_face_stills=share, batch=1)
        source = Batches(tiny_recipe(data=data, degradation=CLEAN), items, cache, None)
        draws = [float(source[index].truth.mean()) < 0.5 for index in range(80)]
        assert abs(sum(draws) - 80 * expected) <= 5 * (80 * expected * (1 - expected)) ** 0.5


def test_no_text_is_written_on_faces(tmp_path: Path, cache: Path) -> None:
    item = Item(write_still(tmp_path / "gray.png", np.full((64, 64, 3), 128, np.uint8)), "face_still", "gray", "A")
    data = replace(DATA, share_face_stills=1.0, text_share=1.0)
    source = Batches(tiny_recipe(data=data, degradation=CLEAN), [item], cache, None)
    assert not any(clip.std() for clip in truths(source, 4))


def test_nothing_left_to_train_on_is_an_input_error(tmp_path: Path, cache: Path) -> None:
    write_clip(tmp_path / "only.avi", moving(4, 48, 64, 0))
    with pytest.raises(InputError, match="no training data is left: beside 2 held-out clips"):
        batches(tmp_path, cache)
    with pytest.raises(InputError, match="no training data is left"):
        stills(cache, tmp_path, replace(DATA, share_stills=0))


def test_videos_are_weighted_by_the_root_of_their_number_of_clips(tmp_path: Path, cache: Path) -> None:
    """Nine clips of one video and one of another: 3 to 1. Binomial, five standard deviations."""
    levels = {f"long{n}": 200 for n in range(9)} | {"short": 40}
    for name, level in levels.items():
        write_still(tmp_path / f"{name}.png", np.full((32, 32, 3), level, np.uint8))
    items = [Item(tmp_path / f"{n}.png", "still", "short" if n == "short" else "long", "A") for n in levels]
    source = Batches(tiny_recipe(data=DATA, degradation=CLEAN), items, cache, None)
    generator = np.random.default_rng(0)
    draws = [source._pick("still", generator).mean() > 100 for _ in range(400)]
    assert abs(sum(draws) - 300) < 5 * (400 * 0.75 * 0.25) ** 0.5


# ---------------------------------------------------------------------------------------------------------- motion


def test_stills_move_by_whole_pixels(tmp_path: Path, cache: Path) -> None:
    """Reduced stills too: they are reduced once and then moved, so that no blur changes with the motion."""
    data = replace(DATA, share_faces=0, share_general=0, max_still_speed=5.0, frames=5)
    shifts, reduced = [], 0
    for clip in truths(stills(cache, tmp_path, data), 8):
        pairs = [shift_between(a, b, 9) for a, b in pairwise(clip)]
        assert None not in pairs
        shifts += pairs
        reduced += bool(clip.std() < 70)  # noise of all 256 levels has 74, mixtures less
    assert len(set(shifts)) > 8
    assert 3 <= reduced <= 13, "about half of the 16 stills are reduced"


def test_frozen_clips_stand_still(folder: Path, cache: Path) -> None:
    moved = 0
    for clip in truths(batches(folder, cache, replace(DATA, frozen_share=1.0)), 3):
        assert all(np.array_equal(clip[0], frame) for frame in clip)
    for clip in truths(batches(folder, cache, replace(DATA, share_stills=0)), 3):
        moved += any(not np.array_equal(clip[0], frame) for frame in clip)
    assert moved == 6


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 31), st.integers(1, 4), st.integers(0, 10**6))
def test_the_order_of_frames_is_even_and_inside_the_clip(count: int, length: int, max_stride: int, seed: int) -> None:
    order = frame_order(count, length, max_stride, np.random.default_rng(seed))
    assert order.shape == (length,) and order.min() >= 0 and order.max() < count
    steps = np.abs(np.diff(order))
    assert steps.size == 0 or steps.max() <= max_stride
    if count > max_stride * (length - 1) and length > 1:  # long enough: not reversed
        assert len(set(np.diff(order).tolist())) == 1 and 1 <= steps[0] <= max_stride


def test_time_runs_both_ways_at_every_stride() -> None:
    generator = np.random.default_rng(0)
    assert {int(np.diff(frame_order(50, 4, 3, generator))[0]) for _ in range(100)} == {-3, -2, -1, 1, 2, 3}


@settings(deadline=None)
@given(st.integers(1, 31), st.floats(0, 20), st.integers(0, 10**6))
def test_paths_of_stills_start_at_zero_and_keep_the_speed(length: int, speed: float, seed: int) -> None:
    path = still_motion(length, speed, np.random.default_rng(seed))
    assert path.shape == (length, 2) and path.dtype == np.int64 and not path[0].any()
    if speed == 0:
        assert not path.any()


@settings(deadline=None)
@given(st.integers(20, 60), st.integers(20, 60), st.floats(0, 30), st.integers(1, 3), st.integers(0, 10**6))
def test_crops_lie_inside_the_image(height: int, width: int, speed: float, candidates: int, seed: int) -> None:
    """Images smaller than the crop are mirrored; a path that does not fit is reflected at the edges."""
    generator = np.random.default_rng(seed)
    image = noise(1, height, width, seed)
    clip = _choose_crop(image, still_motion(12, speed, generator), 32, candidates, generator)
    assert clip.shape == (12, 32, 32, 3)
    if min(height, width) >= 32:
        windows = np.lib.stride_tricks.sliding_window_view(image[0, :, :, 0], (32, 32))
        starts = windows[:, :, 0, 0]
        for frame in clip:
            places = np.argwhere(starts == frame[0, 0, 0])
            assert any(np.array_equal(windows[y, x], frame[..., 0]) for y, x in places)


def test_the_most_textured_crop_is_chosen() -> None:
    image = np.full((1, 64, 128, 3), 90, np.uint8)
    image[0, :, 96:] = noise(1, 64, 32, 0)[0]

    def texture(candidates: int) -> float:
        generator = np.random.default_rng(1)
        clips = (_choose_crop(image, np.zeros((1, 2), np.int64), 32, candidates, generator) for _ in range(40))
        return float(np.mean([clip.std() for clip in clips]))

    assert texture(3) > 1.5 * texture(1)


@pytest.mark.parametrize("is_upright, expected", [(False, set(range(8))), (True, {0, 1})])
def test_flips_give_all_eight_views_or_two_upright_ones(is_upright: bool, expected: set[int]) -> None:
    clip = noise(2, 6, 6, 0)
    generator = np.random.default_rng(0)
    views: list[Callable[[Pixels], Any]] = [
        lambda frame, turns=turns, mirror=mirror: np.rot90(frame[:, ::-1] if mirror else frame, turns)  # type: ignore[misc]
        for turns in range(4)
        for mirror in (False, True)
    ]
    seen = set()
    for _ in range(60):
        flipped = _flip(clip, is_upright, generator)
        matches = [n for n, view in enumerate(views) if all(map(np.array_equal, flipped, map(view, clip)))]
        assert len(matches) == 1
        seen.update(matches)
    assert seen == expected


def test_upright_clips_are_not_turned(tmp_path: Path, cache: Path) -> None:
    """Light above, dark below: this stays so with `upright`, and changes without."""
    image = np.full((32, 32, 3), 30, np.uint8)
    image[:16] = 220
    item = Item(write_still(tmp_path / "sky.png", image), "still", "sky", "A")
    for is_upright in (True, False):
        source = Batches(tiny_recipe(data=replace(DATA, upright=is_upright), degradation=CLEAN), [item], cache, None)
        is_unchanged = [bool((clip[:, 8] > 200).all() and (clip[:, 24] < 50).all()) for clip in truths(source, 8)]
        assert all(is_unchanged) == is_upright


def test_text_is_written_on_stills(tmp_path: Path, cache: Path) -> None:
    item = Item(write_still(tmp_path / "gray.png", np.full((96, 96, 3), 128, np.uint8)), "still", "gray", "A")
    for share, expected in ((0.0, 0), (1.0, 8)):
        data = replace(DATA, text_share=share, texture_choice_share=1.0)
        source = Batches(tiny_recipe(data=data, degradation=CLEAN), [item], cache, None)
        written = sum(clip.std() > 5 for clip in truths(source, 4))
        assert written == expected
