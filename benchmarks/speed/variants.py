"""The variants that precision.py compares: precision, memory layout, compilation, CUDA graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from benchmarks.common.engines import run_engine
from vidsr.config import ComputeConfig, Precision
from vidsr.engines.select import build_engine, select
from vidsr.nets.secnet.network import SECNet

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
WARM_UP_RUNS = 3
Enlarge = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Variant:
    """One way to run the network on a whole clip; "engine" is the stream, which chooses its own memory layout."""

    precision: Precision
    channels_last: bool
    mode: Literal["eager", "compile", "CUDA graph", "engine"]

    @property
    def name(self) -> str:
        layout = ["channels_last"] if self.channels_last and self.mode != "engine" else []
        return ", ".join([self.precision, *layout, *([] if self.mode == "eager" else [self.mode])])


def variants(device: torch.device, compiled: bool) -> list[Variant]:
    """All variants for a device, the float32 baseline first; the engine itself refuses fp16 on a CPU."""
    found = [Variant(precision, layout, "eager") for precision in PRECISIONS for layout in (False, True)]
    native = PRECISIONS if device.type == "cuda" else PRECISIONS[:2]
    if compiled:
        found += [Variant(precision, True, "compile") for precision in native]
    if device.type == "cuda":
        found += [Variant(precision, True, "CUDA graph") for precision in PRECISIONS]
    return found + [Variant(precision, True, "engine") for precision in native]


def build(variant: Variant, network: SECNet, compute: ComputeConfig, low: Tensor) -> Enlarge:
    """A function from the clip T x 3 x h x w on its device to its results; the first calls may take long."""
    if variant.mode == "engine":
        return stream(compute, variant.precision, low)
    moved = copy.deepcopy(network).to(low.device)
    if variant.channels_last:
        moved.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in torch's annotations
    for module in moved.modules():
        if isinstance(module, nn.Conv2d):
            module.to(DTYPES[variant.precision])
    if variant.mode == "CUDA graph":
        return captured(moved, low)
    runner = torch.compile(moved, dynamic=False) if variant.mode == "compile" else moved

    def enlarge(clip: Tensor) -> Tensor:
        results: Tensor = runner(clip[None]).results[0]
        return results

    return enlarge


def stream(compute: ComputeConfig, precision: Precision, low: Tensor) -> Enlarge:
    """The engine that the command line uses, frame by frame, untiled."""
    height, width = low.shape[2:]
    options = ComputeConfig(model=compute.model, device=compute.device, precision=precision, tile="off")
    engine = build_engine(select(options, "upscale", height, width)).engine

    return partial(run_engine, engine)


def captured(network: SECNet, low: Tensor) -> Enlarge:
    """The network as one CUDA graph; a result is valid until the next call."""
    clip = low[None].clone()
    side = torch.cuda.Stream(low.device)
    side.wait_stream(torch.cuda.current_stream(low.device))
    with torch.cuda.stream(side):  # the first runs choose algorithms and allocate, which a capture must not do
        for _ in range(WARM_UP_RUNS):
            network(clip)
    torch.cuda.current_stream(low.device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results: Tensor = network(clip).results[0]

    def replay(new: Tensor) -> Tensor:
        clip.copy_(new[None])
        graph.replay()
        return results

    return replay
