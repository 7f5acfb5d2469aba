"""The detector against the reference detector on the same images: recall, false alarms, landmarks, time.

Both get an image as vidsr prepares it (faces/detector.py, `min_face` 16). The faces to find are those of 20 pixels and
more that the reference finds with a score of 0.8; those that it finds with 0.5 to 0.8 count neither as faces to find
nor as false alarms. A detection counts from the score at which vidsr begins a track, and from `min_face` on. For
reduced images, the faces to find are those of the full-size images, and the reference has to find them again too.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.faces.scores import Figure
from benchmarks.quality.runner import clip_paths, compressed, read_truth, reduced
from vidsr.config import FaceConfig, InputConfig
from vidsr.evaluation.detection import ImageResult, detector_metrics, evaluate_image, metrics_at_precision
from vidsr.faces.detections import Detections
from vidsr.faces.detector import FaceDetector, View
from vidsr.faces.tracker import TrackerConfig
from vidsr.faces.yunet import Yunet
from vidsr.video.reader import Reader

CPU = torch.device("cpu")
MIN_SIDE = 20.0
MIN_SCORE = 0.05
PRECISION = 0.95
SURE = 0.8
WILD_EVERY = 8
ROUNDS = 15
Images = Iterable[tuple[Tensor, View]]


class Pair:
    """Both detectors, run on the same images."""

    def __init__(self, ours: Yunet, reference: Yunet) -> None:
        self._networks = ours, reference

    def find(self, images: Images) -> Iterator[tuple[Detections, Detections]]:
        """The faces that each detector finds, best first, in pixels of the image (3 x H x W in 0..1)."""
        finders: dict[tuple[int, ...], list[FaceDetector]] = {}
        for image, view in images:
            key = (*image.shape, view.quarters)
            if key not in finders:
                size = image.shape[1], image.shape[2]
                finders[key] = [FaceDetector(each, view, *size, FaceConfig().min_face) for each in self._networks]
            ours, reference = (finder.find(image, MIN_SCORE) for finder in finders[key])
            yield ours, reference

    def judged(
        self, images: Images, truths: Iterable[Detections] | None = None
    ) -> tuple[list[ImageResult], list[ImageResult]]:
        """Compares the detections of both with `truths`, by default the faces that the reference finds in the image."""
        both: tuple[list[ImageResult], list[ImageResult]] = [], []
        given = iter(truths) if truths is not None else None
        for found in self.find(images):
            truth = found[1] if given is None else next(given)
            for faces, results in zip(found, both, strict=True):
                results.append(evaluate_image(large_enough(faces), truth, MIN_SIDE, SURE))
        return both


def large_enough(faces: Detections) -> Detections:
    """The faces that are large enough to begin a track."""
    return faces.take(np.sqrt(np.prod(faces.boxes[:, 2:], axis=1)) >= TrackerConfig().min_side)


def clip_images(clip: Tensor) -> Iterator[tuple[Tensor, View]]:
    """The frames of a uint8 clip, or of one in 0..1."""
    for frame in clip:
        yield (frame.float() / 255 if frame.dtype == torch.uint8 else frame), View()


def video_images(path: Path, every: int) -> Iterator[tuple[Tensor, View]]:
    """Every `every`-th frame of a video, as vidsr reads it."""
    with Reader(path, InputConfig(), CPU) as reader:
        view = View.of(reader.info)
        for index, frame in enumerate(reader.frames()):
            if index % every == 0:
                yield frame.image, view


def measure(data: Path, ours: Path, reference: Path) -> Iterator[Figure]:
    """The figures of this part, one set after the other."""
    networks = Yunet(ours, CPU, 1), Yunet(reference, CPU, 1)
    pair = Pair(*networks)
    full: tuple[list[ImageResult], list[ImageResult]] = [], []
    low: tuple[list[ImageResult], list[ImageResult]] = [], []
    for path in clip_paths(data / "eval" / "faces"):
        truth = read_truth(path)
        found = [each for _, each in pair.find(clip_images(truth))]
        for sums, new in zip(full, pair.judged(clip_images(truth), found), strict=True):
            sums += new
        small = compressed(reduced(truth, "BI"), 28)
        quarter = [faces.scaled(0.25, 0.25) for faces in found]
        for sums, new in zip(low, pair.judged(clip_images(small), quarter), strict=True):
            sums += new
    yield from recall_figures("eval/faces", full, 0.95)
    yield from recall_figures("eval/faces reduced x4, crf 28", low, 0.95)
    wild: tuple[list[ImageResult], list[ImageResult]] = [], []
    for path in clip_paths(data / "eval" / "wild"):
        for sums, new in zip(wild, pair.judged(video_images(path, WILD_EVERY)), strict=True):
            sums += new
    yield from recall_figures(f"eval/wild, every {WILD_EVERY}th frame", wild, 0.85)
    general: list[ImageResult] = []
    for path in clip_paths(data / "eval" / "general"):
        general += pair.judged(clip_images(read_truth(path)))[0]
    alarms = 200 * detector_metrics(general, TrackerConfig().strong).false_alarms
    yield Figure(
        "false alarms in 200 frames",
        f"eval/general, {len(general)} frames",
        alarms,
        f"{alarms:.2f}",
        "<= 1",
        alarms <= 1,
    )
    ratio = time_ratio(*networks)
    yield Figure("time to the reference's", "800x480, one thread", ratio, f"{ratio:.2f}")


def recall_figures(label: str, both: tuple[list[ImageResult], list[ImageResult]], bar: float) -> Iterator[Figure]:
    """The figures of both detectors on one set of images."""
    ours, theirs = (detector_metrics(each, TrackerConfig().strong) for each in both)
    best = metrics_at_precision(both[0], PRECISION)
    share = ours.recall / theirs.recall
    wanted = sum(result.wanted for result in both[0])
    precise = ours.precision >= PRECISION
    yield Figure(
        "detector recall to the reference's",
        f"{label}: {wanted} faces in {len(both[0])} frames",
        share,
        f"{share:.3f} (recall {ours.recall:.3f}, the reference {theirs.recall:.3f}; precision {ours.precision:.3f})",
        f">= {bar}, precision >= {PRECISION}",
        share >= bar and precise,
    )
    yield Figure(
        f"lowest threshold with precision {PRECISION}",
        label,
        best.threshold,
        f"{best.threshold:.2f}, recall {best.recall:.3f} (vidsr's threshold: {ours.threshold:.2f})",
    )
    yield Figure(
        "landmark error in % of the eye distance",
        label,
        100 * ours.landmark_error,
        f"{100 * ours.landmark_error:.2f} (the reference {100 * theirs.landmark_error:.2f})",
    )


def time_ratio(ours: Yunet, reference: Yunet) -> float:
    """Ratio of the median times of ours and the reference, in turn, on an image of the size that 640x360 becomes."""
    image = np.random.default_rng(0).uniform(0, 255, (3, 480, 800)).astype(np.float32)
    seconds: tuple[list[float], list[float]] = [], []
    if any(network.size is not None for network in (ours, reference)):
        return float("nan")
    for _ in range(ROUNDS + 1):
        for network, spent in zip((ours, reference), seconds, strict=True):
            started = time.perf_counter()
            network.run(image, TrackerConfig().weak)
            spent.append(time.perf_counter() - started)
    return statistics.median(seconds[0][1:]) / statistics.median(seconds[1][1:])
