"""Modulated deformable convolution (DCNv2) in plain torch."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.blocks import conv3x3, run


def deformable_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A size-preserving convolution whose kernel points are displaced and weighted at every pixel.

    `x`: B x C x H x W; `weight`: O x C x k x k with k odd; `mask`: B x (G k^2) x H x W, one factor per group of C / G
    channels and kernel point; `offset`: B x (2 G k^2) x H x W in pixels, y before x for each kernel point of each
    group. Samples between pixels are bilinear; outside the image they are zero. Sampling uses at least float32, the
    product with the weights their own type.

    All kernel points are sampled by one grid_sample: with 32 channels on one core it takes 0.7 of the time of
    embedding_bag over the four corners and 0.5 of gather. A kernel of one point costs about 2 plain convolutions, a
    kernel of nine about 6, so a fast network uses k = 1. If `x` is channels last, so is the result; `offset` and
    `mask` should be contiguous.
    """
    batch, channels, height, width = x.shape
    size = weight.shape[-1]
    points = size * size
    groups = mask.shape[1] // points
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    rows, columns = offset.to(dtype).reshape(batch * groups, points, 2, height, width).unbind(2)
    kernel_points = _kernel_points if torch.onnx.is_in_onnx_export() else _cached_kernel_points
    center_x, center_y = kernel_points(height, width, size, x.device, dtype)
    # The two planes stay separate in memory, because interleaving them takes time.
    grid_x = torch.add(center_x, columns, alpha=2 / width)
    grid_y = torch.add(center_y, rows, alpha=2 / height)
    grid = torch.stack((grid_x, grid_y), dim=1).view(batch * groups, 2, points * height, width).permute(0, 2, 3, 1)
    # One channels-last image is read as it is: making it contiguous took half as long as the sampling.
    planes = x.to(dtype).reshape(batch * groups, channels // groups, height, width)
    samples = F.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    samples = samples.view(batch * groups, channels // groups, points, height * width)
    samples = samples * mask.reshape(batch * groups, 1, points, height * width)
    samples = samples.to(weight.dtype).reshape(batch, channels * points, height * width)
    matrix, added = weight.flatten(1).t().expand(batch, -1, -1), bias.expand(batch, 1, -1)
    product = torch.baddbmm(added, samples.transpose(1, 2), matrix)  # channels last, as the next convolution prefers
    return product.view(batch, height, width, weight.shape[0]).permute(0, 3, 1, 2)


def _kernel_points(
    height: int, width: int, size: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The undisplaced kernel points in grid_sample's coordinates, -1..1 over the whole width and height.

    x is points x 1 x w, y is points x h x 1.
    """
    kernel = torch.arange(size, device=device, dtype=dtype) - (size - 1) / 2
    x = torch.arange(width, device=device, dtype=dtype) + kernel.repeat(size)[:, None, None] + 0.5
    y = torch.arange(height, device=device, dtype=dtype)[:, None] + kernel.repeat_interleave(size)[:, None, None] + 0.5
    return x * (2 / width) - 1, y * (2 / height) - 1


@lru_cache(maxsize=64)
def _cached_kernel_points(*arguments: Any) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # training may use them later
        return _kernel_points(*arguments)


class DeformableConv(nn.Module):
    """A deformable convolution with the layer that predicts its offsets and mask from a guide feature."""

    def __init__(self, channels: int, kernel: int, groups: int, guide_channels: int | None = None) -> None:
        """`channels` in and out, a multiple of `groups`; `kernel`: its side, odd; `guide_channels`: `channels` if None.

        Initially offsets are 0 and masks 0.5; a kernel of one point (ours) starts as the identity.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(channels))
        bound = 1 / math.sqrt(channels * kernel * kernel)
        nn.init.uniform_(self.weight, -bound, bound)
        if kernel == 1:  # a state propagated over many steps should start undisturbed
            with torch.no_grad():
                self.weight.mul_(0.1).add_(2 * torch.eye(channels)[..., None, None])
        self.points = groups * kernel * kernel
        self.conv_offset_mask = conv3x3(guide_channels or channels, 3 * self.points)
        assert self.conv_offset_mask.bias is not None
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)

    def forward(self, x: Tensor, guide: Tensor) -> Tensor:
        """`x` B x C x H x W and the guide feature `guide`; returns the shape of `x`."""
        prediction = run(self.conv_offset_mask, guide).contiguous()
        prediction = prediction.to(torch.promote_types(prediction.dtype, torch.float32))
        offset, mask = prediction[:, : 2 * self.points], torch.sigmoid(prediction[:, 2 * self.points :])
        return deformable_conv(x, offset, mask, self.weight, self.bias)
