"""What a run has seen of its input so far, for the display of its progress."""

from __future__ import annotations

from dataclasses import dataclass, field

from vidsr.types import Frame


@dataclass(slots=True)
class Sightings:
    """Scenes and faces of the input frames so far.

    `scene_starts` are the numbers of the input frames, from 0, that begin a scene; `tracks` those of the face tracks.
    `face_pixels` is the area of the faces that are to be restored, in input pixels, summed over the frames: frames with
    faces take longer.
    """

    scene_starts: list[int] = field(default_factory=list)
    tracks: set[int] = field(default_factory=set)
    face_pixels: float = 0.0

    def see(self, number: int, frame: Frame, largest: float) -> None:
        """Takes over a frame; faces whose side is more than `largest` input pixels are not restored."""
        if frame.starts_scene:
            self.scene_starts.append(number)
        for face in frame.faces:
            self.tracks.add(face.track)
            if face.side <= largest:
                self.face_pixels += face.side**2

    def take(self, other: Sightings) -> None:
        """Becomes equal to another one."""
        self.scene_starts, self.tracks, self.face_pixels = other.scene_starts, other.tracks, other.face_pixels
