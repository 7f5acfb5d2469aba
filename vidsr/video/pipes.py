"""Pipes: reading a stream once for several readers, and writing one that nobody may be able to wait for.

No callback of FFmpeg may raise an exception other than a broken pipe: PyAV would print and ignore it.
"""

from __future__ import annotations

import os
import select
import stat
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Literal

from vidsr.errors import InputError, OutputError

STDIN, STDOUT = Path("/dev/stdin"), Path("/dev/stdout")
_CHUNK = 1 << 16  # what a pipe of Linux holds
Kind = Literal["head", "frames", "copies"]


def is_pipe_input(path: Path) -> bool:
    """Whether an input path is standard input or a named pipe, and cannot be read from its beginning again.

    Standard input that is a regular file can, as /dev/stdin.
    """
    if str(path) in ("-", str(STDIN)):
        return not stat.S_ISREG(_mode(0))
    return is_named_pipe(path)


def is_pipe_output(path: Path) -> bool:
    """Whether an output path is standard output or a named pipe."""
    return str(path) in ("-", str(STDOUT)) or is_named_pipe(path)


def is_named_pipe(path: Path) -> bool:
    """Whether a path is a pipe in the file system, other than standard input and output."""
    if str(path) in ("-", str(STDIN), str(STDOUT)):
        return False
    try:
        return stat.S_ISFIFO(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _mode(descriptor: int) -> int:
    try:
        return os.fstat(descriptor).st_mode
    except OSError:
        return 0


class PipeInput:
    """A pipe whose bytes are read once and kept for as long as one of its views may need them.

    Views of the kind "head" end where the bytes end that were read before; they are for planning. Of the kinds "frames"
    and "copies" only the last view counts: bytes that both have passed are dropped once `begin` was called.
    """

    def __init__(self, path: Path) -> None:
        """Opens the pipe, which waits for a writer. Raises InputError."""
        self.name = "stdin" if str(path) in ("-", str(STDIN)) else str(path)
        self.interruption: BaseException | None = None
        self._opened: list[int] = []
        self._woken, self._wake = os.pipe()
        self._opened += (self._woken, self._wake)
        self._is_stdin = self.name == "stdin"
        if self._is_stdin and os.isatty(0):
            raise InputError("stdin is a terminal, not a video: pipe a video into vidsr, or name a file")
        try:
            self._file = 0
            if not self._is_stdin:
                self._file = os.open(path, os.O_RDONLY)
                self._opened.append(self._file)
        except OSError as error:
            raise InputError(f"{self.name} cannot be read: {error.strerror}") from error
        self._chunks: deque[bytes] = deque()
        self._begin = self._end = 0
        self._is_over = self._is_cancelled = self._drops = False
        self._views: dict[Kind, _View] = {}
        self._state, self._reading = threading.Lock(), threading.Lock()

    def __del__(self) -> None:
        for descriptor in self._opened:
            with suppress(OSError):
                os.close(descriptor)

    @property
    def size(self) -> int:
        """How many bytes have been read."""
        return self._end

    @property
    def stored(self) -> int:
        """How many bytes are kept."""
        return self._end - self._begin

    @property
    def start(self) -> bytes:
        """The first bytes, as long as they are kept."""
        return self._chunks[0] if self._chunks and not self._begin else b""

    def kept(self) -> bytes:
        """The bytes that are kept."""
        with self._state:
            return b"".join(self._chunks)

    def view(self, kind: Kind) -> _View:
        """A file to read from the first byte on."""
        view = _View(self, is_limited=kind == "head")
        if kind != "head":
            with self._state:
                self._views[kind] = view
        return view

    def release(self, kind: Kind) -> None:
        """Says that the last view of a kind is not read any more."""
        with self._state:
            self._views.pop(kind, None)

    def begin(self) -> None:
        """Drops bytes from now on; no view can be opened after this."""
        self._drops = True

    def cancel(self) -> None:
        """Ends a read that waits, and all reads after it; may be called from any thread."""
        self._is_cancelled = True
        with suppress(OSError):
            os.write(self._wake, b".")

    def read(self, view: _View, size: int) -> bytes:
        """The next bytes for a view, at most `size`; empty at the end."""
        try:
            while True:
                if data := self._take(view, size):
                    return data
                if view.is_limited or self._is_over or self._is_cancelled:
                    return b""
                with self._reading:
                    if self._end <= view.position and not (self._is_over or self._is_cancelled):
                        self._receive()
        except BaseException as error:  # also Ctrl-C, in the main thread
            self.interruption = error
            self.cancel()
            return b""

    def _take(self, view: _View, size: int) -> bytes:
        with self._state:
            place = self._begin
            for chunk in self._chunks:
                if view.position < place + len(chunk):
                    data = chunk[view.position - place :][:size]
                    view.position += len(data)
                    self._drop()
                    return data
                place += len(chunk)
            return b""

    def _drop(self) -> None:
        needed = min((view.position for view in self._views.values()), default=self._end)
        while self._drops and self._chunks and self._begin + len(self._chunks[0]) <= needed:
            self._begin += len(self._chunks.popleft())

    def _receive(self) -> None:
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        if any(descriptor == self._woken for descriptor, _ in poll.poll()):
            return
        data = os.read(self._file, _CHUNK)
        with self._state:
            if data:
                self._chunks.append(data)
                self._end += len(data)
            else:
                self._is_over = True


class _View:
    """A place in the bytes of a pipe, as the file that PyAV reads."""

    def __init__(self, pipe: PipeInput, is_limited: bool) -> None:
        self.position = 0
        self.is_limited = is_limited
        self._pipe = pipe

    def read(self, size: int) -> bytes:
        """The next bytes; empty at the end."""
        return self._pipe.read(self, size)

    def __str__(self) -> str:
        return self._pipe.name


class PipeOutput:
    """A pipe to write to, as the file that PyAV writes."""

    def __init__(self, path: Path) -> None:
        """Opens the pipe, which waits for a reader. Raises OutputError."""
        self._is_stdout = str(path) in ("-", str(STDOUT))
        self.failure: BaseException | None = None
        self._is_cancelled = False
        try:
            self._file = 1 if self._is_stdout else os.open(path, os.O_WRONLY)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}") from error
        # A pipe that can be written takes this much without waiting.
        self._piece = select.PIPE_BUF if stat.S_ISFIFO(_mode(self._file)) else _CHUNK
        self._woken, self._wake = os.pipe()

    def write(self, data: bytes) -> int:
        """Writes all bytes, unless it is cancelled. Raises BrokenPipeError if nobody reads any more."""
        try:
            rest = memoryview(data)
            while rest and not self._is_cancelled:
                poll = select.poll()
                poll.register(self._file, select.POLLOUT)
                poll.register(self._woken, select.POLLIN)
                if all(descriptor != self._woken for descriptor, _ in poll.poll()):
                    rest = rest[os.write(self._file, rest[: self._piece]) :]
        except BaseException as error:
            self.failure = self.failure or error
            raise BrokenPipeError from error
        return len(data)

    def cancel(self) -> None:
        """Ends a write that waits, and drops all after it; may be called from any thread."""
        self._is_cancelled = True
        with suppress(OSError):
            os.write(self._wake, b".")

    def close(self) -> None:
        """Closes a named pipe; standard output stays open."""
        for descriptor in (self._woken, self._wake, *(() if self._is_stdout else (self._file,))):
            with suppress(OSError):
                os.close(descriptor)


def refuse_terminal() -> None:
    """Raises OutputError if standard output is a terminal."""
    if os.isatty(1):
        raise OutputError("stdout is a terminal, which shows no video: pipe it into a program, or name a file")
