"""Slow-motion engines: equal to an independent reference, correct timestamps, and no redundant computation."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from functools import cache
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from tests.support.tiny_networks import SLOWMO_FORMS, slowmo_network
from tests.support.toy_engine import make_clip, side_data, video_side_data
from vidsr.engines.base import Engine
from vidsr.engines.chain import ChainEngine
from vidsr.engines.slowmo import InterpolationEngine, SlowmoEngine
from vidsr.engines.tiled import TiledEngine
from vidsr.errors import ModelError, UsageError
from vidsr.models.cards import list_presets
from vidsr.models.registry import build
from vidsr.nets.layers.conditioning import Estimate
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.types import Frame

pytestmark = [pytest.mark.numeric, pytest.mark.usefixtures("two_threads")]

CPU = torch.device("cpu")
PRESETS = {preset.name: preset for preset in list_presets() if preset.architecture == "zsm"}


@cache
def network_of(form: str) -> ZoomingSlowMo:
    """A network that no test modifies."""
    return slowmo_network(form)


Levels = tuple[float | None, float | None, float | None]
ESTIMATED: Levels = (None, None, None)


def conditions_of(network: ZoomingSlowMo, clip: Tensor, overrides: Levels = ESTIMATED) -> list[Estimate | None]:
    """What a network with an estimator works with in a scene N x 3 x h x w; None for every frame without one.

    The overall levels are the mean of those so far, in which no frame weighs less than a tenth.
    """
    if network.estimator is None:
        return [None] * len(clip)
    mean, found = torch.zeros(1, 3), list[Estimate | None]()
    for count, frame in enumerate(clip, 1):
        overall, local = network.estimator(frame[None])
        mean = mean + (overall - mean) / min(count, 10)
        levels, cells = mean.clone(), local.clone()
        for index, value in enumerate(overrides):
            if value is not None:
                levels[:, index], cells[:, index] = value, value
        found.append(Estimate(levels, cells))
    return found


def slowmo(form: str = "fast", precision: str = "fp32", **arguments: Any) -> SlowmoEngine:
    return SlowmoEngine.of_network(network_of(form), "untrained", CPU, precision, **arguments)


def interpolation(form: str = "fast", precision: str = "fp32", **arguments: Any) -> InterpolationEngine:
    return InterpolationEngine.of_network(network_of(form), "untrained", CPU, precision, **arguments)


def run(engine: Engine, frames: list[Frame]) -> list[Frame]:
    state, ready = engine.init_state(*frames[0].image.shape[1:]), []
    for frame in frames:
        outputs, state = engine.step(frame, state)
        ready += outputs
    return ready + engine.flush(state)


def images(frames: list[Frame]) -> Tensor:
    return torch.stack([frame.image for frame in frames])


@torch.inference_mode()
def whole_scene(
    network: ZoomingSlowMo, clip: Tensor, window: int, lookahead: int, carry: bool, overrides: Levels = ESTIMATED
) -> Tensor:
    """All outputs for a scene N x 3 x h x w, computed in memory by the documented rule.

    Window k begins with the frame that window k - 1 ended with. The forward state runs over the whole scene, or from
    each window's first frame; the backward one from `lookahead` frames behind each window, or the scene's end.
    """
    known = conditions_of(network, clip, overrides)
    conditions = known[:1]
    for one, other in pairwise(known):
        between = None
        if one is not None and other is not None:
            between = Estimate(0.5 * (one.overall + other.overall), 0.5 * (one.local + other.local))
        conditions += [between, other]
    features = [network.features(frame[None], condition) for frame, condition in zip(clip, known, strict=True)]
    moments = [features[0][0]]
    for before, after in pairwise(features):
        moments += [network.interpolate(before, after), after[0]]
    shares = [network.prepare_step(moment) for moment in moments]
    last = len(moments) - 1

    def hidden(order: list[int]) -> dict[int, Tensor]:
        state, found = network.init_state(moments[0]), {}
        for t in order:
            state = network.step(shares[t], state)
            found[t] = state.hidden
        return found

    forwards, results = hidden(list(range(last + 1))), dict[int, Tensor]()
    first = 0
    while first < max(last, 1):
        end = min(first + 2 * (window - 1), last)
        backwards = hidden(list(range(min(end + 2 * lookahead, last), first - 1, -1)))
        if not carry:
            forwards = hidden(list(range(first, end + 1)))
        for t in range(first, end + 1):
            image = clip[t // 2][None] if t % 2 == 0 else None
            # A frame shared by two windows is output by the first.
            result = network.reconstruct(moments[t], forwards[t], backwards[t], image, conditions[t])
            results.setdefault(t, result[0])
        first += 2 * (window - 1)
    return torch.stack([results[t] for t in range(last + 1)]).clamp(0, 1)


@pytest.mark.parametrize("form", ["published", "fast"])  # an estimate goes on from window to window
@torch.inference_mode()
def test_at_the_papers_setting_each_window_is_what_the_published_network_makes(form: str) -> None:
    for length, is_overlapped in product((1, 2, 3, 4, 7, 9), (False, True)):
        engine = slowmo(form, window=4, lookahead=0, carry=False, is_overlapped=is_overlapped)
        frames = make_clip(length)
        clip = images(frames)
        expected = network_of(form)(clip[None, :4])[0]
        for first in range(3, length - 1, 3):
            expected = torch.cat((expected, network_of(form)(clip[None, first : first + 4])[0, 1:]))
        assert expected.std() > 0.05
        torch.testing.assert_close(images(run(engine, frames)), expected.clamp(0, 1), rtol=0, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(
    form=st.sampled_from(sorted(SLOWMO_FORMS)), length=st.integers(1, 12), cuts=st.sets(st.integers(1, 11), max_size=3),
    window=st.integers(2, 6), lookahead=st.integers(0, 4), carry=st.booleans(), is_overlapped=st.booleans(),
)  # fmt: skip
def test_streaming_equals_the_whole_scene_in_memory(
    form: str, length: int, cuts: set[int], window: int, lookahead: int, carry: bool, is_overlapped: bool
) -> None:
    frames = make_clip(length, 12, 10, cuts=tuple(cuts))
    borders = [0, *sorted(cut for cut in cuts if cut < length), length]
    parts = []
    for first, end in pairwise(borders):
        part = whole_scene(network_of(form), images(frames[first:end]), window, lookahead, carry)
        parts += [part] if end == length else [part, part[-1:]]  # before a cut the near side is repeated
    engine = slowmo(form, window=window, lookahead=lookahead, carry=carry, is_overlapped=is_overlapped)
    results = run(engine, frames)
    torch.testing.assert_close(images(results), torch.cat(parts), rtol=0, atol=1e-5)


@pytest.mark.parametrize("overrides", [ESTIMATED, (None, 0.9, 0.0), (0.3, 1.0, 0.2)])
def test_a_stream_notes_the_levels_it_works_with(overrides: Levels) -> None:
    """For every input frame, those of the scene so far.

    An interpolated frame has the mean of its neighbors', at the input's size those of the frame before it.
    """
    frames = make_clip(9, 12, 10, cuts=(0, 4))
    scenes = [images(frames[:4]), images(frames[4:])]
    network, engine = network_of("conditioned"), slowmo("conditioned", overrides=overrides)
    results = run(engine, frames)
    expected = torch.cat([whole_scene(network, scene, 4, 0, True, overrides) for scene in scenes])
    torch.testing.assert_close(images([*results[:7], *results[8:]]), expected, rtol=0, atol=1e-5)
    for make, share in ((slowmo, 0.5), (interpolation, 0.0)):
        wanted = []
        for scene in scenes:
            known = [each.overall[0] for each in conditions_of(network, scene, overrides) if each is not None]
            for one, other in pairwise([*known, known[-1]]):
                wanted += [one, one + share * (other - one)]
        found = [frame.levels for frame in run(make("conditioned", overrides=overrides), frames)]
        torch.testing.assert_close(torch.stack(found), torch.stack(wanted[:-1]), rtol=0, atol=1e-5)  # type: ignore[arg-type]


def test_levels_change_the_result_and_need_an_estimator() -> None:
    frames = make_clip(4)
    estimated, clean, coarse = (
        images(run(slowmo("conditioned", overrides=each), frames)) for each in (ESTIMATED, (0, 0, 0), (0, 0, 1))
    )
    assert min((clean - coarse).abs().max(), (clean - estimated).abs().max()) > 1e-3
    for make in (slowmo, interpolation):
        with pytest.raises(UsageError, match="the model 'untrained' does not take degradation levels"):
            make("fast", overrides=(0.5, None, None))
        with pytest.raises(UsageError, match=r"must be in 0\.\.1"):
            make("conditioned", overrides=(1.5, None, None))


def test_all_tiles_work_with_the_levels_of_the_whole_frame() -> None:
    """One half of the frames is flat and the other noise, so that each tile alone would estimate other levels."""
    random = torch.rand(4, 3, 40, 88, generator=torch.Generator().manual_seed(2))
    clip = torch.where(torch.arange(88) < 44, 0.5, random)
    frames = [Frame(image, t, Fraction(1, 25), 1, t in (0, 3)) for t, image in enumerate(clip)]
    chain = ChainEngine([interpolation("conditioned"), slowmo("conditioned")])
    for engine in (slowmo("conditioned"), interpolation("conditioned"), chain):
        whole, tiled = (
            torch.stack([frame.levels for frame in run(TiledEngine(engine, tile, 8, 8), frames)])  # type: ignore[misc]
            for tile in (None, 44)
        )
        torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-4)
        left = run(engine, [frame.with_image(frame.image[..., :44].contiguous()) for frame in frames])[-1].levels
        assert left is not None and (left - whole[-1]).abs().max() > 0.005


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_carried_state_and_lookahead_change_the_result(lookahead: int) -> None:
    """Shows that the tests above can fail: carrying the state and looking ahead both have an effect."""
    frames = make_clip(9)
    plain = images(run(slowmo(lookahead=lookahead), frames))
    for other in (slowmo(lookahead=lookahead, carry=False), slowmo(lookahead=lookahead + 1)):
        assert (images(run(other, frames)) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("form", SLOWMO_FORMS)
@torch.inference_mode()
def test_interpolated_frames_are_the_heads_and_input_frames_unchanged(form: str) -> None:
    network, frames = network_of(form), make_clip(6, cuts=(0, 4))
    results = run(interpolation(form), frames)
    assert len(results) == 11
    for t, frame in enumerate(frames):
        assert torch.equal(results[2 * t].image, frame.image)
    known = conditions_of(network, images(frames[:4])) + conditions_of(network, images(frames[4:]))
    features = [network.features(frame.image[None], each) for frame, each in zip(frames, known, strict=True)]
    for t in range(5):
        expected = network.synthesize(network.interpolate(features[t], features[t + 1]))[0].clamp(0, 1)
        if t == 3:
            expected = frames[3].image
        # Consecutive convolutions, whose sums may be added in a different order: some tens of 2^-24.
        torch.testing.assert_close(results[2 * t + 1].image, expected, rtol=0, atol=1e-5)


def test_input_frames_are_unchanged_bit_for_bit_with_tiles() -> None:
    frames = make_clip(3, 100, 90)
    results = run(TiledEngine(interpolation(), 64), frames)
    assert all(torch.equal(result.image, frame.image) for result, frame in zip(results[::2], frames, strict=True))


@pytest.mark.parametrize("make", [slowmo, interpolation])
def test_interpolated_frames_are_exactly_halfway(make: Any) -> None:
    times = [-3, 0, 1, 8, 9, 11]
    random = torch.Generator().manual_seed(0)
    frames = [
        Frame(torch.rand(3, 8, 8, generator=random), pts, Fraction(1001, 30000), 5, pts in (-3, 8)) for pts in times
    ]
    results = run(make(), frames)
    assert [frame.pts for frame in results] == [-6, -3, 0, 1, 2, 9, 16, 17, 18, 20, 22]
    assert [frame.duration for frame in results] == [3, 3, 1, 1, 7, 7, 1, 1, 2, 2, 10]
    assert {frame.time_base for frame in results} == {Fraction(1001, 60000)}
    assert [index for index, frame in enumerate(results) if frame.starts_scene] == [0, 6]
    assert torch.equal(results[5].image, results[4].image)  # the near side of the cut at 16
    unknown = run(make(), [replace(frame, duration=0) for frame in frames])
    assert [frame.duration for frame in unknown] == [3, 3, 1, 1, 7, 7, 1, 1, 2, 2, 0]


def test_half_precision_is_near() -> None:
    frames = make_clip(6)
    for make in (slowmo, interpolation):
        for form in SLOWMO_FORMS:
            plain, half = images(run(make(form), frames)), images(run(make(form, "bf16"), frames))
            assert half.dtype == torch.float32
            assert not torch.equal(plain[1::2], half[1::2])
            assert (plain - half).square().mean().sqrt() < 0.02


@pytest.mark.parametrize("is_overlapped", [False, True])
@pytest.mark.parametrize("window, lookahead", [(2, 1), (4, 0), (4, 2), (5, 3)])
def test_results_leave_with_their_window(window: int, lookahead: int, is_overlapped: bool) -> None:
    engine = slowmo(window=window, lookahead=lookahead, is_overlapped=is_overlapped)
    state, counts = engine.init_state(8, 8), []
    for frame in make_clip(18, 8, 8):
        ready, state = engine.step(frame, state)
        counts.append(len(ready))
    first = engine.info.lookahead
    assert first == (window - 1) * (1 + is_overlapped) + max(1, lookahead)
    assert counts[:first] == [0] * first
    assert counts[first] == 2 * window - 1
    later = counts[first + 1 :]
    assert later == [0 if (t + 1) % (window - 1) else 2 * (window - 1) for t in range(len(later))]


@pytest.mark.parametrize("name", PRESETS)
def test_streaming_recomputes_next_to_nothing(name: str) -> None:
    """Operations for one window in the middle of a video compared with the network's own, at the real sizes."""
    network = build("zsm", PRESETS[name].network)
    assert isinstance(network, ZoomingSlowMo)
    engine = SlowmoEngine.of_network(network, name, CPU, "fp32", is_overlapped=False)  # another thread is not counted
    frame = Frame(torch.zeros(3, 4, 4), 0, Fraction(1, 25), 1)
    state, fed, ready = engine.init_state(4, 4), 0, list[Frame]()
    while not ready:
        ready, state = engine.step(replace(frame, pts=fed), state)
        fed += 1
    with FlopCounterMode(display=False) as counter:
        ready, state = engine.step(replace(frame, pts=fed), state)
        while not ready:
            fed += 1
            ready, state = engine.step(replace(frame, pts=fed), state)
    per_result = counter.get_total_flops() / len(ready)
    own = []
    for length in (2, 3):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, length, 3, 4, 4))
        own.append(counter.get_total_flops())
    ratio = per_result / ((own[1] - own[0]) / 2)
    assert 1.0 <= ratio <= 1.15


def test_invalid_windows_are_refused() -> None:
    for arguments in ({"window": 1}, {"lookahead": -1}):
        with pytest.raises(UsageError, match="slow motion cannot run with"):
            slowmo(**arguments)


def test_interpolation_needs_the_low_resolution_head() -> None:
    headless = slowmo_network("published", synthesis_blocks=0)
    with pytest.raises(ModelError, match="'headless' has no low-resolution head"):
        InterpolationEngine.of_network(headless, "headless", CPU, "fp32")
    results = run(SlowmoEngine.of_network(headless, "headless", CPU, "fp32"), make_clip(3))
    assert len(results) == 5


def test_chained_engines_act_as_one() -> None:
    frames = make_clip(7, cuts=(0, 3))
    chain = ChainEngine([interpolation(), interpolation(), slowmo()])
    assert (chain.info.scale, chain.info.interp) == (4, 8)
    results = run(chain, frames)
    assert side_data(results) == video_side_data(frames, 8)
    for part, start in ((frames[:3], 0), (frames[3:], 24)):
        expected = part
        for engine in (interpolation(), interpolation(), slowmo()):
            expected = run(engine, expected)
        assert torch.equal(images(results[start : start + len(expected)]), images(expected))
    assert all(torch.equal(frame.image, results[16].image) for frame in results[17:24])  # before the cut
