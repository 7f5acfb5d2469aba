"""Faces drawn into their frames, for people to look at. Who is where comes with the frames."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.stages.detections import turn_points
from vidsr.stages.detector import View
from vidsr.types import Face, Frame

_GOLDEN = 0.618033988749895


def draw_faces(frames: Iterable[Frame], view: View) -> Iterator[Frame]:
    """The same frames with boxes, numbers and landmarks drawn in, upright as shown; all other pixels stay as they are.

    A thick box was found in that very frame, a thin one is bridged. Landmarks are the steadied ones if there are any.
    """
    for frame in frames:
        yield frame.with_image(_drawn(frame, view)) if frame.faces else frame


def colour_of(track: int) -> tuple[int, int, int]:
    """Red, green and blue of a track, 0..255, never black; neighbours in number differ clearly."""
    red, green, blue = colorsys.hsv_to_rgb(track * _GOLDEN % 1.0, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _drawn(frame: Frame, view: View) -> torch.Tensor:
    height, width = frame.image.shape[-2:]
    tall, wide = (width, height) if view.quarters % 2 else (height, width)
    overlay = np.zeros((tall, wide, 3), np.uint8)
    for face in frame.faces:
        _draw(overlay, face, view, (width, height))
    coded = np.ascontiguousarray(np.rot90(overlay, -view.quarters))
    colours = torch.from_numpy(coded).permute(2, 0, 1).to(frame.image)
    return torch.where(colours.amax(0, keepdim=True) > 0, colours / 255, frame.image)


def _draw(overlay: NDArray[np.uint8], face: Face, view: View, size: tuple[int, int]) -> None:
    colour, stroke = colour_of(face.track), max(1, round(min(overlay.shape[:2]) / 240))
    left, top, width, height = face.box
    corners = _shown(np.array([[left, top], [left + width, top + height]]), view, size)
    low, high = corners.min(0), corners.max(0)
    cv2.rectangle(overlay, _pixel(low), _pixel(high), colour, stroke * (2 if face.is_found else 1))
    for point in _shown(np.array(face.steadied or face.landmarks), view, size):
        cv2.circle(overlay, _pixel(point), max(1, stroke), colour, cv2.FILLED)
    place = _pixel(low - (0, 3 * stroke)) if low[1] > 20 * stroke else _pixel((low[0], high[1] + 14 * stroke))
    cv2.putText(overlay, str(face.track), place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * stroke, colour, stroke)


def _shown(points: NDArray[np.float64], view: View, size: tuple[int, int]) -> NDArray[np.float64]:
    return turn_points(points, view.quarters, *size)


def _pixel(point: Any) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
