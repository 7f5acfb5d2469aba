"""Verification of finished files: intact ones pass, and every kind of difference is found."""

from __future__ import annotations

from array import array
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.stream import Disposition

from tests.support import media
from vidsr.errors import CheckError
from vidsr.video.verify import Expected, PacketChecksum, payload_of, verify


def expected_of(path: Path) -> Expected:
    """The contents that `verify` should find in a file, read independently of it."""
    listing = media.ffmpeg_packetmd5(path, "v:0")
    checksum = PacketChecksum("audio", "the audio", "aac", {}, Disposition(0))
    with av.open(str(path)) as container:
        size = (container.streams.video[0].width, container.streams.video[0].height)
        for packet in container.demux(audio=0):
            checksum.add(bytes(packet))
    return Expected(array("q", sorted(f.pts for f in listing.frames)), listing.time_base, size, [checksum], {})


def test_intact_file_passes(tmp_path: Path) -> None:
    path = media.clip_with_audio(tmp_path / "video.mkv")
    assert verify(path, "video.mkv", expected_of(path)) == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("frame", "19 frames instead of 20|20 frames instead of 21"),
        ("time", "frame 3 is at 0.12"),
        ("size", "64x48 instead of 66x48"),
        ("packet", "bytes instead of"),
        ("content", "other contents"),
        ("stream", "copy of the subtitles is missing"),
    ],
)
def test_differences_are_found(tmp_path: Path, fault: str, words: str) -> None:
    path = media.clip_with_audio(tmp_path / "video.mkv")
    good = expected_of(path)
    if fault == "frame":
        good.times.append(good.times[-1] + 40)
    elif fault == "time":
        good.times[3] += 1
    elif fault == "packet":
        good.checksums[0].add(b"more")
    elif fault == "content":
        good.checksums[0].crc ^= 1
    elif fault == "stream":
        good.checksums.append(PacketChecksum("subtitle", "the subtitles", "subrip", {}, good.checksums[0].disposition))
        good.checksums[-1].add(b"text")
    size = (66, 48) if fault == "size" else good.size
    with pytest.raises(CheckError, match=words):
        verify(path, "video.mkv", Expected(good.times, good.time_base, size, good.checksums, {}))


@pytest.mark.parametrize("fault", ["none", "time", "duration"])
def test_times_of_subtitles_are_compared(tmp_path: Path, fault: str) -> None:
    path = media.subtitled(tmp_path / "video.mkv")
    listing = media.ffmpeg_packetmd5(path, "v:0")
    checksum = PacketChecksum("subtitle", "the subtitles", "subrip", {}, Disposition(0))
    with av.open(str(path)) as container:
        for number, packet in enumerate(container.demux(subtitles=0)):
            later = number == 1
            moment = (
                (packet.pts or 0) + (later and fault == "time"),
                (packet.duration or 0) + (later and fault == "duration"),
            )
            checksum.add(bytes(packet), moment)
    times = array("q", sorted(frame.pts for frame in listing.frames))
    expected = Expected(times, listing.time_base, (64, 48), [checksum], {})
    if fault == "none":
        assert verify(path, "video.mkv", expected) == []
        return
    with pytest.raises(CheckError, match="the subtitles has packet 1 at 500 for 200 ticks instead of"):
        verify(path, "video.mkv", expected)


def test_damaged_last_frame_is_found(tmp_path: Path) -> None:
    path = media.clip(tmp_path / "video.mp4")
    listing = media.ffmpeg_packetmd5(path, "v:0")
    expected = Expected(array("q", sorted(f.pts for f in listing.frames)), listing.time_base, (64, 48), [], {})
    assert verify(path, "video.mp4", expected) == []
    with av.open(str(path)) as container:
        last = [(p.pos, p.size) for p in container.demux(video=0) if p.size][-1]
    data = bytearray(path.read_bytes())
    data[last[0] : last[0] + last[1]] = bytes(last[1])
    path.write_bytes(data)
    with pytest.raises(CheckError, match=r"cannot be read back|last frame"):
        verify(path, "video.mp4", expected)


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        (Fraction(0), Fraction(4, 5), ""),
        (Fraction(1, 10), Fraction(9, 10), "begins at 0.000 s instead of 0.100 s"),
        (Fraction(0), Fraction(1), "ends at 0.8.. s instead of 1.000 s"),
        (Fraction(-1, 2), Fraction(4, 5), "begins at 0.000 s instead of -0.500 s"),
    ],
)
def test_times_of_stretched_audio_are_checked(tmp_path: Path, begin: Fraction, end: Fraction, words: str) -> None:
    path = media.clip_with_audio(tmp_path / "video.mkv")
    good = expected_of(path)
    good.checksums[0].seconds = (begin, end)
    if not words:
        assert verify(path, "video.mkv", good) == []
        return
    with pytest.raises(CheckError, match=words):
        verify(path, "video.mkv", good)


def test_gap_in_stretched_audio_is_found(tmp_path: Path) -> None:
    """A gap of 0.4 s in the middle is found by the decoded length alone."""
    whole = media.clip_with_audio(tmp_path / "whole.mkv", count=40)
    path = tmp_path / "video.mkv"
    with av.open(str(whole)) as source, av.open(str(path), "w") as cut:
        streams = {s.index: cut.add_stream_from_template(s) for s in source.streams}
        for packet in source.demux():
            if packet.size and not (packet.stream.type == "audio" and 400 <= (packet.pts or 0) < 800):
                packet.stream = streams[packet.stream_index]
                cut.mux(packet)
    good = expected_of(path)
    assert verify(path, "video.mkv", good) == []
    good.checksums[0].seconds = (Fraction(0), Fraction(8, 5))
    with pytest.raises(CheckError, match=r"has a length of 1\.2"):
        verify(path, "video.mkv", good)


def test_payload_is_without_container_headers() -> None:
    assert payload_of("aac", bytes([0xFF, 0xF1, 0x50, 0x80, 2, 0x1F, 0xFC]) + b"audio") == b"audio"
    assert payload_of("aac", bytes([0xFF, 0xF0, 0x50, 0x80, 2, 0x1F, 0xFC, 1, 2]) + b"audio") == b"audio"
    damaged_layer = bytes([0xFF, 0xF7, 0x50, 0x80, 2, 0x1F, 0xFC])
    assert payload_of("aac", damaged_layer + b"audio") == b"audio"
    assert payload_of("aac", damaged_layer + b"a") == b"a"  # the rest of a damaged packet
    assert payload_of("aac", b"\x21\x10plain audio") == b"\x21\x10plain audio"
    assert payload_of("mov_text", b"\0\0") == b"" and payload_of("mov_text", b"\0\1a") == b"\0\1a"


@pytest.mark.parametrize(
    ("key", "wanted", "found", "is_lost"),
    [
        ("location", "+48.1234+011.5678/", "+48.1234+11.5678/", False),
        ("location", "+48.1234+011.5678+520.0/", "+48.1234+011.5678+520.000/", False),
        ("location", "-33.86882-151.20930/", "-33.8688-151.2093/", False),
        ("location", "+48.1234+011.5678/", "+49.1234+011.5678/", True),
        ("location", "+48.1234+011.5678/", "-48.1234+011.5678/", True),
        ("location", "Munich", "+48.1234+011.5678/", True),
        ("title", "+5", "+5.0", True),
        ("location", "+48.1234+011.5678/", None, True),
        ("creation_time", "1970-01-01T00:00:00.000000Z", None, False),
        ("creation_time", "2020-01-01T00:00:00.000000Z", None, True),
        ("language", "und", None, False),
    ],
)
def test_tags_that_mean_the_same_are_no_loss(
    tmp_path: Path, key: str, wanted: str, found: str | None, is_lost: bool
) -> None:
    path = media.clip(tmp_path / "plain.mkv")
    if found is not None:
        media.ffmpeg("-i", f"file:{path}", "-c", "copy", "-metadata", f"{key}={found}", f"file:{tmp_path / 'a.mkv'}")
        path = tmp_path / "a.mkv"
    listing = media.ffmpeg_packetmd5(path, "v:0")
    times = array("q", sorted(frame.pts for frame in listing.frames))
    lost = verify(path, "a.mkv", Expected(times, listing.time_base, (64, 48), [], {key: wanted}))
    assert (lost != []) == is_lost
