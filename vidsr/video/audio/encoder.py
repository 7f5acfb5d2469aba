"""How stretched sound is encoded: the source's codec where that can be, or what the container suggests. No packets."""

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
_OWN = {"aac": "aac", "opus": "libopus", "flac": "flac", "alac": "alac"}
# Side and back channels have the same place in homes; these encoders know only the second name.
_BACK = {"5.1(side)": "5.1", "5.0(side)": "5.0", "quad(side)": "quad"}
_OPUS_RATE = 48_000
LOSSY_BITS_PER_SECOND = 96_000  # a channel


@dataclass(frozen=True, slots=True)
class AudioEncoding:
    """An encoder that this FFmpeg and the container have accepted. `bit_rate` 0: the encoder has none."""

    encoder: str
    sample_format: str
    layout: str
    rate: int
    bit_rate: int

    def configure(self, context: AudioCodecContext) -> None:
        """Sets an encoder's context that is not yet open."""
        context.sample_rate, context.layout, context.format = self.rate, self.layout, self.sample_format
        context.time_base = Fraction(1, self.rate)
        if self.bit_rate:
            context.bit_rate = self.bit_rate


def choose_audio_encoding(
    codec: str, sample_format: str, layout: str, rate: int, container: str
) -> AudioEncoding | None:
    """The encoding for sound of a codec (FFmpeg's names) in a muxer; None if there is none.

    The rate stays if any encoder takes it. Lossless sound stays lossless where the container can hold that.
    """
    layouts = dict.fromkeys((layout, _BACK.get(layout, layout)))
    for allowed_rate in dict.fromkeys((rate, _OPUS_RATE)):
        for name in _candidates(codec, container):
            for allowed_layout in layouts:
                if name in ("aac", "libopus") and allowed_layout in _BACK:
                    continue
                bits = 0 if name.startswith(LOSSLESS) else _bit_rate(name, allowed_layout, allowed_rate)
                found = AudioEncoding(name, _format(name, sample_format), allowed_layout, allowed_rate, bits)
                if _is_taken(found, container):
                    return found
    return None


def _candidates(codec: str, container: str) -> Iterator[str]:
    own = codec if codec.startswith("pcm_") and _exists(codec) else _OWN.get(codec)
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
    """The encoder's sample format that holds the source's depth."""
    known = [form.name for form in Codec(name, "w").audio_formats or []]
    deep = source.rstrip("p") not in ("u8", "s16")
    order = ("s32", "s32p", "fltp", "flt") if deep and name.startswith(LOSSLESS) else ("fltp", "flt", "s16", "s16p")
    return next((form for form in order if form in known), known[0] if known else "s16")


def _bit_rate(name: str, layout: str, rate: int) -> int:
    channels = av.AudioLayout(layout).nb_channels
    return channels * (min(LOSSY_BITS_PER_SECOND, 6 * rate) if name == "aac" else LOSSY_BITS_PER_SECOND)


def _is_taken(codec: AudioEncoding, container: str) -> bool:
    """True if encoder and muxer both begin without complaint."""
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        stream = cast("AudioStream", trial.add_stream(codec.encoder, rate=codec.rate))
        codec.configure(stream.codec_context)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with suppress(av.FFmpegError):  # some muxers want packets before the end; this is only a trial
            trial.close()
    return True
