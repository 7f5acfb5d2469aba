"""Which encoders and decoders of the linked FFmpeg work on this machine."""

from __future__ import annotations

from fractions import Fraction

import av
from av.codec.codec import Codec, UnknownCodecError

from vidsr.config import OutputConfig
from vidsr.errors import OutputError
from vidsr.types import Color, VideoInfo
from vidsr.video.encoder import choose
from vidsr.video.probe import SideData

# What recordings of the last thirty years are coded with.
USUAL_DECODERS = (
    "h264", "hevc", "av1", "vp9", "vp8", "mpeg4", "mpeg2video", "mpeg1video", "vc1", "wmv3", "wmv2", "h263", "flv1",
    "prores", "dnxhd", "cfhd", "ffv1", "dvvideo", "mjpeg", "huffyuv", "utvideo", "theora", "rv40", "svq3", "cinepak",
)  # fmt: skip
# Large enough for every encoder with hardware.
_TRIAL_SIZE = (256, 256)


def encoder_problem(name: str) -> str | None:
    """Opens an encoder, as `--codec NAME` would. Returns None if it works, else why not, as a user would be told."""
    width, height = _TRIAL_SIZE
    source = VideoInfo(
        path="", container="", video_stream=0, codec="", width=width, height=height, pixel_format="yuv420p",
        bit_depth=8, time_base=Fraction(1, 25), color=Color(), header_rate=Fraction(25),
    )  # fmt: skip
    try:
        choose("matroska", source, _TRIAL_SIZE, OutputConfig(codec=name), SideData())
    except OutputError as error:
        return str(error)
    return None


def has_decoder(name: str) -> bool:
    """Whether this FFmpeg can decode a codec."""
    try:
        return Codec(name, "r").type == "video"
    except UnknownCodecError:
        return False


def library_versions() -> dict[str, str]:
    """The versions of PyAV and of the FFmpeg that it is linked with."""
    return {"PyAV": av.__version__, "FFmpeg": av.ffmpeg_version_info}
