"""Training samples of faces with labels: landmarks, how the face moves, and action units if there are any.

Landmarks are the five of the shipped detector. With `labels = "files"` they and the units are read from an .npz file
beside each clip or photograph, NAME.labels.npz: `points`, N x P x 2 for the N frames, x before y in pixels from the
upper left corner, and `units`, N x U of 0 and 1; frames without a face are NaN. The places of faces are always the
detector's. People that are held out for validation are never seen in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vidsr.errors import InputError
from vidsr.faces.alignment import mirrored_transform, similarity_between
from vidsr.faces.detections import LANDMARKS, Array
from vidsr.train.codecs import Roundtrip
from vidsr.train.data import Batch
from vidsr.train.dataset import Item
from vidsr.train.degrade import Frames, H264Roundtrip, from_bytes
from vidsr.train.people import TRIES, PeopleBatches, Person, cut_face
from vidsr.train.recipe import FacesConfig, Recipe

VALIDATION_FRAMES = 6
# The place of each landmark in a mirrored face, for the sets whose order is known: five points, and the usual 68.
_JAW, _BROWS, _NOSE = [*range(16, -1, -1)], [*range(26, 16, -1)], [27, 28, 29, 30, 35, 34, 33, 32, 31]
_EYES = [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
_MOUTH = [54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65]
MIRRORED: dict[int, list[int]] = {5: [1, 0, 2, 4, 3], 68: [*_JAW, *_BROWS, *_NOSE, *_EYES, *_MOUTH]}


class Labels(NamedTuple):
    """What is known of the frames of a file: `points` N x P x 2, and `units` N x U or None."""

    points: Array
    units: Array | None


class FaceClip(NamedTuple):
    """A validation clip: `truth` T x 3 x H x W, `points` T x P x 2 and `motions` T x 2 x 3 as in Batch."""

    truth: Tensor
    points: Tensor
    motions: Tensor


class _Sample(NamedTuple):
    frames: Frames
    points: Array
    units: Array | None


class FaceBatches(PeopleBatches):
    """The batches of a recipe with [faces], one per step, independent of each other as those of `Batches`."""

    def __init__(
        self, recipe: Recipe, people: Sequence[Person], cache: Path, h264: H264Roundtrip | None,
        roundtrip: Roundtrip | None = None,
    ) -> None:  # fmt: skip
        """`people` exclude those for validation; the others as for `Batches`.

        Raises InputError if there are no files of a kind with a share in the recipe, or for a bad file of labels.
        """
        assert recipe.faces is not None
        super().__init__(recipe, people, cache, h264, roundtrip)
        self.faces = recipe.faces
        if not self._weights.any():
            raise InputError(
                f"no training data is left: beside {recipe.faces.holdout_people} held-out people there are no clips or "
                "photographs of faces of a kind with a share in the recipe; add files or lower 'holdout_people'"
            )
        self._rates = self._unit_rates()

    def __getitem__(self, index: int) -> Batch:
        """The batch of step `index`."""
        data, scale = self.recipe.data, self.recipe.scale
        generator = np.random.default_rng([self.recipe.seed, index])
        burn_in = data.burn_in_frames if generator.random() < data.burn_in_share else 0
        lows, truth, points, motions, units = [], [], [], [], []
        for _ in range(data.batch):
            lead = 0 if self.recipe.real is None else int(generator.integers(self.recipe.real.lead_frames + 1))
            sample = self._draw(lead + burn_in + data.frames, generator)
            motion = motions_of(sample.points, scale)
            if len(order := MIRRORED.get(sample.points.shape[1], [])) and generator.random() < 0.5:
                sample, motion = _mirrored(sample, order), mirrored_transform(motion, *[data.crop / scale] * 2)
            clip = from_bytes(sample.frames)
            lows.append(self._degraded(clip, generator)[lead:])
            truth.append(clip[lead + burn_in :])
            points.append(torch.from_numpy(sample.points[lead + burn_in :]).float())
            motions.append(torch.from_numpy(motion[lead:]).float())
            if sample.units is not None:
                units.append(torch.from_numpy(sample.units[lead + burn_in :]).float())
        return Batch(
            torch.stack(lows), torch.stack(truth), burn_in, points=torch.stack(points), motions=torch.stack(motions),
            units=torch.stack(units) if units else None, unit_rates=self._rates if units else None,
            seed=int(generator.integers(2**31)),
        )  # fmt: skip

    def validation(self, held: Sequence[Person]) -> list[FaceClip]:
        """A clip for each person held out, the same in every run; people without a face in all frames have none."""
        clips = []
        for number, person in enumerate(held):
            generator = np.random.default_rng(number)
            file = int(generator.integers(len(person.items)))
            sample = self._sample(person, file, VALIDATION_FRAMES, generator)
            if sample is not None:
                motions = torch.from_numpy(motions_of(sample.points, self.recipe.scale)).float()
                clips.append(FaceClip(from_bytes(sample.frames), torch.from_numpy(sample.points).float(), motions))
        return clips

    def _draw(self, length: int, generator: np.random.Generator) -> _Sample:
        for _ in range(TRIES):
            person, file = self._draw_file(generator)
            if (sample := self._sample(person, file, length, generator)) is not None:
                return sample
        raise InputError(f"{person.items[file].path} and others show no face in most frames: remove them")

    def _sample(self, person: Person, file: int, length: int, generator: np.random.Generator) -> _Sample | None:
        """A clip around the face in a file, with its labels; None if one of its frames lacks a face or a label."""
        item, places, faces = person.items[file], person.places[file], self.faces
        cut = cut_face(item, places, length, self.recipe.data, faces.face_side, self.cache, generator)
        if cut is None:
            return None
        labels = labels_of(item, places, faces)
        points, units = cut.points(labels.points), None if labels.units is None else labels.units[cut.order]
        if np.isnan(points).any() or (units is not None and np.isnan(units).any()):
            return None
        return _Sample(cut.frames, points, units)

    def _unit_rates(self) -> Tensor | None:
        """How frequent each action unit is in the data, U values; None without labels of units.

        A unit that never occurs counts as if it did in one frame, so that its weight is finite.
        """
        if self.faces.labels == "detector":
            return None
        found = [
            labels_of(item, places, self.faces).units
            for person in self.people
            for item, places in zip(person.items, person.places, strict=True)
        ]
        if any(units is None for units in found):
            return None
        every = np.concatenate([units for units in found if units is not None])
        every = every[~np.isnan(every).any(axis=1)]
        return torch.from_numpy(every.sum(axis=0).clip(1) / max(1, len(every))).float()


def labels_of(item: Item, places: Array, faces: FacesConfig) -> Labels:
    """The labels of a file's frames. Raises InputError for a missing or misshapen file of labels."""
    if faces.labels == "detector":
        return Labels(places[:, 4:].reshape(-1, LANDMARKS, 2), None)
    path = item.path.with_name(f"{item.path.name}.labels.npz")
    try:
        with np.load(path, allow_pickle=False) as stored:
            points = np.asarray(stored["points"], np.float64)
            units = np.asarray(stored["units"], np.float64) if "units" in stored.files else None
    except Exception as error:  # NumPy and zipfile raise many kinds for a damaged file
        raise InputError(f"cannot read the labels {path}: {' '.join(str(error).split())}") from error
    count = len(places)
    if points.ndim != 3 or points.shape[::2] != (count, 2) or (units is not None and len(units) != count):
        raise InputError(f"the labels {path} do not fit the {count} frames: points are N x P x 2, units N x U")
    return Labels(points, units)


def motions_of(points: Array, scale: int) -> Array:
    """How a face moves, T x 2 x 3: the similarity from each frame to the frame before, in low-resolution pixels.

    `points`, T x P x 2, are in ground-truth pixels. The first frame has none before it, and stands still.
    """
    low = points / scale
    later = [similarity_between(now, before) for before, now in pairwise(low)]
    return np.stack([np.eye(2, 3), *later])


def _mirrored(sample: _Sample, order: Sequence[int]) -> _Sample:
    """A sample seen in a mirror: what was a left eye is a right one."""
    points = sample.points[:, list(order)].copy()
    points[..., 0] = sample.frames.shape[2] - points[..., 0]
    return sample._replace(frames=sample.frames[:, :, ::-1], points=points)
