"""What was copied of one stream: how many packets, and a checksum of their contents. Reads and writes no files."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from fractions import Fraction

from av.stream import Disposition

# Muxers or demuxers cut these into other packets than they were given; the bytes in a row stay the same.
_RECUT = ("pcm_", "adpcm_", "eac3", "truehd", "mlp", "hdmv_pgs")


@dataclass(slots=True)
class Tally:
    """One stream's packets. `kind`: audio, subtitle, data, cover or attachment; `name` is for messages.

    `seconds`, of stretched sound only: when it must begin and end in the output.
    """

    kind: str
    name: str
    codec: str
    tags: dict[str, str]
    disposition: Disposition
    packets: int = field(default=0)
    size: int = field(default=0)
    checksum: int = field(default=0)
    seconds: tuple[Fraction, Fraction] | None = None

    def add(self, payload: bytes) -> None:
        """Counts a packet; empty ones (the pauses of mov_text, which muxers make as they need) do not count."""
        if payload:
            self.packets += 1
            self.size += len(payload)
            self.checksum = zlib.crc32(payload, self.checksum)

    def differs_from(self, other: Tally) -> str | None:
        """What is not the same, in words; None if the contents are the same."""
        if self.packets != other.packets and not self.codec.startswith(_RECUT):
            return f"{other.packets} packets instead of {self.packets}"
        if self.size != other.size:
            return f"{other.size} bytes instead of {self.size}"
        return None if self.checksum == other.checksum else "other contents"


def payload_of(codec: str, data: bytes) -> bytes:
    """The part of a packet that every container keeps: AAC without its ADTS header, no empty mov_text."""
    if codec == "aac" and len(data) > 9 and data[0] == 0xFF and data[1] & 0xF6 == 0xF0:
        return data[7 if data[1] & 1 else 9 :]
    return b"" if codec == "mov_text" and data[:2] == b"\0\0" else data
