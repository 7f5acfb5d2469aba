"""Engines on ONNX Runtime: equal to torch in float32 on any clip, and they keep every law."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vidsr.engines.onnx
from tests.laws.test_engine_laws import LAWS, Case
from tests.support import media
from tests.support.tiny_networks import SLOWMO_FORMS, slowmo_network
from tests.support.toy_engine import make_clip
from tests.unit.test_onnx_export import NETWORKS
from vidsr.config import ComputeConfig, UpscaleConfig
from vidsr.engines.base import Engine
from vidsr.engines.onnx import PRECISIONS, OnnxRecurrentEngine, interpolation_graphs, slowmo_graphs
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.engines.slowmo import InterpolationEngine, SlowmoEngine
from vidsr.engines.tiled import is_out_of_memory
from vidsr.errors import DeviceError, UsageError
from vidsr.models.registry import build
from vidsr.nets.export_step import Step
from vidsr.nets.secnet.config import SECNetConfig, check
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.pipeline.run import enhance
from vidsr.types import Frame

CPU = torch.device("cpu")
SECNETS = ("paper", "mirrored", "LFFNet", "ERFFNet", "narrow")


def secnet_pair(form: str) -> tuple[Engine, Engine]:
    network = NETWORKS[form]()
    assert isinstance(network, SECNet)
    # The pairs are kept, and with overlap so would be their worker threads.
    plain = RecurrentEngine(network, form, CPU, "fp32", is_overlapped=False)
    return plain, OnnxRecurrentEngine(network, form, CPU)


def slowmo_onnx(network: ZoomingSlowMo, form: str) -> Engine:
    return SlowmoEngine(slowmo_graphs(network, CPU), form, CPU, PRECISIONS, is_overlapped=False)


def slowmo_pair(form: str) -> tuple[Engine, Engine]:
    network = slowmo_network(form)
    return SlowmoEngine.of_network(network, form, CPU, "fp32", is_overlapped=False), slowmo_onnx(network, form)


def interpolation_pair(form: str) -> tuple[Engine, Engine]:
    network = slowmo_network(form)
    return InterpolationEngine.of_network(network, form, CPU, "fp32"), InterpolationEngine(
        interpolation_graphs(network, CPU), form, CPU, PRECISIONS
    )


PAIRS: dict[str, Callable[[], tuple[Engine, Engine]]] = {
    **{f"secnet {form}": lambda form=form: secnet_pair(form) for form in SECNETS},  # type: ignore[misc]
    **{f"slowmo {form}": lambda form=form: slowmo_pair(form) for form in SLOWMO_FORMS},  # type: ignore[misc]
    "interpolation fast": lambda: interpolation_pair("fast"),
    "interpolation conditioned": lambda: interpolation_pair("conditioned"),
}


@cache
def pair(name: str) -> tuple[Engine, Engine]:
    """Engines hold no state, so each pair is built only once."""
    return PAIRS[name]()


def run(engine: Engine, frames: Sequence[Frame]) -> list[Frame]:
    state, ready = engine.init_state(*frames[0].image.shape[1:]), list[Frame]()
    for frame in frames:
        results, state = engine.step(frame, state)
        ready += results
    return ready + engine.flush(state)


@pytest.mark.parametrize("name", PAIRS)
@settings(max_examples=4, deadline=None)
@given(
    length=st.integers(1, 12), height=st.integers(1, 30), width=st.integers(1, 30),
    cuts=st.sets(st.integers(0, 11), max_size=3), seed=st.integers(0, 99),
)  # fmt: skip
def test_it_gives_what_torch_gives(name: str, length: int, height: int, width: int, cuts: set[int], seed: int) -> None:
    clip = make_clip(length, height, width, seed, tuple(cuts))
    expected, given_frames = (run(engine, clip) for engine in pair(name))
    assert len(given_frames) == len(expected)
    for ours, theirs in zip(given_frames, expected, strict=True):
        assert (ours.pts, ours.time_base, ours.duration) == (theirs.pts, theirs.time_base, theirs.duration)
        assert ours.starts_scene == theirs.starts_scene
        assert (ours.image - theirs.image).abs().max() < 1e-3


TINY = {
    "flow_width": 2, "flow_depth": 2, "flow_levels": 1, "fusion_width": 3, "fusion_blocks": 1, "recurrent_width": 2,
    "encoder_blocks": 1, "decoder_blocks": 1, "t2": 2,
}  # fmt: skip
SWITCHES: dict[str, tuple[Any, ...]] = {
    "local_fusion": (True, False), "recurrent_fusion": (True, False), "detail_widths": ((), (2, 3)),
    "fusion_tail": (0, 2), "attention": (False, True), "mirrored": (False, True),
    "estimator_width": (0, 2), "unshuffle": (1, 2),
}  # fmt: skip
ENCODINGS = {
    "one-way, aligned": {"encoding": "one-way", "aligned": True},
    "one-way": {"encoding": "one-way", "aligned": False},
    "one-way, no past results": {"encoding": "one-way", "aligned": False, "t2": 0},
    "cascaded": {"encoding": "cascaded", "aligned": False, "t3": 2},
    "fused": {"encoding": "fused", "aligned": False, "t3": 2},
}


def valid_forms(encoding: str) -> Iterator[dict[str, Any]]:
    """Every valid combination of the switches of a SECNet with this encoding, with tiny widths."""
    for values in itertools.product(*SWITCHES.values()):
        form = TINY | ENCODINGS[encoding] | dict(zip(SWITCHES, values, strict=True))
        try:
            check(SECNetConfig(**form))
        except ValueError:
            continue
        yield form


class EagerGraph:
    """Stands for the graph of a step, whose export takes over a second: the step itself."""

    def __init__(self, step: Step, device: torch.device) -> None:
        self._step = step.to(device)

    def run(self, values: Sequence[Tensor], height: int, width: int) -> tuple[Tensor, ...]:
        results: tuple[Tensor, ...] = self._step(*values)
        wanted = {"inputs": self._step.inputs(height, width), "outputs": self._step.outputs(height, width)}
        found = {"inputs": values, "outputs": results}
        for kind, shapes in wanted.items():
            assert [tuple(tensor.shape) for tensor in found[kind]] == list(shapes.values())
        return results


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_step_of_every_form_of_secnet_gives_what_torch_gives(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vidsr.engines.onnx, "Graph", EagerGraph)
    clip = make_clip(3, 3, 4, 0, (0, 2))
    forms = list(valid_forms(encoding))
    assert len(forms) > 20
    for form in forms:
        torch.manual_seed(0)
        network = build("secnet", form).requires_grad_(False).eval()
        assert isinstance(network, SECNet)
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
        expected = run(RecurrentEngine(network, "", CPU, "fp32", is_overlapped=False), clip)
        found = run(OnnxRecurrentEngine(network, "", CPU), clip)
        assert len(found) == len(expected) == len(clip)
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours.image - theirs.image).abs().max() < 1e-4, form


# Laws for one engine of each kind: the others differ only in their networks.
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", ["secnet narrow", "slowmo fast"])
@torch.inference_mode()
def test_law(name: str, law: Callable[[Case], None]) -> None:
    law(Case(lambda: pair(name)[1], 0.1, has_learned=False))


def test_a_film_through_the_backend(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.mp4", 4)
    compute = ComputeConfig(model="secnet-fast", device="cpu", backend="onnx")
    report = enhance(source, tmp_path / "b.mp4", UpscaleConfig(compute=compute))
    assert (report.frames_out, report.model, report.precision) == (4, "secnet-fast", "fp32")


def test_what_the_backend_does_not_do() -> None:
    for options, error in (({"precision": "bf16"}, "fp32 only"), ({"model": "bicubic"}, "not a network")):
        with pytest.raises(UsageError, match=error):
            ComputeConfig(backend="onnx", **options)


def test_a_device_that_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS["narrow"]()
    assert isinstance(network, SECNet)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for device in ("cuda", "mps"):
        with pytest.raises(DeviceError, match=f"cannot use device '{device}'"):
            OnnxRecurrentEngine(network, "narrow", torch.device(device))


def test_a_provider_that_cannot_load_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime would fall back to the CPU with a warning; vidsr raises an error."""
    network = NETWORKS["narrow"]()
    assert isinstance(network, SECNet)
    real = onnxruntime.InferenceSession

    def on_the_cpu(model: bytes, options: object, providers: list[object]) -> object:
        return real(model, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    with pytest.raises(DeviceError, match="cannot load its CUDA libraries"):
        OnnxRecurrentEngine(network, "narrow", torch.device("cuda"))


def test_without_onnx_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    network = NETWORKS["narrow"]()
    assert isinstance(network, SECNet)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match="pip install onnxruntime"):
        OnnxRecurrentEngine(network, "narrow", CPU)


def test_running_out_of_memory_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime's own exception is not a RuntimeError, but must make a tiled run reduce its tiles."""
    network = NETWORKS["narrow"]()
    assert isinstance(network, SECNet)
    engine = OnnxRecurrentEngine(network, "narrow", CPU)

    class Full:
        def io_binding(self) -> object:
            return real.io_binding()

        def run_with_iobinding(self, binding: object) -> None:
            raise onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException(
                "bfc_arena.cc:358 Failed to allocate memory for requested buffer of size 123"
            )

    real = engine._graph._session
    monkeypatch.setattr(engine._graph, "_session", Full())
    with pytest.raises(RuntimeError) as error:
        run(engine, make_clip(2))
    assert is_out_of_memory(error.value)
