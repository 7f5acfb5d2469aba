"""Who is who: halves of face tracks, each degraded in its own way, and which halves belong together.

Every face clip is cut in two. Each half is reduced until its face has a side drawn from SIDES, encoded with x264 at a
crf drawn from CRFS, decoded, and goes through vidsr's detector, tracker, landmark smoothing and embedding, as a video
does. The true person is known by the clip's source. The head is trained on other people (persons_training.py). Each of
SEEDS draws other degradations of all halves; only halves of one draw are compared, as tracks of one video.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.faces.identities import frames_of
from benchmarks.faces.scores import Figure
from vidsr.config import FaceConfig
from vidsr.faces.detector import View
from vidsr.faces.embedding import FaceEmbedding
from vidsr.faces.heads import Head
from vidsr.faces.persons import TrackEmbeddings, find_persons
from vidsr.faces.pipeline import FaceSearch
from vidsr.stages.base import chain
from vidsr.train.dataset import read_clip
from vidsr.types import Color, VideoInfo
from vidsr.video.roundtrip import h264_roundtrip

Array = NDArray[np.float64]
SIDES, CRFS = (12.0, 64.0), (20, 38)
# Halves that count: the least side of the face, and the largest crf.
RANGES = ((12.0, 38), (16.0, 34), (20.0, 32), (24.0, 30))
PRECISION, RECALL = 0.98, 0.8
WHAT_PAIRS, WHAT_SWITCHES = "pairs of track halves", "person numbers that pass to another person"
SEEDS = (1, 2, 3)
MOST_CLIPS = 3  # of one source
# One signer in all of these videos.
ONE_PERSON = ("intel-iot-devkit/sample-videos:asl_gestures/",)
# Shows the person of SadTalker's WDA_AlexandriaOcasioCortez_000.mp4, who is measured: in neither training nor measure.
ALREADY_SHOWN = ("OpenTalker/video-retalking:examples/face/3.mp4",)


@dataclass(frozen=True, slots=True)
class Half:
    """One half of a clip, 0 or 1: side of the face in pixels, crf, and the vectors of its frames, n x N.

    `draw` is the seed of its degradation.
    """

    person: str
    clip: str
    draw: int
    number: int
    side: float
    crf: int
    vectors: Array


def face_clips(data: Path, split: str) -> list[tuple[str, Path]]:
    """Person and path of the face clips of a split ("train" or "eval"), at most MOST_CLIPS per source.

    Without clips that show several people.
    """
    entries = json.loads((data / "index.json").read_text())
    entries = [each for each in entries if each["kind"] == "face" and each["split"] == split]
    chosen, counts = [], dict[str, int]()
    for entry in sorted(entries, key=lambda each: each["path"]):
        if "street_crowd" in entry["path"] or entry["licence_class"] not in ("A", "B"):
            continue
        if entry["source"] in ALREADY_SHOWN:
            continue
        person = next((start for start in ONE_PERSON if entry["source"].startswith(start)), entry["source"])
        counts[person] = counts.get(person, 0) + 1
        if counts[person] <= MOST_CLIPS:
            chosen.append((person, data / entry["path"]))
    return chosen


def degraded_halves(path: Path, seed: Sequence[int]) -> Iterator[tuple[float, int, list[NDArray[np.uint8]]]]:
    """For each half of a clip: the side of its face, the crf, and the degraded frames."""
    random = np.random.default_rng(list(seed))
    clip = read_clip(path)
    middle = len(clip) // 2
    for part in (clip[:middle], clip[middle:]):
        side = float(np.exp(random.uniform(*np.log(SIDES))))
        crf = int(random.integers(CRFS[0], CRFS[1] + 1))
        # Faces fill about 120 of the 256 pixels of a clip.
        size = [max(16, 2 * round(length * side / 120 / 2)) for length in part.shape[2:0:-1]]
        small = np.stack([cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in part])
        yield side, crf, list(h264_roundtrip(small, crf))


def embedded(images: Sequence[NDArray[np.uint8]], embedding: FaceEmbedding) -> TrackEmbeddings:
    """The embeddings of the tracks of a video."""
    height, width = images[0].shape[:2]
    info = VideoInfo("", "", 0, "", width, height, "rgb24", 8, Fraction(1, 25), Color())
    search = FaceSearch(FaceConfig(min_face=SIDES[0]), info, torch.device("cpu"), 1)
    found = TrackEmbeddings(embedding, View())
    for _ in chain([*search.stages, found], frames_of(images)):
        pass
    return found


def is_held_out(person: str) -> bool:
    """Whether a person of the training split is only for measuring: every second one, by a hash of the name."""
    return hashlib.sha256(person.encode()).digest()[0] % 2 == 0


def collect(
    clips: Sequence[tuple[str, Path]], embedding: FaceEmbedding, seeds: Sequence[int], cache: Path | None = None
) -> list[Half]:
    """The halves of these clips in which a face is tracked; kept in the file `cache` or taken from it, if given."""
    if cache is not None and cache.is_file():
        return _read(cache)
    found = []
    for seed, (number, (person, path)) in product(seeds, enumerate(clips)):
        for half, (side, crf, images) in enumerate(degraded_halves(path, (seed, number))):
            vectors = embedded(images, embedding).vectors
            if vectors:
                longest = max(vectors, key=lambda track: len(vectors[track]))
                found.append(Half(person, path.stem, seed, half, side, crf, vectors[longest]))
        print(f"{path.name}: {len(found)} halves", file=sys.stderr)
    if cache is not None:
        _write(cache, found)
    return found


def _write(path: Path, halves: Sequence[Half]) -> None:
    texts = [[half.person, half.clip] for half in halves]
    numbers = [[half.draw, half.number, half.side, half.crf, len(half.vectors)] for half in halves]
    np.savez(path, texts=texts, numbers=numbers, vectors=np.concatenate([half.vectors for half in halves]))


def _read(path: Path) -> list[Half]:
    with np.load(path, allow_pickle=False) as kept:
        ends = np.cumsum(kept["numbers"][:, 4].astype(int))
        parts = np.split(kept["vectors"], ends[:-1])
        rows = zip(kept["texts"].tolist(), kept["numbers"].tolist(), parts, strict=True)
        return [
            Half(*texts, int(draw), int(number), side, int(crf), part)
            for texts, (draw, number, side, crf, _), part in rows
        ]


def comparable(halves: Sequence[Half]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """The pairs of halves of one draw, by their two places, and whether both show one person."""
    people, draws = (np.array([getattr(half, name) for half in halves]) for name in ("person", "draw"))
    rows, columns = np.triu_indices(len(halves), 1)
    is_fit = draws[rows] == draws[columns]
    rows, columns = rows[is_fit], columns[is_fit]
    return rows, columns, people[rows] == people[columns]


def precise_threshold(scores: Array, is_same: NDArray[np.bool_], precision: float) -> float:
    """The lowest cosine above which at least this share of the pairs shows one person. Raises ValueError for none."""
    order = np.argsort(-scores, kind="stable")
    right = np.cumsum(is_same[order]) / np.arange(1, len(order) + 1)
    fit = np.flatnonzero(right >= precision)
    if not len(fit):
        raise ValueError(f"no threshold has a precision of {precision}")
    last = int(fit[-1])
    below = scores[order[last + 1]] if last + 1 < len(order) else scores[order[last]]
    return float((scores[order[last]] + below) / 2)


def measure(data: Path, embedding: FaceEmbedding, cache: Path | None = None) -> Iterator[Figure]:
    """The figures of this part, on people who are not in the training of the head."""
    clips = [clip for clip in face_clips(data, "train") if is_held_out(clip[0])] + face_clips(data, "eval")
    halves = collect(clips, embedding, SEEDS, cache)
    people, missing = len({person for person, _ in clips}), 2 * len(clips) * len(SEEDS) - len(halves)
    note = f"{people} people, {len(halves)} halves, {missing} without a track"
    head = embedding.head
    plain = replace(head, quality=0 * head.quality, content=0 * head.content)
    for least, most in RANGES:
        chosen = [half for half in halves if half.side >= least and half.crf <= most]
        where = f"{least:.0f} to {SIDES[1]:.0f} pixels, crf {CRFS[0]} to {most}"
        yield _pairs_figure(chosen, head, WHAT_PAIRS, f"{where} ({note})" if least == SIDES[0] else where)
        first = [half for half in chosen if half.draw == SEEDS[0]]
        yield _pairs_figure(first, head, "the same, one degradation of each half", where)
        yield _pairs_figure(chosen, plain, "the same by plain averaging", where)
        yield _switches_figure(chosen, head, where)


@dataclass(frozen=True, slots=True)
class FoundPairs:
    """Shares of the `count` pairs of one person: those in clusters (`recall`), and those whose cosine alone is above
    the threshold that has PRECISION (`best`); and the share of right pairs among those in clusters.
    """

    recall: float
    precision: float
    best: float
    count: int


def measure_pairs(halves: Sequence[Half], head: Head) -> FoundPairs:
    """The pairs of halves, of which at least one is one person's, that clusters bring together."""
    rows, columns, is_same = comparable(halves)
    vectors = np.stack([head.combined(half.vectors) for half in halves])
    scores = (vectors[rows] * vectors[columns]).sum(1)
    number_of = _clustered(halves, head)
    is_found = number_of[rows] == number_of[columns]
    right, count = int((is_found & is_same).sum()), int(is_same.sum())
    best = scores >= precise_threshold(scores, is_same, PRECISION)
    return FoundPairs(right / count, right / max(1, int(is_found.sum())), int((best & is_same).sum()) / count, count)


def _pairs_figure(halves: Sequence[Half], head: Head, what: str, on: str) -> Figure:
    """Precision and recall of the pairs of halves; recall is the figure."""
    found = measure_pairs(halves, head)
    text = (
        f"recall {found.recall:.2f} at a precision of {found.precision:.3f} in clusters; single pairs at a precision "
        f"of {PRECISION}: {found.best:.2f} ({found.count} pairs of one person)"
    )
    bar = f">= {RECALL} at a precision >= {PRECISION}"
    return Figure(what, on, found.recall, text, bar, found.recall >= RECALL and found.precision >= PRECISION)


def _switches_figure(halves: Sequence[Half], head: Head, on: str) -> Figure:
    """Persons in videos of four shots: two people, each in two shots, with cuts between."""
    mixed = split = videos = 0
    for draw in sorted({half.draw for half in halves}):
        by_person: dict[str, list[Half]] = {}
        for half in (half for half in halves if half.draw == draw):
            by_person.setdefault(half.person, []).append(half)
        pairs = [(each[0], each[-1]) for each in by_person.values() if len(each) > 1]
        for (a, a2), (b, b2) in zip(pairs, pairs[1:] + pairs[:1], strict=True):
            numbers = _clustered([a, b, a2, b2], head).tolist()
            mixed += len({numbers[0], numbers[2]} & {numbers[1], numbers[3]})
            split += (numbers[0] != numbers[2]) + (numbers[1] != numbers[3])
        videos += len(pairs)
    text = f"{mixed} in {videos} videos of two people and four shots; {split} of {2 * videos} people have two"
    return Figure(WHAT_SWITCHES, on, mixed, text, "0", mixed == 0)


def _clustered(halves: Sequence[Half], head: Head) -> NDArray[np.int64]:
    """The number of the person of each half, as tracks of one video for each draw."""
    found = np.zeros(len(halves), np.int64)
    for draw in {half.draw for half in halves}:
        combined = {k: head.combined(half.vectors) for k, half in enumerate(halves) if half.draw == draw}
        for person in find_persons(combined, set(), head.threshold):
            found[list(person.tracks)] = person.number
    return found
