"""One audio stream of a slowed-down video: decoded, stretched at constant pitch, encoded and muxed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, cast

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container.output import OutputContainer
from av.packet import Packet

from vidsr.video.audio.decoder import AudioDecoder
from vidsr.video.audio.encoder import AudioEncoding
from vidsr.video.audio.time_stretch import Samples, TimeStretcher
from vidsr.video.containers import copied_tags
from vidsr.video.stream_copy import codec_of, name_of
from vidsr.video.timestamps import to_ticks
from vidsr.video.verify import PacketChecksum, payload_of

DEFAULT_FRAME_SIZE = 4096  # samples, for encoders that accept any number
BLOCKS_PER_SECOND = 4  # the stretcher is given at least a quarter of a second at a time


class StretchedAudio:
    """Stretches the audio of `source` by `factor` into a new stream of `output`.

    Create it before the output's header is written; it adds no stream if it raises av.FFmpegError, because FFmpeg's
    filters do not take the audio. `checksum` covers the encoded packets.
    """

    def __init__(self, source: AudioStream, output: OutputContainer, encoding: AudioEncoding, factor: int) -> None:
        self.source = source
        self.is_past_end = False
        self._decoder = AudioDecoder(source, factor)
        self._stretcher = TimeStretcher(self._decoder.rate, self._decoder.layout, factor)
        self._output, self._encoding, self._factor = output, encoding, factor
        self._target = cast(AudioStream, output.add_stream(encoding.encoder, rate=encoding.rate))
        encoding.configure(self._target.codec_context)
        self._target.time_base = Fraction(1, encoding.rate)
        tags = copied_tags(dict(source.metadata))
        self._target.metadata.update(tags)
        self._target.disposition = source.disposition
        self.checksum = PacketChecksum("audio", name_of(source), codec_of(self._target), tags, source.disposition)
        self._resampler: AudioResampler | None = None
        self._pending: list[Samples] = []
        self._held: Packet[Any] | None = None
        self._written = 0

    def copy(self, packet: Packet[Any], shift: Fraction, end: Fraction | None) -> None:
        """Processes the previous packet and holds this one back, because the last packet of a stream may be trimmed.

        `shift`, in seconds of the input, is subtracted from its times before they are stretched. `end` is in seconds of
        the output.
        """
        held, self._held = self._held, packet
        if held is not None:
            self._decode(held, shift, end, is_last=False)

    def finish(self, shift: Fraction, end: Fraction | None) -> None:
        """Stretches and encodes the rest, and flushes the encoder."""
        if self._held is not None:
            self._decode(self._held, shift, end, is_last=True)
        self._decode(None, shift, end, is_last=True)
        self._stretch(is_end=True)
        start = self._decoder.start
        if start is not None:
            self._encode(None)
        if start is not None and self._decoder.count:  # otherwise all of it lies after the end
            begin = start * self._factor
            self.checksum.seconds = (begin, begin + Fraction(self._decoder.count * self._factor, self._decoder.rate))

    def warnings(self) -> list[str]:
        """Changes of codec, sample rate or channel layout, and repaired timestamps."""
        decoder, name, found = self._decoder, self.checksum.name, []
        changes = []
        if codec_of(self.source) != self.checksum.codec:
            changes.append(f"as {self.checksum.codec}")
        if self._encoding.rate != decoder.rate:
            changes.append(f"at {self._encoding.rate} Hz instead of {decoder.rate}")
        if self._encoding.layout != decoder.layout:
            changes.append(f"with the channel layout {self._encoding.layout} instead of {decoder.layout}")
        if changes:
            found.append(f"the stretched {name} is stored {', '.join(changes)}")
        if decoder.jumps:
            found.append(f"the timestamps of {name} jump in {decoder.jumps} places; its audio continues without a gap")
        return found

    def losses(self) -> list[str]:
        """Damage of the input that is silence in the output."""
        decoder, found = self._decoder, []
        if decoder.damaged:
            found.append(
                f"{decoder.damaged} damaged packets of {self.checksum.name} could not be decoded; "
                "they are replaced by silence"
            )
        if decoder.start is None and self._held is not None:
            found.append(f"no audio of {self.checksum.name} could be decoded; its track is empty")
        return found

    def _decode(self, packet: Packet[Any] | None, shift: Fraction, end: Fraction | None, is_last: bool) -> None:
        source_end = None if end is None else end / self._factor
        for samples in self._decoder.decode(packet, shift, source_end, is_last):
            self._pending.append(samples)
            if sum(part.shape[1] for part in self._pending) * BLOCKS_PER_SECOND >= self._decoder.rate:
                self._stretch(is_end=False)

    def _stretch(self, is_end: bool) -> None:
        if self._pending:
            samples = np.concatenate(self._pending, axis=1)
            self._pending = []
            self._encode(self._stretcher.step(samples))
        if is_end:
            self._encode(self._stretcher.flush())

    def _encode(self, samples: Samples | None) -> None:
        """Encodes the next samples; None flushes the encoder."""
        start = self._decoder.start
        if start is None or (samples is not None and not samples.shape[1]):
            return
        context = self._target.codec_context
        if self._resampler is None:
            size = context.frame_size or DEFAULT_FRAME_SIZE
            self._resampler = AudioResampler(
                self._encoding.sample_format, self._encoding.layout, self._encoding.rate, size
            )
        frame: AudioFrame | None = None
        if samples is not None:
            samples = np.ascontiguousarray(samples)
            frame = AudioFrame.from_ndarray(samples, format="fltp", layout=self._decoder.layout)
            frame.sample_rate, frame.time_base = self._decoder.rate, Fraction(1, self._decoder.rate)
            frame.pts = to_ticks(start * self._factor, frame.time_base) + self._written
            self._written += samples.shape[1]
        for ready in self._resampler.resample(frame):
            self._mux(context.encode(ready))
        if frame is None:
            self._mux(context.encode(None))

    def _mux(self, packets: list[Packet[Any]]) -> None:
        for packet in packets:
            self.checksum.add(payload_of(self.checksum.codec, bytes(packet)))
            packet.stream = self._target
            self._output.mux_one(packet)
