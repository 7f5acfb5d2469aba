"""Makes before_after.png: a frame of the portrait sample as bicubic, as vidsr enlarges it, and the truth, side by side.

python samples/make_picture.py [--output FILE]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch

from vidsr.config import ComputeConfig, InputConfig, OutputConfig, UpscaleConfig
from vidsr.run import enhance
from vidsr.video.reader import Reader

FOLDER = Path(__file__).parent
FRAME = 30
CROP = (slice(0, 184), slice(116, 324))


def frame_of(path: Path) -> np.ndarray:
    """Frame FRAME of a video, H x W x 3 BGR."""
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        for index, frame in enumerate(reader.frames()):
            if index == FRAME:
                return np.ascontiguousarray((frame.image * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1])
    raise SystemExit(f"{path} has no frame {FRAME}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER / "before_after.png")
    options = parser.parse_args()
    panels = []
    with tempfile.TemporaryDirectory() as folder:
        for label, model in (("bicubic", "bicubic"), ("vidsr, secnet-fast", "secnet-fast")):
            result = Path(folder) / f"{model}.mkv"
            config = UpscaleConfig(output=OutputConfig(codec="ffv1"), compute=ComputeConfig(model=model))
            enhance(FOLDER / "portrait_112x84.mp4", result, config)
            panels.append((label, frame_of(result)))
    panels.append(("truth", frame_of(FOLDER / "portrait_448x336_truth.mp4")))
    pictures = []
    for label, picture in panels:
        part = np.repeat(np.repeat(picture[CROP], 2, axis=0), 2, axis=1)
        strip = np.full((28, part.shape[1], 3), 32, np.uint8)
        cv2.putText(strip, label, (8, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
        part = np.vstack([strip, part])
        pictures.append(part)
    cv2.imwrite(str(options.output), np.hstack(pictures), [cv2.IMWRITE_PNG_COMPRESSION, 9])


if __name__ == "__main__":
    main()
