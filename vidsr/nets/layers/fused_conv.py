"""Convolutions fused with a following leaky ReLU or sum, where torch supports it (oneDNN on a CPU)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

# torch's binding of oneDNN's convolution with a fused element-wise operation. It is internal to torch's compiler and
# may change, so it is used only if it still takes these arguments.
_ARGUMENTS = {
    "default": "X W B padding stride dilation groups attr scalars algorithm",
    "binary": "X other W B padding stride dilation groups binary_attr alpha unary_attr unary_scalars unary_algorithm",
}
# Number of result values up to which a fused sum pays off: with 32 channels of 320x180 it saves two thirds of the time
# of a separate pass; with 64 it slows the convolution by more than such a pass takes.
MAX_SUMMED = 1 << 21


def _find_fused_conv() -> Any:
    """Finds torch's operation with both overloads; None if this version of torch lacks it or has another signature."""
    is_there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch has no annotations here
    packet = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    if not is_there or packet is None or set(packet.overloads()) != set(_ARGUMENTS):
        return None
    for name, known in _ARGUMENTS.items():
        if " ".join(each.name for each in getattr(packet, name)._schema.arguments) != known:
            return None

    @register_flop_formula(packet)  # otherwise FLOP counters would ignore these convolutions
    def count(image: Any, *others: Any, out_shape: Any) -> int:
        weight = next(shape for shape in reversed(others[:2]) if shape is not None and len(shape) == len(image))
        return int(conv_flop_count(image, weight, out_shape))

    return packet


FUSED_CONV = _find_fused_conv()
_TYPES = [torch.float32]
if FUSED_CONV is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    _TYPES.append(torch.bfloat16)


def can_fuse(x: Tensor, weight: Tensor) -> bool:
    """Whether a convolution of `x` may be fused: on a CPU, without gradients, autocast or export to ONNX."""
    if FUSED_CONV is None or x.device.type != "cpu" or x.dtype != weight.dtype:
        return False
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.onnx.is_in_onnx_export():
        return False
    return x.dtype in _TYPES


class ActivatedConv2d(nn.Conv2d):
    """A convolution with a leaky ReLU; a slope of 0 is ReLU. Parameters have the names of nn.Conv2d.

    On a CPU without gradients both are one operation, rounded once: with 32 channels of 160x90 a second pass would take
    an eighth of the convolution's time.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0, slope: float = 0.0
    ) -> None:
        """As nn.Conv2d; `slope` is the factor of negative values."""
        super().__init__(in_channels, out_channels, kernel, stride, padding)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """B x C x H x W, as nn.Conv2d."""
        return self.with_bias(x, self.bias)

    def with_bias(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """The same with `bias` (as many values as channels come out) in place of its own."""
        if not can_fuse(x, self.weight):
            x = self._conv_forward(x, self.weight, bias)
            return F.leaky_relu(x, self.slope, inplace=True) if self.slope else F.relu(x, inplace=True)
        return _rectified(x, self, bias, self.slope)


def convolve_and_rectify(x: Tensor, conv: nn.Conv2d, slope: float) -> Tensor:
    """A leaky ReLU of `conv`, of inputs for which `can_fuse` holds."""
    return _rectified(x, conv, conv.bias, slope)


def _rectified(x: Tensor, conv: nn.Conv2d, bias: Tensor | None, slope: float) -> Tensor:
    kind, scalars = ("leaky_relu", [slope]) if slope else ("relu", [])
    result: Tensor = FUSED_CONV.default(
        x, conv.weight, bias, conv.padding, conv.stride, conv.dilation, conv.groups, kind, scalars, ""
    )
    return result


class SummedConv2d(nn.Conv2d):
    """A size-preserving convolution with an optional sum: see `convolve_and_add`."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        """As nn.Conv2d; `kernel` is odd."""
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """B x C x H x W, as nn.Conv2d, plus `other` of the result's shape."""
        return super().forward(x) if other is None else convolve_and_add(x, self.weight, self.bias, other)


def convolve_and_add(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
    """`other`, B x O x H x W, plus the size-preserving convolution of `x` with a kernel O x C x k x k; k is odd.

    The fused operation rounds only once.
    """
    padding = weight.shape[-1] // 2
    if other.numel() > MAX_SUMMED or other.dtype != x.dtype or not can_fuse(x, weight):
        return F.conv2d(x, weight, bias, padding=padding).add_(other)
    ones, around = (1, 1), (padding, padding)
    result: Tensor = FUSED_CONV.binary(x, other, weight, bias, around, ones, ones, 1, "add", 1.0, None, [], None)
    return result
