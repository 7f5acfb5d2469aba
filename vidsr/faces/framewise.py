"""What engines share that restore faces frame by frame: results are ready at once, and a face hands on a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from vidsr.engines.base import DTYPES, prepared
from vidsr.faces.restorer import EnlargedCrop
from vidsr.nets.base import Network
from vidsr.types import Crop, Face, Frame

N = TypeVar("N", bound=Network)
S = TypeVar("S")  # what a face hands on to its next frame


class FaceInCrop(NamedTuple, Generic[S]):
    """A face of a frame, the crop that follows it, and its stream; None in its first frame."""

    face: Face
    crop: Crop
    stream: S | None


class FramewiseFaceEngine(ABC, Generic[N, S]):
    """Runs a network on the faces of one frame after the other. Stateless: the caller holds the streams.

    `quarters`: counterclockwise quarter turns that bring the video upright; the network sees upright faces.
    """

    lookahead = 0

    def __init__(self, network: N, device: torch.device, precision: str, quarters: int = 0) -> None:
        """`network` is copied, not changed; `precision` is that of torch's autocast."""
        self._network, self._device = prepared(network, device, "fp32"), device
        self._precision, self._quarters = precision, quarters

    def init_state(self) -> Mapping[int, S]:
        """The state without any face."""
        return {}

    @torch.inference_mode()
    def step(
        self, frame: Frame, crops: Mapping[int, Crop], streams: Mapping[int, S]
    ) -> tuple[dict[int, EnlargedCrop], dict[int, S]]:
        """Takes a frame and its faces' crops by track; returns their images, 3 x H x W in 0..1, with their crops.

        A stream ends where its track is not in `crops`.
        """
        found = {face.track: face for face in frame.faces}
        faces = [FaceInCrop(found[track], crop, streams.get(track)) for track, crop in crops.items()]
        restored = dict(zip(crops, self._restored(frame.image, faces), strict=True))
        ready = {track: result for track, (result, _) in restored.items()}
        return ready, {track: stream for track, (_, stream) in restored.items()}

    def flush(
        self,
        streams: Mapping[int, Any],  # noqa: ARG002 - the protocol's signature
        tracks: Iterable[int],
    ) -> dict[int, list[EnlargedCrop]]:
        """No result is ever pending."""
        return {track: [] for track in tracks}

    @abstractmethod
    def _restored(self, image: Tensor, faces: Sequence[FaceInCrop[S]]) -> Sequence[tuple[EnlargedCrop, S]]:
        """The results of these faces of an image, 3 x H x W as coded, in order, with what they hand on."""

    def _upright(self, image: Tensor, crop: Crop) -> Tensor:
        """A crop of the frame's image, 1 x 3 x h x w, turned upright."""
        rows, columns = slice(crop.top, crop.top + crop.height), slice(crop.left, crop.left + crop.width)
        return torch.rot90(image[None, :, rows, columns].to(self._device), self._quarters, (2, 3))

    def _as_coded(self, image: Tensor) -> Tensor:
        """The inverse of turning an image, 3 x H x W, upright."""
        return torch.rot90(image, -self._quarters, (1, 2))

    def _autocast(self) -> torch.autocast:
        """The context in which the network runs."""
        return torch.autocast(self._device.type, DTYPES[self._precision], enabled=self._precision != "fp32")
