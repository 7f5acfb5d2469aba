"""The landmarks of tracked faces, steadied: the stage around landmarks.py, which knows no tracks and no frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from vidsr.stages.detections import Array
from vidsr.stages.landmarks import LandmarkSteadier, Steadied, SteadyConfig
from vidsr.stages.lucaskanade import Grey
from vidsr.types import Face, Frame

# Frames that may correct those before them: a tenth less error and jitter than with none (benchmarks/README.md).
LOOKAHEAD = 4


def steady_faces(frames: Iterable[Frame], lookahead: int = LOOKAHEAD) -> Iterator[Frame]:
    """The same frames, `lookahead` of them held back at most, with `steadied` set in every face.

    Where the detector did not look or see, optical flow alone says where a landmark is, or if it does not, `landmarks`.
    At a cut, and at a frame without faces, all that wait are given out first and nothing of them is kept.
    """
    steadier = LandmarkSteadier(SteadyConfig(lookahead=lookahead))
    state, held = steadier.init_state(), deque[Frame]()
    for frame in frames:
        if frame.starts_scene or not frame.faces:
            yield from map(_steadied, held, steadier.flush(state))
            held.clear()
            state = steadier.init_state()
        if not frame.faces:
            yield frame
            continue
        held.append(frame)
        detected = {face.track: _detected(face) for face in frame.faces}
        ready, state = steadier.step(_grey(frame.image), detected, state)
        for results in ready:
            yield _steadied(held.popleft(), results)
    yield from map(_steadied, held, steadier.flush(state))


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
