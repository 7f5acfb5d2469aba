"""Makes the image of docs/old-film.md: a sample with drawn dust, hairs and a scratch, before and after repair.

    python samples/make_old_film_sheet.py [--output FILE.webp]

Run it from the root of a checkout. Left: frames of the damaged film with the defects marked as `vidsr defects
--annotate` marks them; middle: the damaged film; right: the same after --dust repair.
"""

from __future__ import annotations

import argparse
import sys
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import torch

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

from benchmarks.defects.drawing import damaged  # noqa: E402 - from the checkout
from vidsr.config import InputConfig, SceneConfig  # noqa: E402
from vidsr.defects.drawing import draw_defects  # noqa: E402
from vidsr.defects.dust import DustStage  # noqa: E402
from vidsr.stages.base import chain  # noqa: E402
from vidsr.stages.scenes import SceneMarker  # noqa: E402
from vidsr.types import Frame  # noqa: E402
from vidsr.video.reader import Reader  # noqa: E402

SHOWN = (27, 33)
SEED = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER.parent / "docs" / "old-film.webp")
    options = parser.parse_args()
    with Reader(FOLDER / "portrait_448x336_truth.mp4", InputConfig(), torch.device("cpu")) as reader:
        frames = [np.asarray((255 * f.image).round().byte().permute(1, 2, 0).numpy()) for f in reader.frames()]
    frames = frames[: max(SHOWN) + 2]
    film = damaged(frames, np.random.default_rng(SEED), per_frame=5).frames
    scratched = [_with_scratch(image, 96 + index % 2) for index, image in enumerate(film)]
    source = [
        Frame(torch.from_numpy(image.transpose(2, 0, 1).astype(np.float32) / 255), index, Fraction(1, 25), 1)
        for index, image in enumerate(scratched)
    ]
    stage = DustStage("repair")
    results = list(chain([SceneMarker(SceneConfig()), stage], source))
    assert [a.pts for a in results] == list(range(len(results))) and all(b > a for a, b in pairwise(SHOWN))
    rows = [
        np.concatenate(
            [to_levels(each) for each in (draw_defects(source[at], results[at].defects), source[at], results[at])], 1
        )
        for at in SHOWN
    ]
    done, data = cv2.imencode(".webp", np.concatenate(rows)[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, 70])
    assert done
    options.output.write_bytes(bytes(data))
    print(f"{options.output}: {len(data)} bytes; {stage.report.specks} specks, {stage.report.hairs} hairs")


def _with_scratch(image: np.ndarray, column: int) -> np.ndarray:
    result = image.astype(np.float32)
    result[:, column] += 45
    result[:, column + 1] += 20
    return result.clip(0, 255).round().astype(np.uint8)


def to_levels(frame: Frame) -> np.ndarray:
    """H x W x 3, uint8."""
    return np.asarray((255 * frame.image).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())


if __name__ == "__main__":
    main()
