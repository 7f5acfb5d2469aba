"""The branch of reference photographs (ours): details of a known face join SECNet's recurrent module.

The parts are HIME's (`nets/layers/references.py`), one deformable convolution with a kernel of one point. A photograph
is described once: upright, on a square canvas, at the scale of the enlarged face. A frame samples these features
through a similarity transform, its pose, and only then aligns them by learned offsets, so that a moving face needs no
new description. The aggregated feature is added behind the first convolution of the recurrent module, multiplied by a
gain for each channel that starts at 0: an untrained branch changes nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidsr.nets.layers.references import Aggregation, Alignment, HighExtractor, References


class PosedReferences(NamedTuple):
    """References at the pose of one frame, `present` 1 where the canvas of an existing one covers a pixel, else 0.

    `high` and `low` are B x n x C x h x w, `present` is B x n x h x w.
    """

    high: Tensor
    low: Tensor
    present: Tensor


class ReferenceBranch(nn.Module):
    """Transfers features of references into a feature of the recurrent module."""

    def __init__(self, width: int, blocks: int, scale: int, groups: int) -> None:
        """`width` channels of the recurrent module; `blocks` of the extractor; `groups` of the alignment."""
        super().__init__()
        self.high = HighExtractor(width, blocks, scale)
        self.alignment = Alignment(width, 0, 1, 1, groups)
        self.aggregation = Aggregation(width, no_reference=True)
        self.gain = nn.Parameter(torch.zeros(width))

    def forward(self, feature: Tensor, posed: PosedReferences) -> tuple[Tensor, Tensor]:
        """The feature, B x C x h x w, with what the references add, and the weight of each, B x n x h x w."""
        content = self.alignment.of_content(feature)[:, None].expand(posed.low.shape).flatten(0, 1)
        aligned = self.alignment(posed.high.flatten(0, 1), posed.low.flatten(0, 1), content)
        added, weights = self.aggregation(aligned.view(posed.high.shape), feature, posed.present)
        return feature + (self.gain[:, None, None] * added).to(feature.dtype), weights


def pose_references(
    references: References, poses: Tensor, present: Tensor | None, size: tuple[int, int]
) -> PosedReferences:
    """The references at one frame's poses, for features of `size` (height, width).

    `poses`, B x n x 2 x 3, act on columns (x, y, 1) of pixels of the frame, from its upper left corner, and give those
    of the reference's canvas at low resolution. `present`, B x n, tells which references exist; None means all.
    """
    batch, count, channels, tall, wide = references.high.shape
    height, width = size
    dtype = torch.promote_types(references.high.dtype, torch.float32)  # bfloat16 has too few bits for positions
    matrix = poses.flatten(0, 1).to(dtype)[..., None, None]
    x = torch.arange(width, device=matrix.device, dtype=dtype) + 0.5
    y = torch.arange(height, device=matrix.device, dtype=dtype)[:, None] + 0.5
    u, v = (matrix[:, k, 0] * x + matrix[:, k, 1] * y + matrix[:, k, 2] for k in range(2))
    grid = torch.stack((u * (2 / wide) - 1, v * (2 / tall) - 1), dim=-1)
    both = torch.cat((references.high, references.low), dim=2).flatten(0, 1).to(dtype)
    both = torch.cat((both, torch.ones_like(both[:, :1])), dim=1)
    sampled = F.grid_sample(both, grid, padding_mode="zeros", align_corners=False)
    sampled = sampled.view(batch, count, -1, height, width)
    covered = sampled[:, :, -1] if present is None else sampled[:, :, -1] * present[..., None, None]
    high, low = (sampled[:, :, k * channels : (k + 1) * channels].to(references.high.dtype) for k in range(2))
    return PosedReferences(high, low, covered)
