"""Backward warping by motion fields. Everything that turns a field of displacements into a picture lives here."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor


def warp(image: Tensor, flow: Tensor, mode: Literal["bilinear", "bicubic"] = "bilinear") -> Tensor:
    """Samples `image` at every pixel displaced by `flow`; outside, the border pixel is repeated.

    `image` is B x C x H x W; `flow` is B x 2 x H x W in pixels of `image`, x first: the result at (y, x) is the image
    at (y + flow[1], x + flow[0]). Computed in float32 whatever the input: bf16 has too few bits for positions.
    "bicubic" is Keys' cubic with a = -0.75, as torch has it.
    """
    height, width = image.shape[-2:]
    flow = flow.float()
    x = torch.arange(width, device=flow.device, dtype=torch.float32)
    y = torch.arange(height, device=flow.device, dtype=torch.float32)[:, None]
    # Pixel centres, which grid_sample wants in -1..1 over the whole width and height.
    grid_x = (flow[:, 0] + x) * (2.0 / width) + (1.0 / width - 1.0)
    grid_y = (flow[:, 1] + y) * (2.0 / height) + (1.0 / height - 1.0)
    grid = torch.stack((grid_x, grid_y), dim=-1)
    return F.grid_sample(image.float(), grid, mode=mode, padding_mode="border", align_corners=False)


def enlarge_flow(flow: Tensor, factor: int) -> Tensor:
    """Bilinear enlargement of a motion field, its displacements scaled along (SECNet, Algorithm 4, line 8)."""
    return F.interpolate(flow.float(), scale_factor=float(factor), mode="bilinear", align_corners=False) * factor
