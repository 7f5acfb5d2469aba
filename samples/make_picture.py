"""Makes the README's images of the portrait sample: before_after.png and faces_sheet.png.

The first compares a frame enlarged by bicubic and by vidsr, without and with the face restored, with the truth. The
second shows the face's track in the result.

python samples/make_picture.py [--output FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from vidsr.config import ComputeConfig, FindFacesConfig, InputConfig, OutputConfig, RestoreConfig, UpscaleConfig
from vidsr.faces.listing import FaceTargets, describe_faces, plan_listing
from vidsr.pipeline.run import enhance
from vidsr.video.reader import Reader

FOLDER = Path(__file__).parent
FRAME = 30
CROP = (slice(0, 184), slice(136, 304))
PANELS = (
    ("bicubic", "bicubic", False),
    ("secnet-fast", "secnet-fast", False),
    ("secnet-fast, face restored", "secnet-fast", True),
)


def frame_of(path: Path) -> np.ndarray:
    """Frame FRAME of a video, H x W x 3 BGR."""
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        for index, frame in enumerate(reader.frames()):
            if index == FRAME:
                return np.ascontiguousarray((frame.image * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1])
    raise SystemExit(f"{path} has no frame {FRAME}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER)
    options = parser.parse_args()
    panels = []
    with tempfile.TemporaryDirectory() as folder:
        for label, model, faces in PANELS:
            result = Path(folder) / f"{label}.mkv"
            config = UpscaleConfig(
                output=OutputConfig(codec="ffv1"), compute=ComputeConfig(model=model), faces=RestoreConfig(use=faces)
            )
            enhance(FOLDER / "portrait_112x84.mp4", result, config)
            panels.append((label, frame_of(result)))
        sheet = Path(folder) / "sheet.png"
        with tempfile.TemporaryFile() as listing:
            describe_faces(plan_listing(result, FaceTargets(sheet=sheet), FindFacesConfig()), listing)
        tracks = cv2.imread(str(sheet))
        assert tracks is not None
        small = cv2.resize(tracks, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(options.output / "faces_sheet.png"), small, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    panels.append(("truth", frame_of(FOLDER / "portrait_448x336_truth.mp4")))
    images = []
    for label, image in panels:
        part = np.repeat(np.repeat(image[CROP], 2, axis=0), 2, axis=1)
        strip = np.full((28, part.shape[1], 3), 32, np.uint8)
        cv2.putText(strip, label, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
        part = np.vstack([strip, part])
        images.append(part)
    cv2.imwrite(str(options.output / "before_after.png"), np.hstack(images), [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
