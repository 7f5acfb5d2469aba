"""Messages, warnings, tables and progress on stderr. The only module that imports Rich."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Literal, cast

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from vidsr.cli.progress_text import ASCII, UNICODE, Now, Style, lines_of, plain_line, totals_text
from vidsr.cli.terminal import silence, visible, visible_json
from vidsr.pipeline.time_left import TimeLeft

if TYPE_CHECKING:
    from vidsr.pipeline.batch_progress import Totals
    from vidsr.pipeline.run import Progress as RunProgress

ProgressMode = Literal["auto", "json", "none"]
# xterm's sequences that push the title of the window onto a stack, and take it from there; others ignore them.
_KEEP_TITLE, _FORMER_TITLE = "\x1b[22;2t", "\x1b[23;2t"
EVENT_SECONDS = 1.0  # between two progress lines in json mode
# Without a terminal: when the first line about a video is printed, and the longest pause between two of them.
FIRST_LINE_SECONDS, LONGEST_PAUSE_SECONDS = 30.0, 600.0
DRAWINGS_PER_SECOND = 2  # each takes about a millisecond
STYLES: dict[Style, str] = {
    "plain": "", "name": "bold", "done": "green", "cut": "bold yellow", "coming": "bright_black",
    "quiet": "bright_black",
}  # fmt: skip


@dataclass(slots=True)
class Running:
    """A video that is being processed: its progress, the peak memory of its process, and when both were told."""

    name: str
    device: str
    memory_bytes: int = 0
    progress: RunProgress | None = None
    began: float = field(default_factory=time.monotonic)
    told: float = 0.0
    _time_left: TimeLeft = field(default_factory=TimeLeft)

    def update(self, progress: RunProgress, memory_bytes: int) -> None:
        """Takes over the latest progress."""
        self.progress, self.memory_bytes, self.told = progress, memory_bytes, time.monotonic()
        if not progress.is_finishing:
            self._time_left.update(
                progress.seconds, progress.frames_done, progress.frames_expected, progress.extra_work, progress.ahead
            )

    @property
    def rate(self) -> float | None:
        """Frames per second in the recent past, without the time that loading took."""
        return self._time_left.frames_per_second

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the last frame, as far as the header and the frames so far tell; counts down between frames."""
        left = self._time_left.seconds
        return None if left is None else max(0.0, left - (time.monotonic() - self.told))

    @property
    def now(self) -> Now:
        """What is shown of it."""
        return Now(self.name, self.device, self.progress, self.rate, self.seconds_left, self.memory_bytes)

    def event(self) -> dict[str, Any]:
        """The values of a progress line."""
        progress, rate, left = self.progress, self.rate, self.seconds_left
        return {
            "input": self.name,
            "stage": "start" if progress is None else "finish" if progress.is_finishing else "frames",
            "frames_done": progress.frames_done if progress else 0,
            "frames_expected": progress.frames_expected if progress else None,
            "scenes": len(progress.scene_starts) if progress else 0,
            "faces": progress.faces if progress else None,
            "seconds": round(progress.seconds if progress else time.monotonic() - self.began, 3),
            "frames_per_second": None if rate is None else round(rate, 3),
            "seconds_left": None if left is None else round(left, 1),
            "memory_bytes": self.memory_bytes,
        }


class Screen:
    """Output to stderr during one command. In json mode every line is a JSON object with the key "event"."""

    def __init__(self, mode: ProgressMode = "auto", is_quiet: bool = False, is_verbose: bool = False) -> None:
        """`is_quiet` shows errors only; `is_verbose` also shows details that are otherwise only in the report."""
        self._console = Console(file=cast(IO[str], _Stderr()), highlight=False, soft_wrap=True)
        self._mode, self._is_quiet, self.is_verbose = mode, is_quiet, is_verbose
        self._lock = threading.Lock()

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
        with self.board() as board:
            running = board.start(name, device)
            yield lambda progress: board.update(running, progress, memory())
            board.finish(running)

    @contextmanager
    def board(self, totals: Callable[[], Totals | None] = lambda: None) -> Iterator[Board]:
        """Yields the display of the videos that are being processed, and of the `totals` of a batch."""
        if self._mode == "json":
            with _JsonBoard(self._emit, totals) as lines:
                yield lines
            return
        if self._mode == "none" or self._is_quiet:
            yield Board()
        elif not self._console.is_terminal or self._console.is_dumb_terminal:
            yield _PlainBoard(self.say, totals)
        else:
            with self._own_title() as show_title, _LiveBoard(self._console, totals, show_title) as live:
                yield live

    @contextmanager
    def _own_title(self) -> Iterator[Callable[[str], object]]:
        """Yields the function that sets the title of the terminal's window; puts the former title back."""
        self._console.file.write(_KEEP_TITLE)
        try:
            yield lambda title: self._console.set_window_title(visible(title))
        finally:
            self._console.file.write(_FORMER_TITLE)
            self._console.file.flush()

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        """Prints a JSON line of this kind in json mode, and nothing otherwise."""
        if self._mode == "json":
            self._emit({"event": event, **values})

    def _line(self, event: str, text: str, marked_start: str) -> None:
        if self._mode == "json":
            self._emit({"event": event, "text": text})
        else:
            self._console.print(marked_start + _shown(text))

    def _emit(self, values: dict[str, Any]) -> None:
        with self._lock:  # progress lines come from a thread
            self._console.file.write(visible_json(json.dumps(values, ensure_ascii=False)) + "\n")
            self._console.file.flush()


class Board:
    """Keeps the videos that are being processed, and shows nothing."""

    def __init__(self) -> None:
        self.running: list[Running] = []

    def start(self, name: str, device: str) -> Running:
        """Adds a video."""
        self.running.append(Running(name, device))
        return self.running[-1]

    def update(self, running: Running, progress: RunProgress, memory_bytes: int) -> None:
        """Takes over the progress of a video."""
        running.update(progress, memory_bytes)

    def finish(self, running: Running) -> None:
        """Removes a video that is done or has failed."""
        self.running.remove(running)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Nothing is shown in the block, which writes to stdout: on a terminal both would share a line."""
        yield


class _JsonBoard(Board):
    """Emits a JSON line for each running video: at its first and last frame, and every second in between."""

    def __init__(self, emit: Callable[[dict[str, Any]], None], totals: Callable[[], Totals | None]) -> None:
        super().__init__()
        self._emit, self._totals = emit, totals
        self._is_over, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._tick, name="vidsr-progress", daemon=True)

    def __enter__(self) -> _JsonBoard:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def update(self, running: Running, progress: RunProgress, memory_bytes: int) -> None:
        """As Board; the first frame is told at once."""
        is_first = running.progress is None
        with self._lock:
            super().update(running, progress, memory_bytes)
            if is_first:
                self._tell(running)

    def finish(self, running: Running) -> None:
        """As Board; tells the last frame."""
        with self._lock:
            if running.progress is not None:
                self._tell(running)
            super().finish(running)

    def _tick(self) -> None:
        while not self._is_over.wait(EVENT_SECONDS):
            with self._lock:
                for running in self.running:
                    self._tell(running)

    def _tell(self, running: Running) -> None:
        totals = self._totals()
        self._emit({"event": "progress"} | running.event() | ({} if totals is None else totals.event()))


class _PlainBoard(Board):
    """Prints a line about each running video from time to time, where nothing can be drawn: in logs, for example."""

    def __init__(self, say: Callable[[str], None], totals: Callable[[], Totals | None]) -> None:
        super().__init__()
        self._say, self._totals = say, totals
        self._next: dict[int, float] = {}

    def update(self, running: Running, progress: RunProgress, memory_bytes: int) -> None:
        """As Board; prints the first line after half a minute, and later ones about a tenth of the time apart."""
        super().update(running, progress, memory_bytes)
        if progress.is_finishing or progress.seconds < self._next.get(id(running), FIRST_LINE_SECONDS):
            return
        pause = min(LONGEST_PAUSE_SECONDS, max(FIRST_LINE_SECONDS, progress.seconds / 10))
        self._next[id(running)] = progress.seconds + pause
        totals = self._totals()
        whole = "" if totals is None else f" ({totals_text(totals)})"
        self._say(plain_line(running.now) + whole)

    def finish(self, running: Running) -> None:
        """As Board."""
        super().finish(running)
        self._next.pop(id(running), None)


class _LiveBoard(Board):
    """Draws the running videos and the batch below the messages, again and again; see `progress_text`."""

    def __init__(
        self, console: Console, totals: Callable[[], Totals | None], show_title: Callable[[str], object]
    ) -> None:
        super().__init__()
        self._console, self._totals, self._show_title = console, totals, show_title
        self._title = ""
        self._letters = UNICODE if _can_write(console.encoding, "".join(UNICODE)) else ASCII
        self._last: list[Now] = []
        self._live = Live(
            console=console, get_renderable=self._drawn, refresh_per_second=DRAWINGS_PER_SECOND, transient=True
        )

    def __enter__(self) -> _LiveBoard:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, running: Running, progress: RunProgress, memory_bytes: int) -> None:
        """As Board."""
        super().update(running, progress, memory_bytes)
        self._retitle(running)

    def finish(self, running: Running) -> None:
        """As Board; the last video stays until something else is shown."""
        self._last = [running.now]
        super().finish(running)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """As Board."""
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def _drawn(self) -> Text:
        """All lines as they are now; called by the thread that draws."""
        width, height = self._console.size
        running = [each.now for each in list(self.running)] or self._last
        lines = lines_of(running, self._totals(), width, height - 1, self._letters)
        parts: list[tuple[str, str]] = []
        for line in lines:
            parts += [(piece.text, STYLES[piece.style]) for piece in line]
            parts.append(("\n", ""))
        return Text.assemble(*parts[:-1], no_wrap=True, end="")

    def _retitle(self, running: Running) -> None:
        """Shows in the title how much of the batch or of this video is done, whenever the percentage changes."""
        totals, progress = self._totals(), running.progress
        assert progress is not None, "after a frame"
        name = running.name if totals is None else f"{totals.files} videos"
        counted = progress if totals is None else totals
        done, expected = counted.frames_done, counted.frames_expected
        part = f"{min(100, 100 * done // expected)}%" if expected else f"{done} frames"
        if (title := f"{part} {name} - vidsr") != self._title:
            self._title = title
            self._show_title(title)


def _can_write(encoding: str, letters: str) -> bool:
    try:
        letters.encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True


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
