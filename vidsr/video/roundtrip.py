"""Encoding and decoding of frames in memory, so that training uses real compression."""

from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from vidsr.video.demuxers import open_media
from vidsr.video.encoder import repeatable_options

SWSCALE_ACCURATE = 4 | 0x40000 | 0x2000 | 0x4000  # bicubic, accurate rounding, full chroma in both directions
# Decoders whose names differ from their encoders'.
DECODERS = {"libx264": "h264", "libvpx": "vp8", "libvpx-vp9": "vp9"}


def h264_roundtrip(frames: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    """Compresses `frames` (N x H x W x 3, RGB, 8 bit, H and W even) with libx264 at `crf` 0..51, and decodes them.

    The result has the same shape.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {**repeatable_options("libx264", {"crf": str(crf), "preset": "veryfast", "threads": "1"})}
        for frame in frames:
            rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(rgb.reformat(format="yuv420p", interpolation=SWSCALE_ACCURATE)))
        container.mux(stream.encode())
    buffer.seek(0)
    with open_media(buffer) as container:
        decoded = [
            frame.reformat(format="rgb24", interpolation=SWSCALE_ACCURATE).to_ndarray()
            for frame in container.decode(video=0)
        ]
    return np.stack(decoded)


def codec_roundtrip(frames: NDArray[np.uint8], codec: str, options: Mapping[str, str]) -> NDArray[np.uint8]:
    """Encodes `frames` (N x H x W x 3, RGB, 8 bit, H and W even) in 4:2:0 and decodes them; same shape.

    `options` are FFmpeg's encoder options (`crf`, `g`, `qmin` ...). No container is used. Raises ValueError if the
    number of frames changes.
    """
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height = frames.shape[2], frames.shape[1]
    encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    encoder.time_base, encoder.framerate, encoder.thread_count = Fraction(1, 25), Fraction(25), 1
    encoder.options = repeatable_options(codec, dict(options))
    # One converter each for the whole clip: creating one takes longer than converting a small image.
    to_yuv, to_rgb = VideoReformatter(), VideoReformatter()
    packets = []
    for index, frame in enumerate(frames):
        rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
        yuv = to_yuv.reformat(rgb, format=encoder.pix_fmt, interpolation=SWSCALE_ACCURATE)
        yuv.pts, yuv.time_base = index, encoder.time_base
        packets += encoder.encode(yuv)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create(DECODERS.get(codec, codec), "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count, decoder.width, decoder.height = 1, encoder.width, encoder.height  # FFV1 does not say its size
    if encoder.extradata:
        decoder.extradata = encoder.extradata
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    if len(decoded) != len(frames):
        raise ValueError(f"{codec} returned {len(decoded)} of {len(frames)} frames")
    return np.stack(
        [to_rgb.reformat(each, format="rgb24", interpolation=SWSCALE_ACCURATE).to_ndarray() for each in decoded]
    )
