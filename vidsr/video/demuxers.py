"""Demuxers: the only place that opens media for reading, and the formats and protocols that are allowed there.

Inputs come from strangers. Some formats are lists that name other files or addresses (playlists, concat scripts,
numbered images, session descriptions), so that reading one opens files that the user never named. Only demuxers that
read nothing but the file itself are allowed; FFmpeg compares its choice with the list after probing and before it reads
the header.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
from av.codec.hwaccel import HWAccel
from av.container.input import InputContainer

from vidsr.errors import InputError
from vidsr.files import url_of
from vidsr.video.errors import file_url, log_switched_on, reading
from vidsr.video.unreadable import encrypted, is_protected_movie

# FFmpeg's demuxers for video that read one file only, as names separated by spaces.
CONTAINERS = (
    "3g2 3gp asf avi dhav dv flv gxf ivf kux live_flv lxf matroska mov mp4 mpeg mpegts mxf nsv nut nuv obu ogg pmp pva "
    "rm swf ty webm wtv yuv4mpegpipe"
)
STREAMS = (
    "apv av1 avs2 avs3 cavsvideo dirac dnxhd evc h261 h263 h264 hevc hxvs ipu m4v mjpeg mjpeg_2000 mpegvideo mpjpeg "
    "smjpeg vc1 vc1test vvc"
)
IMAGES = (
    "apng bmp_pipe dds_pipe dpx_pipe exr_pipe gif gif_pipe hdr_pipe j2k_pipe jpeg_pipe jpegls_pipe jpegxl_anim "
    "jpegxl_pipe jpegxs_pipe pam_pipe pbm_pipe pcx_pipe pfm_pipe pgm_pipe phm_pipe png_pipe ppm_pipe psd_pipe qoi_pipe "
    "sgi_pipe sunrast_pipe tiff_pipe webp_pipe"
)
# Videos of games, old computers and cameras, which people enlarge too.
OLD = (
    "4xm anm bethsoftvid bfi bink bmv c93 cdxl cine dfa dsicin dxa ea film_cpk filmstrip flic gdv hnm idcin iff "
    "ipmovie iss iv8 jv lmlm4 luodat mm mods moflex mtv mv mvi mxg nc paf pdv psxstr r3d rl2 roq rpl ser sga siff "
    "simbiosis_imx smk smush thp tiertexseq tmv usm vivo vividas vmd wc3movie wsvqa xmv yop"
)
# What a pipe may hold: images are files, and old formats need to be read from several places.
PIPED = f"{CONTAINERS} {STREAMS} gif apng".split()
# Formats that a user may name, because their files cannot be told from others; with FFmpeg's name.
NAMED = {"y4m": "yuv4mpegpipe", "mkv": "matroska", "webm": "matroska", "ts": "mpegts", "rawvideo": "rawvideo"}

ALLOWED = " ".join((CONTAINERS, STREAMS, IMAGES, OLD)).split()

# Formats that name other files or addresses, in the words of a user.
_LISTS = {
    "concat": "a list of other files",
    "dash": "a playlist",
    "dvdvideo": "a disc",
    "hls": "a playlist",
    "image2": "a name that stands for a series of images",
    "imf": "a playlist",
    "mlv": "the first part of a recording in several files",
    "rtp": "the address of a stream",
    "rtsp": "the address of a stream",
    "sap": "the address of a stream",
    "sdp": "the address of a stream",
    "vobsub": "a list of subtitles in another file",
    "webm_dash_manifest": "a playlist",
}
_KINDS = (
    (stat.S_ISDIR, "is a folder, not a video"),
    (stat.S_ISFIFO, "is a pipe, which cannot be read twice: write the video to a file first"),
    (stat.S_ISSOCK, "is a socket, which cannot be read twice: write the video to a file first"),
    (stat.S_ISCHR, "is a device, not a file: write the video to a file first"),
    (stat.S_ISBLK, "is a device, not a file: copy the video to a file first"),
)


@dataclass(frozen=True, slots=True)
class Demuxer:
    """A format that the user names (FFmpeg's name), and for raw video the size, pixel format and rate of its frames."""

    name: str
    size: tuple[int, int] | None = None
    pixel_format: str | None = None
    rate: Fraction | None = None

    @property
    def options(self) -> dict[str, str]:
        """The options of FFmpeg's demuxer."""
        if self.size is None or self.pixel_format is None:
            return {}
        rate = Fraction(25) if self.rate is None else self.rate
        return {
            "video_size": f"{self.size[0]}x{self.size[1]}",
            "pixel_format": self.pixel_format,
            "framerate": f"{rate.numerator}/{rate.denominator}",
        }


class Readable(Protocol):
    """A file that can only be read, from its beginning to its end."""

    def read(self, size: int, /) -> bytes:
        """The next bytes; empty at the end."""


def open_media(
    file: Path | io.BytesIO | Readable,
    metadata_errors: str = "surrogateescape",
    demuxer: Demuxer | None = None,
    allowed: Sequence[str] = ALLOWED,
    hwaccel: HWAccel | None = None,
) -> InputContainer:
    """Opens a file, media in memory or a pipe, for reading. The caller closes the container.

    `metadata_errors` says how text that is not UTF-8 is decoded: by default its bytes are kept. `demuxer` is the format
    that the user names, else the file shows it, and it must be one of `allowed`. `hwaccel` is the device that decodes.
    Raises InputError for a file that is not a single media file, and the errors of FFmpeg and the system.
    """
    name: Any = file_url(file) if isinstance(file, Path) else file
    formats = ",".join(allowed if demuxer is None else [demuxer.name])
    options = {"format_whitelist": formats, "protocol_whitelist": "file", "export_xmp": "1"}  # XMP of MP4 as a tag
    try:
        with log_switched_on():
            container: InputContainer = av.open(
                name, "r", format=None if demuxer is None else demuxer.name, container_options=options,
                options={} if demuxer is None else demuxer.options, metadata_errors=metadata_errors, hwaccel=hwaccel,
            )  # fmt: skip
            return container
    except av.ArgumentError as error:
        log: Any = error.log  # level, name of the demuxer, message
        if log is None or not log[2].startswith("Format not on whitelist"):
            raise
        raise InputError(f"{file} {_refusal(log[1])}") from error


def open_file(
    path: Path,
    metadata_errors: str = "surrogateescape",
    demuxer: Demuxer | None = None,
    hwaccel: HWAccel | None = None,
) -> InputContainer:
    """`open_media` for a file of a user. Raises InputError for whatever cannot be opened."""
    with reading(path):
        if not path.exists():
            if url := url_of(path):
                raise InputError(f"{url} is a URL, and vidsr reads local files only: download it first")
            raise InputError(f"{path} does not exist")
        status = path.stat()
        for is_kind, words in _KINDS:
            if is_kind(status.st_mode):
                raise InputError(f"{path} {words}")
        if not os.access(path, os.R_OK):
            raise InputError(f"{path} cannot be read: permission denied")
        if status.st_size == 0:
            raise InputError(f"{path} is empty")
        try:
            return open_media(path, metadata_errors, demuxer, hwaccel=hwaccel)
        except av.InvalidDataError as error:
            if is_protected_movie(path):
                raise InputError(encrypted(path)) from error
            raise


def _refusal(demuxer: str) -> str:
    """What a file is instead of a video, by the demuxer that FFmpeg chose."""
    if demuxer in _LISTS:
        return f"is {_LISTS[demuxer]} ({demuxer}), not a single media file: give the video itself"
    return f"is not a video that vidsr reads (FFmpeg takes it for {demuxer}): give a video, such as .mp4, .mkv or .ts"
