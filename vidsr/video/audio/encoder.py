"""Choice of the encoder for stretched audio: the source's codec if possible, else one that the container supports."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.codec.codec import Codec, UnknownCodecError

LOSSLESS = ("pcm_", "flac", "alac", "wavpack", "tta", "ape", "mlp", "truehd", "tak", "shorten")
_SAME_CODEC = {"aac": "aac", "opus": "libopus", "flac": "flac", "alac": "alac"}
# Layouts that aac and libopus do not accept, with equivalents: at home, side and back speakers are in the same place.
_BACK = {"5.1(side)": "5.1", "5.0(side)": "5.0", "quad(side)": "quad"}
_OPUS_RATE = 48_000
LOSSY_BITS_PER_SECOND = 96_000  # per channel


@dataclass(frozen=True, slots=True)
class AudioEncoding:
    """Settings of an audio encoder, accepted by this FFmpeg and by the container. A `bit_rate` of 0 sets none."""

    encoder: str
    sample_format: str
    layout: str
    rate: int
    bit_rate: int

    def configure(self, context: AudioCodecContext) -> None:
        """Applies the settings to an encoder context that is not open yet."""
        context.sample_rate, context.layout, context.format = self.rate, self.layout, self.sample_format
        context.time_base = Fraction(1, self.rate)
        if self.bit_rate:
            context.bit_rate = self.bit_rate


def choose_audio_encoding(
    codec: str, sample_format: str, layout: str, rate: int, container: str
) -> AudioEncoding | None:
    """The encoding of audio for a muxer; None if it supports none. All names are FFmpeg's; `codec` is the source's.

    The sample rate is kept if any encoder accepts it. Lossless audio stays lossless if the container supports that.
    """
    layouts = dict.fromkeys((layout, _BACK.get(layout, layout)))
    for allowed_rate in dict.fromkeys((rate, _OPUS_RATE)):
        for name in _candidates(codec, container):
            for allowed_layout in layouts:
                if name in ("aac", "libopus") and allowed_layout in _BACK:
                    continue
                bits = 0 if name.startswith(LOSSLESS) else _bit_rate(name, allowed_layout, allowed_rate)
                encoding = AudioEncoding(name, _format(name, sample_format), allowed_layout, allowed_rate, bits)
                if _is_accepted(encoding, container):
                    return encoding
    return None


def _candidates(codec: str, container: str) -> Iterator[str]:
    own = codec if codec.startswith("pcm_") and _exists(codec) else _SAME_CODEC.get(codec)
    if own is not None:
        yield own
    if codec.startswith(LOSSLESS):
        yield from ("flac", "alac")
    yield from ("libopus", "aac") if container in ("matroska", "webm") else ("aac", "libopus")
    yield from ("flac", "alac")


def _exists(name: str) -> bool:
    try:
        Codec(name, "w")
    except UnknownCodecError:
        return False
    return True


def _format(name: str, source: str) -> str:
    """A sample format of the encoder that holds the source's bit depth."""
    supported = [item.name for item in Codec(name, "w").audio_formats or []]
    deep = source.rstrip("p") not in ("u8", "s16")
    order = ("s32", "s32p", "fltp", "flt") if deep and name.startswith(LOSSLESS) else ("fltp", "flt", "s16", "s16p")
    return next((item for item in order if item in supported), supported[0] if supported else "s16")


def _bit_rate(name: str, layout: str, rate: int) -> int:
    channels = av.AudioLayout(layout).nb_channels
    return channels * (min(LOSSY_BITS_PER_SECOND, 6 * rate) if name == "aac" else LOSSY_BITS_PER_SECOND)


def _is_accepted(codec: AudioEncoding, container: str) -> bool:
    """True if the encoder opens and the muxer writes its header."""
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        stream = cast("AudioStream", trial.add_stream(codec.encoder, rate=codec.rate))
        codec.configure(stream.codec_context)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError):  # some muxers refuse to close without packets
            trial.close()
    return True
