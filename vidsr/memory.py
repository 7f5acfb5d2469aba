"""The memory of this process: how much it took at most, and that what is freed is kept. No device is chosen here."""

from __future__ import annotations

import sys

import torch


def peak_memory_bytes(device: torch.device) -> int:
    """Peak bytes on the device: what torch held on a GPU, the resident set of the process on a CPU; 0 if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_freed_memory() -> None:
    """Makes the C library keep freed buffers of up to 31 MB for the next frame, where it is glibc; else does nothing.

    By itself it returns large buffers to the system, which has to clear them anew for every frame: 40 % of all page
    faults and 1 to 3 % of the processor time of a slow motion. glibc raises its limit to the largest buffer freed.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
