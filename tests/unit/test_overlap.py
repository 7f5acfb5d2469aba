"""Overlap: order of work, threads, errors, and no worker where there are no cores to fraction."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from tests.support.torch_threads import torch_threads
from vidsr.runtime.overlap import Overlap

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    with torch_threads(4):
        yield


def where() -> tuple[int, int]:
    """The calling thread, and torch's number of threads in it."""
    return threading.get_ident(), torch.get_num_threads()


@pytest.mark.parametrize("fraction, threads", [(0.5, (2, 2)), (0.25, (3, 1)), (0.01, (3, 1)), (1.0, (1, 3))])
def test_the_worker_gets_its_fraction_of_the_threads(fraction: float, threads: tuple[int, int]) -> None:
    overlap = Overlap(CPU, fraction)
    with overlap.open():
        later, here = overlap.start(where), where()
        there = later()
    assert (here[1], there[1]) == threads and here[0] != there[0] == worker_thread(overlap)
    assert where() == (threading.get_ident(), 4)


def worker_thread(overlap: Overlap) -> int:
    with overlap.open():
        return overlap.start(threading.get_ident)()


@pytest.mark.parametrize("threads, device, is_split", [(1, "cpu", True), (4, "cuda", True), (4, "cpu", False)])
def test_without_a_worker_work_runs_immediately(threads: int, device: str, is_split: bool) -> None:
    torch.set_num_threads(threads)
    overlap, done = Overlap(torch.device(device), 0.5, is_split), list[str]()
    assert not overlap.enabled
    with overlap.open():
        later = overlap.start(lambda: done.append("started") or where())
        done.append("here")
    assert done == ["started", "here"] and later() == (threading.get_ident(), threads)


def test_started_work_is_done_in_order_and_before_the_block_ends() -> None:
    overlap, done, may_go = Overlap(CPU, 0.5), list[int](), threading.Event()
    with overlap.open():
        overlap.start(may_go.wait)
        for number in range(5):
            overlap.start(lambda number=number: done.append(number))
        assert done == []
        may_go.set()
    assert done == [0, 1, 2, 3, 4]


def test_both_threads_run_at_the_same_time() -> None:
    overlap, meeting = Overlap(CPU, 0.5), threading.Barrier(2, timeout=20)
    with overlap.open():
        later = overlap.start(meeting.wait)
        own = meeting.wait()
        assert {own, later()} == {0, 1}


def test_the_worker_records_no_gradients() -> None:
    weight = torch.ones(3, requires_grad=True)
    overlap = Overlap(CPU, 0.5)
    with overlap.open():
        assert not overlap.start(lambda: weight * 2)().requires_grad


def test_an_error_of_the_worker_is_raised_even_if_nobody_waits() -> None:
    overlap = Overlap(CPU, 0.5)

    def fail() -> None:
        raise MemoryError("in the worker")

    with pytest.raises(MemoryError, match="in the worker"), overlap.open():
        overlap.start(fail)
    assert torch.get_num_threads() == 4
    with overlap.open():  # the failure is not kept
        overlap.start(where)


def test_an_error_of_the_caller_takes_precedence_and_waits_for_the_worker() -> None:
    overlap, done = Overlap(CPU, 0.5), list[str]()

    def fail_late() -> None:
        threading.Event().wait(0.05)
        done.append("second")
        raise MemoryError("in the worker")

    with pytest.raises(ValueError, match="in the caller"), overlap.open():
        overlap.start(fail_late)
        raise ValueError("in the caller")
    assert done == ["second"] and torch.get_num_threads() == 4
