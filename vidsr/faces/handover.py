"""Which network restores faces: one rule by the model that enlarges the frames, one by size, with a soft hand-over.

Faces up to the first side of HANDOVER are restored by the network for tiny faces, if it measures better there; from the
second side on by the one for larger faces; between them both run, and their images are mixed. Faces below `--min-face`
are left alone. The one for larger faces follows the model that enlarges the frames: `fitting_face_model`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vidsr.config import RunConfig, UpscaleConfig
from vidsr.engines.select import BICUBIC, DEFAULT_MODELS, DEGRADED_FACE_MODEL, ENGINES
from vidsr.faces.restorer import FADE, EnlargedCrop, FaceNetwork
from vidsr.models.cards import Card, ModelCard, TrainedCard, list_cards
from vidsr.models.registry import architecture_of, config_of
from vidsr.nets.layers.resize import resize
from vidsr.types import Crop, Frame

TINY_MODEL = "mpenet-fast"
# The metric of its card that decides whether it takes the tiny faces: PSNR of luma in dB over the network for larger
# ones (benchmarks/faces/tiny.py).
OVER_LARGER = "tiny_12_to_16_px_psnr_y_over_larger"
# Sides of a face in source pixels.
HANDOVER = 16.0, 22.0
# The share of a network changes by at most this much in a frame, as fast as a face fades in: detected sides are noisy,
# and a side that jumps must not show.
PACE = 1 / (FADE + 1)


def tiny_card(min_face: float) -> ModelCard | None:
    """The card of the model for tiny faces; None where it has none of its own to restore.

    That is where no face from `min_face` on is tiny, without its weights, and as long as its card says that the network
    for larger faces measures better.
    """
    if min_face >= HANDOVER[1]:
        return None
    card = next((card for card in list_cards() if card.name == TINY_MODEL), None)
    return None if isinstance(card, TrainedCard) and card.metrics.get(OVER_LARGER, 0.0) < 0 else card


@dataclass(frozen=True, slots=True)
class BodyModel:
    """The model that enlarges the frames, as far as the restoration of faces depends on it.

    `has_estimator` and `is_foreign` as in Selection.
    """

    name: str
    has_estimator: bool = False
    is_foreign: bool = False

    @classmethod
    def of(cls, card: Card | None) -> BodyModel:
        """That of a card; None: bicubic."""
        if card is None:
            return cls(BICUBIC)
        config = config_of(card.architecture, card.network)
        is_foreign = architecture_of(card.architecture).is_foreign
        return cls(card.name, ENGINES[card.architecture].has_estimator(config), is_foreign)


def fitting_face_model(body: BodyModel) -> str | None:
    """The shipped face model that was trained for what the body model is for; None if there is none.

    A model with an estimator of degradation is for degraded videos, where a face model that has only seen clean ones
    gains less than the model itself. To other people's models no face model was fitted.
    """
    if body.is_foreign:
        return None
    if not body.has_estimator:
        return DEFAULT_MODELS["restore_face"]
    return DEGRADED_FACE_MODEL if any(card.name == DEGRADED_FACE_MODEL for card in list_cards()) else None


def wants_faces(options: RunConfig, body: BodyModel) -> bool:
    """Whether faces are restored: by default with reference photographs, and where a face model fits the body model.

    That is not where frames are enlarged by bicubic (a pure baseline) or by a face model.
    """
    if not isinstance(options, UpscaleConfig) or options.faces.strength == 0:
        return False
    if options.faces.use is not None or options.faces.photographs:
        return options.faces.use is not False
    is_plain = body.name in (BICUBIC, DEFAULT_MODELS["restore_face"], DEGRADED_FACE_MODEL)
    return not is_plain and fitting_face_model(body) is not None


def share_of_large(side: float) -> float:
    """The share, 0..1, that the network for larger faces has of a face with this side in source pixels."""
    first, second = HANDOVER
    return min(1.0, max(0.0, (side - first) / (second - first)))


@dataclass(frozen=True, slots=True)
class TrackShares:
    """A face that both networks follow: its latest crop, its latest share, and those of the frames that are pending.

    `is_large`: whether the network for larger faces has a stream of it.
    """

    crop: Crop
    latest: float
    pending: tuple[float, ...]
    is_large: bool

    @classmethod
    def of(cls, before: TrackShares | None, crop: Crop, wanted: float) -> TrackShares:
        """With one more frame, in which the face's side asks for the share `wanted`."""
        if before is None:
            return cls(crop, wanted, (wanted,), wanted > 0)
        share = min(max(wanted, before.latest - PACE), before.latest + PACE)
        pending = (*before.pending, share)
        return cls(crop, share, pending, any(pending))


@dataclass(frozen=True, slots=True)
class SizedStreams:
    """The states of both networks, the faces by track, and the frames that are pending, oldest first."""

    tiny: Any
    large: Any
    frames: tuple[Frame, ...] = ()
    tracks: Mapping[int, TrackShares] = field(default_factory=dict)


class SizedFaceEngine:
    """Two networks as one: each face is restored by the one for its size. Stateless: the caller holds the streams."""

    def __init__(self, tiny: FaceNetwork, large: FaceNetwork, scale: int | None = None) -> None:
        """`tiny` gives its results at once, of crops that lie inside those it is given. Each has a scale of its own.

        Their images are mixed at `scale`; None: at that of the network for larger faces.
        """
        assert tiny.lookahead == 0, "frames wait for the network for larger faces only"
        self._tiny, self._large, self._scale = tiny, large, scale

    @property
    def lookahead(self) -> int:
        """Number of later frames that a result needs."""
        return self._large.lookahead

    def init_state(self) -> SizedStreams:
        """The state without any face."""
        return SizedStreams(self._tiny.init_state(), self._large.init_state())

    def step(
        self, frame: Frame, crops: Mapping[int, Crop], streams: SizedStreams
    ) -> tuple[dict[int, EnlargedCrop], SizedStreams]:
        """Takes a frame and its crops by track; returns the results of the frame `lookahead` frames before."""
        sides = {face.track: face.side for face in frame.faces}
        tracks = {
            track: TrackShares.of(streams.tracks.get(track), crop, share_of_large(sides[track]))
            for track, crop in crops.items()
        }
        frames = (*streams.frames, frame)
        wanted = {track: crop for track, crop in crops.items() if tracks[track].is_large}
        large, large_streams = self._large.step(frame, wanted, streams.large)
        due = {track: each for track, each in tracks.items() if len(each.pending) > self.lookahead}
        shares = {track: each.pending[0] for track, each in due.items()}
        ready, tiny_streams = self._joined(frames[0], shares, crops, large, streams.tiny)
        tracks |= {track: replace(each, pending=each.pending[1:]) for track, each in due.items()}
        frames = frames[1:] if len(frames) > self.lookahead else frames
        return ready, SizedStreams(tiny_streams, large_streams, frames, tracks)

    def flush(self, streams: SizedStreams, tracks: Iterable[int]) -> dict[int, list[EnlargedCrop]]:
        """The pending results of these tracks, in order."""
        asked = {track: streams.tracks[track] for track in tracks}
        rest = self._large.flush(streams.large, [track for track, each in asked.items() if each.is_large])
        ready: dict[int, list[EnlargedCrop]] = {track: [] for track in asked}
        for track, each in asked.items():
            count, large, tiny = len(each.pending), rest.get(track, []), streams.tiny
            frames = streams.frames[len(streams.frames) - count :]
            for number, (frame, share) in enumerate(zip(frames, each.pending, strict=True)):
                joined_late = count - len(large)  # the network for larger faces lacks that many frames
                given = {track: large[number - joined_late]} if number >= joined_late else {}
                joined, tiny = self._joined(frame, {track: share}, {track: each.crop}, given, tiny)
                ready[track].append(joined[track])
        return ready

    def _joined(
        self, frame: Frame, shares: Mapping[int, float], crops: Mapping[int, Crop],
        large: Mapping[int, EnlargedCrop], streams: Any,
    ) -> tuple[dict[int, EnlargedCrop], Any]:  # fmt: skip
        """The results of a frame for the tracks in `shares`, and the streams of the network for tiny faces."""
        wanted = {track: crops[track] for track, share in shares.items() if share < 1}
        tiny, streams = self._tiny.step(frame, wanted, streams)
        ready = {}
        for track, share in shares.items():
            if share == 0:
                ready[track] = tiny[track]
            elif share == 1:
                ready[track] = large[track]
            else:
                ready[track] = self._mixed(tiny[track], large[track], share)
        return ready, streams

    def _mixed(self, tiny: EnlargedCrop, large: EnlargedCrop, share: float) -> EnlargedCrop:
        """Both images, mixed where both are: in the crop of the network for tiny faces, which lies inside the other.

        Both hold all that is blended into the frame, so nothing is lost, and nothing jumps where one of them ends.
        """
        scale = self._scale or large.image.shape[-1] // large.crop.width
        small, image = (_part(each, tiny.crop, scale) for each in (tiny, large))
        shares_of_photographs = tuple(share * weight for weight in large.weights)
        return EnlargedCrop(tiny.crop, torch.lerp(small, image, share), shares_of_photographs)


def _part(enlarged: EnlargedCrop, part: Crop, scale: int) -> Tensor:
    """The image of a part of a crop at this scale."""
    crop = enlarged.crop
    image = resize(enlarged.image, (scale * crop.height, scale * crop.width)).clamp(0, 1)
    left, top = scale * (part.left - crop.left), scale * (part.top - crop.top)
    return image[:, top : top + scale * part.height, left : left + scale * part.width]
