"""Faces in a run: found in the film as it is read, restored beside the network, pasted into its results, reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from vidsr.config import ComputeConfig, RestoreConfig
from vidsr.faces.blending import blend_faces
from vidsr.faces.detector import FaceDetector, View, load_detector
from vidsr.faces.engine import build_face_engine, select_face_engine
from vidsr.faces.finding import find_faces
from vidsr.faces.landmark_smoothing import smooth_landmarks
from vidsr.faces.restorer import FaceRestorer, FaceWork
from vidsr.faces.tracker import FaceTracker, TrackerConfig
from vidsr.faces.tracks import TrackTable
from vidsr.types import Frame, TrackReport, VideoInfo


class Restoration:
    """One film's faces. The three steps may run in different threads, each in one."""

    def __init__(self, config: RestoreConfig, compute: ComputeConfig, info: VideoInfo) -> None:
        """Loads the detector and the network. Raises ModelError, UsageError or DeviceError."""
        view = View.of(info)
        self._config = config
        selection = select_face_engine(compute, info.height, info.width)
        engine, device = build_face_engine(selection, view.quarters), torch.device(selection.device)
        self.model = selection.model
        # One thread: it looks at a few frames beside the network, which needs the others.
        detector = load_detector(self._config, device, 1)
        self._detector = FaceDetector(detector, view, info.height, info.width, self._config.min_face)
        self._table, self._restorer = TrackTable(), FaceRestorer(engine, config)

    @property
    def warnings(self) -> list[str]:
        """What the user should know before the film begins."""
        return [self._detector.warning] if self._detector.warning else []

    def find(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames with their faces, steadied; they come a few frames late, for a track is known after some time."""
        tracker = FaceTracker(TrackerConfig(min_side=self._config.min_face))
        for frame in smooth_landmarks(find_faces(frames, self._detector, self._config.every, tracker)):
            self._table.add(frame)
            yield frame

    def restore(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The frames with restored faces beside them."""
        return self._restorer.run(frames)

    def paste(self, frames: Iterable[Frame]) -> Iterator[Frame]:
        """The enlarged frames with the restored faces in them."""
        return blend_faces(frames, self._config.strength)

    @property
    def reports(self) -> list[TrackReport]:
        """All tracks so far, by number, and what became of them."""
        nothing = FaceWork()
        works = ((seen, self._restorer.work.get(seen.track, nothing)) for seen in self._table.tracks)
        return [TrackReport(seen, work.restored, dict(work.skipped)) for seen, work in works]
