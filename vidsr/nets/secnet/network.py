"""SECNet: self-enhanced convolutional network for video super-resolution (Fang, Li, Han, Yu).

Local fusion of a window of low-resolution frames gives a first result (section II-B); the recurrent module refines it
with the warped past results and the encoded past features (section II-C). One set of classes serves the paper's network
and the narrow ones. Ours, where the paper is silent: the first result is a residual to the bicubic enlargement. Ours,
for narrow networks only (no `detail_widths`): pictures are folded to low resolution and stand as residuals to the
bicubic enlargement, so that bf16 only ever holds small numbers, and missing past results are that enlargement, not 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.nets.base import Network
from vidsr.nets.layers.blocks import BicubicPhases, depth_to_space
from vidsr.nets.layers.pixel_shuffle import fold_warped, unfold_sum
from vidsr.nets.layers.warp import enlarge_flow, warp
from vidsr.nets.secnet.conditioning import Estimate, Estimator, Modulation, Tuning, decided, smooth
from vidsr.nets.secnet.config import SECNetConfig, check
from vidsr.nets.secnet.feature_encoding import Memory
from vidsr.nets.secnet.flow import FlowNet, Pyramid, stack_pyramids
from vidsr.nets.secnet.fusion import Encoded, LocalFusion, RecurrentFusion


class RecurrentState(NamedTuple):
    """What a frame hands on: the last T2 results B x 3 x H x W in 0..1, latest first, and the encoding's memory."""

    results: tuple[Tensor, ...]
    memory: Memory


class Groundwork(NamedTuple):
    """What is known of a frame before its past is looked at.

    `base`, the bicubic enlargement, and `first`, the first result as a residual to it, are folded: B x (3 * scale^2) x
    h x w. `flows` is the motion, B x K x 2 x h x w; `large` its fields to the past results at full size, B x 2 x H x W.
    `tuning` is of the recurrent module, if the network is told how degraded the frame is.
    """

    base: Tensor
    first: Tensor
    flows: Tensor
    large: tuple[Tensor, ...]
    tuning: Tuning | None = None


class Draft(NamedTuple):
    """A frame whose memory is known and its result not yet.

    `initial` is the first result at full size, which a narrow network does without; `encoded` is what the recurrent
    part made so far, if there is one.
    """

    initial: Tensor | None
    encoded: Encoded | None
    memory: Memory


class ClipOutput(NamedTuple):
    """A clip's results B x T x 3 x H x W, first results alike, and motion fields B x T x K x 2 x h x w.

    The K fields of a frame are those of `SECNetConfig.offsets`. `estimates`, of a network that has an estimator, are
    each frame's own logits, not smoothed: B x T x 3 and B x T x 3 x h/4 x w/4.
    """

    results: Tensor
    firsts: Tensor
    flows: Tensor
    state: RecurrentState
    estimates: Estimate | None = None


class SECNet(Network):
    """The whole network. `forward` runs a clip (training); a stream calls `motion`, `fuse` and what follows."""

    def __init__(self, config: SECNetConfig) -> None:
        """Parts sized by `config`. Raises ValueError for a configuration that makes no network."""
        super().__init__()
        check(config)
        self.config: SECNetConfig = config
        self.flow = FlowNet(config.flow_width, config.flow_depth, config.flow_levels)
        self.fusion = self.recurrent = None
        if config.local_fusion:
            self.fusion = LocalFusion(
                1 + 2 * config.t1, config.fusion_width, config.fusion_blocks, config.fusion_tail, config.scale,
                config.attention,
            )  # fmt: skip
        if config.recurrent_fusion:
            self.recurrent = RecurrentFusion(
                1 + config.t2, config.recurrent_width, config.detail_widths, config.encoder_blocks,
                config.decoder_blocks, config.encoding, config.t3, config.aligned, config.attention, config.scale,
            )  # fmt: skip
        self.bicubic = BicubicPhases(config.scale)
        self.estimator = self.tune_fusion = self.tune_recurrent = None
        if config.estimator_width:
            hidden = config.modulation_width
            self.estimator = Estimator(config.estimator_width)
            self.tune_fusion = Modulation(config.fusion_width, config.fusion_blocks, hidden)
            blocks = config.encoder_blocks + config.decoder_blocks
            self.tune_recurrent = Modulation(config.recurrent_width, blocks, hidden)

    def init_state(self, current: Tensor) -> RecurrentState:
        """The state before the first frame `current` (B x 3 x h x w): no feature seen, T2 missing results.

        A missing result is 0 (Algorithm 4, line 7); in a narrow network the bicubic enlargement of `current`.
        """
        if self.recurrent is None:
            return RecurrentState((), ())
        result = depth_to_space(self.bicubic(current), self.config.scale).clamp(0, 1)
        if self.config.detail_widths:
            result = torch.zeros_like(result)
        return RecurrentState((result,) * self.config.t2, self.recurrent.encoding.start(current))

    def motion(self, target: Pyramid, sources: Sequence[Pyramid]) -> Tensor:
        """The fields from one frame to each of `sources` (in the order of `offsets`): B x K x 2 x h x w."""
        flows = self.flow(stack_pyramids([target] * len(sources)), stack_pyramids(sources))
        return torch.stack(flows.chunk(len(sources)), dim=1)

    def fuse(self, window: Sequence[Tensor], flows: Tensor, condition: Estimate | None = None) -> Tensor:
        """The first result as a folded residual to the bicubic enlargement: B x (3 * scale^2) x h x w.

        `window`: the frames t - T1 to t + T1, B x 3 x h x w each in 0..1; `flows` as `motion` gives them; `condition`,
        for a network with an estimator, what it is told of this frame.
        """
        if self.fusion is None:  # ERFFNet starts from the bicubic enlargement
            batch, _, height, width = window[0].shape
            return window[0].new_zeros(batch, 3 * self.config.scale**2, height, width)
        t1, offsets = self.config.t1, self.config.offsets
        around = [offset for offset in range(-t1, t1 + 1) if offset]
        # Bicubic, because linear interpolation would wipe out the aliasing that the fusion lives on.
        moved = warp(
            torch.cat([window[t1 + offset] for offset in around]),
            torch.cat([flows[:, offsets.index(offset)] for offset in around]),
            "bicubic",
        ).chunk(len(around))
        tuning = self._tuning(self.tune_fusion, condition, window[t1])
        residual: Tensor = self.fusion(torch.cat((*moved[:t1], window[t1].float(), *moved[t1:]), dim=1), tuning)
        return residual

    def _tuning(self, modulation: Modulation | None, condition: Estimate | None, like: Tensor) -> Tuning | None:
        if modulation is None:
            return None
        assert condition is not None, "a network with an estimator is told what it says"
        tuning: Tuning = modulation(condition, (like.shape[-2], like.shape[-1]))
        return tuning

    def ground(self, base: Tensor, first: Tensor, flows: Tensor, condition: Estimate | None = None) -> Groundwork:
        """What `base`, the folded bicubic enlargement, `first` of `fuse` and `flows` of `motion` are to the past.

        No gradient reaches the motion from here on (III-A).
        """
        flows = flows.detach()
        large = tuple(enlarge_flow(flows[:, k], self.config.scale) for k in range(self.config.t2))
        tuning = self._tuning(self.tune_recurrent, condition, base)
        return Groundwork(base, first, flows, large if self.recurrent is not None else (), tuning)

    def recall(self, memory: Memory, ground: Groundwork) -> Memory:
        """What the memory of the frame before adds to this one: all that needs no more of it than its motion."""
        return memory if self.recurrent is None else self.recurrent.encoding.recall(memory, ground.flows[:, 0])

    def encode(self, ground: Groundwork, results: Sequence[Tensor], recalled: Memory) -> Draft:
        """The frame up to its memory, from the past `results` (as in RecurrentState) and what `recall` gave."""
        base, first, scale = ground.base, ground.first, self.config.scale
        if self.recurrent is None:
            return Draft(None, None, ())
        pairs = zip(results, ground.large, strict=True)
        if self.config.detail_widths:
            past = [warp(result, field) for result, field in pairs]
            initial = depth_to_space(base + first.float(), scale)
            encoded, memory = self.recurrent(torch.cat((initial, *past), dim=1), recalled, ground.tuning)
            return Draft(initial, encoded, memory)
        folded = [fold_warped(result, field, base, scale, first.dtype) for result, field in pairs]
        encoded, memory = self.recurrent(torch.cat((first, *folded), dim=1), recalled, ground.tuning)
        return Draft(None, encoded, memory)

    def decode(
        self, ground: Groundwork, draft: Draft, state: RecurrentState, is_final: bool = False
    ) -> tuple[Tensor, RecurrentState]:
        """The final result B x 3 x H x W float32 and the state for the next frame, from this one's `state`.

        The result is clamped to 0..1 only if `is_final`, when nothing is to be learnt from what lies outside.
        """
        base, first, scale = ground.base, ground.first, self.config.scale
        residuals = [first]
        if self.recurrent is not None and draft.encoded is not None:
            residuals.append(self.recurrent.decode(*draft.encoded, ground.tuning))
        if draft.initial is not None:
            result = draft.initial + residuals[1].float()
            result = result.clamp_(0, 1) if is_final else result
        elif is_final:
            result = unfold_sum(base, tuple(residuals), scale)
        else:
            result = depth_to_space(sum(residuals, base), scale)
        if self.recurrent is None:
            return result, state
        kept = result if is_final else result.clamp(0, 1)
        return result, RecurrentState((kept, *state.results)[: self.config.t2], draft.memory)

    def refine(
        self, ground: Groundwork, state: RecurrentState, is_final: bool = False
    ) -> tuple[Tensor, RecurrentState]:
        """`recall`, `encode` and `decode` in turn; `state` as the previous frame left it."""
        draft = self.encode(ground, state.results, self.recall(state.memory, ground))
        return self.decode(ground, draft, state, is_final)

    def forward(
        self,
        clip: Tensor,
        state: RecurrentState | None = None,
        before: Tensor | None = None,
        local_only: bool = False,
        told: Tensor | None = None,
    ) -> ClipOutput:
        """A clip B x T x 3 x h x w in 0..1; the window is clamped at both ends (Algorithm 4, line 3).

        `state` and `before` (B x P x 3 x h x w, the frames before the first one, oldest first) continue an earlier
        clip.
        `local_only` leaves the recurrent module out (its pretraining is that of the local fusion): results are firsts.
        `told`, B x 3, is used in place of the network's own estimate where it is a number.
        """
        batch, length = clip.shape[:2]
        earlier = clip[:, :0] if before is None else before
        frames = torch.cat((earlier, clip), dim=1)
        here = torch.arange(earlier.shape[1], frames.shape[1], device=clip.device)

        def shifted(offset: int) -> Tensor:
            return frames[:, (here + offset).clamp(0, frames.shape[1] - 1)].flatten(0, 1)

        estimates, conditions = self._conditions(frames, length, told)
        condition = None if conditions is None else Estimate(*(part.flatten(0, 1) for part in conditions))
        config, current = self.config, clip.flatten(0, 1)
        flows = self.motion(self.flow.pyramid(current), [self.flow.pyramid(shifted(k)) for k in config.offsets])
        first = self.fuse([shifted(k) for k in range(-config.lookahead, config.lookahead + 1)], flows, condition)
        base = self.bicubic(current)
        folded_first = first.view(batch, length, *first.shape[1:])
        folded_base = base.view(batch, length, *base.shape[1:])
        per_frame = flows.view(batch, length, *flows.shape[1:])
        firsts = F.pixel_shuffle(folded_base + folded_first.float(), config.scale)
        state = self.init_state(clip[:, 0]) if state is None else state
        if local_only:
            return ClipOutput(firsts, firsts, per_frame, state, estimates)
        results = []
        for t in range(length):
            condition = None if conditions is None else Estimate(*(part[:, t] for part in conditions))
            ground = self.ground(folded_base[:, t], folded_first[:, t], per_frame[:, t], condition)
            result, state = self.refine(ground, state)
            results.append(result)
        return ClipOutput(torch.stack(results, dim=1), firsts, per_frame, state, estimates)

    def _conditions(self, frames: Tensor, length: int, told: Tensor | None) -> tuple[Estimate | None, Estimate | None]:
        """Of the last `length` of `frames`, B x T x ...: what each frame's estimate is, and what the network is told.

        Reconstruction teaches the estimator its local part alone: the numbers keep the meaning they are trained for.
        """
        if self.estimator is None:
            return None, None
        logits = Estimate(
            *(x.view(*frames.shape[:2], *x.shape[1:]) for x in self.estimator.logits(frames.flatten(0, 1)))
        )
        overall, local = (torch.sigmoid(part) for part in logits)
        told = None if told is None else told.to(frames.device)
        smoothed, decisions = None, []
        for t in range(frames.shape[1]):
            smoothed = smooth(overall[:, t].detach(), smoothed)
            decisions.append(decided(Estimate(overall[:, t], local[:, t]), smoothed, told))
        kept = decisions[-length:]
        conditions = Estimate(*(torch.stack(parts, dim=1) for parts in zip(*kept, strict=True)))
        return Estimate(*(part[:, -length:] for part in logits)), conditions
