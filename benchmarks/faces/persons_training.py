"""Trains the multi-column head of vidsr/faces/embedding_heads for dlib's embedding.

    python -m benchmarks.faces.persons_training --data DIR [--cache FOLDER] [--output FILE]

Needs the extra `identity`. DIR holds train/clips/faces, faces_stills and index.json. From halves of clips of every
second person (persons.py), degraded several times, come the mean and its slopes, the whitening and the threshold; from
them and from photographs, each degraded twice, come the weights of the two columns. What is measured afterwards uses
the other people. Embeddings are kept in FOLDER, if it is given.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tomli_w
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.faces.persons import CRFS, RANGES, SIDES, Half, collect, face_clips, is_held_out
from vidsr.faces.embedding import LENGTH, Dlib, FaceEmbedding, dlib_file
from vidsr.faces.heads import FOLDER, WHITENING_UNITS, Head, HeadCard, plain_head
from vidsr.faces.persons import clusters
from vidsr.video.roundtrip import h264_roundtrip

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a head is trained.

    `photographs`: how many are drawn. `people`: those of a step, of whom each has two sets of `most` images at most.
    `tails`: the share of images whose qualities are below the limits, and of those above. `shrinkage`: what is added to
    the covariance before it is inverted, in multiples of its mean variance. `precision`: of pairs of training halves
    that clusters bring together, in each of RANGES. `scale` multiplies cosines in the softmax.
    """

    seed: int = 1
    clip_seeds: tuple[int, ...] = (11, 12, 13, 14, 15, 16)
    tails: float = 0.01
    shrinkage: float = 0.3
    photographs: int = 400
    steps: int = 400
    people: int = 24
    most: int = 6
    learning_rate: float = 0.02
    decay: float = 1e-3
    scale: float = 12.0
    precision: float = 0.98


RECIPE = Recipe()
# Degradations of a photograph: sides of the face, and crf.
GENTLE, HARD = ((48.0, 64.0), (18, 30)), ((SIDES[0], 40.0), CRFS)
LEAST_SIDE = 60.0
# From the strictest, 0.9, to the most generous.
THRESHOLDS = np.arange(180, 60, -1) / 200
# Frames of the videos that the clips were cut from: some of their people are held out.
FROM_VIDEOS = "identities/"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--cache", type=Path, metavar="FOLDER")
    parser.add_argument("--output", type=Path, default=FOLDER / "dlib.toml", metavar="FILE")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    file = dlib_file()
    if file is None:
        parser.error("dlib is not installed: pip install 'vidsr-video[identity]'")
    embedding, cache = Dlib(file, plain_head(LENGTH, 1.0)), options.cache
    clips = [clip for clip in face_clips(options.data, "train") if not is_held_out(clip[0])]
    halves = collect(clips, embedding, RECIPE.clip_seeds, None if cache is None else cache / "halves.npz")
    stills = photographs(options.data, embedding, None if cache is None else cache / "stills.npz")
    head = train(halves, stills, RECIPE)
    options.output.parent.mkdir(exist_ok=True)
    options.output.write_text(text_of(card(head, len(halves), len(stills))))
    print(f"{options.output}: {len(halves)} halves, {len(stills)} photographs, threshold {head.threshold}")


def photographs(data: Path, embedding: FaceEmbedding, cache: Path | None = None) -> Array:
    """Embeddings of photographs of different people, each degraded gently and hard: n x 2 x (N + K)."""
    if cache is not None and cache.is_file():
        return np.asarray(np.load(cache)["vectors"])
    entries = {entry["path"]: entry for entry in json.loads((data / "index.json").read_text())}
    labels = [
        label
        for name in ("labels", "new_labels")
        for label in json.loads((data / "faces_stills" / f"{name}.json").read_text())
        if is_usable(label, entries.get(label["path"]))
    ]
    order = np.random.default_rng(RECIPE.seed).permutation(len(labels))
    found = []
    for number in order[: RECIPE.photographs].tolist():
        label, random = labels[number], np.random.default_rng((RECIPE.seed, number))
        if label["path"].startswith(FROM_VIDEOS):
            continue
        image = np.asarray(cv2.imread(str(data / label["path"]))[..., ::-1], np.uint8)
        found.append([degraded(image, label["faces"][0], kind, random, embedding) for kind in (GENTLE, HARD)])
        print(f"{label['path']}: {len(found)} photographs", file=sys.stderr)
    vectors = np.array(found)
    if cache is not None:
        np.savez(cache, vectors=vectors)
    return vectors


def is_usable(label: dict[str, Any], entry: dict[str, Any] | None) -> bool:
    """Whether a labeled photograph is for training, and shows one face that is large enough."""
    if entry is None or entry["split"] != "train" or entry["licence_class"] not in ("A", "B"):
        return False
    boxes = [face["box"] for face in label["faces"]]
    return len(boxes) == 1 and bool(np.sqrt(boxes[0][2] * boxes[0][3]) >= LEAST_SIDE)


def degraded(
    image: NDArray[np.uint8], face: dict[str, list[float]],
    kind: tuple[tuple[float, float], tuple[int, int]], random: np.random.Generator, embedding: FaceEmbedding,
) -> Array:  # fmt: skip
    """The embedding of a labeled face in a photograph, H x W x 3, reduced and encoded; its points are noisy."""
    x, y, width, height = face["box"]
    sides, crfs = kind
    side = float(np.exp(random.uniform(*np.log(sides))))
    crf = int(random.integers(crfs[0], crfs[1] + 1))
    left, top = int(max(0, x - width / 2)), int(max(0, y - height / 2))
    part = image[top : int(y + 1.5 * height), left : int(x + 1.5 * width)]
    size = [max(16, 2 * round(length * side / np.sqrt(width * height) / 2)) for length in part.shape[1::-1]]
    small = np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_AREA), np.uint8)
    decoded = h264_roundtrip(np.stack([small] * 2), crf)[1]
    points = (np.array(face["landmarks"]) - [left, top]) * (np.array(size) / part.shape[1::-1])
    points += random.normal(0, 0.03 * np.hypot(*(points[1] - points[0])), points.shape)
    return embedding.embed(decoded, points)


def train(halves: Sequence[Half], stills: Array, recipe: Recipe) -> Head:
    """The head for the people of these halves, and these photographs."""
    people = np.array([half.person for half in halves])
    names = sorted(set(people.tolist()))
    plain = with_mean(halves, people, recipe)
    tracks = np.stack([plain.combined(half.vectors) for half in halves])
    plain = replace(plain, whitening=whitening(covariances(tracks, people), recipe.shrinkage))
    pools = [
        torch.from_numpy(np.concatenate([plain.normalized(half.vectors) for half in halves if half.person == name]))
        for name in names
    ]
    pools += [torch.from_numpy(plain.normalized(pair)) for pair in stills]
    head = rounded(with_columns(plain, pools, recipe))
    return replace(head, threshold=cross_validated_threshold(halves, head, recipe))


def with_mean(halves: Sequence[Half], people: NDArray[np.str_], recipe: Recipe) -> Head:
    """The plain head with the mean of people, its slopes, and the limits of qualities.

    Slopes are of a regression of a half's mean vector on its mean qualities within people, each with the same weight.
    """
    qualities = np.concatenate([half.vectors[:, LENGTH:] for half in halves])
    limits = np.quantile(qualities, [recipe.tails, 1 - recipe.tails], axis=0).T
    rows = np.stack([half.vectors.mean(0) for half in halves])
    means = {name: rows[people == name].mean(0) for name in np.unique(people)}
    within = np.concatenate([(rows[people == name] - mean) / np.sqrt((people == name).sum())
                             for name, mean in means.items()])  # fmt: skip
    slopes = np.linalg.lstsq(within[:, LENGTH:], within[:, :LENGTH], rcond=None)[0]
    middle = np.mean(list(means.values()), axis=0)
    plain = plain_head(LENGTH, 1.0)
    return replace(plain, mean=middle[:LENGTH] - middle[LENGTH:] @ slopes, slopes=slopes, limits=limits)


def covariances(vectors: Array, people: NDArray[np.str_]) -> dict[str, Array]:
    """For each person the covariance, N x N, of the vectors, n x N, that are theirs; at least 2 each."""
    return {str(name): np.cov(vectors[people == name].T) for name in np.unique(people)}


def whitening(within: Mapping[str, Array], shrinkage: float) -> Array:
    """The upper triangular A, N x N, for which A' A is the inverse of the mean of these covariances, shrunk.

    The mean is divided by its mean variance, and `shrinkage` times the identity is added. Hatch et al. (Interspeech
    2006) smooth in the same way.
    """
    mean: Array = np.mean(list(within.values()), axis=0)
    size = len(mean)
    shrunk = mean / (np.trace(mean) / size) + shrinkage * np.eye(size)
    return np.asarray(np.linalg.cholesky(np.linalg.inv(shrunk)).T)


def with_columns(plain: Head, pools: Sequence[Tensor], recipe: Recipe) -> Head:
    """The head with the weights of both columns, trained on the unit vectors of each person."""
    assert plain.whitening is not None
    size, random = len(plain.mean), np.random.default_rng(recipe.seed)
    matrix = torch.from_numpy(np.ascontiguousarray(plain.whitening))
    columns = [torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (size, 1, 2 * size, 1)]
    optimizer = torch.optim.AdamW(columns, recipe.learning_rate, weight_decay=recipe.decay)
    for step in range(recipe.steps):
        people = random.choice(len(pools), min(recipe.people, len(pools)), replace=False)
        loss = contrast([split(pools[k], recipe.most, random) for k in people], columns, matrix, recipe.scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step}: {loss.item():.4f}", file=sys.stderr)
    w, b, u, c = (column.detach().numpy() for column in columns)
    return replace(plain, quality=w, content=u, biases=(float(b[0]), float(c[0])))


def cross_validated_threshold(halves: Sequence[Half], head: Head, recipe: Recipe) -> float:
    """The lowest threshold from which on clusters of the halves of each draw have the wanted precision of pairs.

    They must have it in each of RANGES. The cosine of two halves is that of a whitening from the other people, without
    those whom the two show.
    """
    people = np.array([half.person for half in halves])
    draws = np.array([half.draw for half in halves])
    vectors = np.stack([replace(head, whitening=None).combined(half.vectors) for half in halves])
    within = covariances(vectors, people)
    cosines = np.eye(len(halves))
    for a, b in combinations_with_replacement(sorted(within), 2):
        others = {name: each for name, each in within.items() if name not in (a, b)}
        turned = vectors @ whitening(others, recipe.shrinkage).T
        turned /= np.linalg.norm(turned, axis=1, keepdims=True)
        first, second = np.flatnonzero(people == a), np.flatnonzero(people == b)
        cosines[np.ix_(first, second)] = turned[first] @ turned[second].T
        cosines[np.ix_(second, first)] = cosines[np.ix_(first, second)].T
    sides, crfs = (np.array([getattr(half, name) for half in halves]) for name in ("side", "crf"))
    sets = [
        [np.flatnonzero((draws == draw) & (sides >= least) & (crfs <= most)) for draw in np.unique(draws)]
        for least, most in RANGES
    ]
    best = 1.0
    for threshold in THRESHOLDS:
        counts = np.array([sum(pair_counts(cosines, people, places, threshold) for places in each) for each in sets])
        print(f"threshold {threshold:.3f}: right and found {counts.tolist()}", file=sys.stderr)
        if (counts[:, 0] < recipe.precision * counts[:, 1]).any():
            break
        best = float(threshold)
    return round(best, 3)


def pair_counts(cosines: Array, people: NDArray[np.str_], places: NDArray[np.int64], threshold: float) -> Array:
    """How many of the pairs that clusters of the items at `places` bring together are one person's, and how many all.

    `cosines` are n x n, `people` n.
    """
    if len(places) < 2:
        return np.zeros(2)
    labels = clusters(cosines[np.ix_(places, places)], threshold)
    rows, columns = np.triu_indices(len(places), 1)
    together = labels[rows] == labels[columns]
    right = together & (people[places][rows] == people[places][columns])
    return np.array([right.sum(), together.sum()], float)


def split(pool: Tensor, most: int, random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Two sets of a person's vectors that share none."""
    order = random.permutation(len(pool))
    sizes = random.integers(1, most + 1, 2)
    middle = max(1, min(len(pool) - 1, int(sizes[0])))
    return pool[order[:middle]], pool[order[middle : middle + int(sizes[1])]]


def contrast(sets: Sequence[tuple[Tensor, Tensor]], columns: Sequence[Tensor], matrix: Tensor, scale: float) -> Tensor:
    """Cross-entropy of finding, for each first set, the second one of the same person among those of all."""
    first, second = (torch.stack([combined(pair[k], columns, matrix) for pair in sets]) for k in range(2))
    scores, target = scale * first @ second.T, torch.arange(len(sets))
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def combined(units: Tensor, columns: Sequence[Tensor], matrix: Tensor) -> Tensor:
    """Head.combined in torch, of unit vectors; `matrix` is the whitening."""
    w, b, u, c = columns
    alpha = torch.sigmoid(units @ w + b)
    middle = alpha @ units / alpha.sum()
    beta = torch.sigmoid(torch.cat((units, middle.expand_as(units)), dim=1) @ u + c)
    return F.normalize(matrix @ ((alpha * beta) @ units), dim=0)


def rounded(head: Head) -> Head:
    """The head with three significant digits, and the whitening in its units, as its file has them."""

    def short(values: Array) -> Array:
        return np.array([float(f"{value:.3g}") for value in values.ravel()]).reshape(values.shape)

    assert head.whitening is not None
    biases = short(np.array(head.biases))
    parts = {name: short(getattr(head, name)) for name in ("mean", "slopes", "limits", "quality", "content")}
    matrix = (head.whitening * WHITENING_UNITS).round() / WHITENING_UNITS
    return replace(head, biases=(float(biases[0]), float(biases[1])), whitening=matrix, **parts)


def card(head: Head, halves: int, stills: int) -> dict[str, object]:
    """The content of the head's file."""
    assert head.whitening is not None
    triangle = (head.whitening * WHITENING_UNITS).round().astype(int)[np.triu_indices(len(head.whitening))]
    numbers = {
        "threshold": head.threshold, "biases": head.biases, "mean": tuple(head.mean.tolist()),
        "slopes": tuple(head.slopes.ravel().tolist()), "limits": tuple(head.limits.ravel().tolist()),
        "quality": tuple(head.quality.tolist()), "content": tuple(head.content.tolist()),
        "whitening": tuple(triangle.tolist()),
    }  # fmt: skip
    facts = {
        "name": "dlib",
        "summary": "combines dlib's embeddings of a face track",
        "licence": "Apache-2.0",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "recipe": f"python -m benchmarks.faces.persons_training --data DIR: {RECIPE}",
        "data": f"{halves} halves of face clips of every second person, {stills} photographs, of the curated set's "
        "training split",
        "data_licences": "classes A and B; dlib's network CC0",
        "metrics_command": "python -m benchmarks.faces --data DIR --only persons",
    }
    made = HeadCard(**facts, **numbers, sha256="")  # type: ignore[arg-type]
    return {**facts, "sha256": made.digest, **numbers}


def text_of(values: dict[str, object]) -> str:
    """TOML with 16 numbers a line, to keep the file small."""
    lists = {name: value for name, value in values.items() if isinstance(value, tuple)}
    text = tomli_w.dumps({name: value for name, value in values.items() if name not in lists})
    for name, numbers in lists.items():
        rows = [", ".join(map(repr, numbers[k : k + 16])) for k in range(0, len(numbers), 16)]
        text += "\n".join([f"{name} = [", *(f"{row}," for row in rows), "]", ""])
    return text


if __name__ == "__main__":
    main()
