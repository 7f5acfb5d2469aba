"""SECNet: self-enhanced convolutional network for video super-resolution (Fang, Li, Han, Yu).

Local fusion of a window of low-resolution frames gives a first result (section II-B); the recurrent module refines it
with the warped previous result and a ConvLSTM (section II-C). Ours, where the paper is silent or a narrow network needs
it, and marked below: both results are residuals to the bicubic enlargement; the high-resolution pictures are moved to
low resolution by space-to-depth, so that the heavy layers run there; the ConvLSTM's state is warped along the motion;
before the first frame the previous result is the bicubic enlargement instead of 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.blocks import BicubicPhases, ConvLSTMCell, ResidualBlock, conv3x3, leaky_relu, run, start_near_zero
from vidsr.nets.flow import FlowNet
from vidsr.nets.warp import enlarge_flow, warp


@dataclass(frozen=True, slots=True)
class SECNetConfig:
    """The sizes of the parts. The window is t - 1, t, t + 1 (T1 = 1) and one past result is used (T2 = 1)."""

    scale: int = 4
    flow_width: int = 24
    flow_depth: int = 5
    flow_levels: int = 3
    fusion_width: int = 32
    fusion_blocks: int = 3
    recurrent_width: int = 32
    encoder_blocks: int = 1
    decoder_blocks: int = 4


class RecurrentState(NamedTuple):
    """What one frame hands to the next: its result B x 3 x H x W in 0..1, hidden state and cell B x C x h x w."""

    result: Tensor
    hidden: Tensor
    cell: Tensor


class ClipOutput(NamedTuple):
    """A clip's results B x T x 3 x H x W, first results alike, motion fields B x T x 2 (to t-1, to t+1) x 2 x h x w."""

    results: Tensor
    firsts: Tensor
    flows: Tensor
    state: RecurrentState


class LocalFusion(nn.Module):
    """Fuses the aligned frames of the window into the first result, as a residual to the bicubic enlargement."""

    def __init__(self, config: SECNetConfig) -> None:
        """Widths and depth from `config`."""
        super().__init__()
        width = config.fusion_width
        self.head = conv3x3(9, width)
        self.body = nn.Sequential(*(ResidualBlock(width) for _ in range(config.fusion_blocks)))
        self.out = conv3x3(width, 3 * config.scale**2)

    def forward(self, previous: Tensor, current: Tensor, following: Tensor) -> Tensor:
        """Three aligned frames B x 3 x h x w in 0..1; returns the residual before the pixel shuffle."""
        x = torch.cat((previous, current, following), dim=1) - 0.5
        return run(self.out, self.body(leaky_relu(run(self.head, x))))


class RecurrentFusion(nn.Module):
    """Refines the first result with the past: encoder, ConvLSTM, decoder, all at low resolution (section II-C)."""

    def __init__(self, config: SECNetConfig) -> None:
        """Widths and depth from `config`."""
        super().__init__()
        width, folded = config.recurrent_width, 3 * config.scale**2
        self.head = conv3x3(2 * folded, width)
        self.encoder = nn.Sequential(*(ResidualBlock(width) for _ in range(config.encoder_blocks)))
        self.lstm = ConvLSTMCell(width, width)
        self.decoder = nn.Sequential(*(ResidualBlock(width) for _ in range(config.decoder_blocks)))
        self.out = conv3x3(width, folded)

    def forward(self, first: Tensor, past: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """First result and warped past result, both as folded residuals to the bicubic enlargement; the aligned state.

        Returns the correction of the first result before the pixel shuffle, the new hidden state and the new cell.
        """
        encoded = self.encoder(leaky_relu(run(self.head, torch.cat((first, past.to(first.dtype)), dim=1))))
        hidden, cell = self.lstm(encoded, hidden, cell)
        # The paper decodes H alone; with no high-resolution skip connections the encoder's feature is added to it.
        return run(self.out, self.decoder(encoded + hidden.to(encoded.dtype))), hidden, cell


class SECNet(nn.Module):
    """The whole network. `forward` runs a clip (training); `flow`, `fuse` and `refine` are what a stream needs."""

    def __init__(self, config: SECNetConfig) -> None:
        """Parts sized by `config`; the last layers start small, so that training starts at the bicubic enlargement."""
        super().__init__()
        self.config = config
        self.flow = FlowNet(config.flow_width, config.flow_depth, config.flow_levels)
        self.fusion = LocalFusion(config)
        self.recurrent = RecurrentFusion(config)
        self.bicubic = BicubicPhases(config.scale)
        for out in (self.fusion.out, self.recurrent.out):
            start_near_zero(out)

    def init_state(self, current: Tensor) -> RecurrentState:
        """The state before the first frame `current` (B x 3 x h x w): its bicubic enlargement, a ConvLSTM at rest."""
        batch, _, height, width = current.shape
        zeros = current.new_zeros(batch, self.config.recurrent_width, height, width, dtype=torch.float32)
        result = F.pixel_shuffle(self.bicubic(current), self.config.scale).clamp(0, 1)
        return RecurrentState(result, zeros, zeros.clone())

    def fuse(self, previous: Tensor, current: Tensor, following: Tensor, flows: Tensor) -> Tensor:
        """The first result as a folded residual. `flows`: B x 2 (to previous, to following) x 2 x h x w."""
        # Bicubic, because linear interpolation would wipe out the aliasing that the fusion lives on.
        aligned_previous = warp(previous, flows[:, 0], "bicubic")
        aligned_following = warp(following, flows[:, 1], "bicubic")
        first: Tensor = self.fusion(aligned_previous, current, aligned_following)
        return first

    def refine(self, base: Tensor, first: Tensor, flow: Tensor, state: RecurrentState) -> tuple[Tensor, RecurrentState]:
        """The final result B x 3 x H x W float32 (not clamped) and the state for the next frame.

        `base`: the folded bicubic enlargement; `first`: the folded residual of `fuse`; `flow`: B x 2 x h x w to the
        previous frame; `state`: as the previous frame left it.
        """
        scale, flow = self.config.scale, flow.detach()
        past = F.pixel_unshuffle(warp(state.result, enlarge_flow(flow, scale)), scale) - base
        hidden, cell = warp(torch.cat((state.hidden, state.cell), dim=1), flow).chunk(2, dim=1)
        correction, hidden, cell = self.recurrent(first, past, hidden, cell)
        result = F.pixel_shuffle(base + first.float() + correction.float(), scale)
        return result, RecurrentState(result.clamp(0, 1), hidden.float(), cell)

    def forward(self, clip: Tensor, state: RecurrentState | None = None, before: Tensor | None = None) -> ClipOutput:
        """A clip B x T x 3 x h x w in 0..1; the window is clamped at both ends (Algorithm 4, line 3).

        `state` and `before` (B x 3 x h x w, the frame before the first one) continue an earlier clip.
        """
        batch, length = clip.shape[:2]
        earlier = clip[:, :1] if before is None else before[:, None]
        previous = torch.cat((earlier, clip[:, :-1]), dim=1).flatten(0, 1)
        following = torch.cat((clip[:, 1:], clip[:, -1:]), dim=1).flatten(0, 1)
        current = clip.flatten(0, 1)
        flows = self.flow(current.repeat(2, 1, 1, 1), torch.cat((previous, following)))
        flows = torch.stack(flows.chunk(2), dim=1)
        first = self.fuse(previous, current, following, flows)
        base = self.bicubic(current)
        folded_first = first.view(batch, length, *first.shape[1:])
        folded_base = base.view(batch, length, *base.shape[1:])
        per_frame = flows.view(batch, length, *flows.shape[1:])
        state = self.init_state(clip[:, 0]) if state is None else state
        results = []
        for t in range(length):
            result, state = self.refine(folded_base[:, t], folded_first[:, t], per_frame[:, t, 0], state)
            results.append(result)
        firsts = F.pixel_shuffle(folded_base + folded_first.float(), self.config.scale)
        return ClipOutput(torch.stack(results, dim=1), firsts, per_frame, state)
