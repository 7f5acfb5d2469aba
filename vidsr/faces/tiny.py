"""MPENet on close crops that follow tiny faces. Each frame starts from the feedback of the frame before, moved along.

The crop is in whole pixels, as for larger faces; only the features that are fed back are resampled, by the similarity
transform between the landmarks of the two frames.

The network sees no more than what is blended into the frame, and the border over which that fades: about 25 x 25 pixels
for a face of 14. That is as much as it knows: in training (recipe mpenet-fast) it sees 16 x 16 pixels with a face of 8
to 18 in them, up to two sides of the face, and here 1.7 (20 pixels) to 2.1 (8). The crops of choose_crop, which leave
room for the motion of a window of frames and end at multiples of 8, are twice as large, and so is their cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.faces.alignment import similarity_between
from vidsr.faces.blending import RAMP, REACH
from vidsr.faces.detections import Array, rotate_points
from vidsr.faces.framewise import FaceInCrop, FramewiseFaceEngine, close_crop
from vidsr.faces.restorer import EnlargedCrop, contains
from vidsr.nets.mpenet.network import Feedback, MPENet, moved
from vidsr.types import Crop, Face


@dataclass(frozen=True, slots=True)
class TinyStream:
    """What a face hands on: the crop that was cut, and in its upright pixels the landmarks `points`, N x 2."""

    crop: Crop
    points: Array
    feedback: Feedback


class TinyFaceEngine(FramewiseFaceEngine[MPENet, TinyStream]):
    """Runs an MPENet on one close crop per face.

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
        """Images of close crops."""
        return [self._one_restored(image, *each) for each in faces]

    def _one_restored(
        self, frame: Tensor, face: Face, crop: Crop, stream: TinyStream | None
    ) -> tuple[EnlargedCrop, TinyStream]:
        crop = crop_around(face, crop, None if stream is None else stream.crop)
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
        return EnlargedCrop(crop, self._as_coded(result)), TinyStream(crop, points, feedback)

    def _points(self, face: Face, crop: Crop) -> Array:
        """The landmarks in upright pixels of the crop."""
        points = np.array(face.smoothed or face.landmarks, np.float64) - [crop.left, crop.top]
        return rotate_points(points, self._quarters, crop.width, crop.height)


def crop_around(face: Face, crop: Crop, before: Crop | None) -> Crop:
    """The close crop of a face, inside the crop that follows it; keeps `before` as long as it fits.

    What is blended into the frame ends RAMP pixels inside of it, as in a larger crop, so that it looks the same
    whichever crop an image comes with.
    """
    _, _, width, height = face.box
    before = before if before is not None and contains(crop, before) else None
    return close_crop(face.box, (width / 2 * REACH + RAMP, height / 2 * REACH + RAMP), crop, before, slack=0.0)
