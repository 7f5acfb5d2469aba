"""The way of one sound stream into a film that lasts longer: decoded, stretched at its pitch, encoded, tallied."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, cast

import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container.output import OutputContainer
from av.packet import Packet

from vidsr.video.audio.decoder import Soundtrack
from vidsr.video.audio.encoder import SoundCodec
from vidsr.video.audio.time_stretch import Samples, Tempo
from vidsr.video.containers import copied_tags
from vidsr.video.stream_copy import codec_of, name_of
from vidsr.video.timestamps import to_ticks
from vidsr.video.verify import Tally, payload_of

# Encoders that take any number of samples get this many; the stretch works on a quarter of a second at a time.
USUAL_FRAME = 4096
PIECES_PER_SECOND = 4


class StretchedSound:
    """Takes packets of `source` and gives `output` the same sound `factor` times as long. Made before the header."""

    def __init__(self, source: AudioStream, output: OutputContainer, codec: SoundCodec, factor: int) -> None:
        self.source = source
        self.is_past_end = False
        self._output, self._codec, self._factor = output, codec, factor
        self._target = cast(AudioStream, output.add_stream(codec.encoder, rate=codec.rate))
        codec.configure(self._target.codec_context)
        self._target.time_base = Fraction(1, codec.rate)
        tags = copied_tags(dict(source.metadata))
        self._target.metadata.update(tags)
        self._target.disposition = source.disposition
        self.tally = Tally("audio", name_of(source), codec_of(self._target), tags, source.disposition)
        self._track = Soundtrack(source, factor)
        self._tempo = Tempo(self._track.rate, self._track.layout, factor)
        self._form: AudioResampler | None = None
        self._waiting: list[Samples] = []
        self._held: Packet[Any] | None = None
        self._written = 0

    def copy(self, packet: Packet[Any], shift: Fraction, end: Fraction | None) -> None:
        """Stretches the packet before this one: whether a packet is the last one decides how much of it counts.

        Times are those of the input less `shift`, then stretched; `end` is in seconds of the output.
        """
        held, self._held = self._held, packet
        if held is not None:
            self._decode(held, shift, end, is_last=False)

    def finish(self, shift: Fraction, end: Fraction | None) -> None:
        """Stretches and encodes all that is left."""
        if self._held is not None:
            self._decode(self._held, shift, end, is_last=True)
        self._decode(None, shift, end, is_last=True)
        self._stretch(is_end=True)
        start = self._track.start
        if start is not None:
            self._encode(None)
            begin = start * self._factor
            self.tally.seconds = (begin, begin + Fraction(self._track.count * self._factor, self._track.rate))

    def warnings(self) -> list[str]:
        """What the sound is stored as, if that changes, and what had to be repaired."""
        track, name, found = self._track, self.tally.name, []
        changes = []
        if codec_of(self.source) != self.tally.codec:
            changes.append(f"as {self.tally.codec}")
        if self._codec.rate != track.rate:
            changes.append(f"at {self._codec.rate} Hz instead of {track.rate}")
        if self._codec.layout != track.layout:
            changes.append(f"with the channels {self._codec.layout} instead of {track.layout}")
        if changes:
            found.append(f"the stretched {name} is stored {', '.join(changes)}")
        if track.jumps:
            found.append(f"the times of {name} jump in {track.jumps} places; it goes on without a gap there")
        return found

    def losses(self) -> list[str]:
        """What is not in the output."""
        track, found = self._track, []
        if track.damaged:
            found.append(f"{track.damaged} damaged packets of {self.tally.name} could not be decoded; silence is there")
        if track.start is None and self._held is not None:
            found.append(f"no sound of {self.tally.name} could be decoded; its track is empty")
        return found

    def _decode(self, packet: Packet[Any] | None, shift: Fraction, end: Fraction | None, is_last: bool) -> None:
        source_end = None if end is None else end / self._factor
        for samples in self._track.decode(packet, shift, source_end, is_last):
            self._waiting.append(samples)
            if sum(part.shape[1] for part in self._waiting) * PIECES_PER_SECOND >= self._track.rate:
                self._stretch(is_end=False)

    def _stretch(self, is_end: bool) -> None:
        if self._waiting:
            sound = np.concatenate(self._waiting, axis=1)
            self._waiting = []
            self._encode(self._tempo.step(sound))
        if is_end:
            self._encode(self._tempo.flush())

    def _encode(self, sound: Samples | None) -> None:
        """Encodes samples as they follow; None drains the encoder."""
        start = self._track.start
        if start is None or (sound is not None and not sound.shape[1]):
            return
        context = self._target.codec_context
        if self._form is None:
            size = context.frame_size or USUAL_FRAME
            self._form = AudioResampler(self._codec.sample_format, self._codec.layout, self._codec.rate, size)
        frame: AudioFrame | None = None
        if sound is not None:
            sound = np.ascontiguousarray(sound)
            frame = AudioFrame.from_ndarray(sound, format="fltp", layout=self._track.layout)
            frame.sample_rate, frame.time_base = self._track.rate, Fraction(1, self._track.rate)
            frame.pts = to_ticks(start * self._factor, frame.time_base) + self._written
            self._written += sound.shape[1]
        for ready in self._form.resample(frame):
            self._mux(context.encode(ready))
        if frame is None:
            self._mux(context.encode(None))

    def _mux(self, packets: list[Packet[Any]]) -> None:
        for packet in packets:
            self.tally.add(payload_of(self.tally.codec, bytes(packet)))
            packet.stream = self._target
            self._output.mux_one(packet)
