"""ONNX export of Zooming SlowMo as separate steps on plain tensors, as a stream calls them.

A stream runs `features` once per input frame, `between` once per pair of neighbors, `shares` once per input or
interpolated moment, `step` forwards with the propagated state and backwards over the moments ahead, `result` with the
hidden states of both directions, and `picture` for an interpolated moment whose result is a residual. A network with an
estimator of degradation also has `estimate`, for each input frame. What it finds are inputs of `features` and `result`:
the overall levels as their mean over the scene so far, and for an interpolated moment the means of its neighbors'.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from vidsr.nets.export_step import Shapes, Step
from vidsr.nets.layers.conditioning import CELL, Estimate
from vidsr.nets.zsm.alignment import DeformableBlend, Prepared
from vidsr.nets.zsm.deformable_lstm import DeformableConvLSTM, LSTMState, StepInput
from vidsr.nets.zsm.network import ZoomingSlowMo


class NetworkStep(Step):
    """A step of a network, whose weights it shares."""

    def __init__(self, network: ZoomingSlowMo) -> None:
        super().__init__()
        self.network = network


class Levels(NetworkStep):
    """Maps a frame in 0..1 to its degradation levels."""

    def inputs(self, height: int, width: int) -> Shapes:
        """The frame."""
        return {"frame": (1, 3, height, width)}

    def outputs(self, height: int, width: int) -> Shapes:
        """The overall levels and those of the cells."""
        return _condition_shapes(height, width)

    def forward(self, frame: Tensor) -> Estimate:
        """The levels."""
        estimate = self.network.estimate(frame)
        assert estimate is not None, "only a network with an estimator has this step"
        return estimate


class Features(NetworkStep):
    """Maps a frame in 0..1, with an estimator also its levels, to its features on all levels, the finest first."""

    def inputs(self, height: int, width: int) -> Shapes:
        """The frame, and with an estimator its levels."""
        return {"frame": (1, 3, height, width)} | _conditions(self.network, height, width)

    def outputs(self, height: int, width: int) -> Shapes:
        """The levels."""
        return _levels("level", self.network.config.width, self.network.config.levels, height, width)

    def forward(self, frame: Tensor, *condition: Tensor) -> tuple[Tensor, ...]:
        """Levels of the frame."""
        return self.network.features(frame, Estimate(*condition) if condition else None)


class Between(NetworkStep):
    """Maps the levels of two neighbors to the feature of the moment halfway between them."""

    def inputs(self, height: int, width: int) -> Shapes:
        """The levels of the earlier frame, then those of the later one."""
        config = self.network.config
        before = _levels("before", config.width, config.levels, height, width)
        return before | _levels("after", config.width, config.levels, height, width)

    def outputs(self, height: int, width: int) -> Shapes:
        """The feature."""
        return {"feature": (1, self.network.config.width, height, width)}

    def forward(self, *levels: Tensor) -> Tensor:
        """The interpolated feature."""
        return self.network.interpolate(levels[: len(levels) // 2], levels[len(levels) // 2 :])


class Contributions(NetworkStep):
    """Maps a moment's feature (`level_1` of an input frame) to its contributions to `step` in either direction."""

    def inputs(self, height: int, width: int) -> Shapes:
        """The feature."""
        return {"feature": (1, self.network.config.width, height, width)}

    def outputs(self, height: int, width: int) -> Shapes:
        """The contributions, in the order of `flatten`."""
        return _contribution_shapes(self.network, height, width)

    def forward(self, feature: Tensor) -> tuple[Tensor, ...]:
        """All contributions."""
        return flatten(self.network.prepare_step(feature))


class RecurrentStep(NetworkStep):
    """One ConvLSTM step in either direction: maps a moment's contributions and the previous state to the next state."""

    def inputs(self, height: int, width: int) -> Shapes:
        """Contributions and state."""
        return _contribution_shapes(self.network, height, width) | self._state("", height, width)

    def outputs(self, height: int, width: int) -> Shapes:
        """The next state."""
        return self._state("_next", height, width)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        """Hidden state and cell."""
        *contributions, hidden, cell = values
        return tuple(self.network.step(unflatten(self.network, contributions), LSTMState(hidden, cell)))

    def _state(self, ending: str, height: int, width: int) -> Shapes:
        shape = (1, self.network.config.state_width, height, width)
        return {f"hidden{ending}": shape, f"cell{ending}": shape}


class Picture(NetworkStep):
    """The low-resolution head: maps a moment's feature to its image at the input's size, not clamped."""

    def inputs(self, height: int, width: int) -> Shapes:
        """The feature."""
        return {"feature": (1, self.network.config.width, height, width)}

    def outputs(self, height: int, width: int) -> Shapes:
        """The image."""
        return {"picture": (1, 3, height, width)}

    def forward(self, feature: Tensor) -> Tensor:
        """The image."""
        return self.network.synthesize(feature)


class Result(NetworkStep):
    """Maps the hidden states of both directions at a moment to the enlarged image, not clamped.

    A residual network also takes the moment's feature and an image: the input frame, or the output of `Picture` for an
    interpolated moment. A network with an estimator also takes the moment's levels.
    """

    def inputs(self, height: int, width: int) -> Shapes:
        """Hidden states; for a residual network also feature and image; with an estimator also the levels."""
        config = self.network.config
        hidden = (1, config.state_width, height, width)
        shapes: Shapes = {"forward": hidden, "backward": hidden}
        if config.residual:
            shapes |= {"feature": (1, config.width, height, width), "picture": (1, 3, height, width)}
        return shapes | _conditions(self.network, height, width)

    def outputs(self, height: int, width: int) -> Shapes:
        """The result."""
        scale = self.network.config.scale
        return {"result": (1, 3, height * scale, width * scale)}

    def forward(self, forward: Tensor, backward: Tensor, *others: Tensor) -> Tensor:
        """The result."""
        feature, image, *condition = others if self.network.config.residual else (forward, None, *others)
        assert feature is not None
        levels = Estimate(*condition) if condition else None  # type: ignore[arg-type]  # only the image may be None
        return self.network.reconstruct(feature, forward, backward, image, levels)


def parts_of(network: ZoomingSlowMo) -> dict[str, Step]:
    """All steps by name; `picture` only with a low-resolution head, `estimate` only with an estimator."""
    parts: dict[str, Step] = {
        "features": Features(network), "between": Between(network), "shares": Contributions(network),
        "step": RecurrentStep(network), "result": Result(network),
    }  # fmt: skip
    if network.config.synthesis_blocks:
        parts["picture"] = Picture(network)
    if network.estimator is not None:
        parts["estimate"] = Levels(network)
    return parts


def flatten(contributions: StepInput) -> tuple[Tensor, ...]:
    """A moment's contributions as a list of tensors; its levels only if they are moved, which takes two sides."""
    aligned = (
        [contributions.for_hidden]
        if contributions.for_cell is None
        else [contributions.for_hidden, contributions.for_cell]
    )
    tensors = []
    for part in aligned:
        rows = (part.levels, *part.contributions) if len(part.contributions) == 2 else part.contributions
        tensors += [x for row in rows for x in row]
    return *tensors, contributions.gates


def unflatten(network: ZoomingSlowMo, tensors: Sequence[Tensor]) -> StepInput:
    """The inverse of `flatten`, without levels where they are not moved."""
    *rest, gates = tensors
    row, aligned = network.config.state_levels, list[Prepared]()
    for blend in _blends(network):
        rows = [tuple(rest[row * k : row * (k + 1)]) for k in range(len(_kinds(blend)))]
        aligned.append(Prepared(rows[0], tuple(rows[1:])) if len(blend.sides) == 2 else Prepared((), tuple(rows)))
        rest = rest[row * len(rows) :]
    return StepInput(aligned[0], aligned[1] if len(aligned) > 1 else None, gates)


def _kinds(blend: DeformableBlend) -> list[str]:
    """The names of a moment's inputs to an alignment; its levels only if they are moved."""
    sides = [f"side_{side}" for side in blend.sides]
    return ["level", *sides] if len(sides) == 2 else sides


def _blends(network: ZoomingSlowMo) -> list[DeformableBlend]:
    cell = network.ConvBLSTM.forward_net
    assert isinstance(cell, DeformableConvLSTM)
    return [cell.pcd_h] if cell.joint else [cell.pcd_h, cell.pcd_c]


def _contribution_shapes(network: ZoomingSlowMo, height: int, width: int) -> Shapes:
    config, shapes = network.config, Shapes()
    for name, blend in zip(("hidden", "cell"), _blends(network), strict=False):
        for kind in _kinds(blend):
            shapes |= _levels(f"share_{name}_{kind}", config.state_width, config.state_levels, height, width)
    return shapes | {"share_gates": (1, 4 * config.state_width, height, width)}


def _conditions(network: ZoomingSlowMo, height: int, width: int) -> Shapes:
    """The levels as inputs; none without an estimator."""
    return {} if network.estimator is None else _condition_shapes(height, width)


def _condition_shapes(height: int, width: int) -> Shapes:
    return {"overall": (1, 3), "local": (1, 3, -(-height // CELL), -(-width // CELL))}


def _levels(name: str, channels: int, levels: int, height: int, width: int) -> Shapes:
    """The finest level first, each half the size of the one before, rounded up."""
    shapes: Shapes = {}
    for level in range(1, levels + 1):
        shapes[f"{name}_{level}"] = (1, channels, height, width)
        height, width = (height + 1) // 2, (width + 1) // 2
    return shapes
