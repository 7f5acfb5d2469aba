"""SECNet as a whole: its size, its start, how it streams, and where gradients may go."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from tiny_footage import TINY_NETWORK
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vidsr.errors import ModelError
from vidsr.nets import build
from vidsr.nets.resize import resize
from vidsr.nets.secnet import RecurrentState, SECNet, SECNetConfig


def fresh(**arguments: int) -> SECNet:
    torch.manual_seed(0)
    return build("secnet", arguments)


@cache
def shaken() -> SECNet:
    """Weights far from the start, so that motion, recurrence and both residuals all take part; never changed."""
    network = fresh(**TINY_NETWORK).requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    return network


def make_clip(batch: int, length: int, height: int = 12, width: int = 17, seed: int = 1) -> Tensor:
    return torch.rand(batch, length, 3, height, width, generator=torch.Generator().manual_seed(seed))


def stream(network: SECNet, clip: Tensor) -> tuple[list[Tensor], list[RecurrentState]]:
    """Frame by frame, as an engine does it: each step sees three frames and the state, nothing else."""
    results, states = [], []
    state = network.init_state(clip[:, 0])
    for t in range(clip.shape[1]):
        previous, current = clip[:, max(t - 1, 0)], clip[:, t]
        following = clip[:, min(t + 1, clip.shape[1] - 1)]
        flows = torch.stack((network.flow(current, previous), network.flow(current, following)), dim=1)
        first = network.fuse(previous, current, following, flows)
        result, state = network.refine(network.bicubic(current), first, flows[:, 0], state)
        results.append(result)
        states.append(state)
    return results, states


def test_the_default_network_keeps_the_budget() -> None:
    network = build("secnet", {})
    assert network.config == SECNetConfig()
    assert 250_000 < sum(p.numel() for p in network.parameters()) <= 350_000
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 1, 3, 64, 64))
    convolutions = counter.get_total_flops() / 2 / 64**2  # two operations per multiply-add
    # The counter passes over grid_sample: bilinear is 4 per value, bicubic 16 plus its weights.
    channels_low, channels_high = 2 * 32, 3 * 16
    warps = 4 * (channels_low + channels_high) + 2 * 3 * 20 + 3 * 2 * 4
    assert 200_000 < convolutions + warps <= 300_000


def test_a_fresh_network_is_almost_the_bicubic_enlargement() -> None:
    clip = make_clip(1, 3)
    with torch.no_grad():
        output = fresh()(clip)
    expected = resize(clip, (48, 68))
    for images in (output.results, output.firsts):
        assert (images - expected)[..., 8:-8, 8:-8].abs().max() < 0.03
    assert output.flows.abs().max() < 0.1


def test_shapes_and_types() -> None:
    output = shaken()(make_clip(2, 3, 5, 7))
    assert output.results.shape == output.firsts.shape == (2, 3, 3, 20, 28)
    assert output.flows.shape == (2, 3, 2, 2, 5, 7)
    assert output.state.result.shape == (2, 3, 20, 28)
    assert output.state.hidden.shape == output.state.cell.shape == (2, 5, 5, 7)
    assert {t.dtype for t in (output.results, output.firsts, output.flows, *output.state)} == {torch.float32}
    assert output.state.result.min() >= 0 and output.state.result.max() <= 1


def test_streaming_equals_the_whole_clip() -> None:
    clip = make_clip(2, 6)
    whole = shaken()(clip)
    results, states = stream(shaken(), clip)
    torch.testing.assert_close(torch.stack(results, 1), whole.results, atol=1e-5, rtol=0)
    torch.testing.assert_close(tuple(states[-1]), tuple(whole.state), atol=1e-5, rtol=0)
    assert whole.flows.abs().max() > 0.3, "without motion this test would show nothing"


def test_the_past_is_moved_to_where_things_are_now() -> None:
    """Motion by 2 right and 1 up acts as if the past result and the ConvLSTM's state had been moved so before."""
    network, size = shaken(), (26, 30)
    folded = torch.rand(2, 1, 48, *size, generator=torch.Generator().manual_seed(3))
    past = network(make_clip(1, 2, *size)).state
    flow = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1).expand(1, 2, *size)
    result, state = network.refine(folded[0], folded[1], flow, past)
    moved = RecurrentState(*(t.roll((f, -2 * f), (2, 3)) for t, f in zip(past, (4, 1, 1), strict=True)))
    expected_result, expected = network.refine(folded[0], folded[1], torch.zeros_like(flow), moved)
    inside = slice(9, -9)  # the borders differ, and seven convolutions carry them in
    torch.testing.assert_close(result[..., 36:-36, 36:-36], expected_result[..., 36:-36, 36:-36], atol=1e-4, rtol=0)
    for a, b in ((state.hidden, expected.hidden), (state.cell, expected.cell)):
        torch.testing.assert_close(a[..., inside, inside], b[..., inside, inside], atol=1e-4, rtol=0)


def test_a_clip_continues_an_earlier_one() -> None:
    clip = make_clip(1, 6)
    results, states = stream(shaken(), clip)
    later = shaken()(clip[:, 3:], states[2], clip[:, 2])
    torch.testing.assert_close(later.results, torch.stack(results[3:], 1), atol=1e-5, rtol=0)


def test_a_frame_reaches_back_by_one_and_forward_through_the_state() -> None:
    clip = make_clip(1, 6)
    changed = clip.clone()
    changed[:, 3] = 1 - changed[:, 3]
    difference = (shaken()(changed).results - shaken()(clip).results).abs().amax((0, 2, 3, 4))
    assert difference[:2].max() < 1e-5
    assert difference[2:].min() > 1e-3


def test_clips_of_a_batch_do_not_touch_each_other() -> None:
    clip = make_clip(3, 3)
    together = shaken()(clip)
    for index in range(3):
        alone = shaken()(clip[index : index + 1])
        torch.testing.assert_close(together.results[index], alone.results[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.flows[index], alone.flows[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 7), (9, 16), (17, 8)])
def test_odd_and_tiny_frames(size: tuple[int, int]) -> None:
    clip = make_clip(1, 2, *size)
    for network in (shaken(), fresh()):
        output = network(clip)
        assert output.results.shape[-2:] == (4 * size[0], 4 * size[1])
        assert output.results.isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        half = shaken()(clip)
    assert half.results.dtype == torch.float32
    assert (half.results - shaken()(clip).results).abs().max() < 0.1


def test_the_channels_last_layout_changes_nothing() -> None:
    clip = make_clip(1, 3)
    network = fresh(**TINY_NETWORK)
    network.load_state_dict(shaken().state_dict())
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    torch.testing.assert_close(network(clip).results, shaken()(clip).results, atol=1e-5, rtol=0)


def test_the_recurrent_part_sends_no_gradient_into_the_motion(monkeypatch: pytest.MonkeyPatch) -> None:
    """SECNet, III-A: "the error back propagation to the optical flow module is cut off" there, and only there."""
    clip = make_clip(1, 3)
    network = fresh(**TINY_NETWORK)
    network.load_state_dict(shaken().state_dict())

    def gradient(part: torch.nn.Module) -> float:
        return sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None)

    network(clip).firsts.square().sum().backward()
    assert gradient(network.flow) > 0 and gradient(network.fusion) > 0 and gradient(network.recurrent) == 0

    network.zero_grad()
    network(clip).results.square().sum().backward()  # the first result is a part of the final one
    assert gradient(network.flow) > 0 and gradient(network.fusion) > 0 and gradient(network.recurrent) > 0

    monkeypatch.setattr(network, "fuse", lambda *frames: torch.zeros(3, 48, 12, 17))  # the recurrent part alone
    network.zero_grad()
    network(clip).results.square().sum().backward()
    assert gradient(network.flow) == 0 and gradient(network.recurrent) > 0


def test_the_recurrent_part_learns_through_time() -> None:
    clip = make_clip(1, 4).requires_grad_()
    shaken()(clip).results[:, 3].square().sum().backward()
    assert clip.grad is not None
    assert (clip.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_the_weights_hold_no_fixed_tables() -> None:
    assert set(fresh().state_dict()) == {name for name, _ in fresh().named_parameters()}


def test_unknown_architectures_and_arguments_are_refused() -> None:
    with pytest.raises(ModelError, match="unknown architecture 'secnot'; known are secnet"):
        build("secnot", {})
    with pytest.raises(ModelError, match="no argument 'widht'"):
        build("secnet", {"widht": 3})
