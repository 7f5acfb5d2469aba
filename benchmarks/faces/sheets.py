"""Contact sheets: consecutive frames of a face, one row for each system, and its enlarged border."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.faces.scores import RIM, Box, sized

FIRST, COLUMNS = 5, 10
PART, ZOOM = 48, 4
GAP = 4


def save_sheets(folder: Path, name: str, rows: dict[str, list[Tensor]], boxes: list[Box]) -> None:
    """NAME.png: ten consecutive frames, one row for each of `rows`; NAME-border.png: four pieces of the rim, 4 x.

    The frames are 3 x H x W, uint8, with the face's box in each.
    """
    lines = [labeled(row, rows[row][FIRST : FIRST + COLUMNS]) for row in rows]
    save(folder / f"{name}.png", torch.cat(lines, 1))
    middle = FIRST + COLUMNS // 2
    height, width = rows[next(iter(rows))][middle].shape[1:]
    pieces = [around(x, y, width, height) for x, y in rim_points(boxes[middle])]
    lines = []
    for row, frames in rows.items():
        parts = [piece.cut(frames[middle]) for piece in pieces]
        large = [part.repeat_interleave(ZOOM, 1).repeat_interleave(ZOOM, 2) for part in parts]
        lines.append(labeled(row, large))
    save(folder / f"{name}-border.png", torch.cat(lines, 1))


def rim_points(box: Box) -> list[tuple[float, float]]:
    """The centers of the four sides of the rim's center line: left, right, top, bottom."""
    rim = sized(box, sum(RIM) / 2)
    x, y = (rim.left + rim.right) / 2, (rim.top + rim.bottom) / 2
    return [(rim.left, y), (rim.right, y), (x, rim.top), (x, rim.bottom)]


def around(x: float, y: float, width: int, height: int) -> Box:
    """A square of PART pixels as near to this point as the image allows."""
    left = min(max(0, round(x - PART / 2)), width - PART)
    top = min(max(0, round(y - PART / 2)), height - PART)
    return Box(left, top, left + PART, top + PART)


def labeled(text: str, images: list[Tensor]) -> Tensor:
    """Images of one size in a row, with gaps, under a line of text."""
    gap = torch.full((3, images[0].shape[1], GAP), 255, dtype=torch.uint8)
    row = torch.cat([part for image in images for part in (image, gap)], 2)
    head = np.full((20, row.shape[2], 3), 255, np.uint8)
    cv2.putText(head, text, (4, 15), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return torch.cat([torch.from_numpy(head).permute(2, 0, 1), row], 1)


def save(path: Path, image: Tensor) -> None:
    """Writes 3 x H x W, RGB, as PNG."""
    if not cv2.imwrite(str(path), image.permute(1, 2, 0).numpy()[..., ::-1]):
        raise SystemExit(f"cannot write {path}")
