"""A small face detector with YuNet's interface: a convolutional pyramid and, for each of three strides, a head.

In the spirit of YuNet (Wu, Peng and Yu, "YuNet: A Tiny Millisecond-level Face Detector", 2023): strides 8, 16 and 32,
a top-down pyramid (its section 3.2), depthwise separable convolutions, one prediction for each cell, no anchors. Ours:
dense convolutions where the picture is halved, residual blocks between, and one branch for the scores and one for the
places. Each costs less than it gains: 640x360 takes ONNX Runtime less time than the published file.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.base import Network

STRIDES = (8, 16, 32)
POINTS = 5
# The columns of a head, in this order; YuNet's outputs are each of them apart.
COLUMNS = {"cls": 1, "obj": 1, "bbox": 4, "kps": 2 * POINTS}
_SCORES = 2
# As focal loss wants it: at first hardly anything is a face.
_FIRST_SCORE = -4.0


@dataclass(frozen=True, slots=True)
class FacePyramidConfig:
    """Channels and residual blocks after each halving, five of them; channels of the pyramid."""

    widths: tuple[int, ...] = (16, 24, 64, 64, 64)
    blocks: tuple[int, ...] = (0, 1, 2, 2, 2)
    pyramid: int = 48

    def __post_init__(self) -> None:
        if len(self.widths) != 5 or len(self.blocks) != 5:
            raise ValueError("strides 8, 16 and 32 need five halvings: five widths, five numbers of blocks")
        if min(self.widths) < 1 or min(self.blocks) < 0 or self.pyramid < 1:
            raise ValueError("a width is at least 1, a number of blocks at least 0")


class FacePyramid(Network):
    """Pictures to raw predictions; sigmoid and layout are `FacePyramidGraph`'s."""

    def __init__(self, config: FacePyramidConfig) -> None:
        super().__init__()
        self.config: FacePyramidConfig = config
        stages = [
            nn.Sequential(_conv(before, width, 3, stride=2), *(_Residual(width) for _ in range(blocks)))
            for before, width, blocks in zip((3, *config.widths), config.widths, config.blocks, strict=False)
        ]
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(_conv(width, config.pyramid, 1) for width in config.widths[2:])
        self.heads = nn.ModuleList(_Head(config.pyramid) for _ in STRIDES)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """For each stride s the heads' columns, B x 16 x H/s x W/s, scores as logits.

        `pictures`: B x 3 x H x W, BGR in 0..1, sides multiples of 32.
        """
        features = []
        x = pictures
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index >= 2:
                features.append(x)
        levels = [lateral(feature) for lateral, feature in zip(self.laterals, features, strict=True)]
        for fine, coarse in pairwise(reversed(range(len(levels)))):
            levels[coarse] = levels[coarse] + F.interpolate(levels[fine], scale_factor=2.0, mode="nearest")
        return [head(level) for head, level in zip(self.heads, levels, strict=True)]

    @torch.no_grad()
    def shift_scores(self, shift: float) -> None:
        """Adds to the logits of all scores, so that another threshold becomes the usual one."""
        for head in self.heads:
            bias = head.get_parameter("scores.1.bias")
            bias.add_(shift)


class FacePyramidGraph(nn.Module):
    """What the exported file computes: YuNet's twelve outputs for one picture, BGR in 0..255 (vidsr/faces/yunet.py).

    Has a copy of the network, in float32 and evaluation mode.
    """

    def __init__(self, network: FacePyramid) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).float().eval().requires_grad_(False)
        first = self.network.stages[0].get_submodule("0.0")
        assert isinstance(first, nn.Conv2d)
        first.weight.div_(255)  # dividing each picture would take a tenth of the time

    @staticmethod
    def outputs() -> list[str]:
        """The names of the outputs in the order of `forward`."""
        return [f"{kind}_{stride}" for stride in STRIDES for kind in COLUMNS]

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Each 1 x cells x columns; a cell's row is counted row by row of the picture."""
        results: list[Tensor] = []
        for raw in self.network(picture):
            rows = raw.permute(0, 2, 3, 1).reshape(1, -1, sum(COLUMNS.values()))
            scores, box, points = rows.split((_SCORES, COLUMNS["bbox"], COLUMNS["kps"]), dim=2)
            results += [*scores.sigmoid().split(1, dim=2), box, points]
        return results


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = _separable(width)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.body(x)
        return result


class _Head(nn.Module):
    """A branch for the two scores and one for box and points: what they look for differs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scores = nn.Sequential(_separable(width), nn.Conv2d(width, _SCORES, 1))
        self.places = nn.Sequential(_separable(width), nn.Conv2d(width, sum(COLUMNS.values()) - _SCORES, 1))
        nn.init.constant_(self.scores[-1].bias, _FIRST_SCORE)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.scores(x), self.places(x)], dim=1)


def _separable(width: int) -> nn.Sequential:
    return nn.Sequential(*_conv(width, width, 3, groups=width), *_conv(width, width, 1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
