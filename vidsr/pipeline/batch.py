"""Batches: finds the input videos, names their outputs, and runs one job after the other.

Shared by the command line and the library; the caller supplies the work on a single video.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from vidsr.errors import InputError, OutputError, UsageError, VidsrError
from vidsr.files import MUXERS, VIDEO_SUFFIXES
from vidsr.types import RunReport

Result = TypeVar("Result")
Pair = tuple[Path, Path]


@dataclass(frozen=True, slots=True)
class Jobs:
    """Input videos with their output paths. `is_batch` is True for a folder or a list, even of one video."""

    pairs: tuple[Pair, ...]
    is_batch: bool


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """Outcome of one job: a result, an error, or neither if the output already existed."""

    source: Path
    target: Path
    result: Result | None = None
    error: Exception | None = None

    @property
    def is_skipped(self) -> bool:
        """Whether the video was skipped because its output already existed."""
        return self.result is None and self.error is None


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed video of a batch: its path and the error, of vidsr.errors or any other."""

    input: str
    error: Exception

    @property
    def exit_code(self) -> int:
        """The exit code of the command line."""
        known = self._known
        return 1 if known is None else known.exit_code

    @property
    def _known(self) -> VidsrError | None:
        """The error as one of vidsr.errors; None for an internal error."""
        if isinstance(self.error, VidsrError):
            return self.error
        from vidsr.runtime.memory import shortage  # imports torch, which looking for inputs does not need

        return shortage(self.error)

    def __str__(self) -> str:
        if (known := self._known) is not None:
            return str(known) if known is self.error else f"{self.input}: {known}"
        words = " ".join(str(self.error).split())  # messages of other libraries may span several lines
        return f"{self.input}: internal error, please report it: {type(self.error).__name__}: {words}"


@dataclass(frozen=True, slots=True)
class BatchReport:
    """Outcomes of a folder or a list of videos, in order; `skipped` are the inputs whose outputs already existed."""

    reports: tuple[RunReport, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """The exit code of the command line: that of the first failure, or 0."""
        return self.failures[0].exit_code if self.failures else 0


def find_jobs(source: Path | Sequence[Path], target: Path, recursive: bool = False, suffix: str = "") -> Jobs:
    """The jobs for a file, a folder or a list of files; for the latter two `target` is the output folder.

    `recursive` and `suffix` are as for `pair_videos`. Raises InputError or OutputError as that does, and UsageError if
    an option does not apply to the kind of input.
    """
    if isinstance(source, Path):
        if is_folder(source):
            return Jobs(tuple(pair_videos(source, target, recursive, suffix)), is_batch=True)
        if recursive or suffix:
            raise UsageError("--recursive and --suffix are for folders, but the input is a file: leave them out")
        return Jobs(((source, target),), is_batch=False)
    if recursive:
        raise UsageError("--recursive is for folders, but the input is a list of files: leave it out")
    _refuse_file(target, "a list of files")
    if not source:
        raise InputError("the list of videos is empty: give at least one")
    return Jobs(tuple(_named(source, lambda video: Path(video.name), target, suffix)), is_batch=True)


def run_jobs(
    jobs: Jobs, work: Callable[[Path, Path], Result], *, skip_existing: bool = False
) -> Iterator[Outcome[Result]]:
    """Calls `work` for one video after the other and yields each outcome as it is known.

    In a batch, any exception becomes the outcome of its video and the others still run; for a single video it is
    raised. Output folders are created as needed, and removed again if they stay empty.
    """
    for source, target in jobs.pairs:
        if skip_existing and target.exists():
            yield Outcome(source, target)
            continue
        try:
            _refuse_inputs(source, target, jobs)
            with result_folder(target.parent) if jobs.is_batch else nullcontext():
                outcome = Outcome(source, target, work(source, target))
        except Exception as error:
            if not jobs.is_batch:
                raise
            outcome = Outcome(source, target, error=error)
        yield outcome


def _refuse_inputs(source: Path, target: Path, jobs: Jobs) -> None:
    """Raises OutputError if the output of `source` is another input of the batch, which --overwrite would replace."""
    if os.path.exists(target):  # noqa: PTH110 - Path.exists raises an error for a name that is too long
        for other, _ in jobs.pairs:
            if other != source and other.exists() and target.samefile(other):
                raise OutputError(f"{target} is an input of this run too: choose another folder or --suffix")


def summarize(outcomes: Iterable[Outcome[RunReport]]) -> BatchReport:
    """The report of a batch."""
    done = list(outcomes)
    return BatchReport(
        reports=tuple(outcome.result for outcome in done if outcome.result is not None),
        failures=tuple(Failure(str(outcome.source), outcome.error) for outcome in done if outcome.error is not None),
        skipped=tuple(str(outcome.source) for outcome in done if outcome.is_skipped),
    )


def is_folder(source: Path) -> bool:
    """Whether the input is a folder. Raises InputError if the path cannot be queried (for example, name too long)."""
    try:
        return source.is_dir()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{source} cannot be read: {reason}") from error


def pair_videos(source: Path, target: Path, recursive: bool, suffix: str) -> list[Pair]:
    """Every video of the folder `source` with its output path in the folder `target`, sorted by name; creates nothing.

    `suffix` is put between stem and extension; formats that vidsr cannot write become .mkv. Hidden files and files
    without a video extension are skipped.

    Raises InputError if there is no video, OutputError if `target` is a file or two outputs would have the same name.
    """
    _refuse_file(target, f"the folder {source}")
    try:
        found = sorted(source.rglob("*") if recursive else source.iterdir())
    except OSError as error:
        raise InputError(f"cannot read the folder {source}: {error.strerror}") from error
    inside = target.resolve()
    videos = [
        path
        for path in found
        if path.suffix.lower() in VIDEO_SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
        and (inside == source.resolve() or inside not in path.resolve().parents)
    ]
    if not videos:
        more = ": name another" if recursive else ": name another, or use --recursive to search subfolders"
        raise InputError(f"no video file in the folder {source}{more}")
    return _named(videos, lambda video: video.relative_to(source), target, suffix)


def _refuse_file(target: Path, source: str) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file, but the input is {source}: name an output folder")


def _named(videos: Iterable[Path], place: Callable[[Path], Path], target: Path, suffix: str) -> list[Pair]:
    """Each video with its output path. Raises OutputError if two would have the same."""
    sources: dict[Path, Path] = {}
    for video in videos:
        ending = video.suffix if video.suffix.lower() in MUXERS else ".mkv"
        result = target / place(video).with_name(f"{video.stem}{suffix}{ending}")
        if result in sources:
            raise OutputError(f"{sources[result]} and {video} would both become {result}: rename one of them")
        sources[result] = video
    return [(video, result) for result, video in sources.items()]


@contextmanager
def result_folder(folder: Path) -> Iterator[None]:
    """Creates a folder and its parents for the block, and removes those created that are still empty at its end.

    Raises OutputError if the folder cannot be created.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # stops at the first one that is not empty
            for path in made:
                path.rmdir()
