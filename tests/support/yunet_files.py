"""Generates small ONNX files with YuNet's interface whose outputs are a known function of the image.

For each stride s the image is averaged over cells of s x s pixels; score, box and points of a cell are linear in its
three averages (blue, green, red, in 0..1).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
COLUMNS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
# Large enough that faces of adjacent cells, even diagonal ones, overlap by more than 0.3.
CELLS = 3.2
POINTS = np.array([[-0.5, -0.5], [0.5, -0.5], [0.0, 0.0], [-0.4, 0.6], [0.4, 0.6]])

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Toy:
    """Weights (columns x 3) and biases of each output; the same for all strides."""

    weights: dict[str, Array]
    biases: dict[str, Array]


def blob_finder() -> Toy:
    """Detects a face of CELLS cells around the center of each all-blue cell, with the points of an upright face."""
    weights = {kind: np.zeros((columns, 3)) for kind, columns in COLUMNS.items()}
    weights["cls"][0, 0] = weights["obj"][0, 0] = 3.0
    biases = {
        "cls": np.array([-2.0]),
        "obj": np.array([-2.0]),
        "bbox": np.array([0.5, 0.5, np.log(CELLS), np.log(CELLS)]),
        "kps": (0.5 + POINTS).ravel(),
    }
    return Toy(weights, biases)


def random_finder(seed: int) -> Toy:
    """Every output depends on every color; scores extend below 0 and above 1."""
    random = np.random.default_rng(seed)
    weights = {kind: random.normal(0, 0.5, (columns, 3)) for kind, columns in COLUMNS.items()}
    biases = {kind: random.normal(0, 0.5, columns) for kind, columns in COLUMNS.items()}
    for kind in ("cls", "obj"):
        weights[kind] *= 2
        biases[kind] = 0.5 - weights[kind].sum(1) / 2
    biases["bbox"][2:] += 0.7
    return Toy(weights, biases)


def write_yunet(path: Path, toy: Toy, size: tuple[int, int] | None = None, without: str = "") -> Path:
    """Writes the file; `size` (height, width) fixes the input, `without` omits an output."""
    nodes, constants, outputs = [], [], []
    constants.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "unit"))
    nodes.append(helper.make_node("Mul", ["input", "unit"], ["levels"]))
    for stride in STRIDES:
        nodes.append(
            helper.make_node(
                "AveragePool", ["levels"], [f"mean_{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        for kind, columns in COLUMNS.items():
            name = f"{kind}_{stride}"
            if name == without:
                continue
            weight = toy.weights[kind].astype(np.float32).reshape(columns, 3, 1, 1)
            constants.append(numpy_helper.from_array(weight, f"w_{name}"))
            constants.append(numpy_helper.from_array(toy.biases[kind].astype(np.float32), f"b_{name}"))
            constants.append(numpy_helper.from_array(np.array([1, -1, columns]), f"s_{name}"))
            nodes += [
                helper.make_node("Conv", [f"mean_{stride}", f"w_{name}", f"b_{name}"], [f"c_{name}"]),
                helper.make_node("Transpose", [f"c_{name}"], [f"t_{name}"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"t_{name}", f"s_{name}"], [name]),
            ]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, None, columns]))
    shape = [1, 3, *(size or ("height", "width"))]
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "toy", [image], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def expected(toy: Toy, image: Array, min_score: float) -> list[tuple[float, list[float], list[float]]]:
    """The documented score, box and ten point coordinates of every cell of an image, 3 x H x W in 0..255."""
    faces = []
    for stride in STRIDES:
        for row in range(image.shape[1] // stride):
            for column in range(image.shape[2] // stride):
                cell = image[:, row * stride : (row + 1) * stride, column * stride : (column + 1) * stride]
                mean = cell.reshape(3, -1).mean(1) / 255
                out = {kind: toy.weights[kind] @ mean + toy.biases[kind] for kind in COLUMNS}
                score_squared = min(max(out["cls"][0], 0), 1) * min(max(out["obj"][0], 0), 1)
                if score_squared**0.5 < min_score:
                    continue
                x, y, wide, tall = out["bbox"]
                width, height = stride * np.exp(wide), stride * np.exp(tall)
                box = [(column + x) * stride - width / 2, (row + y) * stride - height / 2, width, height]
                points = [
                    (out["kps"][2 * k + axis] + (column, row)[axis]) * stride for k in range(5) for axis in (0, 1)
                ]
                faces.append((score_squared**0.5, box, points))
    return faces
