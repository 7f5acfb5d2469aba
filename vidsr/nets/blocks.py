"""Building blocks that several networks share: residual block, ConvLSTM cell, fixed bicubic enlargement."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.1


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(in_channels, out_channels, 3, padding=1)


def start_near_zero(conv: nn.Conv2d) -> None:
    """Gives an output layer small weights and no bias, so that a residual starts as almost nothing."""
    assert conv.bias is not None
    nn.init.normal_(conv.weight, std=1e-3)
    nn.init.zeros_(conv.bias)


def run(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Applies `conv` in the precision and memory layout of its weights."""
    out: Tensor = conv(x.to(conv.weight.dtype))
    return out


def leaky_relu(x: Tensor) -> Tensor:
    """LeakyReLU in place; the slope is ours, SECNet does not give one for its first layers."""
    return F.leaky_relu(x, LEAKY_SLOPE, inplace=True)


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, plus the input (SECNet, Fig. 2 (d), without the attention branch)."""

    def __init__(self, channels: int) -> None:
        """`channels` in and out."""
        super().__init__()
        self.conv1 = conv3x3(channels, channels)
        self.conv2 = conv3x3(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """B x C x H x W to the same shape."""
        out: Tensor = x + self.conv2(F.relu(self.conv1(x), inplace=True))
        return out


class ConvLSTMCell(nn.Module):
    """ConvLSTM with 3x3 kernels (SECNet, equation (5) and the six steps below it); all gates in one convolution."""

    def __init__(self, input_channels: int, hidden_channels: int) -> None:
        """Gate order in the weights: input, forget, candidate, output."""
        super().__init__()
        self.hidden_channels = hidden_channels
        self.gates = conv3x3(input_channels + hidden_channels, 4 * hidden_channels)

    def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Input B x C x H x W, hidden state and cell B x hidden x H x W; returns the new hidden state and cell.

        The cell is kept in float32: it is summed over the whole film.
        """
        stacked = torch.cat((x, hidden.to(x.dtype)), dim=1)
        gates = run(self.gates, stacked)
        # One sigmoid over all channels, for slices of a channels-last tensor take 4 times as long; g does not need it.
        i, f, _, o = torch.sigmoid(gates).chunk(4, dim=1)
        g = gates.chunk(4, dim=1)[2]
        cell = f * cell + i * torch.tanh(g)
        return o * torch.tanh(cell), cell.float()


class BicubicPhases(nn.Module):
    """Keys' bicubic enlargement (a = -0.5) before the pixel shuffle: one output channel per phase, no learnt weight.

    The grids are centred, so a low-resolution pixel sits in the middle of its scale x scale block. Beyond the border
    the edge pixel is repeated.
    """

    kernel: Tensor

    def __init__(self, scale: int) -> None:
        """`scale`: the enlargement, a whole number; no phase is half a pixel off, so five taps reach all of them."""
        super().__init__()
        taps = torch.arange(-2, 3, dtype=torch.float64)
        phases = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
        distance = (phases[:, None] - taps[None, :]).abs()
        near = 1.5 * distance**3 - 2.5 * distance**2 + 1
        far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
        weights = torch.where(distance <= 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))
        kernel = torch.einsum("iy,jx->ijyx", weights, weights).reshape(1, scale * scale, 5, 5)
        self.register_buffer("kernel", kernel.repeat(3, 1, 1, 1).reshape(-1, 1, 5, 5).float(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """B x 3 x h x w in 0..1 to B x (3 * scale^2) x h x w float32, in the channel order of pixel_shuffle."""
        padded = F.pad(image.float(), (2, 2, 2, 2), mode="replicate")
        with torch.autocast(image.device.type, enabled=False):
            return F.conv2d(padded, self.kernel.float(), groups=3)
