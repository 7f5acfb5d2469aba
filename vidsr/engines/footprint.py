"""How much memory an engine takes, and the tile that follows from it. Which engine it is, is chosen in `choose`.

Figures are peaks for each input pixel, measured on a CPU, with some room and with the queued frames, of which a result
takes 0.2 kB.
"""

from __future__ import annotations

from pathlib import Path

import torch

from vidsr.engines.tiled import SMALLEST_TILE, auto_tile
from vidsr.errors import UsageError
from vidsr.nets.secnetconfig import SECNetConfig
from vidsr.nets.zsmconfig import ZSMConfig

# ONNX Runtime takes twice as much: 8.4 instead of 4.3 kB for secnet-fast, 16.3 instead of 10.6 for zsm-fast.
ONNX_MEMORY = 2.0
# Where a window of slow motion begins while the one before is finished: 12.9 instead of 7.1 kB for zsm-fast in
# bfloat16, 19.3 instead of 10.0 in float32.
OVERLAPPED_MEMORY = 1.6


def bicubic_bytes_per_pixel(enlargement: int) -> float:
    """The bicubic engine's. Measured: 0.7 kB at 4 times."""
    return 2000.0 * max(1.0, (enlargement / 4) ** 2)


def network_bytes_per_pixel(config: SECNetConfig, precision: str) -> float:
    """A SECNet's. Measured: secnet-fast 5.2 kB where frames overlap, else 2.6 to 4.3, with five frames 5.5; the paper's
    size 36, in bfloat16 22.
    """
    if config.detail_widths:  # full-size pictures in two scales
        bytes_per_pixel = 43_000.0 if precision == "fp32" else 28_000.0
    else:
        bytes_per_pixel = 6400.0 if config.t1 == 1 else 8200.0
    return 2 * bytes_per_pixel if config.mirrored else bytes_per_pixel


def slowmo_bytes_per_pixel(config: ZSMConfig, precision: str, is_enlarged: bool) -> float:
    """A ZoomingSlowMo's, with two frames of look-ahead; half of it is the moments that wait for their future.

    Measured in float32 and bfloat16: zsm-fast 10.0 and 7.1 kB, zsm 49 and 29; without enlargement 2.8 and 1.7, 13 and
    8.5.
    """
    if config.kernel == 1:
        enlarged, same_size, width = 14_000.0, 4000.0, 32
    else:
        enlarged, same_size, width = 60_000.0, 16_000.0, 64
    bytes_per_pixel = (enlarged if is_enlarged else same_size) * config.width / width
    return bytes_per_pixel if precision == "fp32" else 0.7 * bytes_per_pixel


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
