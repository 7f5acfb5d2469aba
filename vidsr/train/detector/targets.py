"""Assigns faces to the cells of the face detector's grids, and makes batches of images with these targets."""

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
from vidsr.train.detector.composition import Pools, SampleComposer
from vidsr.train.detector.labels import Faces, LabeledImage
from vidsr.train.detector.recipe import DetectorLossConfig, DetectorRecipe

NO_FACE, IGNORED = -1, -2
# Cells own a face only within this fraction of its sides from its center.
_CENTRAL = 0.3
# A face whose size misses the range of a stride by less than this factor is ignored there.
_TOLERANCE = 1.4


class FaceBatch(NamedTuple):
    """`images` B x 3 x H x W, uint8, BGR; `faces` B x M x 14 (left, top, width, height, five points), float32, unused
    rows 0; `owners` B x cells, int64: a cell's row in `faces`, NO_FACE or IGNORED; cells row by row, then by stride."""

    images: Tensor
    faces: Tensor
    owners: Tensor

    def to(self, device: torch.device) -> FaceBatch:
        """The batch on another device."""
        return FaceBatch(*(part.to(device) for part in self))


class FaceBatches(Dataset[FaceBatch]):
    """The batches of a recipe. Each depends on its index alone, so that training can resume anywhere."""

    def __init__(self, recipe: DetectorRecipe, samples: list[LabeledImage], cache: Path) -> None:
        """`samples` exclude the held-out ones. Raises InputError if they lack faces or backgrounds."""
        self.recipe = recipe
        self.composer = SampleComposer(recipe.data, Pools.of(samples), cache)

    def __len__(self) -> int:
        """The number of steps of the recipe."""
        return self.recipe.optimisation.steps

    def __getitem__(self, index: int) -> FaceBatch:
        """The batch of step `index`."""
        data = self.recipe.data
        generator = np.random.default_rng([self.recipe.seed, index])
        size = int(generator.choice(data.sizes))
        pairs = [self.composer.make(size, generator) for _ in range(data.pixels // size**2)]
        max_faces = max(1, *(len(faces) for _, faces in pairs))
        rows = np.zeros((len(pairs), max_faces, 4 + 2 * POINTS), np.float32)
        for row, (_, faces) in zip(rows, pairs, strict=True):
            row[: len(faces)] = np.concatenate([faces.boxes, faces.landmarks.reshape(-1, 2 * POINTS)], axis=1)
        owners = np.stack([assign(faces, size, self.recipe.loss) for _, faces in pairs])
        images = np.stack([image for image, _ in pairs]).transpose(0, 3, 1, 2)
        return FaceBatch(torch.from_numpy(images.copy()), torch.from_numpy(rows), torch.from_numpy(owners))


def cells(height: int, width: int) -> tuple[Array, Array]:
    """The corners (x, y) in pixels of all cells of an image, N x 2, and their strides, N."""
    corners, strides = [], []
    for stride in STRIDES:
        rows, columns = np.mgrid[: height // stride, : width // stride]
        corners.append(np.stack([columns.ravel(), rows.ravel()], axis=1) * float(stride))
        strides.append(np.full(rows.size, float(stride)))
    return np.concatenate(corners), np.concatenate(strides)


def assign(faces: Faces, size: int, config: DetectorLossConfig) -> NDArray[np.int64]:
    """The owner of each cell of an image of size x size, as in FCOS with center sampling (Tian et al., 2019).

    At the strides that fit its size (`near`), a sure face owns the cells whose corner lies within `radius` strides of
    its center and in the central part of its box, and always the nearest cell; the smaller of two faces wins a cell. At
    strides that nearly fit, the same cells are ignored, as are all cells in the box of a face that is not sure.
    """
    corners, strides = cells(size, size)
    owners = np.full(len(strides), NO_FACE, np.int64)
    low, high = faces.boxes[:, :2], faces.boxes[:, :2] + faces.boxes[:, 2:]
    for row in np.flatnonzero(~faces.is_sure):
        owners[((corners >= low[row]) & (corners < high[row])).all(1)] = IGNORED
    first, last = STRIDES[0], STRIDES[-1]
    largest_first = [row for row in np.argsort(-faces.sides, kind="stable") if faces.is_sure[row]]
    wanted = []
    for row in largest_first:
        side = faces.sides[row]
        distance = np.abs(corners - (low[row] + high[row]) / 2)
        reach = np.minimum(config.radius * strides[:, None], _CENTRAL * faces.boxes[row, 2:])
        is_near = (distance <= reach).all(1)
        for stride in STRIDES:
            of_stride = np.flatnonzero(strides == stride)
            is_near[of_stride[np.argmin(distance[of_stride].max(1))]] = True
        slack = np.where(strides == first, 0.0, config.near[0] * strides)
        limit = np.where(strides == last, np.inf, config.near[1] * strides)
        fits = (slack <= side) & (side <= limit)
        nearly = (slack / _TOLERANCE <= side) & (side <= limit * _TOLERANCE)
        owners[is_near & nearly & ~fits] = IGNORED
        wanted.append((row, is_near & fits))
    for row, is_wanted in wanted:
        owners[is_wanted] = row
    return owners
