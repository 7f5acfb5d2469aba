"""SECNet's two fusion modules: of neighboring frames (section II-B) and with past results and features (II-C)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.blocks import LEAKY_SLOPE, ResidualBlock, active3x3, conv3x3, run, run_blocks, start_near_zero
from vidsr.nets.layers.conditioning import Tuning
from vidsr.nets.secnet.feature_encoding import Memory, Strategy, build_encoding


class LocalFusion(nn.Module):
    """Fuses the aligned frames of the temporal window to the first result, a residual to the bicubic enlargement.

    Section II-B is missing, so the layers are ours: one convolution, residual blocks, pixel shuffle.
    """

    def __init__(
        self, frames: int, width: int, blocks: int, tail: int, scale: int, attention: bool, unshuffle: int = 1
    ) -> None:
        """`frames`: length of the window; `tail`: channels at high resolution before the last convolution.

        With `tail` 0 (narrow networks) the last convolution outputs the folded residual at low resolution. `scale` is
        that from the features to the result; the frames have `unshuffle`^2 pixels as channels in each pixel.
        """
        super().__init__()
        self.scale = scale
        self.head = active3x3(3 * frames * unshuffle**2, width)
        self.body = nn.Sequential(*(ResidualBlock(width, attention) for _ in range(blocks)))
        self.join = conv3x3(width, width) if tail else None
        self.up = active3x3(width, tail * scale**2) if tail else None
        self.out = conv3x3(tail, 3) if tail else conv3x3(width, 3 * scale**2)
        start_near_zero(self.out)  # training starts at the bicubic enlargement

    def forward(self, window: Tensor, tuning: Tuning | None = None) -> Tensor:
        """From the aligned frames B x (3 * frames * U^2) x h x w in 0..1, oldest first, to the folded residual."""
        x = run(self.head, window - 0.5)
        if tuning is not None:
            return run(self.out, run_blocks(self.body, x + tuning.added, tuning.blocks))
        if self.join is None or self.up is None:
            return run(self.out, self.body(x))
        x = x + self.join(self.body(x))
        return F.pixel_unshuffle(run(self.out, F.pixel_shuffle(self.up(x), self.scale)), self.scale)


class DetailEncoder(nn.Module):
    """One of the encoder's first two scales: convolution (which may halve the size), ReLU, residual block."""

    def __init__(self, in_channels: int, channels: int, stride: int, attention: bool) -> None:
        """`stride` 1 for the first scale, 2 for the second."""
        super().__init__()
        self.enter = active3x3(in_channels, channels, stride, slope=0.0)
        self.block = ResidualBlock(channels, attention)

    def forward(self, x: Tensor) -> Tensor:
        """The feature of this scale, which is also its skip connection."""
        out: Tensor = self.block(run(self.enter, x))
        return out


class DetailDecoder(nn.Module):
    """Counterpart of `DetailEncoder`: doubles the size, joins the skip connection, residual block."""

    def __init__(self, in_channels: int, channels: int, attention: bool) -> None:
        """`in_channels` of the coarser scale; `channels` of the skip connection and of the output."""
        super().__init__()
        self.up = active3x3(in_channels, 4 * channels, slope=0.0)
        self.join = active3x3(2 * channels, channels, slope=0.0)
        self.block = ResidualBlock(channels, attention)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Joins the coarser feature `x` and the encoder's feature `skip` of twice its size."""
        doubled = F.pixel_shuffle(self.up(x), 2)
        out: Tensor = self.block(self.join(torch.cat((doubled, skip), dim=1)))
        return out


class Encoded(NamedTuple):
    """A frame between encoder and decoder: E_3, E_3 enhanced (both B x width x h x w), and the skips E_1, E_2."""

    feature: Tensor
    enhanced: Tensor
    skips: tuple[Tensor, ...]


class RecurrentFusion(nn.Module):
    """Refines the first result with past results and past features: encoder, sequential encoding, decoder.

    With `detail_widths` it is the paper's: three scales from full size down to a quarter, skip connections from the
    first two, extra residual blocks and the encoding at the third. Without (ours, for narrow networks), images are
    folded by space-to-depth and everything runs at low resolution; in place of skip connections the encoder's feature
    is added to the enhanced one.
    """

    def __init__(
        self,
        images: int,
        width: int,
        detail_widths: Sequence[int],
        encoder_blocks: int,
        decoder_blocks: int,
        strategy: Strategy,
        past_features: int,
        aligned: bool,
        attention: bool,
        scale: int,
    ) -> None:
        """`images`: number of results at the input, 1 + T2; `width` of the third scale; `past_features` is T3."""
        super().__init__()
        details = list(detail_widths)
        sides = [images * 3 if details else images * 3 * scale**2, *details]
        self.details_in = nn.ModuleList(
            DetailEncoder(sides[i], details[i], 1 + (i > 0), attention) for i in range(len(details))
        )
        # The paper has a ReLU here, the narrow network a leaky one.
        self.head = active3x3(sides[-1], width, 2 if details else 1, slope=0.0 if details else LEAKY_SLOPE)
        self.encoder = nn.Sequential(*(ResidualBlock(width, attention) for _ in range(encoder_blocks)))
        self.encoding = build_encoding(strategy, width, past_features, aligned)
        self.decoder = nn.Sequential(*(ResidualBlock(width, attention) for _ in range(decoder_blocks)))
        self.leave = active3x3(width, width, slope=0.0) if details else None  # counterpart of `head`
        ups = [width, *reversed(details)]
        self.details_out = nn.ModuleList(DetailDecoder(a, b, attention) for a, b in pairwise(ups))
        self.out = conv3x3(ups[-1], 3 if details else 3 * scale**2)
        start_near_zero(self.out)

    def forward(self, images: Tensor, recalled: Memory, tuning: Tuning | None = None) -> tuple[Encoded, Memory]:
        """Encodes the stacked first and past results `images`; `recalled` is the memory recalled by the encoding."""
        feature, skips = self.encode(images, tuning)
        enhanced, memory = self.encoding(feature, recalled)
        return Encoded(feature, enhanced, skips), memory

    def encode(self, images: Tensor, tuning: Tuning | None = None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The feature E_3 (B x width x h x w) and the skip connections E_1, E_2 of the stacked images."""
        x, skips = images, []
        for detail in self.details_in:
            x = detail(x)
            skips.append(x)
        x = run(self.head, x)
        if tuning is None:
            return self.encoder(x), tuple(skips)
        return run_blocks(self.encoder, x + tuning.added, tuning.blocks[: len(self.encoder)]), tuple(skips)

    def decode(
        self, feature: Tensor, enhanced: Tensor, skips: tuple[Tensor, ...], tuning: Tuning | None = None
    ) -> Tensor:
        """The residual to the first result, from the enhanced feature and the skip connections."""
        enhanced = enhanced.to(feature.dtype)
        tuned = None if tuning is None else tuning.blocks[len(self.encoder) :]
        x = run_blocks(self.decoder, enhanced if skips else feature + enhanced, tuned)
        if self.leave is not None:
            x = self.leave(x)
        for detail, skip in zip(self.details_out, reversed(skips), strict=True):
            x = detail(x, skip)
        return run(self.out, x)
