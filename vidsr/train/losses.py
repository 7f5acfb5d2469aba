"""The losses of SECNet's training, equations (2) to (4) and (10)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vidsr.nets.secnet import ClipOutput
from vidsr.nets.warp import warp
from vidsr.train.recipe import OptimisationConfig


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
    """Mean absolute difference of neighbouring displacements of ... x 2 x h x w, in pixels per pixel."""
    vertical = (flow[..., 1:, :] - flow[..., :-1, :]).abs().mean()
    horizontal = (flow[..., :, 1:] - flow[..., :, :-1]).abs().mean()
    return vertical + horizontal


def flow_loss(low: Tensor, flows: Tensor, alpha: float) -> Tensor:
    """Warping error of the neighbours plus `alpha` times smoothness; equation (3) is missing, this is the usual form.

    `low` is B x T x 3 x h x w; `flows` B x T x 2 (to t-1, to t+1) x 2 x h x w. The ends have only one neighbour, so T
    is at least 2.
    """
    errors = []
    for direction, (target, source) in enumerate(((low[:, 1:], low[:, :-1]), (low[:, :-1], low[:, 1:]))):
        flow = flows[:, 1:, 0] if direction == 0 else flows[:, :-1, 1]
        warped = warp(source.flatten(0, 1), flow.flatten(0, 1))
        errors.append((warped - target.flatten(0, 1)).abs().mean())
    return sum(errors, torch.zeros(())) / 2 + alpha * smoothness(flows)


def secnet_losses(output: ClipOutput, low: Tensor, truth: Tensor, config: OptimisationConfig) -> Losses:
    """Equation (10): final result, first result (weight ours) and gamma times the flow loss."""
    final = reconstruction_loss(output.results, truth, config.charbonnier_epsilon)
    first = reconstruction_loss(output.firsts, truth, config.charbonnier_epsilon)
    flow = flow_loss(low, output.flows, config.alpha)
    return Losses(final + config.weight_first * first + config.gamma * flow, final, first, flow)
