"""Networks cut into steps of plain tensors, as a graph format wants them. No graph is made or run here.

A step's state starts as zeros of the shapes that `inputs` says, at the start of a film and at each scene cut; after
that, every output NAME_next is the input NAME of the next step. Batch 1 outside; any height and width.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vidsr.nets.export_step import Shapes, Step
from vidsr.nets.secnet.conditioning import decided, smooth, told_values
from vidsr.nets.secnet.feature_encoding import Bidirectional, Memory
from vidsr.nets.secnet.network import RecurrentState, SECNet


class CountedMemory(nn.Module):
    """A bidirectional encoding whose memory always has T3 features: how many of them are real is counted beside them.

    The memory is (number of frames seen, T3 features, oldest first); features not there yet may hold anything finite.
    """

    def __init__(self, encoding: Bidirectional) -> None:
        """Shares the weights of `encoding`."""
        super().__init__()
        self.encoding = encoding

    def recall(self, memory: Memory, flow: Tensor) -> Memory:
        """As `Bidirectional.recall`."""
        return self.encoding.recall(memory, flow)

    def forward(self, feature: Tensor, recalled: Memory) -> tuple[Tensor, Memory]:
        """As `Bidirectional.forward`, and to the same result."""
        seen, *past = recalled
        known = (*past, self.encoding.project(feature))
        is_real = [seen > len(past) - 0.5 - k for k in range(len(past))]
        hidden = self.encoding.encode(known, [*is_real, torch.ones_like(seen) > 0])
        return hidden, (seen, *known[1:])


class SECNetStep(Step):
    """One frame of a SECNet stream, equal to what RecurrentEngine makes of it in float32, mirrored networks too.

    Inputs: `frames` K x 3 x h x w in 0..1, those of a frame's window and of its past (`offsets`), oldest first, clamped
    to the scene at both ends; then the state. Outputs: `picture` 1 x 3 x 4h x 4w in 0..1; then the next state.
    """

    told: Tensor | None

    def __init__(self, network: SECNet, told: Sequence[float | None] = (None, None, None)) -> None:
        """`network` is copied, not changed; what it is `told`, as RecurrentEngine has it, is a part of the step."""
        super().__init__()
        self.register_buffer("told", told_values(told), persistent=False)
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
        """`frames` and the state."""
        return {"frames": (len(self.offsets), 3, height, width)} | self._state(height, width)

    def outputs(self, height: int, width: int) -> Shapes:
        """`picture` and the next state."""
        scale = self.network.config.scale
        state = {f"{name}_next": shape for name, shape in self._state(height, width).items()}
        return {"picture": (1, 3, height * scale, width * scale)} | state

    def forward(self, frames: Tensor, *before: Tensor) -> tuple[Tensor, ...]:
        """One step; see the class."""
        state = before
        network, config = self.network, self.network.config
        pictures = []
        for k in range(len(self.offsets)):
            picture = frames[k : k + 1]
            pictures.append(torch.cat((picture, picture.flip(-1))) if config.mirrored else picture)
        current, pyramids = pictures[self.past], [network.flow.pyramid(picture) for picture in pictures]
        flows = network.motion(pyramids[self.past], [pyramids[self.past + offset] for offset in config.offsets])
        condition = after_judged = None
        if network.estimator is not None:
            estimate, judged, state = network.estimator(current), state[-1], state[:-1]
            after_judged = smooth(estimate.overall, judged)
            condition = decided(estimate, after_judged, self.told)
        first = network.fuse(pictures[self.past - config.lookahead :], flows, condition)
        ground = network.ground(network.bicubic(current), first, flows, condition)
        if not state:
            result, _ = network.refine(ground, RecurrentState((), ()))
            return (self._joined(result.clamp(0, 1)),)
        seen, results, memory = state[0], state[1 : 1 + config.t2], state[1 + config.t2 :]
        if not config.detail_widths:  # in a narrow network the bicubic enlargement stands for a missing result
            initial = network.init_state(current).results
            results = tuple(torch.where(seen > 0, *pair) for pair in zip(results, initial, strict=True))
        is_counted = config.t3 > 0
        past = RecurrentState(results, (seen, *memory) if is_counted else memory)
        result, after = network.refine(ground, past)
        memory = after.memory[1:] if is_counted else after.memory
        picture = result.clamp(0, 1)
        judged_next = () if after_judged is None else (after_judged,)
        return (
            self._joined(picture),
            torch.clamp(seen + 1, max=max(1, config.t3)),
            *after.results,
            *memory,
            *judged_next,
        )

    def _joined(self, picture: Tensor) -> Tensor:
        if not self.network.config.mirrored:
            return picture
        return (picture[:1] + picture[1:].flip(-1)) / 2

    def _state(self, height: int, width: int) -> Shapes:
        """`seen`: how many frames of the scene came before, up to T3 (1 at least)."""
        config = self.network.config
        if self.network.recurrent is None:
            return {}
        large = (self.batch, 3, height * config.scale, width * config.scale)
        shapes: Shapes = {"seen": (1,)} | dict.fromkeys((f"result_{k}" for k in range(1, config.t2 + 1)), large)
        shapes |= dict.fromkeys(self.features, (self.batch, self.feature_channels, height, width))
        return shapes | ({"degradation": (self.batch, 4)} if self.network.estimator is not None else {})
