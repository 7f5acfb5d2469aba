"""Convolutions with what follows them, a leaky ReLU or a sum, in one pass over memory where torch can do that."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

# oneDNN's convolution with something done to each value before it is stored. Only torch's own compiler calls it, so it
# may change: it is used if it still takes these arguments.
_ARGUMENTS = {
    "default": "X W B padding stride dilation groups attr scalars algorithm",
    "binary": "X other W B padding stride dilation groups binary_attr alpha unary_attr unary_scalars unary_algorithm",
}
# Values of a result up to which the sum is worth it: it saves two thirds of a second pass's time with 32 channels of
# 320x180, and with 64 the convolution is slowed by more than such a pass takes.
MOST_SUMMED = 1 << 21


def _find_one_pass() -> Any:
    """torch's operation, both overloads; None if this torch has none, or another one."""
    is_there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch has no annotations here
    packet = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
    if not is_there or packet is None or set(packet.overloads()) != set(_ARGUMENTS):
        return None
    for name, known in _ARGUMENTS.items():
        if " ".join(each.name for each in getattr(packet, name)._schema.arguments) != known:
            return None

    @register_flop_formula(packet)  # else such a convolution counts for nothing where operations are counted
    def count(picture: Any, *others: Any, out_shape: Any) -> int:
        weight = next(shape for shape in reversed(others[:2]) if shape is not None and len(shape) == len(picture))
        return int(conv_flop_count(picture, weight, out_shape))

    return packet


ONE_PASS = _find_one_pass()
_TYPES = [torch.float32]
if ONE_PASS is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported():
    _TYPES.append(torch.bfloat16)


def _runs_in_one_pass(x: Tensor, weight: Tensor) -> bool:
    if ONE_PASS is None or x.device.type != "cpu" or x.dtype != weight.dtype:
        return False
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.onnx.is_in_onnx_export():
        return False
    return x.dtype in _TYPES


class ActivatedConv2d(nn.Conv2d):
    """A convolution and a leaky ReLU; a slope of 0 is ReLU. Weights are those of the convolution, under its names.

    On a CPU, where nothing is to be learnt, both in one operation, rounded once: with 32 channels of 160x90 a second
    pass takes an eighth of the convolution's time.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int = 0, slope: float = 0.0
    ) -> None:
        """As nn.Conv2d; `slope` is what negative values are multiplied by."""
        super().__init__(in_channels, out_channels, kernel, stride, padding)
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        """B x C x H x W, as nn.Conv2d."""
        if not _runs_in_one_pass(x, self.weight):
            x = super().forward(x)
            return F.leaky_relu(x, self.slope, inplace=True) if self.slope else F.relu(x, inplace=True)
        kind, scalars = ("leaky_relu", [self.slope]) if self.slope else ("relu", [])
        result: Tensor = ONE_PASS.default(
            x, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups, kind, scalars, ""
        )
        return result


class SummedConv2d(nn.Conv2d):
    """A convolution that keeps the size, and its result's sum with something: see `convolve_and_add`."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        """As nn.Conv2d; `kernel` is odd."""
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """B x C x H x W, as nn.Conv2d, plus `other` of the result's shape."""
        return super().forward(x) if other is None else convolve_and_add(x, self.weight, self.bias, other)


def convolve_and_add(x: Tensor, weight: Tensor, bias: Tensor | None, other: Tensor) -> Tensor:
    """`other`, B x O x H x W, plus the convolution of `x` with a kernel O x C x k x k that keeps the size; k is odd.

    In one operation it is rounded once.
    """
    padding = weight.shape[-1] // 2
    if other.numel() > MOST_SUMMED or other.dtype != x.dtype or not _runs_in_one_pass(x, weight):
        return F.conv2d(x, weight, bias, padding=padding).add_(other)
    ones, around = (1, 1), (padding, padding)
    result: Tensor = ONE_PASS.binary(x, other, weight, bias, around, ones, ones, 1, "add", 1.0, None, [], None)
    return result
