"""MPENet on close crops that follow tiny faces. Each frame starts from the feedback of the frame before, moved along.

The crop is in whole pixels, as for larger faces; only the features that are fed back are resampled, by the similarity
transform between the landmarks of the two frames.

The network sees no more than what is blended into the frame and a margin of RAMP: about 24 x 28 pixels for a face of
14. That is as much as it knows: in training (recipe mpenet-fast) it sees 16 x 16 pixels with a face of 8 to 18 in them,
up to two sides of the face, and here 1.7 (20 pixels) to 2.2 (8). The crops of choose_crop, which leave room for the
motion of a window of frames and end at multiples of 8, are twice as large, and the cost is proportional. A margin of
two pixels would make crops 15 % smaller, but fade what the mask shows, by up to 0.16, and 0.29 in a crop that stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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

# Pixels of crops that are computed as one batch, of at least one crop. On a CPU batches are slower, because their maps
# are large for its cache: in batches of 1, 2, 4 and 8 a crop of 28x26 takes 58, 69, 81 and 83 ms (one thread). On other
# devices they save launches; ten faces of 14 pixels are one batch and need about half a GB.
BATCH_AREA_CPU, BATCH_AREA = 0, 8192


@dataclass(frozen=True, slots=True)
class TinyStream:
    """What a face hands on: the crop that was cut, and in its upright pixels the landmarks `points`, N x 2."""

    crop: Crop
    points: Array
    feedback: Feedback


class _Cut(NamedTuple):
    """A face as the network takes it: an image of its crop, padded, and the feedback, moved; None to start afresh.

    `points` and `size` (height, width) are the landmarks and the size of the crop, both upright.
    """

    crop: Crop
    points: Array
    size: tuple[int, int]
    image: Tensor
    before: Feedback | None


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
        """Images of close crops; crops of one size may be a batch."""
        cuts = [self._cut(image, *each) for each in faces]
        results: dict[int, tuple[EnlargedCrop, TinyStream]] = {}
        for numbers in self._batches(cuts):
            together = self._enlarged([cuts[number] for number in numbers])
            results |= dict(zip(numbers, together, strict=True))
        return [results[number] for number in range(len(cuts))]

    def _batches(self, cuts: Sequence[_Cut]) -> Iterator[Sequence[int]]:
        """The numbers of the crops of each batch: of one size, all with feedback or all without."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for number, cut in enumerate(cuts):
            groups.setdefault((cut.before is None, *cut.image.shape[-2:]), []).append(number)
        area = BATCH_AREA_CPU if self._device.type == "cpu" else BATCH_AREA
        for (_, height, width), numbers in groups.items():
            count = max(1, area // (height * width))
            yield from (numbers[start : start + count] for start in range(0, len(numbers), count))

    def _cut(self, image: Tensor, face: Face, crop: Crop, stream: TinyStream | None) -> _Cut:
        crop = crop_around(face, crop, None if stream is None else stream.crop)
        small, points = self._upright(image, crop), self._points(face, crop)
        height, width = small.shape[-2:]
        multiple = self._network.config.multiple_of
        padded = F.pad(small, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        if stream is None or not self._recurrent:
            return _Cut(crop, points, (height, width), padded, None)
        motion = torch.from_numpy(similarity_between(points, stream.points))[None].to(self._device, torch.float32)
        return _Cut(
            crop, points, (height, width), padded, moved(stream.feedback, motion, (padded.shape[-2], padded.shape[-1]))
        )

    def _enlarged(self, cuts: Sequence[_Cut]) -> Iterator[tuple[EnlargedCrop, TinyStream]]:
        """The results of crops of one size, all of which have feedback or none has."""
        images = torch.cat([cut.image for cut in cuts])
        before = [cut.before for cut in cuts if cut.before is not None]
        with self._autocast():
            if before:
                feedback = Feedback(*(torch.cat(parts) for parts in zip(*before, strict=True)))
                restored = self._network.advance(images, feedback)
            else:
                restored = self._network.restore(images)
            after = self._network.feedback(restored)
        scale = self._network.config.scale
        for number, cut in enumerate(cuts):
            height, width = cut.size
            result = restored.images[-1][number, :, : scale * height, : scale * width].float().clamp(0, 1)
            own = Feedback(*(part[number, None] for part in after))
            yield EnlargedCrop(cut.crop, self._as_coded(result)), TinyStream(cut.crop, cut.points, own)

    def _points(self, face: Face, crop: Crop) -> Array:
        """The landmarks in upright pixels of the crop."""
        points = np.array(face.smoothed or face.landmarks, np.float64) - [crop.left, crop.top]
        return rotate_points(points, self._quarters, crop.width, crop.height)


def crop_around(face: Face, crop: Crop, before: Crop | None) -> Crop:
    """The close crop of a face, inside the crop that follows it; keeps `before` as long as it fits.

    It reaches so far beyond what is blended into the frame that this looks the same whichever crop an image comes with.
    """
    _, _, width, height = face.box
    before = before if before is not None and contains(crop, before) else None
    reach = width / 2 * REACH + RAMP, height / 2 * REACH + RAMP
    return close_crop(face.box, reach, crop, before, slack=0.0)
