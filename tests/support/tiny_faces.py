"""A small training folder with drawn, labeled faces, and a recipe that trains quickly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.support.tiny_training_data import moving, noise, write_clip, write_still
from vidsr.train.detector.recipe import DetectorDataConfig, DetectorOptimizationConfig, DetectorRecipe

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
# Eyes, nose and corners of the mouth, relative to the box's width and height.
POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
# One RGB color per point, unlike anything else in the image.
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255))
RECIPE = DetectorRecipe(
    name="face-detector",
    summary="for tests",
    architecture="facepyramid",
    seed=3,
    network={"widths": (4, 4, 8, 8, 8), "blocks": (0, 0, 1, 0, 0), "pyramid": 8},
    data=DetectorDataConfig(sizes=(64, 96), pixels=4 * 96**2, holdout_clips=2),
    optimisation=DetectorOptimizationConfig(steps=6, warmup_steps=2, validate_every=4),
)


def draw(image: Pixels, box: tuple[float, float, float, float]) -> dict[str, Any]:
    """Draws a face with a dot at each point; returns its label."""
    left, top, width, height = box
    points = np.array([left, top]) + POINTS * [width, height]
    middle = (left + width / 2 - 0.5, top + height / 2 - 0.5)
    cv2.ellipse(image, (middle, (width, height), 0.0), (200, 160, 140), -1, cv2.LINE_AA)
    for (x, y), color in zip(points, COLORS, strict=True):
        cv2.circle(image, (round(x - 0.5), round(y - 0.5)), max(2, round(width / 14)), color, -1)
    return {"box": list(box), "landmarks": points.tolist(), "score": 1.0}


def face_folder(folder: Path) -> Path:
    """Three clips and two photographs with faces, three clips without, index.json; face-labels.json beside `folder`."""
    index, labels = [], {}
    for number, name in enumerate(("anna", "bert", "cleo")):
        frames = moving(3, 96, 96, number)
        labels[f"{name}.avi"] = [{"frame": t, "faces": [draw(frames[t], (20.0 + t, 16, 48, 60))]} for t in (0, 2)]
        write_clip(folder / f"{name}.avi", frames)
        index.append((f"{name}.avi", "face", name))
    for name in ("dora", "eve"):
        image = moving(1, 120, 96, 9)[0]
        labels[f"{name}.png"] = [{"frame": 0, "faces": [draw(image, (20, 30, 50, 64))]}]
        write_still(folder / f"{name}.png", image)
        index.append((f"{name}.png", "face_still", name))
    for number, name in enumerate(("road", "sea", "hill")):
        write_clip(folder / f"{name}.avi", noise(2, 80, 112, 20 + number) // 8 + moving(2, 80, 112, number) // 2)
        labels[f"{name}.avi"] = [{"frame": 0, "faces": []}]
        index.append((f"{name}.avi", "general", name))
    keys = ("path", "kind", "source")
    entries = [dict(zip(keys, entry, strict=True)) | {"split": "train", "licence_class": "A"} for entry in index]
    (folder / "index.json").write_text(json.dumps(entries))
    (folder.parent / "face-labels.json").write_text(json.dumps(labels))
    return folder
