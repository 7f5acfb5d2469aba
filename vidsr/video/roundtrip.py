"""H.264 round trip in memory, so that networks are trained on real compression."""

from __future__ import annotations

import io

import av
import numpy as np
from numpy.typing import NDArray

SWSCALE_ACCURATE = 4 | 0x40000 | 0x2000 | 0x4000  # bicubic, accurate rounding, full chroma in both directions


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
