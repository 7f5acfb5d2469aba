"""Statistics of face tracks for reports: duration, size, detections. Stores one small entry per track."""

from __future__ import annotations

from dataclasses import replace

from vidsr.stages.base import FrameStage
from vidsr.types import FaceTrack, Frame


class TrackTable(FrameStage):
    """The stage that collects tracks from frames that carry faces; frames do not change."""

    name = "note_tracks"

    def __init__(self) -> None:
        self._tracks: dict[int, FaceTrack] = {}

    def add(self, frame: Frame) -> None:
        """Adds the next frame."""
        for face in frame.faces:
            side = face.side
            track = self._tracks.get(face.track) or FaceTrack(
                track=face.track, first_pts=frame.pts, last_pts=frame.pts, time_base=frame.time_base,
                frames=0, found=0, smallest_side=side, largest_side=side, best_score=0.0,
            )  # fmt: skip
            self._tracks[face.track] = replace(
                track,
                last_pts=frame.pts,
                frames=track.frames + 1,
                found=track.found + face.is_found,
                smallest_side=min(track.smallest_side, side),
                largest_side=max(track.largest_side, side),
                best_score=max(track.best_score, face.score),
            )

    def process(self, frame: Frame) -> Frame:
        """Adds the next frame and returns it unchanged."""
        self.add(frame)
        return frame

    def save(self, state: None) -> dict[int, FaceTrack]:  # noqa: ARG002 - the signature of a stage
        """The tracks so far."""
        return self._tracks

    def restore(self, saved: dict[int, FaceTrack]) -> None:
        """Sets the tracks so far."""
        self._tracks = saved

    @property
    def tracks(self) -> tuple[FaceTrack, ...]:
        """All tracks so far, ordered by number."""
        return tuple(self._tracks[number] for number in sorted(self._tracks))
