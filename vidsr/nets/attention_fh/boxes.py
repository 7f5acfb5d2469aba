"""The boxes of Attention-FH: what an action means in pixels, and sequences of boxes without a policy to compare with.

An action is three numbers, B x 3 int64: the place of the center (row by row on the grid), the ratio and the height.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vidsr.nets.attention_fh.config import RATIOS, AttentionFHConfig

PLACE, RATIO, HEIGHT = range(3)  # columns of an action


def choices(config: AttentionFHConfig) -> tuple[int, int, int]:
    """How many candidates each part of an action has."""
    return config.grid**2, len(RATIOS), len(config.heights)


def rectangles(actions: Tensor, config: AttentionFHConfig) -> Tensor:
    """B x 3 actions as B x 4 rectangles (left, top, right, bottom) in 0..1 of the image, clipped to it. Equation (5).

    S_h and S_w, which equation (5) keeps apart, are one scale here.
    """
    rows, columns = actions[:, PLACE] // config.grid, actions[:, PLACE] % config.grid
    x, y = (columns + 0.5) / config.grid, (rows + 0.5) / config.grid
    heights = torch.tensor(config.heights, dtype=x.dtype, device=actions.device)[actions[:, HEIGHT]] / config.side
    widths = heights / torch.tensor(RATIOS, dtype=x.dtype, device=actions.device)[actions[:, RATIO]]
    corners = torch.stack((x - widths / 2, y - heights / 2, x + widths / 2, y + heights / 2), dim=1)
    return corners.clamp(0, 1)


def masks(boxes: Tensor, height: int, width: int, fade: float = 0) -> Tensor:
    """B x 4 rectangles (as `rectangles` gives them) as masks, B x 1 x height x width in 0..1.

    A pixel whose center lies inside has 1. With `fade` in pixels the mask falls to 0 over that distance inside every
    edge but those of the image, where there is nothing to blend with.
    """
    left, top, right, bottom = (boxes[:, k, None] for k in range(4))
    across = _profile(left * width, right * width, width, fade)
    down = _profile(top * height, bottom * height, height, fade)
    return down[:, None, :, None] * across[:, None, None, :]


def _profile(start: Tensor, end: Tensor, size: int, fade: float) -> Tensor:
    """The mask along one axis, B x size, of intervals B x 1 in pixels."""
    centers = torch.arange(size, device=start.device, dtype=start.dtype) + 0.5
    if fade == 0:
        return ((centers >= start) & (centers < end)).to(start.dtype)
    rising = torch.where(start <= 0, torch.ones_like(centers), (centers - start) / fade)
    falling = torch.where(end >= size, torch.ones_like(centers), (end - centers) / fade)
    return torch.minimum(rising, falling).clamp(0, 1)


def random_actions(
    count: int, config: AttentionFHConfig, generator: torch.Generator | None = None, device: torch.device | None = None
) -> Tensor:
    """`count` actions, each part uniformly drawn: the "random boxes" of the ablation."""
    drawn = [torch.randint(most, (count,), generator=generator, device=device) for most in choices(config)]
    return torch.stack(drawn, dim=1)


def sequential_actions(count: int, step: int, config: AttentionFHConfig) -> Tensor:
    """The `step`-th of `config.steps` boxes in reading order: the "boxes in sequence" of the ablation.

    Squares of the largest height, on a lattice of rows and columns that has room for all steps.
    """
    rows = max(1, round(math.sqrt(config.steps)))
    columns = math.ceil(config.steps / rows)
    row, column = divmod(step % config.steps, columns)
    y = int((row + 0.5) / rows * config.grid)
    x = int((column + 0.5) / columns * config.grid)
    square = RATIOS.index(1.0)
    largest = max(range(len(config.heights)), key=config.heights.__getitem__)
    return torch.tensor([[y * config.grid + x, square, largest]]).expand(count, 3)
