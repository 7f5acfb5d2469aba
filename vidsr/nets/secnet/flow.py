"""The optical flow network. Ours: section II-A of SECNet, on its flow module, is missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.blocks import active3x3, conv3x3, run, start_near_zero
from vidsr.nets.layers.warp import enlarge_flow, warp


class Pyramid(NamedTuple):
    """A frame reduced by 2, 4, 8, ...: B x 3 x h/2 x w/2 and so on; `size` is (h, w) of the full frame."""

    levels: tuple[Tensor, ...]
    size: tuple[int, int]


def stack_pyramids(pyramids: Sequence[Pyramid]) -> Pyramid:
    """Joins pyramids of frames of equal size into one batch."""
    levels = zip(*(pyramid.levels for pyramid in pyramids), strict=True)
    return Pyramid(tuple(torch.cat(level) for level in levels), pyramids[0].size)


class FlowLevel(nn.Module):
    """Refines a motion field on one pyramid level from the target, the warped source and the field itself."""

    def __init__(self, width: int, depth: int) -> None:
        """`depth` 3x3 convolutions of `width` channels between input (8) and output (2)."""
        super().__init__()
        widths = [8, *[width] * (depth - 1)]
        self.hidden = nn.ModuleList(active3x3(a, b) for a, b in pairwise(widths))
        self.out = conv3x3(width, 2)
        start_near_zero(self.out)  # almost no motion at the start of training

    def forward(self, target: Tensor, source: Tensor, flow: Tensor) -> Tensor:
        """Refines the field B x 2 x h x w, in pixels, between two images B x 3 x h x w in 0..1."""
        x = torch.cat((target - 0.5, warp(source, flow) - 0.5, flow), dim=1)
        for conv in self.hidden:
            assert isinstance(conv, nn.Conv2d)
            x = run(conv, x)
        return flow + run(self.out, x).float()


class FlowNet(nn.Module):
    """Motion from one low-resolution frame to another, coarse to fine on reduced scales (1/2^levels to 1/2).

    The field of the finest level is enlarged bilinearly to the size of the input: half the resolution costs a quarter,
    and motion is smooth.
    """

    def __init__(self, width: int, depth: int, levels: int) -> None:
        """`levels` refinement networks, each of `depth` convolutions with `width` channels."""
        super().__init__()
        self.levels = nn.ModuleList(FlowLevel(width, depth) for _ in range(levels))

    def pyramid(self, image: Tensor) -> Pyramid:
        """The pyramid of an image B x 3 x h x w in 0..1; it is computed once for all fields of a frame."""
        height, width = image.shape[-2:]
        multiple = 2 ** len(self.levels)
        image = F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        levels = []
        for _ in self.levels:
            image = F.avg_pool2d(image, 2)
            levels.append(image)
        return Pyramid(tuple(levels), (height, width))

    def forward(self, target: Pyramid, source: Pyramid) -> Tensor:
        """The field from target to source, B x 2 x h x w float32, in pixels of the frame, x first."""
        flow = torch.zeros_like(target.levels[-1][:, :2], dtype=torch.float32)
        for i, level in enumerate(self.levels):
            flow = level(target.levels[-1 - i], source.levels[-1 - i], flow)
            flow = enlarge_flow(flow, 2)
        height, width = target.size
        return flow[:, :, :height, :width]
