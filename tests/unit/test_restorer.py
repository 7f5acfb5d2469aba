"""Which faces are restored, in which crop, with what weight; the substitute network's pixels encode their origin."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vidsr.config import RestoreConfig
from vidsr.faces.restorer import FADE, HYSTERESIS, INERTIA, EnlargedCrop, FaceRestorer, FaceWork, choose_crop
from vidsr.stages.base import through
from vidsr.types import Crop, Face, Frame, RestoredFace

WIDTH, HEIGHT = 96, 64
INNER = ((-0.2, -0.15), (0.2, -0.15), (0.0, 0.05), (-0.15, 0.25), (0.15, 0.25))
Place = tuple[float, float, float]
Streams = Mapping[int, tuple[tuple[Frame, ...], Crop]]


def face(track: int, x: float, y: float, side: float, is_found: bool = True) -> Face:
    """An upright face with this center and side."""
    points = tuple((x + side * a, y + side * b) for a, b in INNER)
    return Face((x - side / 2, y - side / 2, side, side), points, 0.9, track, is_found)


def video(rows: Iterable[Sequence[Face]], cuts: Iterable[int] = ()) -> Iterator[Frame]:
    """Frames whose pixels hold the frame number, the column and the row."""
    starts = {0, *cuts}
    columns = torch.arange(WIDTH).float().expand(HEIGHT, -1)
    lines = torch.arange(HEIGHT).float()[:, None].expand(-1, WIDTH)
    for number, faces in enumerate(rows):
        image = torch.stack((torch.full_like(columns, number), columns, lines))
        yield Frame(image, 512 * number, Fraction(1, 12800), 512, number in starts, tuple(faces))


def doubled(image: Tensor, crop: Crop) -> Tensor:
    region = image[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    return region.repeat_interleave(2, 1).repeat_interleave(2, 2)


@dataclass
class Doubler:
    """Doubles the size of the latest crop in the frame `lookahead` before. `log` records the calls."""

    lookahead: int
    log: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)

    def init_state(self) -> Streams:
        return {}

    def step(
        self, frame: Frame, crops: Mapping[int, Crop], streams: Streams
    ) -> tuple[dict[int, EnlargedCrop], Streams]:
        self.log.append(("step", tuple(sorted(crops))))
        ready: dict[int, EnlargedCrop] = {}
        after: dict[int, tuple[tuple[Frame, ...], Crop]] = {}
        for track, crop in crops.items():
            waiting = (*(streams[track][0] if track in streams else ()), frame)
            assert [b.pts - a.pts for a, b in pairwise(waiting)] == [512] * (len(waiting) - 1), "a frame is missing"
            if len(waiting) > self.lookahead:
                ready[track] = EnlargedCrop(crop, doubled(waiting[0].image, crop))
                waiting = waiting[1:]
            after[track] = waiting, crop
        return ready, after

    def flush(self, streams: Streams, tracks: Iterable[int]) -> dict[int, list[EnlargedCrop]]:
        asked = {track: streams[track] for track in tracks}
        self.log += [("flush", tuple(sorted(asked)))] if asked else []
        return {
            track: [EnlargedCrop(crop, doubled(frame.image, crop)) for frame in waiting]
            for track, (waiting, crop) in asked.items()
        }


def restore(
    rows: Sequence[Sequence[Face]], cuts: Iterable[int] = (), lookahead: int = 1, config: RestoreConfig | None = None
) -> tuple[list[Frame], dict[int, FaceWork], Doubler]:
    """The resulting frames, after checking that each is yielded once and in order, with its faces."""
    network = Doubler(lookahead)
    restorer = FaceRestorer(network, config or RestoreConfig())
    cuts = list(cuts)
    frames = list(through(restorer, video(rows, cuts)))
    for result, source in zip(frames, video(rows, cuts), strict=True):
        assert torch.equal(result.image, source.image)
        assert (result.pts, result.duration, result.starts_scene) == (source.pts, source.duration, source.starts_scene)
        assert [without_patch(each) for each in result.faces] == list(source.faces)
        for patch in (each.restored for each in result.faces if each.restored is not None):
            assert torch.equal(patch.image, doubled(source.image, patch.crop)), "not its own frame or crop"
            assert 0 < patch.weight <= 1
    return frames, restorer.work, network


def without_patch(each: Face) -> Face:
    return Face(each.box, each.landmarks, each.score, each.track, each.is_found, each.smoothed)


def patch_of(frame: Frame, track: int) -> RestoredFace | None:
    (patch,) = (each.restored for each in frame.faces if each.track == track)
    return patch


def weights(frames: Iterable[Frame], track: int) -> list[float | None]:
    """The weight in each frame that shows the track."""
    patches = [patch_of(frame, track) for frame in frames if track in {each.track for each in frame.faces}]
    return [None if patch is None else patch.weight for patch in patches]


def static(*tracks: int, side: float = 24) -> list[Face]:
    return [face(track, 20 + 28 * index, 32, side) for index, track in enumerate(tracks)]


RISE = [(index + 1) / (FADE + 1) for index in range(FADE)]

# ------------------------------------------------------------------------------------------------------------ one track


@pytest.mark.parametrize("lookahead", [0, 1, FADE, FADE + 3])
def test_moving_face_gets_the_results_of_its_own_frames(lookahead: int) -> None:
    rows = [[face(1, 20 + 2 * t, 30 + t / 2, 24 + t / 4)] for t in range(25)]
    frames, work, network = restore(rows, lookahead=lookahead)
    assert work == {1: FaceWork(25)}
    assert weights(frames, 1) == [1.0] * 25
    crops = [patch.crop for frame in frames if (patch := patch_of(frame, 1))]
    assert 1 < len(set(crops)) < 8
    # The crop is the latest one of the face, chosen `lookahead` frames later.
    chosen: list[Crop] = []
    box_of = [patch.box for frame in frames if (patch := patch_of(frame, 1))]
    for box in box_of:
        chosen.append(choose_crop(box, WIDTH, HEIGHT, chosen[-1] if chosen else None))
    assert crops == [chosen[min(t + lookahead, 24)] for t in range(25)]
    assert network.log == [("step", (1,))] * 25 + [("flush", (1,))]


@pytest.mark.parametrize("lookahead", [0, 1, FADE, FADE + 3])
def test_weights_fade_within_a_scene_but_not_at_its_ends(lookahead: int) -> None:
    rows = [static(1) if 4 <= t < 24 else [] for t in range(30)]
    frames, *_ = restore(rows, lookahead=lookahead)
    assert weights(frames, 1) == pytest.approx([*RISE, *[1.0] * (20 - 2 * FADE), *reversed(RISE)])
    frames, *_ = restore([static(1)] * 20, lookahead=lookahead)
    assert weights(frames, 1) == [1.0] * 20
    frames, *_ = restore([static(1)] * 12 + [[]] * 3 + [static(2)] * 12, cuts=[10, 17], lookahead=lookahead)
    assert weights(frames, 1) == pytest.approx([1.0] * 10 + [2 / 7, 1 / 7])
    assert weights(frames, 2) == pytest.approx([1 / 7, 2 / 7] + [1.0] * 10)


def test_track_shorter_than_the_fade_has_low_weights() -> None:
    frames, *_ = restore([[]] * 9 + [static(1)] * 3 + [[]] * 9)
    assert weights(frames, 1) == pytest.approx([1 / 7, 2 / 7, 1 / 7])


def test_track_skipped_for_one_frame_fades_around_it() -> None:
    rows = [static(1)] * 10 + [static(1, side=10)] + [static(1)] * 10
    frames, work, network = restore(rows)
    expected = [1.0] * 4 + RISE[::-1] + [None] + RISE + [1.0] * 4
    assert [None if weight is None else round(weight, 6) for weight in weights(frames, 1)] == [
        None if weight is None else round(weight, 6) for weight in expected
    ]
    assert work == {1: FaceWork(20, {"too small": 1})}
    assert [call for call in network.log if call[0] == "flush"] == [("flush", (1,))] * 2


# --------------------------------------------------------------------------------------------------------------- places


def test_size_is_smoothed_and_center_follows_the_landmarks() -> None:
    sides = [24.0 if t % 2 else 28.0 for t in range(40)]
    rows = [[face(1, 30 + t / 2, 32, side)] for t, side in enumerate(sides)]
    frames, *_ = restore(rows)
    boxes = [patch.box for frame in frames if (patch := patch_of(frame, 1))]
    assert boxes[0] == pytest.approx(rows[0][0].box)
    widths = torch.tensor([box[2] for box in boxes])
    # Each frame has a weight of one fifth; the jitter's log ratio is reduced accordingly.
    ratio = torch.log(widths[21:] / widths[20:-1]).abs()
    expected = (1 - INERTIA) / (1 + INERTIA) * torch.log(torch.tensor(28 / 24))
    torch.testing.assert_close(ratio, expected.expand(len(ratio)), atol=1e-3, rtol=0)
    for t, box in enumerate(boxes):
        assert box[2] == pytest.approx(box[3])
        assert box[0] + box[2] / 2 == pytest.approx(30 + t / 2, abs=0.3)


def test_smoothed_landmarks_are_preferred_to_detected_ones() -> None:
    shifted = static(1)[0]
    moved = tuple((x + 3, y - 2) for x, y in shifted.landmarks)
    frames, *_ = restore([[Face(shifted.box, shifted.landmarks, 0.9, 1, True, moved)]])
    (patch,) = (patch_of(frame, 1) for frame in frames)
    assert patch is not None
    left, top, width, height = shifted.box
    assert patch.box == pytest.approx((left + 3, top - 2, width, height))


def test_undetected_face_moves_on_and_keeps_its_size() -> None:
    seen = [[face(1, 20 + t, 32, 24)] for t in range(10)]
    guessed = [[face(1, 30 + t, 32 + t, 24 + 3 * t, is_found=False)] for t in range(6)]
    frames, *_ = restore(seen + guessed)
    for t, frame in enumerate(frames[10:]):
        patch = patch_of(frame, 1)
        assert patch is not None
        middle = 30 + t, 32 + t + (24 + 3 * t - 24) * sum(b for _, b in INNER) / 5
        assert patch.box[2:] == pytest.approx((24, 24))
        assert patch.box[0] + 12 == pytest.approx(middle[0]) and patch.box[1] + 12 == pytest.approx(middle[1])
    first = restore(guessed[3:])[0][0]
    patch = patch_of(first, 1)
    assert patch is not None and patch.box == pytest.approx(guessed[3][0].box)  # without better information


# --------------------------------------------------------------------------------------------------------------- choice


def test_small_large_and_surplus_faces_are_counted_and_skipped() -> None:
    row = [face(1, 20, 20, 15.9), face(2, 20, 40, 16), face(3, 60, 30, 40), face(4, 60, 30, 40.1), face(5, 80, 30, 20)]
    frames, work, _ = restore([row] * 9, config=RestoreConfig(min_face=16, largest=40, max_faces=2))
    assert work == {
        1: FaceWork(0, {"too small": 9}),
        2: FaceWork(0, {"too many faces": 9}),
        3: FaceWork(9),
        4: FaceWork(0, {"large enough": 9}),
        5: FaceWork(9),
    }
    assert [[patch_of(frame, track) is None for track in range(1, 6)] for frame in frames] == [
        [True, True, False, True, False]
    ] * 9


@pytest.mark.parametrize(("limit", "reason", "step"), [(20.0, "too small", 0.97), (50.0, "large enough", 1.03)])
def test_face_near_a_limit_does_not_flicker(limit: float, reason: str, step: float) -> None:
    """One that is restored goes on up to STICKY beyond the limit; one that is not begins only at the limit itself."""
    config = RestoreConfig(min_face=20, largest=50)
    sides = [limit / step * step**t for t in range(12)]
    frames, work, _ = restore([static(1, side=side) for side in sides], config=config)
    within = [max(side / limit, limit / side) <= HYSTERESIS * (1 + 1e-9) or (side - limit) * (step - 1) < 0
              for side in sides]  # fmt: skip
    assert within == [True] * 6 + [False] * 6
    assert [weight is not None for weight in weights(frames, 1)] == within
    assert work == {1: FaceWork(6, {reason: 6})}
    frames, *_ = restore([static(1, side=side) for side in reversed(sides)], config=config)
    assert [weight is not None for weight in weights(frames, 1)] == [False] * 10 + [True] * 2


def test_of_too_many_faces_restored_ones_go_first_then_the_largest() -> None:
    config = RestoreConfig(max_faces=2)

    def row(*sides: tuple[int, float]) -> list[Face]:
        return [face(track, 10 + 20 * track, 32, side) for track, side in sides]

    rows = (
        [row((1, 20), (2, 20), (3, 20))] * 4
        + [row((1, 20), (2, 20), (3, 30))] * 4
        + [row((1, 20), (3, 22), (4, 24))] * 4
    )
    frames, *_ = restore(rows, config=config)
    chosen = [[each.track for each in frame.faces if each.restored is not None] for frame in frames]
    assert chosen == [[1, 2]] * 8 + [[1, 4]] * 4


# --------------------------------------------------------------------------------------------------------------- scenes


@pytest.mark.parametrize("lookahead", [1, 4])
def test_nothing_crosses_a_cut(lookahead: int) -> None:
    """All tracks are flushed, and each scene is processed as if it were the whole video, despite equal numbers."""
    rows = [[face(1, 20 + t, 30, 20 + t), face(2, 70, 30, 24, is_found=t % 2 == 0)] for t in range(24)]
    frames, _, network = restore(rows, cuts=[9, 10], lookahead=lookahead)
    scenes = [restore(rows[first:end], lookahead=lookahead)[0] for first, end in ((0, 9), (9, 10), (10, 24))]
    for frame, part in zip(frames, (each for scene in scenes for each in scene), strict=True):
        for track in (1, 2):
            patch, wanted = patch_of(frame, track), patch_of(part, track)
            assert patch is not None and wanted is not None
            assert (patch.crop, patch.box, patch.weight) == (wanted.crop, wanted.box, wanted.weight)
    calls = [[("step", (1, 2))] * count + [("flush", (1, 2))] for count in (9, 1, 14)]
    assert network.log == [call for scene in calls for call in scene]


def test_videos_without_frames_or_faces_or_of_one_frame() -> None:
    assert restore([])[0] == []
    frames, work, _ = restore([[]] * 9)
    assert len(frames) == 9 and work == {}
    frames, work, _ = restore([static(1, 2)], lookahead=3)
    assert weights(frames, 1) == weights(frames, 2) == [1.0] and work == {1: FaceWork(1), 2: FaceWork(1)}


@pytest.mark.parametrize("lookahead", [0, 1, FADE, FADE + 3])
def test_number_of_delayed_frames_is_bounded(lookahead: int) -> None:
    images: list[weakref.ref[Tensor]] = []
    most, taken = 0, 0

    def watched() -> Iterator[Frame]:
        nonlocal most, taken
        for frame in video([static(1, 2, 3) if t % 11 else static(2) for t in range(60)], cuts=[25]):
            images.append(weakref.ref(frame.image))
            taken += 1
            yield frame
            most = max(most, sum(picture() is not None for picture in images))

    held = max(FADE, lookahead)
    given_out = 0
    for frame in through(FaceRestorer(Doubler(lookahead), RestoreConfig()), watched()):
        assert frame.pts == 512 * given_out and taken - given_out <= held + 1
        given_out += 1
        del frame
    assert given_out == 60 and most == held


# ----------------------------------------------------------------------------------------------------------- properties

SIDES = [10.0, 14.5, 16.0, 24.0, 50.0, 64.0]
ROWS = st.lists(
    st.lists(st.none() | st.tuples(st.sampled_from(SIDES), st.booleans()), min_size=3, max_size=3), max_size=40
)
PRESENT = st.lists(st.lists(st.sampled_from([None, (24.0, True), (24.0, False)]), min_size=3, max_size=3), max_size=40)


def expected_choice(rows: Sequence[Sequence[Face]], cuts: set[int], config: RestoreConfig) -> list[dict[int, str]]:
    """For each frame the outcome of each track: "" if it is restored, else the reason."""
    fates: list[dict[int, str]] = []
    for t, row in enumerate(rows):
        before = {} if t == 0 or t in cuts else fates[-1]
        going_on = {track for track, fate in before.items() if not fate}
        fate: dict[int, str] = {}
        for each in row:
            room = HYSTERESIS if each.track in going_on else 1
            if each.side < config.min_face / room:
                fate[each.track] = "too small"
            elif each.side > config.largest * room:
                fate[each.track] = "large enough"
        rest = [each for each in row if each.track not in fate]
        first = sorted((each for each in rest if each.track in going_on), key=lambda each: -each.side)
        others = sorted((each for each in rest if each.track not in going_on), key=lambda each: -each.side)
        for rank, each in enumerate(first + others):
            fate[each.track] = "" if rank < config.max_faces else "too many faces"
        fates.append(fate)
    return fates


def expected_weight(runs: Sequence[bool], t: int, first: int, end: int) -> float:
    """The weight in frame t of a track restored in `runs`, in a scene from `first` to before `end`."""
    begin, stop = t, t
    while begin > first and runs[begin - 1]:
        begin -= 1
    while stop + 1 < end and runs[stop + 1]:
        stop += 1
    grown = 1.0 if begin == first else (t - begin + 1) / (FADE + 1)
    left = 1.0 if stop + 1 == end else (stop - t + 1) / (FADE + 1)
    return min(1.0, grown, left)


@settings(deadline=None, max_examples=120)
@given(
    pattern=ROWS | PRESENT,
    cuts=st.sets(st.integers(1, 39), max_size=4),
    lookahead=st.integers(0, 9),
    most=st.integers(1, 3),
)
def test_any_faces_and_cuts_against_a_reference(
    pattern: list[list[tuple[float, bool] | None]], cuts: set[int], lookahead: int, most: int
) -> None:
    config = RestoreConfig(min_face=16, largest=48, max_faces=most)
    rows = [
        [face(track, 20.0 + 28 * track - t, 32, seen[0], seen[1]) for track, seen in enumerate(row, start=1) if seen]
        for t, row in enumerate(pattern)
    ]
    frames, work, _ = restore(rows, cuts, lookahead, config)
    fates = expected_choice(rows, cuts, config)
    ends = [0, *sorted(cut for cut in cuts if cut < len(rows)), len(rows)]
    for first, end in pairwise(ends):
        for t in range(first, end):
            for each in frames[t].faces:
                runs = [fate.get(each.track, "absent") == "" for fate in fates]
                assert (each.restored is not None) == runs[t]
                if each.restored is not None:
                    assert each.restored.weight == pytest.approx(expected_weight(runs, t, first, end))
    counted = {track: Counter(fate[track] for fate in fates if track in fate) for track in (1, 2, 3)}
    assert work == {
        track: FaceWork(counts.pop("", 0), dict(counts)) for track, counts in counted.items() if counts
    }  # fmt: skip
