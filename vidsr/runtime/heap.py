"""Settings of memory for a command: glibc's allocator, and Python's garbage collector while modules are loaded.

Imports nothing large, because they are made before anything large is imported.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# glibc's numbers for M_TRIM_THRESHOLD, M_MMAP_THRESHOLD (its upper limit) and M_ARENA_MAX.
MALLOC_OPTIONS = {-1: 2**31 - 1, -3: 32 << 20, -8: 1}


def return_freed_memory() -> None:
    """Returns freed memory to the system where the C library is glibc; for a point where much was freed.

    It makes up for `keep_freed_memory`, after which glibc does so only where asked.
    """
    if sys.platform.startswith("linux") and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)


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


class _Process:
    is_a_command = False


def own_process() -> None:
    """Tells that this process runs one command and nothing else, so that its garbage collector may be set."""
    _Process.is_a_command = True


@contextmanager
def uncollected_imports() -> Iterator[None]:
    """Runs the block, which imports modules, without garbage collections, and spares its objects later ones.

    Modules stay to the end, so collections walk through their objects in vain: they take a tenth of the time in which
    torch, OpenCV and PyAV are imported. Does nothing unless the process is a command's own (`own_process`).
    """
    if not _Process.is_a_command:
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
