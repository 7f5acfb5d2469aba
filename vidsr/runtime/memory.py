"""Memory of the process and the device: free memory, peak use, and the allocator settings of glibc."""

from __future__ import annotations

import ctypes
import sys

import psutil
import torch

# glibc's numbers for M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (its upper limit) and M_ARENA_MAX.
MALLOC_OPTIONS = {-1: 2**31 - 1, -3: 32 << 20, -8: 1}


def free_memory(device: torch.device) -> int:
    """Free bytes on the device; for a device without memory of its own (CPU, MPS), free system memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def peak_memory_bytes(device: torch.device | str) -> int:
    """Peak memory in bytes: allocated by torch on a GPU, resident set of the process on a CPU; 0 if unknown."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory, in one heap for all threads; does nothing with other C libraries.

    By default glibc returns large buffers to the system, which has to clear them again for every frame, and gives each
    thread a heap that the others cannot use. Buffers above 32 MB are returned in any case. Call this before a second
    thread allocates.
    """
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt") and hasattr(library, "gnu_get_libc_version"):
        for parameter, value in MALLOC_OPTIONS.items():
            library.mallopt(parameter, value)
