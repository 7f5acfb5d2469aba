"""Crops around faces anywhere in frames of any size: what they must contain, and how long they stay unchanged."""

from __future__ import annotations

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vidsr.faces.blending import REACH
from vidsr.faces.restorer import MARGIN, MAX_EXCESS, SLACK, STEP, choose_crop
from vidsr.types import Crop

Box = tuple[float, float, float, float]
SIDES = st.floats(4, 200)
BOXES = st.tuples(st.floats(-300, 600), st.floats(-300, 600), SIDES, SIDES)
LIMITS = st.integers(5, 400)
# Frames large enough that nothing is cut off.
LARGE = 2000


def inner(box: Box) -> Box:
    """The same face in the middle of a large frame."""
    return 800 + box[0], 800 + box[1], box[2], box[3]


def spans(box: Box, width: int, height: int, margin: float) -> list[tuple[float, float]]:
    """The spans of the box with its soft border and the margin, clipped to the frame."""
    found = []
    for start, side, limit in ((box[0], box[2], width), (box[1], box[3], height)):
        middle, half = start + side / 2, side / 2 * REACH + margin
        found.append((min(max(middle - half, 0), limit), min(max(middle + half, 0), limit)))
    return found


def ends(crop: Crop) -> list[tuple[int, int]]:
    return [(crop.left, crop.left + crop.width), (crop.top, crop.top + crop.height)]


def holds(crop: Crop, box: Box, width: int, height: int, margin: float) -> bool:
    pairs = zip(ends(crop), spans(box, width, height, margin), strict=True)
    return all(first <= low + 1e-9 and high - 1e-9 <= last for (first, last), (low, high) in pairs)


@given(path=st.lists(BOXES, min_size=1, max_size=5), width=LIMITS, height=LIMITS)
def test_always_inside_the_frame_and_around_the_face(path: list[Box], width: int, height: int) -> None:
    crop = None
    for box in path:
        before, crop = crop, choose_crop(box, width, height, crop)
        for (first, last), limit in zip(ends(crop), (width, height), strict=True):
            assert first >= 0 and first + min(STEP, limit) <= last <= limit
        assert holds(crop, box, width, height, MARGIN)
        if crop != before:
            assert holds(crop, box, width, height, MARGIN + SLACK * max(box[2:]))


@given(box=BOXES, width=LIMITS, height=LIMITS)
def test_ends_are_multiples_of_the_step_or_frame_edges(box: Box, width: int, height: int) -> None:
    for (first, last), limit in zip(ends(choose_crop(box, width, height, None)), (width, height), strict=True):
        assert last % STEP == 0 or last == limit
        assert first % STEP == 0 or (last == limit and last - first == STEP)


@given(box=BOXES)
def test_no_larger_than_necessary(box: Box) -> None:
    crop = choose_crop(inner(box), LARGE, LARGE, None)
    room = spans(inner(box), LARGE, LARGE, MARGIN + SLACK * max(box[2:]))
    for (first, last), (low, high) in zip(ends(crop), room, strict=True):
        assert low - first < STEP and last - high < STEP


@given(box=st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(16, 200), st.floats(16, 200)),
       moves=st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=8))  # fmt: skip
def test_unchanged_while_the_face_moves_little(box: Box, moves: list[tuple[float, float]]) -> None:
    assume(0.5 < box[2] / box[3] < 2)
    left, top, *size = inner(box)
    still = crop = choose_crop((left, top, *size), LARGE, LARGE, None)
    for x, y in moves:
        room = 0.999 * SLACK * max(size)
        crop = choose_crop((left + x * room, top + y * room, *size), LARGE, LARGE, crop)
        assert crop == still


@given(box=BOXES, moves=st.tuples(st.sampled_from([-1, 0, 1]), st.sampled_from([-1, 1])))
def test_crop_follows_a_face_that_reaches_its_edge(box: Box, moves: tuple[int, int]) -> None:
    left, top, width, height = inner(box)
    before = choose_crop((left, top, width, height), LARGE, LARGE, None)
    far = SLACK * max(width, height) + STEP + 1
    after = choose_crop((left + moves[0] * far, top + moves[1] * far, width, height), LARGE, LARGE, before)
    assert after != before
    assert after == choose_crop((left + moves[0] * far, top + moves[1] * far, width, height), LARGE, LARGE, None)


@settings(max_examples=200)
@given(box=BOXES, before=st.floats(1, 3), width=LIMITS, height=LIMITS)
def test_replaced_only_when_much_too_large(box: Box, before: float, width: int, height: int) -> None:
    grown = (box[0] - box[2] * (before - 1) / 2, box[1] - box[3] * (before - 1) / 2, before * box[2], before * box[3])
    large = choose_crop(grown, width, height, None)
    fresh = choose_crop(box, width, height, None)
    is_waste = large.area > MAX_EXCESS * fresh.area
    assert choose_crop(box, width, height, large) == (fresh if is_waste else large)


def test_face_of_half_the_size_gets_a_new_crop() -> None:
    large = choose_crop((400, 400, 100, 100), LARGE, LARGE, None)
    assert large == Crop(360, 360, 176, 176)
    assert choose_crop((425, 425, 50, 50), LARGE, LARGE, large) == Crop(400, 400, 96, 96)
