"""Runs part of a frame's work in a second thread with its own core budget."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")

# How long a thread waiting for the interpreter lock leaves it to the other one. The default of 5 ms is as long as
# several layers take.
SWITCH_SECONDS = 0.0002


class Overlap:
    """A worker thread beside the caller's, if `enabled`: on a CPU with several cores. Elsewhere work runs immediately.

    With all cores on one operation after the other, cores idle during small operations and at dependencies between
    operations (two cores, secnet-fast at 320x180: 17 % of their time, and a spinning thread keeps the encoder from its
    core). Two threads that each run their own operation avoid this.
    """

    def __init__(self, device: torch.device, fraction: float, is_split: bool = True) -> None:
        """`fraction` of torch's current threads go to the worker; without `is_split` there is no worker."""
        threads = torch.get_num_threads()
        self._beside = min(max(1, round(fraction * threads)), threads - 1)
        self.enabled = is_split and device.type == "cpu" and self._beside > 0
        self._executor = ThreadPoolExecutor(1, "overlap") if self.enabled else None
        self._started: list[Future[Any]] = []

    @contextmanager
    def open(self) -> Iterator[None]:
        """The block in which `start` may be called. Its end waits for all work and raises the first exception."""
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
        while started:  # a variable for the future would tie its exception, and so the executor, into a cycle
            started.pop(0).result()

    def start(self, work: Callable[[], Result]) -> Callable[[], Result]:
        """Queues `work` after all work started before; returns a function that waits for its result."""
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
