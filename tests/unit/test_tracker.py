"""Tracks on known paths: identities, beginnings and ends of tracks, and interpolation between searches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidsr.faces.detections import Detections, pairwise_iou
from vidsr.faces.finding import FaceFinder
from vidsr.faces.tracker import FaceMotion, FaceTracker, TrackerConfig, TrackerState
from vidsr.stages.base import through
from vidsr.types import Frame

Array = np.ndarray[Any, Any]
WIDTH, HEIGHT = 320, 240
INNER = np.array([[-0.2, -0.15], [0.2, -0.15], [0.0, 0.05], [-0.15, 0.25], [0.15, 0.25]])
HITS = TrackerConfig().hits
PATIENCE = TrackerConfig().patience


def faces_at(*places: tuple[float, float, float], scores: float | list[float] = 0.9) -> Detections:
    """Upright faces, each given by x and y of the center and the side."""
    table = np.array(places, float).reshape(-1, 3)
    size = np.stack([table[:, 2], table[:, 2]], axis=1)
    landmarks = table[:, None, :2] + INNER * size[:, None]
    boxes = np.concatenate([table[:, :2] - size / 2, size], axis=1)
    return Detections(boxes, landmarks, np.broadcast_to(np.array(scores, float), len(table)).copy())


class Script:
    """A scripted detector that returns known faces and records which frames it was given."""

    def __init__(self, found: list[Detections]) -> None:
        self.found = found
        self.searched: list[int] = []

    def find(self, image: Tensor, min_score: float) -> Detections:
        number = int(image[0, 0, 0])
        self.searched.append(number)
        faces = self.found[number]
        return faces.take(faces.scores >= min_score)


def video(count: int, cuts: Iterable[int] = ()) -> Iterator[Frame]:
    """Frames whose pixels hold only the frame number, so that faces can only come from the script."""
    for number in range(count):
        image = torch.full((1, 1, 1), float(number)).expand(3, HEIGHT, WIDTH)
        yield Frame(image, 512 * number, Fraction(1, 12800), 512, starts_scene=number == 0 or number in set(cuts))


def run_tracker(found: list[Detections], every: int = 1, cuts: Iterable[int] = (), config: TrackerConfig | None = None
) -> list[Frame]:  # fmt: skip
    frames = list(
        through(FaceFinder(Script(found), every, FaceTracker(config or TrackerConfig())), video(len(found), cuts))
    )
    assert [frame.pts for frame in frames] == [512 * number for number in range(len(found))]
    return frames


def ids(frame: Frame) -> list[int]:
    return [face.track for face in frame.faces]


def center(box: tuple[float, ...]) -> Array:
    return np.array([box[0] + box[2] / 2, box[1] + box[3] / 2])


# ---------------------------------------------------------------------------------------------------------- one face


@pytest.mark.parametrize("every", [1, 3, 4, 7])
def test_moving_face_is_present_in_every_frame(every: int) -> None:
    truth = [(40 + 3 * t, 60 + 2 * t, 30 + t / 4) for t in range(50)]
    script = Script([faces_at(place) for place in truth])
    frames = list(through(FaceFinder(script, every), video(50)))
    assert script.searched == sorted({*range(0, 50, every), 49})
    for number, (frame, (x, y, side)) in enumerate(zip(frames, truth, strict=True)):
        (face,) = frame.faces
        assert face.track == 1 and face.is_found == (number in script.searched)
        assert np.allclose(face.box, (x - side / 2, y - side / 2, side, side))
        assert np.allclose(face.landmarks, np.array([x, y]) + INNER * side)


def test_interpolation_uses_timestamps_not_frame_numbers() -> None:
    found = [faces_at((50 + 10 * t, 100, 40)) for t in range(9)]
    ticks = [0, 1, 3, 30, 40, 41, 50, 60, 80]
    frames = [Frame(frame.image, tick, Fraction(1, 10), starts_scene=frame.starts_scene)
              for frame, tick in zip(video(9), ticks, strict=True)]  # fmt: skip
    given_out = list(through(FaceFinder(Script(found), 4), frames))
    assert [center(frame.faces[0].box)[0] for frame in given_out[:5]] == pytest.approx([50, 51, 53, 80, 90])


@pytest.mark.parametrize("every", [1, 4])
def test_ten_missed_frames_are_bridged(every: int) -> None:
    truth = [(60 + 3.0 * t, 100 + t, 40) for t in range(48)]
    lost = range(20, 30)
    found = [faces_at(*([] if t in lost else [place])) for t, place in enumerate(truth)]
    for number, frame in enumerate(run_tracker(found, every)):
        (face,) = frame.faces
        assert face.track == 1 and not (face.is_found and number in lost)
        assert np.linalg.norm(center(face.box) - truth[number][:2]) < 4


def test_lost_face_is_dropped_and_returns_as_a_new_track() -> None:
    gap = PATIENCE + 5
    found = [faces_at((100, 100, 40))] * 10 + [faces_at()] * gap + [faces_at((100, 100, 40))] * 10
    frames = run_tracker(found)
    assert [ids(frame) for frame in frames[:10]] == [[1]] * 10
    shown = [bool(frame.faces) for frame in frames[10 : 10 + gap]]
    # Frames delayed when the track is dropped do not show it.
    assert shown == [True] * (PATIENCE - HITS + 1) + [False] * (gap - PATIENCE + HITS - 1)
    assert [ids(frame) for frame in frames[10 + gap :]] == [[2]] * 10


@pytest.mark.parametrize("every", [1, 4])
def test_single_false_detection_starts_no_track(every: int) -> None:
    for odd in (0, 8, 16, 40):
        for length in range(1, HITS):
            times = range(odd, min(odd + length * every, 41), every)
            found = [faces_at(*([(200, 100, 50)] if t in times else [])) for t in range(41)]
            assert all(not frame.faces for frame in run_tracker(found, every))


def test_single_false_detection_beside_a_face_changes_nothing() -> None:
    found = [faces_at((100, 100, 40)) for _ in range(30)]
    plain = [frame.faces for frame in run_tracker(found)]
    found[12] = faces_at((100, 100, 40), (135, 110, 42), scores=[0.9, 0.95])
    assert [frame.faces for frame in run_tracker(found)] == plain


def test_weak_detections_continue_a_track_but_start_none() -> None:
    found = [faces_at((100, 100, 40), scores=0.4)] * 20
    assert all(not frame.faces for frame in run_tracker(found))
    found = [faces_at((100, 100, 40))] * 5 + [faces_at((100 + 2 * t, 100, 40), scores=0.4) for t in range(40)]
    assert all(ids(frame) == [1] and frame.faces[0].is_found for frame in run_tracker(found))


def test_small_faces_start_no_track_but_may_continue_one() -> None:
    found = [faces_at((100, 100, 15.0))] * 20
    assert all(not frame.faces for frame in run_tracker(found))
    found = [faces_at((100, 100, max(12.0, 24 - t / 2))) for t in range(40)]
    assert all(ids(frame) == [1] for frame in run_tracker(found))


# ------------------------------------------------------------------------------------------------------------- edges


def test_track_ends_where_the_face_leaves_the_image() -> None:
    truth = [(100 - 5.0 * t, 100, 40) for t in range(40)]
    found = [faces_at(*([place] if place[0] > -10 else [])) for place in truth]
    frames = run_tracker(found)
    assert all(ids(frame) == [1] for frame in frames[:22])
    assert frames[21].faces[0].box[0] < 0
    assert all(not frame.faces for frame in frames[24:])


def test_face_half_outside_is_tracked() -> None:
    found = [faces_at((2, 3 + t, 40)) for t in range(30)]
    assert all(ids(frame) == [1] and frame.faces[0].box[0] == -18 for frame in run_tracker(found))


# ---------------------------------------------------------------------------------------------------------- crossing


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("seed", range(6))
def test_two_crossing_faces_keep_their_numbers(every: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    count, speed, drop = 60, chance.uniform(2.5, 4.5), chance.uniform(-1, 1)
    paths = [
        [(160 + side * speed * (t - 30), 120 + side * drop * (t - 30), 44 + 6 * (side > 0)) for t in range(count)]
        for side in (-1, 1)
    ]
    found = []
    for places in zip(*paths, strict=True):
        noisy = [(x + chance.normal(0, 0.8), y + chance.normal(0, 0.8), size) for x, y, size in places]
        both = faces_at(*noisy, scores=list(chance.uniform(0.7, 0.95, 2)))
        found.append(both.suppressed(0.3))  # one hides the other
    frames = run_tracker(found, every)
    assert ids(frames[0]) == ids(frames[-1]) == [1, 2]
    for face, last in zip(frames[0].faces, frames[-1].faces, strict=True):
        owner = int(np.argmin([np.abs(center(face.box) - path[0][:2]).sum() for path in paths]))
        assert np.abs(center(last.box) - paths[owner][-1][:2]).max() < 5
    assert max(max(ids(frame), default=0) for frame in frames) == 2


@pytest.mark.parametrize("direction", [(1, 0), (-1, 0), (0, 1), (0, -1)])
def test_occluded_face_keeps_its_direction(direction: tuple[int, int]) -> None:
    """The box of the visible part has a center that lags behind."""
    way, side, speed = np.array(direction), 50.0, 4.0
    motion, middles = None, [160 + speed * t * way for t in range(26)]
    for t, place in enumerate(middles[:16]):
        hidden = max(0.0, speed * (t - 12))
        size = side - hidden * np.abs(way)
        at = place - way * hidden / 2
        box = np.concatenate([at - size / 2, size])
        landmarks = at + INNER * size
        motion = FaceMotion.start(box, landmarks) if motion is None else motion.predicted(1).corrected(box, landmarks)
    assert motion is not None
    assert np.abs(motion.predicted(10).center - middles[25]).max() < side / 3


# ---------------------------------------------------------------------------------------------------------- cuts


def test_tracks_end_at_a_cut_and_numbers_continue() -> None:
    found = [faces_at((100, 100, 40))] * 30
    frames = run_tracker(found, 4, cuts=[13])
    assert [ids(frame) for frame in frames] == [[1]] * 13 + [[2]] * 17


def test_face_lost_before_a_cut_is_not_extrapolated_to_it() -> None:
    found = [faces_at((100, 100, 40))] * 10 + [faces_at()] * 2 + [faces_at((100, 100, 40))] * 5
    assert [ids(frame) for frame in run_tracker(found, cuts=[12])] == [[1]] * 10 + [[]] * 2 + [[2]] * 5


def test_tracking_restarts_after_a_cut() -> None:
    chance = np.random.default_rng(0)
    found = [faces_at((100 + 3 * t, 100 + chance.normal(), 40)) for t in range(30)]
    whole, part = run_tracker(found, 4, cuts=[11])[11:], run_tracker(found[11:], 4)
    assert [[(face.box, face.is_found) for face in frame.faces] for frame in whole] == [
        [(face.box, face.is_found) for face in frame.faces] for frame in part
    ]


@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_scenes_shorter_than_a_confirmation_show_faces_of_every_search(length: int) -> None:
    found = [faces_at((100, 100, 40))] * length + [faces_at()] * 12
    frames = run_tracker(found, 4, cuts=[length])
    assert [ids(frame) for frame in frames] == [[1]] * length + [[]] * 12


# ---------------------------------------------------------------------------------------------------------- properties

SCENES = st.lists(
    st.lists(st.tuples(st.integers(0, 31), st.integers(0, 23), st.integers(2, 9), st.integers(0, 10)), max_size=5),
    min_size=1,
    max_size=25,
)


def clutter(rows: list[list[tuple[int, int, int, int]]]) -> list[Detections]:
    """Random faces, as after non-maximum suppression."""
    return [
        faces_at(*[(10 * x, 10 * y, 8 * side) for x, y, side, _ in row], scores=[score / 10 for *_, score in row])
        .suppressed(0.3) if row else faces_at()
        for row in rows
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(rows=SCENES, every=st.integers(1, 5), cuts=st.sets(st.integers(1, 24)), seed=st.integers(0, 999))
def test_numbers_are_unique_not_reused_and_independent_of_order(
    rows: list[list[tuple[int, int, int, int]]], every: int, cuts: set[int], seed: int
) -> None:
    found, chance = clutter(rows), np.random.default_rng(seed)
    frames = run_tracker(found, every, cuts)
    scene_of: dict[int, int] = {}
    scene = 0
    for number, frame in enumerate(frames):
        scene += frame.starts_scene
        assert ids(frame) == sorted(set(ids(frame)))
        assert all(scene_of.setdefault(track, scene) == scene for track in ids(frame))
        for face in frame.faces:
            if face.is_found:
                assert face.box in [tuple(box) for box in found[number].boxes.tolist()]
    assert sorted(scene_of) == list(range(1, len(scene_of) + 1))
    shuffled = [faces.take(chance.permutation(len(faces))) for faces in found]
    assert [frame.faces for frame in run_tracker(shuffled, every, cuts)] == [frame.faces for frame in frames]


@settings(max_examples=30, deadline=None)
@given(rows=SCENES, every=st.integers(1, 5))
def test_delay_of_frames_is_bounded(rows: list[list[tuple[int, int, int, int]]], every: int) -> None:
    taken = 0

    def counted() -> Iterator[Frame]:
        nonlocal taken
        for frame in video(len(rows)):
            taken += 1
            yield frame

    for number, _ in enumerate(through(FaceFinder(Script(clutter(rows)), every), counted())):
        assert taken - number <= every * HITS + 1


def test_the_state_does_not_grow() -> None:
    chance, tracker, state = np.random.default_rng(0), FaceTracker(), TrackerState()
    for _ in range(400):
        places = [(chance.uniform(0, WIDTH), chance.uniform(0, HEIGHT), 30) for _ in range(6)]
        state = tracker.step(faces_at(*places).suppressed(0.3), 1, WIDTH, HEIGHT, state)
        assert len(state.tracks) <= 6 * (PATIENCE + 2)
    for _ in range(PATIENCE + 1):
        state = tracker.step(faces_at(), 1, WIDTH, HEIGHT, state)
    assert state.tracks == ()


def test_iou_equals_counted_pixels() -> None:
    chance = np.random.default_rng(0)
    low, size = chance.integers(0, 12, (2, 8, 2)), chance.integers(1, 12, (2, 8, 2))
    boxes = np.concatenate([low, size], axis=2).astype(float)
    painted = np.zeros((2, 8, 24, 24), bool)
    for group in range(2):
        for index in range(8):
            x, y, width, height = (int(value) for value in boxes[group, index])
            painted[group, index, y : y + height, x : x + width] = True
    both = (painted[0][:, None] & painted[1][None]).sum((2, 3))
    either = (painted[0][:, None] | painted[1][None]).sum((2, 3))
    assert np.allclose(pairwise_iou(*boxes), both / either)
