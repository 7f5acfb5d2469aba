"""Network and engine compared with Algorithm 4 of SECNet; memory and work per frame of a stream."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.support.paper_algorithms import Array, algorithm_4
from tests.support.tiny_networks import paper_network
from vidsr.engines.recurrent import RecurrentEngine, StreamState
from vidsr.nets.secnet.flow import Pyramid
from vidsr.nets.secnet.network import SECNet
from vidsr.types import Frame

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("two_threads")]

SIZE = (9, 11)
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "cascaded": {"encoding": "cascaded", "attention": False},
    "one-way": {"encoding": "one-way", "t3": 0},
    "LFFNet": {"recurrent_fusion": False},
    "ERFFNet": {"local_fusion": False},
    "no past result": {"t2": 0},
    "more past results than neighbors": {"t1": 1, "t2": 3, "t3": 2},
    "more neighbors than past results": {"t1": 3, "t2": 1, "t3": 1},
}


def clip_of(length: int) -> Tensor:
    return torch.rand(length, 3, *SIZE, generator=torch.Generator().manual_seed(length))


def frames_of(clip: Tensor) -> list[Frame]:
    return [Frame(image, 40 * t, Fraction(1, 1000), 40, t == 0) for t, image in enumerate(clip)]


def engine_of(network: SECNet, is_overlapped: bool = False) -> RecurrentEngine:
    engine = RecurrentEngine(network, "paper", torch.device("cpu"), "fp32", is_overlapped)
    assert engine.info.lookahead == network.config.lookahead + is_overlapped
    return engine


def stream(engine: RecurrentEngine, clip: Tensor) -> tuple[list[Frame], list[StreamState]]:
    state, ready, states = engine.init_state(*SIZE), [], []
    for frame in frames_of(clip):
        outputs, state = engine.step(frame, state)
        ready += outputs
        states.append(state)
    return ready + engine.flush(state), states


def assert_near(result: Tensor, expected: list[Array]) -> None:
    np.testing.assert_allclose(result.double().numpy(), np.stack(expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [1, 2, 4, 10])
def test_whole_clip_and_stream_are_algorithm_4(variant: str, length: int) -> None:
    """Clips shorter than the window, and clips long enough that features are dropped."""
    network, clip = paper_network(**VARIANTS[variant]), clip_of(length)
    initial, results = algorithm_4(network, clip)
    output = network(clip[None])
    assert_near(output.firsts[0], initial)
    assert_near(output.results[0], results)
    for is_overlapped in (False, True):
        streamed = torch.stack([frame.image for frame in stream(engine_of(network, is_overlapped), clip)[0]])
        assert_near(streamed, [result.clip(0, 1) for result in results])


def test_the_comparison_sees_every_part() -> None:
    """Motion, past outputs and past features each change the output by far more than the tolerance."""
    clip = clip_of(10)[None]
    plain = paper_network()(clip).results
    assert paper_network()(clip).flows.abs().max() > 0.3
    for part in ("flow.levels.1.out", "fusion.head", "recurrent.encoding.forward_cell.gates"):
        network = paper_network()
        network.get_parameter(f"{part}.weight").mul_(0.5)
        assert (network(clip).results - plain).abs().max() > 1e-2, part
    network = paper_network()
    network.get_parameter("recurrent.details_in.0.enter.weight")[:, 6:].zero_()  # the result of frame t - 2
    assert (network(clip).results - plain).abs().max() > 1e-2


def test_missing_past_results_are_zero_and_the_memory_is_empty() -> None:
    state = paper_network().init_state(torch.rand(2, 3, *SIZE))
    assert [tuple(result.shape) for result in state.results] == [(2, 3, 36, 44)] * 2
    assert not any(result.any() for result in state.results)
    assert state.memory == ()


def test_the_state_holds_t2_results_and_t3_features() -> None:
    clip = clip_of(12)
    ready, states = stream(engine_of(paper_network()), clip)
    for t, state in enumerate(states):
        done = t - 1  # two frames of look-ahead
        assert len(state.window) == min(t + 1, 4) and state.done == min(max(done, 0), 2)
        if done <= 0:
            assert state.recurrent is None
            continue
        assert state.recurrent is not None
        assert len(state.recurrent.results) == 2 and len(state.recurrent.memory) == min(done, 6)
        for back, result in enumerate(state.recurrent.results, 1):
            expected = ready[done - back].image if done >= back else torch.zeros(3, 36, 44)
            assert torch.equal(result[0], expected)


@pytest.mark.parametrize("is_overlapped", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_pyramids_and_fields_are_computed_once_per_frame(
    variant: str, is_overlapped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, clip = engine_of(paper_network(**VARIANTS[variant]), is_overlapped), clip_of(12)
    network, calls = engine.network, Counter[str]()
    pyramid, flow, offsets = network.flow.pyramid, network.flow.forward, len(network.config.offsets)

    def counted_pyramid(image: Tensor) -> Pyramid:
        calls["pyramids"] += len(image)
        return pyramid(image)

    def counted_flow(target: Pyramid, source: Pyramid) -> Tensor:
        calls["fields"] += len(target.levels[0])
        return flow(target, source)

    monkeypatch.setattr(network.flow, "pyramid", counted_pyramid)
    monkeypatch.setattr(network.flow, "forward", counted_flow)
    for name, part in (("fusions", network.fusion), ("corrections", network.recurrent)):
        if part is not None:
            part.register_forward_pre_hook(lambda *_, name=name: calls.update([name]))
    state = engine.init_state(*SIZE)
    for t, frame in enumerate(frames_of(clip), 1):
        outputs, state = engine.step(frame, state)
        done = max(0, t - engine.info.lookahead)
        assert len(outputs) == min(done, 1)
        started = done + (is_overlapped and done > 0)
        expected = {"pyramids": t, "fields": offsets * started, "fusions": started, "corrections": done}
        assert {name: calls[name] for name in expected} == expected | (
            ({"fusions": 0} if network.fusion is None else {})
            | ({"corrections": 0} if network.recurrent is None else {})
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_cost_per_frame_is_constant(variant: str) -> None:
    engine = engine_of(paper_network(**VARIANTS[variant]))
    state, costs = engine.init_state(*SIZE), []
    for t, frame in enumerate(frames_of(clip_of(20))):
        if t in (9, 10, 19):  # the first frame with six features behind it is the ninth
            with FlopCounterMode(display=False) as counter:
                _, state = engine.step(frame, state)
            costs.append(counter.get_total_flops())
        else:
            _, state = engine.step(frame, state)
    assert costs[0] > 0 and len(set(costs)) == 1
