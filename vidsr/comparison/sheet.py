"""One image of several inputs: side by side, or two of them with a wipe; each with its label."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor

from vidsr.config import Layout

GAP = 2


class Sheet:
    """Arranges images of one size, (width, height). `size` is that of the result, with even sides."""

    def __init__(self, labels: Sequence[str], size: tuple[int, int], layout: Layout) -> None:
        width, height = size
        count = len(labels) if layout == "side" else 1
        whole = count * width + (count - 1) * GAP
        self.size = whole + whole % 2, height + height % 2
        self._layout, self._image_size = layout, size
        # Opacity and color of the labels, drawn once.
        self._shade, self._ink = _labels(labels, size, self.size, layout)

    def arrange(self, images: Sequence[Tensor], wipe: float = 0.5) -> Tensor:
        """The result, 3 x H x W in 0..1, of images in the order of the labels; with a wipe the first is to its left.

        `wipe` is the part of the width, 0..1, that shows the first image.
        """
        width, height = self._image_size
        sheet = torch.zeros(3, self.size[1], self.size[0])
        if self._layout == "side":
            for index, image in enumerate(images):
                left = index * (width + GAP)
                sheet[:, :height, left : left + width] = image
        else:
            column = round(wipe * width)
            sheet[:, :height, :column] = images[0][..., :column]
            sheet[:, :height, column:width] = images[1][..., column:]
            sheet[:, :height, max(0, column - 1) : column + 1] = 1.0
        return sheet * (1 - self._shade) + self._ink * self._shade


def _labels(
    labels: Sequence[str], size: tuple[int, int], whole: tuple[int, int], layout: Layout
) -> tuple[Tensor, Tensor]:
    """The opacity, 1 x H x W, and the color, 3 x H x W, of boxes with the labels in the lower corners of the images."""
    width, height = size
    scale = min(max(min(width, height) / 700, 0.35), 2.0)
    thickness, pad = max(1, round(1.4 * scale)), round(8 * scale)
    shade = np.zeros((whole[1], whole[0]), np.float32)
    ink = np.zeros((whole[1], whole[0]), np.uint8)
    for index, label in enumerate(labels):
        text = _fitting(label, width - 4 * pad if layout == "side" else width // 2 - 4 * pad, scale, thickness)
        (wide, tall), base = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        start = index * (width + GAP) if layout == "side" else 0
        left = start + pad if layout == "side" or index == 0 else width - wide - 3 * pad
        bottom = height - pad
        if not text:
            continue
        shade[max(0, bottom - tall - base - 2 * pad) : bottom, left : left + wide + 2 * pad] = 0.7
        place = (left + pad, bottom - pad - base // 2)
        cv2.putText(ink, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
    color = ink.astype(np.float32) / np.float32(255)
    opacity = np.maximum(shade, color)
    return torch.from_numpy(opacity)[None], torch.from_numpy(color).expand(3, -1, -1)


def _fitting(label: str, width: int, scale: float, thickness: int) -> str:
    """The label in the letters that OpenCV's font has, cut to a width in pixels."""
    text = "".join(letter if " " <= letter <= "~" else "?" for letter in label)

    def wide(shown: str) -> int:
        return int(cv2.getTextSize(shown, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)[0][0])

    if wide(text) <= width:
        return text
    while text and wide(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..." if text else ""
