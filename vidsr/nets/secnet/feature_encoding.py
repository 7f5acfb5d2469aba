"""The three sequential feature encodings of SECNet (II-C3, Algorithms 1 to 3): what past features add to this frame's.

An encoding takes the feature of one frame and what is recalled of the memory, and gives the enhanced feature and the
memory for the next frame. The memory is a tuple of tensors whose size is bounded, whatever the length of the film. What
of it needs no feature of the new frame is computed by `recall`, so that a stream can do it beforehand.
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
    """Algorithm 1: hidden state and cell go from frame to frame. The memory is that pair.

    `aligned` (ours): the pair is warped along the motion first, so that it stays with the things it describes.
    """

    def __init__(self, channels: int, aligned: bool) -> None:
        """`channels` of the feature, the hidden state and the cell."""
        super().__init__()
        self.cell = ConvLSTMCell(channels, channels)
        self.channels, self.aligned = channels, aligned

    def start(self, like: Tensor) -> Memory:
        """A ConvLSTM at rest, for features of the batch, height and width of `like`."""
        zeros = like.new_zeros(like.shape[0], self.cell.hidden_channels, *like.shape[-2:], dtype=torch.float32)
        return zeros, zeros.clone()

    def recall(self, memory: Memory, flow: Tensor) -> Memory:
        """What the past adds to the gates, and the cell; `flow` B x 2 x h x w to the previous frame."""
        hidden, cell = memory
        if self.aligned:
            hidden, cell = warp_features((hidden, cell), flow)
        return self.cell.project(hidden, self.channels, bias=False), cell

    def forward(self, feature: Tensor, recalled: Memory) -> tuple[Tensor, Memory]:
        """Feature B x C x h x w and what `recall` gave."""
        past, cell = recalled
        hidden, cell = self.cell.step(self.cell.project(feature, 0, bias=True).add_(past), cell)
        return hidden, (hidden, cell)


class Bidirectional(nn.Module):
    """Algorithms 2 and 3: a backward and a forward ConvLSTM over this feature and the last T3, anew for every frame.

    `fused` False is equation (8): the forward pass sees H_b alone. The print of Algorithm 2 gives it E too, the text
    does not; the equation is followed. `fused` True is Algorithm 3, [H_b, E]; equation (9) prints H_f of k + 1, but the
    loop runs upwards, so k - 1 is meant. The result is H_f of this frame; under (8) the text says H_f of frame 1, the
    algorithms say t. The order of the forward cell's channels is [E, H_b, H_f], which only renames its weights: so what
    E adds to the gates is computed once, kept in the memory, and the rest is one convolution.
    """

    def __init__(self, channels: int, past: int, fused: bool) -> None:
        """`channels` of the feature and of both hidden states; `past` is T3."""
        super().__init__()
        self.backward_cell = ConvLSTMCell(channels, channels)
        self.forward_cell = ConvLSTMCell(2 * channels if fused else channels, channels)
        self.past, self.fused = past, fused

    def start(self, like: Tensor) -> Memory:  # noqa: ARG002 - the same call as for the other encoding
        """No past feature."""
        return ()

    def recall(self, memory: Memory, flow: Tensor) -> Memory:  # noqa: ARG002 - the same call as for the other encoding
        """The memory: the motion is not used, the paper's features stay where they are."""
        return memory

    def forward(self, feature: Tensor, recalled: Memory) -> tuple[Tensor, Memory]:
        """Feature B x C x h x w and what `recall` gave."""
        known = (*recalled, self.project(feature))  # oldest first
        return self.encode(known), known[max(0, len(known) - self.past) :]

    def encode(self, known: Sequence[Tensor], is_real: Sequence[Tensor] | None = None) -> Tensor:
        """The hidden state of the last of the projected features `known`, oldest first.

        `is_real`: one truth value for each; those that are not real, all before the real ones, change nothing.
        """
        channels = self.backward_cell.hidden_channels
        hidden: Tensor | None = None
        cell: Tensor | None = None
        backward: list[Tensor] = []
        for projected in reversed(known):
            gates = projected[:, : 4 * channels]
            if hidden is not None:
                gates = gates + self.backward_cell.project(hidden, channels, bias=False)
            hidden, cell = self.backward_cell.step(gates, cell)
            backward.append(hidden)
        hidden = cell = None
        for k, (projected, seen) in enumerate(zip(known, reversed(backward), strict=True)):
            rest = seen if hidden is None else torch.cat((seen, hidden), dim=1)
            if self.fused:
                gates = projected[:, 4 * channels :] + self.forward_cell.project(rest, channels, bias=False)
            else:
                gates = self.forward_cell.project(rest, 0, bias=True)
            hidden, cell = self.forward_cell.step(gates, cell)
            if is_real is not None:  # a state of zeros is none
                hidden, cell = (torch.where(is_real[k], x, torch.zeros_like(x)) for x in (hidden, cell))
        assert hidden is not None
        return hidden

    @property
    def projected_channels(self) -> int:
        """Channels of what is kept of each feature."""
        return (8 if self.fused else 4) * self.backward_cell.hidden_channels

    def project(self, feature: Tensor) -> Tensor:
        """What a feature B x C x h x w adds to the gates: all that is kept of it."""
        parts = [self.backward_cell.project(feature, 0, bias=True)]
        if self.fused:
            parts.append(self.forward_cell.project(feature, 0, bias=True))
        return torch.cat(parts, dim=1)


def build_encoding(strategy: Strategy, channels: int, past: int, aligned: bool) -> OneWay | Bidirectional:
    """The encoding of a configuration; `past` (T3) is for the bidirectional ones, `aligned` for the one-way one."""
    if strategy == "one-way":
        return OneWay(channels, aligned)
    return Bidirectional(channels, past, fused=strategy == "fused")
