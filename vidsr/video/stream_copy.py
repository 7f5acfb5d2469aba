"""Stream copy: packets of one stream copied with the output's timestamps, text subtitles converted if necessary."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
from av.container.output import OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from vidsr.video.containers import MATROSKA, copied_tags
from vidsr.video.errors import printable
from vidsr.video.subtitles import OneAtATime, Shown, SubtitleConverter, stretch_inner_timestamps
from vidsr.video.timestamps import to_ticks
from vidsr.video.verify import PacketChecksum, payload_of

_LONGEST_DURATION = 1 << 31  # in ticks; muxers refuse longer ones
_LAST_TEXT = Fraction(1)  # seconds that a text without an end is shown at least, if none follows


class StreamCopy:
    """Copies packets of `source` into `target`, a stream of `output`, through `converter` if there is one.

    All times and durations are multiplied by `factor`. `codec` is the codec in the output. `checksum` covers the copied
    packets, `moved` counts corrected timestamps, and `refused` counts packets that the muxer rejected.
    """

    def __init__(
        self,
        source: Stream,
        target: Stream,
        output: OutputContainer,
        codec: str,
        converter: SubtitleConverter | None = None,
        factor: int = 1,
        is_trimmed: bool = False,
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
        self._drops_early_audio = is_trimmed
        self._in_turn = OneAtATime() if converter is not None and codec == "mov_text" else None
        self._has_inner_times = False
        self._base = source.time_base or Fraction(1, 1000)
        self._last_dts: int | None = None
        self._min_step = 1 if source.type == "audio" and output.format.name not in MATROSKA else 0
        self._next_begin: Fraction | None = None
        self._audio_step: Fraction | None = None
        self._last_begin: Fraction | None = None
        self._last_step: Fraction | None = None
        context: Any = source.codec_context
        if source.type == "audio" and context is not None and context.frame_size and context.sample_rate:
            self._audio_step = Fraction(context.frame_size, context.sample_rate)

    def copy(self, packet: Packet[Any], shift: Fraction, end: Fraction | None) -> None:
        """Muxes a packet at its time minus `shift`, then stretched.

        Packets from `end` on are dropped and, with a positive `shift`, those before 0: audio only if the video is
        trimmed (otherwise it is the delay of its encoder); a subtitle that is still on screen at 0 is shortened.
        `shift` is in seconds of the input, `end` in seconds of the output. Raises
        av.FFmpegError if the file cannot be written; a packet that the muxer rejects is only counted.
        """
        begin, duration = self._begin(packet, shift), _ticks_of(packet) * self._base * self._factor
        delay = Fraction(0)
        if self.checksum.kind == "cover":
            begin = Fraction(0)
        else:
            if end is not None and begin >= end:
                return
            if shift > 0 and begin < 0 and (self._drops_early_audio or self.source.type != "audio"):
                if self.checksum.kind != "subtitle" or begin + duration <= 0:
                    return
                begin, duration = Fraction(0), begin + duration  # the subtitle is on screen at 0
            if packet.pts is not None and packet.dts is not None:
                delay = (packet.pts - packet.dts) * self._base
        if self._converter is None:
            self._put(packet, begin, duration, delay)
            return
        try:
            texts = self._converter.texts(packet)
        except av.InvalidDataError:
            self.refused += 1
            return
        if not texts:
            return
        shown = Shown(begin, begin + duration if duration else None, texts)
        for part in [shown] if self._in_turn is None else self._in_turn.add(shown):
            self._put_texts(part)

    def finish(self, video_end: Fraction) -> None:
        """Muxes texts that were held back; the last one, if it has no end, lasts until `video_end` (seconds).

        MP4 and MOV show nothing of a last text that lasts no time.
        """
        for part in [] if self._in_turn is None else self._in_turn.flush():
            end = max(video_end, part.begin + _LAST_TEXT) if part.end is None else part.end
            self._put_texts(part._replace(end=end))

    def _put_texts(self, shown: Shown) -> None:
        assert self._converter is not None
        duration = Fraction(0) if shown.end is None else shown.end - shown.begin
        self._put(self._converter.encode(shown.texts), shown.begin, duration, Fraction(0))

    def _put(self, out: Packet[Any], begin: Fraction, duration: Fraction, delay: Fraction) -> None:
        """Muxes a packet of the output's codec; its times are in seconds of the output."""
        data, has_inner_times = stretch_inner_timestamps(
            self.checksum.kind, self.checksum.codec, bytes(out), self._factor
        )
        self._has_inner_times |= has_inner_times
        if data != bytes(out):
            out.update(data)
        payload = payload_of(self.checksum.codec, data)
        self._stamp(out, begin, duration, delay, self._target.time_base or self._base)
        moment = (out.pts, out.duration)
        out.stream = self._target
        try:
            self._output.mux_one(out)
        except (av.InvalidDataError, av.ArgumentError):
            self.refused += 1
        else:
            self.checksum.add(payload, moment)

    def warnings(self) -> list[str]:
        """Corrected timestamps, and times inside packets that could not be stretched."""
        found = []
        if self.moved:
            found.append(
                f"the timestamps of {self.moved} packets of {self.checksum.name} run backwards; they were corrected"
            )
        if self._converter is not None and self._converter.recoded:
            found.append(
                f"the text of {self._converter.recoded} packets of {self.checksum.name} is not UTF-8; it is read as "
                "Windows-1252"
            )
        if self._in_turn is not None and self._in_turn.overlaps:
            found.append(
                f"{self._in_turn.overlaps} texts of {self.checksum.name} begin while others are shown; mov_text holds "
                "one text at a time, so they are shown together as one text"
            )
        if self._has_inner_times:
            found.append(
                f"the packets of {self.checksum.name} follow the slowed-down video, but times inside its packets stay "
                "those of the input"
            )
        return found

    def losses(self) -> list[str]:
        """Packets that are not in the output."""
        return [f"{self.refused} damaged packets of {self.checksum.name} could not be copied"] if self.refused else []

    def _begin(self, packet: Packet[Any], shift: Fraction) -> Fraction:
        ticks = packet.pts if packet.pts is not None else packet.dts
        if ticks is None:
            return self._next_begin or Fraction(0)
        return (ticks * self._base - shift) * self._factor

    def _stamp(
        self, packet: Packet[Any], begin: Fraction, duration: Fraction, delay: Fraction, out_base: Fraction
    ) -> None:
        """Sets the packet's times in ticks of the output, without running backwards."""
        if self._audio_step is not None and self._base > out_base:
            # Matroska's milliseconds are coarser than samples, so the exact times of audio without gaps are restored.
            if self._next_begin is not None and abs(self._next_begin - begin) <= self._base:
                begin = self._next_begin
            duration = self._audio_step
        if self._last_begin is not None and begin > self._last_begin:
            self._last_step = begin - self._last_begin
        self._last_begin = begin
        if not duration and self.checksum.kind == "audio":
            # MP4 ends a track where its last packet ends, so that one without a duration would not be in it.
            duration = self._audio_step or self._last_step or out_base
        self._next_begin = begin + duration
        pts, dts = to_ticks(begin, out_base), to_ticks(begin - delay, out_base)
        if self._last_dts is not None and dts < self._last_dts + self._min_step:
            dts = self._last_dts + self._min_step
            pts = max(pts, dts)
            self.moved += 1
        packet.time_base, packet.pts, packet.dts, packet.duration = out_base, pts, dts, to_ticks(duration, out_base)
        self._last_dts = dts


def _ticks_of(packet: Packet[Any]) -> int:
    """The duration of a packet in ticks, 0 if unknown. Where Ogg files were joined it may be no duration at all."""
    duration = packet.duration or 0
    return duration if 0 <= duration < _LONGEST_DURATION else 0


def codec_of(stream: Stream) -> str:
    """FFmpeg's name of a stream's codec ("subrip", "aac"), independent of the decoder; "unknown" if it has none."""
    context: Any = stream.codec_context
    if context is not None:
        return str(context.codec.canonical_name)
    return getattr(stream, "name", None) or "unknown"


def name_of(stream: Stream) -> str:
    """The description of a stream in messages: index, type, codec and language."""
    language = stream.language
    suffix = f", {language}" if language and language != "und" else ""
    return printable(f"stream {stream.index} ({stream.type} {codec_of(stream)}{suffix})")
