"""Scheduling priority of the encoder's threads."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

ENCODER_NICENESS = 19


def lower_thread_priority() -> None:
    """Gives the calling thread, and all threads that it starts later, the lowest priority (Linux only).

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
    with ThreadPoolExecutor(1, initializer=lower_thread_priority) as executor:
        executor.submit(open_encoder).result()
