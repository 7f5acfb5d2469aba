"""Face detection in one image: decoding against a plain loop and OpenCV, scales, rotations, invalid files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.yunet_files import CELLS, POINTS, blob_finder, expected, random_finder, write_yunet
from vidsr.errors import DeviceError, ModelError
from vidsr.faces.detections import Detections, pairwise_iou, rotate_points
from vidsr.faces.detector import FaceDetector, View
from vidsr.faces.yunet import Yunet

CPU = torch.device("cpu")
Array = np.ndarray[Any, Any]


def blob_frame(height: int, width: int, boxes: list[tuple[int, int, int, int]]) -> torch.Tensor:
    """Blue rectangles (left, top, width, height) on black."""
    image = torch.zeros(3, height, width)
    for left, top, wide, tall in boxes:
        image[2, max(0, top) : top + tall, max(0, left) : left + wide] = 1.0
    return image


@pytest.fixture
def blobs(tmp_path: Path) -> Yunet:
    return Yunet(write_yunet(tmp_path / "blobs.onnx", blob_finder()), CPU, 1)


def rows(found: Detections) -> Array:
    """All values of each face, in a fixed order."""
    table = np.concatenate([found.scores[:, None], found.boxes, found.landmarks.reshape(len(found), 10)], axis=1)
    return table[np.lexsort(table.T[::-1])]


@pytest.mark.parametrize("seed", range(4))
def test_outputs_are_decoded_as_documented(tmp_path: Path, seed: int) -> None:
    toy = random_finder(seed)
    picture = np.kron(np.random.default_rng(seed).uniform(0, 255, (3, 12, 20)), np.ones((1, 8, 8))).astype(np.float32)
    found = rows(Yunet(write_yunet(tmp_path / "toy.onnx", toy), CPU, 1).run(picture, 0.4))
    wanted = np.array([[score, *box, *points] for score, box, points in expected(toy, picture, 0.4)])
    assert 5 < len(wanted) == len(found)
    assert np.abs(found - wanted[np.lexsort(wanted.T[::-1])]).max() < 1e-2


@pytest.mark.parametrize("size", [(96, 160), (70, 101)])
def test_same_faces_as_opencv(tmp_path: Path, size: tuple[int, int]) -> None:
    path, (height, width) = write_yunet(tmp_path / "blobs.onnx", random_finder(7)), size
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    theirs = cv2.FaceDetectorYN.create(str(path), "", (width, height), 0.5, 0.3, 5000)
    tiles = np.random.default_rng(1).integers(0, 256, (13, 21, 3))
    bgr = np.kron(tiles, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)
    wanted = theirs.detect(bgr)[1]
    cv2.utils.logging.setLogLevel(level)
    image = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1) / 255
    # At a scale of 1, with the black margin that OpenCV adds.
    found = FaceDetector(Yunet(path, CPU, 1), View(), height, width, 20.0).find(image, 0.5)
    assert wanted is not None and len(wanted) > 2
    # OpenCV compares boxes truncated to whole pixels, so a few may be suppressed only there; nearly all agree.
    near = [min(np.abs(row[:4] - box).max() for box in found.boxes) < 0.05 for row in wanted]
    assert sum(near) >= 0.8 * len(near)
    best = wanted[wanted[:, 14].argmax()]
    assert np.abs(found.landmarks[0].ravel() - best[4:14]).max() < 0.05
    assert abs(found.scores[0] - best[14]) < 1e-4


@pytest.mark.parametrize("size", [(48, 64), (90, 120), (400, 300), (1100, 1000)])
def test_faces_of_sixteen_pixels_are_found_at_any_size(blobs: Yunet, size: tuple[int, int]) -> None:
    height, width = size
    truth = [(5, 7, 16, 16), (width - 30, height - 25, 16, 16)]
    found = FaceDetector(blobs, View(), height, width, 16.0).find(blob_frame(height, width, truth), 0.6)
    overlap = pairwise_iou(np.array(truth, float), found.boxes)
    # Larger cells may detect a face as well; nothing is detected elsewhere.
    assert (overlap.max(1) > 0.3).all() and (overlap.max(0) > 0.1).all()
    assert FaceDetector(blobs, View(), height, width, 16.0).warning is None


def test_large_faces_in_large_images_are_found_at_a_coarse_scale(tmp_path: Path) -> None:
    # Only all-blue cells detect, and faces of at most 80 pixels: the fine scale detects only parts of this one.
    network = Yunet(write_yunet(tmp_path / "blobs.onnx", blob_finder()), CPU, 1)
    found = FaceDetector(network, View(), 1000, 1000, 16.0).find(blob_frame(1000, 1000, [(300, 300, 280, 280)]), 0.6)
    sides = np.sqrt(found.boxes[:, 2:].prod(1))
    assert sides.max() == pytest.approx(CELLS * 32 * 1000 / 320)


def test_faces_at_frame_edges_and_empty_frames(blobs: Yunet) -> None:
    detector = FaceDetector(blobs, View(), 100, 100, 16.0)
    assert len(detector.find(torch.zeros(3, 100, 100), 0.3)) == 0
    found = detector.find(blob_frame(100, 100, [(-8, 40, 20, 20)]), 0.5)
    assert len(found) == 1 and found.boxes[0, 0] < 0


@settings(max_examples=40, deadline=None)
@given(
    quarters=st.integers(0, 3),
    width=st.integers(20, 90),
    height=st.integers(20, 90),
    x=st.integers(0, 19),
    y=st.integers(0, 19),
)
def test_points_rotate_with_the_image(quarters: int, width: int, height: int, x: int, y: int) -> None:
    picture = np.zeros((height, width))
    picture[y, x] = 1
    row, column = np.argwhere(np.rot90(picture, quarters))[0]
    middle = np.array([[x + 0.5, y + 0.5]])
    turned = rotate_points(middle, quarters, width, height)
    assert turned.tolist() == [[column + 0.5, row + 0.5]]
    shown = (height, width) if quarters % 2 else (width, height)
    assert np.array_equal(rotate_points(turned, -quarters, *shown), middle)


@pytest.mark.parametrize("quarters", range(4))
def test_rotated_videos_are_searched_upright(blobs: Yunet, quarters: int) -> None:
    shown = blob_frame(80, 120, [(80, 16, 16, 16)])
    coded = torch.rot90(shown, -quarters, dims=(1, 2))
    height, width = coded.shape[1:]
    upright = FaceDetector(blobs, View(), 80, 120, 16.0).find(shown, 0.6)
    found = FaceDetector(blobs, View(quarters), height, width, 16.0).find(coded, 0.6)
    back = found.turned(quarters, width, height)
    assert len(found) == 1 and np.allclose(rows(back), rows(upright))
    eyes = back.landmarks[0, :2, 1].mean() - back.landmarks[0, 3:, 1].mean()
    assert eyes == pytest.approx((POINTS[:2, 1].mean() - POINTS[3:, 1].mean()) * 8 / 1.25)


@pytest.mark.parametrize(("quarters", "aspect"), [(0, 2.0), (1, 2.0), (0, 0.5)])
def test_faces_are_searched_with_square_pixels(blobs: Yunet, quarters: int, aspect: float) -> None:
    wide = 16 / aspect if aspect > 1 else 16
    tall = 16 * aspect if aspect < 1 else 16
    image = blob_frame(96, 96, [(40, 40, int(wide), int(tall))])
    found = FaceDetector(blobs, View(quarters, aspect), 96, 96, 16.0).find(image, 0.6)
    assert len(found) == 1
    assert found.boxes[0, 3] / found.boxes[0, 2] == pytest.approx(aspect, rel=0.01)
    assert pairwise_iou(found.boxes, np.array([[40.0, 40.0, wide, tall]]))[0, 0] > 0.3


def test_fixed_size_detector_searches_the_whole_image_and_warns(tmp_path: Path) -> None:
    network = Yunet(write_yunet(tmp_path / "fixed.onnx", blob_finder(), (128, 128)), CPU, 1)
    small = FaceDetector(network, View(), 64, 90, 16.0)
    assert small.warning is None and len(small.find(blob_frame(64, 90, [(60, 30, 16, 16)]), 0.6)) == 1
    large = FaceDetector(network, View(), 256, 512, 16.0)
    found = large.find(blob_frame(256, 512, [(400, 160, 80, 80)]), 0.6)
    assert len(found) == 1 and pairwise_iou(found.boxes, np.array([[400.0, 160, 80, 80]]))[0, 0] > 0.3
    assert large.warning is not None and "smaller than 80 pixels" in large.warning and "128x128" in large.warning


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 12))
def test_suppression_keeps_the_best_of_each_cluster_in_any_order(seed: int, count: int) -> None:
    chance = np.random.default_rng(seed)
    boxes = np.concatenate([chance.uniform(0, 30, (count, 2)), chance.uniform(5, 30, (count, 2))], axis=1)
    found = Detections(boxes, chance.uniform(0, 60, (count, 5, 2)), chance.integers(0, 4, count) / 4)
    kept = found.suppressed(0.3)
    assert np.array_equal(rows(kept), rows(found.take(chance.permutation(count)).suppressed(0.3)))
    among = pairwise_iou(kept.boxes, kept.boxes) - np.eye(len(kept))
    assert (among <= 0.3).all()
    for box, score in zip(found.boxes, found.scores, strict=True):
        over = pairwise_iou(box[None], kept.boxes)[0]
        assert ((over > 0.3) & (kept.scores >= score)).any() or (over == 1.0).any()


def test_invalid_outputs_are_dropped(tmp_path: Path) -> None:
    toy = blob_finder()
    toy.biases["bbox"][2] = 1000.0
    network = Yunet(write_yunet(tmp_path / "wild.onnx", toy), CPU, 1)
    assert len(network.run(np.full((3, 64, 64), 255, np.float32), 0.3)) == 0


def test_files_without_yunets_interface_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        Yunet(tmp_path / "none.onnx", CPU, 1)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError, match=r"text\.onnx is not an ONNX file"):
        Yunet(tmp_path / "text.onnx", CPU, 1)
    with pytest.raises(ModelError, match="no output kps_16"):
        Yunet(write_yunet(tmp_path / "less.onnx", blob_finder(), without="kps_16"), CPU, 1)
    with pytest.raises(ModelError, match="not a multiple of 32"):
        Yunet(write_yunet(tmp_path / "odd.onnx", blob_finder(), (100, 100)), CPU, 1)


def test_missing_cuda_raises_instead_of_falling_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    path = write_yunet(tmp_path / "blobs.onnx", blob_finder())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(DeviceError, match="cannot use device 'cuda'"):
        Yunet(path, torch.device("cuda"), 1)
