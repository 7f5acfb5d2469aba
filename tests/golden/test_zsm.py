"""Zooming SlowMo as a whole: equal to the published network, streamed or at once, for any size."""

from __future__ import annotations

import json
import math
import zlib
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tests.support.rounding import rounding_gap
from vidsr.errors import ModelError
from vidsr.models.cards import list_presets
from vidsr.nets.layers.resize import resize
from vidsr.nets.zsm.alignment import DeformableBlend, enlarge
from vidsr.nets.zsm.config import ZSMConfig
from vidsr.nets.zsm.network import GuidedOutput, ZoomingSlowMo

pytestmark = pytest.mark.numeric

PARITY = Path(__file__).parent / "parity"

# The configurations of the released checkpoint and of the recipes.
PUBLISHED = ZSMConfig()
FAST = next(ZSMConfig(**preset.network) for preset in list_presets() if preset.name == "zsm-fast")
PUBLISHED_SHAPE = ZSMConfig(
    width=4, front_blocks=1, back_blocks=2, groups=2, state_width=4, upsampler_width=4, synthesis_blocks=1
)
FAST_SHAPE = replace(FAST, width=8, front_blocks=1, back_blocks=1, levels=2, groups=2, state_width=4, state_levels=1)
SHAPES = [PUBLISHED_SHAPE, FAST_SHAPE]


@cache
def perturbed(config: ZSMConfig) -> ZoomingSlowMo:
    """A network with perturbed weights, so that no offset or residual is near zero; never modified."""
    torch.manual_seed(0)
    network = ZoomingSlowMo(config).requires_grad_(False).eval()
    for name, parameter in network.named_parameters():
        parameter.add_(torch.randn(parameter.shape) * (0.3 if "conv_offset_mask" in name else 0.15))
    return network


def make_clip(batch: int, length: int, height: int = 12, width: int = 16) -> Tensor:
    return torch.rand(batch, length, 3, height, width, generator=torch.Generator().manual_seed(1))


@cache
def gap(config: ZSMConfig) -> float:
    """How far two results of this network may lie apart whose sums were added in another order."""
    return rounding_gap(perturbed(config), lambda network: network(make_clip(2, 4)))


def stream(network: ZoomingSlowMo, clip: Tensor) -> Tensor:
    """Computes moment by moment, as an engine does: every intermediate result is computed once and reused."""
    features = [network.features(frame) for frame in clip.unbind(1)]
    moments: list[tuple[Tensor, Tensor | None]] = [(features[0][0], clip[:, 0])]
    for t in range(1, clip.shape[1]):
        moments += [(network.interpolate(features[t - 1], features[t]), None), (features[t][0], clip[:, t])]
    steps = [network.prepare_step(feature) for feature, _ in moments]
    forwards, backwards = [network.init_state(moments[0][0])], [network.init_state(moments[0][0])]
    for t in range(len(steps)):
        forwards.append(network.step(steps[t], forwards[-1]))
        backwards.append(network.step(steps[-1 - t], backwards[-1]))
    results = []
    for t, (feature, image) in enumerate(moments):
        hidden = forwards[1 + t].hidden, backwards[len(steps) - t].hidden
        results.append(network.reconstruct(feature, *hidden, image))
    return torch.stack(results, dim=1)


def published_values(name: str, shape: list[int]) -> Tensor:
    """The weights of the parity fixture; see tests/golden/parity/README.md."""
    values = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(shape)
    if name.endswith("bias"):
        return torch.from_numpy((values * 0.02).astype(np.float32))
    gain = 6.0 if "conv_offset_mask" in name else 1.3
    if "recon_trunk" in name or "feature_extraction" in name:
        gain = 0.3
    return torch.from_numpy((values * gain / math.sqrt(math.prod(shape[1:]))).astype(np.float32))


def test_equals_the_published_network(tmp_path: Path) -> None:
    shapes = json.loads((PARITY / "zsm_state_dict.json").read_text())
    torch.save({name: published_values(name, shape) for name, shape in shapes.items()}, tmp_path / "authors.pth")
    network = ZoomingSlowMo(PUBLISHED)
    network.load_state_dict(torch.load(tmp_path / "authors.pth", weights_only=True))
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == shapes
    assert sum(p.numel() for p in network.parameters()) == 11_102_771
    with np.load(PARITY / "zsm_parity.npz") as stored, torch.inference_mode():
        result = network(torch.from_numpy(stored["input"]))
        assert np.abs(result.numpy() - stored["output"]).max() < 1e-4


def operations_per_output_frame(network: ZoomingSlowMo, size: int = 16) -> float:
    """Multiply-adds of convolutions and products per low-resolution pixel, in the limit of long videos."""
    counts = []
    for length in (3, 4):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(torch.rand(1, length, 3, size, size))
        counts.append(counter.get_total_flops() / 2 / size**2)
    return (counts[1] - counts[0]) / 2  # each further input frame adds two output frames


def test_fast_network_keeps_its_operation_budget() -> None:
    config = FAST
    network = ZoomingSlowMo(config)
    assert 350_000 < sum(p.numel() for p in network.parameters()) < 600_000
    # The counter ignores the bilinear sampling: 4 per value, and the mask; interpolation per level (half a pair of
    # two sides per output), hidden state and cell in two directions.
    levels = sum(0.25**level for level in range(config.levels))
    sampling = 5 * config.kernel**2 * (config.width * levels + 4 * config.state_width)
    assert 230_000 < operations_per_output_frame(network) + sampling <= 600_000


@pytest.mark.parametrize("config", SHAPES)
@pytest.mark.parametrize("batch, length, height, width", [(2, 3, 8, 12), (1, 2, 13, 18), (1, 4, 5, 3), (2, 1, 7, 9)])
def test_streaming_equals_the_whole_clip(config: ZSMConfig, batch: int, length: int, height: int, width: int) -> None:
    network, clip = perturbed(config), make_clip(batch, length, height, width)
    with torch.no_grad():
        at_once = network(clip)
        assert at_once.shape == (batch, 2 * length - 1, 3, 4 * height, 4 * width)
        assert at_once.dtype == torch.float32
        assert at_once.std() > 0.01
        torch.testing.assert_close(stream(network, clip), at_once, atol=gap(config), rtol=0)


@pytest.mark.parametrize("config", SHAPES)
def test_both_directions_reach_every_moment(config: ZSMConfig) -> None:
    network, clip = perturbed(config), make_clip(1, 3)
    with torch.no_grad():
        before = network(clip)
        for t, elsewhere in ((0, 4), (2, 0)):
            changed = clip.clone()
            changed[:, t] += 0.2
            difference = (network(changed) - before).abs().amax(dim=(0, 2, 3, 4))
            assert difference[elsewhere] > 1e-6, "the recurrence must carry the change to the other end"


@pytest.mark.parametrize("config", SHAPES)
def test_head_gives_images_of_the_input_size(config: ZSMConfig) -> None:
    network, clip = perturbed(config), make_clip(2, 4, 9, 14)
    with torch.no_grad():
        output = network.forward_guided(clip)
        torch.testing.assert_close(output.results, network(clip), atol=gap(config), rtol=0)
        features = [network.features(frame) for frame in clip.unbind(1)]
        between = [network.interpolate(a, b) for a, b in pairwise(features)]
        again = network.interpolate(network.pyramid(between[1]), network.pyramid(between[2]))
        torch.testing.assert_close(output.firsts[:, 2], network.synthesize(between[2]), atol=gap(config), rtol=0)
        torch.testing.assert_close(output.seconds[:, 1], network.synthesize(again), atol=gap(config), rtol=0)
    assert output.firsts.shape == (2, 3, 3, 9, 14)
    assert output.seconds.shape == (2, 2, 3, 9, 14)


def test_synthesis_without_the_head_is_refused() -> None:
    with pytest.raises(ModelError, match="low-resolution head"):
        ZoomingSlowMo(replace(PUBLISHED_SHAPE, synthesis_blocks=0)).synthesize(torch.rand(1, 4, 8, 8))


@pytest.mark.parametrize("wrong", [{"groups": 3}, {"kernel": 2}, {"state_sides": 3}, {"levels": 0}, {"residual": True}])
def test_inconsistent_sizes_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"must be|need"):
        replace(PUBLISHED, **wrong)


@pytest.mark.parametrize("config", SHAPES)
def test_losses_reach_every_weight(config: ZSMConfig) -> None:
    network = ZoomingSlowMo(config)
    network.load_state_dict(perturbed(config).state_dict())
    output = network.forward_guided(make_clip(1, 3))
    (output.results.square().mean() + output.firsts.square().mean() + output.seconds.square().mean()).backward()
    idle = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert idle == []


def test_new_residual_network_is_bicubic() -> None:
    torch.manual_seed(0)
    network, clip = ZoomingSlowMo(FAST), make_clip(1, 2)
    with torch.no_grad():
        output = network(clip)
    assert (output[:, ::2] - resize(clip, (48, 64)))[..., 8:-8, 8:-8].abs().max() < 0.03


def test_network_learns_to_interpolate() -> None:
    """A moving bright square: the interpolated frame must beat its neighbors' average, which shows two squares."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = ZoomingSlowMo(FAST_SHAPE)
    optimizer = torch.optim.Adam(network.parameters(), lr=6e-3)

    def video(count: int) -> Tensor:
        videos = torch.zeros(count, 3, 3, 10, 16)
        for b in range(count):
            x, y, speed = (int(torch.randint(0, high, (), generator=generator)) for high in (8, 6, 3))
            for t in range(3):
                videos[b, t, :, y : y + 4, x + t * speed : x + t * speed + 4] = 1.0
        return videos

    def losses(truth: Tensor) -> tuple[Tensor, Tensor]:
        given, between = network.features(truth[:, ::2].flatten(0, 1)), truth[:, 1]
        pairs = [x.unflatten(0, (-1, 2)) for x in given]
        feature = network.interpolate(tuple(x[:, 0] for x in pairs), tuple(x[:, 1] for x in pairs))
        blend = (truth[:, 0] + truth[:, 2]) / 2
        return F.mse_loss(network.synthesize(feature), between), F.mse_loss(blend, between)

    for _ in range(40):
        optimizer.zero_grad()
        losses(video(8))[0].backward()
        optimizer.step()
    with torch.no_grad():
        ours, blend = losses(video(32))
    assert ours < 0.7 * blend


def test_bf16_convolutions_stay_near_float32() -> None:
    """As in an engine: convolutions in bfloat16, sampling and state in float32."""
    single, half = perturbed(FAST_SHAPE), ZoomingSlowMo(FAST_SHAPE).requires_grad_(False)
    half.load_state_dict(single.state_dict())
    for module in half.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.bfloat16()
    clip = make_clip(1, 3)
    expected = single(clip)
    assert (half(clip) - expected).abs().max() < 0.03 * expected.abs().max()


def test_shared_sides_are_symmetric_in_time() -> None:
    torch.manual_seed(0)
    blend = DeformableBlend(4, 2, 3, 2, (1, 2), shared=True)
    with torch.no_grad():
        for parameter in blend.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
        blend.fusion.weight[:, 4:] = blend.fusion.weight[:, :4]
        one, other = (blend.pyramid(torch.rand(1, 4, 7, 9)) for _ in range(2))
        there = blend.blend(blend.prepare(one, "first"), blend.prepare(other, "second"))
        back = blend.blend(blend.prepare(other, "first"), blend.prepare(one, "second"))
    torch.testing.assert_close(there, back)


def test_level_of_odd_size_is_enlarged_without_shift() -> None:
    x = torch.arange(4.0).expand(1, 1, 3, 4)
    odd = enlarge(x, torch.empty(1, 1, 5, 7))
    assert odd.shape == (1, 1, 5, 7)
    torch.testing.assert_close(odd[0, 0, 2], torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75]))


def test_config_holds_only_plain_values() -> None:
    """Values that a model card can hold and `build` can check."""
    assert all(type(value) in (int, bool) for config in (PUBLISHED, FAST) for value in asdict(config).values())
    assert isinstance(perturbed(FAST_SHAPE).forward_guided(make_clip(1, 3)), GuidedOutput)
