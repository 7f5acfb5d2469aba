"""Messages, warnings, tables and progress on stderr. The only module that imports Rich."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vidsr.cli.terminal import silence, visible, visible_json

if TYPE_CHECKING:
    from vidsr.pipeline.run import Progress as RunProgress

ProgressMode = Literal["auto", "json", "none"]


class Screen:
    """Output to stderr during one command. In json mode every line is a JSON object with the key "event"."""

    def __init__(self, mode: ProgressMode = "auto", is_quiet: bool = False, is_verbose: bool = False) -> None:
        """`is_quiet` shows errors only; `is_verbose` also shows details that are otherwise only in the report."""
        self._console = Console(file=cast(IO[str], _Stderr()), highlight=False, soft_wrap=True)
        self._mode, self._is_quiet, self.is_verbose = mode, is_quiet, is_verbose

    def say(self, text: str) -> None:
        """Prints a message."""
        if not self._is_quiet:
            self._line("message", text, "")

    def details(self, text: str) -> None:
        """Prints text of several lines, such as a traceback."""
        for line in text.rstrip("\n").split("\n"):
            self.say(line)

    def warn(self, text: str) -> None:
        """Prints a warning: something that the user should know but that did not stop the run."""
        if not self._is_quiet:
            self._line("warning", text, "[yellow]warning:[/yellow] ")

    def fail(self, text: str) -> None:
        """Prints an error message; shown even when quiet."""
        self._line("error", text, "[red]error:[/red] ")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Prints a table."""
        table = Table(title=_shown(title), title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(_shown(cell) for cell in row))
        self._console.print(table)

    def fields(self, title: str, values: Mapping[str, str]) -> None:
        """Prints names and values, one pair per line."""
        self.table(title, ["name", "value"], list(values.items()))

    @contextmanager
    def progress(self, name: str, device: str, memory: Callable[[], int]) -> Iterator[Callable[[RunProgress], None]]:
        """Yields the function to call after each frame: shows a progress bar on a terminal, JSON lines in json mode."""
        if self._mode == "json":
            yield lambda progress: self._json_progress(progress, memory)
            return
        if self._mode == "none" or self._is_quiet or not self._console.is_terminal:
            yield lambda _progress: None
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            _Frames(),
            TimeRemainingColumn(),
            TextColumn(_shown(device)),
            _Memory(memory),
            console=self._console,
            transient=True,
        ) as bar:
            task = bar.add_task(_shown(name), total=None)

            def show(progress: RunProgress) -> None:
                bar.update(task, completed=progress.frames_done, total=progress.frames_expected)

            yield show

    def _json_progress(self, progress: RunProgress, memory: Callable[[], int]) -> None:
        values = {
            "frames_done": progress.frames_done,
            "frames_expected": progress.frames_expected,
            "seconds": round(progress.seconds, 3),
            "memory_bytes": memory(),
        }
        self._emit({"event": "progress"} | values)

    def _line(self, event: str, text: str, marked_start: str) -> None:
        if self._mode == "json":
            self._emit({"event": event, "text": text})
        else:
            self._console.print(marked_start + _shown(text))

    def _emit(self, values: dict[str, Any]) -> None:
        self._console.file.write(visible_json(json.dumps(values, ensure_ascii=False)) + "\n")
        self._console.file.flush()


def _shown(text: str) -> str:
    """Text without control characters, and without markup for Rich."""
    return escape(visible(text))


class _Stderr(io.TextIOBase):
    """sys.stderr as it is now; one that is closed, full or no longer read loses messages, but does not stop a run.

    It is kept, because Rich replaces sys.stderr while it shows a progress bar.
    """

    def __init__(self) -> None:
        self._stream = sys.stderr

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only
        """That of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Writes what can be written."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Writes what is buffered and can be written."""
        self._try(lambda: self._stream.flush())

    def isatty(self) -> bool:
        """Whether stderr is a terminal."""
        return self._is_open and self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the stream."""
        return self._stream.fileno()

    @property
    def _is_open(self) -> bool:
        return self._stream is not None and not self._stream.closed

    def _try(self, action: Callable[[], object]) -> None:
        if not self._is_open:
            return
        try:
            action()
        except OSError:
            silence(self._stream)


class _Frames(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Frames done, frames expected, and frames per second."""
        total = "?" if task.total is None else f"{task.total:.0f}"
        speed = task.finished_speed or task.speed
        rate = "" if speed is None else f"  {speed:.1f} frames/s"
        return Text(f"{task.completed:.0f}/{total}{rate}")


class _Memory(ProgressColumn):
    def __init__(self, memory: Callable[[], int]) -> None:
        super().__init__()
        self._memory = memory

    def render(self, task: Task) -> Text:  # noqa: ARG002 - the signature that Rich calls
        """Peak memory so far."""
        return Text(f"{self._memory() / 2**30:.1f} GiB")
