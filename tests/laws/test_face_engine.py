"""The face engine: crops that stay, move or jump, alone and among others, upright or rotated."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.rounding import rounding_gap
from tests.support.tiny_networks import paper_network
from tests.support.torch_threads import torch_threads
from vidsr.engines.recurrent import RecurrentEngine, advance, merge_ensemble, prepare_frame
from vidsr.faces.engine import FaceEngine, FaceStream
from vidsr.faces.restorer import EnlargedCrop
from vidsr.nets.secnet.network import RecurrentState, SECNet
from vidsr.types import Crop, Frame

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
# secnet-fast's structure with small widths: one-way, aligned, without attention, which would see the whole image.
FAST_FORM: dict[str, Any] = {
    "t1": 1, "t2": 1, "t3": 0, "flow_levels": 3, "fusion_tail": 0, "detail_widths": (), "encoding": "one-way",
    "aligned": True, "attention": False,
}  # fmt: skip
FORMS: dict[str, dict[str, Any]] = {
    "paper": {},
    "paper, mirrored": {"mirrored": True},
    "fast": FAST_FORM,
    "fast, mirrored": FAST_FORM | {"mirrored": True},
    "without a past": FAST_FORM | {"recurrent_fusion": False},
}
# A small receptive field, so that far from all edges results do not depend on the edges.
NEAR_SIGHTED = FAST_FORM | {"flow_levels": 1}
Crops = Mapping[int, Crop]
# By track, for each of its frames in order: the crop shown and its image.
Results = dict[int, list[EnlargedCrop]]


@pytest.fixture(autouse=True, params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """With two threads, the halves of a batch run in parallel."""
    with torch_threads(request.param):
        yield


def noise(length: int, height: int, width: int, seed: int = 0) -> list[Frame]:
    chance = torch.Generator().manual_seed(seed)
    images = torch.rand(length, 3, height, width, generator=chance)
    return [Frame(image, t, Fraction(1, 25), 1, t == 0) for t, image in enumerate(images)]


def drifting(length: int, height: int, width: int) -> list[Frame]:
    """Smooth noise that moves half a pixel per frame, plus a little new noise, so that recurrence matters."""
    chance = torch.Generator().manual_seed(3)
    large = torch.rand(1, 3, height + length, width + length, generator=chance)
    soft = torch.nn.functional.avg_pool2d(torch.nn.functional.pad(large, (1, 1, 1, 1), mode="replicate"), 3, 1)[0]
    frames = []
    for t in range(length):
        first, second = (soft[:, d : d + height, d : d + width] for d in (t // 2, (t + 1) // 2))
        fresh = 0.02 * torch.rand(3, height, width, generator=chance)
        frames.append(Frame((first + second) / 2 + fresh, t, Fraction(1, 25), 1, t == 0))
    return frames


def run(engine: FaceEngine, frames: Sequence[Frame], plan: Sequence[Crops]) -> Results:
    """The results of every track, from the first of its crops in the plan to the last."""
    streams, results = engine.init_state(), {track: [] for crops in plan for track in crops}
    for t, (frame, crops) in enumerate(zip(frames, plan, strict=True)):
        ready, streams = engine.step(frame, crops, streams)
        for track, result in ready.items():
            results[track].append(result)
        following = plan[t + 1] if t + 1 < len(plan) else {}
        ending = [track for track in crops if track not in following]
        for track, rest in engine.flush(streams, ending).items():
            results[track] += rest
    return results


def cropped(frame: Frame, crop: Crop) -> Tensor:
    return frame.image[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]


def alone(network: SECNet, frames: Sequence[Frame], crop: Crop) -> list[Tensor]:
    """The result of RecurrentEngine on the cropped clip."""
    engine = RecurrentEngine(network, "test", CPU, "fp32")
    state, results = engine.init_state(crop.height, crop.width), []
    for index, frame in enumerate(frames):
        part = Frame(cropped(frame, crop), frame.pts, frame.time_base, 1, index == 0)
        ready, state = engine.step(part, state)
        results += ready
    return [frame.image for frame in results + engine.flush(state)]


@cache
def gap(form: str) -> float:
    """How far two results of this form's network may lie apart whose sums were added in another order."""
    frames, crop = noise(7, 32, 56), Crop(8, 8, 24, 16)
    arguments = FORMS[form] if form in FORMS else NEAR_SIGHTED | {"mirrored": True}
    return rounding_gap(paper_network(**arguments), lambda network: torch.stack(alone(network, frames, crop)))


def part(crop: Crop, image: Tensor, area: Crop) -> Tensor:
    """The part of an enlarged crop inside an area."""
    top, left = 4 * (area.top - crop.top), 4 * (area.left - crop.left)
    assert top >= 0 and left >= 0 and image.shape[1:] == (4 * crop.height, 4 * crop.width)
    return image[:, top : top + 4 * area.height, left : left + 4 * area.width]


def assert_same(results: Sequence[EnlargedCrop], expected: Sequence[Tensor], within: float) -> None:
    assert len(results) == len(expected)
    for (_, image, *_), wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(image, wanted, atol=within, rtol=0)


# ------------------------------------------------------------------------------------------------------ crops that stay


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 2, 7])
def test_static_crop_equals_the_cropped_clip(form: str, length: int) -> None:
    network, frames, crop = paper_network(**FORMS[form]), noise(length, 32, 40), Crop(8, 16, 24, 16)
    results = run(FaceEngine(network, CPU, "fp32"), frames, [{1: crop}] * length)
    assert [shown for shown, *_ in results[1]] == [crop] * length
    assert_same(results[1], alone(network, frames, crop), gap(form))


@pytest.mark.parametrize("form", ["paper, mirrored", "fast"])
@pytest.mark.parametrize("crop", [Crop(0, 0, 45, 37), Crop(24, 16, 21, 21), Crop(32, 0, 13, 9), Crop(40, 32, 5, 5)])
def test_static_crop_of_odd_size_at_the_edge(form: str, crop: Crop) -> None:
    network, frames = paper_network(**FORMS[form]), noise(4, 37, 45)
    results = run(FaceEngine(network, CPU, "fp32"), frames, [{1: crop}] * 4)
    assert_same(results[1], alone(network, frames, crop), gap(form))


def crops_by_frame(lives: Mapping[int, tuple[Crop, int, int]], length: int) -> list[Crops]:
    """The crops of each frame; a track has one crop from its first frame to before its last number."""
    return [
        {track: crop for track, (crop, first, end) in lives.items() if first <= t < end} for t in range(length)
    ]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_faces_are_independent(form: str) -> None:
    """Long enough that two faces hold equally many frames, one of them with a longer past than the other."""
    network, frames = paper_network(**FORMS[form]), noise(14, 32, 40)
    lives = {
        1: (Crop(0, 0, 16, 16), 0, 14),
        2: (Crop(24, 16, 16, 16), 3, 14),
        3: (Crop(8, 8, 16, 16), 3, 6),
        4: (Crop(8, 8, 24, 16), 2, 9),
        5: (Crop(0, 16, 16, 16), 12, 13),
        6: (Crop(16, 8, 16, 16), 0, 8),
    }
    results = run(FaceEngine(network, CPU, "fp32"), frames, crops_by_frame(lives, len(frames)))
    for track, (crop, first, end) in lives.items():
        assert_same(results[track], alone(network, frames[first:end], crop), gap(form))


def test_returning_track_starts_anew() -> None:
    network, frames, crop = paper_network(**FAST_FORM), noise(9, 24, 24), Crop(8, 8, 16, 16)
    plan: list[Crops] = [{1: crop}] * 4 + [{}] + [{1: crop}] * 4
    results = run(FaceEngine(network, CPU, "fp32"), frames, plan)
    assert_same(results[1], alone(network, frames[:4], crop) + alone(network, frames[5:], crop), gap("fast"))


# ------------------------------------------------------------------------------------------------------ crops that move

MOVES = {
    "moves": (Crop(0, 8, 112, 112), Crop(24, 0, 112, 112)),
    "grows": (Crop(16, 16, 112, 112), Crop(0, 8, 136, 128)),
    "shrinks": (Crop(0, 0, 144, 144), Crop(16, 24, 112, 96)),
    "to an odd edge": (Crop(24, 24, 112, 112), Crop(32, 16, 117, 131)),
    "from an odd edge": (Crop(24, 24, 125, 123), Crop(8, 16, 112, 120)),
}


# The mirror image of a crop of odd size begins at its odd edge: its pyramid averages different pixel pairs.
@pytest.mark.parametrize(
    ("move", "mirrored"), [*((move, False) for move in MOVES), *((move, True) for move in MOVES if "odd" not in move)]
)
def test_state_moves_with_its_crop(move: str, mirrored: bool) -> None:
    """Exact up to rounding far from all edges, from where nothing reaches the center within so few frames."""
    network = paper_network(**NEAR_SIGHTED, mirrored=mirrored)
    frames, (before, after) = drifting(3, 147, 149), MOVES[move]
    (results,) = run(FaceEngine(network, CPU, "fp32"), frames, [{1: before}] * 2 + [{1: after}]).values()
    assert [shown for shown, *_ in results] == [before, after, after]
    large, area = Crop(0, 0, 144, 144), Crop(68, 68, 4, 4)
    fixed = alone(network, frames, large)
    for (shown, image, *_), wanted in zip(results, fixed, strict=True):
        # Positions are rounded relative to the width, which differs; the recurrence doubles the error per frame.
        torch.testing.assert_close(part(shown, image, area), part(large, wanted, area), atol=5e-4, rtol=0)
    fresh = alone(network, frames[1:], large)
    assert (part(large, fresh[0], area) - part(large, fixed[1], area)).abs().max() > 1e-2, "its past does not show"


def test_moving_crop_stays_close_to_one_that_contains_it() -> None:
    network, frames = paper_network(**NEAR_SIGHTED), drifting(14, 96, 112)
    engine = FaceEngine(network, CPU, "fp32")
    path = [Crop(8, 16, 56, 56), Crop(16, 16, 56, 56), Crop(16, 24, 64, 56), Crop(24, 24, 56, 48),
            Crop(32, 24, 48, 56), Crop(24, 16, 56, 64), Crop(16, 16, 64, 56)]  # fmt: skip
    plan: list[Crops] = [{1: path[t // 2]} for t in range(len(frames))]
    restarted: list[Crops] = [{t // 2: path[t // 2]} for t in range(len(frames))]
    large = Crop(0, 0, 112, 96)
    fixed = run(engine, frames, [{1: large}] * len(frames))[1]
    moved = run(engine, frames, plan)[1]
    again = [result for rest in run(engine, frames, restarted).values() for result in rest]
    area = Crop(44, 36, 12, 16)  # at least 12 pixels inside all of them
    gaps = [
        sum(
            float((part(*result[:2], area) - part(*wanted[:2], area)).pow(2).mean())
            for result, wanted in zip(results[4:], fixed[4:], strict=True)
        )
        for results in (moved, again)
    ]
    assert gaps[0] < 0.05 * gaps[1]


def overlaid(new: Tensor, old: Tensor, after: Crop, before: Crop) -> Tensor:
    """B x C x H x W: `new` with the pixels of `old` where they overlap; the second image is mirrored."""
    factor, result = new.shape[-1] // after.width, new.clone()
    for y in range(max(before.top, after.top), min(before.top + before.height, after.top + after.height)):
        for x in range(max(before.left, after.left), min(before.left + before.width, after.left + after.width)):
            for image in range(len(new)):
                blocks = []
                for tensor, crop in ((result, after), (old, before)):
                    row = factor * (y - crop.top)
                    column = factor * (crop.left + crop.width - 1 - x if image else x - crop.left)
                    blocks.append(tensor[image, :, row : row + factor, column : column + factor])
                blocks[0].copy_(blocks[1])
    return result


def test_large_face_is_not_mirrored_and_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice by the first crop's size holds while it shrinks and grows: each track uses one network throughout."""
    monkeypatch.setattr("vidsr.faces.engine.MAX_MIRRORED_AREA", 24 * 24)
    network, single = paper_network(**NEAR_SIGHTED, mirrored=True), paper_network(**NEAR_SIGHTED)
    single.load_state_dict(network.state_dict())
    large, small = Crop(8, 8, 32, 24), Crop(16, 8, 24, 24)
    frames = noise(6, 48, 64)
    plan = [{1: large, 2: small}] * 3 + [{1: small, 2: large}] * 3
    both = run(FaceEngine(network, CPU, "fp32"), frames, plan)
    once = run(FaceEngine(single, CPU, "fp32"), frames, [{1: crops[1]} for crops in plan])
    monkeypatch.setattr("vidsr.faces.engine.MAX_MIRRORED_AREA", 64 * 64)
    twice = run(FaceEngine(network, CPU, "fp32"), frames, [{2: crops[2]} for crops in plan])
    assert_same(both[1], [image for _, image, *_ in once[1]], gap("near-sighted, mirrored"))
    assert_same(both[2], [image for _, image, *_ in twice[2]], gap("near-sighted, mirrored"))


@pytest.mark.parametrize("form", ["fast", "fast, mirrored"])
@pytest.mark.parametrize(
    "after", [Crop(32, 16, 16, 16), Crop(8, 8, 24, 16), Crop(0, 0, 32, 32), Crop(8, 16, 8, 8)],
    ids=["jumps", "moves", "grows", "shrinks"],
)  # fmt: skip
def test_moved_state_pixel_by_pixel(form: str, after: Crop) -> None:
    """Frames are recomputed at the new crop; uncovered areas start as at the first frame, from the previous result."""
    network, frames, before = paper_network(**FORMS[form]), noise(5, 32, 56), Crop(0, 8, 24, 16)
    engine, streams = FaceEngine(network, CPU, "fp32"), {}
    for frame in frames[:4]:
        _, streams = engine.step(frame, {1: before}, streams)
    ready, moved = engine.step(frames[4], {1: after}, streams)
    results = [ready[1], *engine.flush(moved, [1])[1]]
    assert [shown for shown, *_ in results] == [after] * 2
    window = [prepare_frame(network, frame, cropped(frame, after)) for frame in frames]
    with torch.inference_mode():
        past, fresh = streams[1].past, network.init_state(window[2].image)
        assert past is not None
        past = RecurrentState(
            *(
                tuple(overlaid(new, old, after, before) for new, old in zip(news, olds, strict=True))
                for news, olds in zip(fresh, past, strict=True)
            )
        )
        for here, (_, image, *_) in zip((3, 4), results, strict=True):
            wanted, past = advance(network, window, here, past)
            torch.testing.assert_close(
                image, merge_ensemble(network, wanted, window[here].image), atol=gap(form), rtol=0
            )


@pytest.mark.parametrize("form", FORMS)
def test_jump_before_the_first_result_has_no_effect(form: str) -> None:
    network, frames = paper_network(**FORMS[form]), noise(6, 32, 56)
    before, after = Crop(0, 8, 24, 16), Crop(16, 16, 32, 16)
    (results,) = run(FaceEngine(network, CPU, "fp32"), frames, [{1: before}] + [{1: after}] * 5).values()
    assert_same(results, alone(network, frames, after), gap(form))


# ------------------------------------------------------------------------------------------------------ rotated videos


def turned(crop: Crop, quarters: int, height: int, width: int) -> Crop:
    """The same crop after a frame of this size was rotated counterclockwise."""
    paper = torch.zeros(height, width)
    paper[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] = 1
    rows, columns = torch.rot90(paper, quarters).nonzero(as_tuple=True)
    top, left = int(rows.min()), int(columns.min())
    return Crop(left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top)


@pytest.mark.parametrize("form", ["paper", "fast, mirrored"])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_rotated_video_gives_rotated_faces(form: str, quarters: int) -> None:
    network, frames = paper_network(**FORMS[form]), noise(7, 40, 48)
    path = [Crop(8, 16, 24, 16)] * 3 + [Crop(16, 16, 24, 24)] * 2 + [Crop(0, 0, 16, 32)] * 2
    coded = [frame.with_image(torch.rot90(frame.image, -quarters, (1, 2))) for frame in frames]
    upright = run(FaceEngine(network, CPU, "fp32"), frames, [{1: crop} for crop in path])[1]
    plan = [{1: turned(crop, -quarters, 40, 48)} for crop in path]
    results = run(FaceEngine(network, CPU, "fp32", quarters), coded, plan)[1]
    for (shown, image, *_), (crop, wanted, *_) in zip(results, upright, strict=True):
        assert shown == turned(crop, -quarters, 40, 48)
        torch.testing.assert_close(torch.rot90(image, quarters, (1, 2)), wanted, atol=gap(form), rtol=0)


# -------------------------------------------------------------------------------------------------------------- streams


@pytest.mark.parametrize("form", ["paper", "fast"])
def test_streams_do_not_grow_and_drop_ended_faces(form: str) -> None:
    network, frames = paper_network(**FORMS[form]), noise(16, 24, 32)
    engine, streams = FaceEngine(network, CPU, "fp32"), {}
    config, sizes = network.config, []
    for t, frame in enumerate(frames):
        crops = {1: Crop(8 * (t // 3 % 2), 8, 16, 16)} | ({2: Crop(0, 0, 16, 8)} if 4 <= t < 9 else {})
        _, streams = engine.step(frame, crops, streams)
        assert streams.keys() == crops.keys()
        assert all(stream.crop == crops[track] for track, stream in streams.items())
        stream = streams[1]
        assert len(stream.window) <= config.lookahead - min(config.offsets)
        assert stream.past is not None or t < config.lookahead
        sizes.append(
            sum(tensor.numel() for tensor in (*stream.past.results, *stream.past.memory)) if stream.past else 0
        )
    assert sizes[-1] == sizes[-5] > 0
    assert engine.step(frames[0], {}, streams) == ({}, {})
    assert engine.flush(streams, []) == {}


@pytest.mark.parametrize("form", ["paper, mirrored", "fast"])
def test_streams_can_be_copied_and_are_not_modified(form: str) -> None:
    network, frames = paper_network(**FORMS[form]), noise(9, 24, 32)
    engine, streams = FaceEngine(network, CPU, "fp32"), {}
    for frame in frames[:5]:
        _, streams = engine.step(frame, {1: Crop(8, 8, 16, 16), 2: Crop(0, 0, 16, 16)}, streams)
    file = io.BytesIO()
    torch.save(streams, file)
    file.seek(0)
    loaded: dict[int, FaceStream] = torch.load(file, weights_only=False)

    def going_on(streams: Mapping[int, FaceStream]) -> list[Tensor]:
        images = []
        for frame in frames[5:]:
            ready, streams = engine.step(frame, {1: Crop(0, 8, 24, 16), 2: Crop(0, 0, 16, 16)}, streams)
            images += [image for _, image, *_ in ready.values()]
        return images + [image for rest in engine.flush(streams, [1, 2]).values() for _, image, *_ in rest]

    first, second, third = going_on(streams), going_on(streams), going_on(loaded)
    assert len(first) == 2 * (4 + engine.lookahead)
    for images in (second, third):
        assert all(torch.equal(one, other) for one, other in zip(first, images, strict=True))


def test_network_is_not_modified_and_lookahead_is_reported() -> None:
    network = paper_network(t1=2)
    engine = FaceEngine(network, CPU, "bf16")
    assert engine.lookahead == 2
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    (((_, image, *_),),) = run(engine, noise(1, 16, 16), [{1: Crop(0, 0, 16, 16)}]).values()
    assert image.dtype == torch.float32 and image.shape == (3, 64, 64) and 0 <= image.min() <= image.max() <= 1
