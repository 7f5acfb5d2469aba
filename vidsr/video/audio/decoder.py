"""Decoding of one audio stream to continuous samples: one format throughout, gaps filled with silence."""

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

# Timestamps that deviate by less than the tolerance are ignored; Matroska's, in whole milliseconds, are off by up to
# 1 ms. In the output the tolerance is STRETCHED_TOLERANCE, so in the input it shrinks with the stretch factor, down to
# MIN_TOLERANCE.
MIN_TOLERANCE = Fraction(3, 2000)
STRETCHED_TOLERANCE = Fraction(8, 1000)
# A timestamp that steps back by this much or leaps ahead by an hour is a discontinuity: later ones are shifted so that
# the audio continues without a gap. Video timestamps that step back are treated alike (`FrameTimes`).
STEP_BACK = Fraction(1)
LEAP = Fraction(3600)


class AudioDecoder:
    """Decodes the packets of `stream` to float32 samples, channels x samples, at the stream's initial rate and layout.

    Sample 0 is at `start`, in seconds of the output before it is stretched by `factor`. Audio before 0 is dropped.
    `damaged` counts packets that could not be decoded, and `jumps` counts discontinuities of the timestamps.
    """

    def __init__(self, stream: AudioStream, factor: int) -> None:
        context = stream.codec_context
        self.rate, self.layout = context.sample_rate, context.layout.name
        self.channels = context.layout.nb_channels
        self.start: Fraction | None = None
        self.count = 0
        self.damaged = 0
        self.jumps = 0
        self._context = context
        self._base = stream.time_base or Fraction(1, self.rate)
        self._tolerance = max(MIN_TOLERANCE, STRETCHED_TOLERANCE / factor)
        self._offset = Fraction(0)
        self._resampler: AudioResampler | None = None
        self._format: tuple[str, str, int] | None = None

    def decode(
        self, packet: Packet[Any] | None, shift: Fraction, end: Fraction | None, is_last: bool = False
    ) -> Iterator[Samples]:
        """Decodes a packet, subtracts `shift` seconds from its time, and drops samples from `end` on; None flushes.

        Where the time base is one sample (MP4), the last packet is trimmed to its duration, because it may be padded.
        """
        try:
            frames = self._context.decode(packet)
        except (av.FFmpegError, ValueError):
            self.damaged += packet is not None
            if is_last and packet is not None:
                stop = self._end_of(packet, shift)
                expected = (self.start or Fraction(0)) + Fraction(self.count, self.rate)
                if stop is not None and stop + self._offset - expected < LEAP:
                    yield from self._fill(stop + self._offset, end)
            return
        limit = end
        if is_last and packet is not None and frames and self._base * self.rate <= 1:
            stop = self._end_of(packet, shift)
            padded = (frames[-1].pts or 0) * self._base + Fraction(frames[-1].samples, frames[-1].sample_rate) - shift
            if stop is not None and packet.duration and stop + self._base < padded:
                limit = stop if end is None else min(stop, end)
        for frame in frames:
            time = None if frame.pts is None else frame.pts * (frame.time_base or self._base) - shift
            for samples in self._resampled(frame):
                yield from self._aligned(samples, time, limit)
                time = None

    def _end_of(self, packet: Packet[Any], shift: Fraction) -> Fraction | None:
        return None if packet.pts is None else (packet.pts + (packet.duration or 0)) * self._base - shift

    def _resampled(self, frame: AudioFrame) -> Iterator[Samples]:
        format_ = (frame.format.name, frame.layout.name, frame.sample_rate)
        if format_ != self._format:
            if self._resampler is not None:
                yield from (cast(Samples, part.to_ndarray()) for part in self._resampler.resample(None))
            self._resampler, self._format = AudioResampler("fltp", self.layout, self.rate), format_
        assert self._resampler is not None
        frame.pts = None
        yield from (cast(Samples, part.to_ndarray()) for part in self._resampler.resample(frame))

    def _aligned(self, samples: Samples, time: Fraction | None, end: Fraction | None) -> Iterator[Samples]:
        """Aligns samples with their timestamp by inserting silence or by trimming their beginning."""
        if self.start is None:
            begin = time or Fraction(0)
            skipped = max(0, to_ticks(-begin, Fraction(1, self.rate)))
            samples = samples[:, skipped:]
            if not samples.shape[1]:
                return
            self.start = max(Fraction(0), begin + Fraction(skipped, self.rate))
        elif time is not None:
            expected = self.start + Fraction(self.count, self.rate)
            deviation = time + self._offset - expected
            if deviation <= -STEP_BACK or deviation >= LEAP:
                self._offset -= deviation
                self.jumps += 1
            elif deviation > self._tolerance:
                yield from self._fill(time + self._offset, end)
            elif deviation < -self._tolerance:
                samples = samples[:, to_ticks(-deviation, Fraction(1, self.rate)) :]
        yield from self._trimmed(samples, end)

    def _fill(self, until: Fraction | None, end: Fraction | None) -> Iterator[Samples]:
        """Silence up to a time, in blocks of one second or less."""
        if until is None or self.start is None:
            return
        missing = to_ticks(until - self.start, Fraction(1, self.rate)) - self.count
        while missing > 0:
            count = min(missing, self.rate)
            missing -= count
            yield from self._trimmed(np.zeros((self.channels, count), np.float32), end)

    def _trimmed(self, samples: Samples, end: Fraction | None) -> Iterator[Samples]:
        assert self.start is not None
        if end is not None:
            room = to_ticks(end - self.start, Fraction(1, self.rate)) - self.count
            samples = samples[:, : max(0, room)]
        if samples.shape[1]:
            self.count += samples.shape[1]
            yield samples
