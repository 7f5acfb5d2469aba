"""ONNX export of SECNet: one step of a stream as a module on plain tensors.

At the start of a video and at each scene cut, the state is zeros of the shapes in `inputs`. After that, each output
NAME_next is the input NAME of the next step. Frames have batch size 1 and any height and width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vidsr.nets.export_step import Shapes, Step
from vidsr.nets.layers.conditioning import apply_overrides, overrides_tensor, smooth
from vidsr.nets.secnet.feature_encoding import Bidirectional, Memory
from vidsr.nets.secnet.network import RecurrentState, SECNet


class CountedMemory(nn.Module):
    """A bidirectional encoding whose memory always has T3 features, and the number of frames seen so far.

    The memory is (number of frames seen, T3 features, oldest first); missing features may have any finite values.
    """

    def __init__(self, encoding: Bidirectional) -> None:
        """Shares the weights of `encoding`."""
        super().__init__()
        self.encoding = encoding

    def recall(self, memory: Memory, flow: Tensor) -> Memory:
        """As `Bidirectional.recall`."""
        return self.encoding.recall(memory, flow)

    def forward(self, feature: Tensor, recalled: Memory) -> tuple[Tensor, Memory]:
        """As `Bidirectional.forward`, with the same result."""
        seen, *past = recalled
        features = (*past, self.encoding.project(feature))
        is_real = [seen > len(past) - 0.5 - k for k in range(len(past))]
        hidden = self.encoding.encode(features, [*is_real, torch.ones_like(seen) > 0])
        return hidden, (seen, *features[1:])


class SECNetStep(Step):
    """One step of a SECNet stream, equal to RecurrentEngine in float32; with self-ensemble if the network is mirrored.

    Inputs: `frames` K x 3 x h x w in 0..1, the frames at `offsets` (temporal window and past), oldest first, clamped to
    the scene at both ends; then the state. Outputs: `picture` 1 x 3 x H x W in 0..1; then the next state.
    """

    overrides: Tensor | None

    def __init__(
        self,
        network: SECNet,
        overrides: Sequence[float | None] = (None, None, None),
        takes_levels: bool = False,
    ) -> None:
        """`network` is copied. The `overrides` of its estimates, as in RecurrentEngine, become part of the step.

        With `takes_levels` there is an input `levels` after the frames, B x 3: the overall levels of the whole frame,
        NaN where the step is to estimate them.
        """
        super().__init__()
        self.takes_levels = takes_levels
        self.register_buffer("overrides", overrides_tensor(overrides), persistent=False)
        self.network = copy.deepcopy(network).float().eval()
        config, recurrent = network.config, self.network.recurrent
        self.past = -min(config.offsets)
        self.offsets = range(-self.past, config.lookahead + 1)
        self.batch = 2 if config.mirrored else 1
        self.features: list[str] = []
        if recurrent is not None and isinstance(recurrent.encoding, Bidirectional):
            self.features = [f"feature_{k}" for k in range(config.t3, 0, -1)]
            self.feature_channels = recurrent.encoding.projected_channels
            recurrent.encoding = CountedMemory(recurrent.encoding)  # type: ignore[assignment]  # the same call
        elif recurrent is not None:
            self.features = ["hidden", "cell"]
            self.feature_channels = config.recurrent_width

    def inputs(self, height: int, width: int) -> Shapes:
        """Shapes of `frames`, `levels` if it is an input, and the state."""
        levels: Shapes = {"levels": (self.batch, 3)} if self.takes_levels else {}
        return {"frames": (len(self.offsets), 3, height, width)} | levels | self._state(height, width)

    def outputs(self, height: int, width: int) -> Shapes:
        """Shapes of `picture` and the next state."""
        scale = self.network.config.scale
        state = {f"{name}_next": shape for name, shape in self._state(height, width).items()}
        return {"picture": (1, 3, height * scale, width * scale)} | state

    def forward(self, frames: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Runs one step; see the class."""
        network, config = self.network, self.network.config
        images = []
        for k in range(len(self.offsets)):
            image = frames[k : k + 1]
            images.append(torch.cat((image, image.flip(-1))) if config.mirrored else image)
        current, pyramids = images[self.past], [network.pyramid(image) for image in images]
        flows = network.motion(pyramids[self.past], [pyramids[self.past + offset] for offset in config.offsets])
        condition = smoothed = levels = None
        if self.takes_levels:
            levels, *state = state  # type: ignore[assignment]
        if network.estimator is not None:
            estimate, previous, state = network.estimator(current), state[-1], state[:-1]
            if levels is not None:
                estimate = estimate._replace(overall=torch.where(torch.isnan(levels), estimate.overall, levels))
            smoothed = smooth(estimate.overall, previous)
            condition = apply_overrides(estimate, smoothed, self.overrides)
        first = network.fuse(images[self.past - config.lookahead :], flows, condition)
        fused = network.fused_frame(network.bicubic(current), first, flows, condition)
        if not state:
            result, _ = network.refine(fused, RecurrentState((), ()))
            return (self._merge_ensemble(result.clamp(0, 1), current),)
        seen, results, memory = state[0], state[1 : 1 + config.t2], state[1 + config.t2 :]
        if not config.detail_widths:  # narrow networks: a missing result is replaced by the bicubic enlargement
            missing = network.missing_result(current)
            results = tuple(torch.where(seen > 0, result, missing) for result in results)
        is_counted = config.t3 > 0
        past = RecurrentState(results, (seen, *memory) if is_counted else memory)
        result, after = network.refine(fused, past)
        memory = after.memory[1:] if is_counted else after.memory
        image = result.clamp(0, 1)
        smoothed_next = () if smoothed is None else (smoothed,)
        return (
            self._merge_ensemble(image, current),
            torch.clamp(seen + 1, max=max(1, config.t3)),
            *after.results,
            *memory,
            *smoothed_next,
        )

    def levels(self, state: Sequence[Tensor]) -> Tensor | None:
        """The degradation levels that a frame was enhanced with, 3 values in 0..1; `state` is the one after it.

        None for a network without an estimator.
        """
        if self.network.estimator is None or not state:
            return None
        estimated = state[-1][:, :3].mean(0)
        if self.overrides is None:
            return estimated
        overrides = self.overrides[0].to(estimated)
        return torch.where(torch.isnan(overrides), estimated, overrides)

    def _merge_ensemble(self, image: Tensor, source: Tensor) -> Tensor:
        if self.network.config.unshuffle > 1:  # the result covers whole squares
            height, width = (side * self.network.config.scale for side in source.shape[-2:])
            image = image[..., :height, :width]
        if not self.network.config.mirrored:
            return image
        return (image[:1] + image[1:].flip(-1)) / 2

    def _state(self, height: int, width: int) -> Shapes:
        """Shapes of the state; `seen` counts the previous frames of the scene, up to max(1, T3)."""
        config = self.network.config
        if self.network.recurrent is None:
            return {}
        small = (-(-height // config.unshuffle), -(-width // config.unshuffle))
        large = (self.batch, 3, small[0] * config.fold, small[1] * config.fold)
        shapes: Shapes = {"seen": (1,)} | dict.fromkeys((f"result_{k}" for k in range(1, config.t2 + 1)), large)
        shapes |= dict.fromkeys(self.features, (self.batch, self.feature_channels, *small))
        return shapes | ({"degradation": (self.batch, 4)} if self.network.estimator is not None else {})
