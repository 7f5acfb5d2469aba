"""The laws of every engine. A new engine is one line in ENGINES; each law is shown to catch a broken engine."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from tests.support.image_graphs import loaded
from tests.support.tiny_networks import (
    ATTENTION_FH_FORMS,
    CAJNN_FORMS,
    HIME_FORMS,
    MPENET_FORMS,
    SLOWMO_FORMS,
    attention_fh_network,
    cajnn_network,
    hime_network,
    mpenet_network,
    paper_network,
    slowmo_network,
)
from tests.support.torch_threads import torch_threads
from tests.support.toy_engine import ToyDoubler, ToyEngine, make_clip, side_data, video_side_data
from vidsr.engines.base import Engine, EngineInfo
from vidsr.engines.bicubic import BicubicEngine
from vidsr.engines.chain import ChainEngine
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.engines.select import DEFAULT_MODELS, Selection
from vidsr.engines.select import image_graph as image_graph_engine
from vidsr.engines.single_image import SingleImageEngine
from vidsr.engines.slowmo import WINDOW, InterpolationEngine, SlowmoEngine
from vidsr.engines.tiled import TiledEngine, lay_out_spans, side_within
from vidsr.models.cards import ModelCard, list_cards
from vidsr.models.loading import load_network
from vidsr.nets.base import Network
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.runtime.device import choose_precision
from vidsr.types import Frame

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """How to make an engine, and the maximum difference (0..1) between its tiled and untiled outputs.

    `has_learned` is False for random weights: they may drift. `is_lasting` is False where a long run would tell nothing
    new: the same network in another precision, or an engine that keeps no past. `is_exact` is False in bf16, which
    rounds tiles otherwise than whole frames, by up to 0.005. `has_own_engine` is False for a network that runs on the
    engine of another case, or in another precision. Networks that look at the whole image have an infinite
    `tiled_tolerance`: no tile can agree.
    """

    build: Callable[[], Engine]
    tiled_tolerance: float
    has_learned: bool = True
    is_lasting: bool = True
    is_exact: bool = True
    has_own_engine: bool = True

    @property
    def tiles_are_tried(self) -> bool:
        """Imitated bf16 takes minutes for tiles, and tells only how well the processor imitates it."""
        return math.isfinite(self.tiled_tolerance) and (self.is_exact or HAS_BF16)


HAS_BF16 = choose_precision("auto", CPU) == "bf16"  # oneDNN also imitates it
# Networks for crops of faces, of which a frame costs ten times as much as of others: one precision tells enough.
FACE_ARCHITECTURES = ("mpenet", "attention-fh")
ENGINES = {
    "bicubic": Case(BicubicEngine, 1e-6),
    "bicubic x1": Case(lambda: BicubicEngine(scale=1), 1e-6),
    "bicubic x3": Case(lambda: BicubicEngine(scale=3), 1e-6),
    "tiled bicubic": Case(lambda: TiledEngine(BicubicEngine(), tile=16, overlap=8, smallest=16), 1e-6),
    "toy": Case(ToyEngine, 1e-6),
    "tiled toy": Case(lambda: TiledEngine(ToyEngine(), tile=16, overlap=8, smallest=16), 0.02),
    "toy doubler": Case(ToyDoubler, 1e-6, is_lasting=False),
    "tiled toys": Case(
        lambda: TiledEngine(ChainEngine([ToyDoubler(), ToyEngine()]), tile=16, overlap=8, smallest=16), 0.02
    ),
}
# SECNet in the paper's form, with random weights and small widths.
PAPER_FORMS: dict[str, dict[str, Any]] = {
    "paper": {},
    "cascaded": {"encoding": "cascaded", "attention": False},
    "one-way": {"encoding": "one-way", "t3": 0, "t2": 3},
    "LFFNet": {"recurrent_fusion": False},
    "ERFFNet": {"local_fusion": False},
}


def recurrent(network: SECNet, name: str, precision: str) -> Engine:
    return RecurrentEngine(network, name, CPU, precision)


def slowmo(network: ZoomingSlowMo, name: str, precision: str) -> Engine:
    return SlowmoEngine.of_network(network, name, CPU, precision)


def interpolation(network: ZoomingSlowMo, name: str, precision: str) -> Engine:
    return InterpolationEngine.of_network(network, name, CPU, precision)


def single_image(network: Network, name: str, precision: str) -> Engine:
    return SingleImageEngine.of_network(network, name, torch.device("cpu"), precision)


def shipped(card: ModelCard, precision: str) -> dict[str, Case]:
    """The engines of a card, by name; who runs them is decided by its architecture.

    Long runs are in the precision that a processor computes in: where oneDNN has no bf16, it is imitated, which takes
    2.5 times as long as float32, and nobody gets it unasked. Such processors take minutes for them: there only the
    default models run for long, as what drifts are weights, which are the same everywhere.
    """
    is_default = card.name in (DEFAULT_MODELS["upscale"], DEFAULT_MODELS["interpolate"])
    name = f"{card.name} {precision}"
    is_lasting = precision == "bf16" if HAS_BF16 else is_default and precision == "fp32"
    if card.architecture == "zsm":
        return {
            f"{name} slowmo": Case(lambda: slowmo(zsm(card), card.name, precision), 0.08, is_lasting=is_lasting),
            f"{name} interpolation": Case(
                lambda: interpolation(zsm(card), card.name, precision), 0.08, is_lasting=False
            ),
        }
    if card.architecture in ("attention-fh", "cajnn", "hime", "mpenet"):
        # The policy of Attention-FH looks at the whole image, and would choose other boxes in a tile.
        tolerance = math.inf if card.architecture == "attention-fh" else 0.08
        return {
            name: Case(
                lambda: single_image(load_network(card), card.name, precision), tolerance, is_lasting=False,
                has_own_engine=False,
            )
        }  # fmt: skip
    # Motion is estimated and states are carried per tile. In the random texture of this test the largest error of
    # secnet-fast was 0.05 (root mean square 0.0026), both in fp32 and in bf16.
    # Long runs use the default network in float32 only: others take a minute each and show the same.
    is_lasting = is_lasting or (precision, card.name) == ("fp32", "secnet-fast")
    return {name: Case(lambda: recurrent(secnet(card), card.name, precision), 0.08, is_lasting=is_lasting)}


def secnet(card: ModelCard) -> SECNet:
    network = load_network(card)
    assert isinstance(network, SECNet)
    return network


def zsm(card: ModelCard) -> ZoomingSlowMo:
    network = load_network(card)
    assert isinstance(network, ZoomingSlowMo)
    return network


def untrained(form: dict[str, Any], precision: str) -> Case:
    # The largest tiled error was 0.006 in fp32, 0.012 in bf16.
    return Case(lambda: recurrent(paper_network(**form), "untrained", precision), 0.03, has_learned=False)


def untrained_slowmo(kind: Callable[[ZoomingSlowMo, str, str], Engine], form: str, precision: str) -> Case:
    return Case(lambda: kind(slowmo_network(form), "untrained", precision), 0.03, has_learned=False)


def untrained_cajnn(form: str, precision: str) -> Case:
    # The largest tiled error was 6e-7 in fp32, 0.003 in bf16.
    tolerance = 1e-5 if precision == "fp32" else 0.01
    return Case(lambda: single_image(cajnn_network(form), "untrained", precision), tolerance, has_learned=False)


def another_single_image(build: Callable[[], Network], precision: str, tolerance: float) -> Case:
    """A network that the engine of cajnn runs, for which the laws about times and memories have been tried."""
    return Case(
        lambda: single_image(build(), "untrained", precision), tolerance, has_learned=False, has_own_engine=False
    )


def untrained_hime(form: str, precision: str) -> Case:
    # Without references: a plain network whose results depend on few pixels around.
    tolerance = 1e-5 if precision == "fp32" else 0.01
    return another_single_image(lambda: hime_network(form), precision, tolerance)


def untrained_mpenet(form: str, precision: str) -> Case:
    # Frame by frame. The paper's branches see the whole image: maxima of heatmaps, and the mean of ResNet's features.
    tolerance = math.inf if form == "paper" else 1e-5
    return another_single_image(lambda: mpenet_network(form), precision, tolerance)


def image_graph(scale: int, step: int = 1, fixed: tuple[int, int] | None = None) -> Engine:
    network = loaded(scale, step, fixed)
    chosen = Selection(
        task="upscale", model="small", card=None, device="cpu", precision="fp32", backend="onnx", tile=None,
        enlargement=scale, interp=1, has_interpolator=False, is_foreign=True,
    )  # fmt: skip
    return image_graph_engine(network, chosen).engine


def untrained_attention_fh(form: str, precision: str) -> Case:
    # Frame by frame. The policy looks at the whole image, and would choose other boxes in a tile.
    return another_single_image(lambda: attention_fh_network(form), precision, tolerance=math.inf)


def untrained_chain() -> Engine:
    network = slowmo_network("fast")
    return ChainEngine([interpolation(network, "untrained", "fp32"), slowmo(network, "untrained", "fp32")])


SHIPPED = {card.name: card for card in list_cards()}


def precisions_of(name: str) -> tuple[str, ...]:
    """The precisions in which a shipped model is tried: in bf16 none that restores faces only.

    None for one with reference photographs, whose results without them are those of another, bit for bit.
    """
    face_model = name.removesuffix("-references")
    if face_model != name:
        return () if face_model in SHIPPED else ("fp32",)
    return ("fp32",) if SHIPPED[name].architecture in FACE_ARCHITECTURES else ("fp32", "bf16")


for shipped_card in SHIPPED.values():
    for its_precision in precisions_of(shipped_card.name):
        cases = shipped(shipped_card, its_precision).items()
        # What passes through an engine when does not depend on the precision of its convolutions.
        is_exact = its_precision == "fp32"
        ENGINES |= {
            name: replace(case, is_exact=is_exact, has_own_engine=is_exact and case.has_own_engine)
            for name, case in cases
        }
ENGINES |= {f"untrained {name}": untrained(form, "fp32") for name, form in PAPER_FORMS.items()}
ENGINES |= {"untrained paper bf16": untrained({}, "bf16")}
ENGINES |= {
    f"untrained {kind.__name__} {form} {precision}": untrained_slowmo(kind, form, precision)
    for form, precision in zip(SLOWMO_FORMS, ("fp32", "bf16", "fp32"), strict=True)
    for kind in (slowmo, interpolation)
}
ENGINES |= {
    f"untrained cajnn {form} {precision}": untrained_cajnn(form, precision)
    for form, precision in zip(CAJNN_FORMS, ("fp32", "bf16"), strict=True)
}
ENGINES |= {
    f"untrained hime {form} {precision}": untrained_hime(form, precision)
    for form, precision in zip(HIME_FORMS, ("fp32", "bf16"), strict=True)
}
ENGINES |= {
    f"untrained mpenet {form} {precision}": untrained_mpenet(form, precision)
    for form, precision in zip(MPENET_FORMS, ("fp32", "fp32"), strict=True)
}
# Other people's graphs: two small convolutions that see 2 pixels, or 2 blocks of 4x4.
ENGINES |= {
    f"image graph {words}": Case(partial(image_graph, *arguments), 1e-5, is_lasting=False)
    for words, arguments in {"x2": (2,), "x1 in blocks": (1, 4), "of one size": (2, 1, (16, 24))}.items()
}
ENGINES |= {
    f"untrained attention-fh {form} {precision}": untrained_attention_fh(form, precision)
    for form, precision in zip(ATTENTION_FH_FORMS, ("fp32", "fp32"), strict=True)
}
ENGINES |= {"untrained chain": Case(untrained_chain, 0.03, has_learned=False)}


def start(engine: Engine, frame: Frame) -> Any:
    return engine.init_state(*frame.image.shape[1:])


def least_size(engine: Engine) -> tuple[int, int]:
    """Height and width for laws about times and amounts, which no pixel decides: small, but with several tiles."""
    return (20, 24) if isinstance(engine, TiledEngine) else (8, 8)


def run(engine: Engine, frames: Sequence[Frame]) -> list[Frame]:
    state = start(engine, frames[0])
    ready: list[Frame] = []
    for frame in frames:
        given, state = engine.step(frame, state)
        ready += given
    return ready + engine.flush(state)


def same(left: Sequence[Frame], right: Sequence[Frame]) -> bool:
    return len(left) == len(right) and all(
        torch.equal(a.image, b.image) and a.pts == b.pts for a, b in zip(left, right, strict=True)
    )


def saved(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def every_frame_comes_out_in_time(case: Case) -> None:
    """(N - 1) * interp + 1 frames, interpolated ones evenly between the input frames, for any length and any cuts.

    None leaves later than the look-ahead says.
    """
    engine = case.build()
    interp = engine.info.interp
    size = least_size(engine)
    assert engine.flush(engine.init_state(*size)) == []
    for length in range(1, 13):
        for cuts in [(0, length - 1), (length // 2, length // 2 + 1), tuple(range(length))]:
            frames = make_clip(length, *size, cuts=cuts, seed=length)
            state = start(engine, frames[0])
            ready: list[Frame] = []
            for t, frame in enumerate(frames):
                given, state = engine.step(frame, state)
                ready += given
                assert len(ready) >= interp * (t + 1 - engine.info.lookahead)
                assert len(ready) >= interp * t or not frame.starts_scene
            assert side_data(ready + engine.flush(state)) == video_side_data(frames, interp)


def cuts_separate(case: Case) -> None:
    """The output on either side of a cut equals that part run alone; frames before it use the near side."""
    engine = case.build()
    interp = engine.info.interp
    for cut in (1, 4, 8):
        frames = make_clip(9, cuts=(0, cut))
        whole, near = run(engine, frames), run(engine, frames[:cut])
        assert same(whole[: len(near)], near)
        assert same(whole[interp * cut :], run(engine, frames[cut:]))
        other = [*frames[:cut], *(frame.with_image(1 - frame.image) for frame in frames[cut:])]
        assert same(run(engine, other)[: interp * cut], whole[: interp * cut])


def videos_do_not_mix(case: Case) -> None:
    """Two interleaved videos equal each one run alone: all memory is in the state."""
    engine = case.build()
    videos = [make_clip(6, seed=1), make_clip(6, 17, 33, seed=2), make_clip(6, seed=3)]
    alone = [run(engine, frames) for frames in videos]
    states = [start(engine, frames[0]) for frames in videos]
    ready: list[list[Frame]] = [[], [], []]
    for t in range(6):
        for i, frames in enumerate(videos):
            given, states[i] = engine.step(frames[t], states[i])
            ready[i] += given
    for i, state in enumerate(states):
        assert same(ready[i] + engine.flush(state), alone[i])


def state_does_not_grow(case: Case) -> None:
    """The saved state is as large after 50 frames as after 20; within a window it may vary."""
    engine = case.build()
    frames = make_clip(50, *least_size(engine))
    state, sizes = start(engine, frames[0]), []
    for frame in frames:
        _, state = engine.step(frame, state)
        sizes.append(len(saved(state)))
    assert (
        max(sizes[40:]) <= max(sizes[10:20]) + 128
    )  # longer numbers in the times, and torch.save fills up to multiples of 64


def future_stays_away(case: Case) -> None:
    """A change at frame t affects its own output, and none before t minus the look-ahead."""
    engine = case.build()
    frames = make_clip(8)
    plain = run(engine, frames)
    for t, frame in enumerate(frames):
        changed = run(engine, [*frames[:t], frame.with_image(1.0 - frame.image), *frames[t + 1 :]])
        first = engine.info.interp * max(0, t - engine.info.lookahead)
        assert same(changed[:first], plain[:first])
        assert not torch.equal(changed[engine.info.interp * t].image, plain[engine.info.interp * t].image)


def sizes_and_values_are_right(case: Case) -> None:
    """Outputs have the right size, are float32, finite and in range, also for odd sizes and extreme images."""
    engine = case.build()
    for height, width in [(16, 16), (17, 33), (5, 7), (7, 5), (16, 70), (1, 1)]:
        checks = (torch.arange(height)[:, None] + torch.arange(width)).remainder(2).float().expand(3, -1, -1)
        black = torch.zeros(3, height, width)
        images = [1 - black, 1 - black, 1 - black, black, black, checks, 1 - checks, checks]
        frames = make_clip(9, height, width)
        frames[:8] = [frame.with_image(image) for frame, image in zip(frames[:8], images, strict=True)]
        for frame in run(engine, frames):
            assert frame.image.shape == (3, height * engine.info.scale, width * engine.info.scale)
            assert frame.image.dtype == torch.float32
            assert frame.image.isfinite().all()
            assert frame.image.min() >= 0
            assert frame.image.max() <= 1


def shared_pixels(length: int, info: EngineInfo) -> Tensor:
    """Which output pixels along a side are in several tiles, twice as long as their overlap."""
    counts = torch.zeros(length * info.scale)
    side = side_within(2 * info.overlap, length, info.multiple_of)
    for span in lay_out_spans(length, side, info.overlap, info.multiple_of, info.scale):
        counts[span.place] += 1
    return counts > 1


def tiles_agree(case: Case) -> None:
    """Tiled output is within the engine's stated tolerance of untiled output; beyond the overlap of tiles within 1/255.

    The second part is for networks with weights in float32: random weights amplify every difference.
    """
    engine = case.build()
    overlap = engine.info.overlap
    height, width = 5 * overlap // 2, 3 * overlap
    light = torch.linspace(0.2, 1.0, width)  # tiles of different brightness
    frames = [frame.with_image(frame.image * light) for frame in make_clip(4, height, width)]
    tiled = run(TiledEngine(case.build(), tile=2 * overlap), frames)
    shared = [shared_pixels(length, engine.info) for length in (height, width)]
    beyond = ~shared[0][:, None] & ~shared[1]
    assert 0.1 < beyond.float().mean() < 0.3
    for plain, other in zip(run(engine, frames), tiled, strict=True):
        difference = (plain.image - other.image).abs()
        assert difference.max() <= case.tiled_tolerance, f"tiles differ by {difference.max():.2g}"
        if case.has_learned and case.is_exact:
            largest = difference[:, beyond].max()
            assert largest <= 1 / 255, f"tiles differ by {largest:.2g} beyond their overlap"


def psnr(given: Tensor, truth: Tensor) -> float:
    return -10 * float(((given - truth) ** 2).mean().clamp(min=1e-12).log10())


def nothing_drifts(case: Case) -> None:
    """After 5,000 identical frames the PSNR is that after 50 frames, within 0.1 dB."""
    engine = case.build()
    scale = engine.info.scale
    position = torch.linspace(0.0, 5.0, 8 * scale)
    waves = 0.5 + 0.2 * torch.sin(position)[:, None] + 0.2 * torch.cos(1.3 * position)
    truth = torch.stack([waves, waves.flip(0), waves.T])
    frame = replace(make_clip(1)[0], image=avg_pool2d(truth, scale))
    state, latest, quality = start(engine, frame), frame, []
    for t in range(5001):
        given, state = engine.step(replace(frame, pts=t, starts_scene=t == 0), state)
        latest = given[-1] if given else latest
        if t in (50, 5000):
            quality.append(psnr(latest.image, truth))
    assert quality[1] >= quality[0] - 0.1


def a_slow_pan_does_not_drift(case: Case) -> None:
    """2,000 frames panning back and forth by one output pixel per frame: the last pass is as good as the second.

    Each pass shows the same images in the same positions; the mean PSNR of its input frames may fall by 0.1 dB.
    """
    engine = case.build()
    side, pass_length = 20 * engine.info.scale, 100
    random = torch.Generator().manual_seed(4)
    texture = torch.zeros(1, 3, side, side + pass_length // 2)
    for octave in (32, 16, 8, 4):
        noise = torch.rand(1, 3, -(-texture.shape[2] // octave), -(-texture.shape[3] // octave), generator=random)
        texture += octave**0.5 * interpolate(noise, size=texture.shape[2:], mode="bicubic")
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    frame, waiting, quality = make_clip(1)[0], list[Tensor](), list[float]()
    state = engine.init_state(20, 20)

    def judge(results: list[Frame]) -> None:
        """PSNR of the input frames, whose times are whole input ticks."""
        for result in results:
            if result.pts % engine.info.interp == 0:
                quality.append(psnr(result.image, waiting.pop(0)))

    for t in range(2000):
        place = t % pass_length
        place = min(place, pass_length - place)
        truth = texture[0, :, :, place : place + side]
        waiting.append(truth)
        image = avg_pool2d(truth, engine.info.scale)
        given, state = engine.step(replace(frame, image=image, pts=t, starts_scene=t == 0), state)
        judge(given)
    judge(engine.flush(state))
    passes = torch.tensor(quality).view(-1, pass_length).mean(dim=1)
    assert passes[-1] >= passes[1] - 0.1


def state_can_be_saved(case: Case) -> None:
    """A run resumed from its saved state at any frame gives the same frames bit for bit."""
    engine = case.build()
    frames = make_clip(6, cuts=(0, 3))
    whole = run(engine, frames)
    for stop in range(7):
        state = start(engine, frames[0])
        ready: list[Frame] = []
        for t, frame in enumerate(frames):
            if t == stop:
                state = torch.load(io.BytesIO(saved(state)), weights_only=False)
                run(engine, make_clip(3, seed=9))  # another video in between must not matter
            given, state = engine.step(frame, state)
            ready += given
        if stop == 6:
            state = torch.load(io.BytesIO(saved(state)), weights_only=False)
        assert same(ready + engine.flush(state), whole)


def runs_repeat(case: Case) -> None:
    """Two runs give identical output, on one engine and on two."""
    engine = case.build()
    first = run(engine, make_clip(5))
    assert same(run(engine, make_clip(5)), first)
    assert same(run(case.build(), make_clip(5)), first)


def images_are_left_alone(case: Case) -> None:
    """The engine modifies neither its input nor an output it has returned."""
    engine = case.build()
    frames = make_clip(6)
    state, ready, copies = start(engine, frames[0]), [], []
    for frame in frames:
        given, state = engine.step(frame, state)
        ready += given
        copies += [replace(result, image=result.image.clone()) for result in given]
    engine.flush(state)
    assert same(ready, copies)
    assert same(frames, make_clip(6))


LAWS = {
    every_frame_comes_out_in_time: (
        "drops the last frame",
        "gives late",
        "looks one frame too far",
        "gives the next frame's time",
        "forgets the cuts",
    ),
    cuts_separate: ("remembers the last scene", "sees the next scene"),
    videos_do_not_mix: ("keeps its memory in the engine",),
    state_does_not_grow: ("keeps every frame",),
    future_stays_away: ("looks one frame too far",),
    sizes_and_values_are_right: ("overshoots", "gives even sizes only", "gives double precision"),
    tiles_agree: ("measures the whole frame",),
    state_can_be_saved: ("keeps its memory in the engine",),
    runs_repeat: ("is random",),
    images_are_left_alone: ("writes into its last result", "writes into its input"),
}
# Long runs, for engines with trained networks.
LASTING_LAWS = {
    nothing_drifts: ("drifts",),
    a_slow_pan_does_not_drift: ("drifts",),
}


# What a network can break that runs on an engine of others.
NETWORK_LAWS = (sizes_and_values_are_right, tiles_agree, runs_repeat, images_are_left_alone)
TRIALS = {
    f"{name}-{law.__name__}": (case, law)
    for name, case in ENGINES.items()
    for law in LAWS
    if (case.has_own_engine or law in NETWORK_LAWS) and (case.tiles_are_tried or law != tiles_agree)
}


@pytest.mark.parametrize(("case", "law"), TRIALS.values(), ids=TRIALS.keys())
@pytest.mark.usefixtures("two_threads")
@torch.inference_mode()
def test_law(case: Case, law: Callable[[Case], None]) -> None:
    law(case)


@pytest.mark.usefixtures("two_threads")
def test_the_laws_hold_for_overlapped_engines() -> None:
    """Engines that overlap with two threads do so in the test above: one more frame or window of look-ahead."""
    network, slow = paper_network(), slowmo_network("fast")
    overlapped, plain = recurrent(network, "a", "fp32"), RecurrentEngine(network, "a", CPU, "fp32", False)
    assert overlapped.info.lookahead == plain.info.lookahead + 1
    single = SlowmoEngine.of_network(slow, "a", CPU, "fp32", is_overlapped=False)
    assert slowmo(slow, "a", "fp32").info.lookahead == single.info.lookahead + WINDOW - 1


@pytest.mark.parametrize("law", LASTING_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("name", [name for name, case in ENGINES.items() if case.has_learned and case.is_lasting])
@torch.inference_mode()
def test_lasting_law(name: str, law: Callable[[Case], None]) -> None:
    with torch_threads(1):  # images this small only wait for a second thread
        law(ENGINES[name])


# Faults that only an interpolating engine can have.
DOUBLING_FAULTS = {
    every_frame_comes_out_in_time: (
        "puts new frames late",
        "starts scenes with new frames",
        "makes none before a cut",
        "shortens the last frame",
    ),
    cuts_separate: ("mixes across a cut",),
}
BROKEN: list[tuple[Callable[[Case], None], Callable[[str], Engine], str]] = [
    (law, toy, fault)
    for toy, laws in ((ToyEngine, LAWS | LASTING_LAWS), (ToyDoubler, DOUBLING_FAULTS))
    for law, faults in laws.items()
    for fault in faults
]


@pytest.mark.parametrize(("law", "toy", "fault"), BROKEN, ids=[f"{law.__name__}-{fault}" for law, _, fault in BROKEN])
@torch.inference_mode()
def test_law_catches_a_broken_engine(law: Callable[[Case], None], toy: Callable[[str], Engine], fault: str) -> None:
    with pytest.raises(AssertionError):
        law(Case(lambda: toy(fault), 0.02))
