"""Streams other than the video: audio, subtitles, chapters, attachments and tags are copied, converted or named."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from tests.support import media
from tests.support.writing import frames, steps, write
from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import CheckError
from vidsr.video.containers import copied_tags
from vidsr.video.output import plan_output
from vidsr.video.probe import probe
from vidsr.video.subtitles import OneAtATime, Shown
from vidsr.video.writer import Writer


def packets(path: Path, stream: str) -> list[str]:
    return [frame.md5 for frame in media.ffmpeg_packetmd5(path, stream).frames]


def lines(path: Path, word: str) -> list[str]:
    return [line for line in media.ffmpeg_listing(path) if word in line]


# ------------------------------------------------------------------------------------------------------------- audio


@pytest.mark.parametrize(
    ("codec", "source_ending", "ending"),
    [
        ("aac", "mp4", "mp4"),
        ("aac", "mp4", "mkv"),
        ("aac", "mkv", "mp4"),
        ("aac", "mp4", "mov"),
        ("libmp3lame", "mkv", "mp4"),
        ("ac3", "mkv", "mp4"),
        ("eac3", "mkv", "mp4"),
        ("flac", "mkv", "mp4"),
        ("libopus", "mkv", "webm"),
        ("libopus", "webm", "mp4"),
        ("libvorbis", "mkv", "webm"),
        ("alac", "mkv", "mov"),
        ("pcm_s24le", "mkv", "mkv"),
    ],
)
def test_audio_is_copied_packet_for_packet(tmp_path: Path, codec: str, source_ending: str, ending: str) -> None:
    source = media.clip_with_audio(tmp_path / "source.mkv", codec=codec)
    if source_ending != "mkv":
        other = tmp_path / f"source.{source_ending}"
        video = ("libvpx-vp9", "-b:v", "1M", "-deadline", "realtime") if source_ending == "webm" else ("copy",)
        media.ffmpeg("-i", str(source), "-map", "0", "-c:v", *video, "-c:a", "copy", str(other))
        source = other
    target = tmp_path / f"out.{ending}"
    write(target, source, steps(source, 20))
    assert packets(target, "a:0") == packets(source, "a:0")
    before, after = media.ffmpeg_packetmd5(source, "a:0").times, media.ffmpeg_packetmd5(target, "a:0").times
    assert max(abs(a - b) for a, b in zip(before, after, strict=True)) <= Fraction(1, 1000)


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
def test_pcm_audio_is_byte_identical(tmp_path: Path, ending: str) -> None:
    source = media.clip_with_audio(tmp_path / "source.mkv", codec="pcm_s16le")
    target = tmp_path / f"out.{ending}"
    write(target, source, steps(source, 20))
    audio = ("-map", "0:a", "-f", "md5", "-")
    assert media.ffmpeg("-i", str(target), *audio) == media.ffmpeg("-i", str(source), *audio)


def test_adts_audio_from_a_transport_stream(tmp_path: Path) -> None:
    source = media.clip_with_audio(tmp_path / "source.ts")
    for ending in ("mp4", "mkv"):
        target = tmp_path / f"out.{ending}"
        write(target, source, steps(source, 20))
        audio = ("-map", "0:a", "-f", "md5", "-")
        assert media.ffmpeg("-i", str(target), *audio) == media.ffmpeg("-i", str(source), *audio)


def test_exact_audio_times_from_matroska_to_mp4(tmp_path: Path) -> None:
    source = media.clip_with_audio(tmp_path / "source.mkv", count=50)
    write(tmp_path / "out.mp4", source, steps(source, 50))
    listing = media.ffmpeg_packetmd5(tmp_path / "out.mp4", "a:0")
    gaps = {b.pts - a.pts for a, b in pairwise(listing.frames)}
    assert gaps == {1024} and listing.time_base == Fraction(1, 44_100)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_two_audio_tracks_with_languages_and_dispositions(tmp_path: Path, ending: str) -> None:
    source = media.two_audio_tracks(tmp_path / "source.mp4")
    target = tmp_path / f"out.{ending}"
    writer = write(target, source, steps(source, 20))
    found = lines(target, "Audio:")
    assert ["(eng)" in found[0], "(default)" in found[0], "(deu)" in found[1], "(default)" in found[1]] == [
        True,
        True,
        True,
        False,
    ]
    assert packets(target, "a:1") == packets(source, "a:1")
    assert writer.warnings == []


def test_audio_and_subtitles_can_be_dropped(tmp_path: Path) -> None:
    source = media.two_audio_tracks(tmp_path / "source.mp4")
    write(tmp_path / "out.mp4", source, steps(source, 20), OutputConfig(audio="none"))
    assert lines(tmp_path / "out.mp4", "Stream #")[1:] == []
    source = media.subtitled(tmp_path / "source.mkv")
    write(tmp_path / "out.mkv", source, steps(source, 20), OutputConfig(subtitles="none"))
    assert lines(tmp_path / "out.mkv", "Subtitle:") == []


def test_warns_about_audio_that_the_container_refuses(tmp_path: Path) -> None:
    source = media.clip_with_audio(tmp_path / "source.mkv", codec="aac")
    writer = write(tmp_path / "out.webm", source, steps(source, 20))
    assert lines(tmp_path / "out.webm", "Audio:") == []
    assert any("stream 1 (audio aac) is left out" in w and "write .mkv" in w for w in writer.warnings)


def test_packets_are_interleaved_by_time(tmp_path: Path) -> None:
    source = media.clip_with_audio(tmp_path / "source.mp4", count=100)
    write(tmp_path / "out.mkv", source, steps(source, 100))
    with av.open(str(tmp_path / "out.mkv")) as container:
        times = [float(p.pts * p.time_base) for p in container.demux() if p.pts is not None]
    assert all(later > earlier - 0.5 for earlier, later in pairwise(times))


# --------------------------------------------------------------------------------------------------------- subtitles


def texts(path: Path) -> str:
    return media.ffmpeg("-i", str(path), "-map", "0:s:0", "-f", "srt", "-").strip()


@pytest.mark.parametrize(
    ("source_ending", "ending", "codec"),
    [
        ("mkv", "mkv", "subrip"),
        ("mp4", "mp4", "mov_text"),
        ("mkv", "mp4", "mov_text"),
        ("mp4", "mkv", "subrip"),
        ("mkv", "mov", "mov_text"),
        ("mkv", "webm", "webvtt"),
    ],
)
def test_text_subtitles(tmp_path: Path, source_ending: str, ending: str, codec: str) -> None:
    source = media.subtitled(tmp_path / f"source.{source_ending}")
    target = tmp_path / f"out.{ending}"
    writer = write(target, source, steps(source, 20))
    assert texts(target) == texts(source) != ""
    assert codec in lines(target, "Subtitle:")[0] and "(fra)" in lines(target, "Subtitle:")[0]
    native = {"mkv": "subrip", "mp4": "mov_text"}[source_ending]
    assert any(f"stored as {codec}" in warning for warning in writer.warnings) == (codec != native)


SHOWN_TOGETHER = [
    (Fraction(0), "A"), (Fraction(1, 2), "A|B"), (Fraction(1), "A|B|C"), (Fraction(3, 2), "A|B|C|D"),
    (Fraction(2), "A|B|C"), (Fraction(3), "B|C"), (Fraction(7, 2), "C"),
]  # fmt: skip


@pytest.mark.parametrize(("ending", "stretch"), [("mp4", 1), ("mov", 1), ("mp4", 2), ("mkv", 1)])
def test_texts_that_overlap_keep_their_times(tmp_path: Path, ending: str, stretch: int) -> None:
    source = media.overlapping_texts(tmp_path / "source.mkv")
    times = [n * stretch * 500 for n in range(10)]
    target = tmp_path / f"out.{ending}"
    writer = write(target, source, times, OutputConfig(audio="stretch"), stretch=stretch)
    found = []
    with av.open(str(target)) as container:
        for packet in container.demux(subtitles=0):
            if bytes(packet)[:2] not in (b"", b"\0\0"):
                shown = packet.decode()[0].dialogue.decode().replace("\n", "|").replace("\\N", "|")
                found.append((packet.pts * packet.time_base, packet.duration * packet.time_base, shown))
    if ending == "mkv":
        assert [row[0] for row in found] == [0, Fraction(1, 2), 1, Fraction(3, 2)]
        assert [row[2] for row in found] == list("ABCD")
    else:
        assert [(time, text) for time, _, text in found] == [(stretch * time, text) for time, text in SHOWN_TOGETHER]
        assert found[-1][1] == stretch * Fraction(1, 2)
    assert any("3 texts" in warning for warning in writer.warnings) == (ending != "mkv")


def test_audio_whose_samples_nobody_knows_is_not_stretched(tmp_path: Path) -> None:
    """An audio tag of FLV without contents, which the demuxer takes for a second stream, of 8-bit samples."""
    source = media.clip_with_audio(tmp_path / "whole.flv", codec="libmp3lame")
    data, tags, at = source.read_bytes(), [], 13
    while at + 11 < len(data):
        tags.append((data[at], at + 11))
        at += 15 + int.from_bytes(data[at + 1 : at + 4], "big")
    begin = max(place for kind, place in tags if kind == 8)
    damaged = tmp_path / "damaged.flv"
    damaged.write_bytes(data[:begin] + bytes(400))
    with av.open(str(damaged)) as container:
        formats = [stream.codec_context.format for stream in container.streams.audio]
    assert len(formats) == 2 and formats[1] is None
    options = OutputConfig(audio="stretch")
    writer = write(tmp_path / "out.mkv", damaged, steps(source, 20), options, stretch=2)
    assert any("(audio pcm_u8) is left out" in text and "cannot decode" in text for text in writer.warnings)


@pytest.mark.parametrize("begin", ["0.5", "7"], ids=["during the video", "after it"])
def test_a_last_text_without_an_end_is_shown_in_mp4(tmp_path: Path, begin: str) -> None:
    """The MP4 demuxer drops texts that last no time, so that the check of the file failed."""
    silent, text = media.clip(tmp_path / "silent.mkv"), tmp_path / "text.srt"
    text.write_text("1\n00:00:00,000 --> 00:00:01,000\nA\n")
    endless = ("-c", "copy", "-bsf:s", f"setts=ts={begin}/TB:duration=0")
    source, target = tmp_path / "source.mkv", tmp_path / "out.mp4"
    media.ffmpeg("-i", str(silent), "-i", f"file:{text}", "-map", "0", "-map", "1", *endless, str(source))
    times = [n * 500 for n in range(10)]
    write(target, source, times)
    with av.open(str(target)) as container:
        shown = [(p.pts * p.time_base, p.duration * p.time_base) for p in container.demux(subtitles=0) if p.size > 2]
    assert shown == [(Fraction(begin), Fraction(9, 2) if begin == "0.5" else 1)]


def test_texts_without_an_end_last_until_the_next() -> None:
    in_turn = OneAtATime()
    rows = [in_turn.add(Shown(Fraction(0), None, [b"a"])), in_turn.add(Shown(Fraction(2), Fraction(3), [b"b"]))]
    rows += [in_turn.add(Shown(Fraction(5), None, [b"c"])), in_turn.flush()]
    assert [[tuple(part) for part in row] for row in rows] == [
        [], [(0, 2, [b"a"])], [(2, 3, [b"b"])], [(5, None, [b"c"])]
    ]  # fmt: skip


def test_styled_subtitles_are_copied_or_refused(tmp_path: Path) -> None:
    plain = media.subtitled(tmp_path / "plain.mkv")
    source = tmp_path / "source.mkv"
    media.ffmpeg("-i", str(plain), "-map", "0", "-c", "copy", "-c:s", "ass", str(source))
    assert write(tmp_path / "out.mkv", source, steps(source, 20)).warnings == []
    assert packets(tmp_path / "out.mkv", "s:0") == packets(source, "s:0")
    writer = write(tmp_path / "out.mp4", source, steps(source, 20))
    assert any("(subtitle ass, fra) is left out" in warning for warning in writer.warnings)


# ---------------------------------------------------------------------------------------- chapters, attachments, tags


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov", "webm"])
def test_chapters_and_title(tmp_path: Path, ending: str) -> None:
    source = media.with_chapters(tmp_path / "source.mp4")
    target = tmp_path / f"out.{ending}"
    writer = write(target, source, steps(source, 20))
    assert [line.split(": ", 1)[1] for line in lines(target, "Chapter #")] == [
        "start 0.000000, end 0.400000",
        "start 0.400000, end 0.800000",
    ]
    titles = [line.split(":")[1].strip() for line in lines(target, "title  ")]
    assert titles == ["a video", "one", "two"]
    assert writer.warnings == []


def test_warns_about_tags_that_the_container_does_not_keep(tmp_path: Path) -> None:
    source = tmp_path / "source.mkv"
    video = media.clip(tmp_path / "video.mkv")
    media.ffmpeg("-i", str(video), "-c", "copy", "-metadata", "title=t", "-metadata", "mood=calm", str(source))
    writer = write(tmp_path / "out.mp4", source, steps(source, 20))
    assert [w for w in writer.warnings if "tags" in w] == ["out.mp4 does not keep these tags of the input: MOOD"]
    assert write(tmp_path / "out.mkv", source, steps(source, 20)).warnings == []
    assert lines(tmp_path / "out.mkv", "MOOD") and not lines(tmp_path / "out.mkv", "NUMBER_OF")


def test_creation_time_without_a_zone_is_universal_time() -> None:
    assert copied_tags({"creation_time": "2013-01-09 21:57:32"}) == {"creation_time": "2013-01-09T21:57:32.000000Z"}
    assert copied_tags({"creation_time": "January 2013"}) == {"creation_time": "January 2013"}


def test_a_creation_time_that_was_never_set_is_not_copied() -> None:
    """ASF files without one begin in 1601, which Matroska stored as 2185 and MP4 as 2009."""
    assert copied_tags({"creation_time": "1601-01-01 00:00:00", "title": "a"}) == {"title": "a"}


def test_attachment(tmp_path: Path) -> None:
    source = media.with_attachment(tmp_path / "source.mkv")
    assert write(tmp_path / "out.mkv", source, steps(source, 20)).warnings == []
    with av.open(str(tmp_path / "out.mkv")) as container:
        (attachment,) = container.streams.attachments
        assert (attachment.name, attachment.mimetype, attachment.data) == ("note.txt", "text/plain", b"attached\n")
    writer = write(tmp_path / "out.mp4", source, steps(source, 20))
    assert any("(attachment note.txt) is left out" in warning for warning in writer.warnings)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_cover(tmp_path: Path, ending: str) -> None:
    source = media.with_cover(tmp_path / "source.mp4")
    target = tmp_path / f"out.{ending}"
    writer = write(target, source, steps(source, 20))
    assert writer.warnings == []
    assert "(attached pic)" in lines(target, "Video:")[1]
    cover = next(s.index for s in av.open(str(source)).streams if s.disposition & 0x400)
    assert packets(target, "v:1") == packets(source, str(cover))


def test_warns_about_a_second_video_stream(tmp_path: Path) -> None:
    source = media.two_video_streams(tmp_path / "source.mkv")
    writer = write(tmp_path / "out.mkv", source, steps(source, 20))
    assert len(lines(tmp_path / "out.mkv", "Video:")) == 1
    assert any("stream 0 (video h264) is not copied" in warning for warning in writer.warnings)


def test_a_second_layer_is_named_as_a_loss(tmp_path: Path) -> None:
    source = media.two_layers(tmp_path / "source.mov")
    writer = write(tmp_path / "out.mkv", source, steps(source, 3))
    loss = "stream 0 (video hevc) holds several layers, such as a second view; only the first is enlarged"
    assert writer.warnings == [loss]
    plan = plan_output(tmp_path / "strict.mkv", source, probe(source), (64, 48), OutputConfig(), InputConfig())
    with pytest.raises(CheckError, match="several layers"), Writer(plan) as writer:
        for frame in frames(steps(source, 3), plan.info.time_base):
            writer.write(frame)
        writer.commit(is_strict=True)


# ---------------------------------------------------------------------------------------------------------- trimming


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_trimming_keeps_audio_in_sync(tmp_path: Path, ending: str) -> None:
    source = media.clip_with_audio(tmp_path / f"source.{ending}", count=75)
    target = tmp_path / f"out.{ending}"
    trim = InputConfig(start=Fraction(1), end=Fraction(2))
    write(target, source, steps(source, 25, int(1 / av.open(str(source)).streams.video[0].time_base)), None, trim)
    assert media.ffmpeg_framemd5(target).times == [Fraction(n, 25) for n in range(25)]
    whole, part = media.ffmpeg_packetmd5(source, "a:0"), media.ffmpeg_packetmd5(target, "a:0")
    wanted = [(t - 1, f.md5) for t, f in zip(whole.times, whole.frames, strict=True) if 1 <= t < 2]
    assert [frame.md5 for frame in part.frames] == [md5 for _, md5 in wanted]
    assert all(abs(a - b) <= Fraction(1, 1000) for a, (b, _) in zip(part.times, wanted, strict=True))


def test_trimming_cuts_subtitles_and_chapters(tmp_path: Path) -> None:
    trim = InputConfig(start=Fraction(1, 5), end=Fraction(3, 5))
    source = media.subtitled(tmp_path / "source.mkv")
    write(tmp_path / "out.mkv", source, steps(source, 10, 200), None, trim)
    assert texts(tmp_path / "out.mkv").split("\n\n") == [
        "1\n00:00:00,000 --> 00:00:00,200\nfirst line",
        "2\n00:00:00,300 --> 00:00:00,500\nsecond line",
    ]
    source = media.with_chapters(tmp_path / "chapters.mkv")
    write(tmp_path / "cut.mkv", source, steps(source, 10, 200), None, trim)
    assert [line.split(": ", 1)[1] for line in lines(tmp_path / "cut.mkv", "Chapter #")] == [
        "start 0.000000, end 0.200000",
        "start 0.200000, end 0.400000",
    ]


# ----------------------------------------------------------------------------------------------------- damaged input


def test_damaged_audio_does_not_end_the_video(tmp_path: Path) -> None:
    whole = media.clip_with_audio(tmp_path / "whole.mkv", count=50)
    source = media.damaged(whole, tmp_path / "source.mkv", flips=30)
    write(tmp_path / "out.mkv", source, [n * 40 for n in range(50)])
    assert len(media.ffmpeg_framemd5(tmp_path / "out.mkv").frames) == 50


def test_truncated_input(tmp_path: Path) -> None:
    whole = media.clip_with_audio(tmp_path / "whole.mkv", count=50)
    source = media.truncated(whole, tmp_path / "source.mkv")
    write(tmp_path / "out.mp4", source, [n * 40 for n in range(30)])
    copied = packets(tmp_path / "out.mp4", "a:0")
    assert len(copied) > 10 and copied[:-1] == packets(whole, "a:0")[: len(copied) - 1]


def test_audio_packets_without_a_duration_are_kept(tmp_path: Path) -> None:
    """MP4 ends a track where its last packet ends; NUT and others store no durations."""
    sound = ("-f", "lavfi", "-i", "sine=440:duration=0.16", "-map", "0:v", "-map", "1:a", "-c:a", "flac")
    whole = media.encode(tmp_path / "whole.nut", media.numbered_images(4), (*sound, "-c:v", "ffv1"))
    source = media.truncated(whole, tmp_path / "a.nut", 0.6)
    copied = len(media.ffmpeg_packetmd5(source, "a:0").frames)
    write(tmp_path / "b.mp4", source, steps(source, 2))
    assert len(media.ffmpeg_packetmd5(tmp_path / "b.mp4", "a:0").frames) == copied > 1


def test_a_data_stream_that_is_not_read_is_named(tmp_path: Path) -> None:
    """The texts of chapters that are not there: FFmpeg skips the stream."""
    source = media.with_chapters(tmp_path / "a.mp4")
    data = bytearray(source.read_bytes().replace(b"chpl", b"free"))
    for table, place in ((b"stts", 8), (b"stsz", 12), (b"stsc", 8), (b"stco", 8)):
        count = data.rindex(table) + place
        data[count : count + 4] = bytes(4)
    source.write_bytes(data)
    writer = write(tmp_path / "b.mp4", source, steps(source, 3))
    assert any("stream 1 (data bin_data, eng) is left out" in warning for warning in writer.warnings), writer.warnings
    whole = media.with_chapters(tmp_path / "whole.mp4")
    assert not any("left out" in warning for warning in write(tmp_path / "c.mp4", whole, steps(whole, 3)).warnings)
