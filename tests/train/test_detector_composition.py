"""Training images of the face detector: boxes and points stay on the face under every transform."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.tiny_faces import COLORS, RECIPE, Pixels, draw, face_folder
from vidsr.errors import InputError
from vidsr.train.dataset import Item, find_training_files
from vidsr.train.detector import composition
from vidsr.train.detector.augment import (
    MIRRORED,
    REDUCTIONS,
    SimilarityTransform,
    bounds_of,
    degrade,
    visible_fractions,
    warp,
)
from vidsr.train.detector.composition import Pools, SampleComposer
from vidsr.train.detector.labels import Faces, LabeledImage, read_labels
from vidsr.train.detector.recipe import DetectorDataConfig
from vidsr.train.detector.targets import FaceBatches

SIZE = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("faces") / "data"
    data.mkdir()
    return face_folder(data)


@pytest.fixture(scope="module")
def scenes(folder: Path) -> list[LabeledImage]:
    return read_labels(folder.parent / "face-labels.json", folder, find_training_files(folder, ("A",)))


def one_face() -> tuple[Pixels, Faces]:
    image = np.zeros((160, 140, 3), np.uint8)
    label = draw(image, (30, 24, 72, 96))
    return image, Faces(np.array([label["box"]]), np.array([label["landmarks"]]), np.array([True]))


def has_color(pixel: Pixels, color: tuple[int, int, int]) -> bool:
    """Whether a pixel has a dot's color, possibly lighter, darker or paler."""
    wanted = np.array(color) > 0
    return int(pixel[wanted].min()) - int(pixel[~wanted].max()) > 30


def random_move(seed: int) -> SimilarityTransform:
    random = np.random.default_rng(seed)
    target = (float(random.uniform(60, 140)), float(random.uniform(60, 140)))
    scale = float(np.exp(random.uniform(np.log(0.45), np.log(1.6))))
    return SimilarityTransform((66.0, 72.0), target, scale, float(random.uniform(-0.5, 0.5)), bool(seed % 2))


@pytest.mark.parametrize("seed", range(30))
def test_points_and_box_move_with_the_image(seed: int) -> None:
    image, faces = one_face()
    move = random_move(seed)
    moved = warp(image, move, (0, 0, SIZE, SIZE), REDUCTIONS[seed % len(REDUCTIONS)])
    result = move.faces(faces)
    for k, (x, y) in enumerate(result.landmarks[0]):
        if 1 <= x < SIZE - 1 and 1 <= y < SIZE - 1:
            assert has_color(moved[int(y), int(x)], COLORS[MIRRORED[k] if move.mirrored else k])
    assert result.landmarks[0, 0, 0] < result.landmarks[0, 1, 0], "the first eye is the left one in the picture"
    if visible_fractions(result, SIZE, SIZE)[0] > 0.999:
        rows, columns = np.nonzero(moved.max(axis=2) > 100)
        seen = np.array([columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1])
        middle = result.boxes[0, :2] + result.boxes[0, 2:] / 2
        assert np.abs(middle - seen[:2] - seen[2:] / 2).max() < 1.0
        assert np.abs(result.boxes[0, 2:] - seen[2:]).max() < 2.0 + move.scale, "OpenCV draws a pixel more around"


@pytest.mark.parametrize("seed", range(6))
def test_rect_is_a_part_of_the_whole_image(seed: int) -> None:
    image, _ = one_face()
    move = random_move(seed)
    whole = warp(image, move, (0, 0, SIZE, SIZE), cv2.INTER_AREA)
    left, top, right, bottom = bounds_of(image, move, SIZE, SIZE)
    part = warp(image, move, (left, top, right, bottom), cv2.INTER_AREA)
    assert np.abs(part.astype(int) - whole[top:bottom, left:right]).max() <= 2
    outside = whole.copy()
    outside[top:bottom, left:right] = 0
    assert not outside.any()


def test_transform_and_its_inverse() -> None:
    move = SimilarityTransform((3.0, 4.0), (10.0, 20.0), 2.0, 0.4, True)
    assert move.points(np.array([3.0, 4.0])) == pytest.approx([10, 20])
    turned = SimilarityTransform((0.0, 0.0), (0.0, 0.0), 3.0, math.pi / 2).points(np.array([1.0, 0.0]))
    assert turned == pytest.approx([0, 3]), "clockwise in the picture"


@pytest.mark.parametrize("seed", range(25))
def test_labels_of_composed_images_lie_on_the_faces(
    scenes: list[LabeledImage], tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(composition, "degrade", lambda image, _smallest, _generator: image)
    config = DetectorDataConfig(
        least_side=30, share_background=0, share_single=1, share_occluded=0, share_margin=0, share_cut_out=0.5
    )
    image, faces = SampleComposer(config, Pools.of(scenes), tmp_path).make(160, np.random.default_rng(seed))
    assert len(faces) == 1
    hits = 0
    for k, (x, y) in enumerate(faces.landmarks[0]):
        if 1 <= x < 159 and 1 <= y < 159:
            pixel = image[int(y), int(x), ::-1]
            assert has_color(pixel, COLORS[k]) or has_color(pixel, COLORS[MIRRORED[k]])
            hits += 1
    assert hits >= 2


def test_hidden_faces_become_unsure_and_then_are_removed() -> None:
    faces = Faces(np.array([[10.0, 10, 40, 40]]), np.zeros((1, 5, 2)), np.array([True]))
    weight = np.zeros((100, 100), np.float32)
    for last, sure in ((20, [True]), (35, [False]), (48, [])):
        weight[:last] = 1
        assert composition._occluded(faces, weight).is_sure.tolist() == sure


def test_cut_off_faces_become_unsure_and_then_are_removed() -> None:
    boxes = np.array([[-10.0, 0, 40, 40], [-20, 0, 40, 40], [-36, 0, 40, 40], [60, 60, 40, 40]])
    faces = Faces(boxes, np.zeros((4, 5, 2)), np.ones(4, bool))
    assert visible_fractions(faces, 100, 100) == pytest.approx([0.75, 0.5, 0.1, 1])
    assert composition._inside(faces, 100).is_sure.tolist() == [True, False, True]


@pytest.mark.parametrize("seed", range(12))
def test_degraded_images_keep_size_and_position(seed: int) -> None:
    image = np.zeros((96, 128, 3), np.uint8)
    cv2.circle(image, (80, 40), 20, (200, 200, 200), -1)
    before = image.copy()
    after = degrade(image, 40.0, np.random.default_rng(seed))
    assert after.shape == image.shape and after.dtype == np.uint8
    assert np.array_equal(image, before), "it is the caller's"
    middle, corner = after[34:46, 74:86].astype(float).mean(), after[70:, :40].astype(float).mean()
    assert middle > corner + 25


def test_batch_depends_only_on_its_index(scenes: list[LabeledImage], tmp_path: Path) -> None:
    batches = FaceBatches(RECIPE, scenes, tmp_path)
    sizes = set()
    for index in range(6):
        first, again = batches[index], batches[index]
        assert all(bool((a == b).all()) for a, b in zip(first, again, strict=True))
        count, _, height, width = first.images.shape
        assert height == width and count == RECIPE.data.pixels // height**2
        assert first.owners.shape == (count, (height // 8) ** 2 + (height // 16) ** 2 + (height // 32) ** 2)
        assert int(first.owners.max()) < first.faces.shape[1]
        sizes.add(height)
    assert sizes == set(RECIPE.data.sizes)
    assert not bool((batches[0].images == batches[1].images[:1, :, :1, :1]).all())


def test_small_faces_are_unsure(scenes: list[LabeledImage], tmp_path: Path) -> None:
    maker = SampleComposer(replace(RECIPE.data, least_side=12.0), Pools.of(scenes), tmp_path)
    for seed in range(20):
        _, faces = maker.make(96, np.random.default_rng(seed))
        assert (faces.sides[faces.is_sure] >= 12.0).all()


def test_unusable_labels_are_refused(folder: Path, tmp_path: Path) -> None:
    items = find_training_files(folder, ("A",))
    with pytest.raises(InputError, match=r"are missing: create them with 'python -m benchmarks.training\.label_faces"):
        read_labels(tmp_path / "none.json", folder, items)
    table = json.loads((folder.parent / "face-labels.json").read_text())
    del table["eve.png"]
    for number, text in enumerate(("{", "[]", json.dumps(table), '{"anna.avi": [{"frame": 0}]}')):
        path = tmp_path / f"{number}.json"
        path.write_text(text)
        with pytest.raises(InputError, match="cannot use the labels"):
            read_labels(path, folder, items)


def test_unsure_labels_are_ignored(folder: Path, tmp_path: Path) -> None:
    items = [item for item in find_training_files(folder, ("A",)) if item.path.stem == "anna"]
    table = json.loads((folder.parent / "face-labels.json").read_text())
    table["anna.avi"][0]["faces"][0]["score"] = 0.79
    (tmp_path / "labels.json").write_text(json.dumps(table))
    found = read_labels(tmp_path / "labels.json", folder, items)
    assert [(scene.frame, scene.faces.is_sure.tolist()) for scene in found] == [(0, [False]), (2, [True])]


def test_missing_faces_or_backgrounds_are_refused(scenes: list[LabeledImage]) -> None:
    people = [scene for scene in scenes if len(scene.faces)]
    for some in (people, [scene for scene in scenes if not len(scene.faces)]):
        with pytest.raises(InputError, match="a face detector needs"):
            Pools.of(some)
    doubtful = [LabeledImage(Item(Path("a"), "faces", "a", "A"), 0, Faces.none())]
    assert len(Pools.of([*scenes, *doubtful]).people) == len(Pools.of(scenes).people)


def test_clutter_is_drawn_and_hidden_faces_become_unsure() -> None:
    hidden = 0
    for seed in range(20):
        canvas = np.zeros((160, 160, 3), np.uint8)
        faces = Faces(np.array([[70.0, 70, 20, 20]]), np.zeros((1, 5, 2)), np.array([True]))
        left = composition._clutter(canvas, faces, np.random.default_rng(seed))
        assert canvas.any()
        share = float(canvas[70:90, 70:90].any(axis=2).mean())
        assert share < 0.5 or left.is_sure.tolist() != [True]
        assert share > 0.3 or left.is_sure.tolist() == [True]
        hidden += share > 0.5
    assert hidden
