"""Composes face processing in a video: detection and tracking, restoration, blending and reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from vidsr.config import ComputeConfig, FaceConfig, RestoreConfig
from vidsr.engines.select import Selection
from vidsr.faces.blending import FaceBlender
from vidsr.faces.detector import FaceDetector, View, load_detector
from vidsr.faces.embedding import EmbeddingChoice
from vidsr.faces.engine import (
    build_face_engine,
    is_for_all_sizes,
    scale_of,
    select_face_engine,
    select_tiny_engine,
)
from vidsr.faces.finding import FaceFinder
from vidsr.faces.handover import TINY_MODEL, SizedFaceEngine
from vidsr.faces.landmark_smoothing import LandmarkSmoothing
from vidsr.faces.photographs import FoundPhotograph, load_photograph
from vidsr.faces.restorer import FaceRestorer, FaceWork
from vidsr.faces.tracker import FaceTracker, TrackerConfig
from vidsr.faces.tracks import TrackTable
from vidsr.models.cards import shipped_detector
from vidsr.stages.base import Stage
from vidsr.types import FaceTrack, ReferenceReport, TrackReport, VideoInfo

# Sides of a face in source pixels: below the first one, what a network draws is plausible, not evidence; below the
# second one faces are only restored where that is asked for.
PLAUSIBLE, USUAL = 22.0, FaceConfig().min_face


@dataclass(frozen=True, slots=True)
class PlannedReference:
    """A photograph of `--reference`, and the tracks that it serves; `similarity` as in ReferenceReport."""

    name: str
    photograph: FoundPhotograph
    tracks: tuple[int, ...]
    similarity: float | None


@dataclass(frozen=True, slots=True)
class FacePlan:
    """How a run restores faces: `options` with the detector's file filled in, and the selected face model.

    `tiny` is the model for tiny faces; None while it is not better than the other one, and where no face is that small.
    `references` are the photographs of people; `embedding` is what found their tracks, None if they were given by
    number. `warnings` say whom the video does not show.
    """

    options: RestoreConfig
    selection: Selection
    tiny: Selection | None = None
    references: tuple[PlannedReference, ...] = ()
    embedding: EmbeddingChoice | None = None
    warnings: tuple[str, ...] = ()

    @property
    def tiny_model(self) -> str | None:
        """The name of the model that restores tiny faces; None where they are left to a model for larger ones."""
        if is_for_all_sizes(self.selection.card) or self.selection.model == TINY_MODEL:
            return self.selection.model
        return None if self.tiny is None else self.tiny.model

    def blending_scale(self, network_scale: int, enlargement: int | None) -> int:
        """The factor at which faces are put into the frames, which a network enlarges by `network_scale`.

        That is the output's `enlargement` (None if it is no whole number) if it is larger, and a face model reaches it.
        """
        reached = max(scale_of(each) for each in (self.selection, self.tiny) if each is not None)
        return enlargement if enlargement is not None and network_scale < enlargement <= reached else network_scale


def plan_faces(
    options: RestoreConfig, compute: ComputeConfig, info: VideoInfo, body: Selection | None = None
) -> FacePlan:
    """Decides how faces are restored; loads no weights. Raises ModelError, UsageError or DeviceError.

    `body` is what enlarges the frames: the face model is made for what it is for, and has its degradation levels. None
    where faces are all there is.
    """
    wants_references = bool(options.photographs)
    selection = select_face_engine(
        compute, info.height, info.width, options.model, wants_references, options.boxes, body
    )
    tiny = None
    if not is_for_all_sizes(selection.card):
        tiny = select_tiny_engine(compute, options, info.height, info.width, selection)
    return FacePlan(replace(options, detector=options.detector or shipped_detector()), selection, tiny)


def tiny_warnings(reports: Sequence[TrackReport], model: str | None) -> list[str]:
    """What the smallest faces of a video are worth, if `model`, which restores tiny faces, has restored any."""
    if model is None:
        return []
    small = [each for each in reports if each.restored and each.seen.smallest_side < PLAUSIBLE]
    if not small:
        return []
    return [
        f"{len(small)} {'face was' if len(small) == 1 else 'faces were'} restored by {model}, from as little as "
        f"{min(each.seen.smallest_side for each in small):.0f} pixels: such a face is plausible, not evidence"
    ]


class FaceSearch:
    """Detects and tracks the faces of one video: `stages`, to be run in this order in one thread.

    Frames come out a few frames late, because a track is confirmed only after some time. `tracks` are the tracks so
    far. `warning` says what keeps the smallest faces from being detected, None if nothing does.
    """

    def __init__(self, options: FaceConfig, info: VideoInfo, device: torch.device, threads: int) -> None:
        """Loads the detector, which runs on `threads` threads. Raises ModelError or DeviceError."""
        self.network = load_detector(options, device, threads)
        detector = FaceDetector(self.network, View.of(info), info.height, info.width, options.min_face)
        tracker = FaceTracker(TrackerConfig(min_side=options.min_face))
        self.warning = detector.warning
        self._table = TrackTable()
        self.stages: Sequence[Stage] = (
            FaceFinder(detector, options.every, tracker),
            LandmarkSmoothing(),
            self._table,
        )

    @property
    def tracks(self) -> tuple[FaceTrack, ...]:
        """All tracks so far, ordered by number."""
        return self._table.tracks


class Restoration:
    """Restores the faces of one video in three groups of stages.

    `find` and `restore` come before the network, `blend` after it. `find` may run in another thread.
    """

    def __init__(self, plan: FacePlan, info: VideoInfo, scale: int) -> None:
        """Loads the detector, the network and the photographs. `scale` is that of the frames that `blend` gets.

        Raises ModelError, DeviceError, or InputError for a photograph that has changed since it was planned.
        """
        self._references: dict[int, list[PlannedReference]] = defaultdict(list)
        for reference in plan.references:
            for track in reference.tracks:
                self._references[track].append(reference)
        loaded = {each.photograph.path: load_photograph(each.photograph) for each in plan.references if each.tracks}
        photographs = {
            track: [loaded[each.photograph.path] for each in mine] for track, mine in self._references.items()
        }
        quarters, strength = View.of(info).quarters, plan.options.reference_strength
        engine = build_face_engine(plan.selection, quarters, photographs, strength, plan.options.boxes)
        if plan.tiny is not None:
            engine = SizedFaceEngine(build_face_engine(plan.tiny, quarters), engine)
        self.scale = scale
        self._model, self._tiny_model = plan.selection.model, plan.tiny_model
        self._is_without_tiny = self._tiny_model is None and plan.options.min_face < USUAL
        # One thread: the detector examines few frames, and the network needs the other threads.
        self._search = FaceSearch(plan.options, info, torch.device(plan.selection.device), 1)
        self._restorer = FaceRestorer(engine, plan.options)
        self.find = self._search.stages
        self.restore: Sequence[Stage] = (self._restorer,)
        self.blend: Sequence[Stage] = (FaceBlender(plan.options.strength, scale),)

    def count_between(self, times: tuple[int, int] | None) -> None:
        """Restored faces count in `reports` for frames from the first time on and before the second; None: for all."""
        self._restorer.counted = times

    @property
    def work(self) -> dict[int, FaceWork]:
        """What was done so far for each track."""
        return self._restorer.work

    @property
    def warnings(self) -> list[str]:
        """Warnings to show before the video is processed; afterwards also what its smallest faces are worth."""
        found = [self._search.warning] if self._search.warning else []
        if self._is_without_tiny:
            found.append(f"faces below {USUAL:.0f} pixels are restored by the model for larger ones, {self._model}")
        return [*found, *tiny_warnings(self.reports, self._tiny_model)]

    @property
    def reports(self) -> list[TrackReport]:
        """A report for each track so far, ordered by number."""
        nothing = FaceWork()
        works = ((seen, self._restorer.work.get(seen.track, nothing)) for seen in self._search.tracks)
        return [
            TrackReport(seen, work.restored, dict(work.skipped), self._served(seen.track, work), list(work.boxes))
            for seen, work in works
        ]

    @property
    def unserved(self) -> list[str]:
        """A sentence for each track that has photographs and was not in the video, which is known at its end."""
        absent = self._references.keys() - {seen.track for seen in self._search.tracks}
        return [f"the video has no face track {track}: its photographs were not used" for track in sorted(absent)]

    def _served(self, track: int, work: FaceWork) -> list[ReferenceReport]:
        mine = self._references.get(track, [])
        weights: Sequence[float | None] = work.mean_weights or [None] * len(mine)
        return [
            ReferenceReport(each.name, str(each.photograph.path), weight, each.similarity)
            for each, weight in zip(mine, weights, strict=True)
        ]
