"""The three sequential feature encodings compared with the paper's algorithms in float64, and their cost."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.support.paper_algorithms import algorithm_1, algorithms_2_and_3, forward_inputs, theta_of, warp
from vidsr.nets.layers.blocks import ConvLSTMCell
from vidsr.nets.secnet.feature_encoding import Bidirectional, Memory, OneWay, Strategy, build_encoding

pytestmark = pytest.mark.numeric

WIDTH, SIZE = 4, (6, 7)


def encoding(strategy: Strategy, past: int, is_aligned: bool = False) -> OneWay | Bidirectional:
    """Weights large enough that every gate opens and closes."""
    torch.manual_seed(3)
    module = build_encoding(strategy, WIDTH, past, is_aligned).requires_grad_(False)
    for parameter in module.parameters():
        parameter.mul_(3)
    return module


def feature(t: int, batch: int = 2) -> Tensor:
    return torch.randn(batch, WIDTH, *SIZE, generator=torch.Generator().manual_seed(t))


def flow(t: int) -> Tensor:
    return 2 * torch.randn(2, 2, *SIZE, generator=torch.Generator().manual_seed(1000 + t))


def enhance(module: OneWay | Bidirectional, frames: int) -> tuple[list[Tensor], list[Memory]]:
    """The enhanced features of frames 1, 2, ... and the memory after each."""
    memory = module.start(feature(1))
    enhanced, memories = [], []
    for t in range(1, frames + 1):
        result, memory = module(feature(t), module.recall(memory, flow(t)))
        enhanced.append(result)
        memories.append(memory)
    return enhanced, memories


def assert_equal(result: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(result.double(), expected, atol=3e-6, rtol=0)


def test_one_way_is_algorithm_1() -> None:
    module = encoding("one-way", 0)
    assert isinstance(module, OneWay)
    theta = theta_of(module.cell, [slice(0, WIDTH)])
    h = c = torch.zeros(2, WIDTH, *SIZE, dtype=torch.float64)
    for t, (result, memory) in enumerate(zip(*enhance(module, 9), strict=True), 1):
        h, c = algorithm_1(feature(t).double(), h, c, theta)
        assert_equal(result, h)
        assert_equal(memory[0], h)
        assert_equal(memory[1], c)


def test_aligned_one_way_is_algorithm_1_on_the_warped_pair() -> None:
    """Ours: H and C of the previous frame are warped along the motion."""
    module = encoding("one-way", 0, is_aligned=True)
    assert isinstance(module, OneWay)
    theta = theta_of(module.cell, [slice(0, WIDTH)])
    h = c = torch.zeros(2, WIDTH, *SIZE, dtype=torch.float64)
    for t, result in enumerate(enhance(module, 5)[0], 1):
        field = flow(t).double().numpy()
        h, c = (torch.from_numpy(np.stack([warp(a, b) for a, b in zip(v.numpy(), field, strict=True)])) for v in (h, c))
        h, c = algorithm_1(feature(t).double(), h, c, theta)
        assert_equal(result, h)


@pytest.mark.parametrize("strategy", ["cascaded", "fused"])
@pytest.mark.parametrize("past", [1, 3, 6])
def test_bidirectional_is_algorithm_2_or_3(strategy: Strategy, past: int) -> None:
    """From the first frame, with fewer than T3 past features, to frames that drop older ones."""
    module = encoding(strategy, past)
    assert isinstance(module, Bidirectional)
    theta_b = theta_of(module.backward_cell, [slice(0, WIDTH)])
    theta_f = theta_of(module.forward_cell, forward_inputs(WIDTH, strategy == "fused"))
    features = {t: feature(t).double() for t in range(1, past + 5)}
    for t, result in enumerate(enhance(module, past + 4)[0], 1):
        assert_equal(result, algorithms_2_and_3(features, t, past, theta_b, theta_f, strategy == "fused"))


@pytest.mark.parametrize("strategy", ["cascaded", "fused"])
def test_a_feature_is_forgotten_after_t3_frames(strategy: Strategy) -> None:
    module, past = encoding(strategy, 3), 3
    plain = enhance(module, 7)[0]
    memory = module.start(feature(1))
    for t in range(1, 8):
        result, memory = module(-feature(t) if t == 2 else feature(t), module.recall(memory, flow(t)))
        is_reached = 2 <= t <= 2 + past
        assert torch.equal(result, plain[t - 1]) != is_reached


def test_one_way_never_forgets_but_its_memory_is_one_pair() -> None:
    module = encoding("one-way", 0)
    plain, memories = enhance(module, 7)
    memory = module.start(feature(1))
    for t in range(1, 8):
        result, memory = module(-feature(t) if t == 2 else feature(t), module.recall(memory, flow(t)))
        assert torch.equal(result, plain[t - 1]) == (t < 2)
    assert {tuple(tensor.shape for tensor in memory) for memory in memories} == {((2, WIDTH, *SIZE),) * 2}
    assert {tensor.dtype for memory in memories for tensor in memory} == {torch.float32}


@pytest.mark.parametrize("strategy, kept", [("cascaded", 4 * WIDTH), ("fused", 8 * WIDTH)])
def test_the_memory_holds_t3_features(strategy: Strategy, kept: int) -> None:
    """Of each feature, only the contributions to the gates of its cells are kept."""
    for t, memory in enumerate(enhance(encoding(strategy, 3), 9)[1], 1):
        assert [tuple(tensor.shape) for tensor in memory] == [(2, kept, *SIZE)] * min(t, 3)
        assert all(tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in memory), "a view keeps more alive"


# Cost of one frame, in 3x3 convolutions from WIDTH channels to the WIDTH channels of four gates.
COST = {
    ("one-way", 0): 1 + 1,
    ("cascaded", 6): 1 + 6 + (7 + 6),  # E once; H_b of 6 frames; [H_b, H_f], where the first H_f is 0
    ("fused", 6): 2 + 6 + (7 + 6),  # E once for each cell
}


@pytest.mark.parametrize("strategy, past", COST)
def test_the_cost_per_frame_is_constant_and_nothing_is_computed_twice(strategy: Strategy, past: int) -> None:
    module = encoding(strategy, past)
    memory = module.start(feature(1))
    costs = []
    for t in range(1, past + 12):
        with FlopCounterMode(display=False) as counter:
            _, memory = module(feature(t), module.recall(memory, flow(t)))
        costs.append(counter.get_total_flops() / (2 * 2 * SIZE[0] * SIZE[1] * 9 * WIDTH * 4 * WIDTH))
    assert costs[past : past + 11] == [COST[strategy, past]] * 11
    assert all(a <= b for a, b in pairwise(costs))


@pytest.mark.parametrize("strategy, cells", [("cascaded", 1), ("fused", 2)])
def test_a_feature_is_projected_once(strategy: Strategy, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[int] = Counter()
    project = ConvLSTMCell.project

    def spy(cell: ConvLSTMCell, x: Tensor, first: int, bias: bool) -> Tensor:
        seen.update(t for t, known in features.items() if x.shape == known.shape and torch.equal(x, known))
        return project(cell, x, first, bias)

    features = {t: feature(t) for t in range(1, 10)}
    monkeypatch.setattr(ConvLSTMCell, "project", spy)
    enhance(encoding(strategy, 3), 9)
    assert seen == dict.fromkeys(features, cells)


@pytest.mark.parametrize("strategy", ["one-way", "cascaded", "fused"])
def test_half_precision_is_near(strategy: Strategy) -> None:
    module = encoding(strategy, 0 if strategy == "one-way" else 3)
    exact = enhance(module, 6)[0]
    half = enhance(module.bfloat16(), 6)[0]
    for a, b in zip(exact, half, strict=True):
        assert (a - b).abs().max() < 0.15 and (a - b).abs().mean() < 0.01
