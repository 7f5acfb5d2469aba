"""Who is who: embeddings of face tracks, and the tracks of one person through cuts.

Every EVERY-th frame of a track is embedded, fewer of long ones; its vectors are combined by the head of the embedding
(heads.py). Tracks belong to one person by clusters of average link over the cosine of their combined vectors. Two
tracks that are visible in one frame never do.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from vidsr.faces.alignment import Image
from vidsr.faces.detections import Array, rotate_points
from vidsr.faces.detector import View
from vidsr.faces.embedding import FaceEmbedding
from vidsr.stages.base import FrameStage
from vidsr.types import Face, Frame, Person

EVERY = 2
# Vectors kept per track: of a longer track every second one is dropped whenever there are twice as many. So the number
# of faces that are embedded grows with the logarithm of a track's length.
MOST_VECTORS = 16
# Half the side of the part of a frame that is embedded, in distances of the five points from their center: more than
# the images of the embeddings show.
REACH = 5.0

Pair = tuple[int, int]


@dataclass(slots=True)
class TrackVectors:
    """The vectors of one track so far, of every `step`-th of its `seen` frames."""

    step: int = EVERY
    seen: int = 0
    vectors: list[Array] = field(default_factory=list)


class TrackEmbeddings(FrameStage):
    """The stage that embeds the faces of frames that carry them; frames do not change. Memory grows with the tracks.

    `together` are the pairs of tracks, the smaller number first, that are visible in one frame.
    """

    name = "embed_faces"

    def __init__(self, embedding: FaceEmbedding, view: View) -> None:
        self._embedding, self._view = embedding, view
        self._tracks: dict[int, TrackVectors] = {}
        self.together: set[Pair] = set()

    def process(self, frame: Frame) -> Frame:
        """Embeds the faces whose turn it is; returns the frame. Raises ModelError."""
        numbers = sorted({face.track for face in frame.faces})
        self.together |= {(a, b) for k, a in enumerate(numbers) for b in numbers[k + 1 :]}
        for face in frame.faces:
            track = self._tracks.setdefault(face.track, TrackVectors())
            if track.seen % track.step == 0:
                if len(track.vectors) == 2 * MOST_VECTORS:
                    track.vectors, track.step = track.vectors[::2], 2 * track.step
                if track.seen % track.step == 0:
                    track.vectors.append(self._embedding.embed(*upright_face(frame, face, self._view)))
            track.seen += 1
        return frame

    @property
    def vectors(self) -> dict[int, Array]:
        """The vectors of each track, n x N."""
        return {number: np.stack(track.vectors) for number, track in self._tracks.items()}

    def persons(self) -> tuple[Person, ...]:
        """The persons so far, by number."""
        head = self._embedding.head
        combined = {track: head.combined(vectors) for track, vectors in self.vectors.items()}
        return find_persons(combined, self.together, head.threshold)


def upright_face(frame: Frame, face: Face, view: View) -> tuple[Image, Array]:
    """The part of a frame around a face, H x W x 3, turned upright, and the five points in it, smoothed if they are."""
    height, width = frame.image.shape[-2:]
    points = np.array(face.smoothed or face.landmarks, np.float64)
    middle = points.mean(0)
    reach = max(1.0, REACH * float(np.sqrt(((points - middle) ** 2).sum(1).mean())))
    left, top = np.clip(np.floor(middle - reach).astype(int), 0, [width - 1, height - 1])
    right, bottom = np.clip(np.ceil(middle + reach).astype(int), [left + 1, top + 1], [width, height])
    part = frame.image[:, top:bottom, left:right].float().cpu().numpy()
    image = (view.upright(part) * 255).round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
    turned = rotate_points(points - [left, top], view.quarters, right - left, bottom - top)
    return np.ascontiguousarray(image), turned


def find_persons(combined: Mapping[int, Array], together: Set[Pair], threshold: float) -> tuple[Person, ...]:
    """The persons of tracks with these unit vectors; each person's number is that of its first track.

    Two groups of tracks are merged, the most similar first, while the mean cosine between their tracks is at least
    `threshold`, unless the groups have two tracks that are visible `together`.
    """
    tracks = sorted(combined)
    if len(tracks) < 2:
        return tuple(Person(track, (track,)) for track in tracks)
    vectors = np.stack([combined[track] for track in tracks])
    places = {track: place for place, track in enumerate(tracks)}
    labels = clusters(vectors @ vectors.T, threshold, {(places[a], places[b]) for a, b in together})
    groups: dict[int, list[int]] = {}
    for track, label in zip(tracks, labels.tolist(), strict=True):
        groups.setdefault(label, []).append(track)
    return tuple(sorted((Person(each[0], tuple(each)) for each in groups.values()), key=lambda person: person.number))


def clusters(similarities: Array, threshold: float, apart: Set[Pair] = frozenset()) -> NDArray[np.int32]:
    """The cluster of each of n items, at least 2, by average link over their similarities, n x n, in -1..1.

    Clusters are merged, the most similar first, while the mean similarity between their items is at least `threshold`,
    unless they have two items that are a pair of `apart`.
    """
    distances = 1 - similarities.clip(-1, 1)
    # Larger than any mean of distances without such a pair: SciPy takes no infinity.
    forbidden = 4.0 * len(distances) ** 2
    for a, b in apart:
        distances[a, b] = distances[b, a] = forbidden
    np.fill_diagonal(distances, 0)
    tree = linkage(squareform(distances, checks=False), "average")
    labels: NDArray[np.int32] = fcluster(tree, 1 - threshold, "distance")
    return labels


def similarity(combined: Mapping[int, Array], person: Person, vector: Array) -> float:
    """The mean cosine between a person's tracks and a unit vector."""
    return float(np.mean([combined[track] @ vector for track in person.tracks]))
