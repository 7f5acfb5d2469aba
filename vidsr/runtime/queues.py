"""A thread beside the main one and a bounded queue in between: `prefetch` to read ahead, `background` to write behind.

What is read or written lives elsewhere. Threads do not inherit torch's inference mode: what runs here must not need it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")

# A wait without a limit cannot be interrupted by Ctrl-C on Windows, so the main thread looks up this often.
WAKE_SECONDS = 0.2


def _nothing() -> None:
    pass


class _Queue(Generic[T]):
    """A bounded queue with one giver and one taker; either side can end it, the giver also with an error."""

    def __init__(self, depth: int) -> None:
        assert depth >= 1, "a queue holds at least one item"
        self._depth = depth
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._is_complete = False
        self._is_stopped = False
        self.error: BaseException | None = None

    def wait_for_room(self) -> bool:
        """Waits until one more item fits; False if the taker wants no more."""
        with self._changed:
            while len(self._items) >= self._depth and not self._is_stopped:
                self._changed.wait(WAKE_SECONDS)
            return not self._is_stopped

    def put(self, item: T) -> bool:
        """Adds an item, waiting for room; False if the taker wants no more."""
        if not self.wait_for_room():
            return False
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()
        return True

    def get(self) -> list[T]:
        """The next item in a list of one, waiting for it; an empty list if none will come."""
        with self._changed:
            while not self._items and not self._is_complete and not self._is_stopped:
                self._changed.wait(WAKE_SECONDS)
            if self._is_stopped or not self._items:
                return []
            item = self._items.popleft()
            self._changed.notify_all()
            return [item]

    def complete(self) -> None:
        """The giver's last word: what is queued is still delivered."""
        with self._changed:
            self._is_complete = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Ends both sides at once; what is queued is not delivered any more."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()


@contextmanager
def prefetch(source: Iterator[T], depth: int, at_start: Callable[[], None] = _nothing) -> Iterator[Iterator[T]]:
    """Gives an iterator over `source`, which from now on runs in a thread of its own, at most `depth` items ahead.

    The source is taken over: it is closed in that thread, also when the block ends early. Its errors are raised where
    they would have been without the thread: in the iteration, after the items before them; errors of closing it early
    are raised when the block ends. Leaving the block waits for the thread, hence for at most one item. `at_start` is
    called first in the thread.
    """
    queue: _Queue[T] = _Queue(depth)
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

    with _running(work, queue, queue.stop, "vidsr-prefetch"):
        yield items()
    if closing:
        raise closing[0]


@contextmanager
def background(
    write: Callable[[T], None], depth: int, at_start: Callable[[], None] = _nothing
) -> Iterator[Callable[[T], None]]:
    """Gives a function that queues an item, which a thread of its own then hands to `write`; at most `depth` wait.

    An error of `write` is raised by the next call or when the block ends, and nothing is written after it. Leaving the
    block waits until all is written; leaving it by an exception waits for the item in work only and drops the others.
    `at_start` is called first in the thread.
    """
    queue: _Queue[T] = _Queue(depth)

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
            assert queue.error is not None, "nothing can be written after the block"
            raise queue.error

    with _running(work, queue, queue.complete, "vidsr-background"):
        yield put
    if queue.error is not None:
        raise queue.error


@contextmanager
def _running(work: Callable[[], None], queue: _Queue[T], end: Callable[[], None], name: str) -> Iterator[None]:
    """Runs `work` beside the block; then calls `end` and joins. An exception, also while joining, stops the queue."""
    done = threading.Event()

    def work_and_say_so() -> None:
        try:
            work()
        finally:
            done.set()

    # A daemon, so that a second Ctrl-C ends a program whose source never answers, such as a silent pipe.
    thread = threading.Thread(target=work_and_say_so, name=name, daemon=True)
    thread.start()
    try:
        yield
        end()
        _join(thread, done)
    except BaseException as error:
        queue.stop()
        _join(thread, done)
        if queue.error is not None and queue.error is not error:
            error.add_note(f"Meanwhile in the thread {name}: {queue.error!r}")
        raise


def _join(thread: threading.Thread, done: threading.Event) -> None:
    # Not by join alone: interrupted by Ctrl-C, Python 3.11's join takes a running thread for a stopped one.
    while not done.wait(WAKE_SECONDS):
        pass
    thread.join()
