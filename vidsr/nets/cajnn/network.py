"""CAJNN: joint compression artifact reduction and super-resolution of single images (Xiang, dissertation, chapter 4).

Where the text is silent, this is what was chosen:

- The bilinear enlargement of (4.5) has centered grids, as the reduction has; edge pixels are repeated.
- The first convolution and the context module have no activation, because equation (4.2) prints none.
- The dense blocks are those of their source, ESRGAN: five 3x3 convolutions, 32 channels added by each of the first
  four, leaky ReLU with slope 0.2, residuals multiplied by 0.2 both inside and outside.
- There is no skip connection around the trunk: each block passes its input on.
- Sizes of the upsampler: see `Upsampler`. Initial weights: see `DenseBlock` and `Upsampler`.

No code of the authors is known, and none was read.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.base import Network
from vidsr.nets.cajnn.config import CAJNNConfig
from vidsr.nets.layers.blocks import active3x3, conv3x3, start_near_zero

SLOPE = 0.2
RESIDUAL_SCALE = 0.2
LAYERS = 4  # layers of a dense block before the one that returns to its width
DENSE_BLOCKS = 3  # dense blocks in a residual-in-residual dense block
INITIAL_SCALE = 0.1


class ContextModule(nn.Module):
    """Atrous spatial pyramid pooling, equation (4.2): dilated convolutions side by side, joined by a 1x1 convolution.

    With dilations of 1, 3 and 4 the largest field of view, 9x9, covers a JPEG block wherever it lies.
    """

    def __init__(self, width: int, dilations: tuple[int, ...]) -> None:
        """`width` channels in and out, also of each dilated convolution."""
        super().__init__()
        self.pyramid = nn.ModuleList(nn.Conv2d(width, width, 3, padding=rate, dilation=rate) for rate in dilations)
        self.join = nn.Conv2d(width * len(dilations), width, 1)

    def forward(self, feature: Tensor) -> Tensor:
        """f^L to f^L', both B x width x h x w; (4.2) calls both f^L'."""
        joined: Tensor = self.join(torch.cat([conv(feature) for conv in self.pyramid], dim=1))
        return joined


class DenseBlock(nn.Module):
    """Four layers, each of which sees all features before it, and one that returns to the width of the input.

    Initial weights (ours): a tenth of He's, as is usual for this block, so that a deep trunk starts near the identity.
    """

    def __init__(self, width: int, growth: int) -> None:
        """`width` channels in and out; each layer adds `growth`."""
        super().__init__()
        self.layers = nn.ModuleList(active3x3(width + k * growth, growth, slope=SLOPE) for k in range(LAYERS))
        self.last = conv3x3(width + LAYERS * growth, width)
        for conv in (*self.layers, self.last):
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.kaiming_normal_(conv.weight)
            conv.weight.data.mul_(INITIAL_SCALE)
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        """B x width x h x w to the same shape."""
        features = x
        for layer in self.layers:
            features = torch.cat((features, layer(features)), dim=1)
        return torch.add(x, self.last(features), alpha=RESIDUAL_SCALE)


class ResidualDenseBlock(nn.Module):
    """The residual-in-residual dense block ("RRDB") of the reconstruction module (4.3.1): three dense blocks."""

    def __init__(self, width: int, growth: int) -> None:
        """As `DenseBlock`."""
        super().__init__()
        self.dense = nn.Sequential(*(DenseBlock(width, growth) for _ in range(DENSE_BLOCKS)))

    def forward(self, x: Tensor) -> Tensor:
        """B x width x h x w to the same shape."""
        return torch.add(x, self.dense(x), alpha=RESIDUAL_SCALE)


class Upsampler(nn.Module):
    """Upsampling and enhancement (4.3.1): convolution, pixel shuffle, then two 3x3 convolutions at the output's size.

    Equation (4.3) shuffles straight to three channels, which makes 14.5 million parameters; the table prints 14.8. A
    `hidden` above 0 (ours, from this count) keeps as many channels at the output's size: one convolution and one
    shuffle for each doubling, then `hidden` to `hidden` and `hidden` to 3, with leaky ReLU between them. A `hidden` of
    0 is (4.3) to the letter; between its convolutions of three channels there is no activation, as none is printed.

    Initial weights (ours): the result is close to 0, so that training starts at the bilinear enlargement.
    """

    def __init__(self, width: int, hidden: int, scale: int) -> None:
        """`width` channels in, 3 out at `scale` times the size; `scale` is a power of 2."""
        super().__init__()
        self.factor, self.slope = (2, SLOPE) if hidden else (scale, 1.0)
        if hidden:
            doublings = scale.bit_length() - 1
            self.shuffled = nn.ModuleList(conv3x3(hidden if k else width, 4 * hidden) for k in range(doublings))
            self.enhance = nn.ModuleList((conv3x3(hidden, hidden), conv3x3(hidden, 3)))
            start_near_zero(self._last())
            return
        first = conv3x3(width, 3 * scale**2)
        start_near_zero(first)
        self.shuffled = nn.ModuleList([first])
        self.enhance = nn.ModuleList((conv3x3(3, 3), conv3x3(3, 3)))
        for conv in self.enhance:
            assert isinstance(conv, nn.Conv2d) and conv.bias is not None
            nn.init.dirac_(conv.weight)
            nn.init.zeros_(conv.bias)

    def _last(self) -> nn.Conv2d:
        last = self.enhance[1]
        assert isinstance(last, nn.Conv2d)
        return last

    def _activate(self, x: Tensor) -> Tensor:
        return x if self.slope == 1.0 else F.leaky_relu(x, self.slope, inplace=True)

    def forward(self, feature: Tensor) -> Tensor:
        """B x width x h x w to B x 3 x H x W."""
        for conv in self.shuffled:
            feature = self._activate(F.pixel_shuffle(conv(feature), self.factor))
        result: Tensor = self.enhance[1](self._activate(self.enhance[0](feature)))
        return result


class CAJNN(Network):
    """The complete network: images B x 3 x h x w in 0..1 to B x 3 x H x W float32, not clamped."""

    def __init__(self, config: CAJNNConfig) -> None:
        """Builds the network of `config`."""
        super().__init__()
        self.config: CAJNNConfig = config
        self.first = conv3x3(3, config.width)
        self.context = ContextModule(config.width, config.dilations)
        self.trunk = nn.Sequential(*(ResidualDenseBlock(config.width, config.growth) for _ in range(config.blocks)))
        self.upsampler = Upsampler(config.width, config.upsampler_width, config.scale)

    def forward(self, image: Tensor) -> Tensor:
        """The enlarged image, with `self_ensemble` the mean over its eight flips and rotations."""
        if not self.config.self_ensemble:
            return self.enlarge(image)
        total = None
        for axes, is_transposed in _symmetries():
            view = image.flip(axes) if axes else image
            result = self.enlarge(view.transpose(-2, -1).contiguous() if is_transposed else view)
            result = result.transpose(-2, -1) if is_transposed else result
            result = result.flip(axes) if axes else result
            total = result if total is None else total + result
        assert total is not None
        return total / 8

    def enlarge(self, image: Tensor) -> Tensor:
        """One pass of the network, equations (4.2), (4.3) and (4.5)."""
        residual: Tensor = self.upsampler(self.trunk(self.context(self.first(image))))
        image = image if image.dtype == torch.float64 else image.float()
        enlarged = F.interpolate(image, scale_factor=self.config.scale, mode="bilinear", align_corners=False)
        return enlarged + residual.to(enlarged.dtype)


def _symmetries() -> Iterator[tuple[tuple[int, ...], bool]]:
    """The axes to flip, and whether to transpose afterwards: together the eight symmetries of a square."""
    for axes in ((), (-1,), (-2,), (-2, -1)):
        for is_transposed in (False, True):
            yield axes, is_transposed
