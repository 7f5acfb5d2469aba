"""Accuracy of faces in the results of several systems, inside the face's box and around it.

The true boxes and landmarks are those of the reference detector in the original clip. Faces that are smaller than
vidsr's `--min-face` in the reduced scene are neither restored nor measured.
- PSNR (R, G, B), SSIM and SSIM_vt inside the face's box, which keeps its size and follows the face; means over faces.
- Temporal landmark error: the reference detector's landmarks in the result minus those in the truth, SDD (3.3), in % of
  the eye distance: the part of the error that changes in time.
- Border flicker: BorderFlicker in scores.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.faces.landmark_metrics import eye_distance, overall, sdd
from benchmarks.faces.scores import BorderFlicker, Figure, followed
from vidsr.config import RestoreConfig
from vidsr.evaluation.evaluate import score_clip
from vidsr.faces.detector import FaceDetector

Array = NDArray[np.float64]
SCALE = 4
SYSTEMS = ("bicubic", "alone", "restored", "frame by frame")


@dataclass
class Shown:
    """One face clip in one scene: truth and results of each frame, 3 x H x W uint8, in the rectangle of the clip."""

    name: str
    truth: list[Tensor] = field(default_factory=list)
    results: dict[str, list[Tensor]] = field(default_factory=lambda: {system: [] for system in SYSTEMS})


@dataclass(frozen=True)
class Truth:
    """The face of a clip, frame by frame: box and landmarks of the reference detector."""

    boxes: Array
    landmarks: Array


@dataclass(frozen=True)
class Measured:
    """The figures of one face with one system; `lost`: in how many frames the reference detector did not find it."""

    psnr: float
    ssim: float
    ssim_vt: float
    landmark_error: float
    flicker: float
    lost: int


def known_face(finder: FaceDetector, truth: list[Tensor]) -> Truth | None:
    """The largest face of the first frame, followed; None if it is too small in the reduced scene."""
    boxes, landmarks, last = [], [], None
    for image in truth:
        found = finder.find(image.float() / 255, 0.5)
        middles = found.landmarks.mean(1)
        if last is None:
            if not len(found) or np.sqrt(np.prod(found.boxes[:, 2:], axis=1)).max() < SCALE * RestoreConfig().min_face:
                return None
            row = int(np.prod(found.boxes[:, 2:], axis=1).argmax())
        else:
            row = int(np.hypot(*(middles - last).T).argmin())
        last = middles[row]
        boxes.append(found.boxes[row])
        landmarks.append(found.landmarks[row])
    return Truth(np.array(boxes), np.array(landmarks))


def scores(finder: FaceDetector, face: Shown, system: str, known: Truth) -> Measured:
    """All figures of one face."""
    results = face.results[system]
    boxes = [box.within(*results[0].shape[:0:-1]) for box in followed(known.boxes)]
    inside = score_clip(
        face.name,
        (box.cut(frame) for box, frame in zip(boxes, face.truth, strict=True)),
        (box.cut(frame) for box, frame in zip(boxes, results, strict=True)),
    ).scores
    flicker = BorderFlicker()
    for truth, result, box in zip(face.truth, results, boxes, strict=True):
        flicker.step(truth, result, box)
    found = np.array([nearest(finder, *pair) for pair in zip(results, known.landmarks, strict=True)])
    seen = np.isfinite(found).all((1, 2))
    truth = known.landmarks[seen]
    error = overall(sdd(found[seen], truth, float(eye_distance(truth).mean()))) if seen.sum() > 1 else float("nan")
    return Measured(inside.psnr, inside.ssim_vh, inside.ssim_vt, 100 * error, flicker.flush(), int((~seen).sum()))


def nearest(finder: FaceDetector, image: Tensor, truth: Array) -> Array:
    """The landmarks found nearest to the true ones, within an eye distance; NaN if there are none."""
    found = finder.find(image.float() / 255, 0.5).landmarks
    if len(found):
        gaps = np.hypot(*(found.mean(1) - truth.mean(0)).T)
        if gaps.min() <= np.hypot(*(truth[0] - truth[1])):
            points: Array = found[gaps.argmin()]
            return points
    return np.full_like(truth, np.nan)


def figures(kind: str, results: dict[str, list[Measured]], clips: int) -> Iterator[Figure]:
    """The lines of the table for one kind of reduction."""
    count = len(results["alone"])
    label = f"eval/faces in 640x360 scenes, {kind}, {count} of {clips} clips"

    def mean(system: str, name: str) -> float:
        return float(np.nanmean([getattr(each, name) for each in results[system]]))

    for name, what, digits, bar in (("psnr", "PSNR", 2, 0.3), ("ssim", "SSIM", 4, 0.0), ("ssim_vt", "SSIM_vt", 4, 0.0)):
        values = {system: mean(system, name) for system in SYSTEMS}
        gain = values["restored"] - values["alone"]
        text = f"{gain:+.{digits}f} ({', '.join(f'{s} {v:.{digits}f}' for s, v in values.items())})"
        wanted = f">= {bar} dB" if bar else "> 0"
        yield Figure(
            f"{what} inside the face box, gain over alone", label, gain, text, wanted, gain >= bar if bar else gain > 0
        )
    for name, what in (("landmark_error", "temporal landmark error, %"), ("flicker", "border flicker, 1/255")):
        values = {system: mean(system, name) for system in SYSTEMS}
        share = values["restored"] / values["frame by frame"]
        text = f"{share:.3f} ({', '.join(f'{system} {value:.3f}' for system, value in values.items())})"
        if name == "landmark_error" and (lost := sum(each.lost for row in results.values() for each in row)):
            text += f"; not found in {lost} results"
        yield Figure(f"{what}, to frame by frame", label, share, text, "< 1", share < 1)
