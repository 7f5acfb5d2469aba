"""The memory of this process: how much it took at most, and that what is freed is kept. No device is chosen here."""

from __future__ import annotations

import ctypes
import sys

import torch

# glibc's numbers for M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (its upper limit) and M_ARENA_MAX.
MALLOC_OPTIONS = {-1: 2**31 - 1, -3: 32 << 20, -8: 1}


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
    """Makes the C library keep what is freed, in one heap for all threads, where it is glibc; else does nothing.

    By itself it returns large buffers to the system, which has to clear them anew for every frame, and gives each
    thread a heap of its own that the others cannot use. Buffers above 32 MB go back in any case. To be called before a
    second thread allocates.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version"):
        for parameter, value in MALLOC_OPTIONS.items():
            library.mallopt(parameter, value)
