"""Writes files in the format of dlib's recognition network, with random weights, and computes them in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
# Channels in and out of each pair of convolutions, and whether it halves the image: dlib's anet_type in
# dnn_face_recognition_ex.cpp, read from its end, where the image is.
PAIRS = [(32, 32, 0)] * 3 + [(32, 64, 1)] + [(64, 64, 0)] * 3 + [(64, 128, 1)] + [(128, 128, 0)] * 2
PAIRS += [(128, 256, 1)] + [(256, 256, 0)] * 2 + [(256, 256, 1)]


def random_layers(seed: int) -> list[tuple[str, Array]]:
    """Layers from the image on: convolutions, n_out x n_in x k x k, with their biases, scales with shifts, the last."""
    random = np.random.default_rng(seed)
    layers: list[tuple[str, Array]] = []
    for inputs, outputs, size in [(3, 32, 7)] + [(i, o, 3) for a, b, _ in PAIRS for i, o in ((a, b), (b, b))]:
        spread = 1 / np.sqrt(inputs * size * size)
        values = [random.normal(0, spread, outputs * inputs * size * size), random.normal(0, 0.1, outputs)]
        layers.append(("con_4", np.concatenate(values).astype(np.float32)))
        values = [random.uniform(0.5, 1, outputs), random.normal(0, 0.1, outputs)]
        layers.append(("affine_", np.concatenate(values).astype(np.float32)))
    return [*layers, ("fc_2", random.normal(0, 0.1, 256 * 128).astype(np.float32))]


def write_dlib(path: Path, layers: list[tuple[str, Array]]) -> Path:
    """The file as dlib's `serialize` writes the parts that vidsr reads; other bytes between them are arbitrary."""
    content = b"\x01\x01\x01\x0dloss_metric_2"
    for name, values in layers:
        sizes = (256, 128, 1, 1) if name == "fc_2" else (len(values), 1, 1, 1)
        counts = (128, 256) if name == "fc_2" else ()
        numbers = b"".join(map(_integer, (*counts, 2, *sizes)))
        content += _integer(len(name)) + name.encode() + numbers + values.astype("<f4").tobytes() + b"\x01\x20\x01\x00"
    path.write_bytes(content)
    return path


def _integer(value: int) -> bytes:
    size = max(1, (value.bit_length() + 7) // 8)
    return bytes([size]) + value.to_bytes(size, "little")


def computed(layers: list[tuple[str, Array]], image: Array) -> Array:
    """The vector, 128 numbers, of an image, 150 x 150 x 3, in float64."""
    rest = iter([values.astype(np.float64) for _, values in layers])

    def convolved(x: Array, outputs: int, size: int, stride: int, border: int) -> Array:
        values, affine = next(rest), next(rest)
        kernels, biases = values[:-outputs].reshape(outputs, len(x), size, size), values[-outputs:]
        x = np.pad(x, ((0, 0), (border, border), (border, border)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
        y = np.tensordot(kernels, windows, ((1, 2, 3), (0, 3, 4))) + biases[:, None, None]
        return y * affine[:outputs, None, None] + affine[outputs:, None, None]

    x = (image.transpose(2, 0, 1) - np.array([122.782, 117.001, 104.298])[:, None, None]) / 256
    x = np.maximum(convolved(x, 32, 7, 2, 0), 0)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2].max((3, 4))
    for _, outputs, halves in PAIRS:
        y = np.maximum(convolved(x, outputs, 3, 1 + halves, 1 - halves), 0)
        y = convolved(y, outputs, 3, 1, 1)
        if halves:
            x = np.lib.stride_tricks.sliding_window_view(x, (2, 2), (1, 2))[:, ::2, ::2].mean((3, 4))
        total = np.zeros([max(pair) for pair in zip(x.shape, y.shape, strict=True)])
        for each in (x, y):
            total[: each.shape[0], : each.shape[1], : each.shape[2]] += each
        x = np.maximum(total, 0)
    return x.mean((1, 2)) @ next(rest).reshape(256, 128)
