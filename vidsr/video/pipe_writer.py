"""Writing a video into a pipe: Matroska with the copied streams, or y4m."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

from vidsr.errors import CheckError, OutputError
from vidsr.types import Frame
from vidsr.video.containers import muxer_of
from vidsr.video.encoder import Encoder
from vidsr.video.errors import writing
from vidsr.video.muxer import Muxer
from vidsr.video.output import OutputPlan
from vidsr.video.output_times import OutputTimes
from vidsr.video.pipes import PipeOutput
from vidsr.video.side_data_kinds import losses

NOT_CHECKED = "the output went through a pipe: it could not be read back and checked"


@dataclass(frozen=True, slots=True)
class PipeOutputPlan:
    """The settings with which a video is written into the pipe at `path`; those of `video` are for a file."""

    path: Path
    video: OutputPlan

    @property
    def target(self) -> Path:
        """The path of the pipe."""
        return self.path

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the output cannot keep."""
        return self.video.warnings

    @property
    def description(self) -> str:
        """Format, encoder and pixel format, for people."""
        return f"{muxer_of(self.video.target)} in a pipe, {self.video.description}"


class PipeWriter:
    """Writes one video into a pipe, with the interface of `Writer`.

    What is written is gone: after an error the stream ends early, and nothing can be checked by reading it back.
    """

    def __init__(self, plan: PipeOutputPlan) -> None:
        self.plan = plan
        self.warnings: list[str] = list(plan.warnings)
        self._pipe: PipeOutput | None = None
        self._muxer: Muxer | None = None
        self._encoder: Encoder
        self._placing: OutputTimes
        self._count = 0
        self._last: Fraction | None = None
        self._steps: set[Fraction] = set()

    def __enter__(self) -> Self:
        plan = self.plan.video
        with self._writing():
            self._pipe = PipeOutput(self.plan.path)
            try:
                self._muxer = Muxer(self._pipe, plan)
                self._encoder = Encoder(self._muxer.context, plan.encoding, plan.size)
                self._muxer.begin()
                self._placing = OutputTimes(plan.info.time_base, self._muxer.time_base)
            except BaseException:
                self.__exit__(None, None, None)
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._muxer is not None:
                self._muxer.close()
        finally:
            if self._pipe is not None:
                self._pipe.close()

    def cancel(self) -> None:
        """Ends a write that waits for the reader of the pipe."""
        if self._pipe is not None:
            self._pipe.cancel()

    def write(self, frame: Frame) -> None:
        """Encodes the next frame, of the planned size. Raises OutputError, or BrokenPipeError if nobody reads."""
        muxer = self._opened
        time = frame.pts * frame.time_base
        with self._writing():
            if self._last is None:
                self.warnings += self._placing.begin(self.plan.video, time, muxer.copies.audio_start)
                muxer.copies.shift = self._placing.shift / self.plan.video.stretch
            else:
                self._steps.add(time - self._last)
            self._last = time
            if self._is_y4m:  # which counts frames
                pts, duration = self._count, 1
            else:
                pts, duration, _ = self._placing.place(frame, self.plan.video.target)
            self._count += 1
            muxer.write(self._encoder.encode(frame.image, pts, duration, frame.messages))

    def commit(self, is_strict: bool = False, side_data: Collection[str] = ()) -> None:
        """Writes what is left. Raises OutputError, BrokenPipeError, or with `is_strict` CheckError about a loss."""
        plan, muxer = self.plan.video, self._opened
        if self._last is None or self._encoder.end is None:
            raise OutputError(f"{self.plan.path}: there is no frame to write")
        end = self._encoder.end * plan.encoding.time_base
        with self._writing():
            muxer.write(self._encoder.flush())
            muxer.finish(end if plan.trim.end is not None else None)
        lost = [*muxer.copies.losses, *self._lost(), *losses(side_data, ())]
        self.warnings += [*self._placing.warnings(plan.target), *muxer.copies.warnings, *lost]
        if is_strict and lost:
            raise CheckError(f"the output in the pipe is not complete, and --strict allows no loss: {lost[0]}")

    def _lost(self) -> list[str]:
        """What y4m does not hold beside the streams that the muxer refuses."""
        plan = self.plan.video
        if not self._is_y4m:
            return []
        found = []
        if len(self._steps) > 1:
            found.append("the frames do not come at even times, and y4m holds none")
        if plan.matrix is not None or plan.info.rotation_degrees:
            found.append("y4m holds no rotation: the frames stay as they are stored")
        if self._opened.copies.tags:
            found.append("y4m holds no tags")
        return found

    @property
    def _is_y4m(self) -> bool:
        return muxer_of(self.plan.video.target) == "yuv4mpegpipe"

    @property
    def _opened(self) -> Muxer:
        assert self._muxer is not None, "a writer is used in a `with` block"
        return self._muxer

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Translates errors; what stopped the pipe itself, such as a reader that ended, is raised as it is."""
        try:
            with writing(self.plan.path):
                yield
        except Exception:
            failure = None if self._pipe is None else self._pipe.failure
            if failure is not None:
                raise failure from None
            raise
