"""Memory of the process and of its device: what is free, what was used at most, and that freed buffers are kept."""

from __future__ import annotations

import ctypes
import sys

import psutil
import torch

# glibc's numbers for M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (its upper limit) and M_ARENA_MAX.
MALLOC_OPTIONS = {-1: 2**31 - 1, -3: 32 << 20, -8: 1}


def free_memory(device: torch.device) -> int:
    """Bytes that a program can still have on the device; a device without memory of its own (MPS) has the system's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def peak_memory_bytes(device: torch.device | str) -> int:
    """Peak bytes on the device: what torch held on a GPU, the resident set of the process on a CPU; 0 if unknown."""
    if torch.device(device).type == "cuda":
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
