"""SECNet conditioned on degradation levels: initialization, streams, overrides and the loss of the estimator."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import vidsr.engines.onnx
from tests.laws.test_onnx_engine import EagerGraph
from tests.unit.test_onnx_export import NARROW
from vidsr.engines.onnx import OnnxRecurrentEngine
from vidsr.engines.recurrent import RecurrentEngine, StreamState
from vidsr.engines.tiled import TiledEngine
from vidsr.errors import ModelError, UsageError
from vidsr.models.registry import build
from vidsr.nets.layers.conditioning import MIN_RATE, Estimate, apply_overrides, overrides_tensor, smooth
from vidsr.nets.secnet.network import SECNet
from vidsr.train.initialization import start_from
from vidsr.train.losses import estimate_loss
from vidsr.types import Frame

pytestmark = pytest.mark.usefixtures("two_threads")

CPU = torch.device("cpu")
SIZE = (18, 23)  # not multiples of CELL
CONDITIONED = NARROW | {"estimator_width": 8, "modulation_width": 4}
Overrides = tuple[float | None, float | None, float | None]
NONE: Overrides = (None, None, None)


def conditioned_network(**arguments: Any) -> SECNet:
    """A network far from its initialization, so that estimates differ and change the result."""
    torch.manual_seed(0)
    network = build("secnet", CONDITIONED | arguments).requires_grad_(False).eval()
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
        ready_now, state = engine.step(Frame(image, 40 * t, Fraction(1, 1000), 40, t in cuts), state)
        ready += ready_now
        states.append(state)
    return torch.stack([frame.image for frame in ready + engine.flush(state)]), states


def engine_of(network: SECNet, overrides: Overrides = NONE, is_overlapped: bool = False) -> RecurrentEngine:
    return RecurrentEngine(network, "conditioned", CPU, "fp32", is_overlapped, overrides)


# -------------------------------------------------------------------------------------------------- the initial network


@pytest.mark.parametrize("batch", [1, 2])
def test_the_initial_network_equals_the_one_without_an_estimator(tmp_path: Path, batch: int) -> None:
    """Bit for bit, also where the weights are modulated instead of the pixels (batch size 1)."""
    torch.manual_seed(3)
    plain = build("secnet", NARROW).requires_grad_(False).eval()
    for parameter in plain.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    save_file(plain.state_dict(), tmp_path / "plain.safetensors")
    conditioned = build("secnet", CONDITIONED).requires_grad_(False).eval()
    start_from(conditioned, tmp_path / "plain.safetensors")
    clip = torch.stack([clip_of(4, seed) for seed in range(batch)])
    assert isinstance(plain, SECNet) and isinstance(conditioned, SECNet)
    assert torch.equal(conditioned(clip).results, plain(clip).results)
    assert torch.equal(conditioned(clip).firsts, plain(clip).firsts)
    for is_overlapped in (False, True):
        engines = [engine_of(network, is_overlapped=is_overlapped) for network in (conditioned, plain)]
        assert torch.equal(*(stream(engine, clip[0])[0] for engine in engines))


def test_weights_of_one_network_with_the_estimator_of_another(tmp_path: Path) -> None:
    """As the recipe secnet-fast-face-real starts: the results of the one, the levels of the other."""
    torch.manual_seed(3)
    plain = build("secnet", NARROW).requires_grad_(False).eval()
    for parameter in plain.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    other = conditioned_network()
    estimator = {name: tensor for name, tensor in other.state_dict().items() if name.startswith("estimator.")}
    save_file(plain.state_dict() | estimator, tmp_path / "start.safetensors")
    joined = build("secnet", CONDITIONED).requires_grad_(False).eval()
    start_from(joined, tmp_path / "start.safetensors")
    clip = clip_of(4)
    assert isinstance(plain, SECNet) and isinstance(joined, SECNet)
    assert torch.equal(joined(clip[None]).results, plain(clip[None]).results)
    assert other.estimator is not None and joined.estimator is not None
    assert all(torch.equal(*pair) for pair in zip(joined.estimator(clip), other.estimator(clip), strict=True))


def test_networks_without_an_estimator_have_none_of_its_tensors() -> None:
    assert not [name for name in build("secnet", {}).state_dict() if name.startswith(("estimator", "tune_"))]


def test_weights_that_lack_other_tensors_are_refused(tmp_path: Path) -> None:
    state = build("secnet", CONDITIONED).state_dict()
    del state["fusion.head.weight"]
    save_file(state, tmp_path / "broken.safetensors")
    with pytest.raises(ModelError, match=r"'fusion\.head\.weight' is not in both"):
        start_from(build("secnet", CONDITIONED), tmp_path / "broken.safetensors")


def test_the_estimator_and_the_modulation_are_cheap() -> None:
    """At most 4 % of the multiply-adds, at the trained size."""
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


# ------------------------------------------------------------------------------------------------------- whole frames


@settings(max_examples=40)
@given(height=st.integers(1, 90), width=st.integers(1, 40), bands=st.integers(1, 20), seed=st.integers(0, 9))
def test_the_overall_estimate_in_bands_is_that_of_the_whole_frame(
    height: int, width: int, bands: int, seed: int
) -> None:
    estimator = conditioned_network().estimator
    assert estimator is not None
    image = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    found = estimator.estimate_overall(image, band=4 * bands)
    torch.testing.assert_close(found, estimator(image).overall, atol=1e-4, rtol=0)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("is_onnx", [False, True])
def test_all_tiles_work_with_the_estimate_of_the_whole_frame(
    mirrored: bool, is_onnx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One half of the frames is flat and the other noise, so that each tile alone would estimate other levels."""
    monkeypatch.setattr(vidsr.engines.onnx, "Graph", EagerGraph)
    network = conditioned_network(mirrored=mirrored)
    random = torch.rand(4, 3, 40, 88, generator=torch.Generator().manual_seed(2))
    clip = torch.where(torch.arange(88) < 44, 0.5, random)
    frames = [Frame(image, t, Fraction(1, 25), 1, t in (0, 3)) for t, image in enumerate(clip)]

    def levels(tile: int | None, frames: list[Frame]) -> Tensor:
        inner = OnnxRecurrentEngine(network, "", CPU) if is_onnx else engine_of(network)
        engine = TiledEngine(inner, tile, overlap=8, smallest=8)
        state, ready = engine.init_state(*frames[0].image.shape[-2:]), list[Frame]()
        for frame in frames:
            more, state = engine.step(frame, state)
            ready += more
        return torch.stack([cast(Tensor, frame.levels) for frame in (*ready, *engine.flush(state))])

    whole = levels(None, frames)
    torch.testing.assert_close(levels(44, frames), whole, atol=1e-4, rtol=0)
    left = levels(None, [frame.with_image(frame.image[..., :44].contiguous()) for frame in frames])
    assert (left - whole).abs().max() > 0.01


# ---------------------------------------------------------------------------------------------------------- the stream


@pytest.mark.parametrize("overrides", [NONE, (0.3, None, 1.0), (0.0, 0.0, 0.0)])
@pytest.mark.parametrize("is_overlapped", [False, True])
@pytest.mark.parametrize("length", [1, 2, 9])
def test_a_stream_equals_the_whole_clip(overrides: Overrides, is_overlapped: bool, length: int) -> None:
    network, clip = conditioned_network(), clip_of(length)
    expected = network(clip[None], overrides=overrides_tensor(overrides)).results[0].clamp(0, 1)
    torch.testing.assert_close(
        stream(engine_of(network, overrides, is_overlapped), clip)[0], expected, atol=1e-5, rtol=0
    )


def test_the_comparison_sees_estimate_time_and_place() -> None:
    network, clip = conditioned_network(), clip_of(6)[None]
    estimates = network(clip).estimates
    assert estimates is not None
    overall, local = estimates
    assert overall.shape == (1, 6, 3) and local.shape == (1, 6, 3, 5, 6)
    assert overall.std(1).min() > 1e-3 and local.std((-1, -2)).min() > 1e-3
    plain = network(clip).results
    for overrides in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        assert (network(clip, overrides=overrides_tensor(overrides)).results - plain).abs().max() > 1e-3
    shuffled = network(clip[:, [1, 0, 2, 3, 4, 5]]).results[:, 4:]  # another past, another mean
    assert (shuffled - plain[:, 4:]).abs().max() > 1e-4


def test_a_clip_continued_with_the_frames_before_it_equals_the_whole_clip() -> None:
    network, clip = conditioned_network(), clip_of(8)[None]
    first = network(clip[:, :5])
    # The state after frame 4 differs, because the window was clamped there: only parts without the state are compared.
    whole = network(clip)
    second = network(clip[:, 5:], first.state, clip[:, :5])
    assert second.estimates is not None and whole.estimates is not None
    torch.testing.assert_close(second.estimates.overall, whole.estimates.overall[:, 5:], atol=1e-6, rtol=0)
    torch.testing.assert_close(second.firsts, whole.firsts[:, 5:], atol=1e-5, rtol=0)


def test_cuts_reset_the_estimate() -> None:
    network, clip = conditioned_network(), clip_of(9)
    streamed, _ = stream(engine_of(network), clip, cuts=(0, 4))
    scenes = [network(part[None]).results[0].clamp(0, 1) for part in (clip[:4], clip[4:])]
    torch.testing.assert_close(streamed, torch.cat(scenes), atol=1e-5, rtol=0)


def test_the_state_does_not_grow() -> None:
    _, states = stream(engine_of(conditioned_network()), clip_of(40))

    def numbers(state: StreamState) -> int:
        assert state.recurrent is not None
        known = [(each.estimate, each.smoothed) for each in state.window]
        assert all(estimate is not None and smoothed is not None for estimate, smoothed in known)
        return len(known) * 4 + sum(x.numel() for x in (*state.recurrent.results, *state.recurrent.memory))

    assert len({numbers(state) for state in states[3:]}) == 1
    weight = states[-1].window[-1].smoothed
    assert weight is not None and float(weight[0, 3]) == pytest.approx(1 / MIN_RATE)


def test_a_frozen_scene_has_a_frozen_estimate() -> None:
    _, states = stream(engine_of(conditioned_network()), clip_of(1).expand(30, -1, -1, -1))
    smoothed = [state.window[-1].smoothed for state in states]
    assert all(each is not None for each in smoothed)
    values = torch.cat([each[:, :3] for each in smoothed if each is not None])
    assert (values - values[0]).abs().max() < 1e-6


@pytest.mark.parametrize("overrides", [NONE, (None, 0.7, None)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_onnx_computes_the_same(overrides: Overrides, mirrored: bool) -> None:
    network, clip = conditioned_network(mirrored=mirrored), clip_of(5)
    expected, _ = stream(engine_of(network, overrides), clip, cuts=(0, 3))
    result, _ = stream(OnnxRecurrentEngine(network, "conditioned", CPU, overrides), clip, cuts=(0, 3))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


# -------------------------------------------------------------------------------------------------------------- parts


def test_smoothing_is_the_mean_at_first_and_then_follows() -> None:
    values, state = torch.rand(30, 1, 3, generator=torch.Generator().manual_seed(0)), None
    for t, value in enumerate(values):
        state = smooth(value, state)
        if t < 1 / MIN_RATE:
            torch.testing.assert_close(state[:, :3], values[: t + 1].mean(0), atol=1e-6, rtol=0)
    assert state is not None
    before = smooth(torch.zeros(1, 3), state)
    torch.testing.assert_close(before[:, :3], state[:, :3] * (1 - MIN_RATE), atol=1e-6, rtol=0)


@pytest.mark.parametrize("overrides", [NONE, (None, 0.7, 0.0)])
@pytest.mark.parametrize("backend", ["torch", "overlapped", "onnx"])
def test_results_carry_the_mean_of_the_scene_so_far(overrides: Overrides, backend: str) -> None:
    """A cut before frame 3 starts a new mean."""
    network, clip = conditioned_network(), clip_of(5)
    engine: Any = engine_of(network, overrides, backend == "overlapped")
    if backend == "onnx":
        engine = OnnxRecurrentEngine(network, "conditioned", CPU, overrides)
    state, results = engine.init_state(*SIZE), list[Frame]()
    for t, image in enumerate(clip):
        ready, state = engine.step(Frame(image, t, Fraction(1, 25), 1, t in (0, 3)), state)
        results += ready
    results += engine.flush(state)
    assert network.estimator is not None
    each = network.estimator(clip).overall
    means = [each[: t + 1].mean(0) if t < 3 else each[3 : t + 1].mean(0) for t in range(5)]
    for result, mean in zip(results, means, strict=True):
        expected = [own if own is not None else float(value) for own, value in zip(overrides, mean, strict=True)]
        assert result.levels is not None and result.levels.tolist() == pytest.approx(expected, abs=1e-4)


def test_overrides_replace_the_estimate() -> None:
    estimate = Estimate(torch.tensor([[0.1, 0.2, 0.3]]), torch.rand(1, 3, 2, 2))
    smoothed = smooth(estimate.overall, None)
    condition = apply_overrides(estimate, smoothed, overrides_tensor((None, 0.9, None)))
    torch.testing.assert_close(condition.overall, torch.tensor([[0.1, 0.9, 0.3]]))
    assert torch.equal(condition.local[:, 0], estimate.local[:, 0])
    assert (condition.local[:, 1] == 0.9).all()
    assert overrides_tensor(NONE) is None


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_overrides_outside_0_to_1_are_refused(value: float) -> None:
    with pytest.raises(UsageError, match=r"must be in 0\.\.1"):
        engine_of(conditioned_network(), (None, None, value))


def test_overrides_need_a_network_with_an_estimator() -> None:
    plain = build("secnet", NARROW)
    assert isinstance(plain, SECNet)
    with pytest.raises(UsageError, match="the model 'conditioned' does not take degradation levels"):
        engine_of(plain, (0.5, None, None))
    with pytest.raises(UsageError, match="the model 'conditioned' does not take degradation levels"):
        OnnxRecurrentEngine(plain, "conditioned", CPU, (0.5, None, None))


def test_the_loss_of_the_estimates_and_the_gradients_of_the_estimator() -> None:
    quantities = torch.full((2, 3), 0.75)

    def loss(overall: float, local: float) -> float:
        logits = (math.log(level / (1 - level)) for level in (overall, local))
        parts = (torch.full(shape, each) for shape, each in zip(((2, 3, 3), (2, 3, 3, 4, 4)), logits, strict=True))
        return float(estimate_loss(Estimate(*parts), quantities))

    expected = -1.5 * (0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert loss(0.75, 0.75) == pytest.approx(expected, rel=1e-5)
    assert loss(0.75, 0.75) < loss(0.75, 0.5) < loss(0.5, 0.75) < loss(0.05, 0.75)
    network = conditioned_network().requires_grad_(True)
    clip = clip_of(3)[None]
    network(clip).results.square().mean().backward()
    assert network.estimator is not None and network.tune_recurrent is not None
    assert network.estimator.overall.weight.grad is None, "reconstruction must not change what the levels mean"
    for part in (network.estimator.local.weight, network.tune_recurrent.tune.weight):
        assert part.grad is not None and part.grad.abs().max() > 0
