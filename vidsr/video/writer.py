"""Writer of a video file: encodes frames, muxes them with the copied streams, and verifies the finished file."""

from __future__ import annotations

from array import array
from fractions import Fraction
from types import TracebackType
from typing import Self

from vidsr.errors import CheckError, OutputError
from vidsr.files import HiddenFile
from vidsr.types import Frame
from vidsr.video.encoder import Encoder
from vidsr.video.errors import writing
from vidsr.video.muxer import Muxer
from vidsr.video.output import OutputPlan
from vidsr.video.timestamps import to_ticks
from vidsr.video.verify import Expected, verify


class Writer:
    """Writes one video as planned. Use it as a context manager, from one thread at a time.

    The frames go to a hidden file beside the target. `commit` completes the file, checks it, and moves it to its final
    name; leaving the `with` block without `commit` removes it. Frame times are kept; with `InputConfig.start` or a
    negative first time, the first frame is moved to 0, and audio, subtitles and chapters move with it. With
    `plan.stretch` above 1, frames must arrive with stretched times; the other streams are stretched here.

    `warnings` name what is not carried over, and are complete after `commit`.
    """

    def __init__(self, plan: OutputPlan) -> None:
        self.plan = plan
        self._hidden = HiddenFile(plan.target, overwrite=plan.options.overwrite)
        self.warnings: list[str] = list(plan.warnings)
        self._muxer: Muxer | None = None
        self._encoder: Encoder
        self._times: array[int] = array("q")
        self._shift = Fraction(0)
        self._rounded = 0

    def __enter__(self) -> Self:
        plan = self.plan
        with writing(plan.target):
            self._hidden.__enter__()
            try:
                self._muxer = Muxer(self._hidden.path, plan)
                self._encoder = Encoder(self._muxer.context, plan.encoding, plan.size)
                self._muxer.begin()
            except BaseException:
                self._discard()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._discard()

    def write(self, frame: Frame) -> None:
        """Encodes the next frame, of the planned size. Raises OutputError; frame times must increase."""
        target, muxer = self.plan.target, self._opened
        with writing(target):
            base, out_base = self.plan.info.time_base, muxer.time_base
            time = frame.pts * frame.time_base
            if not self._times and (self.plan.trim.start is not None or time < 0):
                self._set_shift(time)
            out_pts = to_ticks(time - self._shift, out_base)
            if self._times and out_pts <= self._times[-1]:
                raise OutputError(
                    f"{target.name}: the frame at {float(time):.6f} s does not come after the one before it in units "
                    f"of {out_base} s, the file's; {'write .mp4' if out_base > base else 'repair the input'}"
                )
            self._rounded += out_pts * out_base != time - self._shift
            self._times.append(out_pts)
            duration = to_ticks(frame.duration * frame.time_base, base)
            muxer.write(self._encoder.encode(frame.image, to_ticks(time - self._shift, base), duration))

    def commit(self, is_strict: bool = False) -> None:
        """Completes the file, checks it, and moves it to its final name. Raises OutputError or CheckError.

        With `is_strict`, CheckError is also raised if the output lacks anything of the input.
        """
        plan, muxer = self.plan, self._opened
        if not self._times or self._encoder.end is None:
            raise OutputError(f"{plan.target.name}: there is no frame to write")
        end = self._encoder.end * plan.info.time_base
        with writing(plan.target):
            muxer.write(self._encoder.flush())
            muxer.finish(end if plan.trim.end is not None else None)
        copies = muxer.copies
        expected = Expected(
            times=self._times,
            time_base=muxer.time_base,
            size=(plan.encoding.width, plan.encoding.height),
            checksums=copies.checksums,
            tags=copies.tags,
        )
        lost = [*copies.losses, *verify(self._hidden.path, plan.target.name, expected)]
        if is_strict and lost:
            raise CheckError(f"{plan.target.name} was not made, because --strict allows no loss: {lost[0]}")
        with writing(plan.target):
            self._hidden.publish()
        if self._rounded:
            self.warnings.append(
                f"{self._rounded} of {len(self._times)} frame times are rounded to "
                f"{float(muxer.time_base) * 1000:g} ms, the unit of {plan.target.suffix} files"
            )
        self.warnings += [*copies.warnings, *lost]

    @property
    def _opened(self) -> Muxer:
        assert self._muxer is not None, "a writer is used in a `with` block"
        return self._muxer

    def _set_shift(self, time: Fraction) -> None:
        self._shift = time
        self._opened.copies.shift = time / self.plan.stretch
        if self.plan.trim.start is None:
            self.warnings.append(
                f"the video begins at {float(time):.3f} s, before zero; it is moved as a whole to begin at 0"
            )

    def _discard(self) -> None:
        """Closes everything and removes the hidden file if it has not been published."""
        try:
            if self._muxer is not None:
                self._muxer.close()
        finally:
            self._hidden.__exit__(None, None, None)
