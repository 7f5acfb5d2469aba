"""Chooses the device and the precision: the only place that queries what hardware the machine has."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from vidsr.errors import DeviceError, UsageError

NATIVE_BF16 = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16")


@dataclass(frozen=True, slots=True)
class Device:
    """A device that `--device` takes on this machine. `precision` is what `--precision auto` means on it."""

    name: str
    model: str
    memory_bytes: int
    precision: str


def list_devices() -> list[Device]:
    """The devices of this machine, the CPU first."""
    cpu = torch.device("cpu")
    total = psutil.virtual_memory().total
    devices = [Device("cpu", processor_name(), total, choose_precision("auto", cpu))]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        found = torch.cuda.get_device_properties(index)
        precision = choose_precision("auto", torch.device("cuda", index))
        devices.append(Device(f"cuda:{index}", found.name, found.total_memory, precision))
    if torch.backends.mps.is_available():
        devices.append(Device("mps", "Apple GPU", total, choose_precision("auto", torch.device("mps"))))
    return devices


def processor_name() -> str:
    """The processor's model in its maker's words, or the architecture where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def choose_device(name: str) -> torch.device:
    """The device for `--device`; "auto" is CUDA if available, else the CPU. Raises UsageError or DeviceError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (number and not (kind == "cuda" and number.isdecimal())):
        raise UsageError(f"unknown device '{name}': use auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device '{name}' is not available: use --device cpu or auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("device 'mps' is not available: use --device cpu or auto")
    return torch.device(name)


def choose_precision(wanted: str, device: torch.device, backend: str = "torch") -> str:
    """The precision of the convolutions; "auto" is the fastest that the device supports natively. Raises UsageError."""
    if backend == "onnx":
        return "fp32"
    if wanted == "fp16" and device.type == "cpu":
        raise UsageError("fp16 is not supported on the CPU: use --precision bf16, fp32 or auto")
    if wanted != "auto":
        return wanted
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return "bf16" if any(capabilities.get(name, False) for name in NATIVE_BF16) else "fp32"
    if device.type == "cuda":
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    return "fp32"


def trains_in_bf16(device: torch.device) -> bool:
    """Whether networks are trained in bf16: only where the device computes in it natively; emulation is slower."""
    return choose_precision("auto", device) == "bf16"


def training_autocast(device: torch.device) -> torch.autocast:
    """bf16 autocast where `trains_in_bf16`, else none. fp16, which would need scaled gradients, is never used."""
    return torch.autocast(device.type, torch.bfloat16, enabled=trains_in_bf16(device))
