"""The action unit branch of MPENet (3.1): a classifier, and maps that give every unit its place in the face."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = (64, 128, 256, 512)  # channels of ResNet-18
BLOCKS = 2  # in each stage
# A unit's map: 1 at its centers, less by SLOPE over the side of a square of this part of the map's width around them.
SQUARE, SLOPE = 0.14, 0.56
# Centers of a unit, on both sides of the face: the landmarks (of 68, from 0) whose mean is taken, and how far below the
# mean the center is, in distances between the inner corners of the eyes.
_LOWER_LIP, _CORNERS, _LIPS = (((58,), (56,)), 0.5), (((48,), (54,)), 0.0), (((51,), (57,)), 0.0)
_LEFT_EYE, _RIGHT_EYE = tuple(range(36, 42)), tuple(range(42, 48))
CENTERS: dict[int, tuple[tuple[tuple[int, ...], tuple[int, ...]], float]] = {
    1: (((21,), (22,)), -1 / 2),  # inner brows
    2: (((17,), (26,)), -1 / 3),  # outer brows
    4: (((19,), (24,)), 1 / 3),  # middle of the brows
    6: (((40, 41), (46, 47)), 1.0),  # lower lids
    7: ((_LEFT_EYE, _RIGHT_EYE), 0.0),
    9: (((31,), (35,)), -1 / 2),  # beside the nose
    10: (((50,), (52,)), 0.0),  # upper lip
    12: _CORNERS,
    14: _CORNERS,
    15: _CORNERS,
    17: _LOWER_LIP,
    23: _LIPS,
    24: _LIPS,
    25: _LIPS,
    26: _LOWER_LIP,
}
INNER_EYE_CORNERS = 39, 42


class _BatchNorm(nn.BatchNorm2d):
    """Batch normalization without a count of batches, which no network needs and model files do not take."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.num_batches_tracked = None


class _Block(nn.Module):
    """Two 3x3 convolutions with batch normalization and a shortcut, which is a 1x1 convolution where sizes change."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.norm1 = _BatchNorm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = _BatchNorm(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False))
            self.shortcut.append(_BatchNorm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(residual + self.shortcut(x))


class UnitClassifier(nn.Module):
    """ResNet-18 (He et al., CVPR 2016) with one output for each action unit."""

    def __init__(self, units: int) -> None:
        """`units` outputs."""
        super().__init__()
        self.enter = nn.Conv2d(3, STAGES[0], 7, stride=2, padding=3, bias=False)
        self.norm = _BatchNorm(STAGES[0])
        blocks: list[nn.Module] = []
        for stage, channels in enumerate(STAGES):
            for block in range(BLOCKS):
                halves = stage > 0 and block == 0
                blocks.append(_Block(STAGES[stage - 1] if halves else channels, channels, 2 if halves else 1))
        self.blocks = nn.Sequential(*blocks)
        self.score = nn.Linear(STAGES[-1], units)

    def forward(self, image: Tensor) -> Tensor:
        """B x 3 x H x W in 0..1 to one score per unit, B x units; its sigmoid is the unit's probability."""
        x = F.max_pool2d(F.relu(self.norm(self.enter(image))), 3, stride=2, padding=1)
        scores: Tensor = self.score(self.blocks(x).mean((2, 3)))
        return scores


def unit_maps(points: Tensor, units: tuple[int, ...], height: int, width: int) -> Tensor:
    """The attention map of each unit, B x units x h x w in 0..1, from 68 landmarks, B x 68 x 2 in pixels of the maps.

    The rules of JAA-Net (Shao et al., ECCV 2018), which the paper cites: a center on both sides of the face, and around
    each a square in which the value falls with the city-block distance; the larger one counts where both have one.
    """
    corners = points[:, INNER_EYE_CORNERS[0]], points[:, INNER_EYE_CORNERS[1]]
    distance = (corners[1] - corners[0]).square().sum(-1).sqrt()
    x = torch.arange(width, device=points.device, dtype=points.dtype) + 0.5
    y = torch.arange(height, device=points.device, dtype=points.dtype) + 0.5
    maps = []
    for unit in units:
        sides, below = CENTERS[unit]
        values = []
        for side in sides:
            center = torch.stack([points[:, number] for number in side], dim=1).mean(1)
            across = (x - center[:, :1]).abs()[:, None, :]
            down = (y - (center[:, 1] + below * distance)[:, None]).abs()[:, :, None]
            half = SQUARE * width / 2
            inside = (across <= half) & (down <= half)
            values.append((1 - (across + down) * SLOPE / (SQUARE * width)).clamp(min=0) * inside)
        maps.append(torch.maximum(*values))
    return torch.stack(maps, dim=1)
