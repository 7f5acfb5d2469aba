"""One sound stream as samples in a row: decoded, brought to one form, gaps filled with silence. Encodes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet

from vidsr.video.audio.time_stretch import Samples
from vidsr.video.timestamps import to_ticks

# Times are trusted to this; Matroska's, in whole milliseconds, are wrong by up to one. It grows with the stretch.
LEAST_TOLERANCE = Fraction(3, 2000)
STRETCHED_TOLERANCE = Fraction(8, 1000)
# Times that step back by this begin a new count, as those of pictures do; so do times that leap ahead by an hour.
STEP_BACK = Fraction(1)
LEAP = Fraction(3600)


class AudioDecoder:
    """Decodes the packets of `stream` to float samples, channels x samples, at the rate and in the layout found first.

    Sample 0 lies at `start`, in seconds of the output before the stretch by `factor`; sound before 0 is left out.
    """

    def __init__(self, stream: AudioStream, factor: int) -> None:
        context = stream.codec_context
        self.rate, self.layout = context.sample_rate, context.layout.name
        self.channels = context.layout.nb_channels
        self.start: Fraction | None = None
        self.count = 0
        self.damaged = 0
        self.jumps = 0
        self.silence = Fraction(0)
        self._context = context
        self._base = stream.time_base or Fraction(1, self.rate)
        self._tolerance = max(LEAST_TOLERANCE, STRETCHED_TOLERANCE / factor)
        self._offset = Fraction(0)
        self._resampler: AudioResampler | None = None
        self._form: tuple[str, str, int] | None = None

    def decode(
        self, packet: Packet[Any] | None, shift: Fraction, end: Fraction | None, is_last: bool = False
    ) -> Iterator[Samples]:
        """The samples of a packet at its time less `shift` seconds, before `end`; None drains the decoder.

        Where times count samples (MP4), of the last packet only as much is given as it says to last: it may be padded.
        """
        try:
            frames = self._context.decode(packet)
        except (av.FFmpegError, ValueError):
            self.damaged += packet is not None
            if is_last and packet is not None:
                yield from self._fill(self._end_of(packet, shift), end)
            return
        limit = end
        if is_last and packet is not None and frames and self._base * self.rate <= 1:
            stop = self._end_of(packet, shift)
            padded = (frames[-1].pts or 0) * self._base + Fraction(frames[-1].samples, frames[-1].sample_rate) - shift
            if stop is not None and packet.duration and stop + self._base < padded:
                limit = stop if end is None else min(stop, end)
        for frame in frames:
            time = None if frame.pts is None else frame.pts * (frame.time_base or self._base) - shift
            for samples in self._converted(frame):
                yield from self._place(samples, time, limit)
                time = None

    def _end_of(self, packet: Packet[Any], shift: Fraction) -> Fraction | None:
        return None if packet.pts is None else (packet.pts + (packet.duration or 0)) * self._base - shift

    def _converted(self, frame: AudioFrame) -> Iterator[Samples]:
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:
            if self._resampler is not None:
                yield from (cast(Samples, part.to_ndarray()) for part in self._resampler.resample(None))
            self._resampler, self._form = AudioResampler("fltp", self.layout, self.rate), form
        assert self._resampler is not None
        frame.pts = None
        yield from (cast(Samples, part.to_ndarray()) for part in self._resampler.resample(frame))

    def _place(self, samples: Samples, time: Fraction | None, end: Fraction | None) -> Iterator[Samples]:
        """Puts samples where their time says, with silence before them or less of them if need be."""
        if self.start is None:
            begin = time or Fraction(0)
            skipped = max(0, to_ticks(-begin, Fraction(1, self.rate)))
            samples = samples[:, skipped:]
            if not samples.shape[1]:
                return
            self.start = max(Fraction(0), begin + Fraction(skipped, self.rate))
        elif time is not None:
            expected = self.start + Fraction(self.count, self.rate)
            late = time + self._offset - expected
            if late <= -STEP_BACK or late >= LEAP:
                self._offset -= late
                self.jumps += 1
            elif late > self._tolerance:
                yield from self._fill(time + self._offset, end)
            elif late < -self._tolerance:
                samples = samples[:, to_ticks(-late, Fraction(1, self.rate)) :]
        yield from self._counted(samples, end)

    def _fill(self, until: Fraction | None, end: Fraction | None) -> Iterator[Samples]:
        """Silence up to a time, a second at a time."""
        if until is None or self.start is None:
            return
        missing = to_ticks(until - self.start, Fraction(1, self.rate)) - self.count
        self.silence += Fraction(max(0, missing), self.rate)
        while missing > 0:
            piece = min(missing, self.rate)
            missing -= piece
            yield from self._counted(np.zeros((self.channels, piece), np.float32), end)

    def _counted(self, samples: Samples, end: Fraction | None) -> Iterator[Samples]:
        assert self.start is not None
        if end is not None:
            room = to_ticks(end - self.start, Fraction(1, self.rate)) - self.count
            samples = samples[:, : max(0, room)]
        if samples.shape[1]:
            self.count += samples.shape[1]
            yield samples
