"""A second lane of work beside the caller's: each on cores of its own. What is computed in them is their callers'."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

# How long a lane that wants the interpreter leaves it to the other; the default, 5 ms, is what several layers take.
SWITCH_SECONDS = 0.0002


class Overlap:
    """Two lanes on a CPU with several cores; elsewhere one, in which everything is done at once and in turn.

    Two threads that each compute an operation of their own lose nothing where one is small or reads what the other one
    has not finished; all threads on one operation after the other do (two cores, secnet-fast at 320x180: 17 % of their
    time, and a thread that waits keeps the encoder from its core).
    """

    def __init__(self, device: torch.device, share: float, is_split: bool = True) -> None:
        """`share` of the threads that torch has now are for the second lane; without `is_split` there is none."""
        threads = torch.get_num_threads()
        self._beside = min(max(1, round(share * threads)), threads - 1)
        self.enabled = is_split and device.type == "cpu" and self._beside > 0
        self._executor = ThreadPoolExecutor(1, "lane") if self.enabled else None
        self._started: list[Future[Any]] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """Where `start` may be called. When it ends all work is done, and what any of it raised is raised."""
        if self._executor is None:
            yield
            return
        threads, interval = torch.get_num_threads(), sys.getswitchinterval()
        torch.set_num_threads(max(1, threads - self._beside))
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            yield
        finally:
            wait(self._started)
            started, self._started = self._started, []
            torch.set_num_threads(threads)
            sys.setswitchinterval(interval)
        for future in started:
            future.result()

    def start(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """Starts `work` behind what was started before; returns what waits for its result."""
        if self._executor is None:
            result = work()
            return lambda: result
        future = self._executor.submit(self._run, work)
        self._started.append(future)
        return future.result

    def _run(self, work: Callable[[], Result]) -> Result:
        torch.set_num_threads(self._beside)
        with torch.inference_mode():
            return work()
