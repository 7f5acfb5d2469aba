"""Training samples of people with reference photographs: who is in which file, where their faces are, and batches.

Files of one person are known by the index, by a pattern in the recipe, or because they were cut from one video. The
person of a validation sample is never seen in training.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as cached
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from vidsr.config import FaceConfig
from vidsr.errors import InputError
from vidsr.evaluation.metrics import SCALE
from vidsr.faces.alignment import UPRIGHT, mirrored_transform, similarity_between, warped
from vidsr.faces.detections import LANDMARKS, Array, Detections
from vidsr.faces.detector import FaceDetector, View, load_detector
from vidsr.faces.yunet import Yunet
from vidsr.train.codecs import Roundtrip
from vidsr.train.data import Batch, frame_order, still_motion
from vidsr.train.dataset import CLIPS, Item, Kind, cached_frames, key_of, store
from vidsr.train.degrade import Frames, H264Roundtrip, degrade_random, from_bytes, relight
from vidsr.train.degrade_real import degrade_real
from vidsr.train.recipe import DataConfig, Recipe

KINDS: tuple[Kind, ...] = ("faces", "face_still")  # of targets and references
MIN_SCORE, MIN_FACE = 0.7, 40.0  # of a face, the second in pixels
MOST_ENLARGED = 2.0  # references whose face is smaller than half of the sample's are not used
TRIES = 20  # draws until a face is found that fits

# Whom the references of a sample show; "stranger": at least one of them; "moment": the only one is the sample itself.
Role = Literal["person", "stranger", "none", "moment"]
ROLES: tuple[Role, ...] = ("person", "stranger", "none", "moment")
Find = Callable[[Frames], Detections]


@dataclass(frozen=True, slots=True)
class Person:
    """The files of one person, sorted by path, each with a face in at least one frame.

    `places` has 14 numbers per frame for each: box and five points of the largest face, NaN where there is none.
    """

    name: str
    items: tuple[Item, ...]
    places: tuple[Array, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """One image that shows a person: an item of theirs, and the number of its frame."""

    person: Person
    item: int
    frame: int


@dataclass(frozen=True, slots=True)
class ReferenceClip:
    """A validation clip: `truth` T x 3 x H x W, and n x 3 x H x W references of the person and of strangers.

    With a canvas the references are upright, n x 3 x S x S, and `poses`, T x n x 2 x 3, are those of each frame, for
    both: the pose does not depend on the reference. n may differ; only the first of the poses count.
    """

    truth: Tensor
    references: Tensor
    strangers: Tensor
    poses: Tensor | None = None


def find_faces(image: Frames) -> Detections:
    """The faces that the shipped detector finds in an image, H x W x 3."""
    height, width = image.shape[:2]
    detector = FaceDetector(_shipped_network(), View(), height, width, MIN_FACE)
    return detector.find(from_bytes(image[None])[0], MIN_SCORE)


@cached
def _shipped_network() -> Yunet:
    return load_detector(FaceConfig(), torch.device("cpu"), 1)


def find_people(items: Sequence[Item], pattern: str, cache: Path, find: Find) -> list[Person]:
    """The people in clips and photographs of faces, by name; files without any face are left out.

    `pattern` as in ReferencesConfig; `find` finds the faces of an image, H x W x 3. Where faces are is computed once
    and kept in `cache`.
    """
    found = (find_person(name, files, cache, find) for name, files in sorted(group_files(items, pattern).items()))
    return [person for person in found if person is not None]


def group_files(items: Sequence[Item], pattern: str) -> dict[str, list[Item]]:
    """The clips and photographs of faces by person, sorted by path. `pattern` as in ReferencesConfig."""
    identities = {item.source: item.identity for item in items if item.identity}
    groups: dict[str, list[Item]] = defaultdict(list)
    for item in items:
        if item.kind in KINDS:
            groups[_name_of(item, pattern, identities)].append(item)
    return {name: sorted(group, key=lambda item: item.path) for name, group in groups.items()}


def find_person(name: str, files: Sequence[Item], cache: Path, find: Find) -> Person | None:
    """A person, with those of these files that show a face; None if none does. The rest as in `find_people`."""
    placed = [(item, cached_places(item, cache, find)) for item in files]
    placed = [(item, places) for item, places in placed if not np.isnan(places).all()]
    return Person(name, *zip(*placed, strict=True)) if placed else None


def _name_of(item: Item, pattern: str, identities: Mapping[str, str]) -> str:
    found = re.search(pattern, item.path.as_posix()) if pattern else None
    names = [group for group in found.groups() if group] if found else []
    return names[0] if names else item.identity or identities.get(item.source, item.source)


def cached_places(item: Item, cache: Path, find: Find) -> Array:
    """Box and five points of the largest face of every frame, N x 14, NaN where there is none; computed once."""
    target = cache / f"{key_of(item)}.faces.npy"
    if not target.is_file():
        rows = np.full((len(frames := cached_frames(item, cache)), 4 + 2 * LANDMARKS), np.nan)
        for row, image in zip(rows, frames, strict=True):
            faces = find(np.array(image))
            if len(faces):
                largest = int(np.argmax(np.prod(faces.boxes[:, 2:], axis=1)))
                row[:] = np.concatenate([faces.boxes[largest], faces.landmarks[largest].ravel()])
        store(target, rows)
    places: Array = np.load(target)
    return places


def split_people(people: Sequence[Person], count: int) -> tuple[list[Person], list[Person]]:
    """Splits off `count` people for validation, in a fixed order; each has two files or more."""
    able = [person for person in people if len(person.items) > 1]
    ranked = sorted(able, key=lambda person: holdout_rank(person.name))
    held = {person.name for person in ranked[:count]}
    return [person for person in people if person.name not in held], ranked[:count]


def holdout_rank(name: str) -> bytes:
    """By this, people are chosen for validation: the smallest first."""
    return hashlib.sha256(name.encode()).digest()


@dataclass(frozen=True, slots=True)
class FaceCut:
    """A clip cut around a face, T x crop x crop x 3, and where it comes from.

    `order` are the frames of the file; these were reduced by `factors` (x, y) and cut at `corners`, T x 2 (x, y).
    """

    frames: Frames
    order: NDArray[np.int64]
    factors: Array
    corners: NDArray[np.int64]

    def points(self, points: Array) -> Array:
        """Points of the file's frames, N x P x 2, in pixels of the clip: T x P x 2."""
        moved: Array = points[self.order] * self.factors - self.corners[:, None]
        return moved


def cut_face(
    item: Item, places: Array, length: int, data: DataConfig, face_side: tuple[float, float], cache: Path,
    generator: np.random.Generator,
) -> FaceCut | None:  # fmt: skip
    """Cuts `length` frames around a face; None if one of them has none. `places` as in Person.

    The image is reduced so that the face has a size drawn from `face_side`, and cut in whole pixels.
    """
    if item.kind in CLIPS:
        order = frame_order(len(places), length, data.max_stride_faces, generator)
        path = np.zeros((length, 2), np.int64)
    else:
        order, path = np.zeros(length, np.int64), still_motion(length, data.max_still_speed, generator)
    chosen = places[order]
    if np.isnan(chosen).any():
        return None
    frames = cached_frames(item, cache)
    side = float(np.sqrt(np.prod(chosen[:, 2:4], axis=1)).mean())
    wanted = float(generator.uniform(*face_side))
    factor = max(min(1.0, wanted / side), data.crop / min(frames.shape[1:3]))
    reduced = {k: _reduced(np.asarray(frames[k]), factor, data.crop) for k in sorted(set(order.tolist()))}
    images = [reduced[k] for k in order.tolist()]
    factors = np.array(images[0].shape[1::-1]) / np.array(frames.shape[2:0:-1]) if factor < 1 else np.ones(2)
    points = chosen[:, 4:].reshape(length, LANDMARKS, 2) * factors
    room = np.array(images[0].shape[:2]) - data.crop  # y, x
    middle = points.mean((0, 1))[::-1] - data.crop / 2 + generator.uniform(-0.12, 0.12, 2) * data.crop
    corners = np.clip(np.rint(middle).astype(np.int64) + path, 0, room)
    clip = [image[y : y + data.crop, x : x + data.crop] for image, (y, x) in zip(images, corners, strict=True)]
    return FaceCut(np.stack(clip), order, factors, corners[:, ::-1])


class PeopleBatches(Dataset[Batch]):
    """What batches of clips and photographs of people share: the files of each kind, and how a clip is degraded."""

    def __init__(
        self, recipe: Recipe, people: Sequence[Person], cache: Path, h264: H264Roundtrip | None,
        roundtrip: Roundtrip | None = None,
    ) -> None:  # fmt: skip
        """`people` exclude those for validation; the others as for `Batches`."""
        self.recipe, self.people, self.cache, self.h264, self.roundtrip = recipe, list(people), cache, h264, roundtrip
        shares = dict(zip(KINDS, (recipe.data.share_faces, recipe.data.share_face_stills), strict=True))
        self._files: dict[Kind, list[tuple[Person, list[int]]]] = {}
        for kind in KINDS:
            owned = [(person, [k for k, item in enumerate(person.items) if item.kind == kind]) for person in people]
            self._files[kind] = [(person, files) for person, files in owned if files]
        self._weights = np.array([shares[kind] if self._files[kind] else 0.0 for kind in KINDS])

    def __len__(self) -> int:
        """The number of steps in the recipe."""
        return self.recipe.optimisation.steps

    def _draw_file(self, generator: np.random.Generator, is_alone: bool = True) -> tuple[Person, int]:
        """A person and the number of a file of theirs; unless `is_alone` one who has others, if there is any."""
        files = self._files[KINDS[generator.choice(len(KINDS), p=self._weights / self._weights.sum())]]
        files = [(person, mine) for person, mine in files if is_alone or len(person.items) > 1] or files
        weights = np.sqrt([len(each) for _, each in files])  # a compromise, as in Batches
        person, mine = files[generator.choice(len(files), p=weights / weights.sum())]
        return person, mine[int(generator.integers(len(mine)))]

    def _degraded(self, clip: Tensor, generator: np.random.Generator) -> Tensor:
        recipe = self.recipe
        if recipe.real is None:
            return degrade_random(clip, recipe.degradation, generator, self.h264, recipe.scale)
        assert self.roundtrip is not None, "[real] needs a round trip"
        low, _ = degrade_real(clip, recipe.degradation, recipe.real, generator, self.roundtrip, recipe.scale)
        return low


class ReferenceBatches(PeopleBatches):
    """The batches of a recipe with [references], one per step, independent of each other as those of `Batches`.

    References are brought to the place and pose of the face in the middle frame of a sample by a similarity transform
    of five points, or with a canvas are upright, at the scale of that face. What is shared by sample and references,
    the flip, is drawn once for both.
    """

    def __init__(
        self, recipe: Recipe, people: Sequence[Person], cache: Path, h264: H264Roundtrip | None,
        roundtrip: Roundtrip | None = None,
    ) -> None:  # fmt: skip
        """`people` exclude those for validation; the others as for `Batches`.

        Raises InputError if there are fewer than two people, or no files of a kind with a share in the recipe.
        """
        assert recipe.references is not None
        super().__init__(recipe, people, cache, h264, roundtrip)
        self.references = recipe.references
        if len(people) < 2 or not self._weights.any():
            raise InputError(
                f"no training data is left: beside {recipe.references.holdout_people} held-out people, two more with "
                "clips or photographs of their faces are needed; add files or lower 'holdout_people'"
            )
        rest = recipe.references.stranger_share, recipe.references.none_share, recipe.references.moment_share
        self._shares = (1 - sum(rest), *rest)

    def __getitem__(self, index: int) -> Batch:
        """The batch of step `index`."""
        data, count = self.recipe.data, self.references.count
        generator = np.random.default_rng([self.recipe.seed, index])
        burn_in = data.burn_in_frames if generator.random() < data.burn_in_share else 0
        lows, truth = [], []
        side = self.references.canvas or data.crop
        references = np.zeros((data.batch, count, side, side, 3), np.uint8)
        present, poses, strangers = [], [], []
        for number in range(data.batch):
            lead = 0 if self.recipe.real is None else int(generator.integers(self.recipe.real.lead_frames + 1))
            role = ROLES[generator.choice(len(ROLES), p=self._shares)]
            moment, frames, points = self._draw_target(role, lead + burn_in + data.frames, generator)
            target = self._target_points(points)
            images, is_stranger = self._draw_references(role, moment, target, generator)
            pose = self._poses(points[lead:], target, generator)
            if generator.random() < 0.5:  # both together (table 5.6)
                frames, images = frames[:, :, ::-1], images[:, :, ::-1]
                pose = mirrored_transform(pose, data.crop / SCALE, side / SCALE)
            poses.append(torch.from_numpy(pose).float()[:, None].expand(-1, count, -1, -1))
            clip = from_bytes(frames)
            lows.append(self._degraded(clip, generator)[lead:])
            truth.append(clip[lead + burn_in :])
            references[number, : len(images)] = images
            present.append(torch.arange(count) < len(images))
            strangers.append(torch.tensor([*is_stranger, *[False] * (count - len(images))]))
        images_of_all = from_bytes(references.reshape(-1, *references.shape[2:]))
        return Batch(
            torch.stack(lows), torch.stack(truth), burn_in,
            references=images_of_all.view(data.batch, count, *images_of_all.shape[1:]),
            present=torch.stack(present), poses=torch.stack(poses) if self.references.canvas else None,
            strangers=torch.stack(strangers),
        )  # fmt: skip

    def validation(self, held: Sequence[Person]) -> list[ReferenceClip]:
        """A clip for each person held out, with strangers from among the others; the same in every run."""
        samples, length = [], min(10, self.recipe.data.frames)
        for number, person in enumerate(held):
            generator = np.random.default_rng(number)
            file = int(generator.integers(len(person.items)))
            target = self._target(person, file, length, generator)
            if target is None:
                continue
            moment, frames, points = target
            pose = self._poses(points, middle := self._target_points(points), generator)
            own, _ = self._aligned(self._candidates(moment, generator), middle, generator)
            rest = [other for other in held if other is not person] or self.people
            some = generator.permutation(len(rest))[: self.references.count]
            strangers = [_any_frame(rest[k], generator) for k in some]
            wrong, _ = self._aligned(strangers, middle, generator)
            if len(own) and len(wrong):
                poses = torch.from_numpy(pose).float()[:, None].expand(-1, self.references.count, -1, -1)
                truth, right, others = (from_bytes(each) for each in (frames, own, wrong))
                samples.append(ReferenceClip(truth, right, others, poses if self.references.canvas else None))
        return samples

    # ---------------------------------------------------------------------------------------------------------- target

    def _draw_target(self, role: Role, length: int, generator: np.random.Generator) -> tuple[Reference, Frames, Array]:
        """The `_target` of a person who has other images, unless the role needs none."""
        for _ in range(TRIES):
            person, file = self._draw_file(generator, is_alone=role != "person")
            if (target := self._target(person, file, length, generator)) is not None:
                return target
        raise InputError(f"{person.items[file].path} and others show no face in most frames: remove them")

    def _target(
        self, person: Person, file: int, length: int, generator: np.random.Generator
    ) -> tuple[Reference, Frames, Array] | None:
        """A clip, length x crop x crop x 3, around a face, and its points, length x 5 x 2; None if a frame has none.

        The first value is the file's frame in the middle of the clip.
        """
        item, places = person.items[file], person.places[file]
        cut = cut_face(item, places, length, self.recipe.data, self.references.face_side, self.cache, generator)
        if cut is None:
            return None
        moment = Reference(person, file, int(cut.order[len(cut.order) // 2]))
        return moment, cut.frames, cut.points(places[:, 4:].reshape(-1, LANDMARKS, 2))

    # ------------------------------------------------------------------------------------------------------ references

    def _draw_references(
        self, role: Role, moment: Reference, points: Array, generator: np.random.Generator
    ) -> tuple[Frames, list[bool]]:
        """Up to `count` references for a sample that shows `moment`, aligned to its `points`: n x crop x crop x 3.

        Besides, which of them show a stranger.
        """
        wanted = int(generator.integers(1, self.references.count + 1))
        if role == "moment":
            images, used = self._aligned([moment], points, generator, self.references.moment_noise)
            return images, [False] * len(used)
        chosen = [] if role == "none" else self._candidates(moment, generator)[:wanted]
        if role == "stranger":
            others = [other for other in self.people if other is not moment.person]
            wrong = int(generator.integers(1, wanted + 1))
            picked = [others[int(generator.integers(len(others)))] for _ in range(wrong)]
            chosen = [*chosen[: wanted - wrong], *(_any_frame(each, generator) for each in picked)]
        images, used = self._aligned(chosen, points, generator)
        for k in range(len(images) if self.references.light_share else 0):
            if generator.random() < self.references.light_share:
                images[k] = relight(images[k], generator)
        return images, [each.person is not moment.person for each in used]

    def _target_points(self, points: Array) -> Array:
        """The points, 5 x 2, to which references are brought; `points`, T x 5 x 2, are those of a sample's frames."""
        middle: Array = points[len(points) // 2]
        if not self.references.canvas:
            return middle
        turn = similarity_between(UPRIGHT, middle)
        return self.references.canvas / 2 + UPRIGHT * float(np.hypot(turn[0, 0], turn[1, 0]))

    def _poses(self, points: Array, target: Array, generator: np.random.Generator) -> Array:
        """The transforms, T x 2 x 3, from low-resolution pixels of each frame to those of the references' canvas.

        The points of a track are smoothed over time, so that most of their error is the same in all frames.
        """
        noise = self.references.point_noise * float(np.hypot(*(target[1] - target[0])))
        error = generator.normal(0, 1, target.shape) + generator.normal(0, 0.2, points.shape)
        poses = np.stack([similarity_between(each, target) for each in points + noise * error])
        poses[:, :, 2] /= SCALE
        return poses

    def _candidates(self, moment: Reference, generator: np.random.Generator) -> list[Reference]:
        """Other images of the person, one of each file, in random order, none from the file of `moment`.

        Files of one video: its clips follow each other, so a neighbor of the sample's clip serves only if there is
        nothing else, and then with the half that is farther away, a second or so. Its stills lie far apart (the index's
        `source_frame`), but where they lie in relation to a clip is not known, so clips and stills of one video do not
        serve each other.
        """
        far: list[Reference] = []
        near: list[Reference] = []
        person, file = moment.person, moment.item
        target = person.items[file]
        clips = [k for k, item in enumerate(person.items) if item.kind in CLIPS and item.source == target.source]
        for k in generator.permutation(len(person.items)).tolist():
            item, rows = person.items[k], _rows_with_face(person.places[k])
            if k == file:
                continue
            found = far
            if item.source == target.source:
                if (item.kind in CLIPS) != (target.kind in CLIPS):
                    continue
                if item.kind in CLIPS and abs(clips.index(k) - clips.index(file)) == 1:
                    half, found = len(person.places[k]) // 2, near
                    rows = rows[rows >= half] if k > file else rows[rows < half]
            if len(rows):
                found.append(Reference(person, k, int(rows[int(generator.integers(len(rows)))])))
        return far or near

    def _aligned(
        self, chosen: Sequence[Reference], points: Array, generator: np.random.Generator, noise: float | None = None
    ) -> tuple[Frames, list[Reference]]:
        """The first `count` of these that are large enough, brought to `points`: n x S x S x 3, and which they are.

        `noise` of the points, `point_noise` if None, is in distances between the eyes.
        """
        side = self.references.canvas or self.recipe.data.crop
        noise = (self.references.point_noise if noise is None else noise) * float(np.hypot(*(points[1] - points[0])))
        images: list[Frames] = []
        used: list[Reference] = []
        for reference in chosen:
            own = reference.person.places[reference.item][reference.frame, 4:].reshape(LANDMARKS, 2)
            matrix = similarity_between(own, points + generator.normal(0, 1, points.shape) * noise)
            if np.hypot(matrix[0, 0], matrix[1, 0]) > MOST_ENLARGED or len(images) == self.references.count:
                continue
            frames = cached_frames(reference.person.items[reference.item], self.cache)
            images.append(warped(np.asarray(frames[reference.frame]), matrix, side, side))
            used.append(reference)
        return np.stack(images) if images else np.zeros((0, side, side, 3), np.uint8), used


def _any_frame(person: Person, generator: np.random.Generator) -> Reference:
    file = int(generator.integers(len(person.items)))
    rows = _rows_with_face(person.places[file])
    return Reference(person, file, int(rows[int(generator.integers(len(rows)))]))


def _rows_with_face(places: Array) -> NDArray[np.intp]:
    return np.flatnonzero(~np.isnan(places).any(axis=1))


def _reduced(image: Frames, factor: float, crop: int) -> Frames:
    """An image reduced by area averaging, or as it is; sides shorter than `crop` are extended by reflection."""
    height, width = image.shape[:2]
    if factor < 1:
        size = (max(crop, round(width * factor)), max(crop, round(height * factor)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    missing = [max(0, crop - side) for side in image.shape[:2]]
    if any(missing):
        image = np.pad(image, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")
    return image
