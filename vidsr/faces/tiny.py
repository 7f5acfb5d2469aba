"""MPENet on crops that follow tiny faces. Each frame starts from the feedback of the frame before, moved along.

The crop is in whole pixels, as for larger faces; only the features that are fed back are resampled, by the similarity
transform between the landmarks of the two frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vidsr.engines.base import DTYPES, prepared
from vidsr.faces.alignment import similarity_between
from vidsr.faces.detections import Array, rotate_points
from vidsr.faces.restorer import EnlargedCrop
from vidsr.nets.mpenet.network import Feedback, MPENet, moved
from vidsr.types import Crop, Face, Frame


@dataclass(frozen=True, slots=True)
class TinyStream:
    """What a face hands on to its next frame: `points`, N x 2, are its landmarks in upright pixels of its crop."""

    points: Array
    feedback: Feedback


class TinyFaceEngine:
    """Runs an MPENet on one crop per face. Stateless: the caller holds the streams. A result is ready at once.

    `quarters`: counterclockwise quarter turns that bring the video upright; the network sees upright faces. Without
    `recurrent`, or with a network of one step, every frame starts afresh.
    """

    lookahead = 0

    def __init__(
        self, network: MPENet, device: torch.device, precision: str, quarters: int = 0, recurrent: bool = True
    ) -> None:
        """`network` is copied, not changed; `precision` is that of torch's autocast."""
        self._network, self._device = prepared(network, device, "fp32"), device
        self._precision, self._quarters = precision, quarters
        self._recurrent = recurrent and network.config.steps > 1

    def init_state(self) -> Mapping[int, TinyStream]:
        """The state without any face."""
        return {}

    @torch.inference_mode()
    def step(
        self, frame: Frame, crops: Mapping[int, Crop], streams: Mapping[int, TinyStream]
    ) -> tuple[dict[int, EnlargedCrop], dict[int, TinyStream]]:
        """Takes a frame and its faces' crops by track; returns their images, 3 x H x W in 0..1, with the crops.

        A stream ends where its track is not in `crops`.
        """
        faces = {face.track: face for face in frame.faces}
        ready: dict[int, EnlargedCrop] = {}
        after: dict[int, TinyStream] = {}
        for track, crop in crops.items():
            image, after[track] = self._restored(frame, faces[track], crop, streams.get(track))
            ready[track] = EnlargedCrop(crop, image)
        return ready, after

    def flush(
        self,
        streams: Mapping[int, TinyStream],  # noqa: ARG002 - the protocol's signature
        tracks: Iterable[int],
    ) -> dict[int, list[EnlargedCrop]]:
        """No result is ever pending."""
        return {track: [] for track in tracks}

    def _restored(self, frame: Frame, face: Face, crop: Crop, stream: TinyStream | None) -> tuple[Tensor, TinyStream]:
        image, points = self._upright(frame, face, crop)
        height, width = image.shape[-2:]
        multiple, scale = self._network.config.multiple_of, self._network.config.scale
        padded = F.pad(image[None], (0, -width % multiple, 0, -height % multiple), mode="replicate")
        with torch.autocast(self._device.type, DTYPES[self._precision], enabled=self._precision != "fp32"):
            if stream is None or not self._recurrent:
                restored = self._network.restore(padded)
            else:
                matrix = similarity_between(points, stream.points)
                motion = torch.from_numpy(matrix)[None].to(self._device, torch.float32)
                size = padded.shape[-2], padded.shape[-1]
                restored = self._network.advance(padded, moved(stream.feedback, motion, size))
            feedback = self._network.feedback(restored)
        result = restored.images[-1][0, :, : scale * height, : scale * width].float().clamp(0, 1)
        return torch.rot90(result, -self._quarters, (1, 2)), TinyStream(points, feedback)

    def _upright(self, frame: Frame, face: Face, crop: Crop) -> tuple[Tensor, Array]:
        """The crop's image, turned upright, and the landmarks in its pixels."""
        rows, columns = slice(crop.top, crop.top + crop.height), slice(crop.left, crop.left + crop.width)
        image = torch.rot90(frame.image[:, rows, columns].to(self._device), self._quarters, (1, 2))
        points = np.array(face.smoothed or face.landmarks, np.float64) - [crop.left, crop.top]
        return image, rotate_points(points, self._quarters, crop.width, crop.height)
