"""Which faces of 8 to 16 pixels the detectors find, and the time that a frame takes.

Frames of eval/faces are reduced so that the face has a given side and pasted into a 640x360 frame of eval/general. The
faces to find are those that the published detector finds at full size. Each detector sees the frame enlarged for faces
of 16 pixels, as by default, and for faces of 8, as with `--min-face 8`; time is processor time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.faces.scenes import soft_border
from benchmarks.faces.scores import Figure
from benchmarks.faces.tiny_restoration import EVERY, SIDES, SURE, Image, tensor_of
from benchmarks.quality.runner import clip_paths
from vidsr.faces.detections import Detections, pairwise_iou
from vidsr.faces.detector import FaceDetector, View
from vidsr.faces.tracker import TrackerConfig
from vidsr.faces.yunet import Yunet
from vidsr.train.dataset import read_clip

FRAME = 640, 360
OVERLAP = 0.3


def measure(data: Path, ours: Yunet, reference: Yunet) -> Iterator[Figure]:
    """Recall by side for both detectors, and the time that a frame takes."""
    behind = [read_clip(path)[0] for path in clip_paths(data / "eval" / "general")]
    samples = list(_samples(data, reference))
    ways = {
        f"{name}, frame enlarged for faces of {smallest} px": FaceDetector(network, View(), *FRAME[::-1], smallest)
        for name, network in (("ours", ours), ("published", reference))
        for smallest in (16, 8)
    }
    for side in SIDES:
        frames = [pasted(behind[k % len(behind)], image, box, side) for k, (image, box) in enumerate(samples)]
        for name, detector in ways.items():
            started = time.process_time()
            found = [
                is_found(detector.find(tensor_of(image), TrackerConfig().strong), place) for image, place in frames
            ]
            spent = 1000 * (time.process_time() - started) / len(frames)
            text = f"{np.mean(found):.3f} ({spent:.0f} ms a frame)"
            yield Figure(f"recall, {name}", f"{side:.0f} px, {len(frames)} frames", float(np.mean(found)), text)


def _samples(data: Path, reference: Yunet) -> Iterator[tuple[Image, NDArray[np.float64]]]:
    """Frames of eval/faces with the box of their largest face."""
    for path in clip_paths(data / "eval" / "faces"):
        clip = read_clip(path)
        finder = FaceDetector(reference, View(), *clip.shape[1:3], 16)
        for image in clip[::EVERY]:
            faces = finder.find(tensor_of(image), SURE)
            if len(faces):
                yield image, faces.boxes[int(np.prod(faces.boxes[:, 2:], axis=1).argmax())]


def pasted(background: Image, image: Image, box: NDArray[np.float64], side: float) -> tuple[Image, NDArray[np.float64]]:
    """A frame of 640x360 with the image reduced so that the face has this side, and the face's box in it."""
    factor = side / float(np.sqrt(box[2] * box[3]))
    size = max(8, round(image.shape[1] * factor)), max(8, round(image.shape[0] * factor))
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    canvas = np.asarray(cv2.resize(background, FRAME, interpolation=cv2.INTER_AREA), np.uint8).copy()
    left, top = (FRAME[0] - size[0]) // 2, (FRAME[1] - size[1]) // 2
    mask, rows, columns = soft_border(*small.shape[:2], 1), slice(top, top + size[1]), slice(left, left + size[0])
    under = canvas[rows, columns].astype(np.float32)
    canvas[rows, columns] = np.rint(under + mask * (small - under)).astype(np.uint8)
    scale = np.array([size[0] / image.shape[1], size[1] / image.shape[0]] * 2)
    return canvas, box * scale + [left, top, 0, 0]


def is_found(found: Detections, place: NDArray[np.float64]) -> bool:
    """Whether a detection overlaps the true box enough."""
    return bool(len(found)) and bool(pairwise_iou(found.boxes, place[None]).max() >= OVERLAP)
