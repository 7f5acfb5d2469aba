"""Tracking by detection: a Kalman filter per face predicts its box, detections are assigned to tracks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from vidsr.faces.detections import Array, Detections, overlaps

# In units of the face's side, and frames. YuNet's boxes jitter by 2 to 3 % of the side; a head speeds up by a few
# percent of its side a frame, and may come into view at a fifth of it.
MEASUREMENT = 0.04
ACCELERATION = 0.03
FIRST_SPEED = 0.2
# The share of a new detection in size and inner places, which have no velocity: an extrapolated size could vanish.
SHAPE_GAIN = 0.5


@dataclass(frozen=True, slots=True)
class Motion:
    """A face's `middle` and `velocity` in pixels (a frame), with one 2 x 2 covariance, in sides, for both axes.

    `size` is width and height in pixels; `inner` the landmarks from the middle, in units of the size.
    """

    middle: Array
    velocity: Array
    covariance: Array
    size: Array
    inner: Array

    @classmethod
    def start(cls, box: Array, landmarks: Array) -> Motion:
        """A face seen for the first time, at rest."""
        middle, size, inner = _parts(box, landmarks)
        return cls(middle, np.zeros(2), np.diag([MEASUREMENT**2, FIRST_SPEED**2]), size, inner)

    @property
    def box(self) -> Array:
        """Left, top, width, height."""
        return np.concatenate([self.middle - self.size / 2, self.size])

    @property
    def landmarks(self) -> Array:
        """Five points, 5 x 2."""
        return self.middle + self.inner * self.size

    def predicted(self, frames: int) -> Motion:
        """So many frames later, with nothing seen."""
        step = np.array([[1.0, frames], [0.0, 1.0]])
        noise = ACCELERATION**2 * np.array([[frames**3 / 3, frames**2 / 2], [frames**2 / 2, frames]])
        return replace(
            self, middle=self.middle + frames * self.velocity, covariance=step @ self.covariance @ step.T + noise
        )

    def corrected(self, box: Array, landmarks: Array) -> Motion:
        """The same moment with a detection.

        A box smaller than expected may be what is left of a covered face, whose middle stays behind: its middle counts
        only as far as it cannot be that. Otherwise a face would lose its way just before it is hidden.
        """
        middle, size, inner = _parts(box, landmarks)
        gain = self.covariance[:, 0] / (self.covariance[0, 0] + MEASUREMENT**2)
        covered = np.maximum(0.0, self.size - size) / 2
        error = middle - self.middle
        error = np.sign(error) * np.maximum(0.0, np.abs(error) - covered)
        return Motion(
            self.middle + gain[0] * error,
            self.velocity + gain[1] * error,
            self.covariance - np.outer(gain, self.covariance[0]),
            self.size + SHAPE_GAIN * (size - self.size),
            self.inner + SHAPE_GAIN * (inner - self.inner),
        )


def _parts(box: Array, landmarks: Array) -> tuple[Array, Array, Array]:
    size = box[2:]
    middle = box[:2] + size / 2
    return middle, size, (landmarks - middle) / size


_FORBIDDEN = 1e6


@dataclass(frozen=True, slots=True)
class TrackerConfig:
    """`strong`, `weak`: scores from which a detection may begin, or only continue, a track.

    A face below `least_side` pixels counts as weak. `hits` strong detections make a track, if none was missed between;
    one not seen for more than `patience` frames is given up. A detection may match if its boxes overlap by
    `least_overlap` or its landmarks are within `reach` on average, in sides of the face; where the motion is not sure,
    the reach grows with its standard deviation by at most `slack`.
    """

    strong: float = 0.6
    weak: float = 0.3
    hits: int = 3
    patience: int = 15
    least_side: float = 16.0
    least_overlap: float = 0.2
    reach: float = 0.5
    slack: float = 0.75


@dataclass(frozen=True, slots=True)
class Track:
    """A face that is followed. `serial` is unique; `number` is None until it is confirmed, then it counts from 1.

    `seen` is its row in the detections of the last step, None if it was missed; `missed` counts the frames since.
    """

    serial: int
    number: int | None
    motion: Motion
    hits: int
    missed: int
    seen: int | None


@dataclass(frozen=True, slots=True)
class TrackerState:
    """The live tracks of the scene, how often it was searched, and the next free numbers."""

    tracks: tuple[Track, ...] = ()
    searches: int = 0
    next_serial: int = 1
    next_number: int = 1


@dataclass(frozen=True, slots=True)
class FaceTracker:
    """The rules by which tracks are born, continue and die. The state is the caller's."""

    config: TrackerConfig = field(default_factory=TrackerConfig)

    def step(self, found: Detections, frames: int, width: float, height: float, state: TrackerState) -> TrackerState:
        """Takes what was found `frames` frames after the last step, in a picture of this size.

        The order of the detections matters only for the rows that `seen` names.
        """
        ranked = np.lexsort((*found.boxes.T[::-1], -found.scores))
        sides = np.sqrt(np.prod(found.boxes[:, 2:], axis=1))
        is_strong = (found.scores >= self.config.strong) & (sides >= self.config.least_side)
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
                motion = Motion.start(found.boxes[row], found.landmarks[row])
                tracks.append(Track(serial, None, motion, hits=1, missed=0, seen=int(row)))
                serial += 1
        after = TrackerState(tuple(tracks), state.searches + 1, serial, state.next_number)
        return self._confirm(after, self.config.hits)

    def finish(self, state: TrackerState) -> TrackerState:
        """After the last step of a scene: one too short for `hits` searches has the faces that all of them saw."""
        return self._confirm(state, min(self.config.hits, state.searches))

    def next_scene(self, state: TrackerState) -> TrackerState:
        """Nothing is left but the numbers, which are not given twice."""
        return TrackerState(next_serial=state.next_serial, next_number=state.next_number)

    def _match(
        self, tracks: list[Track], candidates: range | list[int], found: Detections, rows: NDArray[np.intp]
    ) -> dict[int, int]:
        """Rows of `found` by index of the track."""
        if not len(candidates) or not len(rows):
            return {}
        costs = self._costs([tracks[index].motion for index in candidates], found.take(rows))
        pairs = zip(*linear_sum_assignment(costs), strict=True)
        return {candidates[i]: int(rows[j]) for i, j in pairs if costs[i, j] < _FORBIDDEN}

    def _costs(self, motions: list[Motion], found: Detections) -> Array:
        """What it costs to take each detection for each face: no overlap costs 1, a landmark distance of a side too."""
        boxes = np.stack([motion.box for motion in motions])
        landmarks = np.stack([motion.landmarks for motion in motions])
        overlap = overlaps(boxes, found.boxes)
        sides = np.sqrt(np.prod(boxes[:, 2:], axis=1))[:, None], np.sqrt(np.prod(found.boxes[:, 2:], axis=1))[None]
        distance = np.linalg.norm(landmarks[:, None] - found.landmarks[None], axis=3).mean(2)
        distance = distance / np.sqrt(sides[0] * sides[1])
        doubt = np.sqrt([motion.covariance[0, 0] for motion in motions])[:, None]
        reach = self.config.reach + np.minimum(doubt, self.config.slack)
        is_near = (overlap >= self.config.least_overlap) | (distance <= reach)
        is_alike = np.abs(np.log(sides[0] / sides[1])) < np.log(2.0)
        return np.where(is_near & is_alike, 1 - overlap + distance, _FORBIDDEN)

    def _is_alive(self, track: Track, width: float, height: float) -> bool:
        if track.seen is not None:
            return True
        x, y = track.motion.middle
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
