"""Runs several videos at once, each in a process of its own, so that one that crashes does not end the others.

The processes are spawned, not forked, and run one video after the other. They take no signal but SIGTERM, which the
parent sends when it is interrupted, and they end by themselves when the parent has died. Imports nothing heavy, because
a new process loads this module before it can be interrupted cleanly.
"""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

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


def run_parallel(
    jobs: Jobs, options: RunConfig, processes: int, watcher: Watcher, skip: SkipRule | None = None
) -> Generator[Outcome[RunReport], None, None]:
    """Runs the videos of a batch, `processes` at once, and yields each outcome as it is known: not in order.

    Any exception becomes the outcome of its video. Close the iterator to stop all processes; their unfinished outputs
    are removed. Raises DeviceError if a process cannot be started.
    """
    from vidsr.pipeline.batch import Outcome, check_job, result_folder

    waiting = deque(jobs.pairs)
    threads = divide_threads(options.compute.threads, processes)
    options = replace(options, compute=replace(options.compute, threads=threads))
    with ExitStack() as folders, _Pool(options, min(processes, len(jobs.pairs))) as pool:
        made: set[Path] = set()
        while waiting or pool.is_busy:
            while waiting and pool.has_room:
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
                    pool.assign(source, target)
            yield from pool.poll(watcher)


@dataclass(slots=True)
class _Worker:
    """A process, the pipe to it, and the video that it works on."""

    process: BaseProcess
    pipe: Connection
    job: tuple[Path, Path] | None = None


@dataclass(slots=True)
class _Pool:
    """The processes of a run; they are started when there is work for them."""

    options: RunConfig
    size: int
    workers: list[_Worker] = field(default_factory=list)

    def __enter__(self) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends all processes: idle ones at once, the others when they have removed their unfinished outputs."""
        for worker in self.workers:
            worker.pipe.close()
            if worker.job is not None:
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
        """Whether any process works on a video."""
        return any(worker.job is not None for worker in self.workers)

    @property
    def has_room(self) -> bool:
        """Whether another video can be assigned."""
        return sum(worker.job is not None for worker in self.workers) < self.size

    def assign(self, source: Path, target: Path) -> None:
        """Gives a video to an idle process, or to a new one."""
        idle = [worker for worker in self.workers if worker.job is None]
        worker = idle[0] if idle else self._start()
        worker.job = (source, target)
        with suppress(OSError):  # a process that has ended meanwhile: `poll` finds out
            worker.pipe.send(worker.job)

    def poll(self, watcher: Watcher) -> list[Outcome[RunReport]]:
        """Waits for messages, passes on progress, and returns the outcomes of videos that are done."""
        busy = {worker.pipe: worker for worker in self.workers if worker.job is not None}
        outcomes = []
        for ready in wait(list(busy)) if busy else ():
            worker = busy[cast(Connection, ready)]
            try:
                message = worker.pipe.recv()
            except (EOFError, OSError):
                message = ("failed", self._buried(worker))
            if (outcome := self._take(worker, message, watcher)) is not None:
                outcomes.append(outcome)
        return outcomes

    def _take(self, worker: _Worker, message: tuple[Any, ...], watcher: Watcher) -> Outcome[RunReport] | None:
        from vidsr.pipeline.batch import Outcome

        assert worker.job is not None, "only busy processes send messages"
        (source, target), (what, *values) = worker.job, message
        if what == "started":
            watcher.started(source, values[0])
            return None
        if what == "progress":
            watcher.progressed(source, *values)
            return None
        worker.job = None
        return Outcome(source, target, values[0]) if what == "done" else Outcome(source, target, error=values[0])

    def _start(self) -> _Worker:
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        arguments = (theirs, self.options, self.size)
        process = context.Process(target=serve, args=arguments, name="vidsr-worker", daemon=True)
        try:
            with _signals_blocked():
                process.start()
        except OSError as error:
            raise DeviceError(NO_THREADS) from error
        finally:
            theirs.close()
        worker = _Worker(process, ours)
        self.workers.append(worker)
        return worker

    def _buried(self, worker: _Worker) -> Exception:
        """Removes a process that has died, with what it left behind, and returns the error for its video."""
        worker.process.join()
        worker.pipe.close()
        self.workers.remove(worker)
        assert worker.job is not None, "only busy processes are watched"
        source, target = worker.job
        remove_stale_files(target.absolute().parent, target)
        code = worker.process.exitcode
        if code == -signal.SIGKILL:
            return DeviceError(
                f"{source}: its process was killed, probably because memory ran out: "
                "use fewer --jobs or a smaller --tile"
            )
        return CrashError(f"its process ended with code {code}")


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


def serve(pipe: Connection, options: RunConfig, processes: int) -> None:
    """The main function of a process: runs the videos that come through the pipe until it is closed."""
    with stopping() as stop:
        try:
            threading.Thread(target=_end_with_parent, name="vidsr-parent", daemon=True).start()
            from vidsr.runtime.memory import share_memory

            share_memory(processes)
            while True:
                source, target = pipe.recv()
                pipe.send(_run_one(pipe, source, target, options))
        except (EOFError, OSError):  # the parent has closed the pipe
            pass
        except KeyboardInterrupt:
            pass
    raise SystemExit(0 if stop.number is None else stop.exit_code)


def _run_one(pipe: Connection, source: Path, target: Path, options: RunConfig) -> tuple[str, Any]:
    """The last message about a video. Only a KeyboardInterrupt leaves this function."""
    from vidsr.pipeline.run import enhance
    from vidsr.runtime.memory import peak_memory_bytes, shortage

    told, device = 0.0, "cpu"

    def start(plan: Plan) -> None:
        nonlocal device
        device = plan.device
        pipe.send(("started", plan))

    def show(progress: Progress) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= REPORT_SECONDS:
            told = now
            pipe.send(("progress", progress, peak_memory_bytes(device)))

    try:
        return "done", enhance(source, target, options, show, start)
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
