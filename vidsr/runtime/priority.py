"""Scheduling of the encoder's threads."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

# With 19, the lowest, a run starves beside other busy programs: its encoder gets a seventieth of a shared core.
ENCODER_NICENESS = 10


def lower_thread_priority() -> None:
    """Gives the calling thread, and all threads that it starts later, a low priority (Linux only).

    The network's threads synchronize after each operation. When an encoder occupies one core, the others wait too, so
    each second of encoding costs a second on every core (two cores: a run takes 1.34 times the network's time, and 1.25
    times with low priority). The low-priority encoder fills the gaps; when its queue is full, the network waits and the
    encoder has all cores. Does nothing on other systems, where threads have no priority of their own.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ENCODER_NICENESS)


def open_with_low_priority(open_encoder: Callable[[], None]) -> None:
    """Calls `open_encoder` in a temporary low-priority thread, whose priority the encoder's threads inherit.

    Raises what `open_encoder` raises. The thread is temporary because raising a lowered priority needs privileges.
    """
    with ordinary_scheduling(), ThreadPoolExecutor(1, initializer=lower_thread_priority) as executor:
        executor.submit(open_encoder).result()


@contextmanager
def ordinary_scheduling() -> Iterator[None]:
    """Takes back real-time scheduling that threads of this process got inside (Linux only).

    An encoder may give itself real-time scheduling if it is allowed to, as SVT-AV1 does for root, also in a container.
    The calling thread and all threads and processes that it starts would then never leave a core to anything else on
    the machine, and wait for one another forever where there are fewer cores than threads.
    """
    before = _real_time_threads()
    try:
        yield
    finally:
        for thread in _real_time_threads() - before:
            with suppress(OSError):  # the thread has ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _real_time_threads() -> set[int]:
    """The native ids of the threads of this process with real-time scheduling; none on systems other than Linux."""
    found = set()
    if sys.platform == "linux":
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):  # the thread has ended
                if os.sched_getscheduler(int(task.name)) in (os.SCHED_FIFO, os.SCHED_RR):
                    found.add(int(task.name))
    return found
