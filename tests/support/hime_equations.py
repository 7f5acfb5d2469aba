"""Chapter 5 of the dissertation line by line, in NumPy and float64: the oracle of HIME's tests.

Nothing of the package is used but weights, by the names of a state dict. Maps are h x w x channels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Map = np.ndarray[Any, np.dtype[np.float64]]
Weights = Mapping[str, Map]


def convolution(feature: Map, weights: Weights, name: str) -> Map:
    """Every tap adds a shifted copy; outside the map is 0."""
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    height, width, _ = feature.shape
    reach = kernel.shape[-1] // 2
    padded = np.pad(feature, ((reach, reach), (reach, reach), (0, 0)))
    result = np.broadcast_to(bias, (height, width, len(bias))).copy()
    for i in range(kernel.shape[2]):
        for j in range(kernel.shape[3]):
            result += padded[i : i + height, j : j + width] @ kernel[:, :, i, j].T
    return result


def blocks(x: Map, weights: Weights, name: str, first: int, count: int) -> Map:
    """Residual blocks `first`, `first` + 1 ... of a sequence: conv, ReLU, conv, plus the input."""
    for k in range(first, first + count):
        inner = np.maximum(convolution(x, weights, f"{name}.{k}.conv1"), 0)
        x = x + convolution(inner, weights, f"{name}.{k}.conv2")
    return x


def keys(distance: float) -> float:
    d = abs(distance)
    if d <= 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


def resample(image: Map, height: int, width: int) -> Map:
    """Bicubic on centered grids, antialiased where it reduces; edge pixels are repeated."""

    def matrix(old: int, new: int) -> Map:
        wide, result = max(old / new, 1.0), np.zeros((new, old))
        for k in range(new):
            center = (k + 0.5) * old / new - 0.5
            taps = range(math.floor(center - 2 * wide), math.ceil(center + 2 * wide) + 1)
            raw = [keys((center - t) / wide) for t in taps]
            for t, weight in zip(taps, raw, strict=True):
                result[k, min(max(t, 0), old - 1)] += weight / sum(raw)
        return result

    return np.einsum("iy,jx,yxc->ijc", matrix(image.shape[0], height), matrix(image.shape[1], width), image)


def sampled(channel: Map, y: float, x: float) -> float:
    """Bilinear, 0 outside."""
    top, left, total = math.floor(y), math.floor(x), 0.0
    for i in (top, top + 1):
        for j in (left, left + 1):
            if 0 <= i < channel.shape[0] and 0 <= j < channel.shape[1]:
                total += (1 - abs(y - i)) * (1 - abs(x - j)) * channel[i, j]
    return total


def dconv(feature: Map, guide: Map, weights: Weights, name: str, groups: int) -> Map:
    """DConv(F, dp) with a modulation: offsets (y before x for every kernel point of every group), then its mask."""
    predicted, kernel = convolution(guide, weights, f"{name}.conv_offset_mask"), weights[f"{name}.weight"]
    height, width, channels = feature.shape
    side = kernel.shape[-1]
    points, per_group = side * side, channels // groups
    result = np.broadcast_to(weights[f"{name}.bias"], (height, width, len(kernel))).copy()
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                for p in range(points):
                    place = (c // per_group) * points + p
                    dy, dx = predicted[y, x, 2 * place], predicted[y, x, 2 * place + 1]
                    mask = 1 / (1 + np.exp(-predicted[y, x, 2 * groups * points + place]))
                    i, j = divmod(p, side)
                    value = sampled(feature[..., c], y + i - side // 2 + dy, x + j - side // 2 + dx)
                    result[y, x] += kernel[:, c, i, j] * mask * value
    return result


def space_to_depth(image: Map, s: int) -> Map:
    """h s x w s x 1 to h x w x s^2, the pixels of a block row by row."""
    height, width = image.shape[0] // s, image.shape[1] // s
    result = np.empty((height, width, s * s))
    for y in range(height):
        for x in range(width):
            result[y, x] = image[y * s : (y + 1) * s, x * s : (x + 1) * s, 0].ravel()
    return result


def depth_to_space(feature: Map, s: int) -> Map:
    """h x w x (3 s^2) to h s x w s x 3: the channels of a color are the pixels of its block, row by row."""
    height, width, _ = feature.shape
    result = np.empty((height * s, width * s, 3))
    for y in range(height):
        for x in range(width):
            for c in range(3):
                result[y * s : (y + 1) * s, x * s : (x + 1) * s, c] = feature[
                    y, x, c * s * s : (c + 1) * s * s
                ].reshape(s, s)
    return result


def hime(image: Map, references: Sequence[Map], weights: Weights, config: Any) -> tuple[Map, list[Map]]:
    """I^SR, and the weight of every reference at every pixel. `config` gives the sizes."""
    s, (height, width, _) = config.scale, image.shape

    def low(picture: Map) -> Map:
        return blocks(convolution(picture, weights, "low.0"), weights, "low", 1, config.low_blocks)

    f_l = low(image)
    aligned, mu = [], []
    for reference in references:
        f_ref_l = low(resample(reference, height, width))
        mono = convolution(reference, weights, "high.mono")
        f_ref = convolution(space_to_depth(mono, s), weights, "high.first")
        f_ref = blocks(f_ref, weights, "high.body", 0, config.high_blocks)
        both = convolution(np.dstack([f_ref_l, f_l]), weights, "alignment.guide")  # (5.2)
        guide = np.where(both > 0, both, 0.1 * both)
        for k in range(config.guide_stages):
            guide = dconv(guide, guide, weights, f"alignment.refine.{k}", config.groups)
        for k in range(config.reference_stages):  # (5.3)
            f_ref = dconv(f_ref, guide, weights, f"alignment.sample.{k}", config.groups)
        g1 = convolution(f_ref, weights, "aggregation.of_reference")
        g2 = convolution(f_l, weights, "aggregation.of_content")
        mu.append(1 / (1 + np.exp(-(g1 * g2).sum(2))))  # (5.6)
        aligned.append(f_ref)
    total = np.zeros((height, width))
    if config.no_reference:
        total += 1 / (1 + np.exp(-weights["aggregation.no_reference"]))
    for each in mu:
        total = total + each
    f_a = np.zeros_like(f_l)
    for each, feature in zip(mu, aligned, strict=True):
        f_a += (each / total)[..., None] * feature  # (5.4)
    f_f = blocks(f_a + f_l, weights, "reconstruction.body", 0, config.reconstruction_blocks)
    f_f = convolution(f_f, weights, f"reconstruction.body.{config.reconstruction_blocks}")
    residual = depth_to_space(convolution(f_f, weights, "reconstruction.enlarge"), s)
    return resample(image, s * height, s * width) + residual, [each / total for each in mu]
