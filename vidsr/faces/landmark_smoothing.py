"""Temporal smoothing of facial landmarks: fuses detections with landmarks tracked from neighboring frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vidsr.faces.detections import Array
from vidsr.faces.optical_flow import (
    GrayImage,
    Points,
    TrackingPatch,
    cut_patch,
    forward_backward_confidence,
    patch_side,
    propagate_landmarks,
    spread,
    track,
)
from vidsr.types import Face, Frame

Weights = NDArray[np.float64]

# How much a frame without dispute reduces a landmark's dispute count.
DISPUTE_DECAY = 0.1


@dataclass(frozen=True, slots=True)
class SmoothingConfig:
    """The parameters that the text leaves open. `similarity` and `consistency` are in spreads, the others in frames.

    Tuned on training stills and clips (`benchmarks.faces.landmarks --tune`). A longer memory hardly lowers the jitter
    of real detections and lets small tracking errors accumulate; a look-ahead of 4 lowers NME and SDD by 10 %.
    `as_face` False tracks each landmark on its own, as printed; it needs a consistency of 0.05, because a single point
    has no others that could outvote it.
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
class SmoothedLandmarks:
    """One face in one frame: `points` K x 2 in pixels of the frame, NaN where neither detected nor tracked.

    `tracking` is beta of (3.12) for each landmark, 0 (detection only) to 1 (tracking only), before any look-ahead.
    """

    points: Points
    tracking: Weights


@dataclass(frozen=True, slots=True)
class _FaceStep:
    """A face's result in one frame and its inputs: `tracked` is P_tracking, `samples` is n, `carried` is n'."""

    points: Points
    tracking: Weights
    samples: Weights
    tracked: Points
    carried: Weights


@dataclass(frozen=True, slots=True)
class _FaceState:
    """What a face passes to the next frame: its last step, its patch, its motion, and its dispute counts."""

    step: _FaceStep
    patch: TrackingPatch
    shift: Points
    disputes: Weights


@dataclass(frozen=True, slots=True)
class SmoothingState:
    """The state of the smoother: one patch per live face, and the steps of at most `lookahead` frames; no frames."""

    faces: Mapping[int, _FaceState]
    pending: tuple[Mapping[int, _FaceStep], ...]


class LandmarkSmoother:
    """The streaming smoother: init_state, step for each frame, flush at the end. Faces are independent."""

    def __init__(self, config: SmoothingConfig | None = None) -> None:
        self._config = config or SmoothingConfig()

    def init_state(self) -> SmoothingState:
        """The state before the first frame."""
        return SmoothingState({}, ())

    def step(
        self, gray: GrayImage, detections: Mapping[int, Points], state: SmoothingState, starts_scene: bool = False
    ) -> tuple[list[dict[int, SmoothedLandmarks]], SmoothingState]:
        """Takes a frame, H x W uint8, with the landmarks of its live faces by id, K x 2, x first; copies what it keeps.

        Returns the result of the frame `lookahead` frames before (or nothing yet) with the same ids. NaN means not
        detected; a face of only NaN is bridged by tracking. A face whose id is absent is dropped, and all are if the
        frame starts a scene. K may differ between faces but not over time; raises ValueError if it is below 2.
        """
        known = {} if starts_scene else state.faces
        faces = {name: self._advance(gray, points, known.get(name)) for name, points in detections.items()}
        pending = (*state.pending, {name: face.step for name, face in faces.items()})
        ready = [_corrected(pending)] if len(pending) > self._config.lookahead else []
        return ready, SmoothingState(faces, pending[len(ready) :])

    def flush(self, state: SmoothingState) -> list[dict[int, SmoothedLandmarks]]:
        """The results of the pending frames, in order; the state must not be used again."""
        return [_corrected(state.pending[first:]) for first in range(len(state.pending))]

    def _advance(self, gray: GrayImage, detected: Points, face: _FaceState | None) -> _FaceState:
        if detected.ndim != 2 or detected.shape[1] != 2 or len(detected) < 2:
            raise ValueError(f"landmarks must be K x 2 with K at least 2, not {detected.shape}")
        if gray.ndim != 2 or gray.dtype != np.uint8:
            raise ValueError(f"a gray frame must be H x W uint8, not {gray.shape} {gray.dtype}")
        detected = detected.astype(np.float64)
        detected[~np.isfinite(detected).all(1)] = np.nan
        if face is None:
            nothing = np.zeros(len(detected))
            lost = np.full_like(detected, np.nan)
            step, disputes = self._fuse(lost, nothing, detected, nothing, nothing, 1.0)
            return _FaceState(step, _patch_around(gray, step.points), np.zeros(2), disputes)
        last = face.step
        tracked, confidence = self._track(gray, face, detected)
        step, disputes = self._fuse(tracked, confidence, detected, last.samples, face.disputes, spread(last.points))
        moved = (step.points - last.points)[np.isfinite(step.points - last.points).all(1)]
        shift = np.median(moved, axis=0) if len(moved) else np.zeros(2)
        return _FaceState(step, _patch_around(gray, step.points), shift, disputes)

    def _track(self, gray: GrayImage, face: _FaceState, detected: Points) -> tuple[Points, Weights]:
        """Tracks from the position that the face's motion predicts; if that fails, from the detected position.

        Also returns the confidence from forward-backward consistency, 0 to 1 for each landmark.
        """
        before, points = face.patch, face.step.points
        center = np.array([before.left, before.top], np.float64) + before.side / 2
        tracked, confidence = self._follow(before, cut_patch(gray, center + face.shift, before.side), points)
        offsets = (detected - points)[np.isfinite(detected - points).all(1)]
        if len(offsets) and not _is_reliable(confidence, points):
            offset = np.median(offsets, axis=0)
            again = self._follow(before, cut_patch(gray, center + offset, before.side), points)
            if _is_reliable(again[1], points):
                return again
        return tracked, confidence

    def _follow(self, before: TrackingPatch, now: TrackingPatch, points: Points) -> tuple[Points, Weights]:
        tolerance = self._config.consistency * spread(points)
        if self._config.as_face:
            return propagate_landmarks(before, now, points, tolerance)
        tracked, back = track(before, now, points)
        return tracked, forward_backward_confidence(back, points, tolerance)

    def _fuse(
        self, tracked: Points, confidence: Weights, detected: Points, samples: Weights, disputes: Weights, size: float
    ) -> tuple[_FaceStep, Weights]:
        """Fuses the K landmarks of one face by equation (3.12)."""
        config = self._config
        seen, alive = np.isfinite(detected).all(1), np.isfinite(tracked).all(1)
        consistent = np.where(alive, confidence, 0.0)
        distance = np.hypot(*(tracked - detected).T) / size
        similar = np.where(seen & alive, np.exp(-np.square(distance / config.similarity)), 1.0)
        # At a confidence of 0.5 or more, a large distance counts against the detection.
        disputed = seen & (similar < 0.5) & (consistent >= 0.5) & (disputes + 1 <= config.patience)
        bridged = ~seen & (consistent >= 0.5)
        agreed = seen & alive & (similar >= 0.5)
        by_tracking = disputed | bridged
        carried = np.nan_to_num(consistent) * np.where(by_tracking, 1.0, np.nan_to_num(similar))
        carried *= np.minimum(samples, config.memory)
        alpha = np.where(by_tracking, 0.0, np.where(seen, 1 / (carried + 1), np.nan))
        beta = 1 - alpha
        points = np.nan_to_num(alpha)[:, None] * np.nan_to_num(detected) + beta[:, None] * np.nan_to_num(tracked)
        step = _FaceStep(points, np.nan_to_num(beta), carried + (seen & ~disputed), tracked, carried)
        return step, np.where(
            disputed, disputes + 1, np.where(agreed, np.maximum(disputes - DISPUTE_DECAY, 0), disputes)
        )


def _is_reliable(confidence: Weights, points: Points) -> bool:
    """Whether at least half of the known landmarks are tracked consistently."""
    return int((confidence >= np.exp(-1.0)).sum()) * 2 >= int(np.isfinite(points).all(1).sum())


def _patch_around(gray: GrayImage, points: Points) -> TrackingPatch:
    known = points[np.isfinite(points).all(1)]
    center = known.mean(0) if len(known) else np.zeros(2)
    return cut_patch(gray, center, patch_side(points))


def _corrected(steps: tuple[Mapping[int, _FaceStep], ...]) -> dict[int, SmoothedLandmarks]:
    """The first of these frames, corrected by the later ones as far as each face was tracked."""
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
        result[name] = SmoothedLandmarks(points, first.tracking)
    return result


# Later frames that correct a result: 10 % less error and jitter than without (benchmarks/README.md).
LOOKAHEAD = 4


@dataclass(frozen=True, slots=True)
class SmoothingStageState:
    """The state of the smoother, and the frames that are held back."""

    smoothing: SmoothingState
    held: deque[Frame]


class LandmarkSmoothing:
    """The stage that sets `smoothed` in every face; at most `lookahead` frames are held back.

    Where a face was not detected, its landmarks follow optical flow; where that fails too, they are `landmarks`. At a
    cut, and at a frame without faces, pending frames are yielded first and the state is reset.
    """

    name = "smooth_landmarks"

    def __init__(self, lookahead: int = LOOKAHEAD) -> None:
        self._smoother = LandmarkSmoother(SmoothingConfig(lookahead=lookahead))

    def start(self) -> SmoothingStageState:
        """The state before the first frame: no face is known."""
        return SmoothingStageState(self._smoother.init_state(), deque())

    def step(self, frame: Frame, state: SmoothingStageState) -> tuple[list[Frame], SmoothingStageState]:
        """Processes the next frame; returns those whose landmarks no later frame corrects."""
        ready: list[Frame] = []
        if frame.starts_scene or not frame.faces:
            ready, state = self.flush(state), self.start()
        if not frame.faces:
            return [*ready, frame], state
        state.held.append(frame)
        detected = {face.track: _detected(face) for face in frame.faces}
        results, smoothing = self._smoother.step(_to_gray(frame.image), detected, state.smoothing)
        ready += [_with_smoothed(state.held.popleft(), each) for each in results]
        return ready, SmoothingStageState(smoothing, state.held)

    def flush(self, state: SmoothingStageState) -> list[Frame]:
        """Returns all pending frames at the end of the video."""
        return list(map(_with_smoothed, state.held, self._smoother.flush(state.smoothing)))


def _detected(face: Face) -> Array:
    points = np.array(face.landmarks)
    return points if face.is_found else np.full_like(points, np.nan)


def _with_smoothed(frame: Frame, results: Mapping[int, SmoothedLandmarks]) -> Frame:
    faces = []
    for face in frame.faces:
        points = results[face.track].points
        known = np.where(np.isfinite(points), points, np.array(face.landmarks))
        faces.append(replace(face, smoothed=tuple((float(x), float(y)) for x, y in known)))
    return replace(frame, faces=tuple(faces))


def _to_gray(image: Tensor) -> GrayImage:
    """H x W, 0..255, with the weights of BT.601, which are exact enough for optical flow."""
    red, green, blue = image.float()
    levels = (red * 0.299 + green * 0.587 + blue * 0.114).mul(255.0).round().clamp(0, 255)
    gray: GrayImage = levels.byte().cpu().numpy()
    return gray
