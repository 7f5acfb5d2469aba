"""Chapter 4 of the dissertation line by line, in NumPy and float64: the oracle of CAJNN's tests.

Nothing of the package is used but weights, by the names of a state dict. Maps are h x w x channels, as (4.4) has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Map = np.ndarray[Any, np.dtype[np.float64]]
Weights = Mapping[str, Map]


def convolution(feature: Map, weights: Weights, name: str, rate: int = 1) -> Map:
    """C_{a x a, r} and its bias: every tap adds a shifted copy; outside the map is 0."""
    kernel, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    height, width, _ = feature.shape
    reach = kernel.shape[-1] // 2 * rate
    padded = np.pad(feature, ((reach, reach), (reach, reach), (0, 0)))
    result = np.broadcast_to(bias, (height, width, len(bias))).copy()
    for i in range(kernel.shape[2]):
        for j in range(kernel.shape[3]):
            shifted = padded[i * rate : i * rate + height, j * rate : j * rate + width]
            result += shifted @ kernel[:, :, i, j].T
    return result


def leaky(feature: Map) -> Map:
    return np.where(feature > 0, feature, 0.2 * feature)


def context(f_l: Map, weights: Weights, dilations: tuple[int, ...]) -> Map:
    """(4.2): [C_{3x3,1} * f^L | C_{3x3,3} * f^L | C_{3x3,4} * f^L] * C_{1x1,1}."""
    parts = [convolution(f_l, weights, f"context.pyramid.{k}", rate) for k, rate in enumerate(dilations)]
    return convolution(np.concatenate(parts, axis=2), weights, "context.join")


def dense_block(x: Map, weights: Weights, name: str) -> Map:
    """ESRGAN's: x1 = lrelu(conv(x)), x2 = lrelu(conv([x, x1])), ..., x5 = conv([x, x1, x2, x3, x4]); x + 0.2 x5."""
    x1 = leaky(convolution(x, weights, f"{name}.layers.0"))
    x2 = leaky(convolution(np.dstack([x, x1]), weights, f"{name}.layers.1"))
    x3 = leaky(convolution(np.dstack([x, x1, x2]), weights, f"{name}.layers.2"))
    x4 = leaky(convolution(np.dstack([x, x1, x2, x3]), weights, f"{name}.layers.3"))
    x5 = convolution(np.dstack([x, x1, x2, x3, x4]), weights, f"{name}.last")
    return x + 0.2 * x5


def rrdb(x: Map, weights: Weights, name: str) -> Map:
    """Three dense blocks inside one residual."""
    inner = x
    for k in range(3):
        inner = dense_block(inner, weights, f"{name}.dense.{k}")
    return x + 0.2 * inner


def shuffle(tensor: Map, s: int) -> Map:
    """(4.4), repaired: PS(T)[x, y, c] = T[x // s, y // s, C s mod(y, s) + C mod(x, s) + c].

    x counts columns and y rows. torch orders the channels of T as c, mod(y, s), mod(x, s); they are sorted first.
    """
    height, width, channels = tensor.shape
    c_all = channels // s**2
    paper_order = np.empty_like(tensor)
    for c in range(c_all):
        for v in range(s):
            for u in range(s):
                paper_order[..., c_all * s * v + c_all * u + c] = tensor[..., (c * s + v) * s + u]
    result = np.empty((height * s, width * s, c_all))
    for y in range(height * s):
        for x in range(width * s):
            for c in range(c_all):
                result[y, x, c] = paper_order[y // s, x // s, c_all * s * (y % s) + c_all * (x % s) + c]
    return result


def bilinear(image: Map, s: int) -> Map:
    """The enlargement of (4.5) on centered grids, pixel by pixel; edge pixels are repeated."""
    height, width, channels = image.shape
    result = np.empty((height * s, width * s, channels))
    for y in range(height * s):
        for x in range(width * s):
            v, u = (y + 0.5) / s - 0.5, (x + 0.5) / s - 0.5
            top, left = int(np.floor(v)), int(np.floor(u))
            result[y, x] = sum(
                (1 - abs(v - i)) * (1 - abs(u - j)) * image[min(max(i, 0), height - 1), min(max(j, 0), width - 1)]
                for i in (top, top + 1)
                for j in (left, left + 1)
            )
    return result


def cajnn(image: Map, weights: Weights, blocks: int, dilations: tuple[int, ...], hidden: int, s: int) -> Map:
    """G(I^LRLQ), h x w x 3 to H x W x 3; `hidden` as in the network's configuration."""
    f_l = convolution(image, weights, "first")
    feature = context(f_l, weights, dilations)
    for k in range(blocks):
        feature = rrdb(feature, weights, f"trunk.{k}")
    if hidden == 0:
        i_sr = shuffle(convolution(feature, weights, "upsampler.shuffled.0"), s)  # (4.3)
        i_sr = convolution(convolution(i_sr, weights, "upsampler.enhance.0"), weights, "upsampler.enhance.1")
    else:
        for k in range(s.bit_length() - 1):
            feature = leaky(shuffle(convolution(feature, weights, f"upsampler.shuffled.{k}"), 2))
        i_sr = leaky(convolution(feature, weights, "upsampler.enhance.0"))
        i_sr = convolution(i_sr, weights, "upsampler.enhance.1")
    return bilinear(image, s) + i_sr  # (4.5)
