"""Formulas of defect detection against hand-computed and float64 values, and drawn films and pages with known truth."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vidsr.defects import page
from vidsr.defects.blocks import (
    axes_of_moments,
    block_statistics,
    color_difference,
    ellipse_axes,
    severity,
    valley_threshold,
)  # fmt: skip
from vidsr.defects.dust import LARGEST_SHARE, MANY_MOVE, MAX_REPEATS, NO_TRUST, TOO_MUCH, DustStage
from vidsr.defects.film import (
    CONTINUATION,
    FEATURES,
    REACH,
    FilmDetector,
    Region,
    candidates,
    compensate,
    continued,
    describe,
    excess,
    merged,
    residual,
)
from vidsr.defects.film import built_in_tree as film_tree
from vidsr.defects.matching import corrected, match_maps, path_match
from vidsr.defects.matching import tint as matching_tint
from vidsr.defects.motion import Look, Motion, flicker, smoothed_within, warp
from vidsr.defects.repair import (
    LARGEST_ERROR,
    LARGEST_FILL_ERROR,
    LARGEST_INCONSISTENCY,
    LEAST_MATCH,
    LEAST_PATH,
    Patch,
    is_safe,
    paste,
)
from vidsr.defects.scratches import BANDS, LEAST_FRAMES, Line, ScratchFinder, bridge, coverage, line_strength
from vidsr.defects.tree import LEAF, load_tree, parse_tree, text_hash
from vidsr.errors import ModelError
from vidsr.stages.base import through
from vidsr.types import Defect, Frame

Array = NDArray[Any]
HEIGHT, WIDTH = 192, 256


def test_block_statistics_are_those_of_the_equations() -> None:
    lab = np.zeros((2, 2, 3))
    lab[0, 0] = (8, 0, 0)
    lab[1, 1] = (0, 4, 0)
    mean = np.array([2.0, 1.0, 0.0])
    distance = [np.hypot(8 - 2, 1), np.hypot(2, 1), np.hypot(2, 1), np.hypot(2, 3)]
    found = block_statistics(lab)
    assert found.mde == pytest.approx(np.mean(distance))
    assert found.dde == pytest.approx(np.std(distance, ddof=1))
    assert found.mdl == pytest.approx((6 + 2 + 2 + 2) / 4)
    assert found.ddl == pytest.approx(np.sqrt((3**2 + 1 + 1 + 1) / 3))
    assert np.allclose(color_difference(lab).ravel(), distance) and np.allclose(lab.mean((0, 1)), mean)


def test_valley_emphasis_tries_every_threshold() -> None:
    random = np.random.default_rng(4)
    for _ in range(5):
        values = np.concatenate([random.normal(90, 9, 300), random.normal(170, 12, 40)]).round().astype(int)
        best, where = -1.0, 0
        for level in range(int(values.min()), int(values.max())):
            low, high = values[values <= level], values[values > level]
            share = len(low) / len(values)
            score = (1 - (values == level).mean()) * (share * low.mean() ** 2 + (1 - share) * high.mean() ** 2)
            if score > best + 1e-9:
                best, where = score, level
        assert valley_threshold(values) == where
    assert valley_threshold(np.full(9, 7)) == 7  # class 2 is empty


def test_axes_of_a_disk_and_of_a_turned_rectangle() -> None:
    y, x = np.mgrid[-20:21, -20:21]
    assert np.allclose(ellipse_axes(np.hypot(x, y) <= 12), 24, atol=0.3)
    bar = (abs(x + y) <= 12 * np.sqrt(2)) & (abs(x - y) <= 3 * np.sqrt(2))  # 24 x 6, turned by 45 degrees
    expected = 4 * 24 / np.sqrt(12), 4 * 6 / np.sqrt(12)
    assert ellipse_axes(np.ones((24, 6), bool)) == pytest.approx(expected)
    assert ellipse_axes(bar) == pytest.approx(expected, rel=0.1)
    assert ellipse_axes(np.ones((1, 1), bool)) == pytest.approx((2 / np.sqrt(3), 2 / np.sqrt(3)))
    assert axes_of_moments(4.0, 1.0, 0.0) == pytest.approx((4 * np.sqrt(49 / 12), 4 * np.sqrt(13 / 12)))


def test_severity_is_the_ratio_of_sums() -> None:
    difference = np.array([[6.0, 1.0], [2.0, 1.0]])
    assert severity(difference, np.array([[True, False], [False, False]])) == 1.5
    assert severity(difference, np.ones((2, 2), bool)) == np.inf


def test_a_tree_asks_and_answers() -> None:
    text = "a <= 2\n  0.1\n  b <= -1.5e-1\n    0.9\n    0.4"
    tree = parse_tree(text, ("a", "b"), 0.5)
    samples = np.array([[2.0, 0.0], [2.1, -0.15], [3.0, 0.0]])
    assert tree.probability(samples).tolist() == [0.1, 0.9, 0.4]
    assert tree.decide(samples).tolist() == [False, True, False]
    assert tree.feature.tolist() == [0, LEAF, 1, LEAF, LEAF]
    assert tree.decide(np.zeros((0, 2))).tolist() == []


@pytest.mark.parametrize(
    "text",
    ["", "c <= 1\n  0\n  1", "a <= 1\n  0", "a <= 1\n  0\n 1", "0\n0", "a < 1\n  0\n  1", "a <= nan\n  0\n  1", "  0"],
)
def test_a_text_that_is_no_tree_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="decision tree"):
        parse_tree(text, ("a", "b"), 0.5)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=2))
def test_a_tree_agrees_with_plain_conditions(sample: list[float]) -> None:
    tree = parse_tree("a <= 0\n  b <= 1\n    0.2\n    0.8\n  0.6", ("a", "b"), 0.5)
    a, b = sample
    expected = (0.2 if b <= 1 else 0.8) if a <= 0 else 0.6
    assert tree.probability(np.array([sample]))[0] == expected


@pytest.mark.parametrize(("name", "features"), [("film", FEATURES), ("page", page.FEATURES)])
def test_the_shipped_trees_are_what_their_files_say(name: str, features: tuple[str, ...]) -> None:
    tree = load_tree(name, features)
    assert tree.features == features and (tree.feature == LEAF).sum() >= 4
    with pytest.raises(ModelError, match="other features"):
        load_tree(name, features[:-1])


def test_a_tree_that_was_changed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vidsr.defects.tree.text_hash", lambda text: text_hash(text + "#"))
    with pytest.raises(ModelError, match="SHA-256"):
        load_tree("film", FEATURES)


def test_residual_and_excess() -> None:
    image = np.array([[50.0, 50.0, 50.0]], np.float32)
    before, after = np.array([[40, 60, 45]], np.float32), np.array([[30, 58, 55]], np.float32)
    assert residual(image, before, after).tolist() == [[10, -8, 0]]
    # The range of 3 x 3 pixels of both: 30..60, 30..60, 45..60.
    assert excess(image, before, after).tolist() == [[-10, -10, -5]]


def test_flicker_is_found_and_taken_out() -> None:
    random = np.random.default_rng(1)
    image = cv2.GaussianBlur(random.uniform(0, 255, (HEIGHT, WIDTH)).astype(np.float32), (0, 0), 4)
    image = np.asarray(cv2.normalize(image, None, 20, 230, cv2.NORM_MINMAX), np.float32)
    dimmed = image / np.float32(1.2)
    dimmed[40:46, 40:46] = 255  # an outlier
    gain, local = flicker(image, dimmed)
    assert gain == pytest.approx(1.2, abs=0.02)
    rest = np.abs(image - (gain * dimmed + local))
    rest[36:50, 36:50] = 0
    assert rest.max() < 4


def test_flow_is_filled_from_around() -> None:
    flow = np.full((20, 30, 2), (3.0, -1.0), np.float32)
    hole = np.zeros((20, 30), bool)
    hole[8:12, 10:16] = True
    flow[hole] = 50
    filled = smoothed_within(flow, hole, 6)
    assert np.allclose(filled, (3, -1), atol=1e-4) and np.array_equal(filled[~hole], flow[~hole])


def test_motion_is_followed_and_consistent() -> None:
    first, second = (Look.of(gray(scene(shift))) for shift in (0, 3))
    motion = Motion.between(first, second)
    inner = np.s_[20:-20, 20:-20]
    assert abs(float(np.median(motion.forth[..., 0][inner])) + 3) < 0.3
    assert float(np.median(motion.inconsistency()[inner])) < 0.3
    error = np.abs(warp(second.smooth, motion.forth) - first.smooth)[inner]
    assert float(np.median(error)) < 3


def test_pasting_changes_nothing_outside() -> None:
    image = np.random.default_rng(2).uniform(0, 1, (12, 12, 3)).astype(np.float32)
    opacity = np.zeros((4, 4), np.float32)
    opacity[1, 1:3] = (1.0, 0.5)
    result = image.copy()
    paste(result, [Patch(3, 5, np.ones((4, 4, 3), np.float32), opacity)])
    assert result[6, 4].tolist() == [1, 1, 1] and np.allclose(result[6, 5], (image[6, 5] + 1) / 2)
    result[6, 4:6] = image[6, 4:6]
    assert np.array_equal(result, image)


def test_what_a_neighbor_shows_nearby_is_matched() -> None:
    """A blob that has moved by 12 pixels matches itself; one that is gone, or was there all the time, does not."""

    def look(place: tuple[int, int] | None) -> Look:
        image = np.full((HEIGHT, WIDTH), 100, np.float32)
        if place is not None:
            cv2.circle(image, place, 4, 220, cv2.FILLED)
        return Look.of(image.astype(np.uint8))

    still = Motion(*[np.zeros((HEIGHT, WIDTH, 2), np.float32)] * 2)
    frame = look((100, 60))
    for around, expected in (((88, 60), (112, 60)), (0, 0)), ((None, (112, 62)), (1, 0)), ((None, None), (1, 1)):
        neighbors = look(around[0]), look(around[1])
        moved = compensate(frame, neighbors[0], still), compensate(frame, neighbors[1], still)
        (region,) = candidates(frame, neighbors, moved)
        assert abs(region.center[0] - 100) < 1 and abs(region.center[1] - 60) < 1 and region.is_light
        found = dict(zip(FEATURES, region.features, strict=True))
        assert found["match_both"] == pytest.approx(max(expected), abs=0.05)
        assert found["match_one"] == pytest.approx(min(expected), abs=0.05)
        assert found["contrast"] > 80 and found["disagreement"] < 0.01 and found["fill_error"] < 0.01
        assert 0.6 < found["size"] / (np.pi * 4.5**2) < 1.7


def test_a_correction_finds_the_shift_that_optical_flow_missed() -> None:
    random = np.random.default_rng(3)
    wide = cv2.GaussianBlur(random.uniform(0, 255, (60, 80)).astype(np.float32), (0, 0), 2)
    flow, ground = np.zeros((30, 40, 2), np.float32), np.ones((30, 40), bool)
    block = np.asarray(warp(wide, flow + np.array([2.3, -1.6], np.float32), 20, 15), np.float32)
    damaged = block.copy()
    damaged[10:18, 12:22] = 255
    ground[8:20, 10:24] = False
    found = corrected(damaged, wide, flow, (20, 15), ground)
    assert np.allclose(found, (2.3, -1.6), atol=0.2)
    # Nothing fits better than no motion at all: the flow stays as it is.
    assert corrected(block, wide, found, (20, 15), ground) is found
    assert corrected(damaged, wide, flow, (20, 15), np.zeros_like(ground)) is flow


def test_a_path_passes_through_opposite_places() -> None:
    template = np.zeros((5, 5), np.float32)
    template[1:4, 1:4] = 10
    reach = 32

    def area(x: int, y: int) -> Array:
        plane = np.zeros((5 + 2 * reach,) * 2, np.float32)
        plane[reach + y + 1 : reach + y + 4, reach + x + 1 : reach + x + 4] = 10
        return plane

    for before, after, expected in (((-9, 4), (10, -3), 0), ((-9, 4), (-9, 4), 1), ((0, -24), (2, 30), 0)):
        maps = match_maps(template, [area(*before), area(*after)])
        assert [float(each.min()) for each in maps] == pytest.approx([0, 0], abs=1e-5)
        for (x, y), each in zip((before, after), maps, strict=True):
            assert np.unravel_index(each.argmin(), each.shape) == (reach + y, reach + x)
        assert (path_match(*maps) < 0.05) == (expected == 0)
    gone = match_maps(template, [np.zeros((69, 69), np.float32)])[0]
    assert np.allclose(gone, 1) and path_match(gone, gone) == pytest.approx(1)


def test_dirt_takes_color_away_and_adds_none() -> None:
    grass, gray_ = np.array([-20.0, -60.0]), np.zeros(2)
    assert matching_tint(0.4 * grass, grass, 50) == pytest.approx(0)  # dirt that covers 60 %
    assert matching_tint(gray_, gray_, 50) == 0
    assert matching_tint(np.array([30.0, -40.0]), gray_, 50) == pytest.approx(1)
    assert matching_tint(1.5 * grass, grass, 50) == pytest.approx(np.hypot(10, 30) / 50)  # greener than before
    assert matching_tint(-grass, grass, 50) == pytest.approx(np.hypot(20, 60) / 50)  # no dirt takes more than all


def test_pieces_beside_a_defect_belong_to_it() -> None:
    def piece(left: int, probability: float, is_light: bool = True) -> Region:
        mask = np.ones((3, 10), bool)
        return Region(
            left, 40, mask, is_light, (left + 4.5, 41), 1.0, 30.0, (10, 3), np.zeros(len(FEATURES)), probability
        )

    row = [piece(10, 0.95), piece(10 + 10 + REACH - 1, 0.4), piece(34, 0.5), piece(34, 0.5, False), piece(50, 0.1)]
    far = piece(90, 0.6)
    found = continued([*row, far], 0.7, (96, 128), 1.0)
    assert [(each.left, each.probability) for each in found] == [
        (10, pytest.approx(0.95)), (25, pytest.approx(0.95)), (34, pytest.approx(0.95)),
    ]  # fmt: skip
    whole = merged(found, (96, 128))
    assert [(each.left, each.top, each.mask.shape) for each in whole] == [(10, 40, (3, 10)), (25, 40, (3, 19))]
    assert whole[1].center == (34.0, 41.0) and whole[1].axes[0] == pytest.approx(4 * 19 / np.sqrt(12))
    assert CONTINUATION > 0.1


def test_what_stands_still_while_the_image_moves_is_no_defect() -> None:
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[..., 0] = -4
    motion = Motion(flow, -flow)
    for stays in (False, True):
        images = [scene(4 * index)[..., 0].copy() for index in range(3)]
        for index, image in enumerate(images):
            if stays or index == 1:
                image[90:102, 120:124] = 255  # a stroke of a letter, or dust
        before, frame, after = (Look.of(image) for image in images)
        moved = compensate(frame, before, motion.reversed()), compensate(frame, after, motion)
        (found,) = [each for each in candidates(frame, (before, after), moved) if each.is_light and each.contrast > 40]
        assert abs(found.center[0] - 121.5) < 1 and found.is_still == stays
        always = FilmDetector(parse_tree("1", FEATURES, 0.5))
        defects = always.find(frame, (before, after), (motion.reversed(), motion)).defects
        assert any(abs(each.center[0] - 121.5) < 2 for each in defects) != stays


def test_doubtful_regions_are_not_repaired() -> None:
    features = np.zeros(len(FEATURES))
    for name in ("match_one", "path"):
        features[FEATURES.index(name)] = 1
    region = Region(9, 7, np.ones((3, 3), bool), True, (10.0, 8.0), 1.0, 50.0, (3.0, 3.0), features, 0.95)
    assert not is_safe(replace(region, probability=0.85), 40, 30)
    assert is_safe(region, 40, 30) and is_safe(region, 11, 13)
    assert not is_safe(region, 10, 30) and not is_safe(region, 40, 12) and not is_safe(replace(region, top=0), 40, 30)
    for name, limit in (("inconsistency", LARGEST_INCONSISTENCY), ("motion_error", LARGEST_ERROR)):
        features[FEATURES.index(name)] = 1.01 * limit
        assert not is_safe(region, 40, 30)
        features[FEATURES.index(name)] = limit
    assert is_safe(region, 40, 30)
    features[FEATURES.index("fill_error")] = 1.01 * LARGEST_FILL_ERROR
    assert not is_safe(region, 40, 30)
    features[FEATURES.index("fill_error")] = 0
    for name, limit in (("match_one", LEAST_MATCH), ("path", LEAST_PATH)):
        features[FEATURES.index(name)] = 0.99 * limit
        assert not is_safe(region, 40, 30)
        features[FEATURES.index(name)] = limit
    assert is_safe(region, 40, 30)


def test_kinds_follow_from_shape() -> None:
    def kind(mask: Array) -> str:
        axes = ellipse_axes(mask)
        return describe(Region(0, 0, mask, True, (0.0, 0.0), 1.0, 50.0, axes, np.zeros(len(FEATURES))), 1.0).kind

    y, x = np.mgrid[-30:31, -30:31]
    ring = abs(np.hypot(x, y) - 25) < 1
    assert [kind(np.hypot(x, y) < 5), kind(np.ones((2, 20), bool)), kind(ring)] == ["speck", "hair", "hair"]


# ------------------------------------------------------------------------------------------------ drawn films


def scene(shift: int, seed: int = 0) -> Array:
    """A soft texture that moves to the left: HEIGHT x WIDTH x 3, uint8."""
    random = np.random.default_rng(seed)
    wide = cv2.GaussianBlur(random.uniform(0, 255, (HEIGHT, 2 * WIDTH)).astype(np.float32), (0, 0), 3)
    wide = np.asarray(cv2.normalize(wide, None, 50, 200, cv2.NORM_MINMAX))
    return np.repeat(wide[:, shift : shift + WIDTH, None].round().astype(np.uint8), 3, axis=2)


def gray(image: Array) -> NDArray[np.uint8]:
    return np.ascontiguousarray(image[..., 0])


def film(count: int = 5, damage: dict[int, tuple[int, int, int, int]] | None = None) -> list[Frame]:
    """A moving film with grain; `damage` is (x, y, radius, level) by frame."""
    random, frames = np.random.default_rng(7), []
    for index in range(count):
        image = scene(2 * index)
        if damage and index in damage:
            x, y, radius, level = damage[index]
            cv2.circle(image, (x, y), radius, (level,) * 3, cv2.FILLED, cv2.LINE_AA)
        image = np.clip(image + random.normal(0, 2, image.shape[:2])[..., None], 0, 255).round()
        tensor = torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255)
        frames.append(Frame(tensor, 10 * index + index % 2, Fraction(1, 100), 10, starts_scene=index == 0))
    return frames


def run(frames: list[Frame], mode: Literal["report", "repair"] = "repair") -> tuple[list[Frame], DustStage]:
    stage = DustStage(mode)
    return list(through(stage, frames)), stage


SPOTS = {2: (60, 40, 4, 255), 4: (30, 60, 3, 0), 5: (90, 30, 5, 250)}


def test_specks_are_found_where_they_are_and_repaired() -> None:
    frames, clean = film(8, SPOTS), film(8)
    results, stage = run(frames)
    assert [frame.pts for frame in results] == [frame.pts for frame in frames]
    for index, (before, after, truth) in enumerate(zip(frames, results, clean, strict=True)):
        if index not in SPOTS:
            assert after.defects == () and torch.equal(after.image, before.image)
            continue
        x, y, radius, level = SPOTS[index]
        (defect,) = after.defects
        assert abs(defect.x - x) < 1.5 and abs(defect.y - y) < 1.5 and defect.is_light == (level > 128)
        assert defect.is_repaired and defect.kind == "speck"
        assert 0.5 < defect.size / (np.pi * radius**2) < 2 and abs(defect.major_axis - 2 * radius) < 3
        errors = [float((image - truth.image).square().mean()) for image in (before.image, after.image)]
        assert 10 * np.log10(errors[0] / errors[1]) > 12
        # Nothing changes farther from the speck than its margin and feather.
        columns, rows = torch.arange(WIDTH) - x, torch.arange(HEIGHT) - y
        far = torch.hypot(rows[:, None].float(), columns[None].float()) > radius + 10
        assert torch.equal(after.image[:, far], before.image[:, far])
    report = stage.report
    assert (report.specks, report.hairs, report.light, report.dark, report.repaired) == (3, 0, 2, 1, 3)
    assert [round(100 * each.seconds) for each in report.frames] == [20, 40, 51]
    assert sum(report.sizes.values()) == 3 and stage.warnings == []


def test_report_changes_nothing() -> None:
    frames = film(8, SPOTS)
    results, stage = run(frames, "report")
    assert all(a.image is b.image for a, b in zip(frames, results, strict=True))
    assert stage.report.specks == 3 and stage.report.repaired == 0 and stage.report.left == {}


def test_repeated_images_are_repaired_alike() -> None:
    frames = film(6, SPOTS)
    repeated = [
        Frame(f.image, 2 * i + j, f.time_base, 1, f.starts_scene and not j)
        for i, f in enumerate(frames)
        for j in (0, 1)
    ]
    results, stage = run(repeated)
    assert [frame.pts for frame in results] == list(range(12))
    assert [len(frame.defects) for frame in results] == [0, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0]
    assert torch.equal(results[4].image, results[5].image) and not torch.equal(results[4].image, repeated[4].image)
    assert stage.report.specks == 4


def test_memory_is_bounded_where_nothing_moves() -> None:
    frames = [Frame(film(1)[0].image, index, Fraction(1, 25), 1, index == 0) for index in range(20)]
    stage = DustStage("repair")
    state, given = stage.start(), 0
    for index, frame in enumerate(frames):
        ready, state = stage.step(frame, state)
        given += len(ready)
        assert index + 1 - given <= MAX_REPEATS
    assert given + len(stage.flush(state)) == 20


def test_nothing_is_compared_across_a_cut() -> None:
    first, second = film(3), film(3, {0: (60, 40, 4, 255)})
    frames = [*first, *second]
    results, _ = run(frames)
    assert all(torch.equal(a.image, b.image) for a, b in zip(frames, results, strict=True))


def test_what_moves_is_no_dust() -> None:
    frames = film(8)
    for index, frame in enumerate(frames):
        for start, speed in ((10, 9), (40, 7)):  # balls too fast and too small for optical flow
            x, y = start + speed * index, 30 + start
            frame.image[:, y - 3 : y + 3, x - 3 : x + 3] = 0.98
    results, stage = run(frames)
    assert stage.report.specks + stage.report.hairs <= 1
    changed = sum(int((a.image != b.image).any(0).sum()) for a, b in zip(frames, results, strict=True))
    assert changed < 300


def test_where_many_small_things_move_nothing_is_repaired() -> None:
    frames = film(5, {2: (60, 40, 4, 255)})
    for index, frame in enumerate(frames):
        for row in range(60, HEIGHT - 6, 16):
            for column in range(20, WIDTH - 60, 40):
                x = column + 9 * index
                frame.image[:, row - 2 : row + 2, x - 2 : x + 2] = 0.98
    results, stage = run(frames)
    assert all(torch.equal(a.image, b.image) for a, b in zip(frames, results, strict=True))
    assert any(abs(each.x - 60) < 2 and abs(each.y - 40) < 2 for each in results[2].defects)
    assert set(stage.report.left) <= {MANY_MOVE, TOO_MUCH} and MANY_MOVE in stage.report.left


def test_a_frame_that_would_change_too_much_is_left() -> None:
    frames, random = film(5), np.random.default_rng(3)
    while True:
        x, y = int(random.integers(8, WIDTH - 8)), int(random.integers(8, HEIGHT - 8))
        frames[2].image[:, y - 3 : y + 3, x - 3 : x + 3] = 0.99
        if int((frames[2].image[0] > 0.98).sum()) > 3 * LARGEST_SHARE * WIDTH * HEIGHT:
            break
    results, stage = run(frames)
    assert torch.equal(results[2].image, frames[2].image)
    assert results[2].defects and not any(defect.is_repaired for defect in results[2].defects)
    assert stage.report.left == {TOO_MUCH: 1} and stage.warnings == [f"defects were left in 1 frames: {TOO_MUCH}"]
    assert NO_TRUST not in stage.report.left


# ------------------------------------------------------------------------------------------------ scratches


def test_line_strength_and_coverage() -> None:
    image = np.full((BANDS * 2, 40), 100, np.float32)
    image[:, 20] += 8
    image[: BANDS // 2, 30] -= 10
    strength = line_strength(image)
    assert strength.shape == (BANDS, 40) and np.allclose(strength[:, 20], 8) and np.allclose(strength[0, 30], -10)
    light, dark = coverage(strength)
    assert light[20] == 1 and dark[30] == 0.25 and light.sum() == 1 and dark.sum() == 0.25


def with_scratch(frames: list[Frame], column: int) -> list[Frame]:
    for frame in frames:
        frame.image[:, :, column] = (frame.image[:, :, column] + 0.25).clamp(0, 1)
    return frames


def test_a_scratch_that_stays_is_found_and_bridged() -> None:
    count = LEAST_FRAMES + 4
    frames = with_scratch(film(count), 70)
    results, stage = run(frames)
    found = [[defect for defect in frame.defects if defect.kind == "scratch"] for frame in results]
    assert not any(found[: LEAST_FRAMES - 1]) and all(len(each) == 1 for each in found[LEAST_FRAMES:])
    (line,) = found[-1]
    assert line.x == 70 and line.is_light and line.height == HEIGHT and line.is_repaired
    before, after, truth = frames[-1].image, results[-1].image, film(count)[-1].image
    assert float((after - truth)[:, :, 70].abs().mean()) < 0.3 * float((before - truth)[:, :, 70].abs().mean())
    assert torch.equal(after[:, :, :60], before[:, :, :60]) and torch.equal(after[:, :, 80:], before[:, :, 80:])
    assert stage.report.scratches == sum(map(len, found))


@pytest.mark.parametrize(
    ("speed", "pole_speed", "is_scratch"),
    [(2.0, 0.0, True), (0.5, 0.0, True), (2.0, 2.0, False), (0.5, 0.5, False), (0.0, 0.0, False)],
)
def test_only_a_line_that_stays_while_the_image_moves_is_a_scratch(
    speed: float, pole_speed: float, is_scratch: bool
) -> None:
    finder, flow = ScratchFinder(), np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[..., 0] = -speed
    state, lines = finder.start(), []
    for index in range(LEAST_FRAMES + 20):
        image = scene(0)[..., 0].copy()
        column = round(70 + pole_speed * index)
        image[:, column] = np.clip(image[:, column].astype(int) + 60, 0, 255)
        lines = finder.step(Look.of(image), flow if index else None, state)
        assert index >= LEAST_FRAMES - 1 or not lines
    assert [line.column for line in lines] == ([70] if is_scratch else [])


def test_a_bridge_is_linear_between_its_sides() -> None:
    image = np.tile(np.linspace(0, 1, 30, dtype=np.float32)[None, :, None], (6, 1, 3))
    damaged = image.copy()
    damaged[:, 14:17] = 1
    patch = bridge(damaged, Line(Defect("scratch", True, 0, 0, 5, 6, 15, 2.5, 30, 6, 5, 0, 50), 15))
    assert patch is not None and patch.left == 13 and patch.changed == 30
    assert np.allclose(patch.pixels[:, 1:4], image[:, 14:17], atol=0.02)
    assert bridge(damaged, Line(Defect("scratch", True, 0, 0, 5, 6, 2, 2.5, 30, 6, 5, 0, 50), 2)) is None


# ------------------------------------------------------------------------------------------------ pages


def tint(side: int = 450, spots: tuple[tuple[int, int, int, int], ...] = ()) -> NDArray[np.uint8]:
    """A page of one tint with halftone dots and grain; spots are (x, y, radius, change of level)."""
    y, x = np.mgrid[:side, :side]
    image = np.broadcast_to(np.array([60.0, 150.0, 190.0]), (side, side, 3)).copy()
    for left, top, radius, change in spots:
        edge = np.clip(radius - np.hypot(x - left, y - top) + 0.5, 0, 1)
        image += change * edge[..., None]
    image += 20 * (np.cos(x * np.pi / 2) * np.cos(y * np.pi / 2))[..., None]
    image += np.random.default_rng(0).normal(0, 3, (side, side, 1))
    return np.clip(image.round(), 0, 255).astype(np.uint8)


def test_descreening_removes_the_halftone_and_keeps_the_mean() -> None:
    page_ = tint(150)
    smooth = page.descreen(page_)
    assert smooth.std((0, 1)).max() < 0.006 < 0.03 < (page_ / 255).std((0, 1)).min()
    assert np.allclose(smooth.mean((0, 1)), page_.mean((0, 1)) / 255, atol=1e-3)
    impulse = np.zeros((31, 31, 3), np.uint8)
    impulse[15, 15] = 255
    kernel = np.exp(-0.5 * ((np.arange(12) - 5.5) / 2) ** 2)
    assert page.descreen(impulse).max() == pytest.approx((kernel.max() / kernel.sum()) ** 2, rel=1e-5)


def test_lab_of_known_colors() -> None:
    colors = np.array([[[1, 1, 1], [0, 0, 0], [1, 0, 0]]], np.float32)
    expected = [(100, 0, 0), (0, 0, 0), (53.24, 80.09, 67.20)]
    assert np.allclose(page.to_lab(colors)[0], expected, atol=0.1)


def test_the_second_grid_is_moved_by_35_pixels() -> None:
    first, second = page.grids(160, 200)
    assert first == [(0, 0), (0, 75), (75, 0), (75, 75)]
    assert second == [(35, 35), (35, 110)]
    assert page.grids(80, 100, 300)[0] == [(0, 0), (0, 38), (38, 0), (38, 38)]


def test_masked_pixels_take_no_part_in_statistics() -> None:
    block = np.random.default_rng(0).uniform(0, 60, (20, 20, 3)).astype(np.float32)
    whole = page.masked_statistics(block, np.ones((20, 20), bool))
    plain = block_statistics(block)
    assert (whole.mdl, whole.ddl, whole.dde) == pytest.approx((plain.mdl, plain.ddl, plain.dde))
    valid = np.ones((20, 20), bool)
    valid[:8] = False
    part = block_statistics(block[8:])
    masked = page.masked_statistics(block, valid)
    assert (masked.mdl, masked.ddl, masked.dde) == pytest.approx((part.mdl, part.ddl, part.dde))


SPOTS_OF_PAGE = ((120, 100, 9, 35), (300, 320, 11, 30), (330, 90, 9, -30))


def test_spots_of_a_page_are_found_once_each() -> None:
    found = page.find_spots(tint(spots=SPOTS_OF_PAGE))
    assert sorted(spot.kind for spot in found.spots) == ["gray spot", "gray spot", "solid spot"]
    for x, y, radius, change in SPOTS_OF_PAGE:
        (spot,) = [each for each in found.spots if abs(each.x - x) < 3 and abs(each.y - y) < 3]
        assert (spot.kind == "gray spot") == (change > 0)
        assert 0.6 < spot.size / (np.pi * radius**2) < 1.8 and abs(spot.major_axis - 2 * radius) < 6
    vector = found.vector
    assert (vector.defects, vector.gray_spots, vector.solid_spots) == (3, 2, 1)
    assert vector.mean_x == pytest.approx((np.mean([120, 300, 330]) - 224.5) * 25.4 / 600, abs=0.1)
    assert page.find_spots(tint()).spots == ()


def test_masked_spots_are_not_looked_for() -> None:
    shown = np.ones((450, 450), bool)
    shown[:, 200:] = False
    assert [round(spot.x / 10) for spot in page.find_spots(tint(spots=SPOTS_OF_PAGE), shown).spots] == [12]


def test_a_page_vector_by_hand() -> None:
    spots = [
        page.Spot(kind, 0, 0, 1, 1, x, y, size, 1, 1, bad)
        for kind, x, y, size, bad in (("gray spot", 10, 0, 100, 0.1), ("solid spot", 30, 19, 300, 0.3))
    ]
    vector = page.page_vector(spots, (20, 40), 254)  # a pixel is 0.1 mm
    assert (vector.mean_size, vector.largest_size, vector.least_size) == pytest.approx((2.0, 3.0, 1.0))
    assert vector.size_deviation == pytest.approx(np.sqrt(2)) and vector.mean_severity == pytest.approx(0.2)
    assert (vector.mean_x, vector.mean_y) == pytest.approx((0.05, 0.0))
    assert page.page_vector([], (20, 40)).mean_size is None


def test_the_files_of_the_trees_are_short_enough_to_read() -> None:
    folder = Path(page.__file__).parent / "trees"
    for path in folder.glob("*.toml"):
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 400 and re.search(r'^licence = "Apache-2.0"$', text, re.MULTILINE)
    assert film_tree().cut > 0.5
