"""The deformable ConvLSTM of Zooming SlowMo (6.3.3), one step at a time, for both directions with the same weights.

Module names are those of the authors' checkpoint.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.blocks import conv3x3, update_cell
from vidsr.nets.layers.fused_conv import convolve_and_add
from vidsr.nets.zsm.alignment import DeformableBlend, Prepared


class LSTMState(NamedTuple):
    """Hidden state and cell, both B x C x h x w float32."""

    hidden: Tensor
    cell: Tensor


class StepInput(NamedTuple):
    """The contributions of one feature to a step, independent of state and direction."""

    for_hidden: Prepared
    for_cell: Prepared | None  # None where hidden state and cell move together
    gates: Tensor


class LSTMGates(nn.Module):
    """The ConvLSTM's convolution over input and hidden state; gates in the order input, forget, output, cell."""

    def __init__(self, width: int) -> None:
        """`width`: channels of the input, of the hidden state and of the cell."""
        super().__init__()
        self.conv = conv3x3(2 * width, 4 * width)
        self.width = width

    def input_contribution(self, x: Tensor) -> Tensor:
        """The contribution of the input B x C x h x w to the four gates, B x 4 C x h x w."""
        weight = self.conv.weight[:, : self.width]
        return F.conv2d(x.to(weight.dtype), weight, self.conv.bias, padding=1)

    def forward(self, input_contribution: Tensor, hidden: Tensor, cell: Tensor) -> LSTMState:
        """The new state from the aligned old one."""
        weight = self.conv.weight[:, self.width :]
        gates = convolve_and_add(hidden.to(weight.dtype), weight, None, input_contribution)
        return LSTMState(*update_cell(gates, cell, candidate=3))


class DeformableConvLSTM(nn.Module):
    """Aligns hidden state and cell with the current feature, then updates them (equation (6.6))."""

    def __init__(
        self, width: int, levels: int, kernel: int, groups: int, sides: tuple[int, ...], joint: bool = False
    ) -> None:
        """As in PyramidAlignment; side 1 moves the current feature, side 2 the state.

        `joint` (ours, with one level and side 2 alone): the cell is aligned with the offsets of the hidden state.
        """
        super().__init__()
        self.cell_list = nn.ModuleList([LSTMGates(width)])
        self.joint = joint
        self.pcd_h = DeformableBlend(width, levels, kernel, groups, sides, moved_width=2 * width if joint else None)
        if not joint:
            self.pcd_c = DeformableBlend(width, levels, kernel, groups, sides)

    def prepare(self, x: Tensor) -> StepInput:
        """Prepares the current feature B x C x h x w for `forward`; the same for both directions."""
        return StepInput(
            self.pcd_h.prepare(self.pcd_h.pyramid(x), "first"),
            None if self.joint else self.pcd_c.prepare(self.pcd_c.pyramid(x), "first"),
            self._gates.input_contribution(x),
        )

    def forward(self, current: StepInput, state: LSTMState) -> LSTMState:
        """One step in time."""
        earlier = self.pcd_h.prepare(self.pcd_h.pyramid(state.hidden), "second")
        if current.for_cell is None:
            both = self.pcd_h.blend(current.for_hidden, Prepared((torch.cat(state, dim=1),), earlier.contributions))
            hidden, cell = both.chunk(2, dim=1)
        else:
            hidden = self.pcd_h.blend(current.for_hidden, earlier)
            cell = self.pcd_c.blend(current.for_cell, self.pcd_c.prepare(self.pcd_c.pyramid(state.cell), "second"))
        result: LSTMState = self._gates(current.gates, hidden, cell)
        return result

    @property
    def _gates(self) -> LSTMGates:
        gates = self.cell_list[0]
        assert isinstance(gates, LSTMGates)
        return gates


class BidirectionalConvLSTM(nn.Module):
    """One deformable ConvLSTM for both directions of time, and the 1x1 convolution that joins their hidden states."""

    def __init__(
        self,
        width: int,
        outer_width: int,
        levels: int,
        kernel: int,
        groups: int,
        sides: tuple[int, ...],
        joint: bool = False,
    ) -> None:
        """`width` inside; 1x1 convolutions convert features of another `outer_width` to it and back."""
        super().__init__()
        if width != outer_width:
            self.conv_in = nn.Conv2d(outer_width, width, 1)
        self.forward_net = DeformableConvLSTM(width, levels, kernel, groups, sides, joint)
        self.conv_1x1 = nn.Conv2d(2 * width, outer_width, 1)
        self.width, self.outer_width = width, outer_width

    def init_state(self, feature: Tensor) -> LSTMState:
        """The initial state (zeros) for features of this shape."""
        batch, _, height, width = feature.shape
        zeros = feature.new_zeros(batch, self.width, height, width, dtype=torch.float32)
        return LSTMState(zeros, zeros.clone())

    def prepare(self, feature: Tensor) -> StepInput:
        """Prepares a frame's feature B x `outer_width` x h x w for the steps of both directions."""
        x = self.conv_in(feature) if self.width != self.outer_width else feature
        prepared: StepInput = self.forward_net.prepare(x)
        return prepared

    def step(self, current: StepInput, state: LSTMState) -> LSTMState:
        """The state after this frame from the state after the frame before it (or, backwards, after it)."""
        result: LSTMState = self.forward_net(current, state)
        return result

    def fuse(self, forward_hidden: Tensor, backward_hidden: Tensor) -> Tensor:
        """Joins the hidden states of both directions at one frame: B x `outer_width` x h x w."""
        both = torch.cat((forward_hidden, backward_hidden), dim=1)
        fused: Tensor = self.conv_1x1(both.to(self.conv_1x1.weight.dtype))
        return fused
