"""`vidsr bench`: speed and memory of a model on this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from vidsr import config as c
from vidsr.cli import options as o
from vidsr.models.cards import resolve_model

if TYPE_CHECKING:
    from vidsr.bench.bench import BenchReport
    from vidsr.cli.console import Screen

_COMPUTE = c.ComputeConfig()


def bench(
    model: Annotated[str, typer.Option(help="A name from `vidsr models list`, a card file, or auto.")] = _COMPUTE.model,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = _COMPUTE.device,
    precision: Annotated[
        c.Precision, typer.Option(help="Precision of the network's convolutions.")
    ] = _COMPUTE.precision,
    threads: Annotated[
        int, typer.Option(help="Threads on the CPU, up to 256; 0 lets torch choose.")
    ] = _COMPUTE.threads,
    size: Annotated[str, typer.Option(metavar="WxH", help="Size of the input; even numbers.")] = "320x180",
    frames: Annotated[int, typer.Option(min=5, help="Length of the video that is made and enlarged.")] = 30,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every shape of convolution.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Measures a model here: the network alone, its convolutions in isolation, a film from file to file, memory."""
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.bench.bench import bench as measure

        wanted = c.parse_size(size)
        assert wanted is not None
        compute = c.ComputeConfig(model=resolve_model(model), device=device, precision=precision, threads=threads)
        report = measure(compute, wanted, frames)
        _show(screen, report)
        if verbose:
            _show_layers(screen, report)
        if as_json:
            typer.echo(json.dumps(report.to_dict(), indent=2, allow_nan=False))


def _show(screen: Screen, report: BenchReport) -> None:
    network = report.network
    (width, height), (wide, high) = report.size, report.output_size
    values = {"the network alone": f"{_time(network.seconds)} a frame, {1 / network.seconds:.1f} frames/s"}
    values |= {f"  of it {part}": _time(seconds) for part, seconds in network.parts.items()}
    values["its multiply-adds"] = f"{network.multiply_adds / 1e9:.2f} G a frame, {network.rate / 1e9:.1f} G/s"
    if network.isolated_rate is not None and network.share is not None:
        values["its convolutions in isolation"] = (
            f"{_time(network.isolated_seconds)} a frame, {network.isolated_rate / 1e9:.1f} G/s"
        )
        values["share of that rate reached"] = f"{100 * network.share:.0f} %"
    values["peak memory, network alone"] = _memory(network.peak_memory_bytes)
    values["peak memory, whole film"] = _memory(report.video_peak_memory_bytes)
    where = f"{report.device} ({report.precision}, {report.threads} threads)"
    screen.fields(f"{report.model} on {where}, {width}x{height} to {wide}x{high}", values)
    # The stages work at the same time, so they add up to more than the whole.
    stages = [*report.video_stage_seconds.items(), ("from file to file", report.video_wall_seconds)]
    rows = [[name, f"{seconds:.2f} s", _time(seconds / report.frames)] for name, seconds in stages]
    screen.table(f"a film of {report.frames} frames", ["stage", "works for", "each frame"], rows)


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
    screen.table("convolutions of a frame; one call of each in isolation", columns, rows)


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def _memory(size: int) -> str:
    return f"{size / 2**20:.0f} MiB" if size else "unknown"
