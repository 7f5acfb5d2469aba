"""Trial copies: whether a muxer accepts the packets of a stream, found out by writing a tiny file in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import av
from av.bitstream import BitStreamFilterContext
from av.container.output import OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from vidsr.errors import InputError
from vidsr.video.demuxers import open_media
from vidsr.video.errors import error_detail, log_switched_on
from vidsr.video.verify import PacketChecksum, payload_of

# Encoders of codecs that muxers list, for each type of stream.
_LISTED = {"audio": ("aac", "libopus"), "video": ("mjpeg", "png"), "subtitle": ("mov_text", "subrip", "webvtt")}

_EMPTY_STSD = 16  # bytes of the box with no entry


def add_copy(output: OutputContainer, stream: Stream) -> Stream:
    """Adds a stream for the packets of `stream` to an output. Raises ValueError if it is of no type that can be copied.

    PyAV adds only codecs that the muxer lists. Matroska also holds those of AVI and ASF files (WMA, ADPCM, G.711),
    which only writing its header shows. For them a stream of a listed codec is given the parameters of the source.
    """
    try:
        return output.add_stream_from_template(stream, opaque=True)
    except ValueError:
        target = _listed_stream(output, stream.type)
    BitStreamFilterContext("null", stream, target)  # copies the parameters
    target.time_base = stream.time_base
    target.codec_context.codec_tag = "\0\0\0\0"  # the muxer chooses its own
    return target


def _listed_stream(output: OutputContainer, kind: str) -> Stream:
    for encoder in _LISTED.get(kind, ()):
        with av.open(io.BytesIO(), "w", format="nut") as other, suppress(ValueError):
            return output.add_stream_from_template(other.add_stream(encoder), opaque=True)
    raise ValueError(f"streams of type {kind} cannot be copied to {output.format.name}")


def mux_refusal(stream: Stream, packets: Sequence[Packet[Any]], container: str) -> str | None:
    """Why a muxer refuses a copy of a stream, in a few words; None if it accepts it. `packets` are its first ones.

    Some muxers refuse at the header, others at a packet or at the end, and some write audio that cannot be decoded. The
    copies begin at 0, as those of a run do, whatever the clock of the input says.
    """
    memory = io.BytesIO()
    times = [time for packet in packets for time in (packet.dts, packet.pts) if time is not None]
    start = min(times, default=0)
    trial = av.open(memory, "w", format=container)
    try:
        with log_switched_on():
            target = add_copy(trial, stream)
            trial.start_encoding()
            refusals = [_packet_refusal(trial, target, twin, start) for twin in _twins(stream, packets)]
            trial.close()
    except av.FFmpegError as error:
        return error_detail(error)
    except ValueError:
        return "this codec is not part of the format"
    finally:
        with suppress(av.FFmpegError):  # some muxers refuse to close without packets
            trial.close()
    if packets and all(refusals):
        return refusals[0]
    accepted = [packet for packet, refusal in zip(packets, refusals, strict=True) if refusal is None]
    if stream.type == "data":
        return _description_refusal(memory)
    return _decoding_refusal(stream, accepted, memory) if stream.type == "audio" else None


def _description_refusal(memory: io.BytesIO) -> str | None:
    """A reason if the table that describes the samples of an MP4 or MOV file (stsd) is empty, else None.

    FFmpeg writes such tables for data that it does not know, such as that of phones (mebx), whose samples then mean
    nothing any more.
    """
    data = memory.getvalue()
    at = data.find(b"stsd")
    is_empty = at >= 4 and int.from_bytes(data[at - 4 : at], "big") == _EMPTY_STSD
    return "what describes its samples in the header cannot be copied" if is_empty else None


def twin_of(packet: Packet[Any]) -> Packet[Any]:
    """A packet with the same data and times, which can be changed."""
    twin: Packet[Any] = Packet(bytes(packet))
    twin.time_base, twin.pts, twin.dts, twin.duration = packet.time_base, packet.pts, packet.dts, packet.duration or 0
    twin.is_keyframe = packet.is_keyframe
    return twin


def _twins(stream: Stream, packets: Sequence[Packet[Any]]) -> list[Packet[Any]]:
    """Twins of packets; audio without a duration lasts until the next packet, as in a run."""
    twins = [twin_of(packet) for packet in packets]
    step = 1
    for twin, following in zip(twins, [*twins[1:], None], strict=True):
        if following is not None and twin.dts is not None and following.dts is not None:
            step = max(1, following.dts - twin.dts)
        if stream.type == "audio":
            twin.duration = twin.duration or step
    return twins


def _packet_refusal(trial: OutputContainer, target: Stream, twin: Packet[Any], start: int) -> str | None:
    """Muxes a packet `start` ticks earlier; returns why it is refused if a run would go on without it.

    Otherwise raises FFmpegError.
    """
    twin.pts, twin.dts = (None if time is None else time - start for time in (twin.pts, twin.dts))
    twin.stream = target
    try:
        trial.mux_one(twin)
    except (av.InvalidDataError, av.ArgumentError) as error:
        return error_detail(error)
    return None


def _decoding_refusal(stream: Stream, packets: Sequence[Packet[Any]], memory: io.BytesIO) -> str | None:
    """A reason if the packets can be decoded, but not their copies, or if the copies are other packets.

    FFmpeg's parsers join or drop damaged packets in some containers, and not in others.
    """
    context: Any = stream.codec_context
    if context is None or not packets:
        return None
    memory.seek(0)
    try:
        with open_media(memory) as copy:
            found = [packet for packet in copy.demux(copy.streams[0]) if packet.size]
            if any(map(_decodes, packets)) and not any(map(_decodes, found)):
                return "it cannot be decoded again there"
    except (av.FFmpegError, InputError, IndexError):
        return "it cannot be decoded again there"
    codec = context.codec.canonical_name
    wanted, read = (PacketChecksum("audio", "", codec, {}, Disposition(0)) for _ in range(2))
    for checksum, given in ((wanted, packets), (read, found)):
        for packet in given:
            checksum.add(payload_of(codec, bytes(packet)))
    return "it is damaged, and would be read back otherwise" if wanted.differs_from(read) else None


def _decodes(packet: Packet[Any]) -> bool:
    try:
        return bool(packet.decode())
    except (av.FFmpegError, ValueError):
        return False
