"""The way of one copied stream: packets in, the same packets with the output's times out, and their tally."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from typing import Any

import av
from av.container.output import OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from vidsr.video.containers import MATROSKA, copied_tags
from vidsr.video.subtitles import SubtitleConverter, stretch_inner_timestamps
from vidsr.video.timestamps import to_ticks
from vidsr.video.verify import PacketChecksum, payload_of


class StreamCopy:
    """Copies packets of `source` into `target`, a stream of `output`; `captions` converts them on the way.

    All times become `factor` times as late and as long.
    """

    def __init__(
        self,
        source: Stream,
        target: Stream,
        output: OutputContainer,
        codec: str,
        converter: SubtitleConverter | None = None,
        factor: int = 1,
    ) -> None:
        tags = copied_tags(dict(source.metadata))
        target.metadata.update(tags)
        target.disposition = source.disposition
        is_cover = bool(source.disposition & Disposition.attached_pic)
        self.source = source
        self.checksum = PacketChecksum(
            "cover" if is_cover else source.type, name_of(source), codec, tags, source.disposition
        )
        self.moved = 0
        self.refused = 0
        self.is_past_end = False
        self._target, self._output, self._converter, self._factor = target, output, converter, factor
        self._has_inner_times = False
        self._base = source.time_base or Fraction(1, 1000)
        self._last_dts: int | None = None
        self._least_step = 1 if source.type == "audio" and output.format.name not in MATROSKA else 0
        self._next_begin: Fraction | None = None
        self._sound_step: Fraction | None = None
        context: Any = source.codec_context
        if source.type == "audio" and context is not None and context.frame_size and context.sample_rate:
            self._sound_step = Fraction(context.frame_size, context.sample_rate)

    def copy(self, packet: Packet[Any], shift: Fraction, end: Fraction | None) -> None:
        """Muxes a packet at its time less `shift`, stretched; what lies before 0 then, or from `end` on, is left out.

        Raises what FFmpeg raises when the file cannot be written; a packet that only the muxer dislikes is counted.
        """
        out_base = self._target.time_base or self._base
        begins, lasts = self._begin_of(packet, shift), (packet.duration or 0) * self._base * self._factor
        delay = Fraction(0)
        if self.checksum.kind == "cover":
            begins = Fraction(0)
        else:
            if end is not None and begins >= end:
                return
            if shift > 0 and begins < 0:
                if self.checksum.kind != "subtitle" or begins + lasts <= 0:
                    return
                begins, lasts = Fraction(0), begins + lasts  # a text that is on screen at the cut stays on screen
            if packet.pts is not None and packet.dts is not None:
                delay = (packet.pts - packet.dts) * self._base
        out: Packet[Any] | None = packet
        if self._converter is not None:
            out = self._converter.convert(packet)
        if out is None:
            return
        data, is_blind = stretch_inner_timestamps(self.checksum.kind, self.checksum.codec, bytes(out), self._factor)
        self._has_inner_times |= is_blind
        if data != bytes(out):
            out.update(data)
        payload = payload_of(self.checksum.codec, data)
        self._stamp(out, begins, lasts, delay, out_base)
        out.stream = self._target
        try:
            self._output.mux_one(out)
        except (av.InvalidDataError, av.ArgumentError):
            self.refused += 1
        else:
            self.checksum.add(payload)

    def warnings(self) -> list[str]:
        """What did not go smoothly."""
        found = []
        if self.moved:
            found.append(f"the times of {self.moved} packets of {self.checksum.name} step back; they were moved on")
        if self._has_inner_times:
            found.append(
                f"{self.checksum.name} begins each of its packets in time with the longer film, but times inside its "
                "packets stay those of the input"
            )
        return found

    def losses(self) -> list[str]:
        """What is not in the output."""
        return [f"{self.refused} damaged packets of {self.checksum.name} could not be copied"] if self.refused else []

    def _begin_of(self, packet: Packet[Any], shift: Fraction) -> Fraction:
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is None:
            return self._next_begin or Fraction(0)
        return (ticks * self._base - shift) * self._factor

    def _stamp(
        self, packet: Packet[Any], begins: Fraction, lasts: Fraction, delay: Fraction, out_base: Fraction
    ) -> None:
        """Sets the times in the output's ticks, never stepping back."""
        if self._sound_step is not None and self._base > out_base:
            # Matroska's milliseconds are coarser than samples: sound without gaps gets its exact times again.
            if self._next_begin is not None and abs(self._next_begin - begins) <= self._base:
                begins = self._next_begin
            lasts = self._sound_step
        self._next_begin = begins + lasts
        pts, dts = to_ticks(begins, out_base), to_ticks(begins - delay, out_base)
        if self._last_dts is not None and dts < self._last_dts + self._least_step:
            dts = self._last_dts + self._least_step
            pts = max(pts, dts)
            self.moved += 1
        packet.time_base, packet.pts, packet.dts, packet.duration = out_base, pts, dts, to_ticks(lasts, out_base)
        self._last_dts = dts


def codec_of(stream: Stream) -> str:
    """FFmpeg's name of a stream's codec ("subrip", "aac"), whichever decoder is used."""
    with suppress(AttributeError):
        return stream.codec_context.codec.canonical_name
    return stream.name or "unknown"


def name_of(stream: Stream) -> str:
    """How messages call a stream: number, kind, codec, language."""
    language = stream.language
    spoken = f", {language}" if language and language != "und" else ""
    return f"stream {stream.index} ({stream.type} {codec_of(stream)}{spoken})"
