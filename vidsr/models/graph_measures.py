"""What is measured on other people's graphs when they are imported: memory, context of tiles, resemblance."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor

from vidsr.models.image_graph import ImageGraph
from vidsr.runtime.heap import return_freed_memory

CHANGED = 48  # columns at the left of an image that are changed to see how far that reaches
LOOKED_AT = (48, 160)  # height and width of that image
HALF_A_LEVEL = 0.5 / 255
DEAD = 3 / 8  # share of an overlap whose pixels are not used (engines/tiled.py)
SMALLEST_OVERLAP, LARGEST_OVERLAP = 32, 128  # the smallest is the usual one of ours
# Sides of the images on which memory is measured: the first two, and more until it is enough to be seen, or takes long.
SIDES = (96, 128, 192, 256, 384, 512)
SEEN_BYTES, LONG_SECONDS = 64 << 20, 3.0
# Factor on the measured memory: ONNX Runtime asks the system for ever larger blocks, so that the memory of an ESRGAN
# of 6 blocks was 14 to 28 kB per pixel in tiles of one size on frames of two.
ROOM = 1.5
UNLIKE = 15.0  # dB


@dataclass(frozen=True, slots=True)
class Measures:
    """Overlap of tiles in input pixels, what they differ by beyond it, memory per input pixel, and notes in words."""

    overlap: int
    tile_difference: float
    bytes_per_pixel: float
    notes: tuple[str, ...]


def measure(network: ImageGraph) -> Measures:
    """Measures a graph on the CPU. Raises ModelError if it cannot be run."""
    overlap, difference = context_of(network)
    notes = []
    if difference > 2 / 255:
        notes.append(
            f"tiles differ from whole frames by up to {difference * 255:.0f} of 255 levels, because the network looks "
            "at the whole image: use --tile off where memory allows it"
        )
    likeness = _likeness(network)
    if likeness < UNLIKE:
        notes.append(
            f"its results do not resemble their input ({likeness:.0f} dB after reduction): it may expect another range "
            "or order of colors than RGB in 0 to 1"
        )
    return Measures(overlap, difference, bytes_per_pixel(network), tuple(notes))


def context_of(network: ImageGraph) -> tuple[int, float]:
    """The overlap that tiles need, and the largest difference beyond it, in units of 0..1.

    The left part of an image of noise is replaced by other noise: how far to the right the result changes by more than
    half of a level is the context that a pixel needs.
    """
    config = network.config
    height, width = config.sides(*LOOKED_AT)
    changed = min(CHANGED, width // 3)
    random = np.random.default_rng(11)
    image = random.random((1, 3, height, width), dtype=np.float32)
    other = image.copy()
    other[..., :changed] = random.random((1, 3, height, changed), dtype=np.float32)
    one, two = (network(torch.from_numpy(each)).numpy().clip(0, 1) for each in (image, other))
    difference = np.abs(one - two).max(axis=(0, 1, 2)).reshape(width, config.scale).max(axis=1)[changed:]
    reached = np.flatnonzero(difference > HALF_A_LEVEL)
    context = int(reached[-1]) + 1 if reached.size else 0
    wanted = min(max(math.ceil(context / DEAD), SMALLEST_OVERLAP), LARGEST_OVERLAP)
    overlap = -(-wanted // config.multiple_of) * config.multiple_of
    if config.fixed_size is not None:
        overlap = min(overlap, min(config.fixed_size) // 2)
    beyond = difference[min(int(overlap * DEAD), len(difference) - 1) :]
    return overlap, float(beyond.max())


def bytes_per_pixel(network: ImageGraph) -> float:
    """Peak memory per input pixel, measured as what a new session takes and keeps, with some room.

    ONNX Runtime keeps the memory of a run for the next one. A graph of one size takes no more for larger frames than
    they and their results.
    """
    config = network.config
    images = 12.0 * (2 + 3 * config.scale**2)  # the frame, its result, and what both are copied from or blended in
    if config.fixed_size is not None:
        return images
    found = []
    for side in SIDES:
        height, width = config.sides(side, side)
        grown, seconds = _grown(network, height, width)
        found.append(grown / (height * width))
        if len(found) > 1 and (grown >= SEEN_BYTES or seconds > LONG_SECONDS):
            break
    return ROOM * max(*found, 0.0) + images


def _grown(network: ImageGraph, height: int, width: int) -> tuple[int, float]:
    """The bytes that the process grows by in a run of a new session on an image of this size, and its seconds."""
    process = psutil.Process()
    run = network.start(torch.device("cpu"), torch.get_num_threads())
    run(torch.zeros(1, 3, *network.config.sides(16, 16)))
    return_freed_memory()
    before, started = process.memory_info().rss, time.perf_counter()
    image = torch.zeros(1, 3, height, width)
    for _ in range(2):  # the first run of a session with a size may take less than the next ones
        result = run(image)
        after = process.memory_info().rss
    del result
    return after - before, (time.perf_counter() - started) / 2


def _likeness(network: ImageGraph) -> float:
    """PSNR in dB between a smooth image and its result, reduced to its size."""
    height, width = network.config.sides(48, 64)
    rows, columns = np.linspace(0, 1, height)[:, None], np.linspace(0, 1, width)[None]
    smooth = np.stack([0.2 + 0.6 * rows + 0 * columns, 0.2 + 0.6 * columns + 0 * rows, 0.8 - 0.6 * rows * columns])
    image = torch.from_numpy(smooth.astype(np.float32))[None]
    large: Tensor = network(image)
    error: NDArray[Any] = (torch.nn.functional.avg_pool2d(large, network.config.scale) - image).numpy()
    return float(-10 * np.log10(max(float(np.square(error).mean()), 1e-10)))
