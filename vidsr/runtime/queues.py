"""Worker threads with bounded queues: `prefetch` reads ahead, `background` writes behind.

Threads do not inherit torch's inference mode, so work that runs here must not rely on it.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# A wait without a timeout cannot be interrupted by Ctrl-C on Windows, so the main thread wakes up this often.
WAKE_SECONDS = 0.2


# The queues in use, so that they can be shortened when memory runs out.
_queues: weakref.WeakSet[_Queue[Any]] = weakref.WeakSet()


def shorten_queues() -> bool:
    """From now on each queue of this process holds one item; waits until those to background threads are empty.

    Returns whether any queue held or may have held more. Must not be called by a background thread.
    """
    queues = list(_queues)
    was_longer = [queue.shorten() for queue in queues]
    for queue in queues:
        queue.wait_until_empty()
    return any(was_longer)


def _nothing() -> None:
    pass


class _Queue(Generic[T]):
    """A bounded queue with one producer and one consumer; either can end it, the producer also with an error.

    `is_behind`: the consumer is a background thread.
    """

    def __init__(self, depth: int, is_behind: bool) -> None:
        assert depth >= 1, "a queue holds at least one item"
        self._depth, self._is_behind = depth, is_behind
        _queues.add(self)
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._is_complete = False
        self._is_stopped = False
        self.error: BaseException | None = None

    def wait_for_room(self) -> bool:
        """Waits until one more item fits; False if the queue was stopped."""
        with self._changed:
            while len(self._items) >= self._depth and not self._is_stopped:
                self._changed.wait(WAKE_SECONDS)
            return not self._is_stopped

    def shorten(self) -> bool:
        """From now on holds one item; returns whether it was more."""
        with self._changed:
            was_longer, self._depth = self._depth > 1, 1
            return was_longer

    def wait_until_empty(self) -> None:
        """Waits until a background thread has taken all items, or the queue was stopped."""
        with self._changed:
            while self._is_behind and self._items and not self._is_stopped:
                self._changed.wait(WAKE_SECONDS)

    def put(self, item: T) -> bool:
        """Adds an item, waiting for room; False if the queue was stopped."""
        if not self.wait_for_room():
            return False
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()
        return True

    def get(self) -> list[T]:
        """Waits for the next item and returns it in a list; an empty list at the end."""
        with self._changed:
            while not self._items and not self._is_complete and not self._is_stopped:
                self._changed.wait(WAKE_SECONDS)
            if self._is_stopped or not self._items:
                return []
            item = self._items.popleft()
            self._changed.notify_all()
            return [item]

    def complete(self) -> None:
        """Marks the queue complete; queued items are still delivered."""
        with self._changed:
            self._is_complete = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends both sides immediately; queued items are dropped."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()


@contextmanager
def prefetch(
    source: Iterator[T], depth: int, at_start: Callable[[], None] = _nothing, cancel: Callable[[], None] = _nothing
) -> Iterator[Iterator[T]]:
    """Yields an iterator over `source`, which runs in its own thread, at most `depth` items ahead.

    The thread owns the source and closes it, also when the block ends early. Errors of the source are raised by the
    iterator, after the items before them; errors of closing it early are raised at the end of the block. Leaving the
    block waits for the thread, that is, for at most one item. The thread calls `at_start` first. If the block raises,
    `cancel` is called before the thread is waited for, to end an item that may never come.
    """
    queue: _Queue[T] = _Queue(depth, is_behind=False)
    closing: list[BaseException] = []

    def work() -> None:
        try:
            at_start()
            while queue.wait_for_room():
                try:
                    item = next(source)
                except StopIteration:
                    break
                queue.put(item)
                del item
        except BaseException as error:
            queue.error = error
        try:
            close = getattr(source, "close", None)
            if close is not None:
                close()
        except BaseException as error:
            closing.append(error)
        queue.complete()

    def items() -> Iterator[T]:
        while taken := queue.get():
            yield taken.pop()
        if queue.error is not None:
            error, queue.error = queue.error, None
            raise error

    with _running(work, queue, queue.stop, cancel, "vidsr-prefetch"):
        yield items()
    if closing:
        raise closing[0]


@contextmanager
def background(
    write: Callable[[T], None],
    depth: int,
    at_start: Callable[[], None] = _nothing,
    cancel: Callable[[], None] = _nothing,
) -> Iterator[Callable[[T], None]]:
    """Yields a function that queues an item for `write`, which runs in its own thread; at most `depth` items wait.

    An error of `write` is raised by the next call or at the end of the block, and nothing is written after it. Leaving
    the block waits until everything is written. Leaving it by an exception waits for the current item only and drops
    the others. The thread calls `at_start` first. If the block raises, `cancel` is called before the thread is waited
    for, to end a `write` that may never end.
    """
    queue: _Queue[T] = _Queue(depth, is_behind=True)

    def work() -> None:
        try:
            at_start()
            while taken := queue.get():
                write(taken.pop())
        except BaseException as error:
            queue.error = error
            queue.stop()

    def put(item: T) -> None:
        if not queue.put(item):
            assert queue.error is not None, "the block has ended"
            raise queue.error

    with _running(work, queue, queue.complete, cancel, "vidsr-background"):
        yield put
    if queue.error is not None:
        raise queue.error


@contextmanager
def _running(
    work: Callable[[], None], queue: _Queue[T], end: Callable[[], None], cancel: Callable[[], None], name: str
) -> Iterator[None]:
    """Runs `work` in a thread during the block, then calls `end` and joins. After an exception it also cancels."""
    done = threading.Event()

    def work_and_signal() -> None:
        try:
            work()
        finally:
            done.set()

    # A daemon thread, so that a second Ctrl-C ends the program even if the source blocks, such as a silent pipe.
    thread = threading.Thread(target=work_and_signal, name=name, daemon=True)
    thread.start()
    try:
        yield
        end()
        _join(thread, done)
    except BaseException as error:
        queue.stop()
        cancel()
        _join(thread, done)
        if queue.error is not None and queue.error is not error:
            error.add_note(f"meanwhile in the thread {name}: {queue.error!r}")
        raise


def _join(thread: threading.Thread, done: threading.Event) -> None:
    # Not by join alone: when interrupted by Ctrl-C, Python 3.11 marks a running thread as stopped.
    while not done.wait(WAKE_SECONDS):
        pass
    thread.join()
