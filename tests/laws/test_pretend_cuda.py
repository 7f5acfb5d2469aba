"""Every engine on a fake CUDA device that computes nothing: no host copies, no values read, no mixed devices.

What this cannot see: values, operations that CUDA lacks for a type, memory, and ONNX Runtime, which takes addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensor

from tests.laws.test_engine_laws import PAPER_FORMS
from tests.support.pretend_cuda import CUDA, HostCopy, pretend_cuda
from tests.support.tiny_networks import PAPER_FORM, SLOWMO_FORMS
from tests.support.toy_engine import ToyEngine, ToyState
from vidsr.engines.base import DTYPES, Engine
from vidsr.engines.bicubic import BicubicEngine
from vidsr.engines.chain import ChainEngine
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.engines.select import ESTIMATED, Levels
from vidsr.engines.single_image import SingleImageEngine
from vidsr.engines.slowmo import InterpolationEngine, SlowmoEngine
from vidsr.engines.tiled import TiledEngine, side_within
from vidsr.faces.blending import FaceBlender
from vidsr.faces.engine import FaceEngine
from vidsr.models.cards import Preset, list_cards, list_presets
from vidsr.models.registry import build
from vidsr.nets.attention_fh.network import AttentionFH
from vidsr.nets.cajnn.network import CAJNN
from vidsr.nets.hime.network import HIME
from vidsr.nets.mpenet.network import MPENet
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.stages.base import through
from vidsr.types import Crop, Face, Frame, RestoredFace

HEIGHT, WIDTH = 20, 28  # four tiles of 16 pixels
TILED_SIDE, TILE = 28, 20
LENGTH, CUT = 7, 5  # a window of slow motion, a shorter one before the cut, one behind it
FACES_HEIGHT, FACES_WIDTH = 24, 40
Sizes = Mapping[str, Any]


def shallow(sizes: Sizes) -> dict[str, Any]:
    """The same network with one block instead of several, which is enough for these tests."""
    return {name: min(value, 1) if name.endswith("blocks") else value for name, value in sizes.items()}


def secnet(sizes: Sizes) -> SECNet:
    network = build("secnet", shallow(sizes)).requires_grad_(False)
    assert isinstance(network, SECNet)
    return network


def zsm(sizes: Sizes) -> ZoomingSlowMo:
    network = build("zsm", shallow(sizes)).requires_grad_(False)
    assert isinstance(network, ZoomingSlowMo)
    return network


def cajnn(sizes: Sizes) -> CAJNN:
    network = build("cajnn", shallow(sizes)).requires_grad_(False)
    assert isinstance(network, CAJNN)
    return network


def hime(sizes: Sizes) -> HIME:
    network = build("hime", shallow(sizes)).requires_grad_(False)
    assert isinstance(network, HIME)
    return network


def mpenet(sizes: Sizes) -> MPENet:
    narrow = {"width": 8, "groups": 2, "alignment_width": 8}
    network = build("mpenet", {**sizes, **narrow}).requires_grad_(False)
    assert isinstance(network, MPENet)
    return network


def attention_fh(sizes: Sizes) -> AttentionFH:
    network = build("attention-fh", sizes | {"steps": 2}).requires_grad_(False)
    assert isinstance(network, AttentionFH)
    return network


def engines_of(preset: Preset, precision: str) -> dict[str, Callable[[], Engine]]:
    sizes, name = preset.network, f"{preset.name} {precision}"
    if preset.architecture == "secnet":
        return {name: lambda: RecurrentEngine(secnet(sizes), "", CUDA, precision)}
    if preset.architecture == "cajnn":
        return {name: lambda: SingleImageEngine.of_network(cajnn(sizes), "", CUDA, precision)}
    if preset.architecture == "hime":
        return {name: lambda: SingleImageEngine.of_network(hime(sizes), "", CUDA, precision)}
    if preset.architecture == "attention-fh":
        return {name: lambda: SingleImageEngine.of_network(attention_fh(sizes), "", CUDA, precision)}
    if preset.architecture == "mpenet":
        return {name: lambda: SingleImageEngine.of_network(mpenet(sizes), "", CUDA, precision)}
    return {
        f"{name} slowmo": lambda: SlowmoEngine.of_network(zsm(sizes), "", CUDA, precision),
        f"{name} interpolation": lambda: InterpolationEngine.of_network(zsm(sizes), "", CUDA, precision),
    }


def chain(form: str) -> Engine:
    network = zsm(SLOWMO_FORMS[form])
    return ChainEngine(
        [InterpolationEngine.of_network(network, "", CUDA, "fp32"), SlowmoEngine.of_network(network, "", CUDA, "fp32")]
    )


ENGINES: dict[str, Callable[[], Engine]] = {
    f"bicubic x{scale}": lambda scale=scale: BicubicEngine(scale, CUDA) for scale in (1, 2, 3, 4)
}  # type: ignore[misc]
# In every precision; those for reference photographs are other face models where, as here, there are none.
WITH_WEIGHTS = {card.name for card in list_cards() if not card.name.endswith("-references")}
for each in list_presets():
    for its_precision in DTYPES if each.name in WITH_WEIGHTS else ("fp16",):
        ENGINES |= engines_of(each, its_precision)
for form, sizes_of_form in PAPER_FORMS.items():
    ENGINES[f"paper's {form}"] = lambda sizes=PAPER_FORM | sizes_of_form: RecurrentEngine(
        secnet(sizes), "", CUDA, "fp16"
    )
ENGINES |= {"chain": lambda: chain("fast"), "chain with an estimator": lambda: chain("conditioned")}


def frames(image: Callable[[], Tensor], length: int = LENGTH, cut: int = CUT) -> list[Frame]:
    return [Frame(image(), 2 * t, Fraction(1, 50), 2, t in (0, cut)) for t in range(length)]


def frames_on_cuda(height: int = HEIGHT, width: int = WIDTH, length: int = LENGTH, cut: int = CUT) -> list[Frame]:
    return frames(lambda: torch.rand(3, height, width, device=CUDA), length, cut)


def frames_for(engine: Engine, side: tuple[int, int] = (HEIGHT, WIDTH)) -> list[Frame]:
    """As many frames as let an engine do all that it can do: more only repeat it.

    Before the cut a recurrent engine has a frame with all that it remembers and all that it looks ahead to.
    """
    if isinstance(engine, SingleImageEngine | BicubicEngine):
        return frames_on_cuda(*side, length=3, cut=2)
    if isinstance(engine, RecurrentEngine):
        config = engine.network.config
        cut = min(CUT, engine.info.lookahead + max(config.t1, config.t2, config.t3) + 1)
        return frames_on_cuda(*side, length=cut + 1, cut=cut)
    return frames_on_cuda(*side)


def run(engine: Engine, given: list[Frame]) -> list[Frame]:
    state = engine.init_state(*given[0].image.shape[1:])
    results: list[Frame] = []
    for frame in given:
        ready, state = engine.step(frame, state)
        results += ready
    return results + engine.flush(state)


def check(engine: Engine, given: list[Frame]) -> None:
    """All outputs arrive, with the right size, in float32, on the device."""
    info = engine.info
    results = run(engine, given)
    assert len(results) == (len(given) - 1) * info.interp + 1
    for result in results:
        assert isinstance(result.image, FakeTensor), "computed elsewhere than on the pretended device"
        assert (result.image.device, result.image.dtype) == (CUDA, torch.float32)
        assert result.image.shape[1:] == tuple(info.scale * side for side in given[0].image.shape[1:])


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_stays_on_the_device(name: str) -> None:
    with pretend_cuda():
        engine = ENGINES[name]()
        check(engine, frames_for(engine))


@pytest.mark.parametrize("name", ["bicubic x4", "secnet-fast fp16", "secnet-fast-face bf16", "zsm-fast fp32 slowmo"])
def test_tiles_stay_on_the_device(name: str) -> None:
    """Two tiles in each direction, whatever the network's step is: with smaller ones there would be 153."""
    with pretend_cuda():
        inner = ENGINES[name]()
        engine = TiledEngine(inner, tile=TILE, overlap=4, smallest=16)
        assert (TILED_SIDE - side_within(TILE, TILED_SIDE, engine.info.multiple_of)) > 0
        check(engine, frames_for(inner, (TILED_SIDE, TILED_SIDE)))


FACES: list[tuple[str, str, int, Levels]] = [
    *(("secnet-fast-face", precision, 0, ESTIMATED) for precision in DTYPES),
    ("secnet-fast-face", "fp16", 1, ESTIMATED),
    ("secnet-fast-face-real", "fp16", 0, (0.5, None, None)),
]


@pytest.mark.parametrize(("name", "precision", "quarters", "levels"), FACES)
def test_faces_stay_on_the_device(name: str, precision: str, quarters: int, levels: Levels) -> None:
    """Two faces of one size, and a third that moves, grows and is lost; their restored images are blended."""
    sizes = next(preset.network for preset in list_presets() if preset.name == name)
    with pretend_cuda():
        engine = FaceEngine(secnet(sizes), CUDA, precision, quarters, levels=levels)
        streams, results = engine.init_state(), []
        for t, frame in enumerate(frames_on_cuda(FACES_HEIGHT, FACES_WIDTH)):
            windows = {1: Crop(0, 0, 16, 16), 2: Crop(16, 8, 16, 16)}
            if t < 5:
                windows[3] = Crop(2 * t, t, 16 + 8 * (t > 2), 16)
            elif t == 5:
                results += engine.flush(streams, [3])[3]
            ready, streams = engine.step(frame, windows, streams)
            results += ready.values()
        for rest in engine.flush(streams, [1, 2]).values():
            results += rest
        assert len(results) == 2 * LENGTH + 5
        for window, image, *_ in results:
            assert image.device == CUDA and image.shape == (3, 4 * window.height, 4 * window.width)
            patch = RestoredFace(image, window, (window.left + 4.0, window.top + 4.0, 8.0, 8.0), 0.5)
            large = Frame(torch.rand(3, 4 * FACES_HEIGHT, 4 * FACES_WIDTH, device=CUDA), 0, Fraction(1, 25))
            face = Face(patch.box, ((0.0, 0.0),) * 5, 0.9, 1, restored=patch)
            (pasted,) = through(FaceBlender(), [Frame(large.image, 0, large.time_base, faces=(face,))])
            assert pasted.image.device == CUDA


class Faulty(ToyEngine):
    """A toy engine on the device, with an extra operation inserted in its step."""

    def __init__(self, plant: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.plant = plant

    def compute(self, state: ToyState, following: Frame | None) -> Frame:
        result = super().compute(state, following)
        return result.with_image(self.plant(result.image))


def test_the_toy_stays_on_the_device_as_long_as_nothing_is_planted() -> None:
    with pretend_cuda():
        check(Faulty(lambda image: image * 2), frames_on_cuda())
        check(TiledEngine(Faulty(lambda image: image * 2), tile=16, overlap=4, smallest=16), frames_on_cuda())


PLANTED: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    ".cpu()": (lambda x: x.cpu().to(CUDA), HostCopy, "copies"),
    ".to('cpu')": (lambda x: x.to("cpu").to(CUDA), HostCopy, "copies"),
    "copy_ to the host": (lambda x: torch.empty(x.shape).copy_(x).to(CUDA), HostCopy, "copies"),
    "item": (lambda x: x * x.mean().item(), DataDependentOutputException, "_local_scalar_dense"),
    "float": (lambda x: x * float(x.mean()), DataDependentOutputException, "_local_scalar_dense"),
    "if": (lambda x: x if x.mean() > 0 else x * 2, DataDependentOutputException, "_local_scalar_dense"),
    "tolist": (lambda x: x + x.mean((1, 2)).tolist()[0], DataDependentOutputException, "_local_scalar_dense"),
    "numpy": (lambda x: x + x.numpy().mean(), RuntimeError, "numpy"),
    "mask": (lambda x: x + x[x > 0.5].mean(), DynamicOutputShapeException, "nonzero"),
    "constant on the host": (lambda x: x + torch.full((3, 1, 1), 0.5), RuntimeError, "two devices"),
    "grid on the host": (
        lambda x: x + torch.arange(x.shape[2], dtype=torch.float32), RuntimeError, "two devices"
    ),
    "left on the host": (lambda x: torch.rand(x.shape), AssertionError, "cpu"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("is_tiled", [False, True])
def test_what_is_planted_is_found(name: str, is_tiled: bool) -> None:
    plant, error, message = PLANTED[name]
    with pretend_cuda(), pytest.raises(error, match=message):
        engine: Engine = Faulty(plant)
        check(TiledEngine(engine, tile=16, overlap=4, smallest=16) if is_tiled else engine, frames_on_cuda())


@pytest.mark.parametrize("precision", DTYPES)
def test_a_fault_planted_in_a_network_is_found(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = SECNet.fuse
    monkeypatch.setattr(SECNet, "fuse", lambda self, *given: fuse(self, *given) + torch.zeros(1, 48, 1, 1))
    with pretend_cuda(), pytest.raises(RuntimeError, match="two devices"):
        check(ENGINES[f"secnet-fast {precision}"](), frames_on_cuda())
    monkeypatch.setattr(SECNet, "fuse", lambda self, *given: fuse(self, *given).cpu().to(CUDA))
    with pretend_cuda(), pytest.raises(HostCopy):
        check(ENGINES[f"secnet-fast {precision}"](), frames_on_cuda())


def test_frames_on_the_host_are_found() -> None:
    """The reader puts frames on the device; other frames would mix devices."""
    with pretend_cuda(), pytest.raises(HostCopy):  # torch lets a convolution without values mix, with a result here
        check(ENGINES["secnet-fast fp32"](), frames(lambda: torch.rand(3, HEIGHT, WIDTH)))


def test_nothing_is_left_behind() -> None:
    before = torch.nn.Module._apply
    with pretend_cuda():
        check(ENGINES["secnet-fast fp32"](), frames_on_cuda())
    image = torch.rand(3, HEIGHT, WIDTH)
    (result,) = run(BicubicEngine(), [Frame(image, 0, Fraction(1, 25))])
    assert torch.nn.Module._apply is before
    assert type(result.image) is Tensor and result.image.device.type == "cpu" and result.image.isfinite().all()
    if not torch.cuda.is_available():
        with pytest.raises((AssertionError, RuntimeError)):
            torch.zeros(1, device=CUDA)
