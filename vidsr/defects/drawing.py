"""Draws defects onto frames, and a contact sheet with the clearest ones before and after repair."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from vidsr.types import Defect, Frame

COLORS = {"speck": (255, 80, 40), "hair": (60, 200, 255), "scratch": (255, 220, 0)}
# Source pixels shown around the center of a defect on a sheet, their enlargement, and the number of defects.
CROP, ENLARGE, MAX_SHOWN, COLUMNS = 48, 3, 24, 4
GAP, LABEL = 6, 16

Image = NDArray[np.uint8]


def draw_defects(frame: Frame, defects: Iterable[Defect]) -> Frame:
    """The frame with a box around each defect: one color a kind; all other pixels are unchanged."""
    overlay = np.zeros((*frame.image.shape[-2:], 3), np.uint8)
    stroke = max(1, round(min(overlay.shape[:2]) / 360))
    for defect in defects:
        low = defect.left - 2 * stroke, defect.top - 2 * stroke
        high = defect.left + defect.width - 1 + 2 * stroke, defect.top + defect.height - 1 + 2 * stroke
        cv2.rectangle(overlay, low, high, COLORS[defect.kind], stroke)
    if not overlay.any():
        return frame
    colors = torch.from_numpy(overlay).permute(2, 0, 1).to(frame.image)
    return frame.with_image(torch.where(colors.amax(0, keepdim=True) > 0, colors / 255, frame.image))


class DefectSheet:
    """Collects the clearest defects of a film, each before and after repair; memory does not grow with its length."""

    def __init__(self) -> None:
        self._shown: list[tuple[float, int, str, tuple[int, int, int], Image]] = []
        self._count = 0

    def add(self, original: Frame, repaired: Frame) -> None:
        """Adds the defects of the next frame, which are listed in `repaired`."""
        for defect in repaired.defects:
            rank = defect.contrast * defect.size**0.5 * (1 if defect.is_repaired else 0.25)
            self._count += 1
            if len(self._shown) == MAX_SHOWN and rank <= self._shown[0][0]:
                continue
            pair = np.concatenate([_crop(each, defect) for each in (original, repaired)], 1)
            text = f"{float(original.pts * original.time_base):.2f} s, {defect.kind}, {defect.size} px"
            entry = rank, self._count, text, COLORS[defect.kind], pair
            (heapq.heappush if len(self._shown) < MAX_SHOWN else heapq.heapreplace)(self._shown, entry)

    def draw(self) -> bytes:
        """The sheet as a PNG file, in order of time: each defect as it was found on the left, repaired on the right."""
        entries = sorted(self._shown, key=lambda entry: entry[1])
        side = CROP * ENLARGE
        rows = max(1, -(-len(entries) // COLUMNS))
        width, height = 2 * side + GAP, side + LABEL + GAP
        sheet = np.full((rows * height + GAP, min(COLUMNS, max(1, len(entries))) * width + GAP, 3), 24, np.uint8)
        for index, (_, _, text, color, pair) in enumerate(entries):
            top, left = GAP + index // COLUMNS * height, GAP + index % COLUMNS * width
            sheet[top + LABEL :, left:][:side, : 2 * side] = pair
            _write(sheet, text, (left, top + LABEL - 5), color)
        if not entries:
            _write(sheet, "no defect was found", (GAP, GAP + LABEL), (230, 230, 230))
        done, data = cv2.imencode(".png", sheet[..., ::-1])
        assert done, "OpenCV always writes PNG"
        return bytes(data)


def _write(sheet: Image, text: str, place: tuple[int, int], color: tuple[int, int, int]) -> None:
    cv2.putText(sheet, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, color, 1, cv2.LINE_AA)


def _crop(frame: Frame, defect: Defect) -> Image:
    """The surroundings of a defect, enlarged; edge pixels are repeated beyond the frame."""
    height, width = frame.image.shape[-2:]
    rows = np.clip(round(defect.y) - CROP // 2 + np.arange(CROP), 0, height - 1)
    columns = np.clip(round(defect.x) - CROP // 2 + np.arange(CROP), 0, width - 1)
    image: Any = frame.image.float().cpu().numpy()[:, rows][:, :, columns].transpose(1, 2, 0)
    levels = (255 * image).round().clip(0, 255).astype(np.uint8)
    size = (CROP * ENLARGE, CROP * ENLARGE)
    return np.asarray(cv2.resize(np.ascontiguousarray(levels), size, interpolation=cv2.INTER_NEAREST), np.uint8)
