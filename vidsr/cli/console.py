"""Messages, warnings, tables and progress on stderr. The only module that imports Rich."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from vidsr.pipeline.run import Progress as RunProgress

ProgressMode = Literal["auto", "json", "none"]


class Screen:
    """Output to stderr during one command. In json mode every line is a JSON object with the key "event"."""

    def __init__(self, mode: ProgressMode = "auto", is_quiet: bool = False, is_verbose: bool = False) -> None:
        """`is_quiet` shows errors only; `is_verbose` also shows details that are otherwise only in the report."""
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._mode, self._is_quiet, self.is_verbose = mode, is_quiet, is_verbose

    def say(self, text: str) -> None:
        """Prints a message."""
        if not self._is_quiet:
            self._line("message", text, escape(text))

    def warn(self, text: str) -> None:
        """Prints a warning: something that the user should know but that did not stop the run."""
        if not self._is_quiet:
            self._line("warning", text, f"[yellow]warning:[/yellow] {escape(text)}")

    def fail(self, text: str) -> None:
        """Prints an error message; shown even when quiet."""
        self._line("error", text, f"[red]error:[/red] {escape(text)}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Prints a table."""
        table = Table(title=title, title_justify="left")
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
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
            TextColumn(device),
            _Memory(memory),
            console=self._console,
            transient=True,
        ) as bar:
            task = bar.add_task(escape(name), total=None)

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

    def _line(self, event: str, plain: str, marked: str) -> None:
        if self._mode == "json":
            self._emit({"event": event, "text": plain})
        else:
            self._console.print(marked)

    def _emit(self, values: dict[str, Any]) -> None:
        sys.stderr.write(json.dumps(values, ensure_ascii=False) + "\n")
        sys.stderr.flush()


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
