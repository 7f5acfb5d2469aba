"""`vidsr bench`: its counts and ratios are correct and it finds every convolution. Speed itself is not tested."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner, Result

import vidsr.bench.bench
from vidsr.bench.bench import LayerSpeed, NetworkSpeed, measure_network
from vidsr.bench.convolutions import REST, Convolution, ConvolutionRecorder, PartClock, device_clock, watch_parts
from vidsr.cli import app
from vidsr.config import InputConfig, SceneConfig
from vidsr.engines.bicubic import BicubicEngine
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.engines.tiled import TiledEngine
from vidsr.errors import UsageError
from vidsr.models.cards import find_card
from vidsr.models.registry import build
from vidsr.stages.base import through
from vidsr.stages.scenes import SceneMarker
from vidsr.types import Frame
from vidsr.video.reader import Reader
from vidsr.video.synthetic import write_synthetic_video

pytestmark = pytest.mark.usefixtures("two_threads")  # engines that overlap

CPU = torch.device("cpu")
MODEL = "secnet-fast"
LAYER = Convolution(
    "a", (1, 4, 6, 5), (8, 4, 3, 3), True, (1, 1), (1, 1), (1, 1), False, (0, 0), 1, torch.float32, True
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Short measurements, temporary files in a visible folder, and the number of threads restored."""
    monkeypatch.setattr(vidsr.bench.bench, "SLICE_SECONDS", 1e-4)
    monkeypatch.setattr(vidsr.bench.bench, "ROUNDS", 2)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    assert list((tmp_path / "temporary").glob("vidsr-*")) == []


class Small(nn.Module):
    """Two children with three layers, one of them called twice, and a convolution outside any layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 5, stride=2, groups=2))
        self.second = nn.ConvTranspose2d(4, 2, 4, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first[2](F.relu(self.first[0](self.first[0](x)[:, :3])))
        return F.conv2d(self.second(x), torch.ones(1, 2, 1, 3), padding="valid")


def small_layers(height: int, width: int) -> list[tuple[str, int]]:
    """Part and multiply-adds of every convolution in Small, counted by hand."""
    h, w = (height - 5) // 2 + 1, (width - 5) // 2 + 1
    same = ("first", height * width * 4 * 3 * 9)
    return [same, same, ("first", h * w * 4 * 2 * 25), ("second", h * w * 4 * 2 * 16), (REST, 2 * h * (2 * w - 2) * 6)]


def images(number: int, height: int, width: int) -> list[Frame]:
    generator = torch.Generator().manual_seed(1)
    return [Frame(torch.rand(3, height, width, generator=generator), t, Fraction(1, 25), 1) for t in range(number)]


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", *arguments])


@settings(max_examples=30, deadline=None)
@given(
    groups=st.integers(1, 3), channels=st.tuples(st.integers(1, 2), st.integers(1, 2)), batch=st.integers(1, 2),
    sides=st.tuples(st.integers(7, 11), st.integers(7, 11)), kernel=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    stride=st.integers(1, 3), padding=st.integers(0, 2), dilation=st.integers(1, 2), is_transposed=st.booleans(),
)  # fmt: skip
def test_the_work_of_a_convolution_is_the_number_of_its_products(
    groups: int, channels: tuple[int, int], batch: int, sides: tuple[int, int], kernel: tuple[int, int], stride: int,
    padding: int, dilation: int, is_transposed: bool,
) -> None:  # fmt: skip
    """With all weights and samples one, each output is the number of its multiply-adds."""
    inputs, outputs = (groups * c for c in channels)
    kind = nn.ConvTranspose2d if is_transposed else nn.Conv2d
    layer = kind(inputs, outputs, kernel, stride, padding, dilation=dilation, groups=groups, bias=False).double()
    nn.init.ones_(layer.weight)
    ones = torch.ones(batch, inputs, *sides, dtype=torch.float64)
    with torch.inference_mode(), ConvolutionRecorder() as recorder:
        result = layer(ones)
    (call,) = recorder.calls
    assert call.output_size == result.shape[2:]
    if is_transposed:  # what the border cuts off was computed too
        layer.padding = (0, 0)
        products = layer(ones).sum()
    else:
        layer.padding = (0, 0)
        products = layer(F.pad(ones, (padding,) * 4, value=1.0)).sum()
    assert call.multiply_adds == products.item()
    alone = call.prepare(CPU)()
    assert alone.shape == result.shape
    assert alone.dtype == torch.float64


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_every_convolution_is_found_with_its_part(mode: Callable[[], Any], is_frozen: bool) -> None:
    network, image = Small().requires_grad_(not is_frozen), torch.rand(1, 3, 12, 17)
    with mode():
        expected = network(image)
        with ConvolutionRecorder() as recorder, watch_parts(network, recorder.on_change):
            result = network(image)
    assert torch.equal(result, expected)
    assert [(call.part, call.multiply_adds) for call in recorder.calls] == small_layers(12, 17)
    assert recorder.calls[0] == recorder.calls[1]
    assert [call.has_bias for call in recorder.calls] == [True, True, True, False, False]


def test_the_order_of_the_samples_is_noted_and_isolation_is_channels_last() -> None:
    conv = nn.Conv2d(3, 4, 3).bfloat16()
    image = torch.rand(1, 3, 9, 8).bfloat16()
    with ConvolutionRecorder() as recorder:
        conv(image)
        conv(image.contiguous(memory_format=torch.channels_last))
    assert [call.is_channels_last for call in recorder.calls] == [False, True]
    for call in recorder.calls:
        result = call.prepare(CPU)()
        assert result.dtype == torch.bfloat16
        assert result.is_contiguous(memory_format=torch.channels_last)


def test_parts_are_left_when_their_outermost_module_ends() -> None:
    network, changes = Small(), []
    with watch_parts(network, changes.append):
        network.second(network.first(torch.rand(1, 3, 9, 9)))
    assert changes == ["first", REST, "second", REST]
    network(torch.rand(1, 3, 9, 9))
    assert len(changes) == 4, "the hooks are gone"


def test_the_clock_books_each_second_once() -> None:
    ticks = count()
    clock = PartClock(lambda: float(next(ticks) ** 2))  # 0, 1, 4, 9, 16
    for part in ("a", REST, "a"):
        clock.on_change(part)
    assert clock.stop() == {REST: 1.0 + 5.0, "a": 3.0 + 7.0}


def test_rates_and_share_are_the_quotients_that_they_say() -> None:
    half = replace(LAYER, input_size=(1, 4, 3, 5))
    layers = (LayerSpeed(LAYER, 3, 0.25), LayerSpeed(half, 2, 0.5))
    assert LAYER.multiply_adds == 6 * 5 * 8 * 4 * 9
    network = NetworkSpeed(seconds=3.5, parts={}, multiply_adds=4 * 8640, layers=layers, peak_memory_bytes=0)
    assert network.rate == 4 * 8640 / 3.5
    assert network.isolated_seconds == 1.75
    assert network.isolated_rate == 4 * 8640 / 1.75
    assert network.isolated_fraction == 0.5


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_shipped_network_is_counted_whole(precision: str) -> None:
    """Compared with a count by hooks on its layers, plus the operations outside layers: bicubic and the split gates."""
    network = build("secnet", find_card(MODEL).network)
    engine = RecurrentEngine(network, MODEL, CPU, precision)
    video = images(4, 18, 26)
    measured = measure_network(TiledEngine(engine, None), video, 1, CPU)
    engine = engine.without_overlap()
    state = engine.init_state(18, 26)
    for frame in video * 3:
        _, state = engine.step(frame, state)
    seen: list[int] = []
    layers = [layer for layer in engine.network.modules() if isinstance(layer, nn.Conv2d)]
    handles = [
        layer.register_forward_hook(
            lambda layer, _, out: seen.append(out.shape[0] * out.shape[2] * out.shape[3] * layer.weight.numel())
        )
        for layer in layers
    ]
    with FlopCounterMode(display=False) as counter:
        engine.step(video[0], state)
    for handle in handles:
        handle.remove()
    bicubic = 18 * 26 * 48 * 25
    gates = 18 * 26 * engine.network.recurrent.encoding.cell.gates.weight.numel()
    assert measured.multiply_adds == sum(seen) + bicubic + gates == counter.get_total_flops() // 2
    assert sum(each.calls * each.convolution.multiply_adds for each in measured.layers) == measured.multiply_adds
    assert sum(each.calls for each in measured.layers) == len(seen) + 1 + 2
    assert set(measured.parts) - {REST} == {each.convolution.part for each in measured.layers} - {REST}
    kinds = {each.convolution.dtype for each in measured.layers}
    assert kinds == ({torch.float32} if precision == "fp32" else {torch.float32, torch.bfloat16})


def test_tiles_are_counted_too() -> None:
    engine = RecurrentEngine(build("secnet", find_card(MODEL).network), MODEL, CPU, "fp32")
    video = images(3, 40, 24)
    whole = measure_network(TiledEngine(engine, None), video, 1, CPU)
    tiled = measure_network(TiledEngine(engine, 24, overlap=8, smallest=24), video, 1, CPU)
    assert tiled.multiply_adds > whole.multiply_adds
    # Three tiles of 24 rows: two that begin on the network's grid of 8 would overlap by less than 8 + 7.
    assert sum(each.calls for each in tiled.layers) == 3 * sum(each.calls for each in whole.layers)


def test_a_model_without_network_has_no_share() -> None:
    measured = measure_network(TiledEngine(BicubicEngine(4, CPU), None), images(2, 16, 16), 1, CPU)
    assert (measured.layers, measured.parts, measured.isolated_fraction, measured.isolated_rate) == ((), {}, None, None)
    assert measured.seconds > 0


def test_json_holds_every_figure_and_stdout_nothing_else() -> None:
    done = cli("--json", "--verbose", "--size", "32x18", "--frames", "6", "--model", MODEL, "--threads", "1")
    assert done.exit_code == 0, done.output
    values = json.loads(done.stdout)
    assert {name: values[name] for name in ("model", "device", "threads", "size", "output_size", "frames")} == {
        "model": MODEL, "device": "cpu", "threads": 1, "size": [32, 18], "output_size": [128, 72], "frames": 6,
    }  # fmt: skip
    network, isolated, video = values["network"], values["isolated"], values["film"]
    work, layers = network["multiply_adds_per_frame"], isolated["layers"]
    assert work == sum(layer["calls"] * layer["multiply_adds"] for layer in layers)
    assert network["multiply_adds_per_second"] == pytest.approx(work / network["seconds_per_frame"])
    assert isolated["seconds_per_frame"] == pytest.approx(sum(layer["calls"] * layer["seconds"] for layer in layers))
    assert isolated["multiply_adds_per_second"] == pytest.approx(work / isolated["seconds_per_frame"])
    assert values["share"] == pytest.approx(isolated["seconds_per_frame"] / network["seconds_per_frame"])
    assert {"flow", "fusion", "recurrent", REST} <= set(network["parts_seconds_per_frame"])
    assert set(video["stage_seconds"]) == {"decode", "scenes", "network", "resize", "encode", "commit"}
    assert video["frames_per_second"] == pytest.approx(6 / video["wall_seconds"])
    assert 2**24 < network["peak_memory_bytes"] <= video["peak_memory_bytes"]
    for shown in ("fraction of that rate", "flow", "encode", "NHWC", "MiB"):
        assert shown in done.stderr


def test_without_json_stdout_is_empty() -> None:
    done = cli("--size", "16x16", "--frames", "5", "--model", "bicubic")
    assert (done.exit_code, done.stdout) == (0, "")
    assert "share" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--model", "nonesuch"), 5, "nonesuch"),
        (("--device", "cuda:99"), 6, "cuda:99"),
        (("--device", "abacus"), 2, "abacus"),
        (("--size", "33x18"), 2, "even"),
        (("--size", "8x8"), 2, "between 16 and 4096"),
        (("--size", "320"), 2, "WxH"),
        (("--frames", "4"), 2, "--frames"),
        (("--precision", "fp16", "--device", "cpu"), 2, "fp16"),
    ],
)
def test_what_cannot_be_measured_has_its_exit_code(arguments: tuple[str, ...], code: int, part: str) -> None:
    done = cli(*arguments)
    assert done.exit_code == code
    assert done.stdout == ""
    assert part in done.stderr
    assert "Traceback" not in done.stderr


def test_the_library_refuses_too_few_frames() -> None:
    with pytest.raises(UsageError, match="1 frames are too few"):
        vidsr.bench.bench.bench(vidsr.bench.bench.ComputeConfig(model="bicubic"), (16, 16), 1)


def test_the_video_is_one_moving_scene_of_the_wanted_size(tmp_path: Path) -> None:
    video, again = tmp_path / "a.mp4", tmp_path / "b.mp4"
    for path in (video, again):
        write_synthetic_video(path, 30, 64, 48)
    with Reader(video, InputConfig(), CPU) as reader, Reader(again, InputConfig(), CPU) as other:
        frames = list(through(SceneMarker(SceneConfig()), reader.frames()))
        same = list(other.frames())
    assert [frame.image.shape for frame in frames] == [(3, 48, 64)] * 30
    assert [frame.starts_scene for frame in frames] == [True] + [False] * 29
    assert all((a.image - b.image).abs().mean() > 0.01 for a, b in pairwise(frames)), "it moves"
    assert min(frame.image.std().item() for frame in frames) > 0.05, "there is something to see"
    # Not bit for bit: about once in a hundred runs x264 itself writes a different file.
    assert all((a.image - b.image).abs().mean() < 0.02 for a, b in zip(frames, same, strict=True))


def test_the_clock_of_the_cpu_goes_forward() -> None:
    now = device_clock(CPU)
    assert now() < now()
