"""Restored faces put into the enlarged frame: a soft border, the colour of what is around. What is pasted is `restore`.

The mask is a superellipse around the face's box, 1 on it but for its corners and falling off smoothly outside, so that
no straight border can be seen; towards the edge of its window, where the network saw nothing beyond, a patch loses its
weight too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from vidsr.stages.base import through
from vidsr.types import Frame, Patch, Window

# The mask is full within a superellipse of so many half boxes, and nothing is left of it at the second one.
FULL, REACH = 1.1, 1.4
POWER = 4.0
# Over so many source pixels a patch loses its weight towards an edge of its window.
RAMP = 3.0


def paste_faces(frames: Iterable[Frame], strength: float = 1.0) -> Iterator[Frame]:
    """The frames with the patches in them, as `FacePaster` does."""
    return through(FacePaster(strength), frames)


class FacePaster:
    """The stage that puts the patches into frames enlarged by their factor, and takes them off the faces.

    `strength`, 0..1, is the share of a patch at full weight. Where faces overlap the later track lies on top: both
    patches show the same ground. Each frame is given out at once.
    """

    name = "paste_faces"

    def __init__(self, strength: float = 1.0) -> None:
        self._strength = strength

    def start(self) -> None:
        """Nothing is remembered."""

    def step(self, frame: Frame, state: None) -> tuple[list[Frame], None]:
        """Gives the frame with the patches in it."""
        patches = [face.patch for face in frame.faces if face.patch is not None]
        if not patches:
            return [frame], state
        image = frame.image.clone()
        for patch in patches:
            _paste(image, patch, self._strength)
        bare = tuple(replace(face, patch=None) for face in frame.faces)
        return [replace(frame, image=image, faces=bare)], state

    def flush(self, state: None) -> list[Frame]:  # noqa: ARG002 - the signature of a stage
        """Nothing waits."""
        return []


def _paste(image: Tensor, patch: Patch, strength: float) -> None:
    window = patch.window
    scale = patch.image.shape[-1] // window.width
    rows = slice(scale * window.top, scale * (window.top + window.height))
    columns = slice(scale * window.left, scale * (window.left + window.width))
    under = image[:, rows, columns]
    height, width = image.shape[1] // scale, image.shape[2] // scale
    mask = soft_mask(patch.box, window, width, height, scale, image.device)
    new = patch.image + colour_gap(under, patch.image, mask)
    under += mask * (strength * patch.weight) * (new.clamp_(0, 1) - under)


def soft_mask(
    box: tuple[float, float, float, float], window: Window, width: int, height: int, scale: int, device: torch.device
) -> Tensor:
    """The weight of each enlarged pixel of a window, H x W in 0..1, in a frame of width x height source pixels."""
    x = (torch.arange(scale * window.width, device=device) + 0.5) / scale + window.left
    y = (torch.arange(scale * window.height, device=device) + 0.5) / scale + window.top
    across = ((x - (box[0] + box[2] / 2)).abs() / (box[2] / 2)) ** POWER
    down = ((y - (box[1] + box[3] / 2)).abs() / (box[3] / 2)) ** POWER
    radius = (down[:, None] + across[None]) ** (1 / POWER)
    share = ((REACH - radius) / (REACH - FULL)).clamp_(0, 1)
    mask = share * share * (3 - 2 * share)
    return mask * _ramp(y, window.top, window.height, height)[:, None] * _ramp(x, window.left, window.width, width)


def _ramp(places: Tensor, start: int, length: int, limit: int) -> Tensor:
    """1 inside, falling towards those ends of the window that are not the frame's own."""
    weight = torch.ones_like(places)
    if start > 0:
        weight = torch.minimum(weight, (places - start) / RAMP)
    if start + length < limit:
        weight = torch.minimum(weight, (start + length - places) / RAMP)
    return weight


def colour_gap(under: Tensor, over: Tensor, mask: Tensor) -> Tensor:
    """What has to be added to `over` (3 x H x W) for the mean colour of `under` along the border: 3 x 1 x 1.

    The border is where the mask (H x W) is neither 0 nor 1, most of all where it is 0.5.
    """
    border = mask * (1 - mask)
    total = border.sum()
    if total <= 0:
        return under.new_zeros(3, 1, 1)
    return (((under - over) * border).sum((1, 2)) / total)[:, None, None]
