"""Training of Attention-FH: the local network by the error in its boxes, the policy by REINFORCE (3.2 and 3.4).

The reward of equation (6) is written E_T - E_SRGAN + E_V with squared errors, which would reward errors. Here it is the
gain in PSNR over the enlarged input, which stands for the frozen reference network, plus the share of the pixels that
the boxes have covered. The baseline b of algorithm 1 is a running mean there; here every face has several sequences of
boxes, and b is the mean reward of the others: it needs no memory and its variance is smaller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vidsr.nets.attention_fh.boxes import random_actions
from vidsr.nets.attention_fh.network import AttentionFH, Step
from vidsr.train.recipe import PolicyConfig

LOWEST_ERROR = 1e-10  # of a reward's PSNR, in squares of -1..1


class PolicyLosses(NamedTuple):
    """`total` is minimized; `local` is the squared error in the boxes, `policy` REINFORCE's, 0 while boxes are random.

    `reward` is the mean of equation (6) over faces and sequences, for the log.
    """

    total: Tensor
    local: Tensor
    policy: Tensor
    reward: Tensor


def attention_losses(
    network: AttentionFH, low: Tensor, truth: Tensor, config: PolicyConfig, random_boxes: bool,
    generator: torch.Generator | None = None,
) -> PolicyLosses:  # fmt: skip
    """The losses of algorithm 1 for faces `low` (B x 3 x h x w) and `truth` (B x 3 x H x W), both in 0..1.

    With `random_boxes` only the local network learns, from one sequence of random boxes per face; otherwise each face
    has `config.sequences` sequences of boxes that the policy draws. `generator`, on the device of `low`, draws them.
    """
    goal = 2 * truth - 1
    if random_boxes:
        actions = [random_actions(len(low), network.config, generator, low.device) for _ in range(network.config.steps)]
        steps = network.steps(low, actions)
        local = local_loss(steps, goal)
        return PolicyLosses(local, local, local.new_zeros(()), rewards(network, low, steps, goal, config).mean())
    low = low.repeat_interleave(config.sequences, dim=0)
    goal = goal.repeat_interleave(config.sequences, dim=0)
    steps = network.steps(low, generator=generator, sample=True)
    found = rewards(network, low, steps, goal, config)
    chosen = torch.stack([step.log_probability for step in steps]).sum(dim=0)
    local, policy = local_loss(steps, goal), policy_loss(chosen, found, config.sequences)
    return PolicyLosses(local + config.weight * policy, local, policy, found.mean())


def local_loss(steps: Sequence[Step], goal: Tensor) -> Tensor:
    """The mean squared error inside the box of each step, averaged over faces and steps; `goal` is in -1..1."""
    errors = []
    for step in steps:
        squares = step.mask * (step.enhanced - goal).square()
        errors.append(squares.sum(dim=(1, 2, 3)) / (3 * step.mask.sum(dim=(1, 2, 3))).clamp_min(1))
    return torch.stack(errors).mean()


@torch.no_grad()
def rewards(network: AttentionFH, low: Tensor, steps: Sequence[Step], goal: Tensor, config: PolicyConfig) -> Tensor:
    """Equation (6), repaired: gain in dB over the enlarged face, plus `config.coverage` times the covered share; B."""
    covered = torch.stack([step.mask for step in steps]).amax(dim=0).mean(dim=(1, 2, 3))
    return _psnr(steps[-1].image, goal) - _psnr(network.enlarge(low), goal) + config.coverage * covered


def policy_loss(log_probabilities: Tensor, found: Tensor, sequences: int) -> Tensor:
    """REINFORCE with the mean of a face's other sequences as its baseline: a number whose gradient is the policy's.

    Both inputs have one value for each sequence, those of a face side by side; `sequences` is 2 or more.
    """
    each = found.view(-1, sequences)
    baseline = (each.sum(dim=1, keepdim=True) - each) / (sequences - 1)
    advantage = (each - baseline).flatten().detach()
    return -(advantage * log_probabilities).mean()


def _psnr(image: Tensor, goal: Tensor) -> Tensor:
    """PSNR in dB of each image of a batch, both in -1..1."""
    errors = (image.clamp(-1, 1) - goal).square().mean(dim=(1, 2, 3)).clamp_min(LOWEST_ERROR)
    return 10 * torch.log10(4 / errors)
