"""Zooming SlowMo cut into its parts, each a step of plain tensors: what a stream calls one by one. See nets/steps.

A stream runs `features` once per given frame, `between` once per pair of neighbours, `shares` once per given or new
moment, `step` forwards with the state carried on and backwards over the moments ahead, `result` with the hidden states
of both directions, and `picture` for a new moment whose result is a residual.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vidsr.nets.export_step import Shapes, Step
from vidsr.nets.zsm.alignment import DeformableBlend, Prepared
from vidsr.nets.zsm.deformable_lstm import DeformableConvLSTM, LSTMState, StepInput
from vidsr.nets.zsm.network import ZoomingSlowMo


class Features(Step):
    """A frame in 0..1 to its features on all levels, the finest first."""

    def __init__(self, network: ZoomingSlowMo) -> None:
        """Shares the weights of `network`, as all parts do."""
        super().__init__()
        self.network = network

    def inputs(self, height: int, width: int) -> Shapes:
        """The frame."""
        return {"frame": (1, 3, height, width)}

    def outputs(self, height: int, width: int) -> Shapes:
        """The levels."""
        return _levels("level", self.network.config.width, self.network.config.levels, height, width)

    def forward(self, frame: Tensor) -> tuple[Tensor, ...]:
        """Levels of the frame."""
        return self.network.features(frame)


class Between(Step):
    """The levels of two neighbours to the feature of the moment half-way between them."""

    def __init__(self, network: ZoomingSlowMo) -> None:
        """As for `Features`."""
        super().__init__()
        self.network = network

    def inputs(self, height: int, width: int) -> Shapes:
        """The levels of the earlier frame, then those of the later one."""
        config = self.network.config
        before = _levels("before", config.width, config.levels, height, width)
        return before | _levels("after", config.width, config.levels, height, width)

    def outputs(self, height: int, width: int) -> Shapes:
        """The feature."""
        return {"feature": (1, self.network.config.width, height, width)}

    def forward(self, *levels: Tensor) -> Tensor:
        """The new feature."""
        return self.network.interpolate(levels[: len(levels) // 2], levels[len(levels) // 2 :])


class Shares(Step):
    """A moment's feature (`level_1` if it is given) to what it contributes to `step` in either direction."""

    def __init__(self, network: ZoomingSlowMo) -> None:
        """As for `Features`."""
        super().__init__()
        self.network = network

    def inputs(self, height: int, width: int) -> Shapes:
        """The feature."""
        return {"feature": (1, self.network.config.width, height, width)}

    def outputs(self, height: int, width: int) -> Shapes:
        """The shares, in the order of `flatten`."""
        return _shares(self.network, height, width)

    def forward(self, feature: Tensor) -> tuple[Tensor, ...]:
        """All shares."""
        return flatten(self.network.prepare_step(feature))


class RecurrentStep(Step):
    """One step of the ConvLSTM, in either direction: the shares of a moment and the state before it to the state."""

    def __init__(self, network: ZoomingSlowMo) -> None:
        """As for `Features`."""
        super().__init__()
        self.network = network

    def inputs(self, height: int, width: int) -> Shapes:
        """Shares and state."""
        return _shares(self.network, height, width) | self._state("", height, width)

    def outputs(self, height: int, width: int) -> Shapes:
        """The next state."""
        return self._state("_next", height, width)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Hidden state and cell."""
        *shares, hidden, cell = values
        return tuple(self.network.step(unflatten(self.network, shares), LSTMState(hidden, cell)))

    def _state(self, ending: str, height: int, width: int) -> Shapes:
        shape = (1, self.network.config.state_width, height, width)
        return {f"hidden{ending}": shape, f"cell{ending}": shape}


class Picture(Step):
    """The low-resolution head: a moment's feature to its picture at the input's size, not clamped."""

    def __init__(self, network: ZoomingSlowMo) -> None:
        """As for `Features`."""
        super().__init__()
        self.network = network

    def inputs(self, height: int, width: int) -> Shapes:
        """The feature."""
        return {"feature": (1, self.network.config.width, height, width)}

    def outputs(self, height: int, width: int) -> Shapes:
        """The picture."""
        return {"picture": (1, 3, height, width)}

    def forward(self, feature: Tensor) -> Tensor:
        """The picture."""
        return self.network.synthesise(feature)


class Result(Step):
    """The hidden states of both directions at a moment to the large picture, not clamped.

    A residual network takes the moment's feature too, and a picture: the given frame, or for a new moment what
    `Picture` makes of its feature.
    """

    def __init__(self, network: ZoomingSlowMo) -> None:
        """As for `Features`."""
        super().__init__()
        self.network = network

    def inputs(self, height: int, width: int) -> Shapes:
        """Hidden states, and for a residual network feature and picture."""
        config = self.network.config
        hidden = (1, config.state_width, height, width)
        shapes: Shapes = {"forward": hidden, "backward": hidden}
        if config.residual:
            shapes |= {"feature": (1, config.width, height, width), "picture": (1, 3, height, width)}
        return shapes

    def outputs(self, height: int, width: int) -> Shapes:
        """The result."""
        scale = self.network.config.scale
        return {"result": (1, 3, height * scale, width * scale)}

    def forward(
        self, forward: Tensor, backward: Tensor, feature: Tensor | None = None, picture: Tensor | None = None
    ) -> Tensor:
        """The result."""
        # A network that is not residual does not look at the feature.
        return self.network.reconstruct(forward if feature is None else feature, forward, backward, picture)


def parts_of(network: ZoomingSlowMo) -> dict[str, Step]:
    """All parts by name; `picture` only if there is a low-resolution head."""
    parts: dict[str, Step] = {
        "features": Features(network), "between": Between(network), "shares": Shares(network),
        "step": RecurrentStep(network), "result": Result(network),
    }  # fmt: skip
    return parts | ({"picture": Picture(network)} if network.config.synthesis_blocks else {})


def flatten(shares: StepInput) -> tuple[Tensor, ...]:
    """A moment's shares as a row of tensors: its levels only if they are moved, which takes two sides."""
    aligned = [shares.for_hidden] if shares.for_cell is None else [shares.for_hidden, shares.for_cell]
    tensors = []
    for part in aligned:
        rows = (part.levels, *part.shares) if len(part.shares) == 2 else part.shares
        tensors += [x for row in rows for x in row]
    return *tensors, shares.gates


def unflatten(network: ZoomingSlowMo, tensors: Sequence[Tensor]) -> StepInput:
    """The opposite of `flatten`, with no levels where they are not moved."""
    *rest, gates = tensors
    row, aligned = network.config.state_levels, list[Prepared]()
    for blend in _blends(network):
        rows = [tuple(rest[row * k : row * (k + 1)]) for k in range(len(_kinds(blend)))]
        aligned.append(Prepared(rows[0], tuple(rows[1:])) if len(blend.sides) == 2 else Prepared((), tuple(rows)))
        rest = rest[row * len(rows) :]
    return StepInput(aligned[0], aligned[1] if len(aligned) > 1 else None, gates)


def _kinds(blend: DeformableBlend) -> list[str]:
    """What a moment gives to an alignment, by name: its levels only where they are moved."""
    sides = [f"side_{side}" for side in blend.sides]
    return ["level", *sides] if len(sides) == 2 else sides


def _blends(network: ZoomingSlowMo) -> list[DeformableBlend]:
    cell = network.ConvBLSTM.forward_net
    assert isinstance(cell, DeformableConvLSTM)
    return [cell.pcd_h] if cell.joint else [cell.pcd_h, cell.pcd_c]


def _shares(network: ZoomingSlowMo, height: int, width: int) -> Shapes:
    config, shapes = network.config, Shapes()
    for name, blend in zip(("hidden", "cell"), _blends(network), strict=False):
        for kind in _kinds(blend):
            shapes |= _levels(f"share_{name}_{kind}", config.state_width, config.state_levels, height, width)
    return shapes | {"share_gates": (1, 4 * config.state_width, height, width)}


def _levels(name: str, channels: int, levels: int, height: int, width: int) -> Shapes:
    """The finest level first, each half the size of the one before, rounded up."""
    shapes: Shapes = {}
    for level in range(1, levels + 1):
        shapes[f"{name}_{level}"] = (1, channels, height, width)
        height, width = (height + 1) // 2, (width + 1) // 2
    return shapes
