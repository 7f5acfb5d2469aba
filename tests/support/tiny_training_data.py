"""A small training folder with an index like the project's, including files not to be used, and a small recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vidsr.train.recipe import DataConfig, DegradationConfig, OptimizationConfig, Recipe

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

# path, split, kind, source, licence class
ENTRIES = (
    ("train/faces/anna_0.avi", "train", "face", "films/anna", "A"),
    ("train/faces/anna_1.avi", "train", "face", "films/anna", "A"),
    ("train/faces/bert_0.avi", "train", "face", "films/bert", "B"),
    ("train/faces/cleo_0.avi", "train", "face", "films/cleo", "C"),
    ("train/faces/dora_0.avi", "train", "face", "films/dora", "B"),
    ("train/general/road_0.avi", "train", "general", "films/road", "A"),
    ("train/general/road_1.avi", "train", "general", "films/road", "A"),
    ("train/general/dora_1.avi", "train", "general", "films/dora", "B"),
    ("train/general/sea_0.avi", "train", "general", "films/sea", "B"),
    ("train/general/hill_0.avi", "train", "general", "films/hill", "C"),
    ("train/stills/tree.png", "train", "still", "photos/tree.png", "A"),
    ("train/stills/wall.png", "train", "still", "photos/wall.png", "C"),
    ("train/stills/eve.png", "train", "face_still", "photos/eve.png", "B"),
    ("eval/faces/finn_0.avi", "eval", "face", "films/finn", "A"),
    ("eval/vid4/city.avi", "eval", "vid4", "films/city", "C"),
    ("reference/net.onnx", "reference", "model", "nets/net", "A"),
)


TINY_NETWORK = {
    "flow_width": 4,
    "flow_depth": 2,
    "flow_levels": 2,
    "fusion_width": 6,
    "fusion_blocks": 1,
    "recurrent_width": 5,
    "encoder_blocks": 1,
    "decoder_blocks": 1,
}


def tiny_recipe(
    data: DataConfig,
    degradation: DegradationConfig | None = None,
    optimisation: OptimizationConfig | None = None,
    seed: int = 7,
) -> Recipe:
    """A recipe with a tiny network."""
    return Recipe(
        name="tiny",
        summary="for tests",
        architecture="secnet",
        seed=seed,
        network=TINY_NETWORK,
        data=data,
        degradation=degradation or DegradationConfig(),
        optimisation=optimisation or OptimizationConfig(),
    )


def noise(count: int, height: int, width: int, seed: int) -> Pixels:
    """Frames x height x width x 3; every position is unique, so that any shift can be recognized."""
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def moving(count: int, height: int, width: int, seed: int) -> Pixels:
    """A soft image that moves by one pixel to the right and two down per frame."""
    wide = cv2.resize(noise(1, height // 6, width // 6, seed)[0], (width + count, height + 2 * count))
    return np.stack([wide[2 * (count - t) :, count - t :][:height, :width] for t in range(count)]).astype(np.uint8)


def write_clip(path: Path, frames: Pixels) -> Path:
    """RGB frames as Motion JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames.shape[1:3]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (width, height))
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[..., ::-1]))
    writer.release()
    assert path.stat().st_size > 0
    return path


def write_still(path: Path, image: Pixels) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image[..., ::-1])
    return path


def training_folder(folder: Path, height: int = 48, width: int = 64, count: int = 9) -> Path:
    """Every file of `ENTRIES` and index.json."""
    for seed, (name, *_) in enumerate(ENTRIES):
        if name.endswith(".avi"):
            write_clip(folder / name, moving(count, height, width, seed))
        elif name.endswith(".png"):
            write_still(folder / name, noise(1, height + 16, width + 16, seed)[0])
        else:
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_bytes(b"weights")
    keys = ("path", "split", "kind", "source", "licence_class")
    index = [dict(zip(keys, entry, strict=True)) | {"licence": "any", "bytes": 1} for entry in ENTRIES]
    (folder / "index.json").write_text(json.dumps(index))
    return folder
