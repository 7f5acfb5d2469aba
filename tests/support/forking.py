"""Runs of the command line as real processes without the time of importing: one process imports, then forks for each.

`Forker` is the client. `python -m tests.support.forking` is the process that forks: it reads requests from its standard
input, one JSON object a line, and answers each in the same way.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

ROOT = Path(__file__).parents[2]
# Python with the settings under which a fork is safe: no library has threads of its own yet.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
FULL_DISK = "full disk"
# What a run that is stopped so ends with, where it is not at its end already.
CODES = {"SIGKILL": -9, "SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, FULL_DISK: 4}


@dataclass(frozen=True, slots=True)
class Ended:
    """A run that has ended: its exit code, negative for a signal, and what it wrote to stderr.

    `events` are those that happened, 0 for a run that was killed; `seconds` the processor's.
    """

    code: int
    said: str
    events: int
    seconds: float


class Forker:
    """Runs `vidsr` in forked processes, one at a time. Use it as a context manager."""

    def __init__(self, *warm_ups: Sequence[str | Path]) -> None:
        """`warm_ups` are runs that the forking process makes itself beforehand, so that later ones begin faster."""
        self._warm_ups = [[str(each) for each in arguments] for arguments in warm_ups]

    def __enter__(self) -> Self:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.support.forking", json.dumps(self._warm_ups)],
            cwd=ROOT, env=os.environ | ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate()

    def run(
        self,
        *arguments: str | Path,
        event: int | None = None,
        places: Sequence[str] = (),
        after: float | None = None,
        kind: str = "SIGKILL",
        limit: int = 0,
        face_model: Path | None = None,
        every_border: bool = True,
    ) -> Ended:
        """Runs the command line with these arguments until it ends.

        It is stopped by `kind`, a signal or `FULL_DISK`, at the event of this number, or `after` so many seconds of the
        processor, which do not depend on what else the machine does.
        Events are the beginnings and ends of what a writer, a journal and a hidden file do, or of those named in
        `places`. From a full disk on, no file can grow beyond `limit` bytes. With `every_border` a state is saved at
        each border, however slow the disk is.
        """
        request = {
            "arguments": [str(each) for each in arguments], "event": event, "places": list(places), "after": after,
            "kind": kind, "limit": limit, "face_model": face_model and str(face_model), "every_border": every_border,
        }  # fmt: skip
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return Ended(**json.loads(self._server.stdout.readline()))


class Events:
    """Counts what a writer, a journal and a hidden file do, and calls `act` at one of these events."""

    def __init__(self, chosen: int | None, act: Callable[[], None]) -> None:
        self.count, self._chosen, self._act = 0, chosen, act
        self._lock = threading.Lock()

    def watch(self, names: Sequence[str]) -> None:
        """From now on the events at these places, or at all, count."""
        from vidsr.files import HiddenFile
        from vidsr.pipeline import job as jobs
        from vidsr.video import segments

        places: list[tuple[Any, str]] = [
            (segments.SegmentWriter, "write"), (segments._Piece, "_put"), (segments, "_read_packets"),
            (jobs.Job, "_note"), (jobs.Job, "record"), (jobs, "sync_file"), (HiddenFile, "publish"),
        ]  # fmt: skip
        for owner, name in places:
            if not names or name in names:
                setattr(owner, name, self._before_and_after(getattr(owner, name)))

    def _before_and_after(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            self._note()
            result = work(*arguments, **named)
            self._note()
            return result

        return watched

    def _note(self) -> None:
        with self._lock:
            self.count += 1
            is_chosen = self.count == self._chosen
        if is_chosen:
            self._act()


def stop(process: int, kind: str, limit: int = 0) -> None:
    """Stops a process by a signal, or this one by a full disk."""
    if kind == FULL_DISK:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    else:
        os.kill(process, getattr(signal, kind))


def stop_after(process: int, seconds: float, kind: str, ended: threading.Event) -> None:
    """Stops a process, which is a child of this one, after so many seconds of the processor, unless it has ended."""
    measured = psutil.Process(process)
    with suppress(psutil.Error):
        before = sum(measured.cpu_times()[:2])
        while not ended.wait(0.01):
            if sum(measured.cpu_times()[:2]) - before >= seconds:
                stop(process, kind)
                return


def serve(warm_ups: list[list[str]]) -> None:
    """Answers requests until the standard input ends."""
    from vidsr.__main__ import main

    output, given = sys.stdout, sys.argv
    for arguments in warm_ups:
        sys.argv, sys.stdout = ["vidsr", *arguments], sys.stderr
        with suppress(SystemExit):
            main()
    sys.argv, sys.stdout = given, output
    # What is freed in a forked process must not wait for threads that only this one has, such as a codec's.
    gc.collect()
    gc.freeze()
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line))), flush=True)


def _run(request: dict[str, Any]) -> dict[str, Any]:
    said_read, said_write = os.pipe()
    count_read, count_write = os.pipe()
    process = os.fork()
    if process == 0:
        os.dup2(said_write, 2)
        for descriptor in (said_read, said_write, count_read):
            os.close(descriptor)
        _become(request, count_write)
    os.close(said_write)
    os.close(count_write)
    ended = threading.Event()
    watcher = threading.Thread(target=stop_after, args=(process, request["after"], request["kind"], ended))
    if request["after"] is not None:
        watcher.start()
    with os.fdopen(said_read, errors="replace") as pipe:
        said = pipe.read()
    ended.set()
    if request["after"] is not None:
        watcher.join()
    _, status, usage = os.wait4(process, 0)
    with os.fdopen(count_read) as pipe:
        events = int(pipe.read() or 0)
    seconds = usage.ru_utime + usage.ru_stime
    return {"code": os.waitstatus_to_exitcode(status), "said": said, "events": events, "seconds": seconds}


def _become(request: dict[str, Any], count_file: int) -> None:
    """Turns a forked process into `python -m vidsr`, and ends it."""
    code: Any = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        os.dup2(0, 1)
        sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
        from vidsr.__main__ import main
        from vidsr.engines.select import DEFAULT_MODELS
        from vidsr.pipeline import job as jobs

        if request["every_border"]:
            jobs.SAVING_SHARE = 1e9
        if request["face_model"] is not None:
            DEFAULT_MODELS["restore_face"] = request["face_model"]
        events = Events(request["event"], lambda: stop(os.getpid(), request["kind"], request["limit"]))
        events.watch(request["places"])
        sys.argv = ["vidsr", *request["arguments"]]
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        os.write(count_file, str(events.count).encode())
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
