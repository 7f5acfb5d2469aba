"""Threads of the process: whether the system allows enough of them, and how many torch uses.

NumPy, torch and OpenMP start a thread for each core, and end the process where they cannot. So it is tried before.
"""

from __future__ import annotations

import os
import threading
from functools import cache

from vidsr.errors import NO_THREADS, DeviceError

# Threads of decoder, encoder, queues and what reads ahead, at least, beside one for each core.
THREADS_BESIDE = 7


def check_threads(count: int = 0) -> None:
    """Raises DeviceError if the system does not allow `count` threads (0: one for each core) and those beside them."""
    is_over, started = threading.Event(), list[threading.Thread]()
    try:
        for _ in range((count or _cores()) + THREADS_BESIDE):
            thread = threading.Thread(target=is_over.wait, name="vidsr-probe", daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise DeviceError(NO_THREADS) from error
    finally:
        is_over.set()
        for thread in started:
            thread.join()


@cache
def _check_once(count: int) -> None:
    """Once for each number: in later runs of a process the threads exist already."""
    check_threads(count)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(count: int) -> None:
    """Sets the number of torch's threads; 0 keeps torch's choice. Raises DeviceError if the system allows fewer."""
    import torch

    wanted = count or torch.get_num_threads()
    if wanted > _cores():  # else it was tried when the command started
        _check_once(wanted)
    if count:
        torch.set_num_threads(count)
