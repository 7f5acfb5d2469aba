"""The face detector's network: what it gives, and that the exported file gives the same through YuNet's interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from vidsr.errors import ModelError
from vidsr.faces.yunet import STRIDES as INTERFACE_STRIDES
from vidsr.faces.yunet import WIDTHS, Yunet
from vidsr.models.onnx_export import detector_graph
from vidsr.models.registry import build
from vidsr.nets.facepyramid import COLUMNS, STRIDES, FacePyramid, FacePyramidGraph

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> FacePyramid:
    """Trained by chance: batch statistics and biases are not those of the start."""
    torch.manual_seed(1)
    network = build("facepyramid", {"widths": (4, 6, 8, 8, 10), "blocks": (1, 0, 1, 2, 0), "pyramid": 6})
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(2, 3, 64, 64))
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return network.eval()


@pytest.fixture(scope="module")
def file(network: FacePyramid, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("net") / "a.onnx"
    path.write_bytes(detector_graph(network))
    return path


def test_it_is_yunets_interface() -> None:
    assert STRIDES == INTERFACE_STRIDES and COLUMNS == WIDTHS and list(COLUMNS) == list(WIDTHS)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (96, 160)])
def test_a_head_for_each_stride(network: FacePyramid, height: int, width: int) -> None:
    raw = network(torch.rand(2, 3, height, width))
    assert [tuple(level.shape) for level in raw] == [(2, 16, height // s, width // s) for s in STRIDES]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 96), (160, 128)])
def test_the_file_computes_what_the_network_does(network: FacePyramid, file: Path, height: int, width: int) -> None:
    picture = np.random.default_rng(height).uniform(0, 255, (3, height, width)).astype(np.float32)
    found = Yunet(file, CPU, 1).outputs(picture)
    with torch.no_grad():
        raw = network(torch.from_numpy(picture)[None] / 255)
    for stride, level in zip(STRIDES, raw, strict=True):
        rows = level[0].flatten(1).T
        rows = torch.cat([rows[:, :2].sigmoid(), rows[:, 2:]], 1).numpy()
        stored = np.concatenate([found[f"{kind}_{stride}"][0] for kind in COLUMNS], 1)
        assert np.abs(stored - rows).max() < 1e-4


def test_the_file_takes_any_size_and_says_so(file: Path) -> None:
    model = onnx.load(str(file))
    assert Yunet(file, CPU, 1).size is None
    shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.output}
    assert shapes == {f"{k}_{s}": [1, f"cells_{s}", width] for s in STRIDES for k, width in COLUMNS.items()}
    assert not {"BatchNormalization", "Div"} & {node.op_type for node in model.graph.node}, "they cost time"


def test_a_graph_leaves_its_network_alone(network: FacePyramid) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    FacePyramidGraph(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_shifted_scores_are_shifted_logits() -> None:
    torch.manual_seed(2)
    network, picture = build("facepyramid", {"pyramid": 8}).eval(), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = network(picture)
        network.shift_scores(0.7)
        for old, new in zip(before, network(picture), strict=True):
            assert torch.allclose(new[:, :2], old[:, :2] + 0.7, atol=1e-5)
            assert torch.equal(new[:, 2:], old[:, 2:])


def test_sizes_that_make_no_network() -> None:
    for arguments in ({"widths": (8, 8)}, {"blocks": (0, 0, 0, 0, -1)}, {"pyramid": 0}, {"width": 8}):
        with pytest.raises(ModelError, match="facepyramid"):
            build("facepyramid", arguments)
