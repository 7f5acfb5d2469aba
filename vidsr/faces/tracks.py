"""What became of each track: how long, how large, how often found. For reports; one small entry a track."""

from __future__ import annotations

from dataclasses import replace

from vidsr.types import FaceTrack, Frame


class TrackTable:
    """Collects tracks from frames that carry faces; as a stage it gives each frame out as it is."""

    name = "note_tracks"

    def __init__(self) -> None:
        self._tracks: dict[int, FaceTrack] = {}

    def add(self, frame: Frame) -> None:
        """Takes the next frame."""
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

    def start(self) -> None:
        """Nothing waits."""

    def step(self, frame: Frame, state: None) -> tuple[list[Frame], None]:
        """Notes the faces of a frame."""
        self.add(frame)
        return [frame], state

    def flush(self, state: None) -> list[Frame]:  # noqa: ARG002 - the signature of a stage
        """Nothing waits."""
        return []

    @property
    def tracks(self) -> tuple[FaceTrack, ...]:
        """All tracks so far, by number."""
        return tuple(self._tracks[number] for number in sorted(self._tracks))
