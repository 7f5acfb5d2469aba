"""`vidsr bench`: measures speed and memory of a model on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from vidsr import config as c
from vidsr.cli import options as o
from vidsr.cli.terminal import print_json

if TYPE_CHECKING:
    from vidsr.bench.bench import BenchReport
    from vidsr.cli.console import Screen

_COMPUTE = c.ComputeConfig()


def bench(
    model: o.Model = _COMPUTE.model,
    device: o.Device = _COMPUTE.device,
    precision: o.Precision = _COMPUTE.precision,
    threads: o.Threads = _COMPUTE.threads,
    size: Annotated[
        str, typer.Option(metavar="WxH", help="Input size in pixels; both numbers must be even.")
    ] = "320x180",
    frames: Annotated[int, typer.Option(min=5, help="Number of frames in the generated test video.")] = 30,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show each convolution shape.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results to stdout as JSON.")] = False,
) -> None:
    """Measures speed and memory of a model on this machine.

    Times the network alone, its convolutions in isolation, and a whole run from file to file.
    """
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.bench.bench import bench as measure
        from vidsr.models.cards import resolve_model

        wanted = c.parse_size(size)
        assert wanted is not None
        compute = c.ComputeConfig(model=resolve_model(model), device=device, precision=precision, threads=threads)
        report = measure(compute, wanted, frames)
        _show(screen, report)
        if verbose:
            _show_layers(screen, report)
        if as_json:
            print_json(json.dumps(report.to_dict(), indent=2, allow_nan=False))


def _show(screen: Screen, report: BenchReport) -> None:
    network = report.network
    (width, height), (wide, high) = report.size, report.output_size
    values = {"network alone": f"{_time(network.seconds)} per frame, {1 / network.seconds:.1f} frames/s"}
    values |= {f"  of which {part}": _time(seconds) for part, seconds in network.parts.items()}
    values["multiply-adds"] = f"{network.multiply_adds / 1e9:.2f} G per frame, {network.rate / 1e9:.1f} G/s"
    if network.isolated_rate is not None and network.isolated_fraction is not None:
        values["convolutions in isolation"] = (
            f"{_time(network.isolated_seconds)} per frame, {network.isolated_rate / 1e9:.1f} G/s"
        )
        values["fraction of that rate reached"] = f"{100 * network.isolated_fraction:.0f} %"
    values["peak memory, network alone"] = _memory(network.peak_memory_bytes)
    values["peak memory, whole run"] = _memory(report.video_peak_memory_bytes)
    where = f"{report.device} ({report.precision}, {report.threads} threads)"
    screen.fields(f"{report.model} on {where}, {width}x{height} to {wide}x{high}", values)
    # The stages run concurrently, so their sum exceeds the total.
    stages = [*report.video_stage_seconds.items(), ("from file to file", report.video_wall_seconds)]
    rows = [[name, f"{seconds:.2f} s", _time(seconds / report.frames)] for name, seconds in stages]
    screen.table(f"whole run, {report.frames} frames", ["stage", "busy", "per frame"], rows)


def _show_layers(screen: Screen, report: BenchReport) -> None:
    rows = []
    for layer in sorted(report.network.layers, key=lambda layer: -layer.calls * layer.seconds):
        call = layer.convolution
        rows.append([
            call.part, "x".join(map(str, call.input_size)), "x".join(map(str, call.weight_size)),
            str(call.dtype).removeprefix("torch."), "NHWC" if call.is_channels_last else "NCHW", str(layer.calls),
            f"{1000 * layer.seconds:.2f}", f"{call.multiply_adds / layer.seconds / 1e9:.1f}",
        ])  # fmt: skip
    columns = ["part", "input", "weight", "type", "order", "calls", "ms", "G/s"]
    screen.table("convolutions of one frame, each timed in isolation", columns, rows)


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _memory(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size else "unknown"
