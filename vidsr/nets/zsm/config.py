"""The configuration of a Zooming SlowMo network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vidsr.nets.layers.conditioning import CELL

SCALE = 4
WINDOW = 4  # input frames of a clip, as published and trained


@dataclass(frozen=True, slots=True)
class ZSMConfig:
    """The sizes of the parts; the defaults are those of the published network.

    `levels`: pyramid levels of the interpolation. `kernel`, `groups`: kernel side and channel groups of all deformable
    convolutions. `shared_sides`: the interpolation aligns both neighbors with the same weights. `state_sides`: 2 aligns
    state and feature with each other, 1 only the state. `state_joint`: the cell is aligned with the offsets of the
    hidden state. `upsampler_width`: 0 for one convolution and one pixel shuffle. `synthesis_blocks`: residual blocks of
    the low-resolution head (k3, 5 in the paper); 0 for no head, as in the released checkpoint. `residual`: the
    ConvLSTM's result is added to its input, and the network's result to the bicubic enlargement of the frame, or of the
    head's image for interpolated frames. An `estimator_width` (ours) above 0 adds the estimator of blur, noise and
    compression of SECNet, and the modulation of the feature extraction and of the reconstruction by their levels, with
    `modulation_width` hidden units.
    """

    width: int = 64
    front_blocks: int = 5
    back_blocks: int = 40
    levels: int = 3
    kernel: int = 3
    groups: int = 8
    state_width: int = 64
    state_levels: int = 3
    state_sides: int = 2
    state_joint: bool = False
    upsampler_width: int = 64
    synthesis_blocks: int = 0
    shared_sides: bool = False
    residual: bool = False
    estimator_width: int = 0
    modulation_width: int = 32

    def __post_init__(self) -> None:
        """Raises ValueError for sizes that do not fit together."""
        if self.groups < 1 or min(self.width, self.state_width) < 1 or max(self.levels, self.state_levels) > 8:
            raise ValueError("widths and groups must be at least 1, the levels 8 at most")
        if self.width % self.groups or self.state_width % self.groups:
            raise ValueError(f"the widths must be multiples of the {self.groups} deformable groups")
        if self.kernel % 2 == 0 or self.state_sides not in (1, 2) or min(self.levels, self.state_levels) < 1:
            raise ValueError("the kernel must be odd, the state sides 1 or 2, the levels at least 1")
        if self.state_joint and (self.state_sides, self.state_levels) != (1, 1):
            raise ValueError("hidden state and cell move together (state_joint) with one state side and level only")
        if self.estimator_width < 0 or self.estimator_width == 1 or self.modulation_width < 1:
            raise ValueError("estimator_width must be 0 or 2 or more, modulation_width 1 or more")
        if self.residual and not self.synthesis_blocks:
            raise ValueError("residual results need the low-resolution head (synthesis_blocks of 1 or more)")

    @property
    def scale(self) -> int:
        """The enlargement of the network."""
        return SCALE

    @property
    def multiple_of(self) -> int:
        """Side in pixels of the coarsest cells of a frame; its last ones may be smaller."""
        cell = int(2 ** (max(self.levels, self.state_levels) - 1))
        return math.lcm(cell, CELL) if self.estimator_width else cell

    @property
    def lookahead(self) -> int:
        """Number of later input frames that the first one of a clip sees, as published; a stream may choose another."""
        return WINDOW - 1
