"""Makes the image of docs/quality.md: four degraded clips like those that people have, enlarged, side by side.

    python -m benchmarks.quality.sheet [--models NAME ...] [--output FILE.webp] [--png FILE.png]

Run it from the root of a checkout. The clips are made of the project's own samples (samples/README.md), reduced by 2:
uploaded twice, filmed in bad light, soft from an earlier enlargement, and from a webcam that sends JPEG images. A row
shows one crop of one frame: the input by bicubic, then the models, all enlarged by 4. Nothing is random.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.quality.baselines import SCALE
from benchmarks.quality.conditions import BI, encode
from benchmarks.quality.real_footage import enlarged, title
from benchmarks.quality.runner import read_truth
from vidsr.evaluation.metrics import to_8_bits
from vidsr.train.codecs import Encoding
from vidsr.train.degrade import from_bytes, to_bytes
from vidsr.train.degrade_real import add_noise, encode_resized, sharpen, simulate_enlargement
from vidsr.video.roundtrip import codec_roundtrip

ROOT = Path(__file__).parents[2]
REDUCTION = 2
FRAMES, SHOWN = 16, 12  # the networks remember; the shown frame has others before and after it
CROP = (56, 72)  # height and width in pixels of the input
QUALITY = 78


def uploaded_twice(clip: Tensor) -> Tensor:
    """H.264, resized to three quarters and encoded again."""
    first = Encoding("libx264", {"crf": "30", "preset": "veryfast"}, 30.0)
    frames = encode_resized(to_bytes(clip), 0.75, first, np.random.default_rng(1), codec_roundtrip)
    return encode(from_bytes(frames), "libx264", crf="29", preset="veryfast")


def in_bad_light(clip: Tensor) -> Tensor:
    """Dark, with a sensor's noise, then H.264 at a rate that keeps most of it."""
    noisy = add_noise(0.75 * clip, "signal", 12, np.random.default_rng(1))
    return encode(to_8_bits(noisy), "libx264", crf="24", preset="veryfast")


def soft(clip: Tensor) -> Tensor:
    """Enlarged once before, sharpened, and encoded as MPEG-4."""
    once = sharpen(simulate_enlargement(clip, 1.8), 0.6, 1.0)
    return encode(to_8_bits(once), "mpeg4", qmin="5", qmax="5", b="1000000", g="12")


def webcam(clip: Tensor) -> Tensor:
    """Noise mostly in the color, then every frame as a JPEG image."""
    noisy = add_noise(clip, "chroma", 5, np.random.default_rng(1))
    return encode(to_8_bits(noisy), "jpeg", quality="32")


@dataclass(frozen=True)
class Row:
    """One clip: its name on the sheet, the sample and its first frame, and the crop's corner in pixels of the input."""

    name: str
    sample: str
    first: int
    damage: Callable[[Tensor], Tensor]
    top: int
    left: int


ROWS = (
    Row("uploaded twice", "shots_400x224_truth.mp4", 0, uploaded_twice, 54, 92),
    Row("bad light", "shots_400x224_truth.mp4", 26, in_bad_light, 20, 48),
    Row("enlarged before", "portrait_448x336_truth.mp4", 0, soft, 40, 138),
    Row("webcam, JPEG", "portrait_448x336_truth.mp4", 20, webcam, 14, 60),
)


def panels(row: Row, models: list[str]) -> list[np.ndarray]:
    """The crop by every model, H x W x 3, RGB, 8 bit."""
    truth = read_truth(ROOT / "samples" / row.sample)[row.first : row.first + FRAMES]
    low = row.damage(BI(truth, REDUCTION))
    area = tuple(slice(SCALE * at, SCALE * (at + size)) for at, size in zip((row.top, row.left), CROP, strict=True))
    shown = []
    for model in models:
        frame = to_8_bits(enlarged(model, low, SCALE)[SHOWN])[(slice(None), *area)]
        assert frame.shape[1:] == (SCALE * CROP[0], SCALE * CROP[1]), f"the crop of '{row.name}' leaves the image"
        shown.append((255 * frame).round().to(torch.uint8).permute(1, 2, 0).numpy())
    return shown


def labelled(image: np.ndarray, label: str) -> np.ndarray:
    """The image under a dark strip with white text."""
    strip = np.full((24, image.shape[1], 3), 32, np.uint8)
    cv2.putText(strip, label, (6, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
    return np.vstack([strip, image])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["bicubic", "secnet-fast", "secnet-fast-real"])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "real-footage.webp")
    parser.add_argument("--png", type=Path, metavar="FILE.png", help="also without loss, for a closer look")
    options = parser.parse_args()
    rows = []
    for row in ROWS:
        shown = panels(row, options.models)
        names = (
            f"{row.name}: {title(model)}" if index == 0 else title(model) for index, model in enumerate(options.models)
        )
        rows.append(np.hstack([labelled(image, name) for image, name in zip(shown, names, strict=True)]))
    sheet = np.ascontiguousarray(np.vstack(rows)[..., ::-1])
    if options.png:
        cv2.imwrite(str(options.png), sheet)
    done, data = cv2.imencode(".webp", sheet, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    assert done
    options.output.write_bytes(bytes(data))
    print(f"{options.output}: {sheet.shape[1]}x{sheet.shape[0]}, {len(data)} bytes")


if __name__ == "__main__":
    main()
