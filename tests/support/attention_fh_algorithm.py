"""Algorithm 1 of Attention-FH at test time in NumPy and float64, for one face: the oracle of its tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.support.hime_equations import convolution, resample
from vidsr.nets.attention_fh.network import AttentionFH

Array = NDArray[np.float64]
SLOPE = 0.2


Action = tuple[int, int, int]


def restore(
    network: AttentionFH, face: Array, forced: Sequence[Action] | None = None
) -> tuple[Array, list[Action], list[float]]:
    """The restored face, 3 x H x W in 0..1, the box of each step and its log-probability, for a face 3 x h x w in 0..1.

    Boxes are the most likely ones, or those that are `forced`.
    """
    config = network.config
    weights = {name: value.detach().double().numpy() for name, value in network.named_parameters()}
    small = 2 * face - 1
    sides = [config.scale * side for side in small.shape[1:]]
    large = resample(small.transpose(1, 2, 0), *sides).transpose(2, 0, 1)
    current, first = large, _features(weights, _mean(large, config.side), config.side)
    history, hidden = np.zeros(config.history), np.zeros(config.hidden)
    boxes: list[Action] = []
    logarithms = []
    for step in range(config.steps):
        state = np.concatenate((_features(weights, _mean(current, config.side), config.side), first, history))
        hidden = _gru(weights, "policy", state, hidden)
        scores = [weights[f"heads.{k}.weight"] @ hidden + weights[f"heads.{k}.bias"] for k in range(3)]
        place, ratio, size = (int(np.argmax(score)) for score in scores) if forced is None else forced[step]
        boxes.append((place, ratio, size))
        chances = [np.exp(score) / np.exp(score).sum() for score in scores]
        logarithms.append(float(np.log(chances[0][place] * chances[1][ratio] * chances[2][size])))
        row, column = divmod(place, config.grid)
        tall = config.heights[size] / config.side
        wide = tall / (1.5, 1.0, 2 / 3)[ratio]
        y, x = (row + 0.5) / config.grid, (column + 0.5) / config.grid
        box_sides = y - tall / 2, y + tall / 2, x - wide / 2, x + wide / 2
        fade = config.fade * current.shape[1] / config.side
        box, blend = _box(box_sides, current.shape, 0.0), _box(box_sides, current.shape, fade)
        context = (weights["context.weight"] @ state + weights["context.bias"]).reshape(
            config.context_channels, config.context_side, config.context_side
        )
        middle = config.scale // 2
        given = np.concatenate(
            (
                (current * box)[:, middle :: config.scale, middle :: config.scale],
                current[:, middle :: config.scale, middle :: config.scale],
                small, _repeated(context, small.shape[1:]),
            )
        )  # fmt: skip
        enhanced = large + _local(network, weights, given)
        current = current + blend * (enhanced - current)
        told = np.zeros(2 + 3 + len(config.heights))
        told[:2] = 2 * x - 1, 2 * y - 1
        told[2 + ratio] = told[5 + size] = 1
        history = _gru(weights, "history", told, history)
    return (current + 1) / 2, boxes, logarithms


def _gru(weights: dict[str, Array], name: str, given: Array, memory: Array) -> Array:
    """Cho et al.: reset and update gates, candidate, mean of the memory and the candidate."""
    inner = weights[f"{name}.given.weight"] @ given + weights[f"{name}.given.bias"]
    outer = weights[f"{name}.memory.weight"] @ memory + weights[f"{name}.memory.bias"]
    n = len(memory)
    reset, update = (1 / (1 + np.exp(-(inner[k * n : (k + 1) * n] + outer[k * n : (k + 1) * n]))) for k in range(2))
    candidate = np.tanh(inner[2 * n :] + reset * outer[2 * n :])
    result: Array = (1 - update) * candidate + update * memory
    return result


def _features(weights: dict[str, Array], image: Array, side: int) -> Array:
    for k in range(4):
        kernel = weights[f"extractor.convolutions.{k}.weight"]
        image = _leaky(_convolve(image, kernel, weights[f"extractor.convolutions.{k}.bias"])[:, ::2, ::2])
    assert image.shape[1:] == (side // 16, side // 16)
    result: Array = weights["extractor.linear.weight"] @ image.ravel() + weights["extractor.linear.bias"]
    return result


def _local(network: AttentionFH, weights: dict[str, Array], x: Array) -> Array:
    count = len(network.local.layers)
    for k in range(count):
        kernel, bias = weights[f"local.layers.{k}.weight"], weights[f"local.layers.{k}.bias"]
        if k in (2, 4):  # deconvolutions: zeros between the pixels, then a convolution with the turned kernel
            spread = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2]))
            spread[:, ::2, ::2] = x
            x = _convolve(spread, kernel.transpose(1, 0, 2, 3)[..., ::-1, ::-1], bias)
        else:
            x = _convolve(x, kernel, bias)
        x = x if k == count - 1 else _leaky(x)
    return x


def _convolve(image: Array, kernel: Array, bias: Array) -> Array:
    return convolution(image.transpose(1, 2, 0), {"c.weight": kernel, "c.bias": bias}, "c").transpose(2, 0, 1)


def _leaky(x: Array) -> Array:
    return np.where(x > 0, x, SLOPE * x)


def _box(sides: tuple[float, float, float, float], shape: tuple[int, ...], fade: float) -> Array:
    top, bottom, left, right = sides
    _, height, width = shape
    mask = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            mask[row, column] = _inside(row, height, top, bottom, fade) * _inside(column, width, left, right, fade)
    return mask


def _inside(pixel: int, size: int, start: float, end: float, fade: float) -> float:
    center = pixel + 0.5
    start, end = max(0.0, start) * size, min(1.0, end) * size
    if not start <= center < end:
        return 0.0
    if fade == 0:
        return 1.0
    near = 1.0 if start <= 0 else (center - start) / fade
    far = 1.0 if end >= size else (end - center) / fade
    return min(1.0, near, far)


def _mean(image: Array, side: int) -> Array:
    """The mean over the pixels that each cell of a grid of `side` x `side` touches."""
    _, height, width = image.shape
    result = np.empty((len(image), side, side))
    for row in range(side):
        for column in range(side):
            y = slice(row * height // side, -(-(row + 1) * height // side))
            x = slice(column * width // side, -(-(column + 1) * width // side))
            result[:, row, column] = image[:, y, x].mean(axis=(1, 2))
    return result


def _repeated(image: Array, size: tuple[int, ...]) -> Array:
    rows = np.arange(size[0]) * image.shape[1] // size[0]
    columns = np.arange(size[1]) * image.shape[2] // size[1]
    return image[:, rows[:, None], columns]
