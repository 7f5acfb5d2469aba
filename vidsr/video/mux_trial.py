"""Trial of a whole output: a tiny file in memory with the same streams, tags and chapters, made before any frame.

Some muxers refuse a stream at its header, others a packet, a tag or a combination only at the end, after all the work.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import av
from av.packet import Packet

from vidsr.errors import OutputError
from vidsr.files import MUXERS, PIPE_MUXERS
from vidsr.runtime.priority import ordinary_scheduling
from vidsr.video.containers import muxer_of, open_output
from vidsr.video.copy_trial import mux_refusal
from vidsr.video.encoder import acceleration, encode_blank
from vidsr.video.errors import error_detail, log_switched_on
from vidsr.video.muxer import Muxer
from vidsr.video.passthrough import Part
from vidsr.video.probe import Source
from vidsr.video.side_data_kinds import kinds_of_packet
from vidsr.video.stream_copy import codec_of
from vidsr.video.unreadable import is_encrypted, protected_streams

if TYPE_CHECKING:
    from vidsr.video.output import OutputPlan

_ENDINGS = (".mkv", ".mov", ".mp4", ".webm")  # in the order in which they are recommended
_SIDE = 256
Packets: TypeAlias = "dict[int, list[Packet[Any]]]"  # the first ones of each stream


def refused_parts(plan: OutputPlan) -> tuple[Part, ...]:
    """The parts of the input that the muxer refuses. Raises OutputError if it refuses the video alone."""
    source = plan.source
    packets = source.first_packets()
    plan = _small(plan)
    plan = replace(plan, refused=_refused_copies(plan, source, packets))
    parts = _parts(plan)
    if _refusal(plan, packets) is None:
        return plan.refused
    reason = _video_refusal(plan, muxer_of(plan.target))
    if reason is not None:
        others = " or ".join(_others(plan, plan.target.suffix))
        raise OutputError(
            f"{plan.target} cannot be written: {muxer_of(plan.target)} refuses the output of {plan.encoding.codec} "
            f"({reason}); choose another --codec{f' or write {others}' if others else ''}"
        )
    reason = _refusal(replace(plan, refused=(*plan.refused, *parts)), packets)
    if reason is not None:
        raise OutputError(f"{plan.target} cannot be written: {reason}; choose another container")
    return (*plan.refused, *_search(plan, parts, packets))


def _small(plan: OutputPlan) -> OutputPlan:
    """The plan at a size that is encoded at once, if the encoder takes it; muxers do not depend on the size."""
    encoding = plan.encoding
    encoding = replace(encoding, width=min(encoding.width, _SIDE), height=min(encoding.height, _SIDE))
    small = replace(plan, encoding=encoding)
    return small if _video_refusal(small, muxer_of(plan.target)) is None else plan


def _refused_copies(plan: OutputPlan, source: Source, packets: Packets) -> tuple[Part, ...]:
    """The streams that the muxer does not accept as they are."""
    container = muxer_of(plan.target)
    found = []
    protected = protected_streams(plan.info.container, source.path, source.head)
    with source.open() as opened:
        for stream in opened.streams:
            if stream.index == plan.info.video_stream or stream.type == "attachment":
                continue
            first = packets.get(stream.index, [])
            if stream.index in protected or any(is_encrypted(kinds_of_packet(packet)) for packet in first):
                found.append(Part("stream", str(stream.index), "it is encrypted, and vidsr does not decrypt"))
                continue
            reason = mux_refusal(stream, first, container)
            if reason is None:
                continue
            if stream.codec_context is None and stream.type != "data":
                found.append(Part("copy", str(stream.index), "FFmpeg does not know its codec"))
                continue
            # A data stream without a known codec, such as those of phones, depends on parts of its file's header.
            is_opaque = stream.type == "data" and codec_of(stream) == "unknown"
            others = [] if is_opaque else _others(plan, plan.target.suffix)
            fitting = [ending for ending in others if mux_refusal(stream, first, MUXERS[ending]) is None]
            advice = f"; write {' or '.join(fitting[:2])} to keep it" if fitting else ""
            found.append(Part("copy", str(stream.index), f"{container} cannot hold it ({reason}){advice}"))
    return tuple(found)


def _others(plan: OutputPlan, ending: str) -> list[str]:
    """The extensions of other containers that hold the output of the plan's encoder, the best ones first."""
    others = [other for other in _ENDINGS if MUXERS[other] != (MUXERS | PIPE_MUXERS)[ending.lower()]]
    if plan.options.codec == "auto":
        return others  # every container has a default encoder
    return [other for other in others if _video_refusal(plan, MUXERS[other]) is None]


def _search(plan: OutputPlan, parts: Sequence[Part], packets: Packets) -> list[Part]:
    """Which of `parts` have to be left out of the output: found by halving."""
    reason = _refusal(plan, packets)
    if reason is None:
        return []
    if len(parts) == 1:
        return [replace(parts[0], reason=f"{muxer_of(plan.target)} refuses it ({reason})")]
    first, second = parts[: len(parts) // 2], parts[len(parts) // 2 :]
    refused = _search(replace(plan, refused=(*plan.refused, *second)), first, packets)
    return refused + _search(replace(plan, refused=(*plan.refused, *refused)), second, packets)


def _parts(plan: OutputPlan) -> list[Part]:
    muxer = Muxer(io.BytesIO(), plan)
    try:
        return muxer.copies.parts
    finally:
        muxer.close()


def _video_refusal(plan: OutputPlan, muxer: str) -> str | None:
    """Why a muxer refuses the output of the plan's encoder alone; None if it accepts it."""
    encoding = plan.encoding
    output = open_output(io.BytesIO(), muxer, encoding.time_base)
    try:
        video: Any = output.add_stream(encoding.codec, rate=encoding.rate, hwaccel=acceleration(encoding.codec))
        encoding.configure(video.codec_context)
        video.time_base = encoding.time_base
        with log_switched_on(), ordinary_scheduling():
            output.start_encoding()
        packets = encode_blank(video.codec_context, encoding)
        with log_switched_on():
            for packet in packets:
                packet.stream = video
                output.mux_one(packet)
            output.close()
    except av.FFmpegError as error:
        return error_detail(error)
    except ValueError:
        return "this codec is not part of the format"
    finally:
        with suppress(av.FFmpegError):
            output.close()
    return None


def _refusal(plan: OutputPlan, packets: Packets) -> str | None:
    """Why the muxer refuses the output; None if it accepts it."""
    muxer = Muxer(io.BytesIO(), plan)
    try:
        with log_switched_on():
            muxer.begin()
        encoded = encode_blank(muxer.context, plan.encoding)
        with log_switched_on():
            muxer.try_out(encoded, packets)
    except (av.FFmpegError, ValueError, OverflowError) as error:
        return error_detail(error)
    finally:
        muxer.close()
    return None
