"""Messages: data of single frames that lies in the bitstream beside them, such as closed captions.

FFmpeg's encoders take few of them, and PyAV cannot attach any to a frame. So they are read from the side data of
decoded frames, travel with the frames, and are put into the packets that the encoder returns: as supplemental
enhancement information (SEI; ITU-T H.264 and H.265, Annex D). Closed captions and the active format description are
those of ATSC A/53 part 4, section 6.2.3; HDR10+ is SMPTE ST 2094-40.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import av

from vidsr.types import Message
from vidsr.video.frame_data import all_data

# The kinds of side data (see `side_data_kinds`) that become messages.
KINDS = ("A53_CC", "AFD", "SEI_UNREGISTERED", "DYNAMIC_HDR_PLUS", "AMBIENT_VIEWING_ENVIRONMENT")

# User data that x264 and x265 write about themselves; the output's encoder writes its own.
ENCODER_UUIDS = tuple(
    bytes.fromhex(text) for text in ("dc45e9bde6d948b7962cd820d923eeef", "2ca2de09b51747dbbb55a4fe7fc2fc4e")
)

_REGISTERED, _UNREGISTERED, _AMBIENT = 4, 5, 148  # types of SEI payloads
_ATSC = b"\xb5\x00\x31"  # ITU-T T.35: United States, ATSC
_HDR10_PLUS = b"\xb5\x00\x3c\x00\x01\x04"  # ITU-T T.35: United States, Samsung; ST 2094-40, application 4
_MOST_CAPTIONS = 31  # triplets in one message
_START_CODE = re.compile(rb"\x00\x00\x01")
# Of the polynomial that is the checksum of several messages: a Mersenne prime, and any number above 2 ** 32.
_MODULUS, _BASE = (1 << 61) - 1, 0x1F35_7A11_4D5B


@dataclass(frozen=True, slots=True)
class _Syntax:
    """How a codec's bitstream is divided: the length of a unit's header in bytes, and the header of its SEI units."""

    header: int
    sei: int
    foreign: tuple[str, ...] = ()  # kinds that decoders do not look for in this codec

    def kind(self, unit: bytes) -> int:
        """The type of a unit."""
        return unit[0] & 31 if self.header == 1 else unit[0] >> 1 & 63

    def is_image(self, unit: bytes) -> bool:
        """Whether a unit holds a part of the image."""
        return 1 <= self.kind(unit) <= 5 if self.header == 1 else self.kind(unit) < 32

    def sei_header(self, image: bytes) -> bytes:
        """The header of an SEI unit before the first unit of an image."""
        return bytes([self.sei]) if self.header == 1 else bytes([self.sei << 1, image[1]])


_SYNTAX = {"h264": _Syntax(1, 6, ("DYNAMIC_HDR_PLUS",)), "hevc": _Syntax(2, 39)}


def messages_of(frame: av.VideoFrame) -> tuple[Message, ...]:
    """The messages of a decoded frame, in their order."""
    return tuple(
        Message(side.type.name, *(_payload(side.type.name, bytes(side)) or (0, None)))
        for side in all_data(frame)
        if side.type.name in KINDS
        and not (side.type.name == "SEI_UNREGISTERED" and bytes(side).startswith(ENCODER_UUIDS))
    )


def insert(codec: str, packet: bytes, messages: Iterable[Message]) -> bytes:
    """A packet of an encoder (start codes before its units) with messages before the first unit of the image."""
    syntax = _SYNTAX[codec]
    for start in _START_CODE.finditer(packet):
        unit = packet[start.end() : start.end() + 2]
        if syntax.is_image(unit):
            at = start.start() - (packet[start.start() - 1 : start.start()] == b"\0")
            added = (b"\0\0\0\1" + syntax.sei_header(unit) + _escaped(_sei(each)) for each in messages)
            return packet[:at] + b"".join(added) + packet[at:]
    raise RuntimeError(f"a packet of {codec} without an image")


@dataclass(slots=True)
class MessageChecksum:
    """Number and checksum of the messages in packets of a codec (FFmpeg's name), in their order.

    `crc` is a polynomial in the CRC-32 of each message, so that the checksums of two parts of a video can be joined.
    `kinds` are those of all frames, and `dropped` those for some of which there was no place.
    """

    codec: str
    count: int = 0
    crc: int = 0
    kinds: set[str] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)

    def kept(self, messages: Iterable[Message]) -> tuple[Message, ...]:
        """The messages for which there is a place in packets of the codec; the others are noted as dropped."""
        messages = tuple(messages)
        syntax = _SYNTAX.get(self.codec)
        fitting = tuple(each for each in messages if syntax and each.payload and each.kind not in syntax.foreign)
        self.kinds |= {message.kind for message in messages}
        self.dropped |= {message.kind for message in messages if message not in fitting}
        return fitting

    def add(self, messages: Iterable[Message]) -> None:
        """Adds the messages that are put into a packet."""
        for message in messages:
            self._add(message.payload_type, message.payload or b"")

    def add_packet(self, packet: bytes) -> None:
        """Adds the messages that a packet of a file holds."""
        for kind, payload in _payloads(self.codec, packet):
            self._add(kind, payload)

    def join(self, following: MessageChecksum) -> None:
        """Adds all messages of the part of the video that follows."""
        self.count += following.count
        self.crc = (self.crc * pow(_BASE, following.count, _MODULUS) + following.crc) % _MODULUS
        self.kinds |= following.kinds
        self.dropped |= following.dropped

    def _add(self, kind: int, payload: bytes) -> None:
        self.count += 1
        self.crc = (self.crc * _BASE + zlib.crc32(payload, zlib.crc32(bytes([kind])))) % _MODULUS


def _payload(name: str, data: bytes) -> tuple[int, bytes] | None:
    """Type and payload of the SEI message for side data of a frame; None if there is none for it."""
    if name == "A53_CC":
        triplets = len(data) // 3
        if not 0 < triplets <= _MOST_CAPTIONS:
            return None
        return _REGISTERED, _ATSC + b"GA94\x03" + bytes([0x40 | triplets, 0xFF]) + data[: 3 * triplets] + b"\xff"
    if name == "AFD":
        return (_REGISTERED, _ATSC + b"DTG1" + bytes([0x41, 0xF0 | data[0] & 15])) if data else None
    if name == "SEI_UNREGISTERED":
        return (_UNREGISTERED, data) if len(data) >= 16 else None
    if name == "AMBIENT_VIEWING_ENVIRONMENT":
        return _ambient(data)
    return _hdr10_plus(data)


def _ambient(data: bytes) -> tuple[int, bytes] | None:
    """AVAmbientViewingEnvironment: illuminance in lux and the chromaticity x, y of the light, as fractions."""
    if len(data) < 24:
        return None
    numbers = struct.unpack("=6i", data[:24])
    if not all(numbers[1::2]):
        return None
    lux, x, y = (numbers[i] / numbers[i + 1] for i in (0, 2, 4))
    return _AMBIENT, struct.pack(">IHH", round(lux * 10000), round(x * 50000), round(y * 50000))


class _Bits:
    """A string of bits, most significant first."""

    def __init__(self) -> None:
        self._value, self._length = 0, 0

    def put(self, value: int, length: int) -> None:
        """Appends `length` bits."""
        self._value = self._value << length | value & (1 << length) - 1
        self._length += length

    def bytes(self) -> bytes:
        """All bits, filled up with zeros to whole bytes."""
        missing = -self._length % 8
        return (self._value << missing).to_bytes((self._length + missing) // 8, "big")


# Sizes in bytes and offsets in FFmpeg's AVDynamicHDRPlus (hdr_dynamic_metadata.h); its fractions are two integers of 4
# bytes, of which the first is the number in the bitstream.
_HDR_SIZE, _WINDOW, _TARGET, _MASTERING = 11304, 4, 1288, 6300
_MAXSCL, _AVERAGE, _PERCENTILES, _BRIGHT, _TONE, _ANCHORS, _SATURATION = 48, 72, 80, 264, 272, 292, 416


def _hdr10_plus(data: bytes) -> tuple[int, bytes] | None:
    """ST 2094-40 metadata of the whole image; None for several windows, whose places would be those of the input."""
    if len(data) != _HDR_SIZE or data[2] != 1:
        return None
    bits = _Bits()

    def fraction(at: int, length: int) -> None:
        bits.put(struct.unpack_from("=i", data, at)[0], length)

    def peaks(at: int) -> None:
        """Luminances of a display in rows and columns, if they are given."""
        bits.put(data[at], 1)
        if data[at]:
            rows, columns = data[at + 1], data[at + 2]
            bits.put(rows, 5)
            bits.put(columns, 5)
            for row in range(rows):
                for column in range(columns):
                    fraction(at + 4 + 8 * (25 * row + column), 4)

    bits.put(data[1], 8)
    bits.put(1, 2)
    fraction(_TARGET, 27)
    peaks(_TARGET + 8)
    for color in range(3):
        fraction(_WINDOW + _MAXSCL + 8 * color, 17)
    fraction(_WINDOW + _AVERAGE, 17)
    count = data[_WINDOW + _PERCENTILES]
    bits.put(count, 4)
    for number in range(count):
        at = _WINDOW + _PERCENTILES + 4 + 12 * number
        bits.put(data[at], 7)
        fraction(at + 4, 17)
    fraction(_WINDOW + _BRIGHT, 10)
    peaks(_MASTERING)
    bits.put(data[_WINDOW + _TONE], 1)
    if data[_WINDOW + _TONE]:
        fraction(_WINDOW + _TONE + 4, 12)
        fraction(_WINDOW + _TONE + 12, 12)
        anchors = data[_WINDOW + _ANCHORS]
        bits.put(anchors, 4)
        for number in range(anchors):
            fraction(_WINDOW + _ANCHORS + 4 + 8 * number, 10)
    bits.put(data[_WINDOW + _SATURATION], 1)
    if data[_WINDOW + _SATURATION]:
        fraction(_WINDOW + _SATURATION + 4, 6)
    return _REGISTERED, _HDR10_PLUS + bits.bytes()


def _sei(message: Message) -> bytes:
    """An SEI message with the bits that end its unit."""
    head = b""
    payload = message.payload or b""
    for number in (message.payload_type, len(payload)):
        head += b"\xff" * (number // 255) + bytes([number % 255])
    return head + payload + b"\x80"


def _escaped(data: bytes) -> bytes:
    """Data without start codes: a byte 3 stands before each byte up to 3 that follows two zeros."""
    out = bytearray()
    zeros = 0
    for byte in data:
        if zeros >= 2 and byte <= 3:
            out.append(3)
            zeros = 0
        out.append(byte)
        zeros = zeros + 1 if byte == 0 else 0
    return bytes(out)


def _payloads(codec: str, packet: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and payload of each message in a packet whose units have their length before them (MP4, Matroska)."""
    syntax = _SYNTAX[codec]
    at = 0
    while at + 4 < len(packet):
        length = int.from_bytes(packet[at : at + 4], "big")
        unit = packet[at + 4 : at + 4 + length]
        at += 4 + length
        if len(unit) < 2 or syntax.is_image(unit):
            return
        if syntax.kind(unit) == syntax.sei:
            yield from _messages_in(unit[syntax.header :].replace(b"\0\0\3", b"\0\0"))


def _messages_in(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 2 < len(data):
        numbers = []
        for _ in range(2):
            number = 0
            while at < len(data) and data[at] == 255:
                number, at = number + 255, at + 1
            numbers.append(number + (data[at] if at < len(data) else 0))
            at += 1
        kind, length = numbers
        payload = data[at : at + length]
        at += length
        if kind in (_REGISTERED, _AMBIENT) or (kind == _UNREGISTERED and not payload.startswith(ENCODER_UUIDS)):
            yield kind, payload
