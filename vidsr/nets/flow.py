"""The optical flow network. SECNet's text leaves its flow module out (section II-A is missing); this one is ours."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.blocks import conv3x3, leaky_relu, run, start_near_zero
from vidsr.nets.warp import enlarge_flow, warp


class FlowLevel(nn.Module):
    """Corrects a motion field on one level of the pyramid from the target, the warped source and the field itself."""

    def __init__(self, width: int, depth: int) -> None:
        """`depth` 3x3 convolutions of `width` channels between input (8) and output (2)."""
        super().__init__()
        widths = [8, *[width] * (depth - 1)]
        self.hidden = nn.ModuleList(conv3x3(a, b) for a, b in pairwise(widths))
        self.out = conv3x3(width, 2)
        start_near_zero(self.out)  # almost no motion at the start of training

    def forward(self, target: Tensor, source: Tensor, flow: Tensor) -> Tensor:
        """Images B x 3 x h x w in 0..1 and the field so far B x 2 x h x w in pixels; returns the better field."""
        x = torch.cat((target - 0.5, warp(source, flow) - 0.5, flow), dim=1)
        for conv in self.hidden:
            assert isinstance(conv, nn.Conv2d)
            x = leaky_relu(run(conv, x))
        return flow + run(self.out, x).float()


class FlowNet(nn.Module):
    """Motion from one low-resolution frame to another, coarse to fine on reduced scales (1/2^levels to 1/2).

    The field of the finest level is enlarged bilinearly to the size of the input: half the resolution is a quarter of
    the work, and motion is smooth.
    """

    def __init__(self, width: int, depth: int, levels: int) -> None:
        """`levels` networks of `depth` convolutions with `width` channels."""
        super().__init__()
        self.levels = nn.ModuleList(FlowLevel(width, depth) for _ in range(levels))

    def forward(self, target: Tensor, source: Tensor) -> Tensor:
        """Images B x 3 x h x w in 0..1; returns F(target to source), B x 2 x h x w float32, in pixels, x first."""
        height, width = target.shape[-2:]
        multiple = 2 ** len(self.levels)
        pad = (0, -width % multiple, 0, -height % multiple)
        targets, sources = [F.pad(target, pad, mode="replicate")], [F.pad(source, pad, mode="replicate")]
        for _ in self.levels:
            targets.append(F.avg_pool2d(targets[-1], 2))
            sources.append(F.avg_pool2d(sources[-1], 2))
        flow = torch.zeros_like(targets[-1][:, :2], dtype=torch.float32)
        for i, level in enumerate(self.levels):
            flow = level(targets[-1 - i], sources[-1 - i], flow)
            flow = enlarge_flow(flow, 2)
        return flow[:, :, :height, :width]
