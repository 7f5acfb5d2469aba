"""The losses of SECNet's training, equations (2) to (4) and (10), of Zooming SlowMo's, (6.7) to (6.10), and of HIME's.

Adversarial losses are in `adversarial`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.nets.layers.conditioning import Estimate
from vidsr.nets.layers.warp import enlarge_flow, warp
from vidsr.nets.secnet.network import ClipOutput
from vidsr.nets.zsm.network import GuidedOutput
from vidsr.train.perceptual import Distance
from vidsr.train.recipe import GuidanceConfig, OptimizationConfig


class Losses(NamedTuple):
    """The weighted sum and its parts, each a scalar tensor."""

    total: Tensor
    final: Tensor
    first: Tensor
    flow: Tensor


def reconstruction_loss(result: Tensor, truth: Tensor, epsilon: float) -> Tensor:
    """Mean squared error (equation (4)) for `epsilon` 0, else Charbonnier: mean of sqrt(difference^2 + epsilon^2)."""
    squared = (result - truth).square()
    return squared.mean() if epsilon == 0 else torch.sqrt(squared + epsilon**2).mean()


def smoothness(flow: Tensor) -> Tensor:
    """Mean absolute difference of neighboring displacements of ... x 2 x h x w, in pixels per pixel."""
    vertical = (flow[..., 1:, :] - flow[..., :-1, :]).abs().mean()
    horizontal = (flow[..., :, 1:] - flow[..., :, :-1]).abs().mean()
    return vertical + horizontal


def flow_loss(low: Tensor, flows: Tensor, offsets: Sequence[int], alpha: float) -> Tensor:
    """Warping error of the neighbors plus `alpha` times smoothness: the usual form, as the paper omits equation (3).

    `low` is B x T x 3 x h x w; `flows` B x T x K x 2 x h x w, field k of frame t points at frame t + `offsets`[k]. At
    the ends of the clip, missing neighbors are not counted. T is larger than every offset. Fields at a fraction of the
    frames' size are enlarged to it.
    """
    length, factor = low.shape[1], low.shape[-1] // flows.shape[-1]
    errors = []
    for k, offset in enumerate(offsets):
        targets = slice(max(0, -offset), length - max(0, offset))
        sources = slice(max(0, offset), length - max(0, -offset))
        fields = flows[:, targets, k].flatten(0, 1)
        warped = warp(low[:, sources].flatten(0, 1), fields if factor == 1 else enlarge_flow(fields, factor))
        errors.append((warped - low[:, targets].flatten(0, 1)).abs().mean())
    return sum(errors, torch.zeros(())) / len(errors) + alpha * smoothness(flows)


def estimate_loss(estimates: Estimate, quantities: Tensor) -> Tensor:
    """Cross-entropy of the estimated blur, noise and compression: per frame, and per cell with weight 0.5.

    `estimates` as in ClipOutput; `quantities` B x 3 in 0..1. Absolute error would not train quantities that are 0 for
    most samples, because the sigmoid is flat there.
    """
    overall, local = (part.float() for part in estimates)
    truth = quantities[:, None].expand_as(overall)
    cells = truth[..., None, None].expand_as(local)
    entropy = F.binary_cross_entropy_with_logits
    return entropy(overall, truth) + 0.5 * entropy(local, cells)


def secnet_losses(
    output: ClipOutput,
    low: Tensor,
    truth: Tensor,
    offsets: Sequence[int],
    config: OptimizationConfig,
    pretraining: bool = False,
) -> Losses:
    """Equation (10): losses of the final result and the first one (with a weight), plus gamma times the flow loss.

    During `pretraining` of the local fusion (III-A) the first result replaces the final one, with weight 1.
    """
    final = reconstruction_loss(output.results, truth, config.charbonnier_epsilon)
    first = reconstruction_loss(output.firsts, truth, config.charbonnier_epsilon)
    flow = flow_loss(low, output.flows, offsets, config.alpha)
    fused = first if pretraining else final + config.weight_first * first
    return Losses(fused + config.gamma * flow, final, first, flow)


def perceptual_loss(results: Tensor, truth: Tensor, distance: Distance, crop: int) -> Tensor:
    """The mean distance of a random `crop` x `crop` window in one random frame per clip; B x T x 3 x H x W in 0..1."""
    batch, length, _, height, width = results.shape
    windows = []
    for clip in range(batch):
        t = int(torch.randint(length, ()))
        y, x = (int(torch.randint(side - crop + 1, ())) for side in (height, width))
        windows.append((clip, t, slice(None), slice(y, y + crop), slice(x, x + crop)))
    a, b = (torch.stack([images[window] for window in windows]) for images in (results, truth))
    return distance(a.float(), b).mean()


def correlation_loss(result: Tensor, truth: Tensor, size: int, dilation: int = 1) -> Tensor:
    """L_cor of HIME, equations (5.7) and (5.8): the mean absolute difference of two correlation maps.

    Both images are B x C x H x W. The map of an image, without its mean in each channel, has `size`^2 channels: the
    scalar products, over C, of every pixel and each pixel of a window around it, divided by `size`^2. Beyond the border
    the image is 0. The text lets i and j run to (k + 1) / 2, which would be k + 2 pixels; (k - 1) / 2 is meant. With
    `dilation` d the window is k d - d + 1 wide. Raises ValueError if `size` is even.

    The product of two pixels belongs to two channels of the map, i, j and -i, -j, so half of the window is enough.
    """
    if size < 1 or size % 2 == 0:
        raise ValueError(f"the window of the correlation loss must be odd, not {size}")
    a, b = (image - image.mean((-2, -1), keepdim=True) for image in (result, truth))
    reach, total = size // 2, a.new_zeros(())
    height, width = a.shape[-2:]
    for i in range(reach + 1):
        for j in range(-reach if i else 0, reach + 1):
            down, right = i * dilation, j * dilation
            if down >= height or abs(right) >= width:
                continue  # all of the other pixels are beyond the border
            here = (..., slice(down, None), slice(max(0, right), width + min(0, right)))
            there = (..., slice(0, height - down), slice(max(0, -right), width - max(0, right)))
            difference = (a[here] * a[there]).sum(-3) - (b[here] * b[there]).sum(-3)
            total = total + difference.abs().sum() * (2 if i or j else 1)
    pixels = a.numel() // a.shape[-3]
    return total / (pixels * size**4)


class SlowmoLosses(NamedTuple):
    """The weighted sum (6.10) and its parts, each a scalar tensor: (6.7), (6.8) and (6.9)."""

    total: Tensor
    result: Tensor
    first: Tensor
    second: Tensor


def slowmo_losses(
    output: GuidedOutput, truth: Tensor, guides: Tensor, config: GuidanceConfig, epsilon: float
) -> SlowmoLosses:
    """Results against `truth`, B x T x 3 x H x W; the head's images against `guides`, B x T x 3 x h x w; T odd.

    Frames are counted from 1 as in the equations. Features interpolated once belong to the even frames (6.8), features
    interpolated twice to the odd ones except the first and the last (6.9). The Charbonnier penalty is averaged over all
    values, so that no term depends on the crop size; (6.7) prints one norm per frame.
    """
    result = reconstruction_loss(output.results, truth, epsilon)
    first = reconstruction_loss(output.firsts, guides[:, 1::2], epsilon)
    second = reconstruction_loss(output.seconds, guides[:, 2:-1:2], epsilon)
    total = config.lambda_1 * result + config.lambda_2 * first + config.lambda_3 * second
    return SlowmoLosses(total, result, first, second)
