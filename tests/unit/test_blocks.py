"""Warping and the shared blocks compared with explicit definitions in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d
from torch import Tensor, nn
from torch.nn import functional as F

from tests.support.torch_threads import torch_threads
from vidsr.models.registry import build
from vidsr.nets.layers import blocks
from vidsr.nets.layers import pixel_shuffle as folding
from vidsr.nets.layers.blocks import (
    BicubicPhases,
    ConvLSTMCell,
    ResidualBlock,
    SpatialAttention,
    conv3x3,
    depth_to_space,
    leaky_relu,
    run,
    start_near_zero,
)
from vidsr.nets.layers.pixel_shuffle import fold_warped, unfold_sum
from vidsr.nets.layers.resize import resize
from vidsr.nets.layers.warp import enlarge_flow, warp

pytestmark = pytest.mark.numeric

Array = np.ndarray[Any, np.dtype[np.float64]]
Mode = Literal["bilinear", "bicubic"]


def keys(distance: float, a: float) -> float:
    """Keys' cubic convolution kernel, as his paper prints it."""
    d = abs(distance)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def tent(distance: float) -> float:
    return max(0.0, 1 - abs(distance))


def sample(plane: Array, y: float, x: float, kernel: Callable[[float], float]) -> float:
    """One value between the pixels; taps beyond the border read the nearest border pixel."""
    height, width = plane.shape
    total = 0.0
    for row in range(math.floor(y) - 2, math.floor(y) + 4):
        for column in range(math.floor(x) - 2, math.floor(x) + 4):
            value = plane[min(max(row, 0), height - 1), min(max(column, 0), width - 1)]
            total += kernel(y - row) * kernel(x - column) * value
    return total


def every_pixel(image: Array, flow: Array, kernel: Callable[[float], float]) -> Array:
    result = np.empty_like(image)
    for b, c, y, x in np.ndindex(*image.shape):
        result[b, c, y, x] = sample(image[b, c], y + flow[b, 1, y, x], x + flow[b, 0, y, x], kernel)
    return result


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("height, width", [(7, 9), (1, 5), (4, 1), (1, 1)])
def test_warp_agrees_with_its_definition(mode: Mode, height: int, width: int) -> None:
    generator = np.random.default_rng([height, width])
    image = generator.random((2, 3, height, width))
    flow = generator.normal(0, 3, (2, 2, height, width))  # often far outside
    kernel = tent if mode == "bilinear" else lambda d: keys(d, -0.75)
    result = warp(torch.from_numpy(image).float(), torch.from_numpy(flow).float(), mode)
    np.testing.assert_allclose(result.numpy(), every_pixel(image, flow, kernel), atol=3e-6)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_an_integer_displacement_copies_pixels(mode: Mode) -> None:
    image = torch.rand(1, 2, 12, 15, generator=torch.Generator().manual_seed(0))
    flow = torch.tensor([3.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 12, 15)  # 3 to the right, 2 up
    torch.testing.assert_close(warp(image, flow, mode)[..., 2:, :-3], image[..., :-2, 3:], atol=1e-5, rtol=0)


def test_warp_computes_in_float32_for_every_input_type() -> None:
    image, flow = torch.rand(1, 1, 5, 300), torch.full((1, 2, 5, 300), 0.25)
    low = warp(image.bfloat16(), flow.bfloat16())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low, warp(image.bfloat16().float(), flow), atol=0, rtol=0)


@pytest.mark.parametrize("factor", [2, 4])
def test_an_enlarged_field_points_to_the_same_place_in_the_larger_image(factor: int) -> None:
    flow = np.random.default_rng(1).normal(0, 2, (1, 2, 4, 5))
    expected = np.empty((1, 2, 4 * factor, 5 * factor))
    for b, c, y, x in np.ndindex(*expected.shape):
        expected[b, c, y, x] = factor * sample(flow[b, c], (y + 0.5) / factor - 0.5, (x + 0.5) / factor - 0.5, tent)
    np.testing.assert_allclose(enlarge_flow(torch.from_numpy(flow), factor).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_phases_are_keys_kernel_on_centered_grids(scale: int) -> None:
    image = np.random.default_rng(scale).random((1, 3, 6, 5))
    expected = np.empty((1, 3, 6 * scale, 5 * scale))
    for b, c, y, x in np.ndindex(*expected.shape):
        place = (y + 0.5) / scale - 0.5, (x + 0.5) / scale - 0.5
        expected[b, c, y, x] = sample(image[b, c], *place, lambda d: keys(d, -0.5))
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.float64, 1e-7)):  # the kernel itself is in float32
        result = F.pixel_shuffle(BicubicPhases(scale)(torch.from_numpy(image).to(dtype)), scale)
        assert result.dtype == dtype
        np.testing.assert_allclose(result.numpy(), expected, atol=tolerance)


def test_bicubic_phases_are_the_bicubic_engine_inside_the_border() -> None:
    """At the border they differ by design: edge pixels are repeated here, mirrored there."""
    image = torch.rand(2, 3, 11, 14, generator=torch.Generator().manual_seed(2))
    phases = F.pixel_shuffle(BicubicPhases(4)(image), 4)
    reference = resize(image, (44, 56))
    torch.testing.assert_close(phases[..., 8:-8, 8:-8], reference[..., 8:-8, 8:-8], atol=1e-6, rtol=0)


def test_bicubic_phases_hold_no_weights_and_keep_float32_under_autocast() -> None:
    phases = BicubicPhases(4)
    assert not phases.state_dict() and not list(phases.parameters())
    image = torch.rand(1, 3, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(phases(image), BicubicPhases(4)(image), atol=0, rtol=0)
    constant = phases(torch.full((1, 3, 4, 4), 0.7))
    torch.testing.assert_close(constant, torch.full_like(constant, 0.7), atol=1e-6, rtol=0)


def convolve(maps: Array, weight: Array) -> Array:
    """Zero-padded 3 x 3 convolution of C x H x W, as networks call it."""
    return np.stack([sum(correlate2d(maps[c], kernel[c], mode="same") for c in range(len(maps))) for kernel in weight])


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("band_values", [1, 16 * 6 * 2, blocks.BAND_VALUES])
def test_the_convlstm_takes_the_six_steps_of_the_paper(
    band_values: int, learns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole, in bands of two rows with a shorter last one, and row by row."""
    monkeypatch.setattr(blocks, "BAND_VALUES", band_values)
    torch.manual_seed(5)
    inputs, hidden_channels, height, width = 3, 4, 5, 6
    cell_net = ConvLSTMCell(inputs, hidden_channels)
    weight, bias = (p.detach().double().numpy() for p in (cell_net.gates.weight, cell_net.gates.bias))
    generator = np.random.default_rng(6)
    e, h, c = (generator.normal(0, 1, (n, height, width)) for n in (inputs, hidden_channels, hidden_channels))
    w_e = {gate: weight[k * 4 : k * 4 + 4, :inputs] for k, gate in enumerate("ifgo")}
    w_h = {gate: weight[k * 4 : k * 4 + 4, inputs:] for k, gate in enumerate("ifgo")}
    b = {gate: bias[k * 4 : k * 4 + 4, None, None] for k, gate in enumerate("ifgo")}

    a_i = sigmoid(convolve(e, w_e["i"]) + convolve(h, w_h["i"]) + b["i"])
    a_f = sigmoid(convolve(e, w_e["f"]) + convolve(h, w_h["f"]) + b["f"])
    a_g = np.tanh(convolve(e, w_e["g"]) + convolve(h, w_h["g"]) + b["g"])
    c_new = a_f * c + a_i * a_g
    a_o = sigmoid(convolve(e, w_e["o"]) + convolve(h, w_h["o"]) + b["o"])
    h_new = a_o * np.tanh(c_new)

    with torch.set_grad_enabled(learns):
        x, past, before = (torch.from_numpy(v).float()[None] for v in (e, h, c))
        gates = cell_net.project(x, 0, bias=True) + cell_net.project(past, inputs, bias=False)
        hidden, cell = cell_net.step(gates, before)
    assert hidden.requires_grad == learns
    np.testing.assert_allclose(hidden[0].detach().numpy(), h_new, atol=2e-6)
    np.testing.assert_allclose(cell[0].detach().numpy(), c_new, atol=2e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("batch, height", [(1, 24), (1, 28), (2, 24)])
@pytest.mark.parametrize("band", [1, 600, 1 << 18])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_residuals_folded_in_bands_and_threads_are_the_same_bit_for_bit(
    threads: int, batch: int, height: int, band: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsr.nets.layers.pixel_shuffle.BAND_VALUES", band)
    generator = torch.Generator().manual_seed(11)
    image = torch.rand(batch, 3, height, 20, generator=generator)
    flow = 6 * torch.randn(batch, 2, height, 20, generator=generator)
    base = torch.rand(batch, 48, height // 4, 5, generator=generator)
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch_threads(threads), torch.no_grad():
            folded = fold_warped(image, flow, base.contiguous(memory_format=layout), 4, dtype)
        expected = (F.pixel_unshuffle(warp(image, flow), 4) - base).to(dtype)
        assert torch.equal(folded, expected)
        assert folded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(fold_warped(image, flow.requires_grad_(), base, 4, dtype), expected), "what training sees"


def test_the_convlstm_cell_stays_float32_in_half_precision() -> None:
    cell_net = ConvLSTMCell(2, 3).bfloat16()
    gates = cell_net.project(torch.rand(1, 2, 4, 4), 0, bias=True)
    _, cell = cell_net.step(gates, torch.full((1, 3, 4, 4), 100.0))
    assert cell.dtype == torch.float32


def test_the_residual_block_adds_two_convolutions_and_leaves_its_input_alone() -> None:
    torch.manual_seed(7)
    block = ResidualBlock(3)
    x = torch.randn(1, 3, 6, 5)
    kept = x.clone()
    w1, b1, w2, b2 = (
        p.detach().double().numpy()
        for p in (block.conv1.weight, block.conv1.bias, block.conv2.weight, block.conv2.bias)
    )
    inside = np.maximum(convolve(x[0].double().numpy(), w1) + b1[:, None, None], 0)
    expected = x[0].double().numpy() + convolve(inside, w2) + b2[:, None, None]
    np.testing.assert_allclose(block(x)[0].detach().numpy(), expected, atol=2e-6)
    assert torch.equal(x, kept)


def attentive_block(channels: int) -> ResidualBlock:
    torch.manual_seed(8)
    block = ResidualBlock(channels, attention=True).requires_grad_(False)
    assert block.attention is not None
    for parameter in block.attention.parameters():
        parameter.copy_(torch.randn(parameter.shape))
    return block


def test_attention_is_a_map_that_scales_the_residual_pixel_by_pixel() -> None:
    """SECNet, II-C4 and Fig. 2 (d): two convolutions and one ReLU make the map; a sigmoid keeps it in 0..1."""
    block, channels = attentive_block(6), 6
    x = torch.randn(1, channels, 5, 7, generator=torch.Generator().manual_seed(9))
    p = {name: tensor.double().numpy() for name, tensor in block.state_dict().items()}
    inside = np.maximum(convolve(x[0].double().numpy(), p["conv1.weight"]) + p["conv1.bias"][:, None, None], 0)
    residual = convolve(inside, p["conv2.weight"]) + p["conv2.bias"][:, None, None]
    squeezed = np.einsum("oc,chw->ohw", p["attention.squeeze.weight"][:, :, 0, 0], residual)
    squeezed = np.maximum(squeezed + p["attention.squeeze.bias"][:, None, None], 0)
    weights = sigmoid(convolve(squeezed, p["attention.excite.weight"]) + p["attention.excite.bias"][:, None, None])
    assert weights.shape == (1, 5, 7) and np.ptp(weights) > 0.5
    expected = x[0].double().numpy().copy()
    for c, i, j in np.ndindex(*residual.shape):
        expected[c, i, j] += weights[0, i, j] * residual[c, i, j]
    np.testing.assert_allclose(block(x)[0].numpy(), expected, atol=3e-6)


@given(st.floats(0, 30), st.integers(0, 10**6))
@settings(deadline=None, max_examples=20)
def test_attention_stays_between_0_and_1(size: float, seed: int) -> None:
    attention = attentive_block(5).attention
    assert attention is not None
    given_map = attention(size * torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(seed)))
    assert given_map.shape == (2, 1, 4, 6) and given_map.min() >= 0 and given_map.max() <= 1


def test_initial_attention_is_close_to_1_and_absent_when_off() -> None:
    torch.manual_seed(10)
    x = torch.randn(1, 8, 6, 6)
    fresh = SpatialAttention(8)(x)
    assert (fresh - 1 / (1 + math.exp(-3))).abs().max() < 0.01
    plain = ResidualBlock(8)
    assert plain.attention is None and not any("attention" in name for name in plain.state_dict())
    opened = ResidualBlock(8, attention=True)
    opened.load_state_dict(plain.state_dict(), strict=False)
    assert opened.attention is not None
    nn.init.constant_(opened.attention.excite.bias, 100.0)  # type: ignore[arg-type]
    torch.testing.assert_close(opened(x), plain(x), atol=1e-6, rtol=0)
    nn.init.constant_(opened.attention.excite.bias, -100.0)  # type: ignore[arg-type]
    assert torch.equal(opened(x), x)


@pytest.mark.parametrize("attention", [False, True])
def test_attention_is_in_every_residual_block_of_the_fusions_or_in_none(attention: bool) -> None:
    network = build("secnet", {"detail_widths": [8, 8], "attention": attention, "fusion_tail": 4})
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 3 + 1 + 4 + 4  # local fusion, third scale, decoder there, and two on each side of it
    assert {block.attention is not None for block in blocks} == {attention}


def test_small_pieces() -> None:
    conv = conv3x3(2, 5)
    assert run(conv.bfloat16(), torch.rand(1, 2, 3, 7)).shape == (1, 5, 3, 7)
    assert leaky_relu(torch.tensor([-2.0, 3.0])).tolist() == pytest.approx([-0.2, 3.0])
    start_near_zero(conv.float())
    assert conv.bias is not None and not conv.bias.any()
    assert 0 < conv.weight.abs().max() < 0.01


def test_gradients_of_warp_point_to_the_better_motion() -> None:
    """A ramp displaced by one pixel: the gradient must drive the displacement to +1 in x and 0 in y."""
    ramp = torch.linspace(0, 1, 16).expand(1, 1, 8, 16)
    target = ramp.roll(-1, 3)
    flow: Tensor = torch.zeros(1, 2, 8, 16, requires_grad=True)
    (warp(ramp, flow) - target)[..., :-1].square().sum().backward()
    assert flow.grad is not None
    assert (flow.grad[:, 0, :, 1:-2] < 0).all() and flow.grad[:, 1].abs().max() < 1e-6


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("band_values", [1, 4000, 1 << 20])
def test_a_sum_is_unfolded_alike_in_bands_and_whole(
    scale: int, layout: torch.memory_format, band_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "BAND_VALUES", band_values)
    base, first, second = torch.rand(3, 2, 3 * scale**2, 7, 5).sub_(0.1).unbind()
    base, first, second = (x.contiguous(memory_format=layout) for x in (base, first.bfloat16(), second / 9))
    whole = depth_to_space((base + first + second).clamp(0, 1), scale)
    result = unfold_sum(base, (first, second), scale)
    assert torch.equal(result, whole)
    assert result.is_contiguous()
