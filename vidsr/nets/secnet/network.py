"""SECNet: self-enhanced convolutional network for video super-resolution (Fang, Li, Han, Yu).

Local fusion of a temporal window of low-resolution frames gives a first result (section II-B); the recurrent module
refines it with the warped past results and the encoded past features (section II-C). The same classes implement the
paper's network and the narrow ones. Ours, where the paper gives no detail: the first result is a residual to the
bicubic enlargement. Ours, for narrow networks only (no `detail_widths`): images are folded to low resolution as
residuals to the bicubic enlargement, so that bf16 only holds small numbers, and missing past results are that
enlargement, not 0. Ours as well: the branch of reference photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.nets.base import Network
from vidsr.nets.layers.blocks import BicubicPhases, depth_to_space, fill_squares, space_to_depth
from vidsr.nets.layers.conditioning import Estimate, Estimator, Modulation, Tuning, clip_conditions
from vidsr.nets.layers.pixel_shuffle import fold_warped, unfold_sum
from vidsr.nets.layers.warp import enlarge_flow, warp
from vidsr.nets.secnet.config import SECNetConfig, check
from vidsr.nets.secnet.feature_encoding import Memory
from vidsr.nets.secnet.flow import FlowNet, Pyramid, stack_pyramids
from vidsr.nets.secnet.fusion import Encoded, LocalFusion, RecurrentFusion
from vidsr.nets.secnet.references import PosedReferences, ReferenceBranch, Referred


class RecurrentState(NamedTuple):
    """State after a frame: the last T2 results B x 3 x H x W in 0..1, latest first, and the encoding's memory."""

    results: tuple[Tensor, ...]
    memory: Memory


class FusedFrame(NamedTuple):
    """A frame after motion estimation and local fusion; nothing in it depends on past results.

    `base`, the bicubic enlargement, and `first`, the first result as a residual to it, are folded: B x (3 * fold^2) x
    h/U x w/U. `flows` is the motion, B x K x 2 x h/U x w/U; `large` are its fields to the past results at full size, B
    x 2 x H x W. U is the configuration's `unshuffle`, `fold` is U times the scale. `tuning` is the modulation of
    the recurrent module, for a network with an estimator.
    """

    base: Tensor
    first: Tensor
    flows: Tensor
    large: tuple[Tensor, ...]
    tuning: Tuning | None = None


class EncoderOutput(NamedTuple):
    """A frame after the encoder: its memory is final, its result not yet decoded.

    `initial` is the first result at full size, None in a narrow network; `encoded` is the input of the decoder, None
    without a recurrent module.
    """

    initial: Tensor | None
    encoded: Encoded | None
    memory: Memory


class ClipOutput(NamedTuple):
    """Results and first results of a clip, both B x T x 3 x H x W, and motion fields B x T x K x 2 x h/U x w/U.

    The K fields of a frame are those of `SECNetConfig.offsets`. `estimates`, for a network with an estimator, are the
    logits of each frame, not smoothed: B x T x 3 and B x T x 3 x h/4 x w/4. `referred`, with references, has those of
    frame t of clip b at index b * T + t.
    """

    results: Tensor
    firsts: Tensor
    flows: Tensor
    state: RecurrentState
    estimates: Estimate | None = None
    referred: Referred | None = None


class ClipReferences(NamedTuple):
    """Reference photographs of a clip, B x n x 3 x S x S in 0..1, upright at the scale of enlarged faces.

    `poses`, B x T x n x 2 x 3, and `present`, B x n, are as in PosedReferences.
    """

    photographs: Tensor
    poses: Tensor
    present: Tensor | None = None


class SECNet(Network):
    """The complete network. `forward` runs a clip (training); a stream calls `motion`, `fuse` and the later methods."""

    def __init__(self, config: SECNetConfig) -> None:
        """Builds the network of `config`. Raises ValueError for an invalid configuration."""
        super().__init__()
        check(config)
        self.config: SECNetConfig = config
        self.flow = FlowNet(config.flow_width, config.flow_depth, config.flow_levels)
        self.fusion = self.recurrent = None
        if config.local_fusion:
            self.fusion = LocalFusion(
                1 + 2 * config.t1, config.fusion_width, config.fusion_blocks, config.fusion_tail, config.fold,
                config.attention, config.unshuffle,
            )  # fmt: skip
        if config.recurrent_fusion:
            self.recurrent = RecurrentFusion(
                1 + config.t2, config.recurrent_width, config.detail_widths, config.encoder_blocks,
                config.decoder_blocks, config.encoding, config.t3, config.aligned, config.attention, config.fold,
            )  # fmt: skip
        self.bicubic = BicubicPhases(config.scale, config.unshuffle)
        self.references = None
        if config.reference_width:
            self.references = ReferenceBranch(config.reference_width, config.scale)
        self.estimator = self.tune_fusion = self.tune_recurrent = None
        if config.estimator_width:
            hidden, unshuffle = config.modulation_width, config.unshuffle
            self.estimator = Estimator(config.estimator_width)
            self.tune_fusion = Modulation(config.fusion_width, config.fusion_blocks, hidden, unshuffle)
            blocks = config.encoder_blocks + config.decoder_blocks
            self.tune_recurrent = Modulation(config.recurrent_width, blocks, hidden, unshuffle)

    def init_state(self, current: Tensor) -> RecurrentState:
        """The state before the first frame `current` (B x 3 x h x w): empty memory, T2 missing results."""
        if self.recurrent is None:
            return RecurrentState((), ())
        small = current[..., :: self.config.unshuffle, :: self.config.unshuffle]
        return RecurrentState((self.missing_result(current),) * self.config.t2, self.recurrent.encoding.start(small))

    def missing_result(self, current: Tensor) -> Tensor:
        """What stands for a past result before the first frame `current` (B x 3 x h x w): B x 3 x H x W.

        It is 0 (Algorithm 4, line 7), in a narrow network the bicubic enlargement of `current`. With an `unshuffle` it
        covers whole squares, see `decode`.
        """
        result = depth_to_space(self.bicubic(current), self.config.fold).clamp(0, 1)
        return torch.zeros_like(result) if self.config.detail_widths else result

    def pyramid(self, image: Tensor) -> Pyramid:
        """What motion estimation sees of an image B x 3 x h x w in 0..1; computed once for all fields of a frame."""
        unshuffle = self.config.unshuffle
        return self.flow.pyramid(image if unshuffle == 1 else F.avg_pool2d(fill_squares(image, unshuffle), unshuffle))

    def motion(self, target: Pyramid, sources: Sequence[Pyramid]) -> Tensor:
        """The fields from one frame to each of `sources` (in the order of `offsets`): B x K x 2 x h/U x w/U."""
        flows = self.flow(stack_pyramids([target] * len(sources)), stack_pyramids(sources))
        return torch.stack(flows.chunk(len(sources)), dim=1)

    def fuse(self, window: Sequence[Tensor], flows: Tensor, condition: Estimate | None = None) -> Tensor:
        """The first result as a folded residual to the bicubic enlargement: B x (3 * fold^2) x h/U x w/U.

        `window`: the frames t - T1 to t + T1, each B x 3 x h x w in 0..1; `flows`: the result of `motion`; `condition`:
        the degradation levels of this frame, required by a network with an estimator.
        """
        if self.fusion is None:  # ERFFNet starts from the bicubic enlargement
            batch, _, height, width = window[0].shape
            unshuffle = self.config.unshuffle
            return window[0].new_zeros(batch, 3 * self.config.fold**2, -(-height // unshuffle), -(-width // unshuffle))
        t1, offsets, unshuffle = self.config.t1, self.config.offsets, self.config.unshuffle
        around = [offset for offset in range(-t1, t1 + 1) if offset]
        # Bicubic, because linear interpolation would remove the aliasing that the fusion relies on.
        window = [fill_squares(image, unshuffle) for image in window]
        moved = warp(
            torch.cat([window[t1 + offset] for offset in around]),
            enlarge_flow(torch.cat([flows[:, offsets.index(offset)] for offset in around]), unshuffle),
            "bicubic",
        ).chunk(len(around))
        frames = torch.cat((*moved[:t1], window[t1].float(), *moved[t1:]), dim=1)
        seen = frames if unshuffle == 1 else space_to_depth(frames, unshuffle)
        residual: Tensor = self.fusion(seen, self._tuning(self.tune_fusion, condition, seen))
        return residual

    def _tuning(self, modulation: Modulation | None, condition: Estimate | None, like: Tensor) -> Tuning | None:
        if modulation is None:
            return None
        assert condition is not None, "a network with an estimator needs a condition"
        tuning: Tuning = modulation(condition, (like.shape[-2], like.shape[-1]))
        return tuning

    def fused_frame(self, base: Tensor, first: Tensor, flows: Tensor, condition: Estimate | None = None) -> FusedFrame:
        """Prepares a frame for the recurrent module from `base`, the folded bicubic enlargement, `first` and `flows`.

        `first` is the result of `fuse`, `flows` that of `motion`; from here on, no gradient reaches the motion (III-A).
        """
        flows = flows.detach()
        large = tuple(enlarge_flow(flows[:, k], self.config.fold) for k in range(self.config.t2))
        tuning = self._tuning(self.tune_recurrent, condition, base)
        return FusedFrame(base, first, flows, large if self.recurrent is not None else (), tuning)

    def recall(self, memory: Memory, fused: FusedFrame) -> Memory:
        """The part of the encoding that needs only the previous memory and the motion of this frame."""
        return memory if self.recurrent is None else self.recurrent.encoding.recall(memory, fused.flows[:, 0])

    def encode(self, fused: FusedFrame, results: Sequence[Tensor], recalled: Memory) -> EncoderOutput:
        """Runs the encoder on the past `results` (as in RecurrentState); `recalled` is the result of `recall`."""
        base, first, fold = fused.base, fused.first, self.config.fold
        if self.recurrent is None:
            return EncoderOutput(None, None, ())
        pairs = zip(results, fused.large, strict=True)
        if self.config.detail_widths:
            past = [warp(result, field) for result, field in pairs]
            initial = depth_to_space(base + first.float(), fold)
            encoded, memory = self.recurrent(torch.cat((initial, *past), dim=1), recalled, fused.tuning)
            return EncoderOutput(initial, encoded, memory)
        folded = [fold_warped(result, field, base, fold, first.dtype) for result, field in pairs]
        images = torch.cat((first, *folded), dim=1)
        encoded, memory = self.recurrent(images, recalled, fused.tuning)
        return EncoderOutput(None, encoded, memory)

    def decode(
        self, fused: FusedFrame, encoder_output: EncoderOutput, state: RecurrentState, is_final: bool = False
    ) -> tuple[Tensor, RecurrentState]:
        """The final result B x 3 x H x W float32 and the state for the next frame; `state` is that of the previous one.

        With an `unshuffle` of U the result covers whole squares of U x U input pixels: callers crop it to the input's
        size times the scale. It is clamped to 0..1 only if `is_final` (inference): in training, values outside must
        give gradients.
        """
        base, first, fold = fused.base, fused.first, self.config.fold
        residuals = [first]
        if self.recurrent is not None and encoder_output.encoded is not None:
            residuals.append(self.recurrent.decode(*encoder_output.encoded, fused.tuning))
        if encoder_output.initial is not None:
            result = encoder_output.initial + residuals[1].float()
            result = result.clamp_(0, 1) if is_final else result
        elif is_final:
            result = unfold_sum(base, tuple(residuals), fold)
        else:
            result = depth_to_space(sum(residuals, base), fold)
        if self.recurrent is None:
            return result, state
        kept = result if is_final else result.clamp(0, 1)
        return result, RecurrentState((kept, *state.results)[: self.config.t2], encoder_output.memory)

    def refer(self, result: Tensor, references: PosedReferences) -> Referred:
        """A result of `decode`, B x 3 x H x W in 0..1, with the details of references; not for the state.

        Past results stay without them, so that what a photograph adds to one frame does not reach the next. Only for a
        network with a `reference_width`.
        """
        assert self.references is not None
        referred: Referred = self.references(result, references)
        return referred

    def refine(self, fused: FusedFrame, state: RecurrentState, is_final: bool = False) -> tuple[Tensor, RecurrentState]:
        """Runs `recall`, `encode` and `decode`; `state` is that of the previous frame."""
        encoder_output = self.encode(fused, state.results, self.recall(state.memory, fused))
        return self.decode(fused, encoder_output, state, is_final)

    def forward(
        self,
        clip: Tensor,
        state: RecurrentState | None = None,
        before: Tensor | None = None,
        local_only: bool = False,
        overrides: Tensor | None = None,
        references: ClipReferences | None = None,
    ) -> ClipOutput:
        """A clip B x T x 3 x h x w in 0..1; the window is clamped at both ends (Algorithm 4, line 3).

        `state` and `before` (B x P x 3 x h x w, the frames before the first one, oldest first) continue an earlier
        clip. `local_only` skips the recurrent module (to pretrain local fusion and motion); results are first results.
        `overrides`, B x 3, replaces the network's own estimates of the degradation levels where it is not NaN.
        `references` are photographs, for a network with a `reference_width`.
        """
        batch, length = clip.shape[:2]
        earlier = clip[:, :0] if before is None else before
        frames = torch.cat((earlier, clip), dim=1)
        here = torch.arange(earlier.shape[1], frames.shape[1], device=clip.device)

        def shifted(offset: int) -> Tensor:
            return frames[:, (here + offset).clamp(0, frames.shape[1] - 1)].flatten(0, 1)

        estimates, conditions = self._conditions(frames, length, overrides)
        condition = None if conditions is None else Estimate(*(part.flatten(0, 1) for part in conditions))
        config, current = self.config, clip.flatten(0, 1)
        flows = self.motion(self.pyramid(current), [self.pyramid(shifted(k)) for k in config.offsets])
        first = self.fuse([shifted(k) for k in range(-config.lookahead, config.lookahead + 1)], flows, condition)
        base = self.bicubic(current)
        folded_first = first.view(batch, length, *first.shape[1:])
        folded_base = base.view(batch, length, *base.shape[1:])
        per_frame = flows.view(batch, length, *flows.shape[1:])
        height, width = (side * config.scale for side in clip.shape[-2:])
        firsts = F.pixel_shuffle(folded_base + folded_first.float(), config.fold)[..., :height, :width]
        state = self.init_state(clip[:, 0]) if state is None else state
        if local_only:
            return ClipOutput(firsts, firsts, per_frame, state, estimates)
        results = []
        for t in range(length):
            condition = None if conditions is None else Estimate(*(part[:, t] for part in conditions))
            fused = self.fused_frame(folded_base[:, t], folded_first[:, t], per_frame[:, t], condition)
            result, state = self.refine(fused, state)
            results.append(result[..., :height, :width])
        stacked, referred = torch.stack(results, dim=1), None
        if references is not None:
            referred = self.refer(stacked.flatten(0, 1), self._posed(references, length))
            stacked = referred.image.view(stacked.shape)
        return ClipOutput(stacked, firsts, per_frame, state, estimates, referred)

    def _posed(self, references: ClipReferences, length: int) -> PosedReferences:
        """The references of a clip for each of its `length` frames, as one batch."""
        assert self.references is not None
        photographs, poses, present = references
        details = self.references.describe(photographs)[:, None].expand(-1, length, -1, -1, -1, -1).flatten(0, 1)
        if present is not None:
            present = present[:, None].expand(-1, length, -1).flatten(0, 1)
        return PosedReferences(details, poses.flatten(0, 1), present)

    def _conditions(
        self, frames: Tensor, length: int, overrides: Tensor | None
    ) -> tuple[Estimate | None, Estimate | None]:
        """Estimates (logits) and conditions of the last `length` of `frames`, both B x T x ..."""
        if self.estimator is None:
            return None, None
        logits, conditions = clip_conditions(self.estimator, frames, overrides)
        return Estimate(*(part[:, -length:] for part in logits)), Estimate(*(part[:, -length:] for part in conditions))
