"""Writer of a video file: encodes frames, muxes them with the copied streams, and verifies the finished file."""

from __future__ import annotations

from array import array
from collections.abc import Collection
from fractions import Fraction
from types import TracebackType
from typing import Self

from vidsr.errors import CheckError, OutputError
from vidsr.files import HiddenFile, stale_warnings
from vidsr.types import Frame
from vidsr.video.encoder import Encoder
from vidsr.video.errors import writing
from vidsr.video.muxer import Muxer
from vidsr.video.output import OutputPlan
from vidsr.video.passthrough import shift_of_start
from vidsr.video.timestamps import to_ticks
from vidsr.video.verify import Expected, verify

# Frames that come too closely for the file's unit of time are moved up to this much, in seconds; it is not noticed.
LATEST = Fraction(1, 50)


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
        self._times: array[int] = array("q")
        self._shift = Fraction(0)
        self._last_pts = 0
        self._rounded = 0
        self._moved = 0

    def __enter__(self) -> Self:
        plan = self.plan
        self.warnings += stale_warnings(plan.target.absolute().parent)
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
            if not self._times:
                self._set_shift(time)
            out_pts = to_ticks(time - self._shift, out_base)
            if self._times and out_pts <= self._times[-1]:
                out_pts = self._next_tick(time, frame.pts)
            self._rounded += out_pts * out_base != time - self._shift
            self._times.append(out_pts)
            self._last_pts = frame.pts
            duration = to_ticks(frame.duration * frame.time_base, base)
            pts = to_ticks(time - self._shift, base)
            if to_ticks(pts * base, out_base) != out_pts:  # a frame that was moved
                pts = to_ticks(out_pts * out_base, base)
            muxer.write(self._encoder.encode(frame.image, pts, duration, frame.messages))

    def _next_tick(self, time: Fraction, pts: int) -> int:
        """The tick after the last one of the file, for a frame that comes less than a tick after the one before it."""
        out_base, tick = self._opened.time_base, self._times[-1] + 1
        late = tick * out_base - (time - self._shift)
        if pts <= self._last_pts or late > LATEST:
            raise OutputError(
                f"{self.plan.target.name}: the frame at {float(time):.6f} s does not come after the one before it in "
                f"units of {out_base} s, the file's; "
                f"{'write .mp4' if out_base > self.plan.info.time_base else 'repair the input'}"
            )
        self._moved += 1
        return tick

    def commit(self, is_strict: bool = False, side_data: Collection[str] = ()) -> None:
        """Completes the file, checks it, and moves it to its final name. Raises OutputError or CheckError.

        `side_data` are the kinds of side data of the input's video; those that the file lacks are losses.

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
            side_data=frozenset(side_data),
            messages=self._encoder.messages,
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
        if self._moved:
            self.warnings.append(
                f"{self._moved} frames come less than {float(muxer.time_base) * 1000:g} ms, the unit of "
                f"{plan.target.suffix} files, after the one before; they are moved to the next unit"
            )
        self.warnings += [*copies.warnings, *lost]

    @property
    def _opened(self) -> Muxer:
        assert self._muxer is not None, "a writer is used in a `with` block"
        return self._muxer

    def _set_shift(self, time: Fraction) -> None:
        """Chooses by how much all streams are moved, from the time of the first frame."""
        plan, copies = self.plan, self._opened.copies
        if plan.trim.start is not None:
            self._shift = time
        else:
            # Whole ticks of the video, so that its times need no rounding.
            tick = plan.info.time_base
            self._shift = shift_of_start(time / plan.stretch, copies.audio_start) * plan.stretch // tick * tick
        copies.shift = self._shift / plan.stretch
        if plan.trim.start is None and time < 0:
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
