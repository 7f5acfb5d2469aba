"""Many videos, one after the other: which there are, where each result goes, and what became of each.

The command line and the library share it. What is done to a single video is the caller's.
"""

from __future__ import annotations

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
    """Videos with the paths of their results. `is_batch` is True for a folder or a list, even of one."""

    pairs: tuple[Pair, ...]
    is_batch: bool


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What became of one video: a result, an error, or neither if its result was there before."""

    source: Path
    target: Path
    result: Result | None = None
    error: Exception | None = None

    @property
    def is_skipped(self) -> bool:
        """Whether nothing was done because the result was there."""
        return self.result is None and self.error is None


@dataclass(frozen=True, slots=True)
class Failure:
    """A video of a batch that could not be done: its path and the error, of vidsr.errors or any other."""

    input: str
    error: Exception

    @property
    def exit_code(self) -> int:
        """The exit code of the command line."""
        return self.error.exit_code if isinstance(self.error, VidsrError) else 1

    def __str__(self) -> str:
        if isinstance(self.error, VidsrError):
            return str(self.error)
        words = " ".join(str(self.error).split())  # other people's messages may have several lines
        return f"{self.input}: internal error, please report it: {type(self.error).__name__}: {words}"


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What became of a folder or a list of videos, in order: `skipped` are those whose results were there already."""

    reports: tuple[RunReport, ...]
    failures: tuple[Failure, ...]
    skipped: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """The exit code of the command line: that of the first failure, or 0."""
        return self.failures[0].exit_code if self.failures else 0


def find_jobs(source: Path | Sequence[Path], target: Path, recursive: bool = False, suffix: str = "") -> Jobs:
    """The videos of a file, a folder or a list of files; of the latter two the results go into the folder `target`.

    `recursive` and `suffix` as for `pair_videos`. Raises InputError or OutputError as that does, UsageError if they are
    given for a single file.
    """
    if isinstance(source, Path):
        if is_folder(source):
            return Jobs(tuple(pair_videos(source, target, recursive, suffix)), is_batch=True)
        if recursive or suffix:
            raise UsageError("--recursive and --suffix are for folders; INPUT is a file")
        return Jobs(((source, target),), is_batch=False)
    if recursive:
        raise UsageError("--recursive is for folders; the input is a list of files")
    _refuse_file(target, "a list of files")
    if not source:
        raise InputError("the list of videos is empty: give at least one")
    return Jobs(tuple(_named(source, lambda video: Path(video.name), target, suffix)), is_batch=True)


def run_jobs(
    jobs: Jobs, work: Callable[[Path, Path], Result], *, skip_existing: bool = False
) -> Iterator[Outcome[Result]]:
    """Does `work` with one video after the other and gives each outcome when it is known.

    In a batch every exception is that video's, ours or not, and the others are still done; that of a single video is
    raised. Folders for results are made as needed, and removed again if nothing was put into them.
    """
    for source, target in jobs.pairs:
        if skip_existing and target.exists():
            yield Outcome(source, target)
            continue
        try:
            with result_folder(target.parent) if jobs.is_batch else nullcontext():
                outcome = Outcome(source, target, work(source, target))
        except Exception as error:
            if not jobs.is_batch:
                raise
            outcome = Outcome(source, target, error=error)
        yield outcome


def summarize(outcomes: Iterable[Outcome[RunReport]]) -> BatchReport:
    """The report of a batch."""
    done = list(outcomes)
    return BatchReport(
        reports=tuple(outcome.result for outcome in done if outcome.result is not None),
        failures=tuple(Failure(str(outcome.source), outcome.error) for outcome in done if outcome.error is not None),
        skipped=tuple(str(outcome.source) for outcome in done if outcome.is_skipped),
    )


def is_folder(source: Path) -> bool:
    """Whether the input is a folder; raises InputError if the system refuses to say (too long a name)."""
    try:
        return source.is_dir()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{source} cannot be read: {reason}") from error


def pair_videos(source: Path, target: Path, recursive: bool, suffix: str) -> list[Pair]:
    """Every video of the folder `source` with its result's path in the folder `target`, by name; creates no folder.

    `suffix` is put between stem and extension; types that vidsr does not write become .mkv. Hidden files and files
    without a video's extension are passed over.

    Raises InputError if there is no video, OutputError if `target` is a file or two results would have one name.
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
        more = "" if recursive else " (folders inside it are read with --recursive)"
        raise InputError(f"no video file in the folder {source}{more}")
    return _named(videos, lambda video: video.relative_to(source), target, suffix)


def _refuse_file(target: Path, source: str) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file, but the input is {source}: name a folder for the results")


def _named(videos: Iterable[Path], place: Callable[[Path], Path], target: Path, suffix: str) -> list[Pair]:
    """Each video with its result's path; raises OutputError if two would have one."""
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
    """Makes a folder, with those above it, for the block; what was made and is empty at the end is removed.

    Raises OutputError if it cannot be made.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):  # the first one that is not empty ends it
            for path in made:
                path.rmdir()
