"""MPENet on crops that follow tiny faces. Each frame starts from the feedback of the frame before, moved along.

The crop is in whole pixels, as for larger faces; only the features that are fed back are resampled, by the similarity
transform between the landmarks of the two frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.faces.alignment import similarity_between
from vidsr.faces.detections import Array, rotate_points
from vidsr.faces.framewise import FaceInCrop, FramewiseFaceEngine
from vidsr.faces.restorer import EnlargedCrop
from vidsr.nets.mpenet.network import Feedback, MPENet, moved
from vidsr.types import Crop, Face


@dataclass(frozen=True, slots=True)
class TinyStream:
    """What a face hands on to its next frame: `points`, N x 2, are its landmarks in upright pixels of its crop."""

    points: Array
    feedback: Feedback


class TinyFaceEngine(FramewiseFaceEngine[MPENet, TinyStream]):
    """Runs an MPENet on one crop per face.

    Without `recurrent`, or with a network of one step, every frame starts afresh.
    """

    def __init__(
        self, network: MPENet, device: torch.device, precision: str, quarters: int = 0, recurrent: bool = True
    ) -> None:
        """The others as for FramewiseFaceEngine."""
        super().__init__(network, device, precision, quarters)
        self._recurrent = recurrent and network.config.steps > 1

    def _restored(
        self, image: Tensor, faces: Sequence[FaceInCrop[TinyStream]]
    ) -> list[tuple[EnlargedCrop, TinyStream]]:
        """Images of the crops."""
        return [self._one_restored(image, *each) for each in faces]

    def _one_restored(
        self, frame: Tensor, face: Face, crop: Crop, stream: TinyStream | None
    ) -> tuple[EnlargedCrop, TinyStream]:
        image, points = self._upright(frame, crop), self._points(face, crop)
        height, width = image.shape[-2:]
        multiple, scale = self._network.config.multiple_of, self._network.config.scale
        padded = F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        with self._autocast():
            if stream is None or not self._recurrent:
                restored = self._network.restore(padded)
            else:
                matrix = similarity_between(points, stream.points)
                motion = torch.from_numpy(matrix)[None].to(self._device, torch.float32)
                size = padded.shape[-2], padded.shape[-1]
                restored = self._network.advance(padded, moved(stream.feedback, motion, size))
            feedback = self._network.feedback(restored)
        result = restored.images[-1][0, :, : scale * height, : scale * width].float().clamp(0, 1)
        return EnlargedCrop(crop, self._as_coded(result)), TinyStream(points, feedback)

    def _points(self, face: Face, crop: Crop) -> Array:
        """The landmarks in upright pixels of the crop."""
        points = np.array(face.smoothed or face.landmarks, np.float64) - [crop.left, crop.top]
        return rotate_points(points, self._quarters, crop.width, crop.height)
