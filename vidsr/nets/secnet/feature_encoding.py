"""The three sequential feature encodings of SECNet (II-C3, Algorithms 1 to 3): they enhance a feature by past ones.

An encoding takes the feature of a frame and the recalled memory. It returns the enhanced feature and the memory for the
next frame, a tuple of tensors whose size does not depend on the length of the video. `recall` computes the part that
needs only the memory and the motion, so that a stream can do it before the feature is ready.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from vidsr.nets.layers.blocks import ConvLSTMCell
from vidsr.nets.layers.warp import warp_features

Memory = tuple[Tensor, ...]
Strategy = Literal["one-way", "cascaded", "fused"]


class OneWay(nn.Module):
    """Algorithm 1: a ConvLSTM over the frames. The memory is its hidden state and cell.

    `aligned` (ours): both are warped along the motion first, so that they follow the objects in the image.
    """

    def __init__(self, channels: int, aligned: bool) -> None:
        """`channels`: number of channels of the feature, the hidden state and the cell."""
        super().__init__()
        self.cell = ConvLSTMCell(channels, channels)
        self.channels, self.aligned = channels, aligned

    def start(self, like: Tensor) -> Memory:
        """The zero state, for features with the batch size, height and width of `like`."""
        zeros = like.new_zeros(like.shape[0], self.cell.hidden_channels, *like.shape[-2:], dtype=torch.float32)
        return zeros, zeros.clone()

    def recall(self, memory: Memory, flow: Tensor) -> Memory:
        """The past's contribution to the gates, and the cell; `flow` B x 2 x h x w points to the previous frame."""
        hidden, cell = memory
        if self.aligned:
            hidden, cell = warp_features((hidden, cell), flow)
        return self.cell.project(hidden, self.channels, bias=False), cell

    def forward(self, feature: Tensor, recalled: Memory) -> tuple[Tensor, Memory]:
        """Enhances a feature B x C x h x w; `recalled` is the result of `recall`. Returns the next memory as well."""
        past, cell = recalled
        hidden, cell = self.cell.step(self.cell.project(feature, 0, bias=True).add_(past), cell)
        return hidden, (hidden, cell)


class Bidirectional(nn.Module):
    """Algorithms 2 and 3: a backward and a forward ConvLSTM over this feature and the last T3, repeated for each frame.

    With `fused` False this is equation (8): the input of the forward pass is H_b alone, as in the text (Algorithm 2 as
    printed also passes E). With `fused` True it is Algorithm 3, [H_b, E]; equation (9) prints H_f of k + 1, but the
    loop runs upwards, so k - 1 is meant. The result is H_f of this frame t, as in the algorithms (the text below (8)
    says frame 1). The forward cell's channels are in the order [E, H_b, H_f], which only permutes its weights: the
    contribution of E to the gates is computed once and kept in the memory, and the rest is one convolution.
    """

    def __init__(self, channels: int, past: int, fused: bool) -> None:
        """`channels`: number of channels of the feature and of both hidden states; `past` is T3."""
        super().__init__()
        self.backward_cell = ConvLSTMCell(channels, channels)
        self.forward_cell = ConvLSTMCell(2 * channels if fused else channels, channels)
        self.past, self.fused = past, fused

    def start(self, like: Tensor) -> Memory:  # noqa: ARG002 - same signature as OneWay
        """The empty memory."""
        return ()

    def recall(self, memory: Memory, flow: Tensor) -> Memory:  # noqa: ARG002 - same signature as OneWay
        """The memory itself: as in the paper, past features are not aligned, so the motion is not used."""
        return memory

    def forward(self, feature: Tensor, recalled: Memory) -> tuple[Tensor, Memory]:
        """Enhances a feature B x C x h x w; `recalled` is the result of `recall`. Returns the next memory as well."""
        features = (*recalled, self.project(feature))  # oldest first
        return self.encode(features), features[max(0, len(features) - self.past) :]

    def encode(self, features: Sequence[Tensor], is_real: Sequence[Tensor] | None = None) -> Tensor:
        """The enhanced feature of the last of the projected `features`, which are in order, oldest first.

        `is_real`: one boolean for each. Those that are not real come first and do not affect the result.
        """
        channels = self.backward_cell.hidden_channels
        hidden: Tensor | None = None
        cell: Tensor | None = None
        backward: list[Tensor] = []
        for projected in reversed(features):
            gates = projected[:, : 4 * channels]
            if hidden is not None:
                gates = gates + self.backward_cell.project(hidden, channels, bias=False)
            hidden, cell = self.backward_cell.step(gates, cell)
            backward.append(hidden)
        hidden = cell = None
        for k, (projected, seen) in enumerate(zip(features, reversed(backward), strict=True)):
            rest = seen if hidden is None else torch.cat((seen, hidden), dim=1)
            if self.fused:
                gates = projected[:, 4 * channels :] + self.forward_cell.project(rest, channels, bias=False)
            else:
                gates = self.forward_cell.project(rest, 0, bias=True)
            hidden, cell = self.forward_cell.step(gates, cell)
            if is_real is not None:  # a zero state means no past
                hidden, cell = (torch.where(is_real[k], x, torch.zeros_like(x)) for x in (hidden, cell))
        assert hidden is not None
        return hidden

    @property
    def projected_channels(self) -> int:
        """Number of channels of a projected feature."""
        return (8 if self.fused else 4) * self.backward_cell.hidden_channels

    def project(self, feature: Tensor) -> Tensor:
        """The contribution of a feature B x C x h x w to the gates, the only part of it that is kept."""
        parts = [self.backward_cell.project(feature, 0, bias=True)]
        if self.fused:
            parts.append(self.forward_cell.project(feature, 0, bias=True))
        return torch.cat(parts, dim=1)


def build_encoding(strategy: Strategy, channels: int, past: int, aligned: bool) -> OneWay | Bidirectional:
    """Builds an encoding; `past` (T3) applies to the bidirectional ones, `aligned` to the one-way encoding."""
    if strategy == "one-way":
        return OneWay(channels, aligned)
    return Bidirectional(channels, past, fused=strategy == "fused")
