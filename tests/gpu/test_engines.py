"""Every engine on CUDA, in each precision, compared with float32 on the CPU; tiles and running out of memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from vidsr.engines.base import DTYPES, Engine
from vidsr.engines.bicubic import BicubicEngine
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.engines.slowmo import InterpolationEngine, SlowmoEngine
from vidsr.engines.tiled import TiledEngine
from vidsr.errors import DeviceError
from vidsr.faces.engine import FaceEngine
from vidsr.models.cards import find_card
from vidsr.models.loading import load_network
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.types import Crop, Frame

pytestmark = pytest.mark.gpu

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
# Minimum PSNR in dB against the CPU in float32. cuDNN's float32 convolutions round to TF32, 10 bits of
# mantissa as in fp16; bf16 has 7. Tiles estimate their own motion, as on the CPU.
LEAST_PSNR = {"fp32": 55.0, "fp16": 45.0, "bf16": 38.0}
HEIGHT, WIDTH = 90, 120


def secnet(name: str = "secnet-fast") -> SECNet:
    network = load_network(find_card(name))
    assert isinstance(network, SECNet)
    return network


def zsm() -> ZoomingSlowMo:
    network = load_network(find_card("zsm-fast"))
    assert isinstance(network, ZoomingSlowMo)
    return network


Build = Callable[[torch.device, str], Engine]
ENGINES: dict[str, Build] = {
    "recurrent": lambda device, precision: RecurrentEngine(secnet(), "", device, precision),
    "mirrored": lambda device, precision: RecurrentEngine(secnet("secnet-fast-face"), "", device, precision),
    "slowmo": lambda device, precision: SlowmoEngine.of_network(zsm(), "", device, precision),
    "interpolation": lambda device, precision: InterpolationEngine.of_network(zsm(), "", device, precision),
}


def clip(length: int, device: torch.device, height: int = HEIGHT, width: int = WIDTH) -> list[Frame]:
    """Soft waves that move by two pixels per frame, with a cut."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width + 2 * length), indexing="ij")
    wave = 0.5 + 0.2 * torch.sin(x / 3) * torch.cos(y / 5) + 0.2 * torch.sin(x / 11 + y / 4)
    image = torch.stack((wave, wave.flip(0), wave.flip(1)))
    return [
        Frame(image[..., 2 * t : 2 * t + width].contiguous().to(device), 2 * t, Fraction(1, 50), 2, t in (0, 6))
        for t in range(length)
    ]


def run(engine: Engine, frames: list[Frame]) -> Tensor:
    """All outputs, moved to the CPU."""
    state = engine.init_state(*frames[0].image.shape[1:])
    results: list[Frame] = []
    for frame in frames:
        ready, state = engine.step(frame, state)
        results += ready
    results += engine.flush(state)
    assert {result.image.device for result in results} == {frames[0].image.device}
    return torch.stack([result.image.cpu() for result in results])


def psnr(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape and bool(found.isfinite().all())
    return -10 * math.log10(max(float((found - expected).double().square().mean()), 1e-12))


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_bicubic_is_as_on_the_cpu(scale: int) -> None:
    """Float32 sums of a few products, without TF32: only the last bits differ."""
    found, expected = (run(BicubicEngine(scale, device), clip(2, device)) for device in (CUDA, CPU))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_is_as_on_the_cpu(name: str, precision: str) -> None:
    expected = run(ENGINES[name](CPU, "fp32"), clip(9, CPU))
    assert psnr(run(ENGINES[name](CUDA, precision), clip(9, CUDA)), expected) > LEAST_PSNR[precision]


@pytest.mark.parametrize("name", ENGINES)
def test_tiles_are_as_on_the_cpu(name: str) -> None:
    def tiled(device: torch.device) -> Tensor:
        return run(TiledEngine(ENGINES[name](device, "fp32"), 64), clip(7, device))

    assert psnr(tiled(CUDA), tiled(CPU)) > LEAST_PSNR["fp32"]


@pytest.mark.parametrize("precision", DTYPES)
def test_faces_are_as_on_the_cpu(precision: str) -> None:
    def faces(device: torch.device, precision: str) -> Tensor:
        engine, results = FaceEngine(secnet("secnet-fast-face"), device, precision), []
        streams = engine.init_state()
        for t, frame in enumerate(clip(5, device)):
            windows = {1: Crop(0, 0, 48, 48), 2: Crop(60, 16, 48, 48), 3: Crop(8 + 8 * (t > 2), 40, 40, 48)}
            ready, streams = engine.step(frame, windows, streams)
            results += [image for _, image, *_ in ready.values()]
        results += [image for rest in engine.flush(streams, [1, 2, 3]).values() for _, image, *_ in rest]
        return torch.cat([image.flatten().cpu() for image in results])

    assert psnr(faces(CUDA, precision), faces(CPU, "fp32")) > LEAST_PSNR[precision]


@contextmanager
def memory_limited_to(size: int) -> Iterator[None]:
    """Limits the memory that torch may allocate on the device, in bytes beyond the current use."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(CUDA).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(CUDA) + size) / total, CUDA)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, CUDA)
        torch.cuda.empty_cache()


def peak_bytes(engine: Engine, frames: list[Frame]) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(CUDA)
    before = torch.cuda.memory_reserved(CUDA)
    run(engine, frames)
    return torch.cuda.max_memory_reserved(CUDA) - before


def test_tiles_become_smaller_where_memory_runs_out() -> None:
    frames = clip(4, CUDA, 720, 1280)
    inner = ENGINES["recurrent"](CUDA, "fp32")
    whole = run(TiledEngine(inner, None), frames)
    limit = peak_bytes(TiledEngine(inner, None), frames) * 3 // 4
    engine = TiledEngine(inner, None)
    with memory_limited_to(limit):
        found = run(engine, frames)
    assert engine.shrinks > 0 and engine.tile is not None
    assert psnr(found, whole) > LEAST_PSNR["bf16"]


def test_memory_that_does_not_suffice_for_one_tile_is_said() -> None:
    frames = clip(2, CUDA, 256, 256)
    engine = TiledEngine(ENGINES["recurrent"](CUDA, "fp32"), None)
    with memory_limited_to(1 << 20), pytest.raises(DeviceError, match="not enough memory for this"):
        run(engine, frames)
