"""What engines share that restore faces frame by frame: results are ready at once, and a face hands on a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from vidsr.engines.base import DTYPES, prepared
from vidsr.faces.restorer import EnlargedCrop
from vidsr.nets.base import Network
from vidsr.types import Box, Crop, Face, Frame

N = TypeVar("N", bound=Network)
S = TypeVar("S")  # what a face hands on to its next frame
# By how many pixels a close crop may be too small before it is replaced, and by how much its area may exceed that of a
# new one.
TOLERANCE, MAX_EXCESS = 1.0, 1.5


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


def close_crop(box: Box, reach: tuple[float, float], within: Crop, before: Crop | None, slack: float) -> Crop:
    """A crop around the middle of a face's box, inside the crop `within`; keeps `before` as long as it fits.

    It reaches `reach` pixels (x, y) to both sides; a new one, `slack` pixels farther. `within` itself for a face that
    has left it.
    """
    left, top, width, height = box
    center, half = np.array([left + width / 2, top + height / 2]), np.array(reach)
    first = np.array([within.left, within.top])
    last = first + np.array([within.width, within.height])
    if before is not None:
        low, size = np.array([before.left, before.top]), np.array([before.width, before.height])
        start, end = np.maximum(center - half, first), np.minimum(center + half, last)
        is_inside = bool((start >= low - TOLERANCE).all() and (end <= low + size + TOLERANCE).all())
        if is_inside and before.area <= MAX_EXCESS * np.prod(2 * (half + slack)):
            return before
    sides = np.ceil(2 * (half + slack))
    corner = np.round(center - sides / 2)
    start, end = (np.clip(place, first, last).astype(int) for place in (corner, corner + sides))
    if (end - start).min() < 1:
        return within
    x, y = (int(value) for value in start)
    return Crop(x, y, int(end[0]) - x, int(end[1]) - y)
