"""How degraded a frame is, and how a network is told: an estimator of blur, noise and compression, and a modulation.

Ours; the idea that a network profits from knowing the level is CAVSR's (Wang et al., CVPR 2023). Each quantity is 0..1;
what the ends mean is decided by the training (vidsr/train/degrade_real.py). Everything that changes the enlarging
network starts at 0, so that it first computes what it computed without.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.blocks import active3x3, run
from vidsr.nets.layers.fused_conv import ActivatedConv2d

QUANTITIES = ("blur", "noise", "compression")
CELL = 4  # side of an estimate's cell in pixels of the frame
LEAST_RATE = 0.1  # of a new frame in the mean over time: a scene's estimate settles and then follows slowly


class Estimate(NamedTuple):
    """Blur, noise and compression in 0..1: `overall` B x 3 of the frame, `local` B x 3 x h/4 x w/4 (rounded up).

    While an estimator is trained they are logits, whose sigmoid that is.
    """

    overall: Tensor
    local: Tensor


class Tuning(NamedTuple):
    """What a condition does to a row of residual blocks: `added`, B x C x h x w, to the first one's input; then per
    block the factor of its inner channels and what is added to them before the ReLU, both B x C.
    """

    added: Tensor
    blocks: tuple[tuple[Tensor, Tensor], ...]


class Estimator(nn.Module):
    """Looks at one frame: four convolutions down to a quarter of its size, then each cell, and their mean and spread.

    They see the frame, eight times what it differs from its 3 x 3 means, and the logarithm of that difference's power:
    without these two nothing but the median was learnt. With 32 channels 2,600 multiply-adds for each of its pixels.
    """

    def __init__(self, width: int) -> None:
        """`width` channels at a quarter of the size."""
        super().__init__()
        self.enter = ActivatedConv2d(7, width * 3 // 4, 5, 2, padding=2, slope=0.1)
        self.reduce = active3x3(width * 3 // 4, width, stride=2)
        self.body = nn.Sequential(active3x3(width, width), active3x3(width, width))
        self.local = nn.Conv2d(width, 3, 1)
        self.squeeze = nn.Linear(2 * width, width)
        self.overall = nn.Linear(width, 3)

    def forward(self, picture: Tensor) -> Estimate:
        """B x 3 x h x w in 0..1."""
        overall, local = self.logits(picture)
        return Estimate(torch.sigmoid(overall), torch.sigmoid(local))

    def logits(self, picture: Tensor) -> Estimate:
        """The same before the sigmoid."""
        height, width = picture.shape[-2:]
        picture = F.pad(picture.float(), (0, -width % CELL, 0, -height % CELL), mode="replicate")
        detail = picture - _blurred(picture)
        power = torch.log(_blurred(detail.square().mean(1, keepdim=True)) + 1e-6) / 4 + 2
        seen = torch.cat((picture - 0.5, 8 * detail, power), dim=1).contiguous(memory_format=torch.channels_last)
        feature = self.body(self.reduce(run(self.enter, seen)))
        local = run(self.local, feature).float()
        cells = feature.float().flatten(2)
        mean = cells.mean(-1)
        spread = ((cells - mean[..., None]).square().mean(-1) + 1e-6).sqrt()
        overall = self.overall(F.relu(self.squeeze(torch.cat((mean, spread), dim=1))))
        return Estimate(overall.float(), local)


def _blurred(picture: Tensor) -> Tensor:
    """The mean of each pixel's 3 x 3 neighbours, the edge pixel repeated."""
    return F.avg_pool2d(F.pad(picture, (1, 1, 1, 1), mode="replicate"), 3, 1)


def smooth(estimate: Tensor, before: Tensor | None) -> Tensor:
    """The mean over a scene up to this frame: B x 4, the three quantities and the weight of the frames so far.

    `estimate` is the frame's, B x 3; `before` what this gave for the frame before, None or zeros at a scene's start.
    """
    if before is None:
        before = estimate.new_zeros(estimate.shape[0], 4)
    weight = (before[:, 3:] + 1).clamp(max=1 / LEAST_RATE)
    return torch.cat((before[:, :3] + (estimate - before[:, :3]) / weight, weight), dim=1)


def decided(estimate: Estimate, smoothed: Tensor, told: Tensor | None) -> Estimate:
    """What the network is told: the smoothed estimate, and in place of it each quantity of `told` that is a number.

    `smoothed` B x 4 as `smooth` gives it; `told` B x 3 or 1 x 3, not a number where the estimate counts.
    """
    overall, local = smoothed[:, :3], estimate.local
    if told is None:
        return Estimate(overall, local)
    told = told.to(overall)
    is_own = torch.isnan(told)
    fixed = torch.nan_to_num(told)
    overall = torch.where(is_own, overall, fixed)
    return Estimate(overall, torch.where(is_own[..., None, None], local, fixed[..., None, None]))


def told_values(values: Sequence[float | None]) -> Tensor | None:
    """`told` for a stream from blur, noise and compression, each None or 0..1; None if all are.

    Raises ValueError for a value outside 0..1.
    """
    if any(value is not None and not 0 <= value <= 1 for value in values):
        raise ValueError("blur, noise and compression are told in 0..1")
    if all(value is None for value in values):
        return None
    return torch.tensor([[float("nan") if value is None else value for value in values]])


class Modulation(nn.Module):
    """From a condition to the tuning of a row of residual blocks; it starts as none."""

    def __init__(self, width: int, blocks: int, hidden: int) -> None:
        """`width` channels of `blocks` blocks; `hidden` units see the three quantities."""
        super().__init__()
        self.width = width
        self.embed = nn.Linear(3, hidden)
        self.tune = nn.Linear(hidden, 2 * blocks * width)
        self.add = nn.Conv2d(6, width, 1)
        for layer in (self.tune, self.add):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, condition: Estimate, size: tuple[int, int]) -> Tuning:
        """For frames of `size` (height and width)."""
        overall, local = condition
        rows = self.tune(F.relu(self.embed(overall))).float().view(overall.shape[0], -1, 2, self.width)
        both = torch.cat((overall[..., None, None].expand_as(local), local), dim=1)
        cells = run(self.add, both.contiguous(memory_format=torch.channels_last))
        added = F.interpolate(cells, scale_factor=float(CELL), mode="bilinear")[..., : size[0], : size[1]]
        return Tuning(added, tuple((1 + rows[:, k, 0], rows[:, k, 1]) for k in range(rows.shape[1])))
