"""The alignment branch of MPENet (3.1): heatmaps of landmarks from an enlarged face, and what is made of heatmaps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.blocks import conv3x3

REDUCTION = 4  # heatmaps have a quarter of the sides of the enlarged image
RESIDUAL_BLOCKS = 3


class Bottleneck(nn.Module):
    """A residual block of three convolutions (1x1, 3x3, 1x1), with half of the channels inside, as in hourglasses."""

    def __init__(self, width: int) -> None:
        """`width` channels in and out."""
        super().__init__()
        inner = width // 2
        self.narrow, self.middle = nn.Conv2d(width, inner, 1), conv3x3(inner, inner)
        self.widen = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """B x width x h x w to the same shape."""
        residual: Tensor = self.widen(F.relu(self.middle(F.relu(self.narrow(x)))))
        return x + residual


class Hourglass(nn.Module):
    """Newell et al., "Stacked hourglass networks" (ECCV 2016): halves the size `depth` times and adds what it left.

    At every size one block is kept aside while the next smaller size is computed between two more.
    """

    def __init__(self, width: int, depth: int) -> None:
        """`width` channels everywhere; a depth of 0 is one block."""
        super().__init__()
        self.aside = nn.ModuleList(Bottleneck(width) for _ in range(depth))
        self.down = nn.ModuleList(Bottleneck(width) for _ in range(depth))
        self.up = nn.ModuleList(Bottleneck(width) for _ in range(depth))
        self.smallest = Bottleneck(width)

    def forward(self, x: Tensor) -> Tensor:
        """B x width x h x w, sides multiples of 2^depth, to the same shape."""
        kept = []
        for aside, down in zip(self.aside, self.down, strict=True):
            kept.append(aside(x))
            x = down(F.max_pool2d(x, 2))
        x = self.smallest(x)
        for up, other in zip(reversed(self.up), reversed(kept), strict=True):
            x = F.interpolate(up(x), scale_factor=2.0, mode="nearest") + other
        return x


class AlignmentBranch(nn.Module):
    """A 3x3 convolution, three residual blocks and stacked hourglasses. Heatmaps have a quarter of the image's sides.

    The paper gives neither widths nor sizes. Heatmaps of this size fit the features into which they are embedded; the
    convolution halves the image, and the mean of 2x2 halves it again after the first block. Every hourglass makes
    heatmaps, which the next one sees. There is no normalization, because batches are small.
    """

    def __init__(self, points: int, width: int, hourglasses: int, depth: int) -> None:
        """`points` heatmaps; `width` channels; `hourglasses` that halve the size `depth` times."""
        super().__init__()
        self.enter = conv3x3(3, width, stride=2)
        self.blocks = nn.ModuleList(Bottleneck(width) for _ in range(RESIDUAL_BLOCKS))
        self.hourglasses = nn.ModuleList(Hourglass(width, depth) for _ in range(hourglasses))
        self.features = nn.ModuleList(nn.Conv2d(width, width, 1) for _ in range(hourglasses))
        self.heads = nn.ModuleList(nn.Conv2d(width, points, 1) for _ in range(hourglasses))
        self.back = nn.ModuleList(nn.Conv2d(width + points, width, 1) for _ in range(hourglasses - 1))

    def forward(self, image: Tensor) -> Tensor:
        """B x 3 x H x W in 0..1 to heatmaps B x points x H/4 x W/4; one whose maximum is 1 is expected at a point."""
        x = self.blocks[0](F.relu(self.enter(image)))
        x = F.avg_pool2d(x, 2)
        for block in self.blocks[1:]:
            x = block(x)
        heatmaps: Tensor | None = None
        for number, hourglass in enumerate(self.hourglasses):
            feature = F.relu(self.features[number](hourglass(x)))
            heatmaps = self.heads[number](feature)
            if number < len(self.back):
                x = x + self.back[number](torch.cat((feature, heatmaps), dim=1))
        assert heatmaps is not None
        return heatmaps


def draw_heatmaps(points: Tensor, height: int, width: int, sigma: float = 1.0) -> Tensor:
    """The true heatmaps of (5), ... x P x h x w, of points ... x P x 2 (x, y) in pixels of the enlarged image.

    A Gaussian with a maximum of 1 and a standard deviation of `sigma` heatmap pixels (ours; the paper gives none).
    """
    x = (torch.arange(width, device=points.device, dtype=points.dtype) + 0.5) * REDUCTION
    y = (torch.arange(height, device=points.device, dtype=points.dtype) + 0.5) * REDUCTION
    across = (x - points[..., :1]).square()[..., None, :]
    down = (y - points[..., 1:]).square()[..., :, None]
    return torch.exp(-(across + down) / (2 * (sigma * REDUCTION) ** 2))


def read_heatmaps(heatmaps: Tensor) -> Tensor:
    """The pixels where heatmaps B x P x h x w are largest, as points B x P x 2 (x, y) in heatmap pixels."""
    width = heatmaps.shape[-1]
    place = heatmaps.flatten(2).argmax(-1)
    rows = torch.div(place, width, rounding_mode="floor")
    return torch.stack((place - rows * width, rows), dim=-1).to(heatmaps.dtype) + 0.5
