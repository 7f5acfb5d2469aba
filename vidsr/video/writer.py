"""Writer of a video file: encodes frames, muxes them with the copied streams, and verifies the finished file."""

from __future__ import annotations

from array import array
from collections.abc import Collection
from contextlib import suppress
from fractions import Fraction
from types import TracebackType
from typing import NamedTuple, Self

from vidsr.errors import CheckError, OutputError
from vidsr.files import HiddenFile, stale_warnings
from vidsr.types import Frame
from vidsr.video.encoder import Encoder
from vidsr.video.errors import writing
from vidsr.video.messages import MessageChecksum
from vidsr.video.muxer import Muxer
from vidsr.video.output import OutputPlan
from vidsr.video.output_times import OutputTimes
from vidsr.video.projection import add_layout
from vidsr.video.verify import Expected, verify


class Writer:
    """Writes one video as planned. Use it as a context manager, from one thread at a time.

    The frames go to a hidden file beside the target. `commit` completes the file, checks it, and moves it to its final
    name; leaving the `with` block without `commit` removes it. The first stream of the file, video or audio, begins at
    0; with `InputConfig.start` or a negative first time it is the video. All streams are moved by the same time. With
    `plan.stretch` above 1, frames must arrive with stretched times; the other streams are stretched here.

    `warnings` name what is not carried over, and are complete after `commit`.
    """

    def __init__(self, plan: OutputPlan) -> None:
        self.plan = plan
        self._hidden = HiddenFile(plan.target, overwrite=plan.options.overwrite)
        self.warnings: list[str] = list(plan.warnings)
        self._muxer: Muxer | None = None
        self._encoder: Encoder
        self._placing: OutputTimes
        self._times: array[int] = array("q")

    def __enter__(self) -> Self:
        plan = self.plan
        self.warnings += stale_warnings(plan.target.absolute().parent)
        with writing(plan.target):
            self._hidden.__enter__()
            try:
                self._muxer = Muxer(self._hidden.path, plan)
                self._encoder = Encoder(self._muxer.context, plan.encoding, plan.size)
                self._muxer.begin()
                self._placing = OutputTimes(plan.info.time_base, self._muxer.time_base)
            except BaseException:
                self._discard()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def cancel(self) -> None:
        """Nothing waits for anything here."""

    def write(self, frame: Frame) -> None:
        """Encodes the next frame, of the planned size. Raises OutputError; frame times must increase."""
        target, muxer = self.plan.target, self._opened
        with writing(target):
            if not self._times:
                self._set_shift(frame.pts * frame.time_base)
            placed = self._placing.place(frame, target)
            self._times.append(placed.out_pts)
            muxer.write(self._encoder.encode(frame.image, placed.pts, placed.duration, frame.messages))

    def commit(self, is_strict: bool = False, side_data: Collection[str] = ()) -> None:
        """Completes the file, checks it, and moves it to its final name. Raises OutputError or CheckError.

        `side_data` are the kinds of side data of the input's video; those that the file lacks are losses.

        With `is_strict`, CheckError is also raised if the output lacks anything of the input.
        """
        plan, muxer = self.plan, self._opened
        if not self._times or self._encoder.end is None:
            raise OutputError(f"{plan.target.name}: there is no frame to write")
        with writing(plan.target):
            muxer.write(self._encoder.flush())
        end = self._encoder.end * plan.info.time_base
        content = Content(self._times, end, self._encoder.messages)
        found = complete(plan, muxer, self._hidden, content, is_strict, side_data)
        self.warnings += [*self._placing.warnings(plan.target), *found]

    @property
    def _opened(self) -> Muxer:
        assert self._muxer is not None, "a writer is used in a `with` block"
        return self._muxer

    def _set_shift(self, time: Fraction) -> None:
        """Chooses by how much all streams are moved, from the time of the first frame."""
        copies = self._opened.copies
        self.warnings += self._placing.begin(self.plan, time, copies.audio_start)
        copies.shift = self._placing.shift / self.plan.stretch

    def _discard(self) -> None:
        """Closes everything and removes the hidden file if it has not been published."""
        try:
            if self._muxer is not None:
                self._muxer.close()
        finally:
            self._hidden.__exit__(None, None, None)


class Content(NamedTuple):
    """What was written of the video: times of the frames in ticks of the file, ascending, the end of the last one in
    seconds of the output, and the messages in the packets.
    """

    times: array[int]
    end: Fraction
    messages: MessageChecksum


def complete(
    plan: OutputPlan,
    muxer: Muxer,
    hidden: HiddenFile,
    content: Content,
    is_strict: bool,
    side_data: Collection[str],
) -> list[str]:
    """Completes a file that has all its frames, checks it, and moves it to its final name; returns warnings.

    The last parameters and the errors are those of `Writer.commit`.
    """
    with writing(plan.target):
        muxer.finish(content.end if plan.trim.end is not None else None)
        with suppress(ValueError):  # the check then names the layout as lost
            add_layout(hidden.path, plan.layout)
    copies = muxer.copies
    expected = Expected(
        times=content.times,
        time_base=muxer.time_base,
        size=(plan.encoding.width, plan.encoding.height),
        checksums=copies.checksums,
        tags=copies.tags,
        side_data=frozenset(side_data),
        messages=content.messages,
    )
    lost = [*copies.losses, *verify(hidden.path, plan.target.name, expected)]
    if is_strict and lost:
        raise CheckError(f"{plan.target.name} was not made, because --strict allows no loss: {lost[0]}")
    with writing(plan.target):
        hidden.publish()
    return [*copies.warnings, *lost]
