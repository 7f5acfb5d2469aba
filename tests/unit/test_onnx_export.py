"""ONNX export: each graph equals its part of the network, at any size; files are complete or not written."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

import vidsr.models.onnx_export
from tests.support.tiny_networks import SLOWMO_FORMS, paper_network, slowmo_network
from vidsr.cli import app
from vidsr.errors import OutputError, UsageError
from vidsr.models.onnx_export import export, graph_of
from vidsr.models.registry import build
from vidsr.nets.base import Network
from vidsr.nets.export_step import Step
from vidsr.nets.secnet.export_step import SECNetStep
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.zsm.export_steps import parts_of

pytestmark = pytest.mark.numeric

NARROW = {
    "flow_width": 4, "flow_depth": 2, "flow_levels": 2, "fusion_width": 6, "fusion_blocks": 1, "recurrent_width": 5,
    "decoder_blocks": 1,
}  # fmt: skip


def narrow_network(**arguments: Any) -> Network:
    torch.manual_seed(0)
    network = build("secnet", NARROW | arguments).requires_grad_(False).eval()
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    return network


NETWORKS: dict[str, Callable[[], Network]] = {
    "paper": paper_network,
    "cascaded": lambda: paper_network(encoding="cascaded", attention=False),
    "one-way": lambda: paper_network(encoding="one-way", t3=0, t2=3),
    "mirrored": lambda: paper_network(mirrored=True),
    "LFFNet": lambda: paper_network(recurrent_fusion=False),
    "ERFFNet": lambda: paper_network(local_fusion=False),
    "narrow": narrow_network,
    "narrow, cascaded": lambda: narrow_network(encoding="cascaded", aligned=False, t3=3),
} | {f"zsm {form}": lambda form=form: slowmo_network(form) for form in SLOWMO_FORMS}  # type: ignore[misc]


@cache
def steps(name: str) -> dict[str, Step]:
    network = NETWORKS[name]()
    return {"": SECNetStep(network)} if isinstance(network, SECNet) else parts_of(network)


def vidsr_cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def outputs_of(step: Step, values: list[Tensor]) -> tuple[Tensor, ...]:
    with torch.inference_mode():
        result = step(*values)
    return (result,) if isinstance(result, Tensor) else result


CASES = [(name, part) for name in NETWORKS for part in steps(name)]


@pytest.mark.parametrize(("name", "part"), CASES, ids=[f"{name} {part}".strip() for name, part in CASES])
def test_the_graph_computes_what_the_network_computes_at_any_size(name: str, part: str) -> None:
    step = steps(name)[part]
    session = onnxruntime.InferenceSession(graph_of(step), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == list(step.inputs(8, 8))
    assert [value.name for value in session.get_outputs()] == list(step.outputs(8, 8))
    for seed, (height, width) in enumerate([(24, 40), (37, 21), (1, 1), (2, 33)]):
        generator = torch.Generator().manual_seed(seed)
        values = [torch.rand(shape, generator=generator) for shape in step.inputs(height, width).values()]
        if "seen" in step.inputs(height, width):
            values[1] = torch.tensor([3.0 * seed])  # the past is missing, partial or complete
        feeds = {key: value.numpy() for key, value in zip(step.inputs(height, width), values, strict=True)}
        results = session.run(None, feeds)
        expected = outputs_of(step, values)
        assert [tuple(result.shape) for result in results] == list(step.outputs(height, width).values())
        for result, wanted in zip(results, expected, strict=True):
            assert torch.isfinite(wanted).all()
            torch.testing.assert_close(torch.from_numpy(result), wanted, atol=1e-4, rtol=1e-4)


def test_the_file_names_the_axes_that_depend_on_the_frame_size(tmp_path: Path) -> None:
    result = vidsr_cli("models", "export", "secnet-fast", tmp_path / "out.onnx")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'out.onnx'}\n")
    model = onnx.load(tmp_path / "out.onnx")
    onnx.checker.check_model(model, full_check=True)
    operations = {(node.domain, node.op_type) for node in model.graph.node}
    assert {domain for domain, _ in operations} == {""}, "operations of the standard alone"
    assert not {"Loop", "Scan", "If"} & {name for _, name in operations}, "rows are not walked through one by one"
    shapes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    small, large = [1, 32, "height", "width"], [1, 3, "4*height", "4*width"]
    assert shapes == {
        "frames": [3, 3, "height", "width"], "seen": [1], "result_1": large, "hidden": small, "cell": small,
        "picture": large, "seen_next": [1], "result_1_next": large, "hidden_next": small, "cell_next": small,
    }  # fmt: skip


def test_zooming_slowmo_is_one_file_for_each_part(tmp_path: Path) -> None:
    paths = export(slowmo_network("fast"), tmp_path / "a.onnx", overwrite=False)
    assert [path.name for path in paths] == [
        "a.features.onnx", "a.between.onnx", "a.shares.onnx", "a.step.onnx", "a.result.onnx", "a.picture.onnx",
    ]  # fmt: skip
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    step = onnx.load(tmp_path / "a.step.onnx").graph
    assert [value.name for value in step.input][-2:] == ["hidden", "cell"]
    assert [value.name for value in step.output] == ["hidden_next", "cell_next"]


def test_an_existing_file_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    target = tmp_path / "a.onnx"
    target.write_bytes(b"mine")
    with pytest.raises(OutputError, match="already exists"):
        export(narrow_network(), target, overwrite=False)
    assert target.read_bytes() == b"mine"
    export(narrow_network(), target, overwrite=True)
    onnx.checker.check_model(onnx.load(target))
    assert vidsr_cli("models", "export", "secnet-fast", target).exit_code == 4


def test_no_partial_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = iter([b"one", b"two"])

    def next_graph(step: Step) -> bytes:
        try:
            return next(graphs)
        except StopIteration:
            raise OSError(28, "No space left on device") from None

    monkeypatch.setattr(vidsr.models.onnx_export, "graph_of", next_graph)
    with pytest.raises(OutputError, match="the disk is full"):
        export(slowmo_network("fast"), tmp_path / "a.onnx", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_invalid_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"end it with \.onnx"):
        export(narrow_network(), tmp_path / "a.pb", overwrite=False)
    assert vidsr_cli("models", "export", "nosuch", tmp_path / "a.onnx").exit_code == 5
    assert vidsr_cli("models", "export", "bicubic", tmp_path / "a.onnx").exit_code == 5
    assert vidsr_cli("models", "export", "secnet-fast", tmp_path / "none" / "a.onnx").exit_code == 4
    assert list(tmp_path.iterdir()) == []


def test_without_the_package_onnx(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vidsr.models.onnx_export.importlib.util, "find_spec", lambda name: None)
    result = vidsr_cli("models", "export", "secnet-fast", tmp_path / "a.onnx")
    assert result.exit_code == 2 and "pip install onnx" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []
