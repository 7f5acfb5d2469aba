"""Configuration of a HIME."""

from __future__ import annotations

from dataclasses import dataclass

from vidsr.nets.requirements import one_of, refuse_unmet
from vidsr.nets.single_image import AnySize

SCALES = (2, 4, 8)


@dataclass(frozen=True, slots=True)
class HIMEConfig(AnySize):
    """Sizes and options; the defaults are the reading of the dissertation (chapter 5) that `network` explains.

    `low_blocks`, `high_blocks` and `reconstruction_blocks` are k_l, k_h and k_r of 5.5.1. `guide_stages` and
    `reference_stages` count the deformable convolutions of the alignment (5.3.2) that refine the guide and that sample
    the reference; `kernel` is the side of their kernel, `groups` the number of groups of channels that have their own
    offsets. `no_reference` (ours) adds the learned weight of "no reference" to the sum of weights in equation (5.4), so
    that references which do not help can be ignored; without it their weights always sum up to 1.
    """

    scale: int = 4
    width: int = 32
    low_blocks: int = 5
    high_blocks: int = 3
    reconstruction_blocks: int = 20
    guide_stages: int = 2
    reference_stages: int = 2
    kernel: int = 3
    groups: int = 8
    no_reference: bool = False

    def __post_init__(self) -> None:
        """Raises ValueError, naming the violated requirement, for an invalid configuration."""
        blocks = self.low_blocks, self.high_blocks, self.reconstruction_blocks, self.guide_stages
        requirements = {
            **one_of("scale", self.scale, SCALES),
            "width is a multiple of groups, and both are 1 or more": min(self.width, self.groups) >= 1
            and self.width % self.groups == 0,
            "numbers of blocks and guide_stages cannot be negative": min(blocks) >= 0,
            "reference_stages is 1 or more": self.reference_stages >= 1,
            "kernel is odd": self.kernel >= 1 and self.kernel % 2 == 1,
        }
        refuse_unmet(requirements)
