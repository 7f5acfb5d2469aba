"""The faces' table: scenes are what they say, boxes are cut where they are, changes of number are counted."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from benchmarks.faces.detection import MIN_SIDE, recall_figures
from benchmarks.faces.identities import by_box, by_column
from benchmarks.faces.scenes import (
    Insert,
    Walker,
    compose,
    enlarged,
    paste,
    side_by_side,
    soft_border,
    soft_ellipse,
    to_and_fro,
    walk,
)
from benchmarks.faces.scores import RIM, BorderFlicker, Box, Figure, followed, sized, switches, table
from benchmarks.faces.sheets import PART, around, rim_points
from vidsr.evaluation.detection import ImageResult
from vidsr.types import Face


def noise(frames: int, height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def face(left: float, top: float, side: float, track: int) -> Face:
    return Face((left, top, side, side), ((0.0, 0.0),) * 5, 0.9, track)


@pytest.mark.parametrize("length", [1, 2, 3, 7])
def test_a_clip_played_to_and_fro_never_jumps(length: int) -> None:
    order = to_and_fro(20, length)
    assert order[:length] == list(range(length))
    assert set(order) == set(range(length))
    assert all(abs(a - b) == (length > 1) for a, b in pairwise(order))


def test_clips_side_by_side_keep_their_pixels() -> None:
    short, long = noise(3, 8, 10, 1), noise(5, 8, 10, 2)
    both = side_by_side([short, long])
    assert both.shape == (5, 8, 20, 3)
    assert np.array_equal(both[:, :, 10:], long)
    assert np.array_equal(both[:, :, :10], short[[0, 1, 2, 1, 0]])


def test_an_insert_is_itself_further_in_than_its_border_and_the_background_outside() -> None:
    behind, clip = noise(6, 40, 60, 3), noise(4, 16, 20, 4)
    insert = Insert("clip", 10, 5, (2, -1))
    for index, image in enumerate(compose(iter(behind), [clip], [insert], 3)):
        left, top = insert.corner(index)
        assert (left, top) == (10 + 2 * index, 5 - index)
        shown = clip[to_and_fro(6, 4)[index]]
        inner = image[top + 3 : top + 13, left + 3 : left + 17]
        assert np.array_equal(inner, shown[3:13, 3:17])
        outside = np.ones((40, 60), bool)
        outside[top : top + 16, left : left + 20] = False
        assert np.array_equal(image[outside], behind[index][outside])


def test_the_border_falls_evenly_and_is_softest_at_the_edge() -> None:
    mask = soft_border(9, 11, 3)[..., 0]
    assert mask[4].tolist() == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert np.array_equal(mask, mask[::-1, ::-1])
    canvas = np.zeros((9, 11, 3), np.uint8)
    paste(canvas, np.full((9, 11, 3), 200, np.uint8), soft_border(9, 11, 3), 0, 0)
    assert canvas[4, :, 0].tolist() == [50, 100, 150, 200, 200, 200, 200, 200, 150, 100, 50]


@pytest.mark.parametrize(("left", "top"), [(-5, -3), (25, 18), (-40, 0), (0, 50)])
def test_what_lies_outside_the_canvas_is_cut_off(left: int, top: int) -> None:
    image, canvas = noise(1, 10, 12, 5)[0], noise(1, 20, 30, 6)[0]
    wanted = canvas.copy()
    for y in range(10):
        for x in range(12):
            if 0 <= y + top < 20 and 0 <= x + left < 30:
                wanted[y + top, x + left] = image[y, x]
    paste(canvas, image, np.ones((10, 12, 1), np.float32), left, top)
    assert np.array_equal(canvas, wanted)


@pytest.mark.parametrize(("height", "width"), [(50, 120), (80, 90)])
def test_a_background_fills_the_scene_without_stretching(height: int, width: int) -> None:
    ramp = np.zeros((2, height, width, 3), np.uint8)
    ramp[:, :, :, 0], ramp[:, :, :, 1] = np.arange(width) * 2, np.arange(height)[:, None] * 2
    images = list(enlarged(ramp, 320, 160, 3))
    assert [image.shape for image in images] == [(160, 320, 3)] * 3
    across = images[0][80, 1:, 0].astype(int) - images[0][80, :-1, 0]
    down = images[0][1:, 160, 1].astype(int) - images[0][:-1, 160, 1]
    assert across[20:-20].mean() == pytest.approx(down[20:-20].mean(), rel=0.05)


def test_walkers_boxes_are_where_their_pictures_are() -> None:
    clip = noise(3, 20, 20, 7)
    walker = Walker(list(clip), np.array([[5.0, 4, 9, 10]] * 3), (30, 40), (90, 40))
    behind = [np.zeros((80, 120, 3), np.uint8)] * 4
    for index, (image, truth) in enumerate(walk(behind, [walker])):
        left, top = 20 + 20 * index, 30
        assert truth.tolist() == [[left + 5, top + 4, 9, 10]]
        shown = clip[to_and_fro(4, 3)[index]]
        assert np.array_equal(image[top + 8 : top + 12, left + 8 : left + 12], shown[8:12, 8:12])
    ellipse = soft_ellipse(20, 20)[..., 0]
    assert ellipse[10, 10] == 1 and ellipse[0, 0] == 0 and np.array_equal(ellipse, ellipse.T)


def test_a_box_is_cut_where_it_says() -> None:
    image = torch.arange(600).view(1, 20, 30)
    box = Box.around(10.5, 8.0, 5, 4)
    assert (box.left, box.top, box.right, box.bottom) == (8, 6, 13, 10)
    assert torch.equal(box.cut(image), image[:, 6:10, 8:13])
    assert sized(box, 2.0) in (Box(5, 4, 15, 12), Box(6, 4, 16, 12))
    assert Box(-3, -2, 40, 10).within(30, 20) == Box(0, 0, 30, 10)
    with pytest.raises(ValueError, match="outside"):
        Box(-1, 0, 5, 5).cut(image)


def test_boxes_that_follow_a_face_keep_their_size_and_lose_the_jitter() -> None:
    steps = np.arange(21)
    jitter = np.where(steps % 2, 1.0, -1.0)
    raw = np.stack([10.0 + 3 * steps + jitter, 20 + jitter, 40 - 2 * jitter, 50 + 0 * steps], axis=1)
    raw[0] += -25, -25, 50, 50
    boxes = followed(raw)
    assert (boxes[0].right - boxes[0].left, boxes[0].bottom - boxes[0].top) == (42, 50)
    assert len({(box.right - box.left, box.bottom - box.top) for box in boxes}) == 1
    lefts = [box.left for box in boxes][5:-5]
    assert all(3 - 1 <= b - a <= 3 + 1 for a, b in pairwise(lefts))
    assert {box.top for box in boxes} <= {19, 20, 21}


def test_border_flicker_is_the_mean_change_of_the_error_in_the_rim() -> None:
    random = np.random.default_rng(8)
    truth, result = (torch.from_numpy(random.integers(0, 256, (4, 3, 60, 70), np.uint8)) for _ in range(2))
    boxes = [Box(20 + t, 15, 44 + t, 41) for t in range(4)]
    meter = BorderFlicker()
    for t in range(4):
        meter.step(truth[t], result[t], boxes[t])
    total, count = 0.0, 0
    error = result.double() - truth.double()
    for t in range(1, 4):
        outer, inner = sized(boxes[t], RIM[1]), sized(boxes[t], RIM[0])
        for y in range(60):
            for x in range(70):
                in_outer = outer.left <= x < outer.right and outer.top <= y < outer.bottom
                in_inner = inner.left <= x < inner.right and inner.top <= y < inner.bottom
                if in_outer and not in_inner:
                    total += float((error[t, :, y, x] - error[t - 1, :, y, x]).abs().sum())
                    count += 3
    assert meter.flush() == pytest.approx(total / count)


def test_what_stays_the_same_does_not_flicker() -> None:
    truth, box = torch.from_numpy(noise(3, 40, 40, 9)).permute(0, 3, 1, 2), Box(10, 10, 30, 30)
    meter = BorderFlicker()
    for frame in truth:
        meter.step(frame // 2, frame // 2 + 7, box)
    assert meter.flush() == 0


def test_switches_are_new_numbers_and_numbers_that_pass_on() -> None:
    assert switches([[(0, 1), (1, 2)], [], [(0, 1)], [(0, 1), (1, 2)]]) == 0
    assert switches([[(0, 1)], [], [(0, 3)], [(0, 3)]]) == 1
    assert switches([[(0, 1), (1, 2)], [(0, 2), (1, 1)], [(0, 2), (1, 1)]]) == 2
    assert switches([[(0, 1)], [(1, 1)]]) == 1


def test_people_are_known_by_place() -> None:
    faces = (face(10, 10, 20, 4), face(120, 5, 30, 5), face(150, 5, 10, 6))
    assert sorted(by_column(faces, 100)) == [(0, 4), (1, 5)]
    truth = np.array([[120.0, 5, 32, 32], [12.0, 10, 20, 20]])
    assert sorted(by_box(faces, truth)) == [(0, 5), (1, 4)]
    assert by_box(faces, np.array([[120.0, 5, 32, 32], [122.0, 5, 32, 32]])) == []
    assert by_box((face(300, 10, 20, 7),), truth) == []


def test_recall_is_met_only_with_precision() -> None:
    def judged(hits: int, false: int, wanted: int) -> list[ImageResult]:
        is_hit = np.arange(hits + false) < hits
        return [ImageResult(wanted, np.full(hits + false, 0.9), is_hit, ~is_hit, np.where(is_hit, 0.05, np.nan))]

    good = next(recall_figures("set", (judged(96, 2, 100), judged(100, 0, 100)), 0.95))
    assert good.is_met and good.value == pytest.approx(0.96)
    assert next(recall_figures("set", (judged(96, 20, 100), judged(100, 0, 100)), 0.95)).is_met is False
    assert next(recall_figures("set", (judged(94, 0, 100), judged(100, 0, 100)), 0.95)).is_met is False
    assert MIN_SIDE == 20


def test_the_table_says_what_is_met() -> None:
    text = table([Figure("a", "b", 1.0, "1", "<= 2", True), Figure("c", "d", 3.0, "3", "<= 2", False)])
    assert text.splitlines()[2:] == ["| a | b | 1 | <= 2 | met |", "| c | d | 3 | <= 2 | MISSED |"]


def test_pieces_of_the_border_lie_on_it_and_in_the_picture() -> None:
    box = Box(60, 70, 160, 190)
    for x, y in rim_points(box):
        piece = around(x, y, 256, 256)
        assert piece == piece.within(256, 256) and piece.right - piece.left == PART
        assert piece.left <= x <= piece.right and piece.top <= y <= piece.bottom
