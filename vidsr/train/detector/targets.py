"""Which cell of the face detector's grids answers for which face, and batches of pictures with these targets."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vidsr.faces.detections import Array
from vidsr.nets.facepyramid import POINTS, STRIDES
from vidsr.train.detector.composition import Pools, SceneMaker
from vidsr.train.detector.labels import Faces, Scene
from vidsr.train.detector.recipe import DetectorLossConfig, DetectorRecipe

NO_FACE, NOT_ASKED = -1, -2
# Cells from which a face can be told take part only within this share of its sides.
_HEART = 0.3
# A face that is nearly right for a stride counts neither for nor against it.
_TOLERANCE = 1.4


class FaceBatch(NamedTuple):
    """`pictures` B x 3 x H x W, uint8, BGR; `faces` B x M x 14 (left, top, width, height, five points), float32, rows
    that are not used 0; `owners` B x cells, int64: a cell's row of `faces`, NO_FACE or NOT_ASKED, cells row by row,
    stride by stride."""

    pictures: Tensor
    faces: Tensor
    owners: Tensor

    def to(self, device: torch.device) -> FaceBatch:
        """The batch on another device."""
        return FaceBatch(*(part.to(device) for part in self))


class FaceBatches(Dataset[FaceBatch]):
    """The endless row of batches of a recipe; batch i does not depend on any other, so a run can resume anywhere."""

    def __init__(self, recipe: DetectorRecipe, scenes: list[Scene], cache: Path) -> None:
        """`scenes` without those held out. Raises InputError if none shows a face, or none something else."""
        self.recipe = recipe
        self.maker = SceneMaker(recipe.data, Pools.of(scenes), cache)

    def __len__(self) -> int:
        """As many as the recipe has steps."""
        return self.recipe.optimisation.steps

    def __getitem__(self, index: int) -> FaceBatch:
        """The batch of step `index`."""
        data = self.recipe.data
        generator = np.random.default_rng([self.recipe.seed, index])
        size = int(generator.choice(data.sizes))
        pairs = [self.maker.make(size, generator) for _ in range(data.pixels // size**2)]
        most = max(1, *(len(faces) for _, faces in pairs))
        rows = np.zeros((len(pairs), most, 4 + 2 * POINTS), np.float32)
        for row, (_, faces) in zip(rows, pairs, strict=True):
            row[: len(faces)] = np.concatenate([faces.boxes, faces.landmarks.reshape(-1, 2 * POINTS)], axis=1)
        owners = np.stack([assign(faces, size, self.recipe.loss) for _, faces in pairs])
        pictures = np.stack([picture for picture, _ in pairs]).transpose(0, 3, 1, 2)
        return FaceBatch(torch.from_numpy(pictures.copy()), torch.from_numpy(rows), torch.from_numpy(owners))


def cells(height: int, width: int) -> tuple[Array, Array]:
    """The corners (x, y) of all cells of a picture in pixels, N x 2, and their strides, N."""
    corners, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        corners.append(np.stack([columns.ravel(), rows.ravel()], axis=1) * float(stride))
        strides.append(np.full(rows.size, float(stride)))
    return np.concatenate(corners), np.concatenate(strides)


def assign(faces: Faces, size: int, config: DetectorLossConfig) -> NDArray[np.int64]:
    """The owner of each cell of a picture of size x size; as FCOS with centre sampling (Tian et al., 2019).

    A sure face owns, at the strides that fit its size (`near`), the cells whose corner lies within `radius` strides and
    within the heart of its box, and always the nearest one; where two want a cell, the smaller face has it. At strides
    that nearly fit, the same cells are not asked, nor are all cells in the box of a face that is not sure.
    """
    corners, strides = cells(size, size)
    owners = np.full(len(strides), NO_FACE, np.int64)
    low, high = faces.boxes[:, :2], faces.boxes[:, :2] + faces.boxes[:, 2:]
    for row in np.flatnonzero(~faces.is_sure):
        owners[((corners >= low[row]) & (corners < high[row])).all(1)] = NOT_ASKED
    first, last = STRIDES[0], STRIDES[-1]
    largest_first = [row for row in np.argsort(-faces.sides, kind="stable") if faces.is_sure[row]]
    wanted = []
    for row in largest_first:
        side = faces.sides[row]
        away = np.abs(corners - (low[row] + high[row]) / 2)
        reach = np.minimum(config.radius * strides[:, None], _HEART * faces.boxes[row, 2:])
        is_near = (away <= reach).all(1)
        for stride in STRIDES:
            of_stride = np.flatnonzero(strides == stride)
            is_near[of_stride[np.argmin(away[of_stride].max(1))]] = True
        slack = np.where(strides == first, 0.0, config.near[0] * strides)
        limit = np.where(strides == last, np.inf, config.near[1] * strides)
        fits = (slack <= side) & (side <= limit)
        nearly = (slack / _TOLERANCE <= side) & (side <= limit * _TOLERANCE)
        owners[is_near & nearly & ~fits] = NOT_ASKED
        wanted.append((row, is_near & fits))
    for row, is_wanted in wanted:
        owners[is_wanted] = row
    return owners
