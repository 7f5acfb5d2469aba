"""Which network restores faces: one rule by the model that enlarges the frames, one by size, with a soft hand-over.

Faces up to the first side of HANDOVER are restored by the network for tiny faces, if it measures better there; from the
second side on by the one for larger faces; between them both run, and their images are mixed. Faces below `--min-face`
are left alone. The one for larger faces follows the model that enlarges the frames: `fitting_face_model`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vidsr.config import RunConfig, UpscaleConfig
from vidsr.engines.select import BICUBIC, DEFAULT_MODELS, DEGRADED_FACE_MODEL, ENGINES
from vidsr.faces.restorer import FADE, EnlargedCrop, FaceNetwork
from vidsr.models.cards import Card, ModelCard, TrainedCard, list_cards
from vidsr.models.registry import architecture_of, config_of
from vidsr.nets.layers.resize import resize
from vidsr.types import Crop, Frame

TINY_MODEL = "secnet-fast-face-tiny"
# The metric of its card that decides whether it takes the tiny faces: PSNR of luma in dB over the default network for
# larger ones (benchmarks/faces/tiny.py).
OVER_LARGER = "tiny_12_to_16_px_psnr_y_over_larger"
# Sides of a face in source pixels. At 28 pixels both measure the same, below it the one for tiny faces better
# (benchmarks/TRAINING.md).
HANDOVER = 22.0, 28.0
# The share of a network changes by at most this much in a frame, as fast as a face fades in: detected sides are noisy,
# and a side that jumps must not show.
PACE = 1 / (FADE + 1)


def tiny_card(min_face: float, large: str) -> ModelCard | None:
    """The card of the model for tiny faces, beside the model `large`; None where it has none of its own to restore.

    That is where no face from `min_face` on is tiny, beside another model than the one that it was measured against,
    without its weights, and as long as its card says that the network for larger faces measures better.
    """
    if min_face >= HANDOVER[1] or large != DEFAULT_MODELS["restore_face"]:
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
    is_plain = body.name in (BICUBIC, DEFAULT_MODELS["restore_face"], DEGRADED_FACE_MODEL, TINY_MODEL)
    return not is_plain and fitting_face_model(body) is not None


def share_of_large(side: float) -> float:
    """The share, 0..1, that the network for larger faces has of a face with this side in source pixels."""
    first, second = HANDOVER
    return min(1.0, max(0.0, (side - first) / (second - first)))


@dataclass(frozen=True, slots=True)
class TrackShares:
    """A face that both networks follow: its latest share, and those of the frames that are pending, oldest first."""

    latest: float
    pending: tuple[float, ...]

    @classmethod
    def of(cls, before: TrackShares | None, wanted: float) -> TrackShares:
        """With one more frame, in which the face's side asks for the share `wanted`."""
        if before is None:
            return cls(wanted, (wanted,))
        share = min(max(wanted, before.latest - PACE), before.latest + PACE)
        return cls(share, (*before.pending, share))

    @property
    def is_tiny(self) -> bool:
        """Whether the network for tiny faces has a stream of it."""
        return min(self.pending, default=1.0) < 1

    @property
    def is_large(self) -> bool:
        """Whether the network for larger faces has a stream of it."""
        return max(self.pending, default=0.0) > 0


@dataclass(frozen=True, slots=True)
class SizedStreams:
    """The states of both networks, and the faces by track."""

    tiny: Any
    large: Any
    tracks: Mapping[int, TrackShares] = field(default_factory=dict)


class SizedFaceEngine:
    """Two networks as one: each face is restored by the one for its size. Stateless: the caller holds the streams."""

    def __init__(self, tiny: FaceNetwork, large: FaceNetwork) -> None:
        """Both need as many later frames, and show the crops that they are given."""
        assert tiny.lookahead == large.lookahead, "their results come together"
        self._tiny, self._large = tiny, large

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
        tracks = {track: TrackShares.of(streams.tracks.get(track), share_of_large(sides[track])) for track in crops}
        for_tiny = {track: crop for track, crop in crops.items() if tracks[track].is_tiny}
        for_large = {track: crop for track, crop in crops.items() if tracks[track].is_large}
        tiny, tiny_streams = self._tiny.step(frame, for_tiny, streams.tiny)
        large, large_streams = self._large.step(frame, for_large, streams.large)
        ready = {}
        for track, each in tracks.items():
            if len(each.pending) > self.lookahead:
                ready[track] = _joined(tiny.get(track), large.get(track), each.pending[0])
                tracks[track] = replace(each, pending=each.pending[1:])
        return ready, SizedStreams(tiny_streams, large_streams, tracks)

    def flush(self, streams: SizedStreams, tracks: Iterable[int]) -> dict[int, list[EnlargedCrop]]:
        """The pending results of these tracks, in order."""
        asked = {track: streams.tracks[track] for track in tracks}
        tiny = self._tiny.flush(streams.tiny, [track for track, each in asked.items() if each.is_tiny])
        large = self._large.flush(streams.large, [track for track, each in asked.items() if each.is_large])
        ready: dict[int, list[EnlargedCrop]] = {}
        for track, each in asked.items():
            # A network that joined late lacks the first frames, in which it has no share.
            small, image = (_aligned(results.get(track, []), len(each.pending)) for results in (tiny, large))
            ready[track] = [_joined(*row) for row in zip(small, image, each.pending, strict=True)]
        return ready


def _aligned(results: Sequence[EnlargedCrop], count: int) -> list[EnlargedCrop | None]:
    """The results of the last of `count` frames, behind None for the others."""
    return [*[None] * (count - len(results)), *results]


def _joined(tiny: EnlargedCrop | None, large: EnlargedCrop | None, share: float) -> EnlargedCrop:
    """The result of a face of which `large` has a share; images are mixed at the larger of their scales."""
    if tiny is None or share == 1:
        assert large is not None and share == 1, "it has a stream as long as it has a share"
        return large
    if large is None or share == 0:
        assert share == 0, "it has a stream as long as it has a share"
        return tiny
    height, width = (max(a, b) for a, b in zip(tiny.image.shape[1:], large.image.shape[1:], strict=True))
    small, image = (resize(each.image, (height, width)).clamp(0, 1) for each in (tiny, large))
    shares_of_photographs = tuple(share * weight for weight in large.weights)
    return EnlargedCrop(large.crop, torch.lerp(small, image, share), shares_of_photographs)
