"""Sets torch's number of threads temporarily: overlap depends on it, and machines and workers differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Sets the number of threads for the block; restores it afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """Enough threads of torch for overlap, on any machine and in any worker."""
    with torch_threads(2):
        yield
