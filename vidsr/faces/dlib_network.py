"""dlib's network for recognizing faces, read from dlib's own file and run by torch.

King, "High quality face recognition with deep metric learning" (dlib's blog, 2017): a residual network of 29
convolutions, of which the file holds the weights. dlib itself takes ten times as long for a face, because its packages
compute without BLAS; the vectors agree to 1e-6.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vidsr.errors import ModelError

SIDE = 150
# Mean of the training images, in RGB, and the divisor.
MEAN, SCALE = (122.782, 117.001, 104.298), 256.0
FIRST = 32
# The channels of the blocks in order, and whether a block halves height and width.
BLOCKS = (
    *[(32, False)] * 3,
    (64, True), *[(64, False)] * 3,
    (128, True), *[(128, False)] * 2,
    (256, True), *[(256, False)] * 2,
    (256, True),
)  # fmt: skip
OUTPUTS = 128
# How the parameters of a layer are announced: the length of the layer's name and the name.
_LAYER = re.compile(rb"\x01(?:\x05(con)_4|\x07(affine)_|\x04(fc)_2)")

Weights = tuple[Tensor, Tensor]


class DlibNetwork:
    """The network, on the processor, stateless."""

    def __init__(self, path: Path) -> None:
        """Raises ModelError if the file is not dlib's."""
        try:
            layers = _layers(path.read_bytes())
            self._first = _convolution(layers, 3, FIRST, 7)
            self._blocks: list[tuple[bool, Weights, Weights]] = []
            width = FIRST
            for channels, halves in BLOCKS:
                parts = _convolution(layers, width, channels, 3), _convolution(layers, channels, channels, 3)
                self._blocks.append((halves, *parts))
                width = channels
            self._last = torch.from_numpy(_layer(layers, "fc", width * OUTPUTS)).view(width, OUTPUTS)
        except (IndexError, StopIteration, ValueError) as error:
            raise ModelError(f"{path} is not dlib's recognition network: {error or 'it is cut off'}") from error

    @torch.inference_mode()
    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The vectors, n x OUTPUTS, of aligned faces in RGB, n x SIDE x SIDE x 3."""
        x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
        x = (x - torch.tensor(MEAN)[:, None, None]) / SCALE
        x = F.conv2d(x.contiguous(memory_format=torch.channels_last), *self._first, stride=2)
        x = F.max_pool2d(F.relu(x), 3, 2)
        for halves, first, second in self._blocks:
            y = F.relu(F.conv2d(x, *first, stride=2, padding=0) if halves else F.conv2d(x, *first, padding=1))
            y = F.conv2d(y, *second, padding=1)
            x = F.relu(_sum(F.avg_pool2d(x, 2, 2), y) if halves else x + y)
        vectors: NDArray[np.float64] = (x.mean((2, 3)) @ self._last).numpy().astype(np.float64)
        return vectors


def _sum(a: Tensor, b: Tensor) -> Tensor:
    """The sum of two tensors, n x C x H x W; where one is smaller, zeros follow its values."""
    sizes = [max(pair) for pair in zip(a.shape[1:], b.shape[1:], strict=True)]
    padded = []
    for each in (a, b):
        c, h, w = (size - own for size, own in zip(sizes, each.shape[1:], strict=True))
        padded.append(F.pad(each, (0, w, 0, h, 0, c)))
    return padded[0] + padded[1]


def _convolution(layers: Iterator[tuple[str, NDArray[np.float32]]], inputs: int, outputs: int, size: int) -> Weights:
    """Weights and biases of a convolution and of the scales and shifts behind it, as one convolution."""
    values = _layer(layers, "con", outputs * (inputs * size * size + 1))
    scales, shifts = torch.from_numpy(_layer(layers, "affine", 2 * outputs)).chunk(2)
    weights = torch.from_numpy(values[:-outputs]).view(outputs, inputs, size, size)
    biases = torch.from_numpy(values[-outputs:])
    product = (weights * scales[:, None, None, None]).contiguous(memory_format=torch.channels_last)
    return product, biases * scales + shifts


def _layer(layers: Iterator[tuple[str, NDArray[np.float32]]], kind: str, count: int) -> NDArray[np.float32]:
    found, values = next(layers)
    if (found, len(values)) != (kind, count):
        raise ValueError(f"{count} numbers of a layer {kind} are expected, and {len(values)} of a layer {found} follow")
    return values


def _layers(content: bytes) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The layers with parameters in dlib's serialization, from the image on: "con", "affine" or "fc", and its numbers.

    Raises IndexError or ValueError for content that is cut off.
    """
    place = 0
    while match := _LAYER.search(content, place):
        kind = next(name.decode() for name in match.groups() if name)
        place = match.end()
        # Numbers of outputs and inputs of a fully connected layer; then the version of the tensor.
        for _ in range(3 if kind == "fc" else 1):
            _, place = _integer(content, place)
        count = 1
        for _ in range(4):
            side, place = _integer(content, place)
            count *= side
        yield kind, np.frombuffer(content, "<f4", count, place).astype(np.float32)
        place += 4 * count


def _integer(content: bytes, place: int) -> tuple[int, int]:
    """An integer and the place behind it: a byte with the number of bytes, which follow, the lowest first."""
    size = content[place] & 0x0F
    return int.from_bytes(content[place + 1 : place + 1 + size], "little"), place + 1 + size
