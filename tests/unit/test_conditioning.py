"""The network that is told how degraded a frame is: it starts as the plain one, streams as it trains, and obeys."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.support.torch_threads import torch_threads
from tests.unit.test_onnx_export import NARROW
from vidsr.engines.onnx import OnnxRecurrentEngine
from vidsr.engines.recurrent import RecurrentEngine, StreamState
from vidsr.errors import ModelError, UsageError
from vidsr.faces.engine import FaceEngine
from vidsr.models.registry import build
from vidsr.nets.secnet.conditioning import LEAST_RATE, Estimate, decided, smooth, told_values
from vidsr.nets.secnet.network import SECNet
from vidsr.train.initialisation import start_from
from vidsr.train.losses import estimate_loss
from vidsr.types import Frame

CPU = torch.device("cpu")
SIZE = (18, 23)  # no multiple of a cell
TOLD = NARROW | {"estimator_width": 8, "modulation_width": 4}
Told = tuple[float | None, float | None, float | None]
NONE: Told = (None, None, None)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """As many as overlapping takes, on any machine."""
    with torch_threads(2):
        yield


def told_network(**arguments: Any) -> SECNet:
    """Weights far from the start, so that estimates differ and change the result."""
    torch.manual_seed(0)
    network = build("secnet", TOLD | arguments).requires_grad_(False).eval()
    assert isinstance(network, SECNet)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    assert network.estimator is not None
    network.estimator.overall.weight.mul_(20)
    return network


def clip_of(length: int, seed: int = 1) -> Tensor:
    return torch.rand(length, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def stream(engine: Any, clip: Tensor, cuts: tuple[int, ...] = (0,)) -> tuple[Tensor, list[Any]]:
    state, ready, states = engine.init_state(*SIZE), list[Frame](), []
    for t, image in enumerate(clip):
        given, state = engine.step(Frame(image, 40 * t, Fraction(1, 1000), 40, t in cuts), state)
        ready += given
        states.append(state)
    return torch.stack([frame.image for frame in ready + engine.flush(state)]), states


def engine_of(network: SECNet, told: Told = NONE, is_overlapped: bool = False) -> RecurrentEngine:
    return RecurrentEngine(network, "told", CPU, "fp32", is_overlapped, told)


# ----------------------------------------------------------------------------------------------------------- the start


@pytest.mark.parametrize("batch", [1, 2])
def test_it_starts_as_the_network_that_is_not_told(tmp_path: Path, batch: int) -> None:
    """To the bit, also where the weights are tuned instead of the pixels (batch 1)."""
    torch.manual_seed(3)
    plain = build("secnet", NARROW).requires_grad_(False).eval()
    for parameter in plain.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    told = build("secnet", TOLD).requires_grad_(False).eval()
    start_from(told, tmp_path / "plain.safetensors")
    clip = torch.stack([clip_of(4, seed) for seed in range(batch)])
    assert isinstance(plain, SECNet) and isinstance(told, SECNet)
    assert torch.equal(told(clip).results, plain(clip).results)
    assert torch.equal(told(clip).firsts, plain(clip).firsts)
    for is_overlapped in (False, True):
        streams = [stream(engine_of(network, is_overlapped=is_overlapped), clip[0])[0] for network in (told, plain)]
        assert torch.equal(*streams)


def test_todays_networks_have_no_new_tensor() -> None:
    assert not [name for name in build("secnet", {}).state_dict() if name.startswith(("estimator", "tune_"))]


def test_weights_that_lack_something_else_are_still_refused(tmp_path: Path) -> None:
    state = build("secnet", TOLD).state_dict()
    del state["fusion.head.weight"]
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(ModelError, match=r"'fusion\.head\.weight' is not in both"):
        start_from(build("secnet", TOLD), tmp_path / "broken.safetensors")


def test_the_estimator_and_the_modulation_are_cheap() -> None:
    """At most 4 % of the multiply-adds, in the size that is trained."""
    counts = []
    for arguments in ({}, {"estimator_width": 32}):
        network = build("secnet", arguments)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.rand(1, 2, 3, 64, 64))
        counts.append(counter.get_total_flops())
    assert counts[0] < counts[1] < 1.04 * counts[0]


@pytest.mark.parametrize(
    "sizes",
    [
        {"estimator_width": 1},
        {"estimator_width": 8, "modulation_width": 0},
        {"estimator_width": 8, "local_fusion": False},
        {"estimator_width": 8, "fusion_tail": 4},
        {"estimator_width": 8, "detail_widths": (8, 12)},
    ],
)
def test_impossible_sizes_are_refused(sizes: dict[str, Any]) -> None:
    with pytest.raises(ModelError, match="estimator"):
        build("secnet", sizes)


# ---------------------------------------------------------------------------------------------------------- the stream


@pytest.mark.parametrize("told", [NONE, (0.3, None, 1.0), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("is_overlapped", [False, True])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_stream_is_the_whole_clip(told: Told, is_overlapped: bool, length: int) -> None:
    network, clip = told_network(), clip_of(length)
    expected = network(clip[None], told=told_values(told)).results[0].clamp(0, 1)
    torch.testing.assert_close(stream(engine_of(network, told, is_overlapped), clip)[0], expected, atol=1e-5, rtol=0)


def test_the_comparison_sees_estimate_time_and_place() -> None:
    network, clip = told_network(), clip_of(6)[None]
    estimates = network(clip).estimates
    assert estimates is not None
    overall, local = estimates
    assert overall.shape == (1, 6, 3) and local.shape == (1, 6, 3, 5, 6)
    assert overall.std(1).min() > 1e-3 and local.std((-1, -2)).min() > 1e-3
    plain = network(clip).results
    for told in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        assert (network(clip, told=told_values(told)).results - plain).abs().max() > 1e-3
    shuffled = network(clip[:, [1, 0, 2, 3, 4, 5]]).results[:, 4:]  # another past, another mean
    assert (shuffled - plain[:, 4:]).abs().max() > 1e-4


def test_a_clip_continued_with_the_frames_before_it_is_the_whole_clip() -> None:
    network, clip = told_network(), clip_of(8)[None]
    first = network(clip[:, :5])
    # The window of frame 4 ended there, so what follows is compared from where the state is the same.
    whole = network(clip)
    second = network(clip[:, 5:], first.state, clip[:, :5])
    assert second.estimates is not None and whole.estimates is not None
    torch.testing.assert_close(second.estimates.overall, whole.estimates.overall[:, 5:], atol=1e-6, rtol=0)
    torch.testing.assert_close(second.firsts, whole.firsts[:, 5:], atol=1e-5, rtol=0)


def test_cuts_reset_the_estimate() -> None:
    network, clip = told_network(), clip_of(9)
    streamed, _ = stream(engine_of(network), clip, cuts=(0, 4))
    scenes = [network(part[None]).results[0].clamp(0, 1) for part in (clip[:4], clip[4:])]
    torch.testing.assert_close(streamed, torch.cat(scenes), atol=1e-5, rtol=0)


def test_the_state_does_not_grow() -> None:
    _, states = stream(engine_of(told_network()), clip_of(40))

    def numbers(state: StreamState) -> int:
        assert state.recurrent is not None
        known = [(each.estimate, each.smoothed) for each in state.window]
        assert all(estimate is not None and smoothed is not None for estimate, smoothed in known)
        return len(known) * 4 + sum(x.numel() for x in (*state.recurrent.results, *state.recurrent.memory))

    assert len({numbers(state) for state in states[3:]}) == 1
    weight = states[-1].window[-1].smoothed
    assert weight is not None and float(weight[0, 3]) == pytest.approx(1 / LEAST_RATE)


def test_a_frozen_scene_has_a_frozen_estimate() -> None:
    _, states = stream(engine_of(told_network()), clip_of(1).expand(30, -1, -1, -1))
    smoothed = [state.window[-1].smoothed for state in states]
    assert all(each is not None for each in smoothed)
    values = torch.cat([each[:, :3] for each in smoothed if each is not None])
    assert (values - values[0]).abs().max() < 1e-6


@pytest.mark.parametrize("told", [NONE, (None, 0.7, None)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_onnx_computes_the_same(told: Told, mirrored: bool) -> None:
    network, clip = told_network(mirrored=mirrored), clip_of(5)
    expected, _ = stream(engine_of(network, told), clip, cuts=(0, 3))
    result, _ = stream(OnnxRecurrentEngine(network, "told", CPU, told), clip, cuts=(0, 3))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


# -------------------------------------------------------------------------------------------------------------- parts


def test_smoothing_is_the_mean_at_first_and_then_follows() -> None:
    values, state = torch.rand(30, 1, 3, generator=torch.Generator().manual_seed(0)), None
    for t, value in enumerate(values):
        state = smooth(value, state)
        if t < 1 / LEAST_RATE:
            torch.testing.assert_close(state[:, :3], values[: t + 1].mean(0), atol=1e-6, rtol=0)
    assert state is not None
    before = smooth(torch.zeros(1, 3), state)
    torch.testing.assert_close(before[:, :3], state[:, :3] * (1 - LEAST_RATE), atol=1e-6, rtol=0)


def test_what_is_told_takes_the_place_of_the_estimate() -> None:
    estimate = Estimate(torch.tensor([[0.1, 0.2, 0.3]]), torch.rand(1, 3, 2, 2))
    smoothed = smooth(estimate.overall, None)
    condition = decided(estimate, smoothed, told_values((None, 0.9, None)))
    torch.testing.assert_close(condition.overall, torch.tensor([[0.1, 0.9, 0.3]]))
    assert torch.equal(condition.local[:, 0], estimate.local[:, 0])
    assert (condition.local[:, 1] == 0.9).all()
    assert told_values(NONE) is None


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_what_is_told_is_in_0_to_1(value: float) -> None:
    with pytest.raises(UsageError, match=r"told in 0\.\.1"):
        engine_of(told_network(), (None, None, value))


def test_only_a_network_with_an_estimator_can_be_told() -> None:
    plain = build("secnet", NARROW)
    assert isinstance(plain, SECNet)
    with pytest.raises(UsageError, match="the model 'told' cannot be told"):
        engine_of(plain, (0.5, None, None))
    with pytest.raises(UsageError, match="the model 'told' cannot be told"):
        OnnxRecurrentEngine(plain, "told", CPU, (0.5, None, None))
    with pytest.raises(UsageError, match="cannot restore faces"):
        FaceEngine(told_network(), CPU, "fp32")


def test_the_estimates_loss_and_what_it_teaches() -> None:
    quantities = torch.full((2, 3), 0.75)

    def loss(overall: float, local: float) -> float:
        logits = (math.log(share / (1 - share)) for share in (overall, local))
        parts = (torch.full(shape, each) for shape, each in zip(((2, 3, 3), (2, 3, 3, 4, 4)), logits, strict=True))
        return float(estimate_loss(Estimate(*parts), quantities))

    expected = -1.5 * (0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert loss(0.75, 0.75) == pytest.approx(expected, rel=1e-5)
    assert loss(0.75, 0.75) < loss(0.75, 0.5) < loss(0.5, 0.75) < loss(0.05, 0.75)
    network = told_network().requires_grad_(True)
    clip = clip_of(3)[None]
    network(clip).results.square().mean().backward()
    assert network.estimator is not None and network.tune_recurrent is not None
    assert network.estimator.overall.weight.grad is None, "reconstruction must not change what the numbers mean"
    for part in (network.estimator.local.weight, network.tune_recurrent.tune.weight):
        assert part.grad is not None and part.grad.abs().max() > 0
