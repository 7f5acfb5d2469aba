"""The output file: pictures in; out comes a complete and checked file under its final name.

Which encoder is `encoders.py`, the copy of sound and the rest is `passthrough.py`, the check is `verify.py`.
"""

from __future__ import annotations

from array import array
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import av
from av.packet import Packet
from av.video.stream import VideoStream
from torch import Tensor
from torch.nn.functional import pad

from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import CheckError, OutputError
from vidsr.files import HiddenFile, check_target
from vidsr.runtime.priority import open_behind_the_network
from vidsr.types import Frame, VideoInfo
from vidsr.video import encoder as encoders
from vidsr.video.color import rgb_to_frame
from vidsr.video.containers import open_output
from vidsr.video.errors import writing
from vidsr.video.passthrough import Passthrough
from vidsr.video.probe import read_side_data
from vidsr.video.timestamps import to_ticks
from vidsr.video.verify import Expected, verify

# Sizes are whole pixels, so an enlargement changes the aspect a little; more than this was asked for.
ASPECT_TOLERANCE = Fraction(1, 50)


class Writer:
    """Writes one film. Everything that can be refused is refused when it is made; files appear with `with`.

    The pictures go to a hidden file beside the target. `commit` completes and checks it and gives it its name; leaving
    the `with` without commit removes it. Frame times are kept; with `InputConfig.start` or a negative first time, the
    first frame is at 0 and sound, subtitles and chapters move along. With a `stretch` above 1 the frames come with
    stretched times; sound and the rest are stretched here. Use from one thread at a time.

    `warnings` name what is not carried over; they are complete after `commit`.
    """

    def __init__(
        self, target: Path, source: VideoInfo, size: tuple[int, int], config: OutputConfig, window: InputConfig,
        stretch: int = 1,
    ) -> None:  # fmt: skip
        """`size` is (width, height) of the frames; `source` says in which time base and at which rate they come.

        `stretch`, 1 or 2, 4, 8, is how many times the result lasts longer than its input; copied audio cannot follow.
        Raises OutputError.
        """
        assert stretch == 1 or config.audio != "copy", "a SlowmoConfig refuses audio that cannot follow"
        self._target = check_target(target, Path(source.path), config.overwrite)
        self._hidden = HiddenFile(self._target, overwrite=config.overwrite)
        self._source, self._size, self._config, self._window = source, size, config, window
        self._stretch = stretch
        self._output = open_output(self._hidden.path, self._target, source.time_base)
        container = self._output.format.name
        self._side = read_side_data(source.path, source.video_stream)
        self._encoding = encoders.choose(container, source, size, config, self._side)
        self.warnings: list[str] = list(self._encoding.warnings)
        self._times: array[int] = array("q")
        self._durations: dict[int, int] = {}
        self._shift = Fraction(0)
        self._step = to_ticks(1 / self._encoding.rate, source.time_base)
        self._first_pts = 0
        self._last_pts: int | None = None
        self._last_duration = 0
        self._rounded = 0
        self._video: VideoStream
        self._copies: Passthrough | None = None
        self._is_committed = False

    @property
    def codec_name(self) -> str:
        """FFmpeg's name of the encoder."""
        return self._encoding.codec

    @property
    def pixel_format(self) -> str:
        """FFmpeg's name of the format that is encoded."""
        return self._encoding.pixel_format

    def __enter__(self) -> Self:
        with writing(self._target):
            self._hidden.__enter__()
            try:
                self._begin()
            except BaseException:
                self._discard()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._is_committed:
            self._discard()

    def write(self, frame: Frame) -> None:
        """Encodes the next frame, of the size given at the start. Raises OutputError; frame times must increase."""
        with writing(self._target):
            base, out_base = self._source.time_base, self._out_base
            time = frame.pts * frame.time_base
            if not self._times and (self._window.start is not None or time < 0):
                self._set_shift(time)
            pts = to_ticks(time - self._shift, base)
            out_pts = to_ticks(time - self._shift, out_base)
            if self._times and out_pts <= self._times[-1]:
                raise OutputError(
                    f"{self._target.name}: the frame at {float(time):.6f} s does not come after the one before it as "
                    f"this file counts time, in {out_base} s; {'write .mp4' if out_base > base else 'repair the input'}"
                )
            self._rounded += out_pts * out_base != time - self._shift
            if self._last_pts is None:
                self._first_pts = pts
            else:
                self._step = pts - self._last_pts
            self._times.append(out_pts)
            self._last_pts = pts
            self._last_duration = to_ticks(frame.duration * frame.time_base, base) or self._step
            self._durations[pts] = self._last_duration
            picture = rgb_to_frame(self._padded(frame.image), self.pixel_format, self._encoding.colour)
            picture.pts, picture.time_base = pts, base
            self._mux(self._video.encode(picture))

    def commit(self, is_strict: bool = False) -> None:
        """Completes the file, checks it, and gives it its name. Raises OutputError or CheckError.

        With `is_strict` anything of the input that the output could not be given is a CheckError too.
        """
        if self._last_pts is None or self._copies is None:
            raise OutputError(f"{self._target.name}: there is no frame to write")
        end = (self._last_pts + self._last_duration) * self._source.time_base
        with writing(self._target):
            packets = self._video.encode(None)
            if packets and packets[-1].pts is not None:
                # MP4 takes the film's end from the packet that is decoded last, which may not be the one shown last.
                self._durations[packets[-1].pts] = self._last_duration
            self._mux(packets)
            self._copies.finish(end if self._window.end is not None else None)
            self._output.close()
        expected = Expected(
            times=self._times,
            time_base=self._out_base,
            size=(self._encoding.width, self._encoding.height),
            checksums=self._copies.checksums,
            tags=self._copies.tags,
        )
        lost = [*self._copies.losses, *verify(self._hidden.path, self._target.name, expected)]
        if is_strict and lost:
            raise CheckError(f"{self._target.name} was not made, because --strict allows no loss: {lost[0]}")
        with writing(self._target):
            self._hidden.publish()
        self._is_committed = True
        self._copies.close()
        if self._rounded:
            self.warnings.append(
                f"{self._rounded} of {len(self._times)} frame times are rounded to "
                f"{float(self._out_base) * 1000:g} ms, the unit of {self._target.suffix} files"
            )
        self.warnings += [*self._copies.warnings, *lost]

    def _begin(self) -> None:
        """Adds all streams and writes the header; what the muxer refuses, it refuses here."""
        source, plan = self._source, self._encoding
        self._video = cast(VideoStream, self._output.add_stream(plan.codec, rate=plan.rate))
        plan.configure(self._video.codec_context)
        self._video.time_base = source.time_base
        self._video.codec_context.sample_aspect_ratio = self._pixel_aspect()
        if plan.codec in ("libx265", "hevc_nvenc") and self._output.format.name in ("mp4", "mov"):
            self._video.codec_context.codec_tag = "hvc1"  # Apple's players know no other
        if self._side.matrix is not None:
            self._video.set_display_matrix(self._side.matrix)
        elif source.rotation_degrees:
            self._video.set_display_rotation(source.rotation_degrees)
        self._copies = Passthrough(source, self._output, self._config, self._stretch)
        self._output.metadata.update(self._copies.tags)
        tags, disposition = self._copies.stream_tags(source.video_stream)
        self._video.metadata.update(tags)
        self._video.disposition = disposition
        self._copies.add_chapters(self._window)
        open_behind_the_network(self._output.start_encoding)
        self._out_base = self._video.time_base or source.time_base

    def _set_shift(self, time: Fraction) -> None:
        self._shift = time
        if self._copies is not None:
            self._copies.shift = time / self._stretch
        if self._window.start is None:
            self.warnings.append(
                f"the film begins at {float(time):.3f} s, before zero; all of it is moved to begin at 0"
            )

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        """Gives encoded frames to the muxer, after everything copied that belongs before them."""
        base, out_base = self._source.time_base, self._out_base
        for packet in packets:
            pts, dts = packet.pts, packet.dts
            if pts is None or self._copies is None:
                raise RuntimeError(f"{self.codec_name} gave a packet without a time")
            if dts is None or not self._is_plausible(dts):
                dts = pts
            self._copies.copy_until(dts * base)
            duration = self._durations.pop(pts)
            packet.pts, packet.dts = to_ticks(pts * base, out_base), to_ticks(dts * base, out_base)
            packet.duration = to_ticks(duration * base, out_base)
            packet.time_base = out_base
            self._output.mux_one(packet)

    def _is_plausible(self, dts: int) -> bool:
        """x265 4.2 leaves the decoding times of films of one or two frames uninitialised."""
        last = self._last_pts or 0
        return abs(dts - last) <= 2 * (last - self._first_pts) + 64 * self._step

    def _padded(self, image: Tensor) -> Tensor:
        width, height = self._size
        if image.shape != (3, height, width):
            raise ValueError(f"frame of {tuple(image.shape)} given to a writer for (3, {height}, {width})")
        right, below = self._encoding.width - width, self._encoding.height - height
        return pad(image[None], (0, right, 0, below), mode="replicate")[0] if right or below else image

    def _pixel_aspect(self) -> Fraction:
        """The source's, or what keeps the shape of things if the wanted size has other proportions."""
        source = self._source
        stretch = Fraction(source.width * self._size[1], source.height * self._size[0])
        if abs(stretch - 1) <= ASPECT_TOLERANCE:
            return source.pixel_aspect
        aspect = (source.pixel_aspect * stretch).limit_denominator(255)
        self.warnings.append(
            f"{self._size[0]}x{self._size[1]} has other proportions than the input; the pixel aspect "
            f"{aspect.numerator}:{aspect.denominator} keeps the shape of things"
        )
        return aspect

    def _discard(self) -> None:
        """Removes the hidden file. What fails here has a cause that is already on its way to the user."""
        try:
            with suppress(av.FFmpegError, OSError):
                self._output.close()
            if self._copies is not None:
                self._copies.close()
        finally:
            self._hidden.__exit__(None, None, None)
