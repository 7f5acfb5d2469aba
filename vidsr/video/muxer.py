"""Muxer: interleaves encoded frames and the copied streams of the input in one file."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
from av.container.output import OutputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from vidsr.runtime.priority import open_with_low_priority
from vidsr.video.containers import Writable, copied_tags, muxer_of, open_output
from vidsr.video.encoder import acceleration
from vidsr.video.passthrough import Passthrough
from vidsr.video.timestamps import to_ticks

if TYPE_CHECKING:
    from vidsr.video.output import OutputPlan


class Muxer:
    """The output file of a plan: one video stream and the copied streams. Raises the errors of FFmpeg and the system.

    The constructor adds the streams; `begin` opens the encoder of `context` and writes the header, and only then the
    file exists on disk. `copies` owns the input that it opens; `close` closes both.
    """

    def __init__(self, file: Path | BytesIO | Writable, plan: OutputPlan) -> None:
        """`file` is the file to write, memory or a pipe; the extension of the plan's target selects the container."""
        self._plan = plan
        with plan.source.open(metadata_errors="surrogateescape") as source:
            tags = copied_tags(dict(source.metadata))
        self._output = open_output(file, muxer_of(plan.target), plan.encoding.time_base, tags)
        try:
            self._video = add_video(self._output, plan)
            self.copies = Passthrough(
                plan.source, plan.info, self._output, plan.options, plan.stretch, plan.trim.start is not None,
                plan.refused,
            )  # fmt: skip
        except BaseException:
            self._close_output()
            raise
        self.time_base = plan.encoding.time_base
        self._shown_until = Fraction(0)

    @property
    def context(self) -> VideoCodecContext:
        """The encoder's context of the video stream."""
        return self._video.codec_context

    def begin(self) -> None:
        """Adds tags and chapters and writes the header; a muxer that refuses anything raises here.

        From now on `time_base` is that of the file.
        """
        self._output.metadata.update(self.copies.tags)
        tags, disposition = self.copies.video_tags, self.copies.video_disposition
        self._video.metadata.update(tags)
        if self._plan.stereo is not None:
            self._video.metadata["stereo_mode"] = self._plan.stereo
        if self._plan.signature is not None:
            self._video.metadata["encoder"] = self._plan.signature
        self._video.disposition = disposition
        self.copies.add_chapters(self._plan.trim)
        open_with_low_priority(self._output.start_encoding)
        self.time_base = self._video.time_base or self.time_base

    def try_out(self, packets: list[Packet[VideoStream]], first: dict[int, list[Packet[Any]]]) -> None:
        """Writes a whole file of a few packets, the `first` ones of each copied stream; for a trial."""
        self.copies.try_out(first)
        self.write(packets)
        self._output.close()

    def write(self, packets: list[Packet[VideoStream]]) -> None:
        """Writes encoded frames, each after the copied packets that are due before it."""
        for packet in packets:
            base = packet.time_base
            pts, dts, duration = cast(int, packet.pts), cast(int, packet.dts), packet.duration or 0
            self.copies.copy_until(dts * base)
            packet.pts, packet.dts = to_ticks(pts * base, self.time_base), to_ticks(dts * base, self.time_base)
            packet.duration = to_ticks(duration * base, self.time_base)
            packet.time_base = self.time_base
            packet.stream = self._video
            self._output.mux_one(packet)
            self._shown_until = max(self._shown_until, (pts + duration) * base)

    def finish(self, end: Fraction | None) -> None:
        """Copies the remaining packets that begin before `end` (seconds of the output), or all, and closes the file."""
        self.copies.finish(end, self._shown_until)
        self._output.close()

    def close(self) -> None:
        """Closes the output file, complete or not, and the input of `copies`."""
        try:
            self._close_output()
        finally:
            self.copies.close()

    def _close_output(self) -> None:
        """Closes the output and ignores errors, because their cause has already been raised elsewhere."""
        with suppress(av.FFmpegError, OSError):
            self._output.close()


def add_video(output: OutputContainer, plan: OutputPlan) -> VideoStream:
    """Adds the video stream of a plan to an output, with an encoder that is configured but not open yet."""
    encoding = plan.encoding
    accelerated = acceleration(encoding.codec)
    video = cast(VideoStream, output.add_stream(encoding.codec, rate=encoding.rate, hwaccel=accelerated))
    encoding.configure(video.codec_context)
    video.time_base = encoding.time_base
    video.codec_context.sample_aspect_ratio = plan.pixel_aspect
    is_hevc = encoding.codec == "libx265" or encoding.codec.startswith("hevc_")
    if is_hevc and output.format.name in ("mp4", "mov"):
        video.codec_context.codec_tag = "hvc1"  # the only tag for HEVC that Apple's players accept
    if plan.matrix is not None:
        video.set_display_matrix(plan.matrix)
    elif plan.info.rotation_degrees:
        video.set_display_rotation(plan.info.rotation_degrees)
    return video
