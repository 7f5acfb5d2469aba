"""What every test is watched for: it leaves random numbers, torch, threads, files and the log as they were.

Fixtures that tests/conftest.py takes over; each fails the test that it follows.
"""

from __future__ import annotations

import gc
import logging
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

# Seconds that a test's threads have to end after it: a queue's thread may be closing.
GRACE = 2.0
# What tools keep in the folder that tests run in.
CACHES = {".hypothesis", ".mypy_cache", ".pytest_cache", ".ruff_cache", "__pycache__"}


@pytest.fixture(autouse=True)
def random_numbers_as_before() -> Iterator[None]:
    """What a test seeds or draws changes nothing for the next one."""
    python, legacy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(python)
    np.random.set_state(legacy)  # noqa: NPY002
    torch.set_rng_state(of_torch)


@pytest.fixture(autouse=True)
def torch_as_before() -> Iterator[None]:
    """Threads, default type and gradients of torch."""
    threads, dtype, has_gradients = torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    torch.set_grad_enabled(has_gradients)


class _Errors(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(f"{record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def no_error_is_logged() -> Iterator[None]:
    """Nothing is logged at level ERROR or above: what goes wrong is raised."""
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    yield
    logging.getLogger().removeHandler(errors)
    if errors.messages:
        pytest.fail(f"logged as an error: {'; '.join(errors.messages)}")


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """All threads that a test started have ended."""
    before = set(threading.enumerate())
    yield
    if set(threading.enumerate()) - before:
        gc.collect()  # an engine in a reference cycle keeps its worker until the cycle is collected
    deadline = time.monotonic() + GRACE
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline - time.monotonic()))
    if left := sorted(thread.name for thread in set(threading.enumerate()) - before):
        pytest.fail(f"threads are left: {', '.join(left)}")


@pytest.fixture(autouse=True)
def no_file_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """No new file in the working directory, and no hidden one, as unfinished results are, in the test's folder."""
    folder = Path.cwd()
    before = {path.name for path in folder.iterdir()}
    yield
    left = [str(folder / name) for name in sorted({path.name for path in folder.iterdir()} - before - CACHES)]
    own = request.node.funcargs.get("tmp_path")
    if isinstance(own, Path) and not request.node.get_closest_marker("leaves_hidden_files"):
        left += [str(path) for path in sorted(own.rglob(".*")) if path.is_file()]
    if left:
        pytest.fail(f"files are left: {', '.join(left)}")
