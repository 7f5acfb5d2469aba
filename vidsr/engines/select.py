"""From options to a ready engine: which device, which precision, which model, which tile. No engine's arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vidsr.config import ComputeConfig
from vidsr.engines.base import Engine
from vidsr.engines.bicubic import BicubicEngine
from vidsr.engines.chain import ChainEngine
from vidsr.engines.onnx import OnnxMidpointEngine, OnnxRecurrentEngine, OnnxSlowmoEngine
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.engines.slowmo import MidpointEngine, SlowmoEngine
from vidsr.engines.tiled import (
    ONNX_MEMORY,
    OVERLAPPED_MEMORY,
    TiledEngine,
    bicubic_bytes_per_pixel,
    choose_tile,
    network_bytes_per_pixel,
    slowmo_bytes_per_pixel,
)
from vidsr.errors import DeviceError, ModelError, UsageError
from vidsr.models.loading import ModelCard, find_card, list_cards, load_network, untrained_presets
from vidsr.nets.secnet.network import SECNet
from vidsr.nets.zsm.network import ZoomingSlowMo

DEFAULT_MODEL = "secnet-fast"
DEFAULT_SLOWMO_MODEL = "zsm-fast"
NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16")


@dataclass(frozen=True, slots=True)
class ChosenEngine:
    """An engine, ready to run, and what the report says of it. `card` is None for bicubic.

    `midpoint` makes frames between two of the input at its size; only networks for slow motion with a head for that
    have it.
    """

    engine: TiledEngine
    model: str
    card: ModelCard | None
    device: torch.device
    precision: str
    midpoint: TiledEngine | None = None


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


def choose_precision(wanted: str, device: torch.device, backend: str = "torch") -> str:
    """The precision of the convolutions; auto is the fastest that the device computes natively. Raises UsageError."""
    if backend == "onnx":
        return "fp32"
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
    is_onnx = compute.backend == "onnx"
    if card is None:
        inner: Engine = BicubicEngine(enlargement, device)
        name, precision = "bicubic", "fp32"
        bytes_per_pixel = bicubic_bytes_per_pixel(enlargement)
    else:
        precision = choose_precision(compute.precision, device, compute.backend)
        network = load_network(card)
        assert isinstance(network, SECNet), "choose_card lets nothing else pass"
        if is_onnx:
            inner = OnnxRecurrentEngine(network, card.name, device)
        else:
            inner = RecurrentEngine(network, card.name, device, precision)
        name, bytes_per_pixel = card.name, network_bytes_per_pixel(network.config, precision)
        bytes_per_pixel *= ONNX_MEMORY if is_onnx else 1.0
    tile = choose_tile(compute.tile, height, width, bytes_per_pixel, device)
    return ChosenEngine(TiledEngine(inner, tile), name, card, device, precision)


def _check_enlarges(name: str, architecture: str) -> None:
    if architecture != "secnet":
        raise ModelError(
            f"the model '{name}' ({architecture}) makes new frames between the given ones and cannot be used here: "
            f"choose one that only enlarges them, such as {DEFAULT_MODEL}"
        )


def choose_slowmo_card(model: str) -> ModelCard:
    """The card of `--model` for slow motion. Raises ModelError for an unknown name, or a model of another kind."""
    name = DEFAULT_SLOWMO_MODEL if model == "auto" else model
    fitting = f"choose one that makes new frames between the given ones, such as {DEFAULT_SLOWMO_MODEL}"
    known = {card.name for card in list_cards()} | {preset.name for preset in untrained_presets()}
    if name == "bicubic":
        raise ModelError(f"bicubic only enlarges frames: {fitting}")
    if name not in known and not name.endswith(".toml"):
        raise ModelError(f"unknown model '{name}': {fitting}, or give the path of a model card (.toml)")
    architectures = {preset.name: preset.architecture for preset in untrained_presets()}
    if architectures.get(name, "zsm") == "zsm":
        card = find_card(name)
        if card.architecture == "zsm":
            return card
        architectures[name] = card.architecture
    raise ModelError(f"the model '{name}' ({architectures[name]}) only enlarges frames: {fitting}")


def choose_slowmo(compute: ComputeConfig, height: int, width: int, enlargement: int, interp: int) -> ChosenEngine:
    """The engine for `interp` (2, 4 or 8) times as many frames. Raises UsageError, ModelError or DeviceError.

    Of the frames' own size for an `enlargement` of 1, four times larger otherwise. Frames are doubled until they are
    enough, at the size of the input; only the last doubling enlarges.
    """
    card = choose_slowmo_card(compute.model)
    device = choose_device(compute.device)
    precision = choose_precision(compute.precision, device, compute.backend)
    network = load_network(card)
    assert isinstance(network, ZoomingSlowMo), "choose_slowmo_card lets nothing else pass"
    doublings = interp.bit_length() - 1
    arguments, halvings = (network, card.name, device), doublings - (enlargement > 1)
    is_onnx, midpoint = compute.backend == "onnx", None
    if halvings or network.config.synthesis_blocks:
        midpoint = OnnxMidpointEngine(*arguments) if is_onnx else MidpointEngine(*arguments, precision)
    engines: list[Engine] = [midpoint] * halvings if midpoint else []
    if enlargement > 1:
        engines.append(OnnxSlowmoEngine(*arguments) if is_onnx else SlowmoEngine(*arguments, precision))
    inner = engines[0] if len(engines) == 1 else ChainEngine(engines)
    bytes_per_pixel = slowmo_bytes_per_pixel(network.config, precision, enlargement > 1)
    if is_onnx:
        bytes_per_pixel *= ONNX_MEMORY
    elif device.type == "cpu" and enlargement > 1:
        bytes_per_pixel *= OVERLAPPED_MEMORY
    tile = choose_tile(compute.tile, height, width, bytes_per_pixel, device)
    between = TiledEngine(midpoint, tile) if midpoint else None
    return ChosenEngine(TiledEngine(inner, tile), card.name, card, device, precision, between)
