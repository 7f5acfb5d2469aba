"""How many processes of pytest-xdist run the suite, which tests each begins with, and how many threads it gets.

Hooks of pytest that tests/conftest.py takes over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import pytest

T = TypeVar("T")

# A worker's peak was 1.4 GB: torch, and the largest networks of the tests.
WORKER_BYTES = 2 << 30


def usable_cores() -> int:
    """The cores that this process may use: fewer than the machine has under taskset or in a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_count() -> int:
    """One worker for each usable core, as far as the free memory suffices; at least 1."""
    return max(1, min(usable_cores(), psutil.virtual_memory().available // WORKER_BYTES))


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Asks for workers, before pytest-xdist reads its options, where the command line leaves it open and they help.

    `-n` and `-p no:xdist` decide otherwise. Tests run in one process where only files or single tests are named,
    because starting workers takes seconds, and where a debugger or the test's own output would need the terminal.
    A worker, which passes here too, and a program that a test starts ask for none.
    """
    option = config.option
    if not hasattr(option, "numprocesses") or "PYTEST_XDIST_WORKER" in os.environ:
        return
    is_alone = option.usepdb or option.trace or option.capture == "no" or option.collectonly
    names_files = all("::" in name or Path(name).is_file() for name in config.args)
    if option.numprocesses is None and not option.tx and not is_alone and not names_files and worker_count() > 1:
        option.numprocesses = worker_count()
    if option.numprocesses and option.dist == "no":
        # Each worker begins with a run of neighboring tests, so that the fixtures of few modules are made twice.
        option.dist = "worksteal"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """What `-n auto` means; pytest-xdist itself counts the cores of the machine."""
    return None if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") else worker_count()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: list[object]) -> None:
    """Divides the cores among the workers, which inherit the environment; what the user has set stays.

    Tests that need a second thread ask for it (tests/support/torch_threads.py); a waiting thread sleeps instead of
    keeping another worker from its core.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // len(specs))))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def dealt(tests: Sequence[T], rank: Callable[[T], int | None], workers: int) -> list[T]:
    """The tests in an order in which each worker begins with its share of the longest, so that none waits for them.

    `rank` tells how many are longer, None for the others, whose order stays. As "worksteal" has it, each worker gets a
    run of tests of the same length, and one that is done takes from the end of another's.
    """
    longest = sorted((test for test in tests if rank(test) is not None), key=lambda test: rank(test) or 0)
    rest = [test for test in tests if rank(test) is None]
    order, left = list[T](), len(tests)
    for worker in range(workers):
        size = left // (workers - worker)
        mine = longest[worker::workers]
        others = max(0, size - len(mine))
        order += [*mine, *rest[:others]]
        rest, left = rest[others:], left - size
    return [*order, *rest]
