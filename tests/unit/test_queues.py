"""Queues and their threads: order, bounds, errors in both directions, and no thread left behind."""

from __future__ import annotations

import _thread
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator

import pytest

from vidsr.runtime.queues import background, prefetch, shorten_queues


@pytest.fixture(autouse=True)
def no_thread_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) == before


def wait_until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < limit, "this should have happened long ago"
        time.sleep(0.002)


class Source:
    """Counts to `length`, then raises `error`; records the items taken and the threads that ran and closed it."""

    def __init__(self, length: int, error: BaseException | None = None) -> None:
        self.length, self.error = length, error
        self.taken = 0
        self.closed_in: threading.Thread | None = None
        self.run_in: set[threading.Thread] = set()

    def items(self) -> Iterator[int]:
        try:
            for i in range(self.length):
                self.run_in.add(threading.current_thread())
                self.taken += 1
                yield i
            if self.error is not None:
                raise self.error
        finally:
            self.closed_in = threading.current_thread()


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("length", [0, 1, 2, 100])
def test_everything_arrives_in_order(length: int, depth: int) -> None:
    source = Source(length)
    with prefetch(source.items(), depth) as items:
        assert list(items) == list(range(length))
        assert list(items) == []
    assert threading.main_thread() not in source.run_in
    assert source.closed_in is not threading.main_thread()


def test_plain_iterators_work_too() -> None:
    with prefetch(iter([1, 2]), 1) as items:
        assert list(items) == [1, 2]


@pytest.mark.parametrize("depth", [1, 4])
def test_reading_is_never_further_ahead_than_the_depth(depth: int) -> None:
    source = Source(50)
    with prefetch(source.items(), depth) as items:
        for used in range(1, 40):
            next(items)
            wait_until(lambda used=used: source.taken == used + depth)
            time.sleep(0.001)
            assert source.taken == used + depth


def test_items_that_were_used_are_not_kept() -> None:
    class Image:
        pass

    with prefetch((Image() for _ in range(3)), 1) as items:
        kept = [weakref.ref(next(items)) for _ in range(3)]
        assert list(items) == []
        wait_until(lambda: all(reference() is None for reference in kept))


def test_an_early_end_closes_the_source_in_its_thread() -> None:
    source = Source(1000)
    with prefetch(source.items(), 2) as items:
        assert next(items) == 0
    assert source.closed_in in source.run_in
    assert source.closed_in is not threading.main_thread()
    assert source.taken <= 4


def test_an_error_of_the_source_comes_after_its_items_with_its_own_traceback() -> None:
    error = ValueError("damaged")
    seen = []
    with pytest.raises(ValueError, match="damaged") as caught, prefetch(Source(3, error).items(), 8) as items:
        seen.extend(items)
    assert caught.value is error
    with prefetch(Source(3, error).items(), 8) as items:
        seen.extend(next(items) for _ in range(3))
    assert seen == [0, 1, 2, 0, 1, 2]
    assert any(entry.name == "items" and entry.line == "raise self.error" for entry in traceback.extract_tb(caught.tb))


def test_an_error_behind_what_is_used_is_not_raised() -> None:
    source = Source(1, ValueError("never reached"))
    with prefetch(source.items(), 8) as items:
        assert next(items) == 0
        wait_until(lambda: source.closed_in is not None)


def test_an_error_of_closing_early_is_raised_at_the_end() -> None:
    def items_that_will_not_close() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            raise OSError("cannot close")

    with pytest.raises(OSError, match="cannot close"), prefetch(items_that_will_not_close(), 1) as items:
        next(items)


def test_an_error_of_the_block_stops_the_source() -> None:
    source = Source(1000)
    with pytest.raises(ZeroDivisionError), prefetch(source.items(), 2) as items:
        next(items)
        raise ZeroDivisionError
    assert source.closed_in in source.run_in


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("length", [0, 1, 100])
def test_everything_is_written_in_order_before_the_end(length: int, depth: int) -> None:
    written: list[tuple[int, threading.Thread]] = []

    def write(item: int) -> None:
        time.sleep(0.0005)
        written.append((item, threading.current_thread()))

    with background(write, depth) as put:
        for i in range(length):
            put(i)
    assert [item for item, _ in written] == list(range(length))
    assert threading.main_thread() not in {thread for _, thread in written}


def test_writing_is_never_further_behind_than_the_depth() -> None:
    gate = threading.Semaphore(0)
    given: list[int] = []

    def give(put: Callable[[int], None]) -> None:
        for i in range(20):
            put(i)
            given.append(i)

    with background(lambda _: (gate.acquire(), None)[1], 3) as put:
        giver = threading.Thread(target=give, args=(put,))
        giver.start()
        for written in range(16):
            wait_until(lambda written=written: len(given) == written + 4)  # three wait and one is being written
            time.sleep(0.001)
            assert len(given) == written + 4
            gate.release()
        gate.release(10)
        giver.join()


def test_an_error_of_writing_reaches_the_next_put_and_stops_the_writing() -> None:
    written = []
    failed = threading.Event()

    def write(item: int) -> None:
        if item == 2:
            failed.set()
            raise OSError("disk full")
        written.append(item)

    with pytest.raises(OSError, match="disk full") as caught, background(write, 1) as put:
        for i in range(1000):
            put(i)
    assert failed.is_set()
    assert i <= 5
    assert written == [0, 1]
    assert any(entry.name == "write" for entry in traceback.extract_tb(caught.tb))


def test_an_error_of_the_last_write_is_raised_at_the_end() -> None:
    def write(item: int) -> None:
        time.sleep(0.02)
        raise OSError("disk full")

    reached = False
    with pytest.raises(OSError, match="disk full"), background(write, 4) as put:
        put(1)
        reached = True
    assert reached


def test_an_error_of_the_block_drops_what_waits_and_names_an_error_of_writing() -> None:
    entered, gate = threading.Event(), threading.Event()
    written = []

    def write(item: int) -> None:
        entered.set()
        gate.wait()
        written.append(item)
        raise OSError("disk full")

    with pytest.raises(ZeroDivisionError) as caught, background(write, 8) as put:
        for i in range(5):
            put(i)
        entered.wait()
        threading.Timer(0.02, gate.set).start()
        raise ZeroDivisionError
    assert written == [0]
    assert "disk full" in caught.value.__notes__[0]
    wait_until(lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()))


def interrupt_soon() -> threading.Timer:
    timer = threading.Timer(0.05, _thread.interrupt_main)
    timer.start()
    return timer


def test_ctrl_c_while_waiting_for_the_source_stops_and_joins() -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        release.wait(0.5)
        yield 1

    timer = interrupt_soon()
    with pytest.raises(KeyboardInterrupt), prefetch(items(), 4) as ahead:
        for _ in ahead:
            pass
    timer.join()


@pytest.mark.parametrize("place", ["put", "end"])
def test_ctrl_c_while_waiting_for_the_writer_stops_and_joins(place: str) -> None:
    written = []

    def write(item: int) -> None:
        time.sleep(0.03)
        written.append(item)

    timer = interrupt_soon()
    with pytest.raises(KeyboardInterrupt), background(write, 1000 if place == "end" else 1) as put:
        for i in range(500):
            put(i)
    timer.join()
    assert len(written) < 100


def test_both_ends_together() -> None:
    written: list[int] = []
    with prefetch(Source(200).items(), 4) as items, background(written.append, 4) as put:
        for item in items:
            put(2 * item)
    assert written == list(range(0, 400, 2))


def test_queues_that_are_shortened_are_emptied_and_hold_one_item_from_then_on() -> None:
    allowed, written, most = threading.Semaphore(0), list[int](), list[int]()
    begun = threading.Event()

    def write(item: int) -> None:
        begun.set()
        allowed.acquire()
        written.append(item)

    with prefetch(iter(range(20)), 4) as source, background(write, 4) as put:
        for _ in range(5):  # one is being written, four wait
            put(next(source))
            begun.wait()
        release = threading.Timer(0.05, lambda: allowed.release(4))
        release.start()
        assert shorten_queues()
        assert written == [0, 1, 2, 3]
        release.join()
        assert not shorten_queues()
        for item in source:
            allowed.release()
            put(item)
            most.append(item - len(written))
        allowed.release()
    assert written == list(range(20)) and max(most) <= 2
    assert not shorten_queues()
