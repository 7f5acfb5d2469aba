"""From options to a ready engine: which device, which precision, which model, which tile. No engine's arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from vidsr.config import ComputeConfig
from vidsr.engines.bicubic import BicubicEngine
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.engines.tiled import SMALLEST_TILE, TiledEngine, auto_tile
from vidsr.errors import DeviceError, ModelError, UsageError
from vidsr.nets.secnet import SECNet, SECNetConfig
from vidsr.weights import ModelCard, find_card, load_network, untrained_presets

DEFAULT_MODEL = "secnet-fast"
NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16")
# Peak memory for each input pixel as measured (bicubic 0.7 kB; secnet-fast 2.6 to 4.3, with five frames 5.5; the
# paper's size 22 in half precision and 36 in float32), plus six queued results of 0.2 kB each, and some room.
BICUBIC_BYTES_PER_PIXEL = 2000.0


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """An engine, ready to run, and what the report says of it. `card` is None for bicubic."""

    engine: TiledEngine
    model: str
    card: ModelCard | None
    device: torch.device
    precision: str


def choose_device(name: str) -> torch.device:
    """The device of `--device`; auto takes CUDA if there is one. Raises UsageError or DeviceError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"unknown device '{name}': use auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise DeviceError(f"there is no device '{name}' here: use --device cpu, or auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("there is no device 'mps' here: use --device cpu, or auto")
    return torch.device(name)


def choose_precision(wanted: str, device: torch.device) -> str:
    """The precision of the convolutions; auto is the fastest that the device computes natively. Raises UsageError."""
    if wanted == "fp16" and device.type == "cpu":
        raise UsageError("fp16 is for GPUs: on a CPU use --precision bf16, fp32 or auto")
    if wanted != "auto":
        return wanted
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return "bf16" if any(capabilities.get(name, False) for name in NATIVE_BF16) else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    return "fp32"


def choose_card(model: str) -> ModelCard | None:
    """The card of `--model`; None for bicubic. Raises ModelError for an unknown name, or a model of another kind."""
    if model == "bicubic":
        return None
    name = DEFAULT_MODEL if model == "auto" else model
    for preset in untrained_presets():  # a model of another kind needs no training first to be refused
        if preset.name == name:
            _check_enlarges(preset.name, preset.architecture)
    card = find_card(name)
    _check_enlarges(card.name, card.architecture)
    return card


def choose_engine(compute: ComputeConfig, height: int, width: int, enlargement: int = 4) -> ChosenEngine:
    """The engine for frames of this size in input pixels. Raises UsageError, ModelError or DeviceError.

    `enlargement`, 1 to 8, is what bicubic does by itself, so that it is exact there; a network has its own.
    """
    card = choose_card(compute.model)
    device = choose_device(compute.device)
    if card is None:
        inner: BicubicEngine | RecurrentEngine = BicubicEngine(enlargement, device)
        name, precision = "bicubic", "fp32"
        bytes_per_pixel = BICUBIC_BYTES_PER_PIXEL * max(1.0, (enlargement / 4) ** 2)
    else:
        precision = choose_precision(compute.precision, device)
        network = load_network(card)
        assert isinstance(network, SECNet), "choose_card lets nothing else pass"
        inner = RecurrentEngine(network, card.name, device, precision)
        name, bytes_per_pixel = card.name, network_bytes_per_pixel(network.config, precision)
    tile = choose_tile(compute.tile, height, width, bytes_per_pixel, device)
    return ChosenEngine(TiledEngine(inner, tile), name, card, device, precision)


def _check_enlarges(name: str, architecture: str) -> None:
    if architecture != "secnet":
        raise ModelError(
            f"the model '{name}' ({architecture}) makes new frames between the given ones and cannot be used here: "
            f"choose one that only enlarges them, such as {DEFAULT_MODEL}"
        )


def network_bytes_per_pixel(config: SECNetConfig, precision: str) -> float:
    """Peak memory for each input pixel, as measured on a CPU, with some room."""
    if config.detail_widths:  # full-size pictures in two scales
        bytes_per_pixel = 43_000.0 if precision == "fp32" else 28_000.0
    else:
        bytes_per_pixel = 5200.0 if config.t1 == 1 else 7000.0
    return 2 * bytes_per_pixel if config.mirrored else bytes_per_pixel


def choose_tile(wanted: int | str, height: int, width: int, bytes_per_pixel: float, device: torch.device) -> int | None:
    """The tile of `--tile`, in input pixels; None for the whole frame. Raises UsageError for one that is too small."""
    if wanted == "off":
        return None
    if isinstance(wanted, int):
        if wanted < SMALLEST_TILE:
            raise UsageError(f"a tile of {wanted} pixels is too small: use {SMALLEST_TILE} or more")
        return wanted
    free = free_memory(device)
    return None if free is None else auto_tile(height, width, bytes_per_pixel, free)


def free_memory(device: torch.device) -> int | None:
    """Bytes that a program can still have on the device; None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    table = Path("/proc/meminfo")
    if device.type == "cpu" and table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None
