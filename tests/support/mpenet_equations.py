"""MPENet, sections 3.1 and 3.2, line by line, in NumPy and float64: the oracle of its tests.

Nothing of the package is used but weights, by the names of a state dict. Maps are channels x h x w.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Map = np.ndarray[Any, np.dtype[np.float64]]
Weights = Mapping[str, Map]


def conv(x: Map, weights: Weights, name: str, stride: int = 1, padding: int | None = None) -> Map:
    """Every output is the sum over a window, one position at a time."""
    kernel = weights[f"{name}.weight"]
    side = kernel.shape[-1]
    reach = side // 2 if padding is None else padding
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    height, width = ((length + 2 * reach - side) // stride + 1 for length in x.shape[1:])
    result = np.zeros((len(kernel), height, width))
    for i in range(height):
        for j in range(width):
            window = padded[:, i * stride : i * stride + side, j * stride : j * stride + side]
            result[:, i, j] = np.tensordot(kernel, window, 3)
    bias = weights.get(f"{name}.bias")
    return result if bias is None else result + bias[:, None, None]


def deconv(x: Map, weights: Weights, name: str) -> Map:
    """Kernel 8, stride 4, padding 2: every input adds its kernel around its place."""
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    _, height, width = x.shape
    result = np.zeros((kernel.shape[1], 4 * height + 4, 4 * width + 4))
    for i in range(height):
        for j in range(width):
            result[:, 4 * i : 4 * i + 8, 4 * j : 4 * j + 8] += np.tensordot(x[:, i, j], kernel, 1)
    return result[:, 2:-2, 2:-2] + bias[:, None, None]


def projected(x: Map, weights: Weights, name: str) -> Map:
    """PReLU of a deconvolution, of a convolution that undoes one, or of a 1x1 convolution."""
    kernel, slope = weights[f"{name}.conv.weight"], weights[f"{name}.activate.weight"].item()
    if kernel.shape[-1] == 1:
        y = conv(x, weights, f"{name}.conv")
    elif ".up." in name or name.endswith("enlarge"):
        y = deconv(x, weights, f"{name}.conv")
    else:
        y = conv(x, weights, f"{name}.conv", 4, 2)
    return np.where(y > 0, y, slope * y)


def recurrent(x: Map, weights: Weights, groups: int) -> Map:
    """SRFBN's feedback block without its first convolution."""
    low, high = [x], []
    for g in range(groups):
        entry = x if g == 0 else projected(np.concatenate(low), weights, f"recurrent.join_low.{g - 1}")
        high.append(projected(entry, weights, f"recurrent.up.{g}"))
        all_high = high[0] if g == 0 else projected(np.concatenate(high), weights, f"recurrent.join_high.{g - 1}")
        low.append(projected(all_high, weights, f"recurrent.down.{g}"))
    return projected(np.concatenate(low[1:]), weights, "recurrent.join_all")


def shuffled(x: Map) -> Map:
    """Four channels become a square of 2x2 pixels."""
    result = np.zeros((len(x) // 4, 2 * x.shape[1], 2 * x.shape[2]))
    for k in range(4):
        result[:, k // 2 :: 2, k % 2 :: 2] = x[k::4]
    return result


def bilinear(image: Map, scale: int) -> Map:
    """Centered grids; edge pixels are repeated."""
    result = np.zeros((len(image), scale * image.shape[1], scale * image.shape[2]))
    for i, j in np.ndindex(*result.shape[1:]):
        y, x = (i + 0.5) / scale - 0.5, (j + 0.5) / scale - 0.5
        for a in (math.floor(y), math.floor(y) + 1):
            for b in (math.floor(x), math.floor(x) + 1):
                share = (1 - abs(y - a)) * (1 - abs(x - b))
                pixel = image[:, min(max(a, 0), image.shape[1] - 1), min(max(b, 0), image.shape[2] - 1)]
                result[:, i, j] += share * pixel
    return result


def fused(inputs: Sequence[Map], weights: Weights, step: int) -> Map:
    mixed = conv(np.concatenate(inputs), weights, f"fusions.{step}.mix")
    return conv(np.where(mixed > 0, mixed, 0.2 * mixed), weights, f"fusions.{step}.spread")


def relu(x: Map) -> Map:
    return np.maximum(x, 0)


def bottleneck(x: Map, weights: Weights, name: str) -> Map:
    inner = relu(conv(relu(conv(x, weights, f"{name}.narrow")), weights, f"{name}.middle"))
    return x + conv(inner, weights, f"{name}.widen")


def hourglass(x: Map, weights: Weights, name: str, depth: int, level: int = 0) -> Map:
    """As drawn by Newell et al.: one level inside the other."""
    if level == depth:
        return bottleneck(x, weights, f"{name}.smallest")
    aside = bottleneck(x, weights, f"{name}.aside.{level}")
    squares = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).max((2, 4))
    inner = hourglass(bottleneck(squares, weights, f"{name}.down.{level}"), weights, name, depth, level + 1)
    inner = bottleneck(inner, weights, f"{name}.up.{level}")
    return aside + inner.repeat(2, 1).repeat(2, 2)


def heatmaps(image: Map, weights: Weights, config: Any) -> Map:
    x = bottleneck(relu(conv(image, weights, "alignment.enter", 2)), weights, "alignment.blocks.0")
    x = x.reshape(len(x), x.shape[1] // 2, 2, x.shape[2] // 2, 2).mean((2, 4))
    for k in (1, 2):
        x = bottleneck(x, weights, f"alignment.blocks.{k}")
    maps = x
    for k in range(config.hourglasses):
        inner = hourglass(x, weights, f"alignment.hourglasses.{k}", config.hourglass_depth)
        feature = relu(conv(inner, weights, f"alignment.features.{k}"))
        maps = conv(feature, weights, f"alignment.heads.{k}")
        if k < config.hourglasses - 1:
            x = x + conv(np.concatenate([feature, maps]), weights, f"alignment.back.{k}")
    return maps


def normalized(x: Map, weights: Weights, name: str) -> Map:
    """Batch normalization with its stored statistics."""
    mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    scale = weights[f"{name}.weight"] / np.sqrt(variance + 1e-5)
    return (x - mean[:, None, None]) * scale[:, None, None] + weights[f"{name}.bias"][:, None, None]


def unit_scores(image: Map, weights: Weights) -> Map:
    """ResNet-18."""
    x = relu(normalized(conv(image, weights, "units.enter", 2, 3), weights, "units.norm"))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    height, width = ((length + 2 - 3) // 2 + 1 for length in x.shape[1:])
    x = np.array(
        [[padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max((1, 2)) for j in range(width)] for i in range(height)]
    )
    x = x.transpose(2, 0, 1)
    for k in range(8):
        name = f"units.blocks.{k}"
        stride = 2 if k in (2, 4, 6) else 1
        inner = relu(normalized(conv(x, weights, f"{name}.conv1", stride, 1), weights, f"{name}.norm1"))
        inner = normalized(conv(inner, weights, f"{name}.conv2"), weights, f"{name}.norm2")
        if stride == 2:
            x = normalized(conv(x, weights, f"{name}.shortcut.0", 2, 0), weights, f"{name}.shortcut.1")
        x = relu(inner + x)
    return weights["units.score.weight"] @ x.mean((1, 2)) + weights["units.score.bias"]


def logistic(x: Map) -> Map:
    return 1 / (1 + np.exp(-x))


def unit_map(maps: Map, unit: int) -> Map:
    """The attention map of a unit: JAA-Net's table of centers, with the places of 68 landmarks counted from 1."""
    places = [np.unravel_index(each.argmax(), each.shape) for each in maps]
    points = {number + 1: np.array([x + 0.5, y + 0.5]) for number, (y, x) in enumerate(places)}
    between = float(np.hypot(*(points[43] - points[40])))
    means = {
        1: ([22], [23], -0.5), 2: ([18], [27], -1 / 3), 4: ([20], [25], 1 / 3), 6: ([41, 42], [47, 48], 1.0),
        7: (range(37, 43), range(43, 49), 0.0), 9: ([32], [36], -0.5), 10: ([51], [53], 0.0), 12: ([49], [55], 0.0),
        14: ([49], [55], 0.0), 15: ([49], [55], 0.0), 17: ([59], [57], 0.5), 23: ([52], [58], 0.0),
        24: ([52], [58], 0.0), 25: ([52], [58], 0.0), 26: ([59], [57], 0.5),
    }[unit]  # fmt: skip
    left, right, down = means
    height, width = maps.shape[1:]
    result = np.zeros((height, width))
    for side in (left, right):
        x, y = np.mean([points[number] for number in side], axis=0) + np.array([0.0, down * between])
        for i in range(height):
            for j in range(width):
                dy, dx = abs(i + 0.5 - y), abs(j + 0.5 - x)
                if max(dy, dx) <= 0.14 * width / 2:
                    result[i, j] = max(result[i, j], 1 - (dy + dx) * 0.56 / (0.14 * width))
    return result


def restore(image: Map, weights: Weights, config: Any) -> tuple[list[Map], Map | None, Map | None, Map]:
    """(1) to (4) for all steps: images, heatmaps of the first, scores of the units, and F_fb."""
    shallow = shuffled(conv(image, weights, "shallow"))
    base, images, maps, scores = bilinear(image, 8), [], None, None
    feature = np.zeros(0)
    for t in range(config.steps):
        inputs = [shallow] if t == 0 else [shallow, feature]
        if t == 1 and config.points:
            maps = heatmaps(images[0], weights, config)
        if t == 2 and config.units:
            scores = unit_scores(images[1], weights)
        if t > 0 and scores is not None:
            values = logistic(scores)[:, None, None] * np.ones((1, *shallow.shape[1:]))
            if config.unit_maps and maps is not None:
                values = values * np.stack([unit_map(maps, unit) for unit in config.units])
            inputs.append(values)
        elif t > 0 and maps is not None:
            inputs.append(maps)
        feature = recurrent(fused(inputs, weights, t), weights, config.groups)
        images.append(
            base + conv(projected(feature, weights, "reconstruction.enlarge"), weights, "reconstruction.last")
        )
    return images, maps, scores, feature


def advance(image: Map, feature: Map, maps: Map | None, weights: Weights, config: Any) -> Map:
    """The second step from the feedback of another frame."""
    shallow = shuffled(conv(image, weights, "shallow"))
    inputs = [shallow, feature] if maps is None else [shallow, feature, maps]
    feature = recurrent(fused(inputs, weights, 1), weights, config.groups)
    high = projected(feature, weights, "reconstruction.enlarge")
    return bilinear(image, 8) + conv(high, weights, "reconstruction.last")
