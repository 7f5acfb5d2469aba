"""How far a batch is: files, frames, and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidsr.config import RunConfig
from vidsr.pipeline.batch import Outcome, Pair
from vidsr.video.header import HeaderLength, header_length

if TYPE_CHECKING:
    from vidsr.pipeline.run import Progress
    from vidsr.types import RunReport


@dataclass(frozen=True, slots=True)
class Totals:
    """Where a batch stands: files by outcome, output frames of all files, and the seconds left.

    Frames are those of files that are done or running, and `frames_expected` those of all files that are not skipped;
    what is unknown is None.
    """

    files: int
    done: int
    failed: int
    skipped: int
    frames_done: int
    frames_expected: int | None
    seconds_left: float | None

    def event(self) -> dict[str, Any]:
        """The values of a progress line."""
        return {
            "files": self.files,
            "files_done": self.done,
            "files_failed": self.failed,
            "files_skipped": self.skipped,
            "total_frames_done": self.frames_done,
            "total_frames_expected": self.frames_expected,
            "total_seconds_left": None if self.seconds_left is None else round(self.seconds_left, 1),
        }


@dataclass(slots=True)
class _File:
    """One video: expected output frames, pixels of a frame, the frames that are done, and whether it is over."""

    expected: int | None
    pixels: int | None
    frames: int = 0
    is_over: bool = False


class BatchProgress:
    """Follows the files of a batch. The time left assumes that work is proportional to frames times pixels.

    A file whose header tells no length counts as the mean of the others.
    """

    def __init__(self, pairs: Iterable[Pair], options: RunConfig, clock: Callable[[], float] = time.monotonic) -> None:
        """Reads the headers of all inputs."""
        self._options, self._clock = options, clock
        self._first: tuple[float, float] | None = None
        self._files: dict[Path, _File] = {}
        for source, _ in pairs:
            length = header_length(source)
            self._files[source] = _File(self._expected(length), length.pixels if length else None)
        self._count, self._done, self._failed, self._skipped = len(self._files), 0, 0, 0

    def progressed(self, source: Path, progress: Progress) -> None:
        """Frames of a video are done."""
        file = self._files[source]
        file.frames, file.expected = progress.frames_done, progress.frames_expected or file.expected
        if self._first is None:
            self._first = (self._clock(), self._work_done())

    def ended(self, outcome: Outcome[RunReport]) -> None:
        """A video is done, has failed or is skipped."""
        if outcome.is_skipped:
            self._skipped += 1
            del self._files[outcome.source]
            return
        file = self._files[outcome.source]
        if outcome.result is not None:
            self._done += 1
            file.frames = file.expected = outcome.result.frames_out
        else:
            self._failed += 1
        file.is_over = True

    @property
    def totals(self) -> Totals:
        """Where the batch stands now."""
        files = list(self._files.values())
        known = [file.expected for file in files if file.expected is not None]
        mean = sum(known) / len(known) if known else None
        expected = None if mean is None else round(sum(mean if f.expected is None else f.expected for f in files))
        return Totals(
            self._count, self._done, self._failed, self._skipped, sum(file.frames for file in files), expected,
            self._seconds_left(files, mean),
        )  # fmt: skip

    def _seconds_left(self, files: list[_File], mean: float | None) -> float | None:
        """By the rate since the first progress, so that loading the first network does not count."""
        if mean is None or self._first is None:
            return None
        began, before = self._first
        done, seconds = self._work_done() - before, self._clock() - began
        if done <= 0 or seconds <= 0:
            return None
        pixels = self._usual_pixels()
        left = sum(
            max(0.0, (mean if file.expected is None else file.expected) - file.frames) * (file.pixels or pixels)
            for file in files
            if not file.is_over
        )
        return left * seconds / done

    def _work_done(self) -> float:
        pixels = self._usual_pixels()
        return sum(file.frames * (file.pixels or pixels) for file in self._files.values())

    def _usual_pixels(self) -> float:
        sizes = [file.pixels for file in self._files.values() if file.pixels]
        return sum(sizes) / len(sizes) if sizes else 1.0

    def _expected(self, length: HeaderLength | None) -> int | None:
        """The output frames of a video, within the trim range."""
        if length is None or length.frames is None:
            return None
        frames, trim = length.frames, self._options.input
        if length.rate:
            first = round((trim.start or 0) * length.rate)
            last = frames if trim.end is None else min(frames, round(trim.end * length.rate))
            frames = max(0, last - first)
        return (frames - 1) * self._options.interp + 1 if frames else 0
