"""Degradation (blur, noise, compression): an estimator of its levels, and the modulation of a network by them.

Ours; the idea that a network benefits from knowing the level is CAVSR's (Wang et al., CVPR 2023). Each level is in
0..1; training defines what the ends mean (vidsr/train/degrade_real.py). The layers that modulate the upscaling
network are initialized to 0, so that at first its results are those of the network without them.
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
CELL = 4  # side in frame pixels of a cell of the local estimate
BAND = 128  # rows of a frame that `estimate_overall` processes at once
CONTEXT = 16  # rows on either side that influence a row of cells: 14, rounded up to whole cells
MIN_RATE = 0.1  # lowest weight of a new frame in the mean over time: the estimate settles, then follows slowly


class Estimate(NamedTuple):
    """Degradation levels in 0..1: `overall` B x 3 for the frame, `local` B x 3 x h/4 x w/4 (rounded up) for its cells.

    In training, these are logits: the levels before the sigmoid.
    """

    overall: Tensor
    local: Tensor


class Tuning(NamedTuple):
    """Modulation of a sequence of residual blocks.

    `added`, B x C x h x w, is added to the input of the first block. `blocks` has two tensors B x C for each block: the
    scale of its inner channels and the shift added to them before the ReLU.
    """

    added: Tensor
    blocks: tuple[tuple[Tensor, Tensor], ...]


class Estimator(nn.Module):
    """Estimates the degradation levels of one frame.

    Four convolutions reduce the frame to a quarter of its size. The local levels come from each cell, the overall
    levels from the mean and standard deviation over the cells. The inputs are the frame, 8 times its difference from
    its 3 x 3 mean, and the logarithm of that difference's power; without the last two, training learned nothing but the
    median. With 32 channels: 2,600 multiply-adds per pixel of the frame.
    """

    def __init__(self, width: int) -> None:
        """`width`: number of channels at a quarter of the size."""
        super().__init__()
        self.enter = ActivatedConv2d(7, width * 3 // 4, 5, 2, padding=2, slope=0.1)
        self.reduce = active3x3(width * 3 // 4, width, stride=2)
        self.body = nn.Sequential(active3x3(width, width), active3x3(width, width))
        self.local = nn.Conv2d(width, 3, 1)
        self.squeeze = nn.Linear(2 * width, width)
        self.overall = nn.Linear(width, 3)

    def forward(self, image: Tensor) -> Estimate:
        """The levels in 0..1 of an image B x 3 x h x w in 0..1."""
        overall, local = self.logits(image)
        return Estimate(torch.sigmoid(overall), torch.sigmoid(local))

    def logits(self, image: Tensor) -> Estimate:
        """The levels before the sigmoid."""
        feature = self._features(_whole_cells(image))
        local = run(self.local, feature).float()
        cells = feature.float().flatten(2)
        mean = cells.mean(-1)
        return Estimate(self._overall(mean, (cells - mean[..., None]).square().mean(-1)), local)

    def estimate_overall(self, image: Tensor, band: int = BAND) -> Tensor:
        """The overall levels that `forward` estimates, B x 3, up to rounding, with the memory for `band` rows.

        `image` is B x 3 x h x w in 0..1; `band` is a multiple of CELL.
        """
        image = _whole_cells(image)
        rows, count = image.shape[-2], 0
        mean = square = image.new_zeros(())
        for top in range(0, rows, band):
            bottom, start = min(rows, top + band), max(0, top - CONTEXT)
            feature = self._features(image[..., start : bottom + CONTEXT, :])
            cells = feature[..., (top - start) // CELL : (bottom - start) // CELL, :].float().flatten(2)
            # Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979
            here, more = cells.mean(-1), cells.shape[-1]
            apart = here - mean
            square = (
                square + (cells - here[..., None]).square().sum(-1) + apart.square() * (count * more / (count + more))
            )
            mean = mean + apart * (more / (count + more))
            count += more
        return torch.sigmoid(self._overall(mean, square / count))

    def _features(self, image: Tensor) -> Tensor:
        """The features of the cells of an image whose sides are multiples of CELL."""
        detail = image - _blur(image)
        power = torch.log(_blur(detail.square().mean(1, keepdim=True)) + 1e-6) / 4 + 2
        seen = torch.cat((image - 0.5, 8 * detail, power), dim=1).contiguous(memory_format=torch.channels_last)
        feature: Tensor = self.body(self.reduce(run(self.enter, seen)))
        return feature

    def _overall(self, mean: Tensor, variance: Tensor) -> Tensor:
        """The overall logits from mean and variance of the features over the cells."""
        spread = (variance + 1e-6).sqrt()
        logits: Tensor = self.overall(F.relu(self.squeeze(torch.cat((mean, spread), dim=1))))
        return logits.float()


def _whole_cells(image: Tensor) -> Tensor:
    """The image, filled up to whole cells by repeating its last row and column."""
    height, width = image.shape[-2:]
    return F.pad(image.float(), (0, -width % CELL, 0, -height % CELL), mode="replicate")


def _blur(image: Tensor) -> Tensor:
    """The 3 x 3 mean around each pixel; edge pixels are repeated."""
    return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)


def smooth(estimate: Tensor, before: Tensor | None) -> Tensor:
    """The mean of the levels over a scene up to this frame, B x 4: three levels and the weight of the frames so far.

    `estimate` B x 3 is that of this frame. `before` is the result for the previous frame; None or zeros at the start of
    a scene.
    """
    if before is None:
        before = estimate.new_zeros(estimate.shape[0], 4)
    weight = (before[:, 3:] + 1).clamp(max=1 / MIN_RATE)
    return torch.cat((before[:, :3] + (estimate - before[:, :3]) / weight, weight), dim=1)


def apply_overrides(estimate: Estimate, smoothed: Tensor, overrides: Tensor | None) -> Estimate:
    """The condition of a network: the smoothed estimate, with the overridden levels replaced.

    `smoothed` is the B x 4 result of `smooth`. `overrides`, B x 3 or 1 x 3, is NaN where the estimate is used.
    """
    overall, local = smoothed[:, :3], estimate.local
    if overrides is None:
        return Estimate(overall, local)
    overrides = overrides.to(overall)
    is_own = torch.isnan(overrides)
    fixed = torch.nan_to_num(overrides)
    overall = torch.where(is_own, overall, fixed)
    return Estimate(overall, torch.where(is_own[..., None, None], local, fixed[..., None, None]))


def overrides_tensor(values: Sequence[float | None]) -> Tensor | None:
    """The overrides 1 x 3 of a stream from blur, noise and compression, each in 0..1 or None; None if all are None.

    Raises ValueError for a value outside 0..1.
    """
    if any(value is not None and not 0 <= value <= 1 for value in values):
        raise ValueError("blur, noise and compression must be in 0..1")
    if all(value is None for value in values):
        return None
    return torch.tensor([[float("nan") if value is None else value for value in values]])


def clip_conditions(estimator: Estimator, frames: Tensor, overrides: Tensor | None) -> tuple[Estimate, Estimate]:
    """Estimates (logits) and conditions of a clip B x T x 3 x h x w that starts a scene, both B x T x ...

    `overrides` as in `apply_overrides`. Gradients of the reconstruction reach only the local estimate, so that the
    overall levels keep their meaning.
    """
    logits = Estimate(*(x.view(*frames.shape[:2], *x.shape[1:]) for x in estimator.logits(frames.flatten(0, 1))))
    overall, local = (torch.sigmoid(part) for part in logits)
    overrides = None if overrides is None else overrides.to(frames.device)
    smoothed, decisions = None, []
    for t in range(frames.shape[1]):
        smoothed = smooth(overall[:, t].detach(), smoothed)
        decisions.append(apply_overrides(Estimate(overall[:, t], local[:, t]), smoothed, overrides))
    return logits, Estimate(*(torch.stack(parts, dim=1) for parts in zip(*decisions, strict=True)))


def halfway(before: Estimate, after: Estimate) -> Estimate:
    """The condition of the moment halfway between two frames: the mean of theirs."""
    return Estimate(*((a + b) / 2 for a, b in zip(before, after, strict=True)))


class Modulation(nn.Module):
    """Computes the modulation of a sequence of residual blocks from a condition; initialized to have no effect."""

    def __init__(self, width: int, blocks: int, hidden: int, unshuffle: int = 1) -> None:
        """For `blocks` blocks of `width` channels, with `hidden` units between the levels and the modulation.

        The features have 1/`unshuffle` of the size of the frame.
        """
        super().__init__()
        self.width, self.cell = width, CELL // unshuffle
        self.embed = nn.Linear(3, hidden)
        self.tune = nn.Linear(hidden, 2 * blocks * width)
        self.add = nn.Conv2d(6, width, 1)
        for layer in (self.tune, self.add):
            nn.init.zeros_(layer.weight)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, condition: Estimate, size: tuple[int, int]) -> Tuning:
        """The modulation for features of `size` (height, width)."""
        overall, local = condition
        rows = self.tune(F.relu(self.embed(overall))).float().view(overall.shape[0], -1, 2, self.width)
        both = torch.cat((overall[..., None, None].expand_as(local), local), dim=1)
        cells = run(self.add, both.contiguous(memory_format=torch.channels_last))
        added = F.interpolate(cells, scale_factor=float(self.cell), mode="bilinear")[..., : size[0], : size[1]]
        return Tuning(added, tuple((1 + rows[:, k, 0], rows[:, k, 1]) for k in range(rows.shape[1])))
