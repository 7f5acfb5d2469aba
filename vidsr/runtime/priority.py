"""Priority of the encoder's threads. Which encoder runs lives elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

ENCODER_NICENESS = 19


def lower_thread_priority() -> None:
    """Makes the calling thread, and threads it starts from now on, run only where others leave a core free (Linux).

    The network works in step on all cores: whenever an encoder takes one of them, the others wait too, so each second
    of encoding costs a second on every core (two cores: 1.34 times the network's time for a film, 1.25 times this way).
    Behind the network the encoder works in the gaps, and when its queue is full the network sleeps and the encoder has
    all cores. On other systems than Linux threads have no priority of their own, and nothing is done.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), ENCODER_NICENESS)


def open_with_low_priority(open_encoder: Callable[[], None]) -> None:
    """Calls `open_encoder` in a passing thread, so that the encoder's own threads inherit its low priority.

    Raises what `open_encoder` raises. In a thread of its own, because a lowered priority needs privileges to be raised.
    """
    with ThreadPoolExecutor(1, initializer=lower_thread_priority) as passing:
        passing.submit(open_encoder).result()
