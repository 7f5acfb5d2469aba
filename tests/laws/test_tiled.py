"""Tiling: layout, blending, and running out of memory at any point."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

import tests.support.pretend_cuda
import vidsr.engines.tiled
from tests.support.pretend_cuda import pretend_cuda
from tests.support.tiny_networks import paper_network, slowmo_network
from tests.support.toy_architecture import toy_network
from tests.support.toy_engine import ToyDoubler, ToyEngine, make_clip, side_data, video_side_data
from vidsr.engines.base import Engine, EngineInfo
from vidsr.engines.bicubic import BicubicEngine
from vidsr.engines.chain import ChainEngine
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.engines.single_image import SingleImageEngine
from vidsr.engines.slowmo import InterpolationEngine, SlowmoEngine
from vidsr.engines.tiled import SMALLEST_TILE, LighterEngine, TiledEngine, auto_tile, is_out_of_memory
from vidsr.errors import DeviceError, UsageError
from vidsr.types import Frame

CPU = torch.device("cpu")


def run(engine: Any, frames: Sequence[Frame]) -> list[Frame]:
    state = engine.init_state(*frames[0].image.shape[1:])
    ready = []
    for frame in frames:
        given_now, state = engine.step(frame, state)
        ready += given_now
    return ready + engine.flush(state)


def exhaust_memory() -> None:
    torch.empty(1 << 60, dtype=torch.uint8)  # the CPU allocator's own error, not an imitation


class Counting:
    """Calls `before(method, n, height, width)` before the n-th call of any engine method; records the tile sizes."""

    def __init__(self, before: Callable[[str, int, int, int], None], engine: Engine | None = None) -> None:
        self.engine = engine or ToyEngine()
        self.info = self.engine.info
        self.before, self.calls, self.sizes = before, 0, list[tuple[int, int]]()

    def count(self, verb: str, height: int, width: int) -> None:
        self.calls += 1
        self.before(verb, self.calls, height, width)

    def init_state(self, height: int, width: int) -> Any:
        self.count("init_state", height, width)
        self.sizes.append((height, width))
        return self.engine.init_state(height, width)

    def step(self, frame: Frame, state: Any) -> Any:
        self.count("step", *frame.image.shape[1:])
        return self.engine.step(frame, state)

    def flush(self, state: Any) -> list[Frame]:
        self.count("flush", 0, 0)
        return self.engine.flush(state)


class PerTile:
    """Ignores the image: the n-th tile of a video is filled with `values[n]`."""

    def __init__(self, values: Sequence[float], scale: int) -> None:
        self.info = EngineInfo("per tile", scale, lookahead=0, multiple_of=1, precisions=("fp32",))
        self.values = iter(values)

    def init_state(self, height: int, width: int) -> float:
        return next(self.values)

    def step(self, frame: Frame, state: float) -> tuple[list[Frame], float]:
        _, height, width = frame.image.shape
        return [frame.with_image(torch.full((3, height * self.info.scale, width * self.info.scale), state))], state

    def flush(self, state: float) -> list[Frame]:
        return []


@settings(max_examples=150, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), tile=st.integers(8, 40), overlap=st.integers(0, 40))
def test_tiles_put_every_pixel_back_where_it_was(height: int, width: int, tile: int, overlap: int) -> None:
    frames = make_clip(1, height, width)
    (result,) = run(TiledEngine(BicubicEngine(scale=1), tile, overlap, smallest=8), frames)
    torch.testing.assert_close(result.image, frames[0].image, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(20, 24), (64, 64), (65, 64), (100, 300), (300, 30)])
def test_all_tiles_have_one_size_and_fit_into_the_frame(height: int, width: int) -> None:
    engine = Counting(lambda *_: None)
    run(TiledEngine(engine, 64, 16), make_clip(1, height, width))
    step = engine.info.multiple_of
    ((tall, wide),) = set(engine.sizes)
    for side, length in ((tall, height), (wide, width)):
        assert side == length or 64 - step < side <= 64
        assert (length - side) % step == 0  # the last tile ends within a cell just as the frame does
    assert (len(engine.sizes) == 1) == (max(height, width) <= 64)


@settings(deadline=None)
@given(width=st.integers(65, 400), overlap=st.integers(0, 32), multiple=st.sampled_from([1, 2, 4, 8]))
def test_tiles_lie_on_the_engines_grid_and_share_their_overlap(width: int, overlap: int, multiple: int) -> None:
    inner = ToyEngine()
    inner.info = EngineInfo("toy", 2, lookahead=1, multiple_of=multiple, precisions=("fp32",))
    (frame,) = make_clip(1, 64, width)
    columns = torch.arange(width).float().expand(3, 64, -1)
    engine = TiledEngine(inner, 64, overlap)
    _, state = engine.step(frame.with_image(columns), engine.init_state(64, width))
    lefts = [int(tile.waiting[0].image[0, 0, 0]) for tile in state.inner]
    assert lefts[0] == 0
    side = state.inner[0].waiting[0].image.shape[-1]
    assert 64 - multiple < side <= 64
    assert lefts[-1] == width - side
    assert all(left % multiple == 0 for left in lefts)
    assert all(0 < right - left <= side - overlap for left, right in pairwise(lefts))


def recurrent() -> Engine:
    return RecurrentEngine(paper_network(), "untrained", CPU, "fp32", is_overlapped=False)


def slowmo(form: str) -> Engine:
    return SlowmoEngine.of_network(slowmo_network(form), "untrained", CPU, "fp32", is_overlapped=False)


def midpoint() -> Engine:
    return InterpolationEngine.of_network(slowmo_network("fast"), "untrained", CPU, "fp32")


# Random weights that amplify every difference. The largest with cells aligned was 0.001, and 0.02 with tiles that begin
# anywhere.
WITH_CELLS: dict[str, Callable[[], Engine]] = {
    "recurrent": recurrent,
    "slowmo": lambda: slowmo("fast"),
    "midpoint": midpoint,
    "chain": lambda: ChainEngine([midpoint(), slowmo("fast")]),
    "single image": lambda: SingleImageEngine.of_network(toy_network(), "toy", CPU, "fp32"),
}
CELL_TOLERANCE = 0.004


class Everywhere:
    """Passes off an engine as one without cells."""

    def __init__(self, engine: Engine) -> None:
        self.info = replace(engine.info, multiple_of=1)
        self.init_state, self.step, self.flush = engine.init_state, engine.step, engine.flush


def largest_difference(whole: Engine, tiled: Engine, height: int, width: int) -> float:
    """Between the outputs for whole frames and for tiles of 56 pixels, for two smooth frames."""
    frames = [
        frame.with_image(avg_pool2d(pad(frame.image[None], (2, 2, 2, 2), mode="replicate"), 5, 1)[0])
        for frame in make_clip(2, height, width)
    ]
    pairs = zip(run(whole, frames), run(TiledEngine(tiled, 56, 32, smallest=8), frames), strict=True)
    return max((one.image - other.image).abs().max().item() for one, other in pairs)


@pytest.mark.parametrize("name", WITH_CELLS)
def test_tiles_agree_with_whole_frames_of_every_height_and_width_modulo_the_cell(name: str) -> None:
    engine = WITH_CELLS[name]()
    cell = engine.info.multiple_of
    assert cell > 1
    for rest in range(cell):
        for height, width in ((72 + rest, 40), (40, 72 + rest)):
            difference = largest_difference(engine, engine, height, width)
            assert difference <= CELL_TOLERANCE, f"{width}x{height}: tiles differ by {difference:.2g}"


@pytest.mark.parametrize("name", ["recurrent", "slowmo", "midpoint", "chain"])
def test_the_law_of_cells_sees_tiles_that_begin_anywhere(name: str) -> None:
    engine = WITH_CELLS[name]()
    assert largest_difference(engine, Everywhere(engine), 73, 40) > CELL_TOLERANCE


def test_the_cells_of_a_chain_hold_those_of_all_its_engines() -> None:
    """In pixels of the input: after an enlargement by 2, cells of 12 pixels are 6 wide there."""

    def toy(scale: int, cell: int) -> Engine:
        engine = ToyEngine()
        engine.info = replace(engine.info, scale=scale, multiple_of=cell)
        return engine

    assert ChainEngine([toy(2, 4), toy(1, 12)]).info.multiple_of == 12
    assert ChainEngine([toy(4, 1), toy(1, 8)]).info.multiple_of == 2
    assert ChainEngine([toy(1, 2), toy(4, 4)]).info.multiple_of == 4


def test_no_tile_means_the_whole_frame() -> None:
    engine = Counting(lambda *_: None)
    run(TiledEngine(engine, None), make_clip(1, 100, 300))
    assert engine.sizes == [(100, 300)]


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("overlap", [8, 32])
def test_two_tiles_that_disagree_are_joined_without_a_line(scale: int, overlap: int) -> None:
    width = 128 - overlap
    (result,) = run(TiledEngine(PerTile([0.0, 1.0], scale), 64, overlap), make_clip(1, 64, width))
    row = result.image[0, 0]
    steps = row.diff()
    assert steps.min() >= 0
    assert steps.max() <= 1 / (overlap * scale / 4) + 1e-6
    edge = 3 * overlap // 8  # next to its own border a tile knows nothing, so it counts nothing there
    assert row[: (64 - overlap + edge) * scale].max() == 0
    assert row[(64 - edge) * scale :].min() == 1


def doubling() -> Engine:
    return ChainEngine([ToyDoubler(), ToyEngine()])


@pytest.mark.parametrize("make", [ToyEngine, doubling])
@pytest.mark.parametrize("length", [1, 2, 5])
@pytest.mark.parametrize("cuts", [(0,), (), (0, 2), (0, 1, 2)])
def test_no_frame_is_lost_wherever_memory_runs_out(
    make: Callable[[], Engine], length: int, cuts: tuple[int, ...]
) -> None:
    """Memory runs out once, at the n-th call; the rest must equal a fresh run with the smaller tiles.

    That run starts with the given frame whose results, new frames included, were not all out; those that were are not
    given again.
    """
    frames = make_clip(length, 64, 100, cuts=cuts)
    plain = run(make(), frames)
    interp = make().info.interp
    failing = 0
    while True:
        failing += 1

        def before(verb: str, n: int, height: int, width: int, failing: int = failing) -> None:
            if n == failing:
                exhaust_memory()

        inner = Counting(before, make())
        engine = TiledEngine(inner, None, overlap=16, smallest=16)
        state = engine.init_state(64, 100)
        ready: list[Frame] = []
        kept: int | None = None if engine.shrinks == 0 else 0
        for frame in [*frames, None]:
            out = len(ready)
            if frame is None:
                ready += engine.flush(state)
            else:
                given_now, state = engine.step(frame, state)
                ready += given_now
            if engine.shrinks and kept is None:
                kept = out
        assert side_data(ready) == video_side_data(frames, interp)
        if kept is None:
            assert inner.calls < failing
            break
        assert (engine.tile, engine.shrinks) == (50, 1)
        if kept < len(plain):
            restarted = run(TiledEngine(make(), 50, overlap=16, smallest=16), frames[kept // interp :])
            expected = plain[:kept] + restarted[kept % interp :]
        else:
            expected = plain
        assert all(torch.equal(a.image, b.image) for a, b in zip(ready, expected, strict=True))
    assert failing > length


@settings(max_examples=60, deadline=None)
@given(failures=st.sets(st.integers(1, 60), max_size=3), cuts=st.sets(st.integers(0, 7)), after=st.integers(0, 7))
def test_several_failures_and_a_saved_state(failures: set[int], cuts: set[int], after: int) -> None:
    """Failures also while frames are recomputed; the state is saved and restored after one of the frames."""

    def before(verb: str, n: int, height: int, width: int) -> None:
        if n in failures:
            exhaust_memory()

    engine = TiledEngine(Counting(before), None, overlap=8, smallest=8)
    frames = make_clip(8, 64, 70, cuts=tuple(cuts))
    state, ready = engine.init_state(64, 70), []
    for t, frame in enumerate(frames):
        given_now, state = engine.step(frame, state)
        ready += given_now
        assert len(ready) >= t
        if t == after:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            state = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    ready += engine.flush(state)
    assert [(f.pts, f.starts_scene) for f in ready] == [(f.pts, f.starts_scene) for f in frames]
    assert all(f.image.shape == (3, 128, 140) and f.image.isfinite().all() for f in ready)


def test_the_tile_shrinks_until_it_fits_and_new_videos_start_with_it() -> None:
    def before(verb: str, n: int, height: int, width: int) -> None:
        if height * width > 70 * 70:
            exhaust_memory()

    inner = Counting(before)
    engine = TiledEngine(inner, None)
    frames = make_clip(3, 200, 260)
    plain = run(ToyEngine(), frames)
    for _ in range(2):
        ready = run(engine, frames)
        for a, b in zip(ready, plain, strict=True):
            torch.testing.assert_close(a.image, b.image, rtol=0, atol=1e-6)
        assert (engine.tile, engine.shrinks) == (66, 2)  # 260, 130, and 65 rounded up to the engine's multiple of 2
    assert set(inner.sizes) == {(66, 66)}


@pytest.mark.parametrize(("height", "width"), [(200, 260), (40, 64), (1, 1)])
def test_the_smallest_tile_that_does_not_fit_is_a_device_error(height: int, width: int) -> None:
    engine = TiledEngine(Counting(lambda *_: exhaust_memory()), None)
    with pytest.raises(DeviceError, match=f"{width}x{height} video even in tiles of") as caught:
        engine.init_state(height, width)
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is not None


def exhaust_pretended_memory() -> None:
    raise torch.OutOfMemoryError("out of memory")


def lighter(words: str, before: Callable[[str, int, int, int], None], **options: Any) -> LighterEngine:
    return LighterEngine(words, lambda: Counting(before), **options)


@pytest.mark.parametrize("first", [1, 5, 8])
def test_the_ladder_goes_down_in_order_and_loses_no_frame(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From call `first` on, the first engine and the second never have enough memory, the third not for large tiles."""

    def never(verb: str, n: int, height: int, width: int) -> None:
        if n >= first:
            exhaust_memory()

    def small_only(verb: str, n: int, height: int, width: int) -> None:
        if height * width > 40 * 40:
            exhaust_memory()

    shortened = list[bool]()
    monkeypatch.setattr(vidsr.engines.tiled, "shorten_queues", lambda: not shortened.append(True))
    ladder = [
        lighter("the second runs", lambda *_: exhaust_memory()),
        LighterEngine("nothing, because it is not built", exhaust_memory),  # type: ignore[arg-type]
        lighter("the third runs", small_only, device=CPU, tile=lambda height, width: 90),
    ]
    engine = TiledEngine(Counting(never), None, overlap=8, smallest=32, lighter=ladder)
    frames = make_clip(6, 64, 100, cuts=(0, 4))
    ready = run(engine, frames)
    assert side_data(ready) == side_data(frames) and all(frame.image.shape == (3, 128, 200) for frame in ready)
    expected = ["fewer frames wait in queues", "the tile is 50 pixels", "the tile is 32 pixels", "the second runs"]
    expected += ["the third runs", "the tile is 46 pixels", "the tile is 32 pixels"]
    assert [step.what for step in engine.steps] == expected and shortened == [True]
    done = [step.frames_done for step in engine.steps]
    assert done == sorted(done) and (done[0] > 0) == (first > 1) and engine.tile == 32
    whole = run(ToyEngine(), frames)
    assert all(torch.equal(a.image, b.image) for a, b in zip(ready[: done[0]], whole[: done[0]], strict=True))


def test_a_ladder_that_ends_is_a_device_error() -> None:
    engine = TiledEngine(Counting(lambda *_: exhaust_memory()), None, smallest=64)
    engine = TiledEngine(engine.inner, 64, lighter=[lighter("the second runs", lambda *_: exhaust_memory())])
    with pytest.raises(DeviceError, match="even in tiles of 64 pixels"):
        run(engine, make_clip(1, 64, 100))
    assert [step.what for step in engine.steps] == ["the second runs"]
    assert str(engine.steps[0]) == "memory ran out after 0 frames; from here on the second runs"


def test_an_engine_on_another_device_gives_its_outputs_on_that_of_the_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tests.support.pretend_cuda, "_NoHostCopies", nullcontext)
    with pretend_cuda() as cuda:
        last = LighterEngine("the network runs on the CPU", lambda: BicubicEngine(2, CPU), CPU, lambda *_: 64)
        hungry = Counting(lambda verb, n, *_: exhaust_pretended_memory() if n > 2 else None, BicubicEngine(2, cuda))
        engine = TiledEngine(hungry, 64, overlap=8, lighter=[last])
        clip = [Frame(torch.rand(3, 64, 40, device=cuda), t, Fraction(1, 25), 1, t == 0) for t in range(4)]
        ready = run(engine, clip)
        assert [frame.image.device for frame in ready] == [cuda] * 4
        assert [step.frames_done for step in engine.steps] == [1]


def test_other_errors_pass_unchanged() -> None:
    def before(verb: str, n: int, height: int, width: int) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    engine = TiledEngine(Counting(before), None)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        engine.init_state(200, 200)
    assert engine.shrinks == 0


def test_inner_states_keep_no_view_of_the_whole_frame() -> None:
    engine = TiledEngine(ToyEngine(), 64, overlap=16)
    (frame,) = make_clip(1, 256, 256)
    _, state = engine.step(frame, engine.init_state(256, 256))
    held: list[Tensor] = [waiting.image for inner in state.inner for waiting in inner.waiting]
    assert len(held) == 36  # six a side: 48 new pixels each, one less kept back for the engine's multiple of 2
    assert {image.untyped_storage().nbytes() for image in held} == {3 * 64 * 64 * 4}


def test_sizes_that_make_no_sense_are_refused() -> None:
    with pytest.raises(UsageError, match="tile of 32 pixels"):
        TiledEngine(ToyEngine(), 32)
    with pytest.raises(UsageError, match="-1 pixels"):
        TiledEngine(ToyEngine(), 64, overlap=-1)
    for scale in (0, 9, -4):
        with pytest.raises(UsageError, match=str(scale)):
            BicubicEngine(scale)


def cpu_error() -> BaseException:
    try:
        exhaust_memory()
    except RuntimeError as error:
        return error
    raise AssertionError("there is no such memory")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (cpu_error(), True),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("could not create a primitive"), True),  # oneDNN
        (RuntimeError("could not create a memory object"), True),
        (RuntimeError("could not execute a primitive"), True),
        (RuntimeError("ONNX Runtime: std::bad_alloc"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution forward propagation"), False),
        (RuntimeError("can't start new thread"), False),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("index out of range"), False),
        (OSError("Cannot allocate memory"), False),
        (KeyboardInterrupt(), False),
    ],
    ids=repr,
)
def test_out_of_memory_is_told_from_other_errors(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) is expected


@given(
    height=st.integers(1, 5000), width=st.integers(1, 5000), cost=st.floats(1, 1e5), free=st.integers(0, 200 * 2**30)
)
def test_the_estimated_tile_fits(height: int, width: int, cost: float, free: int) -> None:
    tile = auto_tile(height, width, cost, free)
    if tile is None:
        assert height * width * cost <= free
    else:
        assert tile >= SMALLEST_TILE
        assert tile % 16 == 0
        assert tile == SMALLEST_TILE or min(tile, height) * min(tile, width) * cost <= free
        larger = auto_tile(height, width, cost, 2 * free)
        assert larger is None or larger >= tile


def test_the_estimated_tile_is_known_for_known_numbers() -> None:
    gib = 2**30
    assert auto_tile(180, 320, 4000, gib) is None
    assert auto_tile(1080, 1920, 4000, gib) == 448  # 0.8 GiB / 4000 bytes = 214,748 pixels, of which 463 is the root
    assert auto_tile(100, 4000, 4000, gib) == 2144  # as high as the frame, hence longer
    assert auto_tile(1080, 1920, 4000, 0) == SMALLEST_TILE


@pytest.mark.parametrize(
    ("free", "tile"),
    [
        (60, None),  # 43 GB for the whole frame
        (40, 3696),
        (12, 1104),
        (9.3, 192),
        (8, SMALLEST_TILE),  # less than the result alone
    ],
)
def test_a_tile_leaves_room_for_the_result(monkeypatch: pytest.MonkeyPatch, free: float, tile: int | None) -> None:
    """A photograph of 24 megapixels with a network that needs 1800 bytes per pixel and enlarges by 4."""
    monkeypatch.setattr(vidsr.engines.tiled, "free_memory", lambda _: int(free * 1e9))
    height, width, cost = 4000, 6000, 1800.0
    found = vidsr.engines.tiled.choose_tile("auto", height, width, cost, torch.device("cpu"), 4)
    assert found == tile
    if found is not None and found > SMALLEST_TILE:
        assert found**2 * cost + 24 * 16 * height * width <= free * 1e9


def test_a_result_that_cannot_fit_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """4.6 GB for the result of 24 megapixels."""
    monkeypatch.setattr(vidsr.engines.tiled, "free_memory", lambda _: int(4.5e9))
    with pytest.raises(
        DeviceError, match=r"6000x4000 pixels, which the model enlarges by 4: each result takes 4\.3 GiB"
    ):
        vidsr.engines.tiled.choose_tile("auto", 4000, 6000, 1800.0, torch.device("cpu"), 4)
    assert vidsr.engines.tiled.choose_tile("auto", 4000, 6000, 1800.0, torch.device("cpu"), 2) == 976


def test_frames_keep_what_the_input_said() -> None:
    frame = Frame(torch.rand(3, 80, 70), pts=7, time_base=Fraction(1001, 30000), duration=1, starts_scene=True)
    (result,) = run(TiledEngine(BicubicEngine(2), 64), [frame])
    assert (result.pts, result.time_base, result.duration, result.starts_scene) == (7, Fraction(1001, 30000), 1, True)
