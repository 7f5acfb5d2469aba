"""The complete SECNet: operation counts, initialization, streaming and gradient flow."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tests.support.tiny_training_data import TINY_NETWORK
from vidsr.errors import ModelError
from vidsr.models.registry import ARCHITECTURES, build
from vidsr.nets.layers.resize import resize
from vidsr.nets.secnet.config import SECNetConfig
from vidsr.nets.secnet.network import RecurrentState, SECNet

pytestmark = pytest.mark.numeric


def fresh(**arguments: Any) -> SECNet:
    torch.manual_seed(0)
    return build("secnet", arguments)


@cache
def shaken() -> SECNet:
    """A network far from its initialization: motion, recurrence and both residuals matter; must not be modified."""
    network = fresh(**TINY_NETWORK).requires_grad_(False)
    for parameter in network.parameters():
        parameter.add_(torch.randn(parameter.shape) * 0.1)
    return network


def make_clip(batch: int, length: int, height: int = 12, width: int = 17, seed: int = 1) -> Tensor:
    return torch.rand(batch, length, 3, height, width, generator=torch.Generator().manual_seed(seed))


def stream(network: SECNet, clip: Tensor) -> tuple[list[Tensor], list[RecurrentState]]:
    """Runs frame by frame like an engine: a step only uses the frames of its window and the state."""
    results, states = [], []
    state = network.init_state(clip[:, 0])
    reach = network.config.lookahead
    for t in range(clip.shape[1]):
        near = {k: clip[:, min(max(t + k, 0), clip.shape[1] - 1)] for k in (0, *network.config.offsets)}
        pyramids = {k: network.flow.pyramid(frame) for k, frame in near.items()}
        flows = network.motion(pyramids[0], [pyramids[k] for k in network.config.offsets])
        first = network.fuse([near[k] for k in range(-reach, reach + 1)], flows)
        result, state = network.refine(network.fused_frame(network.bicubic(near[0]), first, flows), state)
        results.append(result)
        states.append(state)
    return results, states


def tensors(state: RecurrentState) -> tuple[Tensor, ...]:
    return (*state.results, *state.memory)


def test_the_default_network_keeps_the_budget() -> None:
    network = build("secnet", {})
    assert network.config == SECNetConfig()
    assert 250_000 < sum(p.numel() for p in network.parameters()) <= 350_000
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.rand(1, 1, 3, 64, 64))
    convolutions = counter.get_total_flops() / 2 / 64**2  # two operations per multiply-add
    # The counter ignores grid_sample: bilinear takes 4 per value, bicubic 16 plus its weights.
    channels_low, channels_high = 2 * 32, 3 * 16
    warps = 4 * (channels_low + channels_high) + 2 * 3 * 20 + 3 * 2 * 4
    assert 200_000 < convolutions + warps <= 300_000


# Table II: LFFNet is flow and local fusion, ERFFNet flow and recurrent part, SECNet all three.
PARTS = {"flow": 2_598_850, "fusion": 783_555, "recurrent": 1_952_387}
VARIANTS = {"LFFNet": ({"recurrent_fusion": False}, 3_382_405), "ERFFNet": ({"local_fusion": False}, 4_551_237)}


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def network_table(recipe: str) -> dict[str, Any]:
    path = Path(__file__).parents[2] / "models" / "recipes" / f"{recipe}.toml"
    return tomllib.loads(path.read_text())["network"]


@pytest.mark.parametrize("recipe", ["secnet", "secnet-face"])
def test_the_papers_network_has_the_papers_parameters(recipe: str) -> None:
    """Every part within 3 % and the whole within 2 %, with the attention of Table II's network and without."""
    network = build("secnet", network_table(recipe))
    assert network.config.attention == (recipe == "secnet-face")
    assert {name: size(part) for name, part in network.named_children() if size(part)} == {
        name: pytest.approx(count, rel=0.03) for name, count in PARTS.items()
    }
    assert size(network) == pytest.approx(5_334_792, rel=0.02)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variants_have_the_papers_parameters(variant: str) -> None:
    change, expected = VARIANTS[variant]
    assert size(build("secnet", network_table("secnet-face") | change)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("recipe", ["secnet", "secnet-face"])
def test_the_papers_network_has_the_papers_numbers(recipe: str) -> None:
    """II-C1: three scales and 4 residual blocks at the third; III-A: T1 = T2 = 2, T3 = 6, 8 residual blocks."""
    config = build("secnet", network_table(recipe)).config
    assert (config.scale, config.t1, config.t2, config.t3) == (4, 2, 2, 6)
    assert (config.fusion_blocks, len(config.detail_widths), config.encoder_blocks) == (8, 2, 4)
    assert (config.encoding, config.aligned) == ("fused", False)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variants_leave_one_part_out(variant: str) -> None:
    network = fresh(**TINY_NETWORK, t2=2, **VARIANTS[variant][0])
    whole, output = fresh(**TINY_NETWORK, t2=2), network(make_clip(1, 3))
    lost = {"LFFNet": "recurrent", "ERFFNet": "fusion"}[variant]
    expected = [name for name, _ in whole.named_parameters() if not name.startswith(lost)]
    assert [name for name, _ in network.named_parameters()] == expected
    if variant == "LFFNet":
        torch.testing.assert_close(output.results, output.firsts, atol=0, rtol=0)
        assert (network.config.lookahead, network.config.offsets) == (1, (-1, 1))
    else:
        bicubic = resize(make_clip(1, 3), (48, 68))  # III-A: from "bicubically upsampled LR images"
        torch.testing.assert_close(output.firsts[..., 8:-8, 8:-8], bicubic[..., 8:-8, 8:-8], atol=1e-5, rtol=0)
        assert (network.config.lookahead, network.config.offsets) == (0, (-1, -2))


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
    (result,), (hidden, cell) = output.state
    assert result.shape == (2, 3, 20, 28)
    assert hidden.shape == cell.shape == (2, 5, 5, 7)
    assert {t.dtype for t in (output.results, output.firsts, output.flows, result, hidden, cell)} == {torch.float32}
    assert result.min() >= 0 and result.max() <= 1


def test_streaming_equals_the_whole_clip() -> None:
    clip = make_clip(2, 6)
    whole = shaken()(clip)
    results, states = stream(shaken(), clip)
    torch.testing.assert_close(torch.stack(results, 1), whole.results, atol=1e-5, rtol=0)
    torch.testing.assert_close(tensors(states[-1]), tensors(whole.state), atol=1e-5, rtol=0)
    assert whole.flows.abs().max() > 0.3, "without motion this test would show nothing"


def test_the_past_is_warped_along_the_motion() -> None:
    """Motion by 2 right and 1 up has the effect of shifting the past result and the ConvLSTM's state beforehand."""
    network, size = shaken(), (26, 30)
    folded = torch.rand(2, 1, 48, *size, generator=torch.Generator().manual_seed(3))
    past = network(make_clip(1, 2, *size)).state
    flows = torch.tensor([2.0, -1.0]).view(1, 1, 2, 1, 1).expand(1, 2, 2, *size)
    result, state = network.refine(network.fused_frame(folded[0], folded[1], flows), past)
    last, hidden, cell = (t.roll((f, -2 * f), (2, 3)) for t, f in zip(tensors(past), (4, 1, 1), strict=True))
    moved = RecurrentState((last,), (hidden, cell))
    expected_result, expected = network.refine(
        network.fused_frame(folded[0], folded[1], torch.zeros_like(flows)), moved
    )
    inside = slice(9, -9)  # borders differ, and seven convolutions spread the difference inwards
    torch.testing.assert_close(result[..., 36:-36, 36:-36], expected_result[..., 36:-36, 36:-36], atol=1e-4, rtol=0)
    for a, b in zip(state.memory, expected.memory, strict=True):
        torch.testing.assert_close(a[..., inside, inside], b[..., inside, inside], atol=1e-4, rtol=0)


def test_a_clip_continues_an_earlier_one() -> None:
    clip = make_clip(1, 6)
    results, states = stream(shaken(), clip)
    later = shaken()(clip[:, 3:], states[2], clip[:, :3])
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
    known = ", ".join(sorted(ARCHITECTURES))
    with pytest.raises(ModelError, match=f"unknown architecture 'secnot'; known are {known}$"):
        build("secnot", {})
    with pytest.raises(ModelError, match="'secnet' has the unknown key 'widht'; known are "):
        build("secnet", {"widht": 3})


@pytest.mark.parametrize(
    "arguments, reason",
    [
        ({"flow_width": 2.5}, "'flow_width' must be of type int, not 2.5"),
        ({"flow_width": "wide"}, "'flow_width' must be of type int, not 'wide'"),
        ({"t1": True}, "'t1' must be of type int, not True"),
        ({"attention": 1}, "'attention' must be of type bool, not 1"),
        ({"detail_widths": 32}, r"'detail_widths' must be of type tuple\[int, ...\], not 32"),
        ({"detail_widths": ["a", "b"]}, "'detail_widths' must be of type tuple"),
        ({"detail_widths": [2.5, 4.5]}, "'detail_widths' must be of type tuple"),
        ({"detail_widths": [8]}, "detail_widths are two"),
        ({"detail_widths": [8, 0]}, "widths and flow_levels are 1 or more"),
        ({"detail_widths": [8, 8], "scale": 2}, "detail_widths need scale 4"),
        ({"scale": 0}, "scale, widths and flow_levels are 1 or more"),
        ({"fusion_width": 0}, "widths and flow_levels are 1 or more"),
        ({"flow_levels": 0}, "widths and flow_levels are 1 or more"),
        ({"flow_depth": 1}, "flow_depth is 2 or more"),
        ({"decoder_blocks": -1}, "blocks and fusion_tail cannot be negative"),
        ({"fusion_tail": -1}, "blocks and fusion_tail cannot be negative"),
        ({"t1": 0}, "a window needs t1 of 1 or more"),
        ({"t2": -1, "aligned": False}, "t2 and t3 cannot be negative"),
        ({"t2": 0}, "aligned needs a past result's motion"),
        ({"t2": 0, "aligned": False, "local_fusion": False}, "without local_fusion, t2 is 1 or more"),
        ({"local_fusion": False, "recurrent_fusion": False}, "cannot both be off"),
        ({"encoding": "both-ways"}, "'encoding' must be one of 'one-way', 'cascaded', 'fused', not 'both-ways'"),
        ({"encoding": "fused", "aligned": False}, "t3 belongs to the bidirectional encodings"),
        ({"t3": 2}, "t3 belongs to the bidirectional encodings"),
        ({"encoding": "fused", "t3": 2}, "only the one-way encoding can be aligned"),
    ],
)
def test_invalid_sizes_are_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        build("secnet", arguments)
