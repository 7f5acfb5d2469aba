"""Zooming SlowMo: space-time video super-resolution with one network (Xiang, dissertation, chapter 6).

Extracts features of the input frames, interpolates the features between them by deformable alignment, runs a
bidirectional deformable ConvLSTM over all of them, and reconstructs frame by frame. Module names are those of the
authors' checkpoint, so that it loads unchanged. Our additions, for narrow networks and off by default (see config.py):
a narrower ConvLSTM, alignment of the state alone, deformable kernels of one point, one-step reconstruction, residual
results, and an estimate of the degradation that modulates feature extraction and reconstruction.
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
    run_blocks,
    start_near_zero,
)
from vidsr.nets.layers.conditioning import Estimate, Estimator, Modulation, clip_conditions, halfway
from vidsr.nets.layers.pixel_shuffle import unfold_sum
from vidsr.nets.zsm.alignment import DeformableBlend, Prepared, Pyramid
from vidsr.nets.zsm.config import SCALE, ZSMConfig
from vidsr.nets.zsm.deformable_lstm import BidirectionalConvLSTM, LSTMState, StepInput


class GuidedOutput(NamedTuple):
    """`results` of all frames, B x (2N-1) x 3 x 4h x 4w; `firsts`: the head's images of the 2nd, 4th ... frame,
    B x (N-1) x 3 x h x w; `seconds`: those of the 3rd, 5th ... from features interpolated twice, B x (N-2) x 3 x h x w.
    `estimates`, of a network with an estimator, are the logits of each input frame, B x N x ...
    """

    results: Tensor
    firsts: Tensor
    seconds: Tensor
    estimates: Estimate | None = None


class FrameSynthesis(nn.Module):
    """The low-resolution head: an image of the input's size from a feature (rho in equations (6.8) and (6.9))."""

    def __init__(self, width: int, blocks: int) -> None:
        """`blocks` residual blocks (k3) and one convolution."""
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(width) for _ in range(blocks)))
        self.out = conv3x3(width, 3)

    def forward(self, feature: Tensor) -> Tensor:
        """B x C x h x w to B x 3 x h x w float32, not clamped."""
        return run(self.out, self.blocks(feature)).float()


class ZoomingSlowMo(DeformableBlend, Network):
    """The whole network; inherits from DeformableBlend, since the published checkpoint has those parts at top level.

    `forward` runs a clip. A stream calls `features` and `prepare_neighbor` once per frame, `between` once per pair of
    them, `prepare_step` once per input or interpolated frame, `step` forwards with the propagated state and backwards
    over the frames ahead, and `finish` with the hidden states of both directions.
    """

    def __init__(self, config: ZSMConfig) -> None:
        """Builds the parts; initially deformable layers have no offsets, and a residual network is almost bicubic."""
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
        self.estimator = self.tune_features = self.tune_trunk = None
        if config.estimator_width:
            self.estimator = Estimator(config.estimator_width)
            self.tune_features = Modulation(width, config.front_blocks, config.modulation_width)
            self.tune_trunk = Modulation(width, config.back_blocks, config.modulation_width)

    def estimate(self, frames: Tensor) -> Estimate | None:
        """The degradation levels of frames B x 3 x h x w in 0..1; None without an estimator."""
        if self.estimator is None:
            return None
        levels: Estimate = self.estimator(frames)
        return levels

    def features(self, frames: Tensor, condition: Estimate | None = None) -> Pyramid:
        """Features of frames B x 3 x h x w in 0..1 on all levels, the finest first, B x C x h x w.

        `condition`: the degradation levels of the frames, required by a network with an estimator.
        """
        x = run(self.conv_first, frames)
        return self.pyramid(_tuned(self.feature_extraction, x, self.tune_features, condition))

    def interpolate(self, before: Pyramid, after: Pyramid) -> Tensor:
        """The feature B x C x h x w of the moment halfway between two neighbors (equation (6.4))."""
        return self.blend(self.prepare(before, "first"), self.prepare(after, "second"))

    def prepare_neighbor(self, levels: Pyramid) -> Prepared:
        """Prepares a frame's features for `between`; includes contributions if both roles share them (shared sides)."""
        return self.prepare(levels, "first") if self.shared else Prepared(levels, ())

    def between(self, before: Prepared, after: Prepared) -> Tensor:
        """As `interpolate`, but reuses what was computed of a frame for the previous moment."""
        if not self.shared:
            return self.interpolate(before.levels, after.levels)
        return self.blend(
            before, Prepared(after.levels, after.contributions[::-1])
        )  # the sides are swapped with the roles

    def synthesize(self, feature: Tensor) -> Tensor:
        """The image B x 3 x h x w of a feature at the input's size. Raises ModelError without low-resolution head."""
        if not self.config.synthesis_blocks:
            raise ModelError(
                "this zsm network has no low-resolution head, so it cannot give frames of the input's size"
            )
        image: Tensor = self.synthesis(feature)
        return image

    def init_state(self, feature: Tensor) -> LSTMState:
        """The ConvLSTM's initial state (zeros) for features of this shape."""
        return self.ConvBLSTM.init_state(feature)

    def prepare_step(self, feature: Tensor) -> StepInput:
        """The contributions of a frame's feature B x C x h x w to its step in either direction."""
        return self.ConvBLSTM.prepare(feature)

    def step(self, current: StepInput, state: LSTMState) -> LSTMState:
        """One step of the ConvLSTM, forwards or backwards in time (equation (6.6))."""
        return self.ConvBLSTM.step(current, state)

    def reconstruct(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, image: Tensor | None = None,
        condition: Estimate | None = None,
    ) -> Tensor:  # fmt: skip
        """The result B x 3 x 4h x 4w float32, not clamped, from a frame's feature and both hidden states.

        `image`: the input frame, B x 3 x h x w, or None for an interpolated moment. Only a residual network uses it;
        if it is None, the low-resolution head makes the image. `condition`: the degradation levels of the moment, as
        in `features`; those of an interpolated one are `halfway` between its neighbors'.
        """
        x, base = self._trunk(feature, forward_hidden, backward_hidden, image, condition)
        if not self.config.upsampler_width:
            folded = run(self.conv_last, x).float()
            return depth_to_space(folded if base is None else folded.add_(base), SCALE)
        x = F.pixel_shuffle(run(self.upconv1, x), 2)
        x = F.pixel_shuffle(run(self.upconv2, x), 2)
        result = run(self.conv_last, run(self.HRconv, x)).float()
        return result if base is None else result + depth_to_space(base, SCALE)

    def finish(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, image: Tensor | None = None,
        condition: Estimate | None = None,
    ) -> Tensor:  # fmt: skip
        """`reconstruct` clamped to 0..1; inference only."""
        if not self.config.residual or self.config.upsampler_width:
            return self.reconstruct(feature, forward_hidden, backward_hidden, image, condition).clamp_(0, 1)
        x, base = self._trunk(feature, forward_hidden, backward_hidden, image, condition)
        assert base is not None
        return unfold_sum(base, (run(self.conv_last, x),), SCALE)

    def _trunk(
        self, feature: Tensor, forward_hidden: Tensor, backward_hidden: Tensor, image: Tensor | None,
        condition: Estimate | None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """The input of the last layers and, for a residual network, its base: the folded bicubic enlargement."""
        x, base = self.ConvBLSTM.fuse(forward_hidden, backward_hidden), None
        if self.config.residual:
            x, base = x + feature, self.bicubic(self.synthesize(feature) if image is None else image)
        return _tuned(self.recon_trunk, x, self.tune_trunk, condition), base

    def forward(self, clip: Tensor, overrides: Tensor | None = None) -> Tensor:
        """Maps a clip B x N x 3 x h x w in 0..1, as published, to B x (2N-1) x 3 x 4h x 4w float32, not clamped.

        The input frames are the 1st, 3rd ... of the result; the state starts at zero in both directions. `overrides`,
        B x 3, replaces the network's own estimates of the degradation levels where it is not NaN.
        """
        batch = clip.shape[0]
        _, conditions = self._conditions(clip, overrides)
        inputs, between = self._moments(clip, conditions)
        images = self.synthesize(between) if self.config.residual else None
        return self._results(clip, _in_time(inputs[0], batch), between, images, conditions)

    def forward_guided(self, clip: Tensor, overrides: Tensor | None = None) -> GuidedOutput:
        """`forward` for training, on a clip of at least three frames, with the images for the guidance losses."""
        batch = clip.shape[0]
        estimates, conditions = self._conditions(clip, overrides)
        inputs, between = self._moments(clip, conditions)
        firsts = self.synthesize(between)
        results = self._results(clip, _in_time(inputs[0], batch), between, firsts, conditions)
        seconds = self.synthesize(self._between(self.pyramid(between), batch))
        return GuidedOutput(results, _in_time(firsts, batch), _in_time(seconds, batch), estimates)

    def _conditions(self, clip: Tensor, overrides: Tensor | None) -> tuple[Estimate | None, Estimate | None]:
        """Estimates (logits) and conditions of the input frames, both B x N x ..., with an estimator."""
        return (None, None) if self.estimator is None else clip_conditions(self.estimator, clip, overrides)

    def _moments(self, clip: Tensor, conditions: Estimate | None) -> tuple[Pyramid, Tensor]:
        """Features of the input frames, (B N) x C x h x w per level, and of the moments between, (B (N-1)) x ..."""
        flat = None if conditions is None else Estimate(*(part.flatten(0, 1) for part in conditions))
        inputs = self.features(clip.flatten(0, 1), flat)
        return inputs, self._between(inputs, clip.shape[0])

    def _between(self, levels: Pyramid, batch: int) -> Tensor:
        """The features between neighbors in time: (B N) x C x h x w per level to (B (N-1)) x C x h x w."""
        all_frames = self.prepare_neighbor(levels)

        def part(frames: slice) -> Prepared:
            rows = [tuple(_in_time(x, batch)[:, frames].flatten(0, 1) for x in row) for row in all_frames.rows()]
            return Prepared(rows[0], tuple(rows[1:]))

        return self.between(part(slice(None, -1)), part(slice(1, None)))

    def _results(
        self, clip: Tensor, inputs: Tensor, between: Tensor, images: Tensor | None, conditions: Estimate | None
    ) -> Tensor:
        """Runs the recurrence over all moments and reconstructs them; `inputs` is B x N x C x h x w."""
        length = clip.shape[1]
        sequence = _interleave(inputs, between)
        steps = [self.prepare_step(sequence[:, t]) for t in range(2 * length - 1)]
        hidden = []
        for ordered in (steps, steps[::-1]):
            state, hidden_states = self.init_state(sequence[:, 0]), []
            for current in ordered:
                state = self.step(current, state)
                hidden_states.append(state.hidden)
            hidden.append(hidden_states)
        forwards, backwards = torch.stack(hidden[0], dim=1), torch.stack(hidden[1][::-1], dim=1)
        low = None if images is None else _interleave(clip, images).flatten(0, 1)
        condition = None if conditions is None else _in_all_moments(conditions)
        states = forwards.flatten(0, 1), backwards.flatten(0, 1)
        results = self.reconstruct(sequence.flatten(0, 1), *states, low, condition)
        return _in_time(results, clip.shape[0])


def _tuned(blocks: nn.Sequential, x: Tensor, modulation: Modulation | None, condition: Estimate | None) -> Tensor:
    """Runs residual blocks, modulated by a condition in a network with an estimator."""
    if modulation is None:
        return run_blocks(blocks, x)
    assert condition is not None, "a network with an estimator needs a condition"
    tuning = modulation(condition, (x.shape[-2], x.shape[-1]))
    return run_blocks(blocks, x + tuning.added.to(x.dtype), tuning.blocks)


def _in_all_moments(conditions: Estimate) -> Estimate:
    """The conditions of input frames, B x N x ..., with those of the moments between: (B (2N-1)) x ..."""
    between = halfway(*(Estimate(*(part[:, k : part.shape[1] - 1 + k] for part in conditions)) for k in (0, 1)))
    pairs = zip(conditions, between, strict=True)
    return Estimate(*(_interleave(inputs, others.flatten(0, 1)).flatten(0, 1) for inputs, others in pairs))


def _in_time(x: Tensor, batch: int) -> Tensor:
    """(B T) x ... to B x T x ...; T may be 0."""
    return x.reshape(batch, x.shape[0] // batch, *x.shape[1:])


def _interleave(inputs: Tensor, between: Tensor) -> Tensor:
    """Interleaves B x N x ... with (B (N-1)) x ..., beginning and ending with `inputs`: B x (2N-1) x ..."""
    pairs = torch.stack((inputs[:, :-1], _in_time(between, inputs.shape[0]).to(inputs.dtype)), dim=2)
    return torch.cat((pairs.flatten(1, 2), inputs[:, -1:]), dim=1)
