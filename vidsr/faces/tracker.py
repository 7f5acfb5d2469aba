"""Tracking by detection: a Kalman filter per face predicts its box, and detections are assigned to tracks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vidsr.faces.detections import Array, Detections, pairwise_iou

# Standard deviations in sides of the face and frames. YuNet's boxes jitter by 2 to 3 % of the side. A head accelerates
# by a few percent of its side per frame and may enter the image at a fifth of its side per frame.
MEASUREMENT = 0.04
ACCELERATION = 0.03
FIRST_SPEED = 0.2
# Weight of a new detection in the size and the landmark offsets. They have no velocity: an extrapolated size could
# vanish.
SHAPE_GAIN = 0.5


@dataclass(frozen=True, slots=True)
class FaceMotion:
    """The state of a face's Kalman filter: its `center` in pixels and `velocity` in pixels per frame.

    One 2 x 2 covariance, in sides of the face, serves both axes. `size` is width and height in pixels; `offsets` are
    the landmarks relative to the center, in units of the size.
    """

    center: Array
    velocity: Array
    covariance: Array
    size: Array
    offsets: Array

    @classmethod
    def start(cls, box: Array, landmarks: Array) -> FaceMotion:
        """The state of a face seen for the first time, at rest."""
        center, size, offsets = _parts(box, landmarks)
        return cls(center, np.zeros(2), np.diag([MEASUREMENT**2, FIRST_SPEED**2]), size, offsets)

    @property
    def box(self) -> Array:
        """Left, top, width, height."""
        return np.concatenate([self.center - self.size / 2, self.size])

    @property
    def landmarks(self) -> Array:
        """Five points, 5 x 2, in pixels."""
        return self.center + self.offsets * self.size

    def predicted(self, frames: int) -> FaceMotion:
        """The state `frames` frames later without a detection."""
        step = np.array([[1.0, frames], [0.0, 1.0]])
        noise = ACCELERATION**2 * np.array([[frames**3 / 3, frames**2 / 2], [frames**2 / 2, frames]])
        return replace(
            self, center=self.center + frames * self.velocity, covariance=step @ self.covariance @ step.T + noise
        )

    def corrected(self, box: Array, landmarks: Array) -> FaceMotion:
        """The state after a detection in the same frame.

        A box smaller than predicted may be the visible part of an occluded face, whose center lies elsewhere. So its
        center counts only as far as occlusion cannot explain it; otherwise the track would drift just before the face
        is hidden.
        """
        center, size, offsets = _parts(box, landmarks)
        gain = self.covariance[:, 0] / (self.covariance[0, 0] + MEASUREMENT**2)
        covered = np.maximum(0.0, self.size - size) / 2
        error = center - self.center
        error = np.sign(error) * np.maximum(0.0, np.abs(error) - covered)
        return FaceMotion(
            self.center + gain[0] * error,
            self.velocity + gain[1] * error,
            self.covariance - np.outer(gain, self.covariance[0]),
            self.size + SHAPE_GAIN * (size - self.size),
            self.offsets + SHAPE_GAIN * (offsets - self.offsets),
        )


def _parts(box: Array, landmarks: Array) -> tuple[Array, Array, Array]:
    size = box[2:]
    center = box[:2] + size / 2
    return center, size, (landmarks - center) / size


_FORBIDDEN = 1e6  # cost of an assignment that is ruled out


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """`strong`, `weak`: scores from which a detection may begin, or only continue, a track.

    A face smaller than `min_side` pixels counts as weak. `hits` strong detections without a miss between them confirm a
    track; a track not detected for more than `patience` frames ends. A detection can match a track if the IoU of their
    boxes is at least `min_overlap` or the mean distance of their landmarks, in sides of the face, is at most `reach`;
    `reach` grows with the standard deviation of the predicted position, by at most `slack`.
    """

    strong: float = 0.6
    weak: float = 0.3
    hits: int = 3
    patience: int = 15
    min_side: float = 16.0
    min_overlap: float = 0.2
    reach: float = 0.5
    slack: float = 0.75


@dataclass(frozen=True, slots=True)
class Track:
    """A tracked face. `serial` is unique; `number` is None until the track is confirmed, then counts from 1.

    `seen` is its row in the detections of the last step, None if it was missed; `missed` counts the frames since its
    last detection.
    """

    serial: int
    number: int | None
    motion: FaceMotion
    hits: int
    missed: int
    seen: int | None


@dataclass(frozen=True, slots=True)
class TrackerState:
    """The live tracks of a scene, the number of its searches, and the next free track numbers."""

    tracks: tuple[Track, ...] = ()
    searches: int = 0
    next_serial: int = 1
    next_number: int = 1


@dataclass(frozen=True, slots=True)
class FaceTracker:
    """The rules by which tracks begin, continue and end. The caller holds the state."""

    config: TrackerConfig = field(default_factory=TrackerConfig)

    def step(self, found: Detections, frames: int, width: float, height: float, state: TrackerState) -> TrackerState:
        """The state after the detections of a search `frames` frames after the last one, in an image of this size.

        The order of the detections affects only the row numbers in `seen`.
        """
        ranked = np.lexsort((*found.boxes.T[::-1], -found.scores))
        sides = np.sqrt(np.prod(found.boxes[:, 2:], axis=1))
        is_strong = (found.scores >= self.config.strong) & (sides >= self.config.min_side)
        strong = ranked[is_strong[ranked]]
        weak = ranked[(~is_strong & (found.scores >= self.config.weak))[ranked]]
        tracks = [
            replace(track, motion=track.motion.predicted(frames), missed=track.missed + frames, seen=None)
            for track in state.tracks
        ]
        taken = self._match(tracks, range(len(tracks)), found, strong)
        taken |= self._match(tracks, [i for i in range(len(tracks)) if i not in taken], found, weak)
        for index, row in taken.items():
            track = tracks[index]
            hits = track.hits + bool(is_strong[row])
            motion = track.motion.corrected(found.boxes[row], found.landmarks[row])
            tracks[index] = replace(track, motion=motion, hits=hits, missed=0, seen=int(row))
        tracks = [track for track in tracks if self._is_alive(track, width, height)]
        serial = state.next_serial
        for row in strong:
            if row not in taken.values():
                motion = FaceMotion.start(found.boxes[row], found.landmarks[row])
                tracks.append(Track(serial, None, motion, hits=1, missed=0, seen=int(row)))
                serial += 1
        after = TrackerState(tuple(tracks), state.searches + 1, serial, state.next_number)
        return self._confirm(after, self.config.hits)

    def finish(self, state: TrackerState) -> TrackerState:
        """The state after the last step of a scene.

        In a scene with fewer than `hits` searches, a face found in all of them is confirmed.
        """
        return self._confirm(state, min(self.config.hits, state.searches))

    def next_scene(self, state: TrackerState) -> TrackerState:
        """The state at the start of the next scene: no tracks, but numbers are not reused."""
        return TrackerState(next_serial=state.next_serial, next_number=state.next_number)

    def _match(
        self, tracks: list[Track], candidates: range | list[int], found: Detections, rows: NDArray[np.intp]
    ) -> dict[int, int]:
        """Assigns detections to tracks: a row of `found` by index of the track."""
        if not len(candidates) or not len(rows):
            return {}
        costs = self._costs([tracks[index].motion for index in candidates], found.take(rows))
        pairs = zip(*linear_sum_assignment(costs), strict=True)
        return {candidates[i]: int(rows[j]) for i, j in pairs if costs[i, j] < _FORBIDDEN}

    def _costs(self, motions: list[FaceMotion], found: Detections) -> Array:
        """The assignment cost of each detection for each track: 1 - IoU + mean landmark distance in sides."""
        boxes = np.stack([motion.box for motion in motions])
        landmarks = np.stack([motion.landmarks for motion in motions])
        overlap = pairwise_iou(boxes, found.boxes)
        sides = np.sqrt(np.prod(boxes[:, 2:], axis=1))[:, None], np.sqrt(np.prod(found.boxes[:, 2:], axis=1))[None]
        distance = np.linalg.norm(landmarks[:, None] - found.landmarks[None], axis=3).mean(2)
        distance = distance / np.sqrt(sides[0] * sides[1])
        uncertainty = np.sqrt([motion.covariance[0, 0] for motion in motions])[:, None]
        reach = self.config.reach + np.minimum(uncertainty, self.config.slack)
        is_near = (overlap >= self.config.min_overlap) | (distance <= reach)
        is_alike = np.abs(np.log(sides[0] / sides[1])) < np.log(2.0)
        return np.where(is_near & is_alike, 1 - overlap + distance, _FORBIDDEN)

    def _is_alive(self, track: Track, width: float, height: float) -> bool:
        if track.seen is not None:
            return True
        x, y = track.motion.center
        is_inside = 0 <= x < width and 0 <= y < height
        return track.number is not None and track.missed <= self.config.patience and is_inside

    def _confirm(self, state: TrackerState, hits: int) -> TrackerState:
        tracks, number = [], state.next_number
        for track in state.tracks:
            if track.number is None and track.hits >= hits:
                tracks.append(replace(track, number=number))
                number += 1
            else:
                tracks.append(track)
        return replace(state, tracks=tuple(tracks), next_number=number)
