"""Batches: finds the input videos, names their outputs, and runs one job after the other.

Shared by the command line and the library; the caller supplies the work on a single video. `workers.py` runs several
at once.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Generic, TypeVar

from vidsr.config import RunConfig, SlowmoConfig
from vidsr.errors import InputError, OutputError, UsageError, VidsrError
from vidsr.files import IMAGE_SUFFIXES, MUXERS, VIDEO_SUFFIXES
from vidsr.types import RunReport
from vidsr.video.image_names import is_image, is_one_video
from vidsr.video.pipes import is_pipe_input

Result = TypeVar("Result")
Pair = tuple[Path, Path]
# Decides about a video and its output: why it is skipped, or None if it is to be done. May raise a VidsrError.
SkipRule = Callable[[Path, Path], str | None]
LARGEST_SHARD = 1_000_000


@dataclass(frozen=True, slots=True)
class Jobs:
    """Input videos with their output paths. `is_batch` is True for a folder or a list, even of one video.

    `left_out` are files of a folder that are results of vidsr themselves, and therefore no inputs. If other runs write
    into the same folders (`is_shared`), folders that stay empty are left.
    """

    pairs: tuple[Pair, ...]
    is_batch: bool
    left_out: tuple[Path, ...] = ()
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count` (from 1) of a batch that several runs share, such as the tasks of a Slurm array."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """From "I/N". Raises UsageError."""
        match = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
        index, count = (int(match[1]), int(match[2])) if match else (0, 0)
        if not 1 <= index <= count <= LARGEST_SHARD:
            raise UsageError(f"--shard must be I/N with I from 1 to N, such as 1/8, not '{text}'")
        return cls(index, count)

    def of(self, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        """Every `count`-th pair, from number `index` on, in the order of the inputs' names."""
        return tuple(sorted(pairs, key=lambda pair: str(pair[0])))[self.index - 1 :: self.count]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """Outcome of one job: a result, an error, or the reason why it was skipped."""

    source: Path
    target: Path
    result: Result | None = None
    error: Exception | None = None
    skipped: str | None = None

    @property
    def is_skipped(self) -> bool:
        """Whether the video was skipped because its output already existed."""
        return self.skipped is not None


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


def find_jobs(
    source: Path | Sequence[Path],
    target: Path | None,
    recursive: bool = False,
    suffix: str = "",
    *,
    beside: str = "",
    base: Path | None = None,
    shard: Shard | None = None,
    rate: Fraction | None = None,
) -> Jobs:
    """The jobs for a file, a folder, or a list of files and folders; for the latter two `target` is the output folder.

    Without a `target` each output lies beside its input, with `suffix`, or `beside` if that is empty, behind its name.
    Videos of a list that lie in the folder `base` keep their folders in the output folder. `recursive` and `suffix` are
    as for `pair_videos`. `shard` selects a part of the videos. A folder is one input if its images are the frames of a
    video (see `is_one_video`; `rate` is that of the user).

    Raises InputError or OutputError as `pair_videos` does, and UsageError if an option does not apply to the input.
    """
    if isinstance(source, Path):
        if is_folder(source) and not is_one_video(target, rate):
            jobs = _folder_jobs(source, target, recursive, suffix or ("" if target else beside))
            return _part_of(jobs, shard)
        if shard is not None:
            raise UsageError("--shard is for folders and lists, but the input is a file or one video: leave it out")
        if recursive or (suffix and target is not None):
            raise UsageError(
                "--recursive and --suffix are for folders, but the input is a file or one video: leave them out"
            )
        if target is None and is_pipe_input(source):
            raise UsageError("the input is a pipe, beside which no output can lie: name one, or - for stdout")
        return Jobs(((source, target or _output(source, source.parent, Path(source.name), suffix or beside)),), False)
    if target is not None:
        _refuse_file(target, "a list of files")
    if not source:
        raise InputError("the list of videos is empty: give at least one")
    pairs: list[Pair] = []
    left_out: tuple[Path, ...] = ()
    for each in dict.fromkeys(source):
        if is_folder(each):
            jobs = _folder_jobs(each, target, recursive, suffix or ("" if target else beside))
            pairs += jobs.pairs
            left_out += jobs.left_out
        elif target is None:
            pairs.append((each, _output(each, each.parent, Path(each.name), suffix or beside)))
        else:
            pairs.append((each, _output(each, target, _place(each, base), suffix)))
    return _part_of(Jobs(tuple(_without_clashes(pairs)), is_batch=True, left_out=left_out), shard)


def read_list(file: Path) -> tuple[list[Path], Path]:
    """The paths in a text file, one a line, and the folder that relative ones start from: that of the file.

    Lines that are empty or begin with # are left out. "-" is standard input, and the working folder. Raises InputError.
    """
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise InputError(f"the list {file} cannot be read: {error.strerror}") from error
    folder = Path() if str(file) == "-" else file.parent
    lines = [os.fsdecode(line) for line in content.removeprefix(b"\xef\xbb\xbf").splitlines()]
    paths = [folder / line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not paths:
        raise InputError(f"the list {file} names no video: write one path a line")
    return paths, folder


def default_suffix(options: RunConfig) -> str:
    """What is put behind the name of an output that lies beside its input: what the options make of it."""
    size = options.size
    name = ""
    if isinstance(options, SlowmoConfig):
        name = f"_{'smooth' if options.keep_duration else 'slow'}{options.interp}"
    if size.size is not None:
        return f"{name}_{size.size[0]}x{size.size[1]}"
    if size.height is not None:
        return f"{name}_{size.height}p"
    scale = _usual_scale(options) if size.scale is None else size.scale
    return name if name and scale == 1 else f"{name}_x{scale:g}"


def _usual_scale(options: RunConfig) -> float:
    """The factor of enlargement where no size is given. Raises ModelError for a card that cannot be read."""
    if not options.compute.model.endswith(".toml"):
        return options.default_scale
    from vidsr.engines.select import default_scale  # imports torch, which names alone do not need

    return default_scale(options)


def run_jobs(
    jobs: Jobs, work: Callable[[Path, Path], Result], *, skip: SkipRule | None = None
) -> Iterator[Outcome[Result]]:
    """Calls `work` for one video after the other and yields each outcome as it is known.

    In a batch, any exception becomes the outcome of its video and the others still run; for a single video it is
    raised. Output folders are created as needed, and removed again if they stay empty.
    """
    for source, target in jobs.pairs:
        try:
            if (reason := check_job(source, target, jobs, skip)) is not None:
                yield Outcome(source, target, skipped=reason)
                continue
            with result_folder(target.parent, jobs.is_shared) if jobs.is_batch else nullcontext():
                outcome = Outcome(source, target, work(source, target))
        except Exception as error:
            if not jobs.is_batch:
                raise
            outcome = Outcome(source, target, error=error)
        yield outcome


def check_job(source: Path, target: Path, jobs: Jobs, skip: SkipRule | None) -> str | None:
    """What is decided about a job before its work starts: why it is skipped, or None. Raises OutputError."""
    if skip is not None and (reason := skip(source, target)) is not None:
        return reason
    _refuse_inputs(source, target, jobs)
    return None


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

    A folder without videos stands for its images, each by itself.

    `suffix` is put between stem and extension; formats that vidsr cannot write become .mkv. Hidden files, files
    without a video extension, and images beside videos are skipped.

    Raises InputError if there is no video, OutputError if `target` is a file or two outputs would have the same name.
    """
    return list(_folder_jobs(source, target, recursive, suffix).pairs)


def _folder_jobs(source: Path, target: Path | None, recursive: bool, suffix: str) -> Jobs:
    """As `pair_videos`; without a `target` outputs lie beside their inputs.

    Results of vidsr that lie where outputs are to be written are no inputs: they are left out.
    """
    if target is not None:
        _refuse_file(target, f"the folder {source}")
    pairs, left_out = list[Pair](), list[Path]()
    for video in _videos_in(source, target, recursive):
        place = video.relative_to(source)
        result = _output(video, source if target is None else target, place, suffix)
        if _is_same_folder(video.parent, result.parent) and _is_result(video, suffix):
            left_out.append(video)
        else:
            pairs.append((video, result))
    if not pairs:
        more = ": name another" if recursive else ": name another, or use --recursive to search subfolders"
        what = "only results of vidsr" if left_out else "no video or image"
        raise InputError(
            f"{what} in the folder {source}" + (": name an output folder to use them as inputs" if left_out else more)
        )
    return Jobs(tuple(_without_clashes(pairs)), True, tuple(left_out))


def _videos_in(source: Path, target: Path | None, recursive: bool) -> list[Path]:
    try:
        found = sorted(source.rglob("*") if recursive else source.iterdir())
    except OSError as error:
        raise InputError(f"cannot read the folder {source}: {error.strerror}") from error
    inside = source.resolve() if target is None else target.resolve()
    files = [
        path
        for path in found
        if path.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES
        and path.is_file()
        and not path.name.startswith(".")
        and (inside == source.resolve() or inside not in path.resolve().parents)
    ]
    return [path for path in files if not is_image(path)] or files


def _is_same_folder(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _is_result(video: Path, suffix: str) -> bool:
    """Whether vidsr made a file. Images do not say so: one that it made has the name of another, with `suffix`."""
    if is_image(video):
        origin = video.stem.removesuffix(suffix)
        return origin != video.stem and any(is_image(path) for path in video.parent.glob(f"{glob.escape(origin)}.*"))
    from vidsr.pipeline.signature import signature_of  # imports torch, which looking for inputs does not need

    return signature_of(video) is not None


def _refuse_file(target: Path, source: str) -> None:
    if target.exists() and not target.is_dir():
        raise OutputError(f"{target} is a file, but the input is {source}: name an output folder")


def _place(video: Path, base: Path | None) -> Path:
    """Where the output of a video of a list lies in the output folder."""
    if base is not None and video.is_relative_to(base):
        place = video.relative_to(base)
        if ".." not in place.parts:
            return place
    return Path(video.name)


def _output(video: Path, target: Path, place: Path, suffix: str) -> Path:
    ending = video.suffix if video.suffix.lower() in MUXERS or is_image(video) else ".mkv"
    return target / place.with_name(f"{video.stem}{suffix}{ending}")


def _without_clashes(pairs: Iterable[Pair]) -> list[Pair]:
    """The pairs, each input once. Raises OutputError if two different ones have the same output."""
    sources: dict[Path, Path] = {}
    for video, result in pairs:
        if sources.setdefault(result, video) != video:
            raise OutputError(f"{sources[result]} and {video} would both become {result}: rename one of them")
    return [(video, result) for result, video in sources.items()]


def _part_of(jobs: Jobs, shard: Shard | None) -> Jobs:
    return jobs if shard is None else replace(jobs, pairs=shard.of(jobs.pairs), is_shared=True)


@contextmanager
def result_folder(folder: Path, is_shared: bool = False) -> Iterator[None]:
    """Creates a folder and its parents for the block, and removes those created that are still empty at its end.

    With `is_shared` they stay: another run may be about to write into them. Raises OutputError if the folder cannot be
    created.
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
            for path in () if is_shared else made:
                path.rmdir()
