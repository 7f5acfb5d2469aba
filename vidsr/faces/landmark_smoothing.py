"""Temporal smoothing of facial landmarks: each detection is fused with what earlier and later frames predict."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vidsr.faces.detections import Array
from vidsr.faces.optical_flow import Grey, Patch, Points, carry, cut_patch, homecoming, patch_side, spread, track
from vidsr.stages.base import through
from vidsr.types import Face, Frame

Weights = NDArray[np.float64]

# What an agreeing frame takes off a landmark's disputes.
FORGIVENESS = 0.1


@dataclass(frozen=True, slots=True)
class SteadyConfig:
    """What the text leaves open. `similarity` and `consistency` are in spreads, the others in frames.

    Tuned on training stills and clips (benchmarks/landmarks.py --tune). A longer memory hardly lowers the jitter of
    real detections and lets small errors of tracking add up; a look-ahead of 4 takes a further tenth off NME and SDD.
    `as_face` False, as printed, wants a consistency of 0.05: a single point has no others that vote it down.
    """

    memory: float = 6.0
    similarity: float = 0.3
    consistency: float = 0.15
    patience: int = 2
    lookahead: int = 0
    as_face: bool = True

    def __post_init__(self) -> None:
        if not (self.memory >= 0 and self.similarity > 0 and self.consistency > 0):
            raise ValueError("memory must be at least 0, similarity and consistency above 0")
        if self.patience < 0 or self.lookahead < 0:
            raise ValueError("patience and lookahead must be at least 0")


@dataclass(frozen=True, slots=True)
class Steadied:
    """One face in one frame: `points` K x 2 in pixels of the frame, NaN where neither source knows the landmark.

    `tracking` is beta of (3.12) for each landmark, 0 (detection only) to 1 (tracking only), before any look-ahead.
    """

    points: Points
    tracking: Weights


@dataclass(frozen=True, slots=True)
class _Step:
    """A frame's result for a face and how it arose: `tracked` is P_tracking, n is `samples`, n' is `carried`."""

    points: Points
    tracking: Weights
    samples: Weights
    tracked: Points
    carried: Weights


@dataclass(frozen=True, slots=True)
class _Face:
    """What a face hands to the next frame: its last step, the patch it was seen in, its motion, how long disputed."""

    step: _Step
    patch: Patch
    shift: Points
    disputes: Weights


@dataclass(frozen=True, slots=True)
class SteadyState:
    """The stream's memory: one patch per live face, and the steps of at most `lookahead` frames. Holds no frame."""

    faces: Mapping[int, _Face]
    pending: tuple[Mapping[int, _Step], ...]


class LandmarkSteadier:
    """The stage as a stream: init_state, step for each frame, flush at the end. Faces do not influence each other."""

    def __init__(self, config: SteadyConfig | None = None) -> None:
        self._config = config or SteadyConfig()

    def init_state(self) -> SteadyState:
        """The state before the first frame."""
        return SteadyState({}, ())

    def step(
        self, grey: Grey, detections: Mapping[int, Points], state: SteadyState, starts_scene: bool = False
    ) -> tuple[list[dict[int, Steadied]], SteadyState]:
        """Takes a frame, H x W uint8, with the landmarks of its live faces by id, K x 2, x first; copies what it keeps.

        Gives the frame that lies `lookahead` before (or nothing yet) with the same ids. NaN means not detected; a face
        all NaN is bridged by tracking. A face whose id is absent is forgotten, and all are if the frame starts a scene.
        K may differ between faces but not within one; it must be at least 2 (else ValueError).
        """
        known = {} if starts_scene else state.faces
        faces = {name: self._advance(grey, points, known.get(name)) for name, points in detections.items()}
        pending = (*state.pending, {name: face.step for name, face in faces.items()})
        ready = [_corrected(pending)] if len(pending) > self._config.lookahead else []
        return ready, SteadyState(faces, pending[len(ready) :])

    def flush(self, state: SteadyState) -> list[dict[int, Steadied]]:
        """The frames still held back, in order; the state is then used up."""
        return [_corrected(state.pending[first:]) for first in range(len(state.pending))]

    def _advance(self, grey: Grey, detected: Points, face: _Face | None) -> _Face:
        if detected.ndim != 2 or detected.shape[1] != 2 or len(detected) < 2:
            raise ValueError(f"landmarks must be K x 2 with K at least 2, not {detected.shape}")
        if grey.ndim != 2 or grey.dtype != np.uint8:
            raise ValueError(f"a grey frame must be H x W uint8, not {grey.shape} {grey.dtype}")
        detected = detected.astype(np.float64)
        detected[~np.isfinite(detected).all(1)] = np.nan
        if face is None:
            nothing = np.zeros(len(detected))
            lost = np.full_like(detected, np.nan)
            step, disputes = self._fuse(lost, nothing, detected, nothing, nothing, 1.0)
            return _Face(step, _patch_around(grey, step.points), np.zeros(2), disputes)
        last = face.step
        tracked, trust = self._track(grey, face, detected)
        step, disputes = self._fuse(tracked, trust, detected, last.samples, face.disputes, spread(last.points))
        moved = (step.points - last.points)[np.isfinite(step.points - last.points).all(1)]
        shift = np.median(moved, axis=0) if len(moved) else np.zeros(2)
        return _Face(step, _patch_around(grey, step.points), shift, disputes)

    def _track(self, grey: Grey, face: _Face, detected: Points) -> tuple[Points, Weights]:
        """Tracking from where the face's own motion leads; if that fails, from where the detector sees it.

        With the trust in forward-backward consistency, 0 to 1 for each landmark.
        """
        before, points = face.patch, face.step.points
        middle = np.array([before.left, before.top], np.float64) + before.side / 2
        tracked, trust = self._follow(before, cut_patch(grey, middle + face.shift, before.side), points)
        offsets = (detected - points)[np.isfinite(detected - points).all(1)]
        if len(offsets) and not _holds(trust, points):
            leap = np.median(offsets, axis=0)
            again = self._follow(before, cut_patch(grey, middle + leap, before.side), points)
            if _holds(again[1], points):
                return again
        return tracked, trust

    def _follow(self, before: Patch, now: Patch, points: Points) -> tuple[Points, Weights]:
        tolerance = self._config.consistency * spread(points)
        if self._config.as_face:
            return carry(before, now, points, tolerance)
        tracked, back = track(before, now, points)
        return tracked, homecoming(back, points, tolerance)

    def _fuse(
        self, tracked: Points, trust: Weights, detected: Points, samples: Weights, disputes: Weights, size: float
    ) -> tuple[_Step, Weights]:
        """Equation (3.12) for the K landmarks of one face."""
        config = self._config
        seen, alive = np.isfinite(detected).all(1), np.isfinite(tracked).all(1)
        consistent = np.where(alive, trust, 0.0)
        distance = np.hypot(*(tracked - detected).T) / size
        similar = np.where(seen & alive, np.exp(-np.square(distance / config.similarity)), 1.0)
        # Half trust is the border: beyond it a distance speaks against its source.
        disputed = seen & (similar < 0.5) & (consistent >= 0.5) & (disputes + 1 <= config.patience)
        bridged = ~seen & (consistent >= 0.5)
        agreed = seen & alive & (similar >= 0.5)
        by_tracking = disputed | bridged
        carried = np.nan_to_num(consistent) * np.where(by_tracking, 1.0, np.nan_to_num(similar))
        carried *= np.minimum(samples, config.memory)
        alpha = np.where(by_tracking, 0.0, np.where(seen, 1 / (carried + 1), np.nan))
        beta = 1 - alpha
        points = np.nan_to_num(alpha)[:, None] * np.nan_to_num(detected) + beta[:, None] * np.nan_to_num(tracked)
        step = _Step(points, np.nan_to_num(beta), carried + (seen & ~disputed), tracked, carried)
        return step, np.where(disputed, disputes + 1, np.where(agreed, np.maximum(disputes - FORGIVENESS, 0), disputes))


def _holds(trust: Weights, points: Points) -> bool:
    """Whether at least half of the known landmarks come home."""
    return int((trust >= np.exp(-1.0)).sum()) * 2 >= int(np.isfinite(points).all(1).sum())


def _patch_around(grey: Grey, points: Points) -> Patch:
    known = points[np.isfinite(points).all(1)]
    middle = known.mean(0) if len(known) else np.zeros(2)
    return cut_patch(grey, middle, patch_side(points))


def _corrected(steps: tuple[Mapping[int, _Step], ...]) -> dict[int, Steadied]:
    """The first of these frames, corrected by those after it as far as each face was tracked."""
    result = {}
    for name, first in steps[0].items():
        chain = [first]
        for frame in steps[1:]:
            if name not in frame:
                break
            chain.append(frame[name])
        points = chain[-1].points
        for earlier, later in zip(chain[-2::-1], chain[:0:-1], strict=True):
            gain = later.carried / np.maximum(earlier.samples, 1e-9)
            change = gain[:, None] * (points - later.tracked)
            points = earlier.points + np.where(np.isfinite(change), change, 0.0)
        result[name] = Steadied(points, first.tracking)
    return result


# Frames that may correct those before them: a tenth less error and jitter than with none (benchmarks/README.md).
LOOKAHEAD = 4


def steady_faces(frames: Iterable[Frame], lookahead: int = LOOKAHEAD) -> Iterator[Frame]:
    """The same frames with `steadied` set in every face, as `LandmarkSmoother` does."""
    return through(LandmarkSmoother(lookahead), frames)


@dataclass(frozen=True, slots=True)
class SmootherState:
    """The memory of the steadier, and the frames that are held back."""

    steady: SteadyState
    held: deque[Frame]


class LandmarkSmoother:
    """The stage that sets `steadied` in every face; at most `lookahead` frames are held back.

    Where the detector did not look or see, optical flow alone says where a landmark is, or if it does not, `landmarks`.
    At a cut, and at a frame without faces, all that wait are given out first and nothing of them is kept.
    """

    name = "smooth_landmarks"

    def __init__(self, lookahead: int = LOOKAHEAD) -> None:
        self._steadier = LandmarkSteadier(SteadyConfig(lookahead=lookahead))

    def start(self) -> SmootherState:
        """No face is known."""
        return SmootherState(self._steadier.init_state(), deque())

    def step(self, frame: Frame, state: SmootherState) -> tuple[list[Frame], SmootherState]:
        """Takes a frame; gives those whose landmarks no later one corrects any more."""
        given: list[Frame] = []
        if frame.starts_scene or not frame.faces:
            given, state = self.flush(state), self.start()
        if not frame.faces:
            return [*given, frame], state
        state.held.append(frame)
        detected = {face.track: _detected(face) for face in frame.faces}
        ready, steady = self._steadier.step(_grey(frame.image), detected, state.steady)
        given += [_steadied(state.held.popleft(), results) for results in ready]
        return given, SmootherState(steady, state.held)

    def flush(self, state: SmootherState) -> list[Frame]:
        """The frames still held back."""
        return list(map(_steadied, state.held, self._steadier.flush(state.steady)))


def _detected(face: Face) -> Array:
    points = np.array(face.landmarks)
    return points if face.is_found else np.full_like(points, np.nan)


def _steadied(frame: Frame, results: Mapping[int, Steadied]) -> Frame:
    faces = []
    for face in frame.faces:
        points = results[face.track].points
        known = np.where(np.isfinite(points), points, np.array(face.landmarks))
        faces.append(replace(face, steadied=tuple((float(x), float(y)) for x, y in known)))
    return replace(frame, faces=tuple(faces))


def _grey(image: Tensor) -> Grey:
    """H x W, 0..255, with the weights of BT.601: the flow needs no more exact ones."""
    red, green, blue = image.float()
    levels = (red * 0.299 + green * 0.587 + blue * 0.114).mul(255.0).round().clamp(0, 255)
    grey: Grey = levels.byte().cpu().numpy()
    return grey
