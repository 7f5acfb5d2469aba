"""Configuration of an Attention-FH."""

from __future__ import annotations

from dataclasses import dataclass

from vidsr.nets.requirements import one_of, refuse_unmet
from vidsr.nets.single_image import AnySize

SCALES = (4, 8, 16)
RATIOS = (3 / 2, 1.0, 2 / 3)  # height to width of a box; the paper's candidates (3.2)


@dataclass(frozen=True, slots=True)
class AttentionFHConfig(AnySize):
    """Sizes and options; the defaults are those of the journal version, where it states them.

    `steps` is T, the number of boxes. `side`: the face is looked at with `side` x `side` pixels (table 1: 128), in
    which boxes are measured. A box is centered on one of `grid` x `grid` places, evenly spaced: with all 128 x 128
    pixels, as the text says, this head alone would be larger than the whole network of table 11. Its height is one of
    `heights` (Z = 60 times a scale; the scales are not given), its width that height divided by one of three ratios.
    `history` and `hidden` are the units of the two GRUs (64 and 128).
    `context_side` and `context_channels` are the sides and the channels of the global context I_G, which is enlarged to
    the input's size ("the same shape": 3 channels, the input's side). `fade`: pixels over which the edge of a box is
    blended; 0 replaces the box as in the paper, which leaves seams.
    """

    scale: int = 8
    steps: int = 18
    side: int = 128
    grid: int = 32
    heights: tuple[int, ...] = (30, 60, 90)
    history: int = 64
    hidden: int = 128
    context_side: int = 16
    context_channels: int = 3
    fade: int = 0

    def __post_init__(self) -> None:
        """Raises ValueError, naming the violated requirement, for an invalid configuration."""
        sizes = (self.steps, self.grid, self.history, self.hidden, self.context_side, self.context_channels)
        requirements = {
            **one_of("scale", self.scale, SCALES),
            "steps, grid, history, hidden, context_side and context_channels are 1 or more": min(sizes) >= 1,
            "side is a multiple of 16": self.side >= 16 and self.side % 16 == 0,
            "heights are one or more numbers, each from 2 to side": min(self.heights, default=0) >= 2
            and max(self.heights, default=0) <= self.side,
            "fade is from 0 to a quarter of the smallest height": 0 <= 4 * self.fade <= min(self.heights, default=0),
        }
        refuse_unmet(requirements)
