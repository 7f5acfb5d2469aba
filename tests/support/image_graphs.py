"""Small ONNX graphs, as other people write them: an image in, a larger one out."""

from __future__ import annotations

import functools
import io
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.models.image_graph import ImageGraph, ImageGraphConfig


class Small(nn.Module):
    """The image enlarged by repeating its pixels, and what two convolutions add to it.

    With a `step` above 1 the convolutions work on blocks of `step` x `step` pixels, so that sides have to be multiples
    of it.
    """

    def __init__(self, scale: int, width: int = 8, step: int = 1) -> None:
        super().__init__()
        torch.manual_seed(scale)
        self.scale, self.step = scale, step
        self.first = nn.Conv2d(3 * step**2, width, 3, padding=1)
        self.last = nn.Conv2d(width, 3 * (scale * step) ** 2, 3, padding=1)
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        blocks = F.pixel_unshuffle(image, self.step) if self.step > 1 else image
        added = F.pixel_shuffle(self.last(self.first(blocks).relu()), self.scale * self.step)
        large = F.interpolate(image, scale_factor=float(self.scale), mode="nearest") if self.scale > 1 else image
        return large + 0.3 * added


def graph_of(
    network: nn.Module, is_half: bool = False, fixed: tuple[int, int] | None = None, channels: int = 3
) -> bytes:
    """The network as an ONNX model for images of any size, or of a fixed height and width."""
    height, width = fixed or (32, 48)
    kind = torch.float16 if is_half else torch.float32
    axes = {} if fixed else {"input": {0: "n", 2: "h", 3: "w"}, "output": {0: "n", 2: "H", 3: "W"}}
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.to(kind), (torch.zeros(1, channels, height, width, dtype=kind),), content,
            input_names=["input"], output_names=["output"], opset_version=18, dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
    network.float()
    return content.getvalue()


def write_graph(
    path: Path, network: nn.Module, is_half: bool = False, fixed: tuple[int, int] | None = None, channels: int = 3
) -> Path:
    """Writes the model of `graph_of` to a file."""
    path.write_bytes(graph_of(network, is_half, fixed, channels))
    return path


def settings_of(network: Small, fixed: tuple[int, int] = (0, 0)) -> ImageGraphConfig:
    """The configuration of the network's graph."""
    return ImageGraphConfig(
        network="small", scale=network.scale, multiple_of=network.step, minimum=1, fixed_height=fixed[0],
        fixed_width=fixed[1], colors="RGB, 0 to 1", precision="fp32", overlap=32, tile_difference=0.0,
        bytes_per_pixel=1.0, parameters=0.0, multiply_adds=0.0,
    )  # fmt: skip


@functools.cache
def loaded(scale: int, step: int = 1, fixed: tuple[int, int] | None = None) -> ImageGraph:
    """A graph as it is loaded from the file of a card."""
    network = Small(scale, step=step)
    return ImageGraph(settings_of(network, fixed or (0, 0)), graph_of(network, fixed=fixed), "small")
