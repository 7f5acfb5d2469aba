"""Zooming SlowMo: one network for more frames and larger frames (Xiang, dissertation, chapter 6).

Features of the given frames, features of the frames between them by deformable alignment, a bidirectional deformable
ConvLSTM over all of them, reconstruction frame by frame. Module names are those of the authors' checkpoint, so it
loads as it is. Ours, for narrow networks and off by default: a narrower ConvLSTM, alignment of the state alone,
deformable kernels of one point, reconstruction in one step, and the results as residuals (see zsmconfig).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.errors import ModelError
from vidsr.nets.base import Network
from vidsr.nets.layers.blocks import (
    BicubicPhases,
    ResidualBlock,
    active3x3,
    conv3x3,
    depth_to_space,
    run,
    start_near_zero,
)
from vidsr.nets.layers.pixel_shuffle import unfold_sum
from vidsr.nets.zsm.alignment import DeformableBlend, Prepared, Pyramid
from vidsr.nets.zsm.config import SCALE, ZSMConfig
from vidsr.nets.zsm.deformable_lstm import BidirectionalConvLSTM, LSTMState, StepInput


class GuidedOutput(NamedTuple):
    """Results B x (2N-1) x 3 x 4h x 4w; the head's pictures of the 2nd, 4th ... frame, B x (N-1) x 3 x h x w, and of
    the 3rd, 5th ... from features interpolated twice, B x (N-2) x 3 x h x w.
    """

    results: Tensor
    firsts: Tensor
    seconds: Tensor


class FrameSynthesis(nn.Module):
    """The low-resolution head: a picture of the input's size from a feature (rho in equations (6.8) and (6.9))."""

    def __init__(self, width: int, blocks: int) -> None:
        """`blocks` residual blocks (k3) and one convolution."""
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.out = conv3x3(width, 3)

    def forward(self, feature: Tensor) -> Tensor:
        """B x C x h x w to B x 3 x h x w float32, not clamped."""
        return run(self.out, self.blocks(feature)).float()


class ZoomingSlowMo(DeformableBlend, Network):
    """The whole network; as published, the parts that interpolate features sit at its top level, so it inherits them.

    `forward` runs a window. A stream calls `features` and `neighbour` once per frame, `between` once per pair of them,
    `prepare_step` once per given or new frame, `step` forwards with the state carried on and backwards over the frames
    ahead, and `finish` with the hidden states of both directions.
    """

    def __init__(self, config: ZSMConfig) -> None:
        """Parts sized by `config`; deformable layers start undisplaced, a residual network almost bicubic."""
        super().__init__(config.width, config.levels, config.kernel, config.groups, (1, 2), config.shared_sides)
        self.config: ZSMConfig = config
        width, inner = config.width, config.upsampler_width
        self.conv_first = active3x3(3, width)
        self.feature_extraction = nn.Sequential(*(ResidualBlock(width) for _ in range(config.front_blocks)))
        sides = (1, 2) if config.state_sides == 2 else (2,)
        self.ConvBLSTM = BidirectionalConvLSTM(
            config.state_width, width, config.state_levels, config.kernel, config.groups, sides, config.state_joint
        )
        self.recon_trunk = nn.Sequential(*(ResidualBlock(width) for _ in range(config.back_blocks)))
        if inner:
            self.upconv1 = active3x3(width, 4 * inner)
            self.upconv2 = active3x3(inner, 4 * inner)
            self.HRconv = active3x3(inner, inner)
            self.conv_last = conv3x3(inner, 3)
        else:
            self.conv_last = conv3x3(width, 3 * SCALE**2)
        if config.synthesis_blocks:
            self.synthesis = FrameSynthesis(width, config.synthesis_blocks)
        if config.residual:
            self.bicubic = BicubicPhases(SCALE)
            start_near_zero(self.conv_last)

    def features(self, frames: Tensor) -> Pyramid:
        """Frames B x 3 x h x w in 0..1; returns their features on all levels, the finest first, B x C x h x w."""
        return self.pyramid(self.feature_extraction(run(self.conv_first, frames)))

    def interpolate(self, before: Pyramid, after: Pyramid) -> Tensor:
        """The feature B x C x h x w of the moment half-way between two neighbours (equation (6.4))."""
        return self.blend(self.prepare(before, "first"), self.prepare(after, "second"))

    def neighbour(self, levels: Pyramid) -> Prepared:
        """A frame's features as `between` wants them: with their shares if both roles have the same (shared sides)."""
        return self.prepare(levels, "first") if self.shared else Prepared(levels, ())

    def between(self, before: Prepared, after: Prepared) -> Tensor:
        """As `interpolate`, without computing anew what a frame gave to the moment before it."""
        if not self.shared:
            return self.interpolate(before.levels, after.levels)
        return self.blend(before, Prepared(after.levels, after.shares[::-1]))  # the sides change places with the roles

    def synthesise(self, feature: Tensor) -> Tensor:
        """The picture B x 3 x h x w of a feature at the input's size; needs the low-resolution head."""
        if not self.config.synthesis_blocks:
            raise ModelError(
                "this zsm network has no low-resolution head, so it cannot give frames of the input's size"
            )
        picture: Tensor = self.synthesis(feature)
        return picture

    def init_state(self, feature: Tensor) -> LSTMState:
        """The ConvLSTM's state at rest, for features like this one."""
        return self.ConvBLSTM.init_state(feature)

    def prepare_step(self, feature: Tensor) -> StepInput:
        """What a frame's feature B x C x h x w contributes to its step in either direction."""
        return self.ConvBLSTM.prepare(feature)

    def step(self, current: StepInput, state: LSTMState) -> LSTMState:
        """One step of the ConvLSTM, forwards or backwards in time (equation (6.6))."""
        return self.ConvBLSTM.step(current, state)

    def reconstruct(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, picture: Tensor | None = None
    ) -> Tensor:
        """The result B x 3 x 4h x 4w float32, not clamped, from a frame's feature and both hidden states.

        `picture`: the frame itself, B x 3 x h x w, where there is one. Only a residual network looks at it; for a
        moment between two frames it makes the picture with its own head.
        """
        x, base = self._trunk(feature, forward_hidden, backward_hidden, picture)
        if not self.config.upsampler_width:
            folded = run(self.conv_last, x).float()
            return depth_to_space(folded if base is None else folded.add_(base), SCALE)
        x = F.pixel_shuffle(run(self.upconv1, x), 2)
        x = F.pixel_shuffle(run(self.upconv2, x), 2)
        result = run(self.conv_last, run(self.HRconv, x)).float()
        return result if base is None else result + depth_to_space(base, SCALE)

    def finish(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, picture: Tensor | None = None
    ) -> Tensor:
        """`reconstruct` clamped to 0..1, for a stream: nothing can be learnt from it."""
        if not self.config.residual or self.config.upsampler_width:
            return self.reconstruct(feature, forward_hidden, backward_hidden, picture).clamp_(0, 1)
        x, base = self._trunk(feature, forward_hidden, backward_hidden, picture)
        assert base is not None
        return unfold_sum(base, (run(self.conv_last, x),), SCALE)

    def _trunk(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, picture: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """What the last layers read, and what a residual is added to: the picture enlarged, folded."""
        x = self.ConvBLSTM.fuse(forward_hidden, backward_hidden)
        if not self.config.residual:
            return self.recon_trunk(x), None
        return self.recon_trunk(x + feature), self.bicubic(self.synthesise(feature) if picture is None else picture)

    def forward(self, clip: Tensor) -> Tensor:
        """A window B x N x 3 x h x w in 0..1 as published: B x (2N-1) x 3 x 4h x 4w float32, not clamped.

        The given frames are the 1st, 3rd ... of the result; the state starts at rest in both directions.
        """
        batch = clip.shape[0]
        given, between = self._moments(clip)
        pictures = self.synthesise(between) if self.config.residual else None
        return self._results(clip, _in_time(given[0], batch), between, pictures)

    def forward_guided(self, clip: Tensor) -> GuidedOutput:
        """`forward` for training: a window of at least three frames, with the pictures that the guiding losses see."""
        batch = clip.shape[0]
        given, between = self._moments(clip)
        firsts = self.synthesise(between)
        results = self._results(clip, _in_time(given[0], batch), between, firsts)
        seconds = self.synthesise(self._between(self.pyramid(between), batch))
        return GuidedOutput(results, _in_time(firsts, batch), _in_time(seconds, batch))

    def _moments(self, clip: Tensor) -> tuple[Pyramid, Tensor]:
        """Features of the given frames, (B N) x C x h x w per level, and of the moments between, (B (N-1)) x ..."""
        given = self.features(clip.flatten(0, 1))
        return given, self._between(given, clip.shape[0])

    def _between(self, levels: Pyramid, batch: int) -> Tensor:
        """The features between neighbours in time: (B N) x C x h x w per level to (B (N-1)) x C x h x w."""
        all_frames = self.neighbour(levels)

        def part(frames: slice) -> Prepared:
            rows = [tuple(_in_time(x, batch)[:, frames].flatten(0, 1) for x in row) for row in all_frames.rows()]
            return Prepared(rows[0], tuple(rows[1:]))

        return self.between(part(slice(None, -1)), part(slice(1, None)))

    def _results(self, clip: Tensor, given: Tensor, between: Tensor, pictures: Tensor | None) -> Tensor:
        """The recurrence over all moments and their reconstruction; `given` is B x N x C x h x w."""
        length = clip.shape[1]
        sequence = _interleave(given, between)
        steps = [self.prepare_step(sequence[:, t]) for t in range(2 * length - 1)]
        hidden = []
        for ordered in (steps, steps[::-1]):
            state, passed = self.init_state(sequence[:, 0]), []
            for current in ordered:
                state = self.step(current, state)
                passed.append(state.hidden)
            hidden.append(passed)
        forwards, backwards = torch.stack(hidden[0], dim=1), torch.stack(hidden[1][::-1], dim=1)
        low = None if pictures is None else _interleave(clip, pictures).flatten(0, 1)
        results = self.reconstruct(sequence.flatten(0, 1), forwards.flatten(0, 1), backwards.flatten(0, 1), low)
        return _in_time(results, clip.shape[0])


def _in_time(x: Tensor, batch: int) -> Tensor:
    """(B T) x ... to B x T x ...; T may be 0."""
    return x.reshape(batch, x.shape[0] // batch, *x.shape[1:])


def _interleave(given: Tensor, between: Tensor) -> Tensor:
    """B x N x ... and (B (N-1)) x ..., alternating from the first to the last given one: B x (2N-1) x ..."""
    pairs = torch.stack((given[:, :-1], _in_time(between, given.shape[0]).to(given.dtype)), dim=2)
    return torch.cat((pairs.flatten(1, 2), given[:, -1:]), dim=1)
