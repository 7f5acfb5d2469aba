"""What a network that enlarges images one by one has to be, how it takes images of any size, and its graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from vidsr.nets.base import Network
from vidsr.nets.export_step import Shapes, Step


class SingleImageConfig(Protocol):
    """What the sizes of such a network tell: it takes images whose sides are multiples of `multiple_of`.

    `lookahead` is 0; a model's card has it.
    """

    @property
    def scale(self) -> int:
        """The enlargement."""
        ...

    @property
    def lookahead(self) -> int:
        """None."""
        ...

    @property
    def multiple_of(self) -> int:
        """1 for any size."""
        ...


def run_padded(run: Callable[[Tensor], Tensor], config: SingleImageConfig, image: Tensor) -> Tensor:
    """What `run` makes of an image B x 3 x h x w of any size: its edges are repeated up to a size that `run` takes."""
    height, width = image.shape[-2:]
    multiple, scale = config.multiple_of, config.scale
    padded = F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
    return run(padded)[..., : scale * height, : scale * width]


class SingleImageStep(Step):
    """An image 1 x 3 x h x w in 0..1 to its enlargement, not clamped."""

    def __init__(self, network: Network) -> None:
        """Shares the weights of `network`, whose `forward` does it."""
        super().__init__()
        self.network = network

    def inputs(self, height: int, width: int) -> Shapes:
        """The image."""
        return {"image": (1, 3, height, width)}

    def outputs(self, height: int, width: int) -> Shapes:
        """Its enlargement."""
        scale = self.network.config.scale
        return {"result": (1, 3, scale * height, scale * width)}

    def forward(self, image: Tensor) -> Tensor:
        """As the network."""
        result: Tensor = self.network(image)
        return result
