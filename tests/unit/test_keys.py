"""Keys' kernel: what it is, and that the formulas it replaced give the same tables, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vidsr.nets.layers.blocks import BicubicPhases
from vidsr.nets.layers.keys import RADIUS, keys_weights
from vidsr.train.degrade import bicubic_taps


def expanded(distance: Tensor) -> Tensor:
    """The polynomials as papers print them."""
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


def test_it_interpolates_and_sums_to_one() -> None:
    whole = torch.arange(4, dtype=torch.float64)
    assert torch.equal(keys_weights(whole), torch.tensor([1.0, 0, 0, 0], dtype=torch.float64))
    for shift in torch.linspace(0, 1, 11, dtype=torch.float64):
        distance = (torch.arange(-2, 4, dtype=torch.float64) - shift).abs()
        weights = keys_weights(distance)
        assert weights.sum() == pytest.approx(1.0) and (weights * (distance < RADIUS)).equal(weights)
    places = torch.linspace(0, 3, 301, dtype=torch.float64)
    assert torch.allclose(keys_weights(places), expanded(places), atol=1e-14)


@pytest.mark.parametrize("scale", range(1, 9))
def test_the_phases_are_those_of_the_printed_polynomials(scale: int) -> None:
    phases = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
    weights = expanded((phases[:, None] - torch.arange(-2, 3, dtype=torch.float64)[None]).abs())
    kernel = torch.einsum("iy,jx->ijyx", weights, weights).reshape(1, scale * scale, 5, 5)
    expected = kernel.repeat(3, 1, 1, 1).reshape(-1, 1, 5, 5).float()
    assert torch.equal(BicubicPhases(scale).kernel, expected)
    assert torch.equal(BicubicPhases(scale).kernel.signbit(), expected.signbit())


def test_the_reduction_is_that_of_the_printed_polynomials() -> None:
    weights = expanded((torch.arange(16, dtype=torch.float64) - 7.5).abs() / 4)
    assert torch.equal(bicubic_taps(), (weights / weights.sum()).float())
