"""Data beside the frames in the bitstream: read from the input, put into the output's packets, and compared there."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import media
from vidsr.config import ComputeConfig, OutputConfig, SizeConfig, SlowmoConfig, UpscaleConfig
from vidsr.errors import CheckError
from vidsr.pipeline.run import enhance
from vidsr.types import Message
from vidsr.video.messages import MessageChecksum, insert

BICUBIC = UpscaleConfig(compute=ComputeConfig(model="bicubic"), size=SizeConfig(scale=1), strict=True)
COUNT = 12
X265 = ("-c:v", "libx265", "-x265-params", "log-level=none:pools=none:bframes=0", "-pix_fmt", "yuv420p")
PLACE = bytes(range(16)) + b"a place"  # a UUID, and user data


def payloads(number: int) -> dict[str, tuple[int, bytes]]:
    """SEI type and payload of each kind for a frame, made by hand from the standards."""
    captions = bytes([0xFC, 0x94, 0x20 + number, 0xFD, 0x80, 0x80])
    # ST 2094-40: version 1, one window, 500 cd/m2, maxscl, average, two percentiles, bright pixels, a curve of two
    # anchors, and a color saturation.
    numbers = ((1, 8), (1, 2), (500, 27), (0, 1), (3000, 17), (4000, 17), (5000 + number, 17), (900, 17), (2, 4))
    numbers += ((1, 7), (7, 17), (99, 7), (99000, 17), (12, 10), (0, 1), (1, 1), (17, 12), (2000, 12), (2, 4))
    numbers += ((300, 10), (700, 10), (1, 1), (5, 6))
    bits = "".join(f"{value:0{length}b}" for value, length in numbers)
    bits += "0" * (-len(bits) % 8)
    hdr = int(bits, 2).to_bytes(len(bits) // 8, "big")
    return {
        "A53_CC": (4, b"\xb5\0\x31GA94\x03\x42\xff" + captions + b"\xff"),
        "AFD": (4, b"\xb5\0\x31DTG1\x41" + bytes([0xF0 | 8 + number % 3])),
        "SEI_UNREGISTERED": (5, PLACE + bytes([number])),
        "DYNAMIC_HDR_PLUS": (4, b"\xb5\0\x3c\0\x01\x04" + hdr),
        "AMBIENT_VIEWING_ENVIRONMENT": (148, b"\0\x2f\xaf\0" + b"\x3d\x13\x40\x42"),
    }


def carrying(path: Path, kinds: tuple[str, ...], codec: str = "h264") -> Path:
    """A video without reordering; each frame carries the payloads of `kinds`."""
    plain, made = path.with_name(f"plain.{codec}"), path.with_name(f"made.{codec}")
    media.clip(plain, COUNT, options=(*media.X264, "-bf", "0") if codec == "h264" else X265)
    data, parts, number = plain.read_bytes(), [], 0
    units = [match.start() for match in re.finditer(b"\0\0\1", data)]
    for begin, end in pairwise([*units, len(data)]):
        head = data[begin + 3 : begin + 6]
        if head[0] & 31 in (1, 5) if codec == "h264" else (head[0] >> 1 & 63 < 32 and head[2] & 0x80):
            for kind in kinds:
                sei, payload = payloads(number)[kind]
                start = b"\0\0\1\x06" if codec == "h264" else b"\0\0\1\x4e\x01"
                body = bytes([sei, len(payload)]) + payload + b"\x80"
                parts.append(start + re.sub(rb"\0\0(?=[\0-\3])", b"\0\0\3", body))
            number += 1
        parts.append(data[begin:end])
    assert number == COUNT
    made.write_bytes(b"".join(parts))
    media.ffmpeg("-framerate", "25", "-i", f"file:{made}", "-c", "copy", f"file:{path}")
    plain.unlink()
    made.unlink()
    return path


def found(path: Path, kinds: tuple[str, ...]) -> list[dict[str, bytes]]:
    """The side data of every frame, in the order in which the frames are shown, as FFmpeg's decoder gives it."""
    with av.open(str(path)) as container:
        return [
            {
                name: bytes(side)
                for side in frame.side_data
                if (name := side.type.name) in kinds and (name != "SEI_UNREGISTERED" or PLACE in bytes(side))
            }
            for frame in container.decode(video=0)
        ]


BOTH = ("A53_CC", "AFD", "SEI_UNREGISTERED")


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
@pytest.mark.parametrize(
    ("codec", "encoder", "kinds"),
    [
        ("h264", "libx264", BOTH),
        ("h264", "libx265", BOTH),
        ("hevc", "libx264", BOTH),
        ("hevc", "libx265", (*BOTH, "DYNAMIC_HDR_PLUS", "AMBIENT_VIEWING_ENVIRONMENT")),
    ],
)
def test_every_frame_keeps_its_own(
    tmp_path: Path, ending: str, codec: str, encoder: str, kinds: tuple[str, ...]
) -> None:
    """Both encoders store frames in another order than they are shown; --strict allows no loss."""
    source, target = carrying(tmp_path / f"a.{ending}", kinds, codec), tmp_path / f"b.{ending}"
    wanted = found(source, kinds)
    assert all(set(each) == set(kinds) for each in wanted)
    assert wanted[0]["A53_CC"] != wanted[1]["A53_CC"]
    report = enhance(source, target, replace(BICUBIC, output=OutputConfig(codec=encoder)))
    assert report.frames_out == COUNT and report.warnings == []
    assert found(target, kinds) == wanted


def test_slow_motion_keeps_captions_at_their_frames(tmp_path: Path) -> None:
    source, target = carrying(tmp_path / "a.mp4", ("A53_CC",)), tmp_path / "b.mp4"
    report = enhance(source, target, SlowmoConfig(compute=ComputeConfig(precision="fp32")))
    assert not any("captions" in warning for warning in report.warnings)
    given, slow = found(source, ("A53_CC",)), found(target, ("A53_CC",))
    assert slow[::2] == given and not any(slow[1::2])


def test_deinterlaced_video_keeps_captions(tmp_path: Path) -> None:
    """DVDs and broadcasts: MPEG-2 keeps captions in the user data of its frames."""
    captioned = carrying(tmp_path / "a.mp4", ("A53_CC",))
    source = tmp_path / "a.mpg"
    field_coded = ("-c:v", "mpeg2video", "-a53cc", "1", "-flags", "+ildct+ilme", "-vf", "setfield=tff", "-q:v", "3")
    media.ffmpeg("-i", f"file:{captioned}", *field_coded, f"file:{source}")
    wanted = found(source, ("A53_CC",))
    assert all(wanted)
    report = enhance(source, tmp_path / "b.mkv", replace(BICUBIC, strict=False))
    assert any("interlaced" in warning for warning in report.warnings)
    assert found(tmp_path / "b.mkv", ("A53_CC",)) == wanted


@pytest.mark.parametrize(("encoder", "ending"), [("libvpx-vp9", "webm"), ("ffv1", "mkv"), ("libsvtav1", "mp4")])
def test_other_codecs_have_no_place_for_them(tmp_path: Path, encoder: str, ending: str) -> None:
    source = carrying(tmp_path / "a.mp4", BOTH)
    config = replace(BICUBIC, output=OutputConfig(codec=encoder), strict=False)
    warnings = enhance(source, tmp_path / f"b.{ending}", config).warnings
    for words in ("closed captions", "the active format description", "user data of the frames"):
        assert f"the result lacks {words} of the input" in warnings


def test_hdr10_plus_has_no_place_in_h264(tmp_path: Path) -> None:
    """FFmpeg reads it from H.265 only, so it would be lost for players, too."""
    source = carrying(tmp_path / "a.mp4", ("DYNAMIC_HDR_PLUS",), "hevc")
    warnings = enhance(source, tmp_path / "b.mp4", replace(BICUBIC, strict=False)).warnings
    assert "the result lacks the dynamic metadata of HDR10+ of the input" in warnings


def test_a_file_without_them_fails_its_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = carrying(tmp_path / "a.mp4", ("A53_CC",))

    def altered(codec: str, packet: bytes, messages: tuple[Message, ...]) -> bytes:
        return insert(codec, packet, [replace(each, payload=b"\xb5\0\x31GA94\x03\x40\xff\xff") for each in messages])

    for broken in (altered, lambda codec, packet, messages: packet):
        monkeypatch.setattr("vidsr.video.encoder.insert", broken)
        with pytest.raises(CheckError, match="other data beside its frames"):
            enhance(source, tmp_path / "b.mp4", BICUBIC)
        assert not (tmp_path / "b.mp4").exists()


def _annex_b(codec: str) -> bytes:
    """An SEI unit and the beginning of an image."""
    other = b"\0\0\0\1\x06\x01\x01\x99\x80" if codec == "h264" else b"\0\0\0\1\x4e\x01\x01\x01\x99\x80"
    image = b"\0\0\0\1\x65\x88\x84" if codec == "h264" else b"\0\0\0\1\x26\x01\xaf\x1d"
    return other + image


def _with_lengths(data: bytes) -> bytes:
    """Start codes replaced by lengths, as in MP4 and Matroska."""
    units = [unit.rstrip(b"\0") if unit else unit for unit in data.split(b"\0\0\0\1")[1:]]
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


Insert = Callable[[str, bytes, list[Message]], bytes]


@pytest.mark.parametrize("codec", ["h264", "hevc"])
@given(st.lists(st.binary(min_size=1, max_size=600) | st.integers(1, 600).map(bytes), min_size=1, max_size=4))
def test_any_bytes_are_found_again(codec: str, contents: list[bytes]) -> None:
    """Zeros that look like start codes, and payloads above 255 bytes."""
    messages = [Message("SEI_UNREGISTERED", 4, content) for content in contents]
    data = insert(codec, _annex_b(codec), messages)
    assert len(re.findall(b"\0\0\1", data)) == 2 + len(messages)
    written, read = MessageChecksum(codec), MessageChecksum(codec)
    written.add(messages)
    read.add_packet(_with_lengths(data))
    assert (read.count, read.crc) == (written.count, written.crc) and read.count == len(messages)
