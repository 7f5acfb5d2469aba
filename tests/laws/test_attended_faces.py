"""Attention-FH on squares that follow faces: a track keeps its boxes, and the same frames have the same boxes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.support.tiny_networks import attention_fh_network
from tests.unit.test_restorer import face, video
from vidsr.faces.attended import AttentionFaceEngine, square_around
from vidsr.faces.blending import RAMP, REACH
from vidsr.faces.restorer import EnlargedCrop, choose_crop
from vidsr.nets.attention_fh.boxes import rectangles
from vidsr.nets.attention_fh.network import AttentionFH
from vidsr.nets.layers.resize import resize
from vidsr.stages.saving import freeze, thaw
from vidsr.types import Crop, Face, Frame

CPU = torch.device("cpu")
CROP = Crop(16, 8, 48, 48)


def frames_of(places: list[tuple[float, float, float]], seed: int = 1) -> list[Frame]:
    """Frames of noise with one face at these centers and sides."""
    generator = torch.Generator().manual_seed(seed)
    rows = [[face(1, *place)] for place in places]
    coarse = [torch.rand(1, 3, 8, 12, generator=generator) for _ in rows]
    return [replace(frame, image=resize(each[0], (64, 96)).clamp(0, 1))
            for frame, each in zip(video(rows), coarse, strict=True)]  # fmt: skip


def deciding_network() -> AttentionFH:
    """A policy that decides by what it sees."""
    network = attention_fh_network("fast", steps=4)
    for parameter in (*network.extractor.parameters(), network.policy.given.weight):
        parameter.mul_(4)
    for head in network.heads:
        assert isinstance(head, torch.nn.Linear)
        head.bias.zero_()
    return network


def engine_of(quarters: int = 0, count: int | None = None) -> AttentionFaceEngine:
    return AttentionFaceEngine(deciding_network(), CPU, "fp32", quarters, count)


def run(engine: AttentionFaceEngine, frames: list[Frame], crop: Crop = CROP) -> list[EnlargedCrop]:
    state, results = engine.init_state(), []
    for frame in frames:
        ready, state = engine.step(frame, {1: crop}, thaw(freeze(state)))
        results.append(ready[1])
    return results


@pytest.mark.numeric
def test_a_track_keeps_the_boxes_of_its_first_frame() -> None:
    network = deciding_network()
    frames = frames_of([(40, 30, 12)] * 3)
    found = run(engine_of(), frames)
    squares = [frame.image[None, :, s.top : s.top + s.height, s.left : s.left + s.width]
               for frame, (s, *_) in zip(frames, found, strict=True)]  # fmt: skip
    own = [torch.stack([step.action for step in network.steps(square)], dim=1) for square in squares]
    assert any(not torch.equal(own[0], each) for each in own[1:]), "the policy looks at nothing"
    for square, result in zip(squares, found, strict=True):
        expected = network(square, own[0])[0].clamp(0, 1)
        torch.testing.assert_close(result.image, expected, atol=1e-5, rtol=0)
        assert result.boxes == found[0].boxes
    first = found[0].crop
    corners = rectangles(own[0][0], network.config).double().numpy().reshape(-1, 2, 2) * [first.width, first.height]
    wanted = [(x + first.left, y + first.top, u - x, v - y) for (x, y), (u, v) in corners]
    np.testing.assert_allclose(found[0].boxes, wanted, atol=1e-4)


def test_a_new_track_and_another_run_choose_their_own_boxes() -> None:
    frames = frames_of([(40, 30, 12)] * 2)
    assert [each.boxes for each in run(engine_of(), frames)] == [each.boxes for each in run(engine_of(), frames)]
    afresh = [run(engine_of(), [frame])[0].boxes for frame in frames_of([(40, 30, 12)] * 6, 3)]
    assert len(set(afresh)) > 1


@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_number_of_boxes_can_be_given(count: int) -> None:
    """More boxes than the network was trained with, too; the first ones are the same."""
    frames = frames_of([(40, 30, 12)] * 2)
    found, own = run(engine_of(count=count), frames), run(engine_of(), frames)
    assert [len(each.boxes) for each in found] == [count] * 2
    assert found[0].boxes[: len(own[0].boxes)] == own[0].boxes[:count]


def test_boxes_move_along_with_the_face() -> None:
    found = run(engine_of(), frames_of([(30, 30, 12), (34, 30, 12), (39, 31, 12)]))
    for result in found:
        moved = np.array(result.boxes) - [result.crop.left, result.crop.top, 0, 0]
        np.testing.assert_allclose(moved, np.array(found[0].boxes) - [found[0].crop.left, found[0].crop.top, 0, 0])
    assert len({(each.crop.left, each.crop.top) for each in found}) > 1
    assert len({(each.crop.width, each.crop.height) for each in found}) == 1


@pytest.mark.numeric
def test_the_network_sees_upright_faces() -> None:
    """A video that was turned gives the turned result, and boxes in its own pixels."""
    frames = frames_of([(40.2, 30.3, 12)])
    found = run(engine_of(), frames)[0]
    (one,) = frames[0].faces
    left, top, wide, tall = one.box
    turned = replace(
        frames[0], image=torch.rot90(frames[0].image, -1, (1, 2)),
        faces=(replace(one, box=(64 - top - tall, left, tall, wide)),),
    )  # fmt: skip
    there = run(engine_of(quarters=1), [turned], Crop(64 - 56, 16, 48, 48))[0]
    torch.testing.assert_close(torch.rot90(there.image, 1, (1, 2)), found.image, atol=1e-5, rtol=0)
    expected = [(64 - y - h, x, h, w) for x, y, w, h in found.boxes]
    np.testing.assert_allclose(there.boxes, expected, atol=1e-4)


@pytest.mark.parametrize(("x", "y", "side"), [(40, 30, 12.0), (2, 3, 14.0), (94, 62, 9.0), (50, 20, 30.0)])
def test_a_square_holds_what_is_blended_as_far_as_the_frame_goes(x: float, y: float, side: float) -> None:
    one = face(1, x, y, side)
    crop = choose_crop(one.box, 96, 64, None)
    square = square_around(one, crop, None)
    reach = side / 2 * REACH + RAMP
    for start, length, center, limit in ((square.left, square.width, x, 96), (square.top, square.height, y, 64)):
        assert start <= max(0.0, center - reach) + 0.5
        assert start + length >= min(float(limit), center + reach) - 0.5
    assert square.left >= crop.left and square.left + square.width <= crop.left + crop.width
    assert square_around(face(1, x + 0.4, y, side), crop, square) == square
    assert square_around(face(1, 40, 30, side / 2), Crop(0, 0, 96, 64), Crop(16, 6, 48, 48)).area < 48 * 48


def test_a_face_outside_of_the_frame_has_an_image() -> None:
    gone = Face((-60.0, 10.0, 12.0, 12.0), face(1, -54, 16, 12).landmarks, 0.9, 1)
    crop = choose_crop(gone.box, 96, 64, None)
    assert square_around(gone, crop, None) == crop
