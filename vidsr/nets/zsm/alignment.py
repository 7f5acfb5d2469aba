"""Pyramid, cascading and deformable (PCD) alignment of two features and their blend (Zooming SlowMo, 6.3.2; EDVR).

Module names are those of the authors' checkpoint. The first layer, which reads two concatenated features, is computed
as the sum of two contributions, so that each feature's contribution is computed once, however often it is used.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.blocks import active3x3, conv3x3, leaky_relu, run
from vidsr.nets.layers.deformable import DeformableConv

Pyramid = tuple[Tensor, ...]


class Prepared(NamedTuple):
    """A feature in its role: `levels`, finest first, and its `contributions` to the first layer, per side and level."""

    levels: Pyramid
    contributions: tuple[Pyramid, ...]

    def rows(self) -> tuple[Pyramid, ...]:
        """The levels, then the contributions of each side."""
        return self.levels, *self.contributions


def enlarge(x: Tensor, like: Tensor) -> Tensor:
    """Doubles the size, bilinear, and crops to the size of `like` (a level of odd size has half a pixel too many)."""
    height, width = like.shape[-2:]
    # In float32: torch's bilinear enlargement of bfloat16 is ten times slower on a CPU.
    doubled = F.interpolate(x.float(), scale_factor=2.0, mode="bilinear", align_corners=False)
    return doubled[..., :height, :width].to(x.dtype)


class PyramidAlignment(nn.ModuleDict):
    """Aligns a feature with another one, from the coarsest level to the finest, with one set of weights per side.

    Side 1 moves the first of the two features, side 2 the second. Levels count from 1, the finest.
    """

    def __init__(
        self, width: int, levels: int, kernel: int, groups: int, sides: tuple[int, ...], moved_width: int | None = None
    ) -> None:
        """`width` channels; `kernel` and `groups` of the deformable convolutions; `sides`: (1, 2) or one of them.

        `moved_width`, with one level only: channels of the moved feature, if they differ from those of the guide.
        """
        super().__init__()
        assert moved_width is None or levels == 1
        self.depth = levels
        for side in sides:
            for level in range(levels, 0, -1):
                is_coarsest = level == levels
                self[f"L{level}_offset_conv1_{side}"] = conv3x3(2 * width, width)
                self[f"L{level}_offset_conv2_{side}"] = active3x3(width if is_coarsest else 2 * width, width)
                if not is_coarsest:
                    self[f"L{level}_offset_conv3_{side}"] = active3x3(width, width)
                self[f"L{level}_dcnpack_{side}"] = DeformableConv(moved_width or width, kernel, groups, width)
                if not is_coarsest:
                    self[f"L{level}_fea_conv_{side}"] = (active3x3 if level > 1 else conv3x3)(2 * width, width)

    def contribution(self, feature: Tensor, level: int, side: int, is_moved: bool) -> Tensor:
        """The contribution of a feature, either the moved one or its target, to the first offset layer."""
        conv = self[f"L{level}_offset_conv1_{side}"]
        assert isinstance(conv, nn.Conv2d)
        width = conv.out_channels
        weight, bias = (conv.weight[:, :width], conv.bias) if is_moved else (conv.weight[:, width:], None)
        return F.conv2d(feature.to(weight.dtype), weight, bias, padding=1)

    def align(self, moved: Pyramid, moved_contributions: Pyramid, target_contributions: Pyramid, side: int) -> Tensor:
        """The aligned finest level of `moved`; all three arguments are finest level first."""
        offset: Tensor | None = None
        aligned: Tensor | None = None
        for level in range(self.depth, 0, -1):
            guide = leaky_relu(moved_contributions[level - 1] + target_contributions[level - 1])
            if offset is not None:
                # Displacements are in pixels of their own level, so they double with the size.
                guide = torch.cat((guide, enlarge(offset, guide) * 2), dim=1)
            guide = self._convolve(f"L{level}_offset_conv2_{side}", guide)
            if offset is not None:
                guide = self._convolve(f"L{level}_offset_conv3_{side}", guide)
            deformable = self[f"L{level}_dcnpack_{side}"]
            assert isinstance(deformable, DeformableConv)
            result = deformable(moved[level - 1], guide)
            if aligned is not None:
                both = torch.cat((result, enlarge(aligned, result)), dim=1)
                result = self._convolve(f"L{level}_fea_conv_{side}", both)
            elif level > 1:
                result = leaky_relu(result)
            offset, aligned = guide, result
        assert aligned is not None
        return aligned

    def _convolve(self, name: str, x: Tensor) -> Tensor:
        conv = self[name]
        assert isinstance(conv, nn.Conv2d)
        return run(conv, x)


class DeformableBlend(nn.Module):
    """Aligns two features with each other and blends them by a 1x1 convolution, equations (6.1) to (6.4).

    With side 2 alone (ours, for narrow networks) there is no blend: the result is the aligned second feature. With
    `shared` (also ours) both sides use the weights of side 1, by symmetry in time.
    """

    def __init__(
        self,
        width: int,
        levels: int,
        kernel: int,
        groups: int,
        sides: tuple[int, ...],
        shared: bool = False,
        moved_width: int | None = None,
    ) -> None:
        """As in PyramidAlignment; a strided and a plain convolution make each coarser level."""
        super().__init__()
        self.sides = sides
        self.shared = shared
        self.depth = levels
        for level in range(2, levels + 1):
            self.add_module(f"fea_L{level}_conv1", active3x3(width, width, stride=2))
            self.add_module(f"fea_L{level}_conv2", active3x3(width, width))
        self.pcd_align = PyramidAlignment(width, levels, kernel, groups, (1,) if shared else sides, moved_width)
        if len(sides) == 2:
            self.fusion = nn.Conv2d(2 * width, width, 1)

    def pyramid(self, feature: Tensor) -> Pyramid:
        """All levels of a feature B x C x h x w, finest first; each is half the size of the one before, rounded up."""
        levels = [feature]
        for level in range(2, self.depth + 1):
            x = levels[-1]
            for name in (f"fea_L{level}_conv1", f"fea_L{level}_conv2"):
                conv = self.get_submodule(name)
                assert isinstance(conv, nn.Conv2d)
                x = run(conv, x)
            levels.append(x)
        return tuple(levels)

    def prepare(self, levels: Pyramid, role: Literal["first", "second"]) -> Prepared:
        """What `blend` needs of one of its two features; reusable while that feature keeps its role."""
        contributions = []
        for side in self.sides:
            is_moved = (side == 1) == (role == "first")
            weights = self._weights_of(side)
            contributions.append(
                tuple(self.pcd_align.contribution(x, i + 1, weights, is_moved) for i, x in enumerate(levels))
            )
        return Prepared(levels, tuple(contributions))

    def blend(self, first: Prepared, second: Prepared) -> Tensor:
        """Aligns and blends both features: B x C x h x w."""
        aligned = []
        for side, first_contributions, second_contributions in zip(
            self.sides, first.contributions, second.contributions, strict=True
        ):
            weights = self._weights_of(side)
            if side == 1:
                aligned.append(self.pcd_align.align(first.levels, first_contributions, second_contributions, weights))
            else:
                aligned.append(self.pcd_align.align(second.levels, second_contributions, first_contributions, weights))
        return run(self.fusion, torch.cat(aligned, dim=1)) if len(aligned) == 2 else aligned[0]

    def _weights_of(self, side: int) -> int:
        return 1 if self.shared else side
