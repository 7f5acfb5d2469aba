"""Boxes of a face model are drawn where they are, in the complementary color of the track."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import torch

from tests.unit.test_restorer import face
from vidsr.faces.detector import View
from vidsr.faces.drawing import draw_faces, shown_boxes, track_color
from vidsr.types import Crop, Frame, RestoredFace

BOXES = ((20.0, 10.0, 30.0, 20.0), (30.0, 24.0, 12.0, 22.0))


def frame(boxes: tuple[tuple[float, float, float, float], ...] | None) -> Frame:
    """A gray frame of 96x64 with one face far from the boxes."""
    one = face(3, 80, 50, 12)
    if boxes is not None:
        crop = Crop(16, 8, 48, 48)
        one = replace(one, restored=RestoredFace(torch.zeros(3, 48, 48), crop, one.box, 1.0, boxes))
    return Frame(torch.full((3, 64, 96), 0.5), 0, Fraction(1, 25), 1, True, (one,))


def test_every_edge_of_every_box_is_drawn() -> None:
    color = torch.tensor([255 - value for value in track_color(3)]) / 255
    (drawn,) = draw_faces([frame(BOXES)], View())
    (without,) = draw_faces([frame(None)], View())
    is_line = (drawn.image - color[:, None, None]).abs().amax(0) < 1e-3
    for left, top, wide, tall in BOXES:
        x, y, u, v = (round(value) for value in (left, top, left + wide, top + tall))
        edges = is_line[y, x : u + 1], is_line[v, x : u + 1], is_line[y : v + 1, x], is_line[y : v + 1, u]
        assert all(edge.float().mean() > 0.95 for edge in edges)
    assert not torch.equal(drawn.image, without.image)
    assert (drawn.image == without.image)[:, :, 60:].all() and (without.image[:, :, :60] == 0.5).all()


def test_boxes_turn_with_the_display() -> None:
    (one,) = frame(BOXES).faces
    assert shown_boxes(one, View(), 96, 64) == list(BOXES)
    turned = shown_boxes(one, View(quarters=1), 96, 64)
    assert turned == [(10.0, 96 - 20 - 30, 20.0, 30.0), (24.0, 96 - 30 - 12, 22.0, 12.0)]
    assert shown_boxes(frame(None).faces[0], View(), 96, 64) is None
