"""The landmarks of tracked faces, steadied: the stage around landmarks.py, which knows no tracks and no frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
from torch import Tensor

from vidsr.stages.detections import Array
from vidsr.stages.landmarks import LandmarkSteadier
from vidsr.stages.lucaskanade import Grey
from vidsr.types import Face, Frame


def steady_faces(frames: Iterable[Frame]) -> Iterator[Frame]:
    """The same frames, each given out before the next is taken, with `steadied` set in every face.

    Where the detector did not look or see, optical flow alone says where a landmark is, or if it does not, `landmarks`.
    """
    steadier = LandmarkSteadier()
    state = steadier.init_state()
    for frame in frames:
        if not frame.faces:
            state = steadier.init_state()
            yield frame
            continue
        detected = {face.track: _detected(face) for face in frame.faces}
        ready, state = steadier.step(_grey(frame.image), detected, state, frame.starts_scene)
        faces = tuple(_steadied(face, ready[0][face.track].points) for face in frame.faces)
        yield replace(frame, faces=faces)


def _detected(face: Face) -> Array:
    points = np.array(face.landmarks)
    return points if face.is_found else np.full_like(points, np.nan)


def _steadied(face: Face, points: Array) -> Face:
    known = np.where(np.isfinite(points), points, np.array(face.landmarks))
    return replace(face, steadied=tuple((float(x), float(y)) for x, y in known))


def _grey(image: Tensor) -> Grey:
    """H x W, 0..255, with the weights of BT.601: the flow needs no more exact ones."""
    red, green, blue = image.float()
    levels = (red * 0.299 + green * 0.587 + blue * 0.114).mul(255.0).round().clamp(0, 255)
    grey: Grey = levels.byte().cpu().numpy()
    return grey
