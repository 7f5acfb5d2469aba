"""Random encoder settings for training clips, and their strength on a common scale. Nothing is encoded here.

The scale is the crf of x264 (preset medium) that gives the same PSNR, measured on 11 training clips reduced by 4 (the
middle 40 x 40 pixels, 15 frames, PSNR from the 5th frame on).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# (frames N x H x W x 3, encoder name, encoder options) -> decoded frames.
Roundtrip = Callable[[NDArray[np.uint8], str, Mapping[str, str]], NDArray[np.uint8]]
MIN_CRF, MAX_CRF = 12.0, 42.0  # crf for compression 0 and for compression 1


class Family(NamedTuple):
    """Encoders with the same kind of quality number; `crfs` holds the equivalent crf for each of `strengths`."""

    codecs: tuple[str, ...]
    strengths: tuple[float, ...]
    crfs: tuple[float, ...]


class Encoding(NamedTuple):
    """An encoder with its options, and the equivalent crf of x264."""

    codec: str
    options: dict[str, str]
    crf: float

    @property
    def compression(self) -> float:
        """0..1: 0 for crf 12 and below, 1 for crf 42 and above."""
        return compression_of(self.crf)


FAMILIES = {
    "x264": Family(("libx264",), (0, 51), (0, 51)),
    "mpeg4": Family(("mpeg4",), (2, 4, 8, 16, 31), (15, 21, 27.5, 33.6, 39)),
    "mpeg2": Family(("mpeg2video",), (2, 4, 8, 16, 31), (13.5, 19.2, 25.8, 32.6, 38.5)),
    "h263": Family(("flv",), (2, 4, 8, 16, 31), (13.7, 20.6, 27.4, 33.8, 39)),
    "vp8": Family(("libvpx",), (4, 16, 30, 45, 56, 63), (8, 17.5, 23.2, 31, 36.3, 39.5)),
    "vp9": Family(("libvpx-vp9",), (4, 16, 30, 45, 56, 63), (7.5, 15, 23, 33, 39.5, 46)),
    "mjpeg": Family(("mjpeg",), (2, 4, 8, 16, 31), (12.4, 18.5, 24.8, 30.4, 35.6)),
    # By JPEG quality: for stills and cameras that send JPEGs.
    "jpeg": Family(("jpeg",), (10, 30, 50, 75, 90, 95), (36.8, 30, 27.2, 23, 16.3, 12)),
}
_PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium")
_TUNES = ("", "", "film", "zerolatency")


def compression_of(crf: float) -> float:
    """Maps a crf of x264 to compression in 0..1."""
    return min(1.0, max(0.0, (crf - MIN_CRF) / (MAX_CRF - MIN_CRF)))


def equivalent_crf(family: str, strength: float) -> float:
    """The crf of x264 that is equivalent to a strength of a family."""
    found = FAMILIES[family]
    return float(np.interp(strength, found.strengths, found.crfs))


def draw_encoding(family: str, strength: float, generator: np.random.Generator) -> Encoding:
    """Draws an encoder of the family at this strength, with a random GOP length and speed."""
    codec = str(generator.choice(FAMILIES[family].codecs))
    group = str(int(generator.choice((1, 4, 8, 12, 25, 250))))
    number = str(round(strength))
    if family == "jpeg":
        options = {"quality": number}
    elif family == "x264":
        options = {"crf": number, "preset": str(generator.choice(_PRESETS)), "g": group}
        if tune := str(generator.choice(_TUNES)):
            options["tune"] = tune
    elif codec.startswith("libvpx"):
        # VP8 adapts a positive speed to the elapsed time, so results could not be repeated.
        speed = str(int(generator.choice((5, 8))) * (-1 if codec == "libvpx" else 1))
        options = {
            "deadline": "realtime",
            "cpu-used": speed,
            "qmin": number,
            "qmax": number,
            "b": "1000000",
            "g": group,
        }
    else:
        options = {"qmin": number, "qmax": number, "b": "1000000", "g": group}
        if codec in ("mpeg4", "mpeg2video") and generator.random() < 0.4:
            options["bf"] = "2"
    return Encoding(codec, options, equivalent_crf(family, round(strength)))
