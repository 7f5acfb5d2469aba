"""Building blocks shared by several networks: residual block, ConvLSTM cell, fixed bicubic enlargement."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.fused_conv import ActivatedConv2d, SummedConv2d, convolve_and_add
from vidsr.nets.layers.keys import keys_weights

LEAKY_SLOPE = 0.1
ATTENTION_REDUCTION = 4
BAND_VALUES = 1 << 20  # number of gate values of a ConvLSTM computed at a time


def conv3x3(in_channels: int, out_channels: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size or divides it by `stride`."""
    return nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)


def active3x3(in_channels: int, out_channels: int, stride: int = 1, slope: float = LEAKY_SLOPE) -> ActivatedConv2d:
    """`conv3x3` followed by a leaky ReLU; 0 is ReLU. The default slope is ours, SECNet gives none."""
    return ActivatedConv2d(in_channels, out_channels, 3, stride, padding=1, slope=slope)


def start_near_zero(conv: nn.Conv2d) -> None:
    """Initializes an output layer with small weights and zero bias, so that its residual is close to 0 at first."""
    assert conv.bias is not None
    nn.init.normal_(conv.weight, std=1e-3)
    nn.init.zeros_(conv.bias)


def run(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Applies `conv` in the precision and memory layout of its weights."""
    dtype = conv.weight.dtype
    out: Tensor = conv(x if x.dtype == dtype else x.to(dtype))
    return out


def leaky_relu(x: Tensor) -> Tensor:
    """LeakyReLU in place."""
    return F.leaky_relu(x, LEAKY_SLOPE, inplace=True)


def tanh(x: Tensor) -> Tensor:
    """The hyperbolic tangent of a float32 tensor, computed from the sigmoid, exact to 1e-7.

    torch.tanh takes nearly four times as long on a CPU.
    """
    return (torch.sigmoid(2 * x) * 2).sub_(1)


def update_cell(gates: Tensor, cell: Tensor | None, candidate: int) -> tuple[Tensor, Tensor]:
    """A ConvLSTM's new hidden state and cell, both B x C x H x W float32, from its gates B x 4 C x H x W.

    The quarter `candidate` (2 or 3) of the gates is the candidate; the others are input, forget and output gate in this
    order. `cell` None means 0.
    """
    batch, channels, height, width = gates.shape
    # Bands that fit the cache of a CPU, together with one sigmoid for all gates, take less than half of the time.
    rows = max(1, BAND_VALUES // (batch * channels * width)) if gates.device.type == "cpu" else height
    if rows >= height:
        return _update_band(gates, cell, candidate)
    gate_bands = torch.split(gates, rows, dim=2)
    cell_bands = [None] * len(gate_bands) if cell is None else torch.split(cell, rows, dim=2)
    bands = zip(gate_bands, cell_bands, strict=True)
    if torch.is_grad_enabled() or torch.onnx.is_in_onnx_export():  # neither supports writing into a slice
        done = [_update_band(*band, candidate) for band in bands]
        return torch.cat([hidden for hidden, _ in done], dim=2), torch.cat([new for _, new in done], dim=2)
    hidden, new = (torch.empty_like(gates[:, : channels // 4], dtype=torch.float32) for _ in range(2))
    outs = zip(torch.split(hidden, rows, dim=2), torch.split(new, rows, dim=2), strict=True)
    for band, out in zip(bands, outs, strict=True):
        _update_band(*band, candidate, *out)
    return hidden, new


def _update_band(
    gates: Tensor, cell: Tensor | None, candidate: int, hidden: Tensor | None = None, new: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """As `update_cell`; the results are written to `hidden` and `new` if these are not None."""
    # The sigmoid is applied to all four quarters: three slices of a channels-last tensor take longer. Separating the
    # quarters first takes longer too: 12.4 instead of 7.0 ms for 4 x 32 channels of 320x180 in bf16.
    gates = gates.float()
    opened = torch.sigmoid(gates).chunk(4, dim=1)
    new = torch.mul(opened[0], tanh(gates.chunk(4, dim=1)[candidate]), out=new)
    if cell is not None:
        new += opened[1] * cell.float()  # addcmul takes three times as long over slices
    return torch.mul(opened[5 - candidate], tanh(new), out=hidden), new


class SpatialAttention(nn.Module):
    """Self-learned spatial attention (SECNet, II-C4): two convolutions and one ReLU make a map of pixel weights.

    The paper does not give kernels, widths and the last function. Ours: 1x1 to a quarter of the channels, 3x3 to one,
    sigmoid. Its initial weights are close to 1, so that a network trained without attention can be trained on with it.
    """

    def __init__(self, channels: int) -> None:
        """`channels`: number of channels of the weighted feature."""
        super().__init__()
        hidden = max(1, channels // ATTENTION_REDUCTION)
        self.squeeze = ActivatedConv2d(channels, hidden, 1)
        self.excite = conv3x3(hidden, 1)
        start_near_zero(self.excite)
        assert self.excite.bias is not None
        nn.init.constant_(self.excite.bias, 3.0)

    def forward(self, x: Tensor) -> Tensor:
        """B x C x H x W to the map B x 1 x H x W in 0..1."""
        return torch.sigmoid(self.excite(self.squeeze(x)))


class ResidualBlock(nn.Module):
    """Convolution, ReLU, convolution, plus the input (SECNet, Fig. 2 (d)); with or without the attention branch."""

    def __init__(self, channels: int, attention: bool = False) -> None:
        """`channels` in and out; with `attention` the residual is weighted before it is added."""
        super().__init__()
        self.conv1 = active3x3(channels, channels, slope=0.0)
        self.conv2 = SummedConv2d(channels, channels, 3)
        self.attention = SpatialAttention(channels) if attention else None

    def forward(self, x: Tensor, tuned: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """B x C x H x W to the same shape.

        `tuned`: scale of the inner channels and shift added to them before the ReLU, both B x C.
        """
        if tuned is not None:
            return self._tuned(x, *tuned)
        inner = self.conv1(x)
        if self.attention is None:
            result: Tensor = self.conv2(inner, x)
        else:
            residual = self.conv2(inner)
            result = (residual * self.attention(residual)).add_(x)
        return result

    def _tuned(self, x: Tensor, factor: Tensor, shift: Tensor) -> Tensor:
        assert self.conv1.bias is not None
        factor, shift = factor.to(x.dtype), shift.to(x.dtype)
        if x.shape[0] == 1 and not torch.is_grad_enabled():  # then the weights can be modulated instead of the pixels
            inner = self.conv1.with_bias(x, self.conv1.bias + shift[0])
            weight = self.conv2.weight * factor[0, None, :, None, None]
        else:
            inner = F.conv2d(x, self.conv1.weight, self.conv1.bias, padding=1)
            inner = F.relu(inner + shift[..., None, None]) * factor[..., None, None]
            weight = self.conv2.weight
        if self.attention is None:
            return convolve_and_add(inner, weight, self.conv2.bias, x)
        residual = F.conv2d(inner, weight, self.conv2.bias, padding=1)
        weighted: Tensor = residual * self.attention(residual)
        return weighted.add_(x)


def run_blocks(blocks: nn.Sequential, x: Tensor, tuned: Sequence[tuple[Tensor, Tensor]] | None = None) -> Tensor:
    """Runs a sequence of residual blocks, each with its entry of `tuned` if that is not None."""
    if tuned is None:
        out: Tensor = blocks(x)
        return out
    for block, each in zip(blocks, tuned, strict=True):
        x = block(x, each)
    return x


class ConvLSTMCell(nn.Module):
    """ConvLSTM with 3x3 kernels (SECNet, equation (5) and the six steps below it); all gates in one convolution."""

    def __init__(self, input_channels: int, hidden_channels: int) -> None:
        """Gate order in the weights: input, forget, candidate, output; input channels before hidden ones."""
        super().__init__()
        self.hidden_channels = hidden_channels
        self.gates = conv3x3(input_channels + hidden_channels, 4 * hidden_channels)

    def project(self, x: Tensor, first: int, bias: bool) -> Tensor:
        """The contribution to the gates of the channels of [input, hidden state] from `first` on: B x 4 hidden x H x W.

        The gates are a sum over channels, so contributions that do not change are computed only once.
        """
        weight = self.gates.weight[:, first : first + x.shape[1]]
        return F.conv2d(x.to(weight.dtype), weight, self.gates.bias if bias else None, padding=1)

    @staticmethod
    def step(gates: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor]:
        """Steps 1 to 6 from the summed gates; `cell` None means 0. Returns the new hidden state and cell.

        The cell is kept in float32 because it accumulates over the whole video.
        """
        return update_cell(gates, cell, candidate=2)


def space_to_depth(image: Tensor, scale: int) -> Tensor:
    """`pixel_unshuffle` with a channels-last result, the fastest layout for convolutions."""
    batch, channels, height, width = image.shape
    height, width = height // scale, width // scale
    # In two steps, whole rows first: half of the time of a single step with strides across the whole image.
    rows = image.reshape(batch, channels, height, scale, width, scale).transpose(1, 2)
    rows = rows.reshape(batch * height, channels * scale, width, scale).transpose(1, 2)
    return rows.reshape(batch, height, width, channels * scale**2).permute(0, 3, 1, 2)


def depth_to_space(folded: Tensor, scale: int) -> Tensor:
    """`pixel_shuffle` with a contiguous (planar) result for any layout of `folded`, as warping needs it."""
    batch, channels, height, width = folded.shape
    phases = folded.reshape(batch, channels // scale**2, scale, scale, height, width).permute(0, 1, 4, 2, 5, 3)
    return phases.reshape(batch, channels // scale**2, height * scale, width * scale)


def fill_squares(image: Tensor, side: int) -> Tensor:
    """Repeats edge pixels at the right and at the bottom, so that squares of `side` pixels cover the image."""
    if side == 1:
        return image
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % side, 0, -height % side), mode="replicate")


class BicubicPhases(nn.Module):
    """Keys' bicubic enlargement (a = -0.5) before the pixel shuffle: one output channel per phase, no learned weights.

    The grids are centered: a low-resolution pixel is in the middle of its scale x scale block. Edge pixels are repeated
    beyond the border.
    """

    kernel: Tensor

    def __init__(self, scale: int, unshuffle: int = 1) -> None:
        """`scale`: an integer; offsets of phases are less than half a pixel, so five taps are enough for all.

        With `unshuffle` above 1 the result is folded further, to 1/`unshuffle` of the size of the image.
        """
        super().__init__()
        self.scale, self.unshuffle = scale, unshuffle
        taps = torch.arange(-2, 3, dtype=torch.float64)
        phases = (torch.arange(scale, dtype=torch.float64) + 0.5) / scale - 0.5
        distance = (phases[:, None] - taps[None, :]).abs()
        weights = keys_weights(distance)
        kernel = torch.einsum("iy,jx->ijyx", weights, weights).reshape(1, scale * scale, 5, 5)
        self.register_buffer("kernel", kernel.repeat(3, 1, 1, 1).reshape(-1, 1, 5, 5).float(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """B x 3 x h x w in 0..1 to B x (3 * scale^2) x h x w in pixel_shuffle's channel order, at least float32.

        With U = `unshuffle`: B x (3 * scale^2 * U^2) x h/U x w/U, rounded up, of the image padded by `fill_squares`.
        """
        image = _at_least_float32(fill_squares(image, self.unshuffle))
        padded = F.pad(image, (2, 2, 2, 2), mode="replicate").contiguous(memory_format=torch.channels_last)
        with torch.autocast(image.device.type, enabled=False):
            phases = F.conv2d(padded, self.kernel.to(image.dtype), groups=3)
        if self.unshuffle == 1:
            return phases
        return space_to_depth(depth_to_space(phases, self.scale), self.scale * self.unshuffle)


class BicubicReduction(nn.Module):
    """MATLAB's antialiased bicubic reduction (Keys, a = -0.5, widened by the scale), no learned weights.

    The grids are centered, as in `BicubicPhases`. Edge pixels are repeated beyond the border, unlike in `resize`; an
    exported graph takes any size.
    """

    taps: Tensor

    def __init__(self, scale: int) -> None:
        """`scale`: an even integer."""
        super().__init__()
        distance = (torch.arange(4 * scale, dtype=torch.float64) - (2 * scale - 0.5)).abs() / scale
        weights = keys_weights(distance)
        self.scale = scale
        self.register_buffer("taps", (weights / weights.sum()).float(), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """B x C x H x W, sides multiples of `scale`, to B x C x h x w, at least float32."""
        image, scale = _at_least_float32(image), self.scale
        pad = 3 * scale // 2
        planes = F.pad(image, (pad, pad, pad, pad), mode="replicate").flatten(0, 1)[:, None]
        with torch.autocast(image.device.type, enabled=False):
            taps = self.taps.to(image.dtype)
            planes = F.conv2d(planes, taps[None, None, :, None], stride=(scale, 1))
            planes = F.conv2d(planes, taps[None, None, None, :], stride=(1, scale))
        return planes.view(*image.shape[:2], *planes.shape[-2:])


def _at_least_float32(image: Tensor) -> Tensor:
    return image if image.dtype == torch.float64 else image.float()
