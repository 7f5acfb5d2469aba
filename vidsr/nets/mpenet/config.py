"""Configuration of an MPENet."""

from __future__ import annotations

from dataclasses import dataclass

from vidsr.nets.requirements import refuse_unmet

SCALE = 8
LANDMARKS = 68  # points that the maps of action units are made of
# Action units whose place in a face is known (units.py).
KNOWN_UNITS = (1, 2, 4, 6, 7, 9, 10, 12, 14, 15, 17, 23, 24, 25, 26)
# The paper's two data sets.
BP4D_UNITS = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
DISFA_UNITS = (1, 2, 4, 6, 9, 12, 25, 26)


@dataclass(frozen=True, slots=True)
class MPENetConfig:
    """Sizes and options; the defaults are the paper's, or where it is silent the reading that `network` explains.

    `width` is f, the number of channels, `groups` that of the projection groups of the recurrent block, and `steps`
    that of its iterations. `points` is the number of landmarks, of which the alignment branch makes heatmaps; 0 leaves
    the branch out. `alignment_width` is its number of channels; its hourglasses halve the size `hourglass_depth` times.
    `units` are the numbers of the action units (FACS), none to leave their branch out; with `unit_maps` each acts only
    on its own part of the face.
    """

    scale: int = SCALE
    width: int = 48
    groups: int = 6
    steps: int = 3
    points: int = LANDMARKS
    alignment_width: int = 256
    hourglasses: int = 2
    hourglass_depth: int = 3
    units: tuple[int, ...] = BP4D_UNITS
    unit_maps: bool = True

    def __post_init__(self) -> None:
        """Raises ValueError, naming the violated requirement, for an invalid configuration."""
        sizes = self.width, self.groups, self.steps, self.hourglasses
        requirements = {
            f"scale is {SCALE}": self.scale == SCALE,
            "width, groups, steps and hourglasses are 1 or more": min(sizes) >= 1,
            "points and hourglass_depth are not negative, and hourglass_depth is 6 or less": self.points >= 0
            and 0 <= self.hourglass_depth <= 6,
            "alignment_width is an even number, 2 or more": self.alignment_width >= 2 and self.alignment_width % 2 == 0,
            "units needs 3 steps or more, because they act from the third step on": not self.units or self.steps >= 3,
            "units are different numbers": len(set(self.units)) == len(self.units),
            f"unit_maps needs {LANDMARKS} points": not self.has_unit_maps or self.points == LANDMARKS,
            f"unit_maps knows the units {', '.join(map(str, KNOWN_UNITS))}": not self.has_unit_maps
            or set(self.units) <= set(KNOWN_UNITS),
        }
        refuse_unmet(requirements)

    @property
    def has_unit_maps(self) -> bool:
        """Whether there are units, each with its map."""
        return self.unit_maps and bool(self.units)

    @property
    def lookahead(self) -> int:
        """0: no later frame is needed."""
        return 0

    @property
    def multiple_of(self) -> int:
        """The divisor of both image sides: hourglasses halve maps of twice the image's size."""
        return max(1, 2 ** (self.hourglass_depth - 1)) if self.points else 1
