"""Generates small ONNX files with SFace's interface: the vector is a known function of the image's mean color."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LENGTH, SIDE = 128, 112
Array = np.ndarray[Any, Any]


def expected(image: Array) -> Array:
    """The vector of an image, 112 x 112 x 3: its mean red, green and blue above the middle gray, and zeros."""
    return np.concatenate([image.reshape(-1, 3).mean(0) / 255 - 0.5, np.zeros(LENGTH - 3)])


def write_sface(path: Path, length: int = LENGTH, side: int = SIDE) -> Path:
    """Writes the file; `length` and `side` may violate the interface."""
    weight = np.zeros((length, 3), np.float32)
    weight[:3] = np.eye(3) / 255
    bias = np.zeros(length, np.float32)
    bias[:3] = -0.5
    nodes = [
        helper.make_node("GlobalAveragePool", ["data"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weight", "bias"], ["fc1"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "sface",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, 3, side, side])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, [1, length])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path
