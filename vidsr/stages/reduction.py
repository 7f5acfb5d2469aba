"""Small copies of images for detectors, which only compare frames."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d


def reduce_image(image: Tensor, longest: int) -> Tensor:
    """An image C x H x W reduced by area averaging to at most `longest` pixels on its long side; never enlarged."""
    height, width = image.shape[-2:]
    factor = max(1.0, max(height, width) / longest)
    return adaptive_avg_pool2d(image, (max(1, round(height / factor)), max(1, round(width / factor))))
