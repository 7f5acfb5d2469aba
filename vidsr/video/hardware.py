"""Decoding of video by hardware, through the devices that FFmpeg's own decoders can use.

The decoder copies each frame into memory as nv12 or p010le, with as many bits as the file has, and its tags. Codecs
since H.264 say exactly what a decoder must give; for older ones hardware may round otherwise than software.
"""

from __future__ import annotations

import io

import av
from av.codec.codec import Codec, UnknownCodecError
from av.codec.hwaccel import hwdevices_available
from av.container import InputContainer
from av.video.stream import VideoStream

from vidsr.config import SOFTWARE
from vidsr.errors import DeviceError, VidsrError
from vidsr.types import VideoInfo
from vidsr.video.decoding import acceleration_of
from vidsr.video.demuxers import open_media
from vidsr.video.errors import error_detail, log_switched_on
from vidsr.video.pixel_formats import layout_of
from vidsr.video.probe import Source

# FFmpeg's names of the kinds of devices, in the order in which --decoder auto tries them.
DEVICES = {
    "cuda": "NVIDIA's NVDEC",
    "videotoolbox": "VideoToolbox of macOS",
    "d3d11va": "Direct3D 11 of Windows",
    "vaapi": "VAAPI of Linux",
}
_REMEDY = "use --decoder software, or auto to have what works"


def choose_decoder(wanted: str, source: Source, info: VideoInfo) -> str:
    """What decodes a source: "software", or the kind of a device that has decoded its first frame.

    `wanted` is the value of --decoder. Raises DeviceError if it names a device that cannot decode this video here.
    """
    if wanted == SOFTWARE:
        return SOFTWARE
    if wanted == "auto":
        return next((name for name in DEVICES if problem(name, source, info) is None), SOFTWARE)
    if (reason := problem(wanted, source, info)) is not None:
        raise DeviceError(f"--decoder {wanted} cannot decode {source.path}: {reason}; {_REMEDY}")
    return wanted


def problem(decoder: str, source: Source, info: VideoInfo) -> str | None:
    """Why a device cannot decode a source, by decoding its first frame; None if it can."""
    if type(source) is not Source:
        return "that is for video files, and images and pipes are decoded by software"
    if (reason := missing(decoder, info.codec)) is not None:
        return reason
    try:
        with source.decoded_by(decoder).open_frames() as container, log_switched_on():
            return _trial(container, source.video_of(container), info)
    except av.FFmpegError as error:  # while the frame is decoded
        return f"{decoder} does not work here ({error_detail(error)})"
    except VidsrError as error:
        return str(error)


def missing(decoder: str, codec: str) -> str | None:
    """What this FFmpeg lacks to decode a codec with a device; None if nothing. Asks no hardware."""
    kind = _kind(decoder)
    if kind not in hwdevices_available():
        return f"this FFmpeg is built without {kind}"
    return None if kind in kinds_for(codec) else f"this FFmpeg does not decode {codec} with {kind}"


def kinds_for(codec: str) -> list[str]:
    """The kinds of devices with which this FFmpeg's decoder of a codec can work."""
    try:
        configurations = Codec(codec, "r").hardware_configs
    except UnknownCodecError:
        return []
    found = {each.device_type.name for each in configurations if each.is_supported}
    return [name for name in DEVICES if name in found]


def _trial(container: InputContainer, video: VideoStream, info: VideoInfo) -> str | None:
    if not video.codec_context.is_hwaccel:
        return f"this FFmpeg does not decode its {info.codec} with such a device"
    frame = next(iter(container.decode(video)), None)
    if frame is None:
        return "it gave no frame"
    if (bits := layout_of(frame.format.name).bits) < info.bit_depth:
        return f"it gives {bits} bits instead of {info.bit_depth}"
    return None


def _kind(decoder: str) -> str:
    return decoder.partition(":")[0]


def device_problem(kind: str) -> str | None:
    """Why a kind of device cannot decode H.264 on this machine, by decoding a frame; None if it can."""
    if (reason := missing(kind, "h264")) is not None:
        return reason
    try:
        with open_media(_blank_video(), hwaccel=acceleration_of(kind)) as container:
            frame = next(iter(container.decode(container.streams.video[0])), None)
    except (av.FFmpegError, OSError, RuntimeError) as error:
        return f"{kind} does not work here ({error_detail(error)})"
    return None if frame is not None else "it gave no frame"


def _blank_video() -> io.BytesIO:
    """A video of one black frame, large enough for every device."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 256, 256, "yuv420p"
        container.mux(stream.encode(av.VideoFrame(256, 256, "yuv420p")))
        container.mux(stream.encode())
    file.seek(0)
    return file
