"""Every kind of side data that FFmpeg knows, on frames and on packets, and what becomes of it.

A loss is reported only if the finished file does not have it either: some kinds reach it by the encoder, by the muxer,
or as messages beside the frames.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import av
from av.packet import Packet

from vidsr.video.frame_data import all_data
from vidsr.video.messages import ENCODER_UUIDS


class Fate(NamedTuple):
    """What a kind of side data is, in words, and whether a result without it lacks something of the input."""

    words: str
    is_loss: bool


def _lost(words: str) -> Fate:
    return Fate(words, is_loss=True)


def _none(reason: str) -> Fate:
    return Fate(reason, is_loss=False)


# By the name in av.sidedata.sidedata.Type, or by the number of FFmpeg's AVFrameSideDataType that PyAV has no name for.
FRAME_KINDS: dict[str, Fate] = {
    "PANSCAN": _none("how old 4:3 televisions crop the image; players ignore it"),
    "A53_CC": _lost("closed captions"),
    "STEREO3D": _lost("the stereoscopic (3D) layout"),
    "MATRIXENCODING": _none("audio, whose packets are copied"),
    "DOWNMIX_INFO": _none("audio, whose packets are copied"),
    "REPLAYGAIN": _none("audio, whose packets are copied"),
    "DISPLAYMATRIX": _lost("the rotation"),
    "AFD": _lost("the active format description"),
    "MOTION_VECTORS": _none("exported by decoders on request, not part of the file"),
    "SKIP_SAMPLES": _none("audio, whose packets are copied"),
    "AUDIO_SERVICE_TYPE": _none("audio, whose packets are copied"),
    "MASTERING_DISPLAY_METADATA": _lost("the HDR mastering display"),
    "GOP_TIMECODE": _none("counts the frames in the headers of MPEG-2; the times of the frames are kept"),
    "SPHERICAL": _lost("the spherical (360 degrees) projection"),
    "CONTENT_LIGHT_LEVEL": _lost("the HDR light levels"),
    "ICC_PROFILE": _lost("the ICC color profile"),
    "S12M_TIMECODE": _lost("the time codes of the frames"),
    "DYNAMIC_HDR_PLUS": _lost("the dynamic metadata of HDR10+"),
    "REGIONS_OF_INTEREST": _none("a request to encoders, not part of the file"),
    "VIDEO_ENC_PARAMS": _none("exported by decoders on request, not part of the file"),
    "SEI_UNREGISTERED": _lost("user data of the frames"),
    "FILM_GRAIN_PARAMS": _lost("the film grain parameters"),
    "DETECTION_BBOXES": _none("made by filters, not part of the file"),
    "DOVI_RPU_BUFFER": _lost("the Dolby Vision metadata"),
    "DOVI_METADATA": _lost("the Dolby Vision metadata"),
    "DYNAMIC_HDR_VIVID": _lost("the dynamic metadata of HDR Vivid"),
    "AMBIENT_VIEWING_ENVIRONMENT": _lost("the ambient viewing environment"),
    "VIDEO_HINT": _none("a request to encoders, not part of the file"),
    "28": _lost("the enhancement layer of LCEVC"),
    "29": _none("the number of the view, of which only the first is read"),
    "30": _lost("the reference displays of 3D video"),
    "31": _lost("the EXIF data of the frames"),
}

# By PyAV's name. What a decoder turns into side data of frames is judged there.
_ON_FRAMES = _none("the decoder passes it on with the frames")
PACKET_KINDS: dict[str, Fate] = {
    "palette": _none("the decoder applies it"),
    "new_extradata": _none("the decoder applies it"),
    "param_change": _none("the decoder applies it"),
    "h263_mb_info": _none("made by encoders for streaming"),
    "replay_gain": _ON_FRAMES,
    "display_matrix": _ON_FRAMES,
    "stereo_3d": _ON_FRAMES,
    "audio_service_type": _ON_FRAMES,
    "quality_stats": _none("statistics of the encoder"),
    "fallback_track": _none("names another audio track; the tracks are copied"),
    "cpb_properties": _none("the buffer of the input's encoder"),
    "skip_samples": _none("audio, whose packets are copied"),
    "jp_dual_mono": _none("audio, whose packets are copied"),
    "strings_metadata": _lost("tags of the packets"),
    "subtitle_position": _none("subtitles, whose packets are copied"),
    "matroska_block_additional": _lost("additional data of the blocks"),
    "webvtt_identifier": _none("subtitles, whose packets are copied"),
    "webvtt_settings": _none("subtitles, whose packets are copied"),
    "metadata_update": _lost("tags that change in the middle of the file"),
    "mpegts_stream_id": _none("the number of the stream in MPEG-TS"),
    "mastering_display_metadata": _ON_FRAMES,
    "spherical": _ON_FRAMES,
    "content_light_level": _ON_FRAMES,
    "a53_cc": _ON_FRAMES,
    "encryption_init_info": _none("what a decryption would need; encrypted video is refused"),
    "encryption_info": _none("encrypted video is refused"),
    "afd": _ON_FRAMES,
    "prft": _lost("the producer's reference times"),
    "icc_profile": _ON_FRAMES,
    "dovi_conf": _lost("the Dolby Vision metadata"),
    "s12m_timecode": _lost("the time codes of the frames"),
    "dynamic_hdr10_plus": _ON_FRAMES,
    "iamf_mix_gain_param": _none("audio, whose packets are copied"),
    "iamf_info_param": _none("audio, whose packets are copied"),
    "iamf_recon_gain_info_param": _none("audio, whose packets are copied"),
    "ambient_viewing_environment": _ON_FRAMES,
    "frame_cropping": _lost("the crop of the container (whole frames are shown)"),
    "lcevc": _lost("the enhancement layer of LCEVC"),
    "3d_reference_displays": _ON_FRAMES,
    "rtcp_sr": _none("the clock of a network stream"),
}

# Side data of a whole stream, which PyAV shows only in FFmpeg's description: FFmpeg's names in small letters.
_HEADER_NAMES = {
    "palette": "palette",
    "new extradata": "new_extradata",
    "param change": "param_change",
    "h263 mb info": "h263_mb_info",
    "replay gain": "replay_gain",
    "display matrix": "display_matrix",
    "stereo 3d": "stereo_3d",
    "audio service type": "audio_service_type",
    "quality stats": "quality_stats",
    "fallback track": "fallback_track",
    "cpb properties": "cpb_properties",
    "skip samples": "skip_samples",
    "jp dual mono": "jp_dual_mono",
    "strings metadata": "strings_metadata",
    "subtitle position": "subtitle_position",
    "matroska blockadditional": "matroska_block_additional",
    "webvtt id": "webvtt_identifier",
    "webvtt settings": "webvtt_settings",
    "metadata update": "metadata_update",
    "mpegts stream id": "mpegts_stream_id",
    "mastering display metadata": "mastering_display_metadata",
    "content light level metadata": "content_light_level",
    "spherical mapping": "spherical",
    "a53 closed captions": "a53_cc",
    "encryption initialization data": "encryption_init_info",
    "encryption info": "encryption_info",
    "active format description data": "afd",
    "producer reference time": "prft",
    "icc profile": "icc_profile",
    "dovi configuration record": "dovi_conf",
    "smpte st 12-1:2014 timecode": "s12m_timecode",
    "hdr10+ dynamic metadata": "dynamic_hdr10_plus",
    "ambient viewing environment": "ambient_viewing_environment",
    "frame cropping": "frame_cropping",
    "lcevc": "lcevc",
    "3d reference displays info": "3d_reference_displays",
    "rtcp sender report": "rtcp_sr",
    "exif metadata": "31",
}

_SIDE_DATA_INDENT = " " * 6

# FFmpeg's display matrix of a frame that is shown as it is; EXIF data gives it to frames.
_UPRIGHT = struct.pack("=9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def kinds_of_frame(frame: av.VideoFrame) -> Iterator[str]:
    """The kinds of side data of a frame, as in FRAME_KINDS."""
    for side in all_data(frame):
        name, data = side.type.name.removeprefix("KIND_"), bytes(side)
        says_nothing = (name == "SEI_UNREGISTERED" and data.startswith(ENCODER_UUIDS)) or (
            name == "DISPLAYMATRIX" and data == _UPRIGHT
        )
        if not says_nothing:
            yield name


def kinds_of_packet(packet: Packet[Any]) -> Iterator[str]:
    """The kinds of side data of a packet, as in PACKET_KINDS."""
    try:
        yield from (side.data_type for side in packet.iter_sidedata())
    except IndexError:  # PyAV has no name for it
        yield "unknown"


def kinds_of_header(description: str, stream: int) -> Iterator[str]:
    """The kinds of packet side data that belong to a whole stream; what has no row above has FFmpeg's name.

    `description` is FFmpeg's, of the whole file.
    """
    _, _, listed = header_block(description, stream).partition("Side data:\n")
    for line in listed.splitlines():
        if not line.startswith(_SIDE_DATA_INDENT):
            return
        text = line.strip()
        known = (kind for name, kind in _HEADER_NAMES.items() if text.lower().startswith(name))
        yield next(known, text.partition(":")[0])


def header_block(description: str, stream: int) -> str:
    """The part of FFmpeg's description of a file that is about one stream; empty if there is none."""
    block = re.search(rf"^\s*Stream #0:{stream}\D.*?(?=^\s*Stream #0:|\Z)", description, re.MULTILINE | re.DOTALL)
    return block[0] if block else ""


def losses(found: Collection[str], kept: Collection[str]) -> list[str]:
    """One sentence for each loss: `found` are the kinds of the input, `kept` those that the finished file has too."""
    words: dict[str, None] = {}
    for kind in sorted(set(found) - set(kept)):
        fate = FRAME_KINDS.get(kind) or PACKET_KINDS.get(kind)
        if fate is None:
            words[f"side data of the kind {kind}"] = None
        elif fate.is_loss:
            words[fate.words] = None
    return [f"the result lacks {what} of the input" for what in words]
