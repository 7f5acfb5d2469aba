"""Video whose frames must not be used as they decode: encrypted, or Dolby Vision whose colors need its metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from vidsr.errors import InputError
from vidsr.video.side_data_kinds import header_block

# AV1 (10) and MV-HEVC (20) are IPT only if no other system can show them, which the compatibility 0 says.
_IPT_ALWAYS, _IPT_IF_INCOMPATIBLE = (5,), (10, 20)
_CONFIGURATION = re.compile(r"DOVI configuration record:.*?profile: (\d+).*?compatibility id: (\d+)")
_TS_PACKET, _TS_SYNC = 188, 0x47
_TS_BYTES = 4 << 20
# The header of a TS packet says in two bits whether its payload is scrambled; packets of stray data may look so too.
_SCRAMBLED_SHARE = 0.25


def is_encrypted(kinds: Iterable[str]) -> bool:
    """Whether the side data of a packet, by its kinds, says that it is encrypted (MP4, MOV)."""
    return "encryption_info" in kinds


def refuse_encrypted(kinds: Iterable[str], path: Path) -> None:
    """Raises InputError if a packet is encrypted. Decoders conceal errors, so that it may seem to decode."""
    if is_encrypted(kinds):
        raise InputError(encrypted(path))


def encrypted(path: Path) -> str:
    """The sentence about an encrypted file."""
    return f"{path} is encrypted, and vidsr does not decrypt: give a copy without encryption or copy protection"


def is_scrambled(path: Path) -> bool:
    """Whether a considerable part of the packets at the start of an MPEG-TS file is scrambled."""
    with path.open("rb") as file:
        data = file.read(_TS_BYTES)
    headers = [data[at : at + 4] for at in range(0, len(data) - 3, _TS_PACKET)]
    scrambled = sum(header[0] == _TS_SYNC and header[3] & 0x80 != 0 for header in headers)
    return scrambled > _SCRAMBLED_SHARE * len(headers)


def refuse_unmapped(description: str, stream: int, path: Path) -> None:
    """Raises InputError for Dolby Vision without a base layer that can be shown without its metadata.

    Its frames are IPT (profile 5), whose colors are wrong as RGB or YCbCr. FFmpeg maps them in the filter libplacebo,
    which PyAV's FFmpeg lacks. `description` is FFmpeg's, of the whole file.
    """
    for found in _CONFIGURATION.finditer(header_block(description, stream)):
        profile, compatibility = int(found[1]), int(found[2])
        if profile in _IPT_ALWAYS or (profile in _IPT_IF_INCOMPATIBLE and not compatibility):
            raise InputError(
                f"{path} is Dolby Vision of profile {profile}, whose colors (IPT) only its own metadata can map: "
                "convert it to HDR10 or SDR first, for example with FFmpeg's filter libplacebo"
            )
