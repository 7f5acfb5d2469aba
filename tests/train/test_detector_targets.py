"""Assignment of faces to cells, and the losses: against plain loops, by hand and against torch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from vidsr.faces.detections import pairwise_iou
from vidsr.nets.facepyramid import STRIDES
from vidsr.train.detector.labels import Faces
from vidsr.train.detector.losses import detector_losses, eiou_loss, soft_focal_loss
from vidsr.train.detector.recipe import DetectorLossConfig
from vidsr.train.detector.targets import IGNORED, NO_FACE, FaceBatch, assign, cells

SIZE = 128
CONFIG = DetectorLossConfig()


def random_faces(seed: int, count: int) -> Faces:
    random = np.random.default_rng(seed)
    sides = np.exp(random.uniform(np.log(8), np.log(130), count))
    ratio = random.uniform(0.7, 1.0, count)
    sizes = np.stack([sides * ratio, sides / ratio], 1)
    middles = random.uniform(5, SIZE - 5, (count, 2))
    points = middles[:, None] + random.uniform(-0.4, 0.4, (count, 5, 2)) * sizes[:, None]
    return Faces(np.concatenate([middles - sizes / 2, sizes], 1), points, random.random(count) < 0.8)


def by_hand(faces: Faces) -> list[int]:
    """The documented rule, cell by cell and face by face."""
    owners = []
    grid = [(s, c * s, r * s) for s in STRIDES for r in range(SIZE // s) for c in range(SIZE // s)]

    def distances(row: int, x: float, y: float) -> tuple[float, float]:
        left, top, width, height = faces.boxes[row]
        return abs(x - left - width / 2), abs(y - top - height / 2)

    for place, (stride, x, y) in enumerate(grid):
        owner, best = NO_FACE, math.inf
        for row, (left, top, width, height) in enumerate(faces.boxes):
            side = math.sqrt(width * height)
            if not faces.is_sure[row]:
                if left <= x < left + width and top <= y < top + height and owner == NO_FACE:
                    owner = IGNORED
                continue
            away_x, away_y = distances(row, x, y)
            reach = CONFIG.radius * stride
            is_near = away_x <= min(reach, 0.3 * width) and away_y <= min(reach, 0.3 * height)
            others = [max(distances(row, cx, cy)) for s, cx, cy in grid if s == stride]
            first = [i for i, (s, _, _) in enumerate(grid) if s == stride][int(np.argmin(others))]
            if not (is_near or first == place):
                continue
            low = 0.0 if stride == 8 else CONFIG.near[0] * stride
            high = math.inf if stride == 32 else CONFIG.near[1] * stride
            if low <= side <= high:
                if side < best:
                    owner, best = row, side
            elif low / 1.4 <= side <= high * 1.4 and best == math.inf:
                owner = IGNORED
        owners.append(owner)
    return owners


@pytest.mark.parametrize("seed", range(8))
def test_owners_follow_the_documented_rule(seed: int) -> None:
    faces = random_faces(seed, 1 + seed % 5)
    assert assign(faces, SIZE, CONFIG).tolist() == by_hand(faces)


@pytest.mark.parametrize("side", [9.0, 20.0, 45.0, 90.0, 200.0, 400.0])
def test_every_sure_face_owns_a_cell(side: float) -> None:
    faces = Faces(np.array([[60 - side / 2, 60 - side / 2, side, side]]), np.full((1, 5, 2), 60.0), np.array([True]))
    owners = assign(faces, SIZE, CONFIG)
    assert (owners == 0).any()
    unsure = assign(faces.doubted(np.array([True])), SIZE, CONFIG)
    assert not (unsure >= 0).any() and (unsure == IGNORED).any()


def test_cells_are_in_yunets_order() -> None:
    corners, strides = cells(64, 96)
    assert len(strides) == 8 * 12 + 4 * 6 + 2 * 3
    assert corners[13].tolist() == [8, 8] and corners[96 + 7].tolist() == [16, 16] and strides[-1] == 32


def batch_of(faces: Faces) -> FaceBatch:
    rows = np.concatenate([faces.boxes, faces.landmarks.reshape(-1, 10)], 1).astype(np.float32)
    owners = assign(faces, SIZE, CONFIG)
    images = torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)
    return FaceBatch(images, torch.from_numpy(rows)[None], torch.from_numpy(owners)[None])


def perfect(batch: FaceBatch) -> list[torch.Tensor]:
    """The output of a perfect network."""
    corners, strides = cells(SIZE, SIZE)
    values = torch.full((len(strides), 16), -20.0)
    for cell, owner in enumerate(batch.owners[0].tolist()):
        if owner >= 0:
            box, points = batch.faces[0, owner, :4].double(), batch.faces[0, owner, 4:].double().reshape(5, 2)
            corner = torch.from_numpy(corners[cell])
            values[cell, :2] = 20.0
            values[cell, 2:4] = (box[:2] + box[2:] / 2 - corner) / strides[cell]
            values[cell, 4:6] = (box[2:] / strides[cell]).log()
            values[cell, 6:] = ((points - corner) / strides[cell]).flatten()
    parts = values.split([(SIZE // s) ** 2 for s in STRIDES])
    return [part.T.reshape(1, 16, SIZE // s, SIZE // s) for part, s in zip(parts, STRIDES, strict=True)]


def test_perfect_prediction_has_zero_loss_and_errors_do_not() -> None:
    batch = batch_of(random_faces(3, 4))
    losses = detector_losses(perfect(batch), batch, CONFIG)
    assert float(losses.total) == pytest.approx(0, abs=1e-4)
    is_owned = [level[:, :1] > 0 for level in perfect(batch)]
    for column, part in ((0, "cls"), (1, "obj"), (2, "box"), (5, "box"), (6, "points"), (15, "points")):
        wrong = perfect(batch)
        for level, owned in zip(wrong, is_owned, strict=True):
            level[:, column] = torch.where(
                owned[:, 0], level[:, column] * (-1 if column < 2 else 1) + 0.3, level[:, column]
            )
        assert float(getattr(detector_losses(wrong, batch, CONFIG), part)) > 1e-3


def test_ignored_cells_have_no_loss() -> None:
    faces = random_faces(4, 3).doubted(np.array([True, False, False]))
    batch = batch_of(faces)
    start = [torch.randn(1, 16, SIZE // s, SIZE // s) for s in STRIDES]
    before = detector_losses(start, batch, CONFIG)
    silent = torch.cat([level.flatten(2) for level in start], 2)
    silent[0, :, batch.owners[0] == IGNORED] = 99.0
    parts = silent.split([(SIZE // s) ** 2 for s in STRIDES], 2)
    after = detector_losses(
        [p.reshape(1, 16, SIZE // s, -1) for p, s in zip(parts, STRIDES, strict=True)], batch, CONFIG
    )
    assert (batch.owners == IGNORED).any()
    assert float(after.total) == pytest.approx(float(before.total), rel=1e-6)


def test_batch_without_faces_has_gradients() -> None:
    batch = FaceBatch(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, 1, 14), torch.full((1, 84), NO_FACE))
    raw = [torch.zeros(1, 16, 64 // s, 64 // s, requires_grad=True) for s in STRIDES]
    losses = detector_losses(raw, batch, CONFIG)
    losses.total.backward()  # type: ignore[no-untyped-call]
    assert float(losses.box.detach()) == float(losses.points.detach()) == 0.0
    assert all(level.grad is not None and torch.isfinite(level.grad).all() for level in raw)


def test_eiou_by_hand() -> None:
    found, truth = torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([[2.0, 0, 4, 2]])
    loss, overlap = eiou_loss(found, truth)
    share = 4 / (16 + 8 - 4)
    # Hull 6 x 4; centers (2, 2) and (4, 1); sizes differ by (0, 2).
    assert float(overlap) == pytest.approx(share)
    assert float(loss) == pytest.approx(1 - share + 5 / 52 + 4 / 16)


@pytest.mark.parametrize("seed", range(3))
def test_iou_equals_that_of_the_tracker(seed: int) -> None:
    boxes = np.random.default_rng(seed).uniform(1, 20, (2, 6, 4))
    _, overlap = eiou_loss(torch.from_numpy(boxes[0]), torch.from_numpy(boxes[1]))
    assert overlap.numpy() == pytest.approx(np.diag(pairwise_iou(boxes[0], boxes[1])))


def test_focal_loss_by_hand() -> None:
    loss = soft_focal_loss(torch.tensor([0.0, math.log(3)]), torch.tensor([1.0, 0.25]))
    expected = [0.25 * math.log(2), 0.25 * -(0.25 * math.log(0.75) + 0.75 * math.log(0.25))]
    assert loss.tolist() == pytest.approx(expected)
