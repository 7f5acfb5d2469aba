"""Identity switches of face tracks: clips of faces side by side, and heads that cross each other's paths.

The true identities are known by construction. Side by side: the largest face in a clip's part of the image belongs to
that clip. Crossing: the true boxes are those of the reference detector in the clip, moved with it; a track gets the
identity whose box it overlaps most, with an IoU of at least 0.5. Frames in which two true boxes overlap by more than
OVERLAP are left out, because a box cannot be assigned to a person there; the numbers before and after count.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from benchmarks.faces.scenes import Image, Walker, enlarged, side_by_side, walk
from benchmarks.faces.scores import Figure, switches
from benchmarks.quality.runner import clip_paths
from vidsr.config import FaceConfig
from vidsr.faces.detections import pairwise_iou
from vidsr.faces.detector import FaceDetector, View
from vidsr.faces.finding import FaceFinder
from vidsr.faces.tracker import FaceTracker, TrackerConfig
from vidsr.faces.yunet import Yunet
from vidsr.stages.base import through
from vidsr.train.dataset import read_clip
from vidsr.types import Face, Frame

CPU = torch.device("cpu")
# Clips with several people; all others in the folder show one person.
CROWDS = ("street_crowd_00",)
SCENE = (640, 360)
SCENE_FRAMES = 70
OVERLAP = 0.1
HEAD = 1.5  # side of the crop in multiples of the box's longer side, so that it includes hair and chin


def frames_of(images: Sequence[Image]) -> Iterator[Frame]:
    """Converts images to vidsr's frames."""
    for index, pixels in enumerate(images):
        image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).float() / 255
        yield Frame(image, index, Fraction(1, 25), 1, index == 0)


def tracked(images: Sequence[Image], network: Yunet) -> list[tuple[Face, ...]]:
    """The faces of each frame as tracked by vidsr."""
    config = FaceConfig()
    finder = FaceDetector(network, View(), *images[0].shape[:2], config.min_face)
    tracker = FaceTracker(TrackerConfig(min_side=config.min_face))
    return [frame.faces for frame in through(FaceFinder(finder, config.every, tracker), frames_of(images))]


def by_column(faces: tuple[Face, ...], width: int) -> list[tuple[int, int]]:
    """Pairs of person and track number: the largest face in each part of this width."""
    largest: dict[int, Face] = {}
    for face in sorted(faces, key=lambda face: face.side):
        largest[int((face.box[0] + face.box[2] / 2) // width)] = face
    return [(person, face.track) for person, face in largest.items()]


def by_box(faces: tuple[Face, ...], truth: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Pairs of person and track number by the best overlap of boxes; empty while true boxes overlap each other."""
    between = pairwise_iou(truth, truth) - np.eye(len(truth))
    if not faces or between.max() > OVERLAP:
        return []
    shares = pairwise_iou(truth, np.array([face.box for face in faces]))
    pairs = zip(*linear_sum_assignment(-shares), strict=True)
    return [(int(person), faces[row].track) for person, row in pairs if shares[person, row] >= 0.5]


def heads(data: Path, reference: Yunet) -> list[tuple[list[Image], NDArray[np.float64]]]:
    """For each clip with one person: crops of the head, H x W x 3, and the face's box in each; the crop is fixed."""
    result = []
    for path in single_clips(data):
        clip = read_clip(path)
        finder = FaceDetector(reference, View(), *clip.shape[1:3], FaceConfig().min_face)
        found = [finder.find(frame.image, 0.5) for frame in frames_of(list(clip))]
        boxes = np.array([faces.boxes[0] for faces in found])
        x, y = np.median(boxes[:, :2] + boxes[:, 2:] / 2, axis=0)
        side = int(HEAD * np.median(boxes[:, 2:], axis=0).max())
        left, top = max(0, round(x - side / 2)), max(0, round(y - side / 2))
        crops = [frame[top : top + side, left : left + side] for frame in clip]
        result.append((crops, boxes - (left, top, 0, 0)))
    return result


def single_clips(data: Path) -> list[Path]:
    """The clips of eval/faces that show one person."""
    return [path for path in clip_paths(data / "eval" / "faces") if path.stem not in CROWDS]


def walker(
    head: tuple[list[Image], NDArray[np.float64]], face: float, start: tuple[float, float], end: tuple[float, float]
) -> Walker:
    """A head whose face is about this many pixels high."""
    crops, boxes = head
    scale = face / np.median(boxes[:, 3])
    size = round(crops[0].shape[1] * scale), round(crops[0].shape[0] * scale)
    small = [np.asarray(cv2.resize(crop, size, interpolation=cv2.INTER_AREA), np.uint8) for crop in crops]
    return Walker(small, boxes * scale, start, end)


def crossings(people: Sequence[tuple[list[Image], NDArray[np.float64]]]) -> Iterator[tuple[str, list[Walker]]]:
    """Paths in a scene of 640x360: opposite directions, shifted, overtaking, diagonal, three people.

    All are fast enough that nobody is hidden for longer than the tracker's patience of 15 frames.
    """
    pairs = list(combinations(range(len(people)), 2))
    for number, (first, second) in enumerate(pairs[:: max(1, len(pairs) // 4)][:4]):
        a, b = people[first], people[second]
        face = (40.0, 60.0, 80.0, 100.0)[number]
        yield f"opposite, {face:.0f}", [walker(a, face, (90, 180), (550, 180)), walker(b, face, (550, 180), (90, 180))]
        yield (
            f"shifted, {face:.0f}",
            [
                walker(a, face, (90, 165), (550, 165)),
                walker(b, 0.9 * face, (550, 165 + face / 2), (90, 165 + face / 2)),
            ],
        )
        yield (
            f"overtaking, {face:.0f}",
            [
                walker(a, face, (250, 175), (390, 175)),
                walker(b, 1.1 * face, (-120, 185), (720, 185)),
            ],
        )
        yield (
            f"diagonal, {face:.0f}",
            [
                walker(a, face, (100, 80), (540, 280)),
                walker(b, face, (540, 80), (100, 280)),
            ],
        )
        c = people[(second + 3) % len(people)]
        yield (
            f"three, {face:.0f}",
            [
                walker(a, 0.7 * face, (80, 180), (560, 180)),
                walker(b, 0.7 * face, (560, 175), (80, 185)),
                walker(c, 0.7 * face, (320, 60), (320, 300)),
            ],
        )


def measure(data: Path, detector: Path, reference: Path) -> Iterator[Figure]:
    """The figures of this part."""
    network, teacher = Yunet(detector, CPU, 1), Yunet(reference, CPU, 1)
    clips = [read_clip(path) for path in single_clips(data)]
    for count, label in ((2, "two"), (3, "three")):
        known = []
        for first in range(len(clips)):
            chosen = [clips[(first + offset) % len(clips)] for offset in range(count)]
            images = list(side_by_side(chosen))
            width = images[0].shape[1] // count
            known.append([by_column(faces, width) for faces in tracked(images, network)])
        yield figure(f"eval/faces, {label} side by side", known, count * len(clips))
    background = read_clip(data / "eval" / "general" / "davis_coaster_00.mp4")
    known, people = [], 0
    for name, walkers in crossings(heads(data, teacher)):
        scene = list(walk(list(enlarged(background, *SCENE, SCENE_FRAMES)), walkers))
        faces = tracked([image for image, _ in scene], network)
        known.append([by_box(seen, truth) for seen, (_, truth) in zip(faces, scene, strict=True)])
        people += len(walkers)
        if count := switches(known[-1]):
            print(f"{name}: {count} switches", file=sys.stderr)
    yield figure("crossing paths, 640x360", known, people)


def figure(label: str, known: list[list[list[tuple[int, int]]]], people: int) -> Figure:
    """The switches of all videos together; the target is met only if all `people` were tracked."""
    count = sum(switches(video) for video in known)
    shown = sum(len(frame) for video in known for frame in video)
    followed = sum(len({person for frame in video for person, _ in frame}) for video in known)
    text = f"{count} ({followed} of {people} people tracked in {len(known)} videos, {shown} faces)"
    return Figure("id switches", label, count, text, "0, nobody missed", count == 0 and followed == people)
