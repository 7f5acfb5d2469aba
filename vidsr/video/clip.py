"""A short clip for web browsers: RGB frames encoded in memory as 8-bit 4:2:0 H.264 in an MP4 file."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Self

import av
from av.container import OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream
from torch import Tensor

from vidsr.types import Color
from vidsr.video.encoder import Encoder, Encoding
from vidsr.video.errors import writing

TICKS_PER_SECOND = 90_000
# A key frame at least this often: a browser that jumps to a frame decodes from the key frame before it.
KEY_FRAME_DISTANCE = 12
_COLOR = Color(
    matrix="bt709", range="tv", primaries="bt709", transfer="bt709", chroma_location="left", matrix_used="bt709",
    range_used="tv",
)  # fmt: skip


class ClipEncoder:
    """Encodes a clip in memory. Use it in a `with` block; `finish` returns the file.

    Odd sides are padded by one pixel on the right or below, because 4:2:0 needs even ones.
    """

    def __init__(self, target: Path, size: tuple[int, int], rate: Fraction, crf: int) -> None:
        """`target` is the file that errors name, `size` (width, height) of the frames.

        `rate` is about the number of frames per second, `crf` the quality of x264.
        """
        self._target = target
        self._buffer = io.BytesIO()
        width, height = size
        self._encoding = Encoding(
            codec="libx264", pixel_format="yuv420p", width=width + width % 2, height=height + height % 2,
            time_base=Fraction(1, TICKS_PER_SECOND), rate=rate,
            # No B-frames: with them the first frame would not be at time 0, which players treat differently.
            options=(("crf", str(crf)), ("preset", "faster"), ("g", str(KEY_FRAME_DISTANCE)), ("bf", "0")),
            color=_COLOR, warnings=(),
        )  # fmt: skip
        self._size = size
        self._container: OutputContainer
        self._stream: VideoStream
        self._encoder: Encoder

    def __enter__(self) -> Self:
        with writing(self._target):
            self._container = av.open(self._buffer, "w", format="mp4")
            self._stream = self._container.add_stream("libx264", rate=self._encoding.rate)
            self._encoding.configure(self._stream.codec_context)
            self._stream.time_base = self._encoding.time_base
            self._encoder = Encoder(self._stream.codec_context, self._encoding, self._size)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._container.close()

    def write(self, image: Tensor, ticks: int, duration: int) -> None:
        """Encodes a frame, 3 x H x W in 0..1, shown from `ticks` on for `duration`, in TICKS_PER_SECOND."""
        with writing(self._target):
            self._mux(self._encoder.encode(image, ticks, duration))

    def finish(self) -> bytes:
        """The complete file."""
        with writing(self._target):
            self._mux(self._encoder.flush())
            self._container.close()
        return self._buffer.getvalue()

    def _mux(self, packets: list[Packet[VideoStream]]) -> None:
        for packet in packets:
            packet.stream = self._stream
            self._container.mux(packet)
