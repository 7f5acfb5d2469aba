"""Fused convolutions: equal to separate operations except for rounding once, and counted alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from vidsr.bench.convolutions import ConvolutionRecorder
from vidsr.nets.layers import fused_conv
from vidsr.nets.layers.fused_conv import ActivatedConv2d, SummedConv2d, convolve_and_add

pytestmark = pytest.mark.numeric

LAYOUTS = {"planes": torch.contiguous_format, "channels last": torch.channels_last}


@pytest.fixture(autouse=True)
def without_gradients() -> Tensor:
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def random_image(channels: int = 8, dtype: torch.dtype = torch.float32, layout: str = "planes") -> Tensor:
    return torch.randn(2, channels, 13, 18).to(dtype).contiguous(memory_format=LAYOUTS[layout])


def test_torch_has_the_fused_operation() -> None:
    """With the locked versions; otherwise these tests would compare the fallback with itself."""
    assert fused_conv.FUSED_CONV is not None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("slope", [0.0, 0.1])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_activated_convolution_equals_convolution_and_activation(
    layout: str, slope: float, kernel: int, stride: int
) -> None:
    conv = ActivatedConv2d(8, 12, kernel, stride, kernel // 2, slope).to(memory_format=LAYOUTS[layout])
    x = random_image(layout=layout)
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), stride, kernel // 2)
    torch.testing.assert_close(conv(x), F.leaky_relu(exact, slope).float(), atol=1e-5, rtol=0)
    assert (conv(x) < 0).any() == (slope > 0)


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_in_bf16_it_is_rounded_once(slope: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where oneDNN has bf16 convolutions; elsewhere torch makes two operations of it, and their results are the same.

    Rounding to the 8 significant bits of bf16 moves a value by at most 2^-8 of itself; sums are in float32, and what
    that loses of 72 products of about 0.1 stays far below 1e-5.
    """
    conv, x = ActivatedConv2d(8, 12, 3, padding=1, slope=slope).bfloat16(), random_image(dtype=torch.bfloat16)
    is_one = fused_conv.FUSED_CONV is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    together = conv(x)
    exact = F.leaky_relu(F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1), slope)
    monkeypatch.setattr(fused_conv, "FUSED_CONV", None)
    apart = conv(x)
    assert torch.equal(together, apart) == (slope == 0 or not is_one)
    roundings = 1 if is_one or slope == 0 else 2
    assert ((together - exact).abs() <= roundings * 2**-8 * exact.abs() + 1e-5).all()
    assert (together - exact).abs().mean() <= (apart - exact).abs().mean()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("most", [0, 1 << 21], ids=["in two", "in one"])
def test_sum_is_exact_and_does_not_modify_its_inputs(layout: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused_conv, "MAX_SUMMED", most)
    conv, x, other = (
        SummedConv2d(8, 12, 3).to(memory_format=LAYOUTS[layout]),
        random_image(),
        random_image(12, layout=layout),
    )
    before = x.clone(), other.clone()
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    torch.testing.assert_close(conv(x, other), (exact + other).float(), atol=1e-5, rtol=0)
    torch.testing.assert_close(conv(x), exact.float(), atol=1e-5, rtol=0)
    without = convolve_and_add(x, conv.weight, None, other)
    torch.testing.assert_close(without, (exact + other - conv.bias[:, None, None]).float(), atol=1e-5, rtol=0)
    assert torch.equal(x, before[0]) and torch.equal(other, before[1])


def test_both_are_counted_as_convolutions() -> None:
    active, summed = ActivatedConv2d(8, 12, 3, padding=1), SummedConv2d(12, 12, 3)
    x = random_image()
    with FlopCounterMode(display=False) as counter, ConvolutionRecorder() as recorder:
        inner = active(x)
        summed(inner, inner)
    wanted = 2 * 13 * 18 * 9 * (8 * 12 + 12 * 12)
    assert counter.get_total_flops() // 2 == sum(call.multiply_adds for call in recorder.calls) == wanted
    assert [call.weight_size for call in recorder.calls] == [(12, 8, 3, 3), (12, 12, 3, 3)]


def test_gradients_propagate() -> None:
    with torch.inference_mode(False), torch.enable_grad():
        active, summed = ActivatedConv2d(8, 8, 3, padding=1, slope=0.1), SummedConv2d(8, 8, 3)
        x = torch.randn(2, 8, 13, 18, requires_grad=True)
        summed(active(x), x).sum().backward()
        assert x.grad is not None and x.grad.abs().sum() > 0
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in (*active.parameters(), *summed.parameters()))


def test_autocast_uses_the_separate_operations() -> None:
    conv, x = ActivatedConv2d(8, 12, 3, padding=1), random_image()
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
        assert conv(x.bfloat16()).dtype == torch.bfloat16
