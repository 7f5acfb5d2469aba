"""The engine for single-image networks: padding, tiles, precisions, ONNX."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.support.toy_architecture import Toy, toy_network
from tests.support.toy_engine import make_clip
from vidsr.engines.base import Engine
from vidsr.engines.onnx import PRECISIONS, single_image_graph
from vidsr.engines.single_image import SingleImageEngine
from vidsr.engines.tiled import TiledEngine
from vidsr.types import Frame

CPU = torch.device("cpu")


def run(engine: Engine, frames: list[Frame]) -> list[Frame]:
    state, results = engine.init_state(*frames[0].image.shape[1:]), list[Frame]()
    for frame in frames:
        ready, state = engine.step(frame, state)
        results += ready
    return results + engine.flush(state)


def of(network: Toy, precision: str = "fp32") -> SingleImageEngine:
    return SingleImageEngine.of_network(network, "toy", CPU, precision)


def by_onnx(network: Toy) -> Engine:
    return SingleImageEngine(single_image_graph(network, CPU), "toy", network.config, CPU, PRECISIONS)


def test_frames_are_padded_to_what_the_network_takes_and_cut_again() -> None:
    network, frames = toy_network(), make_clip(3, height=21, width=30)
    results = run(of(network), frames)
    for frame, result in zip(frames, results, strict=True):
        padded = F.pad(frame.image[None], (0, 2, 0, 3), mode="replicate")
        expected = network(padded)[0, :, :42, :60].clamp(0, 1)
        assert result.image.shape == (3, 42, 60) and (result.image - expected).abs().max() < 1e-5
        assert (result.pts, result.time_base, result.starts_scene) == (frame.pts, frame.time_base, frame.starts_scene)
    assert of(network).info.multiple_of == 8 and of(network).info.lookahead == 0


def test_the_network_is_copied() -> None:
    network = toy_network()
    engine, frames = of(network), make_clip(1, height=16, width=16)
    before = run(engine, frames)[0].image
    network.tail.weight.zero_()
    assert torch.equal(run(engine, frames)[0].image, before)


def test_tiles_change_nothing() -> None:
    network, frames = toy_network(), make_clip(2, height=96, width=136)
    whole, tiled = run(of(network), frames), run(TiledEngine(of(network), 64), frames)
    for one, other in zip(whole, tiled, strict=True):
        assert (one.image - other.image).abs().max() < 1e-6


def test_onnx_computes_the_same() -> None:
    network, frames = toy_network(), make_clip(2, height=21, width=30)
    for one, other in zip(run(of(network), frames), run(by_onnx(network), frames), strict=True):
        assert (one.image - other.image).abs().max() < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_other_precisions_are_near_and_float32_outside(precision: str) -> None:
    network, frames = toy_network(), make_clip(1, height=16, width=24)
    exact, coarse = run(of(network), frames)[0].image, run(of(network, precision), frames)[0].image
    assert coarse.dtype == torch.float32 and 0 < (exact - coarse).abs().max() < 0.02
