"""Attention-FH on squares that follow faces. A track keeps the boxes that the policy chose in its first frame.

The policy looks at the whole image, so a square that frames the face as in training is cut from the crop, in whole
pixels. The policy takes its most likely boxes: the same video has the same boxes in every run. In the later frames of a
track they are given, in the same place of the square, so that nothing flickers and the face does not change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vidsr.faces.blending import RAMP, REACH
from vidsr.faces.detections import rotate_points
from vidsr.faces.framewise import FaceInCrop, FramewiseFaceEngine, close_crop
from vidsr.faces.restorer import EnlargedCrop
from vidsr.nets.attention_fh.boxes import rectangles
from vidsr.nets.attention_fh.network import AttentionFH
from vidsr.types import Box, Crop, Face

SLACK = 1.0  # pixels between the part of a new square that is blended and its edges


@dataclass(frozen=True, slots=True)
class AttendedStream:
    """What a face hands on: its square, and the boxes that the policy chose, 1 x T x 3; None to choose anew."""

    square: Crop
    actions: Tensor | None


class AttentionFaceEngine(FramewiseFaceEngine[AttentionFH, AttendedStream]):
    """Runs an Attention-FH on one square per face. `count` is the number of boxes of a face, None for the network's."""

    def __init__(
        self, network: AttentionFH, device: torch.device, precision: str, quarters: int = 0, count: int | None = None
    ) -> None:
        """The others as for FramewiseFaceEngine."""
        super().__init__(network, device, precision, quarters)
        self._count = count

    def _restored(
        self, image: Tensor, faces: Sequence[FaceInCrop[AttendedStream]]
    ) -> list[tuple[EnlargedCrop, AttendedStream]]:
        """Images of squares, with the boxes."""
        return [self._one_restored(image, *each) for each in faces]

    def _one_restored(
        self, image: Tensor, face: Face, crop: Crop, stream: AttendedStream | None
    ) -> tuple[EnlargedCrop, AttendedStream]:
        square = square_around(face, crop, None if stream is None else stream.square)
        before = None if stream is None else stream.actions
        with self._autocast():
            given = None if before is None else before.to(self._device).unbind(1)
            steps = self._network.steps(self._upright(image, square), given, count=self._count)
        result = ((steps[-1].image[0].float() + 1) / 2).clamp(0, 1)
        actions = torch.stack([step.action for step in steps], dim=1)
        shown = EnlargedCrop(square, self._as_coded(result), boxes=self._boxes(square, actions))
        return shown, AttendedStream(square, actions)

    def _boxes(self, square: Crop, actions: Tensor) -> tuple[Box, ...]:
        """The boxes in the order of the steps, in source pixels as coded."""
        tall, wide = (square.width, square.height) if self._quarters % 2 else (square.height, square.width)
        corners = rectangles(actions[0].cpu(), self._network.config).double().numpy().reshape(-1, 2, 2)
        corners = rotate_points(corners * [wide, tall], -self._quarters, wide, tall)
        corners = corners + np.array([square.left, square.top])
        low, high = corners.min(1), corners.max(1)
        return tuple(
            (float(left), float(top), float(right - left), float(bottom - top))
            for (left, top), (right, bottom) in zip(low, high, strict=True)
        )


def square_around(face: Face, crop: Crop, before: Crop | None) -> Crop:
    """The square around a face, inside its crop; keeps `before` as long as it fits.

    It holds what is blended into the frame, so a face fills about half of its sides.
    """
    half = max(face.box[2:]) / 2 * REACH + RAMP
    return close_crop(face.box, (half, half), crop, before, SLACK)
