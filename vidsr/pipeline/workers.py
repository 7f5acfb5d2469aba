"""Runs videos, or segments of one, at once, each in a process of its own, so that one that crashes ends no others.

The processes are spawned, not forked, and do one task after the other. They take no signal but SIGTERM, which the
parent sends when it is interrupted, and they end by themselves when the parent has died. Imports nothing heavy, because
a new process loads this module before it can be interrupted cleanly.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, cast

from vidsr.config import RunConfig
from vidsr.errors import NO_THREADS, DeviceError, UsageError, VidsrError
from vidsr.files import remove_stale_files
from vidsr.signals import stopping

if TYPE_CHECKING:
    from vidsr.pipeline.batch import Jobs, Outcome, SkipRule
    from vidsr.pipeline.plan import Plan
    from vidsr.pipeline.run import Progress
    from vidsr.types import RunReport

MAX_JOBS = 64
REPORT_SECONDS = 0.2  # how often a process tells its progress
GRACE_SECONDS = 30.0  # how long a process whose parent has died may take to clean up


class Watcher(Protocol):
    """What is told about videos while they run."""

    def started(self, source: Path, plan: Plan) -> None:
        """A video is about to be processed."""
        ...

    def progressed(self, source: Path, progress: Progress, memory_bytes: int) -> None:
        """Frames of a video are done; `memory_bytes` is the peak of its process."""
        ...


class CrashError(Exception):
    """The process that worked on a video ended unexpectedly."""


def divide_threads(threads: int, processes: int) -> int:
    """Threads of each process: those asked for, or an equal share of the cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return threads or max(1, cores // processes)


def check_processes(processes: int) -> None:
    """Raises UsageError for a number of processes that makes no sense."""
    if not 1 <= processes <= MAX_JOBS:
        raise UsageError(f"--jobs must be from 1 to {MAX_JOBS}, not {processes}")


def parse_devices(text: str) -> tuple[str, ...]:
    """Devices from "cuda:0,cuda:1" or "cpu,cpu". Raises UsageError."""
    devices = tuple(name.strip() for name in text.split(","))
    if not all(re.fullmatch(r"cpu|mps|cuda(:[0-9]{1,4})?", name) for name in devices) or len(devices) > MAX_JOBS:
        raise UsageError(
            f"--devices must be at most {MAX_JOBS} devices with commas between them, such as cuda:0,cuda:1 or cpu,cpu, "
            f"not '{text[:80]}'"
        )
    return devices


def seats_of(devices: Sequence[str], threads: int) -> list[Seat]:
    """A seat for a process on each of these devices, with an equal share of the cores and of the memory."""
    each = divide_threads(threads, len(devices))
    return [Seat(name, each, len(devices) if name == "cpu" else devices.count(name)) for name in devices]


def run_parallel(
    jobs: Jobs,
    options: RunConfig,
    processes: int,
    watcher: Watcher,
    skip: SkipRule | None = None,
    crew: Crew | None = None,
) -> Generator[Outcome[RunReport], None, None]:
    """Runs the videos of a batch, `processes` at once, and yields each outcome as it is known: not in order.

    Any exception becomes the outcome of its video. Close the iterator to stop all processes; their unfinished outputs
    are removed. Raises DeviceError if a process cannot be started. With a `crew`, that one does the work.
    """
    from vidsr.pipeline.batch import Outcome, check_job, result_folder

    waiting = deque(jobs.pairs)
    if crew is None:
        threads = divide_threads(options.compute.threads, processes)
        crew = Pool([Seat(None, threads, processes)] * min(processes, len(jobs.pairs)))
    with ExitStack() as folders, crew:
        made: set[Path] = set()
        while waiting or crew.is_busy:
            while waiting and crew.has_room:
                source, target = waiting.popleft()
                try:
                    reason = check_job(source, target, jobs, skip)
                    if reason is None and target.parent not in made:
                        folders.enter_context(result_folder(target.parent, jobs.is_shared))
                        made.add(target.parent)
                except Exception as error:
                    yield Outcome(source, target, error=error)
                    continue
                if reason is not None:
                    yield Outcome(source, target, skipped=reason)
                else:
                    crew.assign((source, target), FileTask(source, target, options))
            for message in crew.poll():
                if (outcome := _take(message, watcher)) is not None:
                    yield outcome


def _take(message: Message, watcher: Watcher) -> Outcome[RunReport] | None:
    """Passes on what is told of a video; returns its outcome if it is over."""
    from vidsr.pipeline.batch import Outcome

    source, target = message.key
    if message.what == "started":
        watcher.started(source, message.value)
        return None
    if message.what == "progress":
        watcher.progressed(source, *message.value)
        return None
    if message.what == "done":
        return Outcome(source, target, message.value)
    if message.what == "died":
        remove_stale_files(target.absolute().parent, target)
        code: int | str | None = message.value
        killed = DeviceError(
            f"{source}: its process was killed, probably because memory ran out: use fewer --jobs or a smaller --tile"
        )
        error = killed if code == -signal.SIGKILL else CrashError(f"its process ended with code {code}")
        return Outcome(source, target, error=error)
    return Outcome(source, target, error=message.value)


@dataclass(frozen=True, slots=True)
class Seat:
    """What a process works with: a device (None: that of the options), threads, and a share of the free memory.

    `threads` 0 is torch's choice. The share is one part of `share`.
    """

    device: str | None = None
    threads: int = 0
    share: int = 1


class Task(Protocol):
    """Work that another process can do; it can be pickled."""

    def perform(self, seat: Seat, tell: Callable[..., None]) -> Any:
        """Does the work and returns the result; `tell` sends a word and a value to the one who waits."""
        ...


class Message(NamedTuple):
    """What is told of a task: a word and a value.

    The last message about it is "done" with the result, "failed" with the error, or "died" with the exit code of the
    process, None if that is unknown.
    """

    key: Any
    what: str
    value: Any


class Crew(Protocol):
    """Does tasks elsewhere, a limited number at once. A context manager: leaving it ends those that are not done."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    @property
    def is_busy(self) -> bool:
        """Whether anything is being done."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether another task can be assigned."""
        ...

    def assign(self, key: Any, task: Task) -> None:
        """Gives a task to a free process; `key` comes back with every message about it."""
        ...

    def poll(self, timeout: float | None = None) -> list[Message]:
        """Waits for messages, at most so many seconds, and returns them."""
        ...


@dataclass(frozen=True, slots=True)
class FileTask:
    """A video to make. It tells "started" with the plan, and "progress" with that and the peak memory in bytes."""

    source: Path
    target: Path
    options: RunConfig

    def perform(self, seat: Seat, tell: Callable[..., None]) -> RunReport:
        """Makes the video on the device of the seat. Raises the errors of `enhance`."""
        from vidsr.pipeline.run import enhance
        from vidsr.runtime.memory import peak_memory_bytes

        compute = self.options.compute
        compute = replace(compute, threads=seat.threads or compute.threads, device=seat.device or compute.device)
        device = "cpu"

        def start(plan: Plan) -> None:
            nonlocal device
            device = plan.device
            tell("started", plan)

        def show(progress: Progress) -> None:
            tell("progress", (progress, peak_memory_bytes(device)))

        return enhance(self.source, self.target, replace(self.options, compute=compute), show, start)


@dataclass(slots=True)
class _Worker:
    """A process, the pipe to it, its seat, and the key of the task that it works on, in a tuple."""

    process: BaseProcess
    pipe: Connection
    seat: Seat
    key: tuple[Any] | None = None


@dataclass(slots=True)
class Pool:
    """Processes on this machine, one for each seat; they are started when there is work for them."""

    seats: Sequence[Seat]
    workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all processes: idle ones at once, the others when they have removed their unfinished outputs."""
        for worker in self.workers:
            worker.pipe.close()
            if worker.key is not None:
                worker.process.terminate()
        try:
            for worker in self.workers:
                worker.process.join()
        except BaseException:  # a second Ctrl-C
            for worker in self.workers:
                worker.process.kill()
            raise

    @property
    def is_busy(self) -> bool:
        """Whether any process works on a task."""
        return any(worker.key is not None for worker in self.workers)

    @property
    def has_room(self) -> bool:
        """Whether another task can be assigned."""
        return sum(worker.key is not None for worker in self.workers) < len(self.seats)

    def assign(self, key: Any, task: Task) -> None:
        """Gives a task to an idle process, or to a new one."""
        idle = [worker for worker in self.workers if worker.key is None]
        worker = idle[0] if idle else self._start()
        worker.key = (key,)
        with suppress(OSError):  # a process that has ended meanwhile: `poll` finds out
            worker.pipe.send(task)

    def poll(self, timeout: float | None = None) -> list[Message]:
        """Waits for messages of the processes that work on a task."""
        busy = {worker.pipe: worker for worker in self.workers if worker.key is not None}
        messages = []
        for ready in wait(list(busy), timeout) if busy else ():
            worker = busy[cast(Connection, ready)]
            assert worker.key is not None, "only busy processes send messages"
            (key,) = worker.key
            try:
                what, value = worker.pipe.recv()
            except (EOFError, OSError):
                what, value = "died", self._buried(worker)
            if what in ("done", "failed"):
                worker.key = None
            messages.append(Message(key, what, value))
        return messages

    def _start(self) -> _Worker:
        free = list(self.seats)
        for worker in self.workers:
            free.remove(worker.seat)
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, free[0]), name="vidsr-worker", daemon=True)
        try:
            with _signals_blocked():
                process.start()
        except OSError as error:
            raise DeviceError(NO_THREADS) from error
        finally:
            theirs.close()
        worker = _Worker(process, ours, free[0])
        self.workers.append(worker)
        return worker

    def _buried(self, worker: _Worker) -> int | None:
        """Removes a process that has died; returns its exit code."""
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        return worker.process.exitcode


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """A process that is started in the block never gets Ctrl-C and SIGHUP, which a terminal sends to all processes."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(pipe: Connection, seat: Seat) -> None:
    """The main function of a process: does the tasks that come through the pipe until it is closed."""
    with stopping() as stop:
        try:
            threading.Thread(target=_end_with_parent, name="vidsr-parent", daemon=True).start()
            from vidsr.runtime.memory import share_memory

            share_memory(seat.share)
            while True:
                pipe.send(perform(pipe.recv(), seat, _Teller(pipe)))
        except (EOFError, OSError):  # the parent has closed the pipe
            pass
        except KeyboardInterrupt:
            pass
    raise SystemExit(0 if stop.number is None else stop.exit_code)


class _Teller:
    """Sends what a task tells to the parent; what is said often only every REPORT_SECONDS."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._told = pipe, 0.0

    def __call__(self, what: str, value: Any) -> None:
        if what in ("progress", "frames"):
            if (now := time.monotonic()) - self._told < REPORT_SECONDS:
                return
            self._told = now
        self._pipe.send((what, value))


def perform(task: Task, seat: Seat, tell: Callable[..., None]) -> tuple[str, Any]:
    """The last message about a task. Only a KeyboardInterrupt, and a lost parent, leave this function as exceptions."""
    from vidsr.runtime.memory import shortage

    try:
        return "done", task.perform(seat, tell)
    except (EOFError, BrokenPipeError):
        raise
    except Exception as error:
        return "failed", _portable(shortage(error) or error)


def _portable(error: Exception) -> Exception:
    """The error in a form that can be sent, with its traceback as a note unless it is one of vidsr's."""
    if not isinstance(error, VidsrError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return CrashError(f"{type(error).__name__}: {' '.join(str(error).split())}")
    return error


def _end_with_parent() -> None:
    """Interrupts this process when its parent has died, and ends it if it does not react."""
    parent = parent_process()
    assert parent is not None, "runs in a spawned process"
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
