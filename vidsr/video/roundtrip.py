"""Encoding and decoding frames in memory, so that training sees real compression. No files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from fractions import Fraction

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

SWSCALE_ACCURATE = 4 | 0x40000 | 0x2000 | 0x4000  # bicubic, accurate rounding, full chroma in both directions
# Decoders whose names are not their encoders'.
DECODERS = {"libx264": "h264", "libvpx": "vp8", "libvpx-vp9": "vp9"}


def h264_roundtrip(frames: NDArray[np.uint8], crf: int) -> NDArray[np.uint8]:
    """Compresses `frames` (N x H x W x 3, RGB, 8 bit, H and W even) with libx264 at `crf` 0..51, and decodes them.

    The result has the same shape.
    """
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        for frame in frames:
            rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
            container.mux(stream.encode(rgb.reformat(format="yuv420p", interpolation=SWSCALE_ACCURATE)))
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer, "r") as container:
        decoded = [
            frame.reformat(format="rgb24", interpolation=SWSCALE_ACCURATE).to_ndarray()
            for frame in container.decode(video=0)
        ]
    return np.stack(decoded)


def codec_roundtrip(frames: NDArray[np.uint8], codec: str, options: Mapping[str, str]) -> NDArray[np.uint8]:
    """What an encoder of FFmpeg leaves of `frames` (N x H x W x 3 RGB, H and W even); same shape, 8 bits, 4:2:0.

    `options` are the encoder's, as its command line names them (`crf`, `g`, `qmin` ...). Encoder and decoder meet
    without a container. Raises ValueError if the encoder gives another number of frames back.
    """
    encoder = av.CodecContext.create(codec, "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height = frames.shape[2], frames.shape[1]
    encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    encoder.time_base, encoder.framerate, encoder.thread_count = Fraction(1, 25), Fraction(25), 1
    encoder.options = dict(options)
    # One each for the whole clip: a converter takes longer to make than a small picture to convert.
    to_yuv, to_rgb = VideoReformatter(), VideoReformatter()
    packets = []
    for index, frame in enumerate(frames):
        rgb = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture = to_yuv.reformat(rgb, format=encoder.pix_fmt, interpolation=SWSCALE_ACCURATE)
        picture.pts, picture.time_base = index, encoder.time_base
        packets += encoder.encode(picture)
    packets += encoder.encode(None)
    decoder = av.CodecContext.create(DECODERS.get(codec, codec), "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.thread_count = 1
    if encoder.extradata:
        decoder.extradata = encoder.extradata
    decoded = [picture for packet in [*packets, None] for picture in decoder.decode(packet)]
    if len(decoded) != len(frames):
        raise ValueError(f"{codec} gave {len(decoded)} of {len(frames)} frames back")
    return np.stack(
        [to_rgb.reformat(each, format="rgb24", interpolation=SWSCALE_ACCURATE).to_ndarray() for each in decoded]
    )
