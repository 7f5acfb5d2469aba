"""Tracked faces drawn onto frames, and a contact sheet with one row per track."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.faces.detections import Detections, turn_points
from vidsr.faces.detector import View
from vidsr.types import Face, FaceTrack, Frame

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


SIDE = 112
GAP = 6
LABEL = 18
COLUMNS = 8
# So many rows of 142 pixels are as much as an image viewer likes; a film with more tracks shows the longest.
MOST_TRACKS = 60
MARGIN = 1.6

Picture = NDArray[np.uint8]


@dataclass(slots=True)
class _Row:
    """Every `step`-th picture of a track, at most 2 * COLUMNS - 1, so that they spread over its length evenly."""

    step: int = 1
    seen: int = 0
    pictures: list[Picture] = field(default_factory=list)


class ContactSheet:
    """Collects pictures from frames that carry faces; memory is bounded whatever the film's length."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._rows: dict[int, _Row] = {}

    def add(self, frame: Frame) -> None:
        """Takes the next frame."""
        for face in frame.faces:
            row = self._rows.setdefault(face.track, _Row())
            if row.seen % row.step == 0:
                if len(row.pictures) == 2 * COLUMNS - 1:
                    row.pictures, row.step = row.pictures[::2], 2 * row.step
                if row.seen % row.step == 0:
                    row.pictures.append(self._cut(frame, face))
            row.seen += 1
        while len(self._rows) > MOST_TRACKS + len(frame.faces):
            shown = {face.track for face in frame.faces}
            self._rows.pop(min((row.seen, track) for track, row in self._rows.items() if track not in shown)[1])

    def draw(self, tracks: Sequence[FaceTrack]) -> bytes:
        """The sheet of these tracks as a PNG file, in the order given; says on it how many there is no room for."""
        longest = sorted((track for track in tracks if track.track in self._rows), key=lambda track: -track.frames)
        chosen = {track.track for track in longest[:MOST_TRACKS]}
        rows = [track for track in tracks if track.track in chosen]
        note = "no face was found" if not tracks else ""
        if len(rows) < len(tracks):
            note = f"and {len(tracks) - len(rows)} shorter tracks"
        height, width = GAP + LABEL + SIDE, GAP + COLUMNS * (SIDE + GAP)
        sheet = np.full((len(rows) * height + GAP + (LABEL if note else 0), width, 3), 24, np.uint8)
        for index, track in enumerate(rows):
            self._draw_row(sheet[index * height : (index + 1) * height], track)
        if note:
            _write(sheet[len(rows) * height :], note, (230, 230, 230))
        done, data = cv2.imencode(".png", sheet[..., ::-1])
        assert done, "OpenCV always writes PNG"
        return bytes(data)

    def _draw_row(self, strip: Picture, track: FaceTrack) -> None:
        begin, end = (float(pts * track.time_base) for pts in (track.first_pts, track.last_pts))
        sides = f"{track.smallest_side:.0f} to {track.largest_side:.0f} pixels"
        text = f"{track.track}: {begin:.2f} s to {end:.2f} s, {track.frames} frames, {sides}"
        _write(strip, text, colour_of(track.track))
        pictures = self._rows[track.track].pictures
        count = min(len(pictures), COLUMNS)
        for column in range(count):
            chosen = pictures[round(column * (len(pictures) - 1) / max(count - 1, 1))]
            left = GAP + column * (SIDE + GAP)
            strip[GAP + LABEL :, left : left + SIDE] = chosen

    def _cut(self, frame: Frame, face: Face) -> Picture:
        """A square around the face, upright, SIDE x SIDE; beyond the frame its edge goes on."""
        height, width = frame.image.shape[-2:]
        faces = Detections(np.array([face.box]), np.array([face.landmarks]), np.array([face.score]))
        x, y, wide, tall = faces.turned(self._view.quarters, width, height).boxes[0]
        side = max(1, round(MARGIN * max(wide, tall)))
        image = self._view.upright(frame.image.float().cpu().numpy())
        rows = np.clip(round(y + tall / 2 - side / 2) + np.arange(side), 0, image.shape[1] - 1)
        columns = np.clip(round(x + wide / 2 - side / 2) + np.arange(side), 0, image.shape[2] - 1)
        square = np.ascontiguousarray(image[:, rows][:, :, columns].transpose(1, 2, 0))
        method = cv2.INTER_AREA if side > SIDE else cv2.INTER_CUBIC
        levels = cv2.resize(square, (SIDE, SIDE), interpolation=method) * 255
        return levels.round().clip(0, 255).astype(np.uint8)


def _write(strip: Picture, text: str, colour: tuple[int, int, int]) -> None:
    cv2.putText(strip, text, (GAP, GAP + LABEL - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
