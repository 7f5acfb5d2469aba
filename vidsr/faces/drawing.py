"""Draws tracked faces onto frames, and a contact sheet with one row per track."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.faces.detections import Detections, rotate_points
from vidsr.faces.detector import View
from vidsr.types import Box, Face, FaceTrack, Frame, Person

_GOLDEN = 0.618033988749895


def draw_faces(frames: Iterable[Frame], view: View) -> Iterator[Frame]:
    """Draws boxes, track numbers and landmarks onto the frames, upright as displayed; all other pixels are unchanged.

    A thick box was detected in this frame, a thin one is interpolated. Smoothed landmarks are preferred to detected
    ones. The boxes in which a face model works are drawn in the complementary color, numbered in their order.
    """
    for frame in frames:
        yield frame.with_image(_overlay_faces(frame, view)) if frame.faces else frame


def track_color(track: int) -> tuple[int, int, int]:
    """Red, green and blue of a track, 0..255, never black; consecutive track numbers get clearly different colors."""
    red, green, blue = colorsys.hsv_to_rgb(track * _GOLDEN % 1.0, 0.75, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _overlay_faces(frame: Frame, view: View) -> torch.Tensor:
    height, width = frame.image.shape[-2:]
    tall, wide = (width, height) if view.quarters % 2 else (height, width)
    overlay = np.zeros((tall, wide, 3), np.uint8)
    for face in frame.faces:
        _draw_face(overlay, face, view, (width, height))
    coded = np.ascontiguousarray(np.rot90(overlay, -view.quarters))
    colors = torch.from_numpy(coded).permute(2, 0, 1).to(frame.image)
    return torch.where(colors.amax(0, keepdim=True) > 0, colors / 255, frame.image)


def _draw_face(overlay: NDArray[np.uint8], face: Face, view: View, size: tuple[int, int]) -> None:
    color, stroke = track_color(face.track), max(1, round(min(overlay.shape[:2]) / 240))
    left, top, width, height = face.box
    corners = _displayed(np.array([[left, top], [left + width, top + height]]), view, size)
    low, high = corners.min(0), corners.max(0)
    cv2.rectangle(overlay, _pixel(low), _pixel(high), color, stroke * (2 if face.is_found else 1))
    for point in _displayed(np.array(face.smoothed or face.landmarks), view, size):
        cv2.circle(overlay, _pixel(point), max(1, stroke), color, cv2.FILLED)
    for number, (x, y, wide, tall) in enumerate(shown_boxes(face, view, *size) or (), start=1):
        other = 255 - color[0], 255 - color[1], 255 - color[2]
        cv2.rectangle(overlay, _pixel((x, y)), _pixel((x + wide, y + tall)), other, 1)
        cv2.putText(overlay, str(number), _pixel((x + 1, y + 9)), cv2.FONT_HERSHEY_SIMPLEX, 0.25 * stroke, other, 1)
    place = _pixel(low - (0, 3 * stroke)) if low[1] > 20 * stroke else _pixel((low[0], high[1] + 14 * stroke))
    cv2.putText(overlay, str(face.track), place, cv2.FONT_HERSHEY_SIMPLEX, 0.45 * stroke, color, stroke)


def shown_boxes(face: Face, view: View, width: int, height: int) -> list[Box] | None:
    """The boxes in which a face model worked, in pixels of a frame of this coded size as it is displayed.

    None if the face was not restored.
    """
    if face.restored is None:
        return None
    shown = []
    for left, top, wide, tall in face.restored.boxes:
        corners = _displayed(np.array([[left, top], [left + wide, top + tall]]), view, (width, height))
        low, high = corners.min(0), corners.max(0)
        shown.append((float(low[0]), float(low[1]), float(high[0] - low[0]), float(high[1] - low[1])))
    return shown


def _displayed(points: NDArray[np.float64], view: View, size: tuple[int, int]) -> NDArray[np.float64]:
    return rotate_points(points, view.quarters, *size)


def _pixel(point: Any) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))


SIDE = 112
GAP = 6
LABEL = 18
COLUMNS = 8
# More rows of 142 pixels would be too high for image viewers; of more tracks, the longest are shown.
MAX_TRACKS = 60
MARGIN = 1.6

Image = NDArray[np.uint8]


@dataclass(slots=True)
class _Row:
    """Every `step`-th crop of a track, at most 2 * COLUMNS - 1, evenly spread over its length."""

    step: int = 1
    seen: int = 0
    crops: list[Image] = field(default_factory=list)


class ContactSheet:
    """Collects crops of the faces on frames; memory does not grow with the length of the video."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._rows: dict[int, _Row] = {}

    def add(self, frame: Frame) -> None:
        """Adds the next frame."""
        for face in frame.faces:
            row = self._rows.setdefault(face.track, _Row())
            if row.seen % row.step == 0:
                if len(row.crops) == 2 * COLUMNS - 1:
                    row.crops, row.step = row.crops[::2], 2 * row.step
                if row.seen % row.step == 0:
                    row.crops.append(self._crop(frame, face))
            row.seen += 1
        while len(self._rows) > MAX_TRACKS + len(frame.faces):
            shown = {face.track for face in frame.faces}
            self._rows.pop(min((row.seen, track) for track, row in self._rows.items() if track not in shown)[1])

    def draw(self, tracks: Sequence[FaceTrack], persons: Sequence[Person] | None = None) -> bytes:
        """Returns the sheet of these tracks as a PNG file; a note counts the tracks left out.

        The tracks of a person stand together, persons and their tracks in the order given.
        """
        owners = {track: person.number for person in persons or () for track in person.tracks}
        order = {track: place for place, track in enumerate(owners)}
        tracks = sorted(tracks, key=lambda track: order.get(track.track, len(order)))
        longest = sorted((track for track in tracks if track.track in self._rows), key=lambda track: -track.frames)
        chosen = {track.track for track in longest[:MAX_TRACKS]}
        rows = [track for track in tracks if track.track in chosen]
        note = "no face was found" if not tracks else ""
        if len(rows) < len(tracks):
            note = f"and {len(tracks) - len(rows)} shorter tracks"
        height, width = GAP + LABEL + SIDE, GAP + COLUMNS * (SIDE + GAP)
        sheet = np.full((len(rows) * height + GAP + (LABEL if note else 0), width, 3), 24, np.uint8)
        for index, track in enumerate(rows):
            self._draw_row(sheet[index * height : (index + 1) * height], track, owners.get(track.track))
        if note:
            _write(sheet[len(rows) * height :], note, (230, 230, 230))
        done, data = cv2.imencode(".png", sheet[..., ::-1])
        assert done, "OpenCV always writes PNG"
        return bytes(data)

    def _draw_row(self, band: Image, track: FaceTrack, person: int | None) -> None:
        begin, end = (float(pts * track.time_base) for pts in (track.first_pts, track.last_pts))
        sides = f"{track.smallest_side:.0f} to {track.largest_side:.0f} pixels"
        whose = "" if person is None else f"person {person}, track "
        text = f"{whose}{track.track}: {begin:.2f} s to {end:.2f} s, {track.frames} frames, {sides}"
        _write(band, text, track_color(track.track if person is None else person))
        crops = self._rows[track.track].crops
        count = min(len(crops), COLUMNS)
        for column in range(count):
            chosen = crops[round(column * (len(crops) - 1) / max(count - 1, 1))]
            left = GAP + column * (SIDE + GAP)
            band[GAP + LABEL :, left : left + SIDE] = chosen

    def _crop(self, frame: Frame, face: Face) -> Image:
        """An upright square crop around the face, SIDE x SIDE; edge pixels are repeated beyond the frame."""
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


def _write(band: Image, text: str, color: tuple[int, int, int]) -> None:
    cv2.putText(band, text, (GAP, GAP + LABEL - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.45, color, 1, cv2.LINE_AA)
