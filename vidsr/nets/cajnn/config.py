"""Configuration of a CAJNN."""

from __future__ import annotations

from dataclasses import dataclass

from vidsr.nets.requirements import one_of, refuse_unmet
from vidsr.nets.single_image import AnySize

SCALES = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class CAJNNConfig(AnySize):
    """Sizes and options; the defaults are those of the dissertation (chapter 4), 14,847,491 parameters.

    `width` is n_f of 4.3.1, `dilations` those of the parallel convolutions of equation (4.2), `blocks` the number of
    residual-in-residual dense blocks. `growth`, the channels that each layer of a dense block adds, is not given there;
    32 is that of the blocks' source (ESRGAN). `upsampler_width`: channels at the output's size; 0 for equation (4.3) to
    the letter, see `Upsampler`. `self_ensemble`: the result is the mean over the eight flips and rotations (4.4.2); it
    takes eight times as long and does not affect training.
    """

    scale: int = 4
    width: int = 64
    dilations: tuple[int, ...] = (1, 3, 4)
    blocks: int = 20
    growth: int = 32
    upsampler_width: int = 64
    self_ensemble: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError, naming the violated requirement, for an invalid configuration."""
        requirements = {
            **one_of("scale", self.scale, SCALES),
            "width and growth are 1 or more": min(self.width, self.growth) >= 1,
            "dilations are one or more numbers, each 1 or more": min(self.dilations, default=0) >= 1,
            "blocks and upsampler_width cannot be negative": min(self.blocks, self.upsampler_width) >= 0,
        }
        refuse_unmet(requirements)
