"""Composes face processing in a video: detection and tracking, restoration, blending and reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from vidsr.config import ComputeConfig, FaceConfig, RestoreConfig
from vidsr.engines.select import Selection
from vidsr.faces.blending import FaceBlender
from vidsr.faces.detector import FaceDetector, View, load_detector
from vidsr.faces.engine import build_face_engine, select_face_engine, select_tiny_engine
from vidsr.faces.finding import FaceFinder
from vidsr.faces.handover import HANDOVER, TINY_MODEL, SizedFaceEngine
from vidsr.faces.landmark_smoothing import LandmarkSmoothing
from vidsr.faces.restorer import FaceRestorer, FaceWork
from vidsr.faces.tracker import FaceTracker, TrackerConfig
from vidsr.faces.tracks import TrackTable
from vidsr.models.cards import shipped_detector
from vidsr.stages.base import Stage
from vidsr.types import FaceTrack, TrackReport, VideoInfo


@dataclass(frozen=True, slots=True)
class FacePlan:
    """How a run restores faces: `options` with the detector's file filled in, and the selected face model.

    `tiny` is the model for tiny faces; None while it comes without weights, and where no face is that small.
    """

    options: RestoreConfig
    selection: Selection
    tiny: Selection | None = None


def plan_faces(options: RestoreConfig, compute: ComputeConfig, info: VideoInfo) -> FacePlan:
    """Decides how faces are restored; loads no weights. Raises ModelError, UsageError or DeviceError."""
    selection = select_face_engine(compute, info.height, info.width)
    tiny = select_tiny_engine(compute, options, info.height, info.width)
    return FacePlan(replace(options, detector=options.detector or shipped_detector()), selection, tiny)


def tiny_warnings(reports: Sequence[TrackReport]) -> list[str]:
    """What the smallest faces of a video are worth, if the model for tiny faces has restored any."""
    small = [each for each in reports if each.restored and each.seen.smallest_side < HANDOVER[1]]
    if not small:
        return []
    return [
        f"{len(small)} {'face was' if len(small) == 1 else 'faces were'} restored by {TINY_MODEL}, from as little as "
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
        """Loads the detector and the network. `scale` is that of the engine that enlarges the frames.

        Raises ModelError or DeviceError.
        """
        quarters = View.of(info).quarters
        engine = build_face_engine(plan.selection, quarters)
        if plan.tiny is not None:
            engine = SizedFaceEngine(build_face_engine(plan.tiny, quarters), engine)
        self._has_tiny = plan.tiny is not None
        self._is_without_tiny = plan.tiny is None and plan.options.min_face < HANDOVER[0]
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
            found.append(
                f"{TINY_MODEL}, the model for faces below {HANDOVER[0]:.0f} pixels, comes without weights: they are "
                "restored by the model for larger ones"
            )
        return [*found, *(tiny_warnings(self.reports) if self._has_tiny else ())]

    @property
    def reports(self) -> list[TrackReport]:
        """A report for each track so far, ordered by number."""
        nothing = FaceWork()
        works = ((seen, self._restorer.work.get(seen.track, nothing)) for seen in self._search.tracks)
        return [TrackReport(seen, work.restored, dict(work.skipped)) for seen, work in works]
