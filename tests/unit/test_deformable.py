"""The deformable convolution against its definition as plain loops in float64."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vidsr.nets.layers.deformable import DeformableConv, deformable_conv

pytestmark = pytest.mark.numeric


def pixel(plane: np.ndarray, row: int, column: int) -> float:
    inside = 0 <= row < plane.shape[0] and 0 <= column < plane.shape[1]
    return float(plane[row, column]) if inside else 0.0


def sample(plane: np.ndarray, y: float, x: float) -> float:
    """Bilinear interpolation of the four neighbors, which are zero outside the plane."""
    top, left = math.floor(y), math.floor(x)
    total = 0.0
    for row, column in product((top, top + 1), (left, left + 1)):
        total += (1 - abs(y - row)) * (1 - abs(x - column)) * pixel(plane, row, column)
    return total


def by_loops(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> np.ndarray:
    """DCNv2: offsets as (y, x) per kernel point per group, one mask value per kernel point per group."""
    images, offsets, masks, weights = (t.double().numpy() for t in (x, offset, mask, weight))
    batch, channels, height, width = images.shape
    size = weights.shape[-1]
    groups = masks.shape[1] // size**2
    result = np.zeros((batch, weights.shape[0], height, width))
    for b, c, y, column in np.ndindex(batch, channels, height, width):
        group = c // (channels // groups)
        for i, j in product(range(size), repeat=2):
            point = group * size**2 + i * size + j
            at_y = y + i - size // 2 + offsets[b, 2 * point, y, column]
            at_x = column + j - size // 2 + offsets[b, 2 * point + 1, y, column]
            value = masks[b, point, y, column] * sample(images[b, c], at_y, at_x)
            result[b, :, y, column] += weights[:, c, i, j] * value
    return result + bias.double().numpy()[None, :, None, None]


def draw(
    batch: int, channels: int, height: int, width: int, kernel: int, groups: int, spread: float = 3.0
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Input, offsets (with `spread` 3 many lie outside), mask, weight and bias, float64."""
    generator = torch.Generator().manual_seed(height * 100 + width * 10 + groups)
    points = groups * kernel**2

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    offset = normal(batch, 2 * points, height, width) * spread
    mask = torch.sigmoid(normal(batch, points, height, width))
    return normal(batch, channels, height, width), offset, mask, normal(5, channels, kernel, kernel), normal(5)


@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("height, width, groups", [(5, 7, 1), (6, 4, 2), (1, 5, 4), (4, 1, 2), (1, 1, 1)])
def test_agrees_with_its_definition(kernel: int, height: int, width: int, groups: int) -> None:
    arguments = draw(2, 4, height, width, kernel, groups)
    result = deformable_conv(*arguments)
    np.testing.assert_allclose(result.numpy(), by_loops(*arguments), atol=1e-10)


def test_integer_offsets_on_and_beyond_the_border() -> None:
    x, offset, mask, weight, bias = draw(1, 4, 5, 6, 3, 2)
    arguments = (x, offset.round().clamp(-6, 6), mask, weight, bias)
    np.testing.assert_allclose(deformable_conv(*arguments).numpy(), by_loops(*arguments), atol=1e-10)


def test_only_the_bias_remains_far_outside() -> None:
    x, offset, mask, weight, bias = draw(1, 4, 5, 6, 3, 2)
    result = deformable_conv(x, torch.full_like(offset, -1e4), mask, weight, bias)
    assert torch.equal(result, bias[None, :, None, None].expand_as(result))


@pytest.mark.parametrize("kernel", [1, 3])
def test_zero_offsets_give_a_convolution(kernel: int) -> None:
    x, offset, mask, weight, bias = draw(2, 6, 7, 9, kernel, 3)
    result = deformable_conv(x, offset * 0, torch.ones_like(mask), weight, bias)
    torch.testing.assert_close(result, F.conv2d(x, weight, bias, padding=kernel // 2))


def test_float32_and_channels_last_agree_with_float64() -> None:
    arguments = draw(2, 8, 33, 61, 3, 4)
    exact = deformable_conv(*arguments)
    single = [t.float() for t in arguments]
    torch.testing.assert_close(deformable_conv(*single).double(), exact, atol=2e-3, rtol=0)
    last = [t.contiguous(memory_format=torch.channels_last) if t.ndim == 4 else t for t in single]
    torch.testing.assert_close(deformable_conv(*last), deformable_conv(*single))


def test_half_types_sample_at_exact_positions() -> None:
    """Positions beyond 256 have no fractions in bfloat16: a wide image would show steps."""
    width = 600
    x = torch.linspace(0, 1, width).expand(1, 1, 3, width)
    offset = torch.zeros(1, 2, 3, width)
    offset[:, 1] = 0.5
    ones = torch.ones(1, 1, 3, width)
    result = deformable_conv(x, offset.bfloat16(), ones.bfloat16(), torch.ones(1, 1, 1, 1), torch.zeros(1))
    torch.testing.assert_close(result[..., 1, :-1], (x[..., 1, :-1] + x[..., 1, 1:]) / 2, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kernel, groups", [(3, 1), (1, 2)])
def test_gradients_equal_finite_differences(kernel: int, groups: int) -> None:
    x, offset, mask, weight, bias = draw(1, 2, 3, 3, kernel, groups, spread=0.7)
    # Away from integer positions, where bilinear sampling is not differentiable.
    offset = offset.floor() + 0.2 + 0.6 * (offset - offset.floor())
    arguments = tuple(t.requires_grad_() for t in (x, offset, mask, weight, bias))
    assert torch.autograd.gradcheck(deformable_conv, arguments)


def test_layer_predicts_offsets_before_masks_from_its_guide() -> None:
    torch.manual_seed(0)
    layer = DeformableConv(4, 3, 2).double()
    torch.nn.init.normal_(layer.conv_offset_mask.weight, std=0.3)
    x, guide = torch.randn(2, 1, 4, 5, 6, dtype=torch.float64).unbind()
    with torch.no_grad():
        read = layer.conv_offset_mask(guide)
        expected = by_loops(x, read[:, :36], torch.sigmoid(read[:, 36:]), layer.weight, layer.bias)
        np.testing.assert_allclose(layer(x, guide).numpy(), expected, atol=1e-10)


def test_new_layer_is_half_a_convolution() -> None:
    layer = DeformableConv(4, 3, 2)
    x = torch.rand(1, 4, 8, 9)
    torch.testing.assert_close(layer(x, torch.rand(1, 4, 8, 9)), F.conv2d(x, layer.weight / 2, layer.bias, padding=1))
