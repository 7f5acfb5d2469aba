"""An architecture that is nowhere in the product: an image enlarged by repeating its pixels, and one convolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.engines.select import ENGINES, EngineRow, single_image, single_image_onnx
from vidsr.models.registry import ARCHITECTURES, Architecture
from vidsr.nets.base import Network

ID = "toy"


@dataclass(frozen=True, slots=True)
class ToyConfig:
    """Sides of the images are multiples of 8, as those of a network with three halvings."""

    factor: int = 2
    width: int = 5

    @property
    def scale(self) -> int:
        return self.factor

    @property
    def lookahead(self) -> int:
        return 0

    @property
    def multiple_of(self) -> int:
        return 8


class Toy(Network):
    """Two convolutions on the repeated pixels."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.config: ToyConfig = config
        self.head = nn.Conv2d(3, config.width, 3, padding=1)
        self.tail = nn.Conv2d(config.width, 3, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        assert image.shape[-1] % 8 == image.shape[-2] % 8 == 0
        large = F.interpolate(image, scale_factor=self.config.factor, mode="nearest")
        result: Tensor = large + 0.3 * self.tail(self.head(large).relu())
        return result


def toy_network(**arguments: Any) -> Toy:
    """Random weights."""
    torch.manual_seed(0)
    return Toy(ToyConfig(**arguments)).requires_grad_(False).eval()


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row in each table, for one test."""
    row = Architecture(
        tasks=("upscale",),
        config=f"{__name__}:ToyConfig",
        network=f"{__name__}:Toy",
        run_clip="vidsr.models.behavior:single_images",
        run_golden="vidsr.models.behavior:golden_clip",
        multiply_adds="vidsr.models.behavior:single_image_multiply_adds",
        graphs="vidsr.models.onnx_export:single_image_graphs",
    )
    engines = EngineRow(torch=single_image, onnx=single_image_onnx, bytes_per_pixel=lambda config, _: 500.0)
    monkeypatch.setitem(ARCHITECTURES, ID, row)
    monkeypatch.setitem(ENGINES, ID, engines)
