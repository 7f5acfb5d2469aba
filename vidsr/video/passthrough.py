"""Passthrough of audio, subtitles, attachments, covers, data and chapters from the input to the output.

Packets are copied unchanged. If the video becomes longer, all times are stretched and audio is stretched by
`audio/stream.py`. Checksums of the copied packets are kept for `verify.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, cast

import av
from av.audio.stream import AudioStream
from av.container.input import InputContainer
from av.container.output import OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, Discard, Disposition, Stream

from vidsr.config import InputConfig, OutputConfig
from vidsr.files import WatchedFile
from vidsr.types import VideoInfo
from vidsr.video.audio.encoder import choose_audio_encoding
from vidsr.video.audio.stream import StretchedAudio
from vidsr.video.clock import Clock
from vidsr.video.containers import MATROSKA, copied_tags
from vidsr.video.copy_trial import add_copy, twin_of
from vidsr.video.errors import plain_text, printable
from vidsr.video.probe import Source
from vidsr.video.stream_copy import StreamCopy, codec_of, name_of
from vidsr.video.subtitles import SubtitleConverter, conversion_target
from vidsr.video.timestamps import LONGEST, clear_absurd_times, to_ticks
from vidsr.video.verify import PacketChecksum

if TYPE_CHECKING:
    from av.container.core import Chapter

# Packets of sparse streams may be stored late: the input is read this much past the end of the trim range.
TRAILING_SECONDS = Fraction(10)
READ_ERRORS_ALLOWED = 100


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the input that the muxer refuses, or may refuse.

    `kind` is "copy" (a stream as it is, by its index in `key`), "stream" (a stream in any form), "tag" (of the file, by
    name), "video tag" or "chapters". `reason` tells why, for a message.
    """

    kind: str
    key: str = ""
    reason: str = ""


_NAMES = {
    "tag": "the tag '{}' of the input is",
    "video tag": "the tag '{}' of the video stream is",
    "chapters": "the chapters are",
}


def shift_of_start(video: Fraction, audio: Fraction | None) -> Fraction:
    """By how much all times are moved back so that the first stream of a result begins at 0, in seconds of the input.

    `video` is the time of the first frame, `audio` that of the first audio; they keep their distance. Audio that begins
    before 0 is the delay of its encoder, and is not moved.
    """
    return video if video < 0 else max(Fraction(0), video if audio is None else min(video, audio))


def _start_of(stream: Stream) -> Fraction | None:
    """When a stream begins according to its header, in seconds; None if unknown or absurd."""
    if stream.start_time is None or stream.time_base is None:
        return None
    start = stream.start_time * stream.time_base
    return start if abs(start) <= LONGEST else None


class Passthrough:
    """Copies everything but the video stream. The constructor adds the streams to `output`, before its header.

    It owns the input that it opens: call `close`. Times are shifted by `shift` seconds of the input, which is set with
    the first frame, and then multiplied by `stretch`. With `is_trimmed`, audio before the shift is dropped. `losses`
    are warnings about content that the output lacks.
    """

    def __init__(
        self,
        source: Source,
        info: VideoInfo,
        output: OutputContainer,
        config: OutputConfig,
        stretch: int = 1,
        is_trimmed: bool = False,
        refused: Sequence[Part] = (),
    ) -> None:
        """`info` names the video stream, which is not copied.

        `refused` are the parts of the input that the muxer does not accept, found by a trial.
        """
        self._refused = {(part.kind, part.key): part.reason for part in refused}
        self.warnings: list[str] = []
        self.losses = [
            f"{_NAMES[part.kind].format(printable(part.key))} left out: {part.reason}"
            for part in refused
            if part.kind in _NAMES
        ]
        self.shift = Fraction(0)
        self._routes: dict[int, StreamCopy | StretchedAudio] = {}
        self._stretch, self._is_trimmed = stretch, is_trimmed
        self._clock = Clock(info.clock)
        self._attached: list[PacketChecksum] = []
        self._attached_indexes: list[int] = []
        self._pending: Packet[Any] | None = None
        self._output = output
        self._video_index = info.video_stream
        self._source = source
        self._input: InputContainer = self._source.open_copies("surrogateescape")
        self._watched: WatchedFile | None = None
        try:
            self._watched = self._source.watched()
            if self.video_disposition & Disposition.multilayer:
                name = name_of(self._input.streams[self._video_index])
                self.losses.append(f"{name} holds several layers, such as a second view; only the first is enlarged")
            self._plan(config)
            if not self._routes:
                self._source.release_copies()
            self._warn_of_text()
        except BaseException:
            self.close()
            raise
        self._packets = self._read()

    def close(self) -> None:
        """Closes the input."""
        self._input.close()
        if self._watched is not None:
            self._watched.close()

    @property
    def tags(self) -> dict[str, str]:
        """The tags of the file as a whole, without refused ones."""
        tags = copied_tags(dict(self._input.metadata))
        if self._input.format.name == "avi":
            tags.pop("software", None)  # what wrote the input, in AVI
        return {key: value for key, value in tags.items() if ("tag", key) not in self._refused}

    @property
    def video_tags(self) -> dict[str, str]:
        """The tags of the video stream, without refused ones."""
        tags = copied_tags(dict(self._input.streams[self._video_index].metadata))
        return {key: value for key, value in tags.items() if ("video tag", key) not in self._refused}

    @property
    def video_disposition(self) -> Disposition:
        """The flags of the video stream."""
        return self._input.streams[self._video_index].disposition

    @property
    def parts(self) -> list[Part]:
        """Everything of the input that is copied and that the output can do without."""
        streams = [*self._routes, *self._attached_indexes]
        return [
            *(Part("stream", str(index)) for index in streams),
            *([Part("chapters")] if self._input.chapters() else []),
            *(Part("tag", key) for key in self.tags),
            *(Part("video tag", key) for key in self.video_tags),
        ]

    @property
    def audio_start(self) -> Fraction | None:
        """When the first audio of the output begins in the input, in seconds; None without audio."""
        begins = [_start_of(route.source) for route in self._routes.values() if route.source.type == "audio"]
        return min((time for time in begins if time is not None), default=None)

    @property
    def checksums(self) -> list[PacketChecksum]:
        """Checksums of the packets copied so far, in the order of the output's streams."""
        return [route.checksum for route in self._routes.values()] + self._attached

    def add_chapters(self, trim: InputConfig) -> None:
        """Adds the input's chapters within the trim range, counted from the start in the header (within one frame)."""
        if ("chapters", "") in self._refused:
            return
        first = _start_of(self._input.streams[self._video_index]) or Fraction(0)
        shift = shift_of_start(first, self.audio_start) if trim.start is None else first + trim.start
        end = None if trim.end is None else first + trim.end
        kept: list[Chapter] = []
        for chapter in self._input.chapters():
            base = chapter["time_base"] or Fraction(1, 1000)
            begins, stops = max(chapter["start"] * base, shift), chapter["end"] * base
            stops = stops if end is None else min(stops, end)
            if max(abs(begins), abs(stops)) > LONGEST:
                self.losses.append(f"a chapter at {float(begins):.3g} s is left out: its time is damaged")
            elif begins < stops or (begins == stops and end is None):
                start, stop = (to_ticks((t - shift) * self._stretch, base) for t in (begins, stops))
                kept.append({**chapter, "time_base": base, "start": start, "end": stop})
        if kept:
            self._output.set_chapters(kept)

    def copy_until(self, time: Fraction) -> None:
        """Copies the packets due before `time` (seconds of the output)."""
        while (packet := self._peek()) is not None:
            begins = self._time(packet)
            if begins is not None and begins > time:
                return
            self._take(packet, None)

    def try_out(self, packets: dict[int, list[Packet[Any]]]) -> None:
        """Copies packets (by stream, unchanged themselves) instead of the input's, from time 0 on; for a trial."""
        first = _start_of(self._input.streams[self._video_index]) or Fraction(0)
        self.shift = shift_of_start(first, self.audio_start)
        for index, route in self._routes.items():
            twins = [twin_of(packet) for packet in packets.get(index, [])]
            if isinstance(route, StretchedAudio):
                for twin in twins[1:]:  # without times they follow each other; gaps would become silence for minutes
                    twin.pts = twin.dts = None
            for twin in twins:
                route.copy(twin, self.shift, None)
            if isinstance(route, StretchedAudio):
                route.finish(self.shift, None)
        self._packets = iter(())

    def finish(self, end: Fraction | None, video_end: Fraction) -> None:
        """Copies the remaining packets that begin before `end`, or all of them; the video lasts until `video_end`.

        Both are in seconds of the output.
        """
        while (packet := self._peek()) is not None:
            begins = self._time(packet)
            if end is not None and begins is not None and begins >= end:
                self._routes[packet.stream_index].is_past_end = True
                is_far = begins >= end + TRAILING_SECONDS * self._stretch
                if is_far or all(route.is_past_end for route in self._routes.values()):
                    break
            self._take(packet, end)
        for route in self._routes.values():
            if isinstance(route, StretchedAudio):
                route.finish(self.shift, end)
            else:
                route.finish(video_end)
            self.warnings += route.warnings()
            self.losses += route.losses()
        if self._routes and self._watched is not None and (change := self._watched.change):
            self.losses.append(f"{change}; audio or subtitles may be incomplete")

    def _peek(self) -> Packet[Any] | None:
        if self._pending is None:
            self._pending = next(self._packets, None)
        return self._pending

    def _take(self, packet: Packet[Any], end: Fraction | None) -> None:
        self._pending = None
        self._routes[packet.stream_index].copy(packet, self.shift, end)

    def _plan(self, config: OutputConfig) -> None:
        container = self._output.format.name
        left_out = {"audio"} if config.audio == "none" else set()
        video_tags = self._input.streams[self._video_index].metadata
        left_out |= {"subtitle"} if config.subtitles == "none" else set()
        apart: list[Stream] = []
        for stream in self._input.streams:
            is_cover = stream.type == "video" and bool(stream.disposition & Disposition.attached_pic)
            if stream.index == self._video_index or stream.type in left_out:
                continue
            if stream.discard == Discard.all:  # the texts of an mp4's chapters, which are copied as chapters
                if not self._input.chapters():
                    self.losses.append(f"{name_of(stream)} is left out: FFmpeg finds nothing in it to read")
                continue
            if stream.type == "data" and "timecode" in stream.metadata and "timecode" in video_tags:
                continue  # the first time code, which muxers write anew from the video stream's tag
            if (reason := self._refused.get(("stream", str(stream.index)))) is not None:
                self.losses.append(f"{name_of(stream)} is left out: {reason}")
            elif stream.type == "attachment" or (is_cover and container in MATROSKA):
                apart.append(stream)
            elif stream.type == "audio" and self._stretch > 1:
                self._stretch_or_drop(stream, container)
            elif stream.type == "video" and not is_cover:
                self.losses.append(f"{name_of(stream)} is not copied: only one video stream is enlarged")
            elif is_cover and container == "mov":
                self.losses.append(f"{name_of(stream)} is left out: mov files hold no covers; write .mp4 or .mkv")
            elif (reason := self._refused.get(("copy", str(stream.index)))) is None:
                target = add_copy(self._output, stream)
                self._routes[stream.index] = StreamCopy(
                    stream, target, self._output, codec_of(stream), None, self._stretch, self._is_trimmed
                )
            else:
                self._convert_or_drop(stream, container, reason)
        for stream in apart:
            self._attach(stream, container)
        for stream in self._input.streams:
            if stream.index not in self._routes:
                stream.discard = Discard.all

    def _stretch_or_drop(self, stream: Stream, container: str) -> None:
        context: Any = stream.codec_context
        codec = None
        is_known = context is not None and context.format is not None and context.layout is not None
        if is_known and context.sample_rate and context.layout.nb_channels:
            codec = choose_audio_encoding(
                codec_of(stream), context.format.name, context.layout.name, context.sample_rate, container
            )
        if codec is None:
            reason = f"{container} cannot hold audio of this kind" if is_known else "FFmpeg cannot decode it"
            self.losses.append(f"{name_of(stream)} is left out, because it cannot be stretched: {reason}")
            return
        try:
            route = StretchedAudio(cast(AudioStream, stream), self._output, codec, self._stretch)
        except av.FFmpegError:
            self.losses.append(
                f"{name_of(stream)} is left out, because it cannot be stretched: FFmpeg's filters do not take "
                f"{context.layout.name} at {context.sample_rate} Hz"
            )
            return
        self._routes[stream.index] = route

    def _warn_of_text(self) -> None:
        """Names the tags and titles that are not UTF-8."""
        owners = [("the input", self.tags.items())]
        for index in (self._video_index, *self._routes, *self._attached_indexes):
            stream = self._input.streams[index]
            owners.append((name_of(stream), copied_tags(dict(stream.metadata)).items()))
        titles = [tags for chapter in self._input.chapters() for tags in chapter.get("metadata", {}).items()]
        for owner, tags in (*owners, ("the chapters", titles)):
            foreign = sorted({printable(key) for key, value in tags if printable(key + value) != key + value})
            if foreign:
                names = ", ".join(foreign)
                self.warnings.append(
                    f"these tags of {owner} are not UTF-8, and their bytes are copied as they are: {names}"
                )

    def _convert_or_drop(self, stream: Stream, container: str, reason: str) -> None:
        codec = conversion_target(codec_of(stream), container) if stream.type == "subtitle" else None
        if codec is None:
            self.losses.append(f"{name_of(stream)} is left out: {reason}")
            return
        target: Any = self._output.add_stream(codec)
        target.time_base = Fraction(1, 1000)
        converter = SubtitleConverter(stream, target)  # type: ignore[arg-type]  # type "subtitle" was checked
        self._routes[stream.index] = StreamCopy(
            stream, target, self._output, codec, converter, self._stretch, self._is_trimmed
        )
        self.warnings.append(f"{name_of(stream)} is stored as {codec}, because {container} cannot hold it as it is")

    def _attach(self, stream: Stream, container: str) -> None:
        """Attaches a file: a font, or a cover where the container stores covers as files."""
        if container != "matroska":
            self.losses.append(f"{name_of(stream)} is left out: {container} cannot hold files; write .mkv to keep it")
            return
        tags = copied_tags(dict(stream.metadata))
        if isinstance(stream, AttachmentStream):
            kind, data = "attachment", stream.data
            name, mime = stream.name or "attachment", stream.mimetype or "application/octet-stream"
        else:
            kind, data = "cover", self._source.attached_picture(stream.index)
            codec = codec_of(stream)
            ending = {"mjpeg": "jpg"}.get(codec, codec)
            name = tags.get("filename", f"cover.{ending}")
            mime = tags.get("mimetype", f"image/{'jpeg' if codec == 'mjpeg' else codec}")
        target = self._output.add_attachment("file", "application/octet-stream", data)  # takes UTF-8 only; see below
        target.metadata.update({**tags, "filename": name, "mimetype": mime})
        checksum = PacketChecksum(kind, name_of(stream), "", {}, Disposition(0))
        checksum.add(data)
        self._attached.append(checksum)
        self._attached_indexes.append(stream.index)

    def _read(self) -> Iterator[Packet[Any]]:
        """The packets of the copied streams in the file's order; read errors are skipped and counted."""
        errors = absurd = 0
        if not self._routes:
            return
        while True:
            try:
                for packet in self._input.demux([route.source for route in self._routes.values()]):
                    if packet.size:
                        absurd += clear_absurd_times(packet)
                        self._clock.correct(packet)
                        yield packet
                break
            except av.EOFError:
                break
            except av.FFmpegError as error:
                errors += 1
                if errors > READ_ERRORS_ALLOWED:
                    self.losses.append(f"the input's audio and subtitles end early: {plain_text(error)}")
                    return
        if absurd:
            self.losses.append(f"the times of {absurd} packets are damaged; they follow the packets before them")
        if errors:
            self.losses.append(f"the input could not be read in {errors} places; audio or subtitles may be incomplete")

    def _time(self, packet: Packet[Any]) -> Fraction | None:
        """The decoding time of a packet, in seconds of the output."""
        ticks = packet.dts if packet.dts is not None else packet.pts
        return None if ticks is None else (ticks * packet.time_base - self.shift) * self._stretch
