"""Blends restored faces into the enlarged frame, with a soft border and the color of the surroundings.

The mask is a superellipse around the face's box: 1 on the box except for its corners, falling off smoothly outside, so
that no straight border is visible. It also falls off toward the edges of the crop, beyond which the network saw
nothing.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vidsr.nets.layers.resize import resize
from vidsr.stages.base import FrameStage
from vidsr.types import Crop, Frame, RestoredFace

# Radii in half boxes: the mask is 1 inside the superellipse of the first and 0 outside that of the second.
FULL, REACH = 1.1, 1.4
POWER = 4.0
# Source pixels over which the mask falls off toward an edge of the crop.
RAMP = 3.0


class FaceBlender(FrameStage):
    """The stage that blends restored faces into enlarged frames, and removes them from the faces.

    `strength`, 0..1, is the opacity of a restored face at full weight. `scale` is the factor by which the frames were
    enlarged, to which faces that were enlarged by another are resampled; None if it is the same. Where faces overlap,
    the later track is on top; both show the same part of the image.
    """

    name = "blend_faces"

    def __init__(self, strength: float = 1.0, scale: int | None = None) -> None:
        self._strength, self._scale = strength, scale

    def process(self, frame: Frame) -> Frame:
        """The frame with the restored faces in it."""
        restored = [face.restored for face in frame.faces if face.restored is not None]
        if not restored:
            return frame
        image = frame.image.clone()
        for face in restored:
            _blend(image, face if self._scale is None else _resampled(face, self._scale), self._strength)
        bare = tuple(replace(face, restored=None) for face in frame.faces)
        return replace(frame, image=image, faces=bare)


def _resampled(patch: RestoredFace, scale: int) -> RestoredFace:
    """A restored face at another scale; the same one if it already has this."""
    crop = patch.crop
    return replace(patch, image=resize(patch.image, (scale * crop.height, scale * crop.width)))


def _blend(image: Tensor, patch: RestoredFace, strength: float) -> None:
    crop = patch.crop
    scale = patch.image.shape[-1] // crop.width
    rows = slice(scale * crop.top, scale * (crop.top + crop.height))
    columns = slice(scale * crop.left, scale * (crop.left + crop.width))
    under = image[:, rows, columns]
    height, width = image.shape[1] // scale, image.shape[2] // scale
    mask = soft_mask(patch.box, crop, width, height, scale, image.device)
    new = patch.image + color_offset(under, patch.image, mask)
    under += mask * (strength * patch.weight) * (new.clamp_(0, 1) - under)


def soft_mask(
    box: tuple[float, float, float, float], crop: Crop, width: int, height: int, scale: int, device: torch.device
) -> Tensor:
    """The weight of each enlarged pixel of a crop, H x W in 0..1, in a frame of width x height source pixels."""
    x = (torch.arange(scale * crop.width, device=device) + 0.5) / scale + crop.left
    y = (torch.arange(scale * crop.height, device=device) + 0.5) / scale + crop.top
    across = ((x - (box[0] + box[2] / 2)).abs() / (box[2] / 2)) ** POWER
    down = ((y - (box[1] + box[3] / 2)).abs() / (box[3] / 2)) ** POWER
    radius = (down[:, None] + across[None]) ** (1 / POWER)
    falloff = ((REACH - radius) / (REACH - FULL)).clamp_(0, 1)
    mask = falloff * falloff * (3 - 2 * falloff)
    return mask * _ramp(y, crop.top, crop.height, height)[:, None] * _ramp(x, crop.left, crop.width, width)


def _ramp(positions: Tensor, start: int, length: int, limit: int) -> Tensor:
    """1 inside, falling off toward those edges of the crop that are not edges of the frame."""
    weight = torch.ones_like(positions)
    if start > 0:
        weight = torch.minimum(weight, (positions - start) / RAMP)
    if start + length < limit:
        weight = torch.minimum(weight, (start + length - positions) / RAMP)
    return weight


def color_offset(under: Tensor, over: Tensor, mask: Tensor) -> Tensor:
    """The offset, 3 x 1 x 1, that gives `over` (3 x H x W) the mean color of `under` along the border.

    The border is where the mask (H x W) is neither 0 nor 1, with most weight where it is 0.5.
    """
    border = mask * (1 - mask)
    total = border.sum()
    gap = ((under - over) * border).sum((1, 2)) / total
    return torch.where(total <= 0, 0.0, gap)[:, None, None]  # an `if` would wait for the device
