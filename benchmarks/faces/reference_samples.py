"""People held out from the training with reference photographs, and what their photographs are tried on.

Held out are the people of the files of the split "eval", and those that the recipe keeps for validation. The network
without references has seen the latter, as it was trained on all files of the split "train".
A sample is a short clip around a face. By where its photographs come from, there are these groups:
- "other days": people of the split "eval"; the photographs are from other sources, as a rule of other days;
- "other pictures": people held out by the recipe, whose photographs are from other sources (in the London set, the
  smile for the neutral face and the reverse, taken in one studio);
- "one shot": the same people, photographs from the same source, and far from the clip: other stills, or clips that are
  not neighbors;
- "one clip": a clip of eval/faces, with frames of its end, AWAY or more after the sample.
A photograph is given pixels of motion, as in training; what moves in a clip moves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.faces.identities import CROWDS
from benchmarks.faces.scores import Array
from vidsr.errors import InputError
from vidsr.evaluation.metrics import SCALE
from vidsr.faces.detections import LANDMARKS
from vidsr.faces.references import FacePhotograph
from vidsr.train.dataset import CLIPS, Item, Kind, cached_frames, find_training_files
from vidsr.train.people import (
    FaceCut,
    Person,
    Reference,
    cut_face,
    find_faces,
    find_person,
    group_files,
    holdout_rank,
)
from vidsr.train.recipe import DataConfig

DAYS, PICTURES, SHOT, CLIP = "other days", "other pictures", "one shot", "one clip"
FRAMES, AWAY = 7, 25  # of a sample, and between its last one and a photograph from the same clip
SIDES = (16.0, 24.0, 32.0, 40.0)  # of the face in the small video
ROOM = 2.2  # side of the small video in sides of the face
MOST_FILES, MOST_PHOTOGRAPHS = 4, 3  # of a person, as samples and as references of one
SEED = 5


@dataclass(frozen=True, slots=True)
class HoldOut:
    """The part of a recipe that says who was held out of a training."""

    pattern: str
    count: int
    licence_classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sample:
    """A clip from the `file` of a person, with photographs of theirs (`own`) and of somebody else. `side` as SIDES.

    `number` is the seed of its motion.
    """

    name: str
    group: str
    number: int
    person: Person
    file: int
    side: float
    own: tuple[Reference, ...]
    strangers: tuple[Reference, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """The truth of a sample, T x 3 x H x W in 0..1, and the box of its face in each frame, T x 4."""

    truth: Tensor
    boxes: Array


def samples(data: Path, held: HoldOut, cache: Path) -> list[Sample]:
    """The samples of all groups. Raises InputError if the folder has no people to try."""
    groups = {
        DAYS: _evaluated(data, "face_still", cache),
        PICTURES: held_out(data, held, cache),
        CLIP: _evaluated(data, "face", cache),
    }
    found: list[Sample] = []
    for group, people in groups.items():
        for position, person in enumerate(people):
            strangers = _photographs_of(people[(position + 1) % len(people)]) if len(people) > 1 else []
            for number, file in enumerate(_spread(range(len(person.items)), MOST_FILES)):
                own, label = (_later(person, file), CLIP) if group == CLIP else _own(person, file, group)
                if own and strangers:
                    found += _sized(person, file, own, strangers, label, position + number)
    if not found:
        raise InputError(f"{data} holds no two people with several photographs who were held out")
    return found


def _sized(
    person: Person, file: int, own: Sequence[Reference], strangers: Sequence[Reference], group: str, number: int
) -> Iterator[Sample]:
    """A file with the face at one side, on other days at two: these people are few."""
    face = float(np.sqrt(np.prod(person.places[file][0, 2:4])))
    sides = [side for side in SIDES if SCALE * side <= face]
    chosen = [sides[k % len(sides)] for k in (number, number + 2)] if sides else []
    for side in dict.fromkeys(chosen if group == DAYS else chosen[:1]):
        name = f"{group}, {person.name}, {person.items[file].path.name}, {side:.0f} px"
        yield Sample(name, group, number, person, file, side, tuple(own), tuple(strangers))


def held_out(data: Path, held: HoldOut, cache: Path) -> list[Person]:
    """The people whom a training held out, as `split_people` chooses them; only their faces are looked for."""
    groups = group_files(find_training_files(data, held.licence_classes, of_people=True), held.pattern)
    found: list[Person] = []
    for name in sorted(groups, key=holdout_rank):
        if len(found) == held.count:
            break
        if len(groups[name]) > 1:
            person = find_person(name, groups[name], cache, find_faces)
            found += [person] if person is not None and len(person.items) > 1 else []
    return found


def _evaluated(data: Path, kind: str, cache: Path) -> list[Person]:
    """The people of the split "eval" with files of this kind of the index."""
    kinds: dict[str, Kind] = {"face": "faces", "face_still": "face_still"}
    items = [
        Item(data / entry["path"], kinds[kind], entry["source"], entry["licence_class"], entry.get("identity") or "")
        for entry in json.loads((data / "index.json").read_text(encoding="utf-8"))
        if entry["split"] == "eval" and entry["kind"] == kind and Path(entry["path"]).stem not in CROWDS
    ]
    people = (find_person(name, files, cache, find_faces) for name, files in sorted(group_files(items, "").items()))
    return [person for person in people if person is not None]


def _own(person: Person, file: int, group: str) -> tuple[list[Reference], str]:
    """Photographs for a sample of this file: from other sources, or if there are none "one shot"; and their group."""
    target = person.items[file]
    others = [k for k, item in enumerate(person.items) if item.source != target.source]
    if others:
        return _middles(person, _spread(others, MOST_PHOTOGRAPHS)), group
    same = [k for k, item in enumerate(person.items) if (item.kind in CLIPS) == (target.kind in CLIPS) and k != file]
    if target.kind in CLIPS:
        same = [k for k in same if abs(k - file) > 1]
    return _middles(person, _spread(same, MOST_PHOTOGRAPHS)), SHOT


def _later(person: Person, file: int) -> list[Reference]:
    rows = _with_face(person, file)
    later = [row for row in rows if row >= FRAMES + AWAY]
    return [Reference(person, file, row) for row in _spread(later, MOST_PHOTOGRAPHS)]


def _photographs_of(person: Person) -> list[Reference]:
    """Photographs of a stranger; frames of the clip, if a clip is all there is."""
    if len(person.items) == 1:
        return [Reference(person, 0, row) for row in _spread(_with_face(person, 0), MOST_PHOTOGRAPHS)]
    return _middles(person, _spread(range(len(person.items)), MOST_PHOTOGRAPHS))


def _middles(person: Person, files: Sequence[int]) -> list[Reference]:
    """The middle frame with a face of each file."""
    return [Reference(person, file, rows[len(rows) // 2]) for file in files if (rows := _with_face(person, file))]


def _with_face(person: Person, file: int) -> list[int]:
    rows: list[int] = np.flatnonzero(~np.isnan(person.places[file]).any(axis=1)).tolist()
    return rows


def _spread(values: Sequence[int], most: int) -> list[int]:
    """At most so many of these values, as far apart as can be."""
    count = min(most, len(values))
    places = np.linspace(0, len(values) - 1, count).round().astype(int).tolist() if count > 1 else range(count)
    return [values[place] for place in places]


def photograph(reference: Reference, cache: Path) -> FacePhotograph:
    """The image of a reference, and the points of its face."""
    frames = cached_frames(reference.person.items[reference.item], cache)
    points = reference.person.places[reference.item][reference.frame, 4:].reshape(LANDMARKS, 2)
    return FacePhotograph(np.array(frames[reference.frame]), points)


def shown(sample: Sample, cache: Path, length: int = FRAMES) -> Shown | None:
    """The clip of a sample, the first `length` frames of its file; None if a face is missing in one of them."""
    item, places = sample.person.items[sample.file], sample.person.places[sample.file][:length]
    height, width = cached_frames(item, cache).shape[1:3]
    face = float(np.sqrt(np.prod(places[:, 2:4], axis=1)).mean())
    if np.isnan(face):
        return None
    most = min(ROOM * SCALE * sample.side, min(height, width) * SCALE * sample.side / face)
    data = DataConfig(crop=8 * int(most // 8), max_stride_faces=1, frames=length)
    generator = np.random.default_rng([SEED, sample.number])
    cut = cut_face(item, places, length, data, (SCALE * sample.side,) * 2, cache, generator)
    if cut is None:
        return None
    return Shown(torch.from_numpy(cut.frames).permute(0, 3, 1, 2).float() / 255, _boxes(cut, places))


def _boxes(cut: FaceCut, places: Array) -> Array:
    corners = cut.points(np.stack([places[:, :2], places[:, :2] + places[:, 2:4]], axis=1))
    return np.concatenate([corners[:, 0], corners[:, 1] - corners[:, 0]], axis=1)
