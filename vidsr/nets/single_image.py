"""Networks that enlarge single images: their configuration, padding to any image size, and the export step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from vidsr.nets.base import Network
from vidsr.nets.export_step import Shapes, Step


class SingleImageConfig(Protocol):
    """The configuration of a single-image network, whose image sides must be multiples of `multiple_of`."""

    @property
    def scale(self) -> int:
        """The factor of enlargement."""
        ...

    @property
    def lookahead(self) -> int:
        """0 for a single-image network; model cards state it."""
        ...

    @property
    def multiple_of(self) -> int:
        """The divisor of both image sides; 1 if any size is accepted."""
        ...


class AnySize:
    """Base class of the configurations of networks that take single images of any size."""

    __slots__ = ()

    @property
    def lookahead(self) -> int:
        """0: every image is enlarged on its own."""
        return 0

    @property
    def multiple_of(self) -> int:
        """1: images of any size are accepted."""
        return 1


def run_padded(run: Callable[[Tensor], Tensor], config: SingleImageConfig, image: Tensor) -> Tensor:
    """Runs a network on images B x 3 x h x w of any size, padded by edge repetition to a size that `run` takes.

    Returns B x 3 x H x W, cropped to `scale` times the original size.
    """
    height, width = image.shape[-2:]
    multiple, scale = config.multiple_of, config.scale
    padded = F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
    return run(padded)[..., : scale * height, : scale * width]


class SingleImageStep(Step):
    """The export step of a single-image network: 1 x 3 x h x w in 0..1 to its enlargement, not clamped."""

    def __init__(self, network: Network) -> None:
        """Shares the weights of `network`."""
        super().__init__()
        self.network = network

    def inputs(self, height: int, width: int) -> Shapes:
        """Shape of the input image."""
        return {"image": (1, 3, height, width)}

    def outputs(self, height: int, width: int) -> Shapes:
        """Shape of the enlarged image."""
        scale = self.network.config.scale
        return {"result": (1, 3, scale * height, scale * width)}

    def forward(self, image: Tensor) -> Tensor:
        """Runs the network."""
        result: Tensor = self.network(image)
        return result
