"""Training pictures of the face detector: boxes and points stay where the face is, whatever happens to the picture."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.tiny_faces import COLOURS, RECIPE, Pixels, draw, face_folder
from vidsr.errors import InputError
from vidsr.train.dataset import Item, find_footage
from vidsr.train.detector import composition as face_scenes
from vidsr.train.detector.augment import MIRRORED, REDUCTIONS, Move, spoil, visible_shares, warp, window_of
from vidsr.train.detector.composition import Pools, SceneMaker
from vidsr.train.detector.labels import Faces, Scene, read_labels
from vidsr.train.detector.recipe import DetectorDataConfig
from vidsr.train.detector.targets import FaceBatches

SIZE = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("faces") / "data"
    data.mkdir()
    return face_folder(data)


@pytest.fixture(scope="module")
def scenes(folder: Path) -> list[Scene]:
    return read_labels(folder.parent / "face-labels.json", folder, find_footage(folder, ("A",)))


def one_face() -> tuple[Pixels, Faces]:
    picture = np.zeros((160, 140, 3), np.uint8)
    label = draw(picture, (30, 24, 72, 96))
    return picture, Faces(np.array([label["box"]]), np.array([label["landmarks"]]), np.array([True]))


def is_coloured(pixel: Pixels, colour: tuple[int, int, int]) -> bool:
    """Whether a pixel has a dot's colour, lighter, darker or paler."""
    wanted = np.array(colour) > 0
    return int(pixel[wanted].min()) - int(pixel[~wanted].max()) > 30


def random_move(seed: int) -> Move:
    random = np.random.default_rng(seed)
    target = (float(random.uniform(60, 140)), float(random.uniform(60, 140)))
    scale = float(np.exp(random.uniform(np.log(0.45), np.log(1.6))))
    return Move((66.0, 72.0), target, scale, float(random.uniform(-0.5, 0.5)), bool(seed % 2))


@pytest.mark.parametrize("seed", range(30))
def test_points_and_box_move_with_the_picture(seed: int) -> None:
    picture, faces = one_face()
    move = random_move(seed)
    moved = warp(picture, move, (0, 0, SIZE, SIZE), REDUCTIONS[seed % len(REDUCTIONS)])
    result = move.faces(faces)
    for k, (x, y) in enumerate(result.landmarks[0]):
        if 1 <= x < SIZE - 1 and 1 <= y < SIZE - 1:
            assert is_coloured(moved[int(y), int(x)], COLOURS[MIRRORED[k] if move.mirrored else k])
    assert result.landmarks[0, 0, 0] < result.landmarks[0, 1, 0], "the first eye is the left one in the picture"
    if visible_shares(result, SIZE, SIZE)[0] > 0.999:
        rows, columns = np.nonzero(moved.max(axis=2) > 100)
        seen = np.array([columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1])
        middle = result.boxes[0, :2] + result.boxes[0, 2:] / 2
        assert np.abs(middle - seen[:2] - seen[2:] / 2).max() < 1.0
        assert np.abs(result.boxes[0, 2:] - seen[2:]).max() < 2.0 + move.scale, "OpenCV draws a pixel more around"


@pytest.mark.parametrize("seed", range(6))
def test_a_window_is_a_part_of_the_whole(seed: int) -> None:
    picture, _ = one_face()
    move = random_move(seed)
    whole = warp(picture, move, (0, 0, SIZE, SIZE), cv2.INTER_AREA)
    left, top, right, bottom = window_of(picture, move, SIZE, SIZE)
    part = warp(picture, move, (left, top, right, bottom), cv2.INTER_AREA)
    assert np.abs(part.astype(int) - whole[top:bottom, left:right]).max() <= 2
    outside = whole.copy()
    outside[top:bottom, left:right] = 0
    assert not outside.any()


def test_a_move_there_and_back() -> None:
    move = Move((3.0, 4.0), (10.0, 20.0), 2.0, 0.4, True)
    assert move.points(np.array([3.0, 4.0])) == pytest.approx([10, 20])
    turned = Move((0.0, 0.0), (0.0, 0.0), 3.0, math.pi / 2).points(np.array([1.0, 0.0]))
    assert turned == pytest.approx([0, 3]), "clockwise in the picture"


@pytest.mark.parametrize("seed", range(25))
def test_labels_of_whole_scenes_lie_on_the_faces(
    scenes: list[Scene], tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face_scenes, "spoil", lambda picture, _smallest, _generator: picture)
    config = DetectorDataConfig(
        least_side=30, share_background=0, share_single=1, share_occluded=0, share_margin=0, share_cut_out=0.5
    )
    picture, faces = SceneMaker(config, Pools.of(scenes), tmp_path).make(160, np.random.default_rng(seed))
    assert len(faces) == 1
    hits = 0
    for k, (x, y) in enumerate(faces.landmarks[0]):
        if 1 <= x < 159 and 1 <= y < 159:
            pixel = picture[int(y), int(x), ::-1]
            assert is_coloured(pixel, COLOURS[k]) or is_coloured(pixel, COLOURS[MIRRORED[k]])
            hits += 1
    assert hits >= 2


def test_what_is_hidden_is_no_longer_asked_for_and_then_gone() -> None:
    faces = Faces(np.array([[10.0, 10, 40, 40]]), np.zeros((1, 5, 2)), np.array([True]))
    weight = np.zeros((100, 100), np.float32)
    for last, sure in ((20, [True]), (35, [False]), (48, [])):
        weight[:last] = 1
        assert face_scenes._covered(faces, weight).is_sure.tolist() == sure


def test_what_is_cut_off_is_no_longer_asked_for_and_then_gone() -> None:
    boxes = np.array([[-10.0, 0, 40, 40], [-20, 0, 40, 40], [-36, 0, 40, 40], [60, 60, 40, 40]])
    faces = Faces(boxes, np.zeros((4, 5, 2)), np.ones(4, bool))
    assert visible_shares(faces, 100, 100) == pytest.approx([0.75, 0.5, 0.1, 1])
    assert face_scenes._seen(faces, 100).is_sure.tolist() == [True, False, True]


@pytest.mark.parametrize("seed", range(12))
def test_spoilt_pictures_keep_their_size_and_their_place(seed: int) -> None:
    picture = np.zeros((96, 128, 3), np.uint8)
    cv2.circle(picture, (80, 40), 20, (200, 200, 200), -1)
    before = picture.copy()
    after = spoil(picture, 40.0, np.random.default_rng(seed))
    assert after.shape == picture.shape and after.dtype == np.uint8
    assert np.array_equal(picture, before), "it is the caller's"
    middle, corner = after[34:46, 74:86].astype(float).mean(), after[70:, :40].astype(float).mean()
    assert middle > corner + 25


def test_a_batch_is_a_function_of_its_number(scenes: list[Scene], tmp_path: Path) -> None:
    batches = FaceBatches(RECIPE, scenes, tmp_path)
    sizes = set()
    for index in range(6):
        first, again = batches[index], batches[index]
        assert all(bool((a == b).all()) for a, b in zip(first, again, strict=True))
        count, _, height, width = first.pictures.shape
        assert height == width and count == RECIPE.data.pixels // height**2
        assert first.owners.shape == (count, (height // 8) ** 2 + (height // 16) ** 2 + (height // 32) ** 2)
        assert int(first.owners.max()) < first.faces.shape[1]
        sizes.add(height)
    assert sizes == set(RECIPE.data.sizes)
    assert not bool((batches[0].pictures == batches[1].pictures[:1, :, :1, :1]).all())


def test_small_faces_are_not_asked_for(scenes: list[Scene], tmp_path: Path) -> None:
    maker = SceneMaker(replace(RECIPE.data, least_side=12.0), Pools.of(scenes), tmp_path)
    for seed in range(20):
        _, faces = maker.make(96, np.random.default_rng(seed))
        assert (faces.sides[faces.is_sure] >= 12.0).all()


def test_labels_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    items = find_footage(folder, ("A",))
    with pytest.raises(InputError, match=r"are missing: make them with 'python -m benchmarks.training\.label_faces"):
        read_labels(tmp_path / "none.json", folder, items)
    table = json.loads((folder.parent / "face-labels.json").read_text())
    del table["eve.png"]
    for number, text in enumerate(("{", "[]", json.dumps(table), '{"anna.avi": [{"frame": 0}]}')):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        with pytest.raises(InputError, match="cannot use the labels"):
            read_labels(path, folder, items)


def test_unsure_labels_are_not_asked_for(folder: Path, tmp_path: Path) -> None:
    items = [item for item in find_footage(folder, ("A",)) if item.path.stem == "anna"]
    table = json.loads((folder.parent / "face-labels.json").read_text())
    table["anna.avi"][0]["faces"][0]["score"] = 0.79
    (tmp_path / "labels.json").write_text(json.dumps(table))
    found = read_labels(tmp_path / "labels.json", folder, items)
    assert [(scene.frame, scene.faces.is_sure.tolist()) for scene in found] == [(0, [False]), (2, [True])]


def test_pictures_without_faces_or_without_anything_else_are_not_enough(scenes: list[Scene]) -> None:
    people = [scene for scene in scenes if len(scene.faces)]
    for some in (people, [scene for scene in scenes if not len(scene.faces)]):
        with pytest.raises(InputError, match="a face detector needs"):
            Pools.of(some)
    doubtful = [Scene(Item(Path("a"), "faces", "a", "A"), 0, Faces.none())]
    assert len(Pools.of([*scenes, *doubtful]).people) == len(Pools.of(scenes).people)


def test_clutter_is_drawn_and_what_it_hides_is_no_longer_asked_for() -> None:
    hidden = 0
    for seed in range(20):
        canvas = np.zeros((160, 160, 3), np.uint8)
        faces = Faces(np.array([[70.0, 70, 20, 20]]), np.zeros((1, 5, 2)), np.array([True]))
        left = face_scenes._clutter(canvas, faces, np.random.default_rng(seed))
        assert canvas.any()
        share = float(canvas[70:90, 70:90].any(axis=2).mean())
        assert share < 0.5 or left.is_sure.tolist() != [True]
        assert share > 0.3 or left.is_sure.tolist() == [True]
        hidden += share > 0.5
    assert hidden
