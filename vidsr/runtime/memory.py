"""Memory of the process and the device: free memory, peak use, and errors that mean a lack of it."""

from __future__ import annotations

import errno
import mmap
import re
import sys

import psutil
import torch

from vidsr.errors import NO_THREADS, DeviceError

# Libraries share no exception type: CUDA has its own; CPU, MPS, cuDNN, oneDNN and ONNX Runtime raise RuntimeErrors or
# errors of their own. oneDNN says nothing of memory; its "primitive descriptor" is another thing, which it refuses for
# arguments that it does not support.
_MEMORY_MESSAGES = re.compile(
    r"out of memory|not enough memory|(can't|cannot|could not|failed to) allocate|alloc_failed|bad_?alloc"
    r"|std::bad_alloc|malloc of size|could not (create|execute) a (primitive|memory)(?! descriptor)"
)
_THREAD_MESSAGES = re.compile(
    r"can't start new thread|thread creation failed|pthread_create|resource temporarily unavailable"
)
SMALL_ALLOCATION = 256 << 20  # bytes; a frame of 8K in 16 bits has 200 MB


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a computation means that memory ran out, on any device and in any library."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return _is_of_a_library(error) and bool(_MEMORY_MESSAGES.search(str(error).lower()))


def is_out_of_threads(error: BaseException) -> bool:
    """Whether an error means that the system refused another thread or process."""
    if isinstance(error, OSError):
        return error.errno == errno.EAGAIN
    return _is_of_a_library(error) and bool(_THREAD_MESSAGES.search(str(error).lower()))


def is_memory_short() -> bool:
    """Whether the system refuses an allocation that is small for a video; for errors that name no cause."""
    try:
        mmap.mmap(-1, SMALL_ALLOCATION).close()
    except (OSError, MemoryError):
        return True
    return False


def shortage(error: BaseException) -> DeviceError | None:
    """The user error for an error that means a lack of memory or threads; None for any other."""
    if is_out_of_threads(error):
        return DeviceError(NO_THREADS)
    if is_out_of_memory(error):
        return DeviceError("not enough memory: close other programs, lower --tile, or choose a smaller model or device")
    return None


def _is_of_a_library(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) or type(error).__module__.partition(".")[0] == "onnxruntime"


_processes = 1


def share_memory(processes: int) -> None:
    """From now on `free_memory` is the share of this process: `processes` of them work at once."""
    global _processes
    _processes = processes


def free_memory(device: torch.device) -> int:
    """Free bytes on the device for this process; for a device without memory of its own (CPU, MPS), of the system."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // _processes
    return int(psutil.virtual_memory().available) // _processes


def free_memory_text(processes: int) -> str:
    """The free system memory for each of `processes`, in words."""
    return f"{int(psutil.virtual_memory().available) / processes / 2**30:.1f} GiB"


def peak_memory_bytes(device: torch.device | str) -> int:
    """Peak memory in bytes: allocated by torch on a GPU, resident set of the process on a CPU; 0 if unknown."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
