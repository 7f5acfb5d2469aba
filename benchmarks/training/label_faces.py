"""Creates the labels for training the face detector: those of the data set, and a teacher's for all other faces.

    python -m benchmarks.training.label_faces --data DIR --teacher FILE --output runs/face-labels.json

DIR is the curated set; FILE is a published YuNet file. Every 8th frame of each training clip and every training
photograph of license classes A and B is searched at half, full and double size. The data set's own boxes are kept
unchanged; the teacher adds the faces that they leave out. By its score, a detection is a face from 0.85 on, ignored in
training from 0.5 to 0.85, and background below 0.5. vidsr/train/detector/labels.py reads the result.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.faces.detections import Detections, pairwise_iou
from vidsr.faces.detector import OVERLAP
from vidsr.faces.yunet import MULTIPLE, Yunet
from vidsr.train.dataset import CLIPS, cached_frames, find_training_files
from vidsr.train.detector.labels import SURE

EVERY = 8
SCALES = (0.5, 1.0, 2.0)
MIN_SCORE = 0.5
# Two boxes with a lower IoU are different faces.
SAME = 0.4


def search(teacher: Yunet, image: NDArray[np.uint8]) -> Detections:
    """All faces of an image, H x W x 3 RGB, at three sizes."""
    height, width = image.shape[:2]
    parts = []
    for scale in SCALES:
        wide, tall = round(width * scale), round(height * scale)
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        canvas = np.zeros((-(-tall // MULTIPLE) * MULTIPLE, -(-wide // MULTIPLE) * MULTIPLE, 3), np.float32)
        canvas[:tall, :wide] = cv2.resize(image[..., ::-1], (wide, tall), interpolation=method)
        found = teacher.run(np.ascontiguousarray(canvas.transpose(2, 0, 1)), MIN_SCORE)
        parts.append(found.scaled(width / wide, height / tall))
    return Detections.join(parts).suppressed(OVERLAP)


def entry(frame: int, given: list[dict[str, Any]], found: Detections) -> dict[str, Any]:
    """The data set's faces of a frame, then those that only the teacher finds."""
    faces = [{"box": face["box"], "landmarks": face["landmarks"], "score": 1.0} for face in given]
    boxes = np.array([face["box"] for face in given], np.float64).reshape(-1, 4)
    is_new = (pairwise_iou(found.boxes, boxes) < SAME).all(1)
    for row in np.flatnonzero(is_new):
        box, landmarks = np.round(found.boxes[row], 1).tolist(), np.round(found.landmarks[row], 1).tolist()
        faces.append({"box": box, "landmarks": landmarks, "score": round(float(found.scores[row]), 3)})
    return {"frame": frame, "faces": faces}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    teacher = Yunet(options.teacher, torch.device("cpu"), 1)
    folder = options.data / "faces_stills"
    stills = {e["path"]: e["faces"] for e in json.loads((folder / "labels.json").read_text(encoding="utf-8"))}
    clips = json.loads((folder / "clip_labels.json").read_text(encoding="utf-8"))
    labels, counts = {}, {"images": 0, "given": 0, "sure": 0, "unsure": 0}
    for item in find_training_files(options.data, ("A", "B")):
        path = str(item.path.relative_to(options.data))
        frames = cached_frames(item, options.output.parent / "frames")
        given = {e["frame"]: e["faces"] for e in clips[path]} if path in clips else {0: stills.get(path, [])}
        labels[path] = []
        for index in range(0, len(frames), EVERY if item.kind in CLIPS else 1):
            faces = entry(index, given.get(index, []), search(teacher, np.asarray(frames[index])))
            labels[path].append(faces)
            counts["images"] += 1
            counts["given"] += len(given.get(index, []))
            scores = [face["score"] for face in faces["faces"][len(given.get(index, [])) :]]
            counts["sure"] += sum(score >= SURE for score in scores)
            counts["unsure"] += sum(score < SURE for score in scores)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(labels), encoding="utf-8")
    print(f"{options.output}: {counts}")


if __name__ == "__main__":
    main()
