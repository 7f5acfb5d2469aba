"""Photographs compressed as JPEG and enlarged by 4: CAJNN's table 4.1, on any folder of photographs.

    python -m benchmarks.quality.jpeg_images --images DIR [--models NAME ...] [--qualities Q ...] [--markdown FILE]

Images are cropped to multiples of 4, reduced by 4 (antialiased bicubic, rounded to 8 bits), compressed by OpenCV
(4:2:0), decoded, enlarged, rounded again and compared in Y with a border of 4 pixels left out. PSNR and SSIM are means
over the images. The dissertation leaves border and JPEG encoder open; its figures, on other photographs, stand beside
ours only for the size of the gains.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.common.clips import markdown
from benchmarks.quality.baselines import SCALE, stream
from vidsr.evaluation.metrics import decibels, ssim, to_8_bits, with_luma
from vidsr.train.dataset import IMAGE_SUFFIXES
from vidsr.train.degrade_real import degrade_jpeg

BORDER = 4
QUALITIES = (10, 20, 40)
# Table 4.1: PSNR of bicubic and gain of CAJNN (14.8 million parameters) on BSD100.
PRINTED = {10: (23.33, 0.51), 20: (24.14, 0.56), 40: (24.77, 0.66)}


def read_image(path: Path) -> Tensor:
    """An image as 1 x 3 x H x W in 0..1, cropped to multiples of 4."""
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise SystemExit(f"OpenCV cannot read {path}")
    height, width = (side // SCALE * SCALE for side in image.shape[:2])
    pixels = np.ascontiguousarray(image[:height, :width, ::-1].transpose(2, 0, 1))
    return torch.from_numpy(pixels)[None].float() / 255


def score(truth: Tensor, result: Tensor) -> tuple[float, float]:
    """PSNR in dB and SSIM of the luma."""
    luma = [with_luma(to_8_bits(image))[:, 3:] for image in (truth, result)]
    inner = slice(BORDER, -BORDER)
    error = (luma[0] - luma[1])[..., inner, inner].square().mean()
    return decibels(float(error)), float(ssim(luma[0], luma[1], BORDER).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["bicubic", "cajnn-fast"], help="the first is gained over")
    parser.add_argument("--qualities", nargs="+", type=int, default=QUALITIES)
    parser.add_argument("--markdown", type=Path, metavar="FILE")
    options = parser.parse_args()
    paths = sorted(path for path in options.images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise SystemExit(f"{options.images} holds no image")
    scores: dict[tuple[int, str], list[tuple[float, float]]] = {}
    started = time.monotonic()
    for number, path in enumerate(paths, 1):
        truth = read_image(path)
        for quality in options.qualities:
            low = degrade_jpeg(truth, quality)
            for model in options.models:
                scores.setdefault((quality, model), []).append(score(truth, stream(model, "auto", low)))
        print(f"{path.name} ({number} of {len(paths)}), {time.monotonic() - started:.0f} s", file=sys.stderr)
    means = {key: np.mean(values, axis=0) for key, values in scores.items()}
    rows = []
    for quality in options.qualities:
        base = means[quality, options.models[0]]
        cells = [f"{base[0]:.2f} / {base[1]:.4f}"]
        cells += [
            f"{means[quality, model][0] - base[0]:+.2f} / {means[quality, model][1]:.4f}"
            for model in options.models[1:]
        ]
        printed = PRINTED.get(quality)
        rows.append((str(quality), *cells, f"{printed[0]:.2f}, {printed[1]:+.2f}" if printed else "-"))
    text = markdown(("quality", *options.models, "printed, BSD100: bicubic, CAJNN"), rows)
    if options.markdown:
        options.markdown.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
