"""Stretched audio and everything that follows it: synchronization, pitch, formats, damage, subtitles and chapters."""

from __future__ import annotations

import wave
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tests.support import flashes, media
from tests.support.writing import steps, write
from vidsr.config import InputConfig, OutputConfig
from vidsr.video.subtitles import stretch_inner_timestamps

SYNC = 0.020  # seconds


def audio_lines(path: Path) -> list[str]:
    return [line for line in media.ffmpeg_listing(path) if "Audio:" in line]


def audio_begin(path: Path) -> float:
    with av.open(str(path)) as container:
        return next(float(f.pts * f.time_base) for f in container.decode(audio=0) if f.pts is not None and f.time_base)


def assert_in_sync(target: Path, moments: list[float], factor: int) -> None:
    """Flashes and clicks are at `moments` times `factor`, and their cross-correlation peaks within 20 ms of lag 0."""
    audio = flashes.decoded(target)
    flashed, clicked = flashes.flash_times(target), flashes.click_times(audio)
    assert len(flashed) == len(clicked) == len(moments)
    for moment, flash, click in zip(moments, flashed, clicked, strict=True):
        assert abs(flash - moment * factor) <= 0.001
        assert abs(click - moment * factor) <= SYNC
    bins = np.arange(0, audio.shape[1] / flashes.RATE + 0.001, 0.001)
    loudness = np.array([np.abs(part).max(initial=0) for part in np.array_split(audio[0], len(bins))])
    onsets = np.diff(loudness, prepend=0).clip(0)
    light = np.zeros(len(bins))
    light[np.searchsorted(bins, flashed)] = 1
    lags = range(-60, 61)
    best = max(lags, key=lambda lag: float(np.dot(np.roll(light, lag), np.convolve(onsets, np.ones(5), "same"))))
    assert abs(best) <= 20


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize(
    ("codec", "ending", "stored"),
    [(("aac",), "mp4", "aac"), (("libopus",), "mkv", "opus"), (("pcm_s16le",), "mov", "pcm_s16le")],
)
def test_clicks_stay_with_flashes(
    tmp_path: Path, codec: tuple[str, ...], ending: str, stored: str, factor: int
) -> None:
    source = flashes.video(tmp_path / f"source.{ending}", codec)
    target = tmp_path / f"out.{ending}"
    writer = flashes.slow_down(target, source, factor)
    assert_in_sync(target, flashes.moments(), factor)
    before, after = flashes.decoded(source), flashes.decoded(target)
    assert abs(after.shape[1] - factor * before.shape[1]) / flashes.RATE <= SYNC
    assert stored in audio_lines(target)[0] and "48000 Hz" in audio_lines(target)[0]
    assert writer.warnings == []


def test_variable_rate(tmp_path: Path) -> None:
    pace = "N/25+gte(N,30)*(N-30)/20+gte(N,60)*0.7"  # slower after frame 30, with a pause before frame 60
    source = flashes.video(tmp_path / "source.mp4", times=pace)
    flashes.slow_down(tmp_path / "out.mp4", source, 4)
    assert_in_sync(tmp_path / "out.mp4", flashes.moments(pace), 4)


@pytest.mark.parametrize(
    ("ending", "codec"), [("mp4", "aac"), ("mkv", "libopus"), ("mov", "pcm_s16le"), ("mkv", "aac")]
)
def test_audio_that_starts_late(tmp_path: Path, ending: str, codec: str) -> None:
    source = flashes.video(tmp_path / f"source.{ending}", (codec,), late_audio=0.25)
    target = tmp_path / f"out.{ending}"
    flashes.slow_down(target, source, 8)
    assert_in_sync(target, flashes.moments(), 8)
    before, after = audio_begin(source), audio_begin(target)
    assert -SYNC - 0.022 <= after - 8 * before <= SYNC  # if a track starts late, the encoder delay is played


def test_video_that_starts_late(tmp_path: Path) -> None:
    pace = "N/25+1.6"
    source = flashes.video(tmp_path / "source.mp4", times=pace)
    flashes.slow_down(tmp_path / "out.mp4", source, 2)
    assert media.ffmpeg_framemd5(tmp_path / "out.mp4").times[0] == Fraction(16, 5)
    assert_in_sync(tmp_path / "out.mp4", flashes.moments(pace), 2)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_trimmed_before_stretched(tmp_path: Path, ending: str) -> None:
    source = flashes.video(tmp_path / f"source.{ending}")
    target = tmp_path / f"out.{ending}"
    trim = InputConfig(start=Fraction(3, 5), end=Fraction(12, 5))
    flashes.slow_down(target, source, 4, trim=trim)
    inside = [time - 0.6 for time in flashes.moments() if 0.6 <= time < 2.4]
    assert len(inside) == 3
    assert_in_sync(target, inside, 4)
    assert abs(flashes.decoded(target).shape[1] / flashes.RATE - 4 * 1.8) <= SYNC + 0.022
    assert len(media.ffmpeg_framemd5(target).frames) == 44 * 4 + 1


def test_two_tracks_keep_pitch_language_and_flags(tmp_path: Path) -> None:
    source = media.two_audio_tracks(tmp_path / "source.mp4")
    for ending in ("mp4", "mkv"):
        target = tmp_path / f"out.{ending}"
        writer = write(target, source, steps(source, 20), stretch=8)
        found = audio_lines(target)
        assert "(eng)" in found[0] and "(default)" in found[0] and "(deu)" in found[1] and "(default)" not in found[1]
        for stream, tone in (("a:0", 440), ("a:1", 880)):
            assert abs(flashes.pitch(flashes.decoded(target, stream)[0]) - tone) < tone * 0.01
        assert writer.warnings == []


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("codec", ["aac", "pcm_s24le"])
def test_pitch_and_level_stay(tmp_path: Path, factor: int, codec: str) -> None:
    source = media.clip_with_audio(tmp_path / "source.mov", count=50, codec=codec)
    write(tmp_path / "out.mov", source, steps(source, 20), stretch=factor)
    before, after = flashes.decoded(source)[0], flashes.decoded(tmp_path / "out.mov")[0]
    assert abs(flashes.pitch(after) - 440) < 4.4
    inner = after[len(after) // 10 : -len(after) // 10]
    assert np.sqrt(np.mean(inner**2)) == pytest.approx(np.sqrt(np.mean(before**2)), rel=0.05)


# ------------------------------------------------------------------------------------------------- kinds of audio


@pytest.mark.parametrize(
    ("make", "codec", "ending", "words"),
    [
        ("-ar 8000 -ac 1", "aac", "mp4", "aac (LC) (mp4a / 0x6134706D), 8000 Hz, mono"),
        ("-ar 8000 -ac 1", "pcm_s16le", "mkv", "pcm_s16le, 8000 Hz, 1 channels|pcm_s16le, 8000 Hz, mono"),
        ("-af pan=5.1(side)|FL=c0|FR=c0|FC=c0|LFE=c0|SL=c0|SR=c0", "ac3", "mp4", "44100 Hz, 5.1"),
        ("-ar 48000 -af pan=5.1(side)|FL=c0|FR=c0|FC=c0|LFE=c0|SL=c0|SR=c0", "ac3", "webm", "opus, 48000 Hz, 5.1"),
        (
            "-af pan=2.1|FL=c0|FR=c0|LFE=c0",
            "pcm_s24le",
            "mov",
            "pcm_s24le (in24 / 0x34326E69), 44100 Hz, 2.1",
        ),
        ("-af pan=7c|c0=c0|c1=c0|c2=c0|c3=c0|c4=c0|c5=c0|c6=c0", "pcm_s16le", "mkv", "44100 Hz, 7 channels|6.1"),
        ("-ar 96000 -ac 2", "pcm_s24le", "mkv", "pcm_s24le, 96000 Hz, stereo"),
        ("-sample_fmt s32", "flac", "mov", "alac (alac / 0x63616C61), 44100 Hz, mono, s32p (24 bit)"),
        ("-ar 22050", "libmp3lame", "mp4", "aac (LC) (mp4a / 0x6134706D), 22050 Hz, mono"),
    ],
)
def test_audio_formats(tmp_path: Path, make: str, codec: str, ending: str, words: str) -> None:
    audio = ("-f", "lavfi", "-i", "sine=440:duration=0.8", "-map", "0:v", "-map", "1:a", "-c:a", codec, *make.split())
    source = media.encode(tmp_path / "source.mkv", media.numbered_images(20), (*audio, *media.X264))
    write(tmp_path / f"out.{ending}", source, steps(source, 20), stretch=4)
    (line,) = audio_lines(tmp_path / f"out.{ending}")
    assert any(part in line for part in words.split("|")), line
    result = flashes.decoded(tmp_path / f"out.{ending}")[0]
    assert abs(len(result) - 4 * flashes.decoded(source).shape[1]) / flashes.RATE <= SYNC + 0.003
    assert abs(flashes.pitch(result) - 440) < 4.4


@pytest.mark.parametrize("samples", [1, 50, 1000])
@pytest.mark.parametrize(("codec", "ending"), [("aac", "mp4"), ("libopus", "mkv"), ("pcm_s16le", "mov")])
def test_very_short_audio(tmp_path: Path, samples: int, codec: str, ending: str) -> None:
    tone = flashes.wave_file(tmp_path / "tone.wav", np.full(samples, 0.3))
    source = flashes.video(tmp_path / f"source.{ending}", (codec,), audio=tone)
    write(tmp_path / f"out.{ending}", source, steps(source, 20), stretch=8)
    length = flashes.decoded(tmp_path / f"out.{ending}").shape[1]
    assert abs(length - 8 * flashes.decoded(source).shape[1]) / flashes.RATE <= SYNC


def test_a_gap_stays_a_gap(tmp_path: Path) -> None:
    """Without the packets from 1.0 s to 1.9 s, what follows keeps its time."""
    whole = flashes.video(tmp_path / "whole.mkv", ("libopus",))
    source = tmp_path / "source.mkv"
    with av.open(str(whole)) as original, av.open(str(source), "w") as cut:
        streams = {s.index: cut.add_stream_from_template(s) for s in original.streams}
        for packet in original.demux():
            is_lost = packet.stream.type == "audio" and 1.0 <= float((packet.pts or 0) * packet.time_base) < 1.9
            if packet.size and not is_lost:
                packet.stream = streams[packet.stream_index]
                cut.mux(packet)
    flashes.slow_down(tmp_path / "out.mkv", source, 4)
    audio = flashes.decoded(tmp_path / "out.mkv")
    expected = [time * 4 for time in flashes.moments() if not 1.0 <= time < 1.9]
    assert flashes.click_times(audio) == pytest.approx(expected, abs=SYNC)
    assert np.abs(audio[0, int(4.2 * flashes.RATE) : int(7.4 * flashes.RATE)]).max() < 1e-3


def test_damaged_packets_are_silent_and_counted(tmp_path: Path) -> None:
    whole = flashes.video(tmp_path / "whole.mkv", ("ac3", "-b:a", "192k"))
    source = tmp_path / "source.mkv"
    data = bytearray(whole.read_bytes())
    with av.open(str(whole)) as container:
        packets = [p for p in container.demux(audio=0) if p.size]
        lost = [(p.pos, p.size) for p in packets if 1.0 <= float((p.pts or 0) * p.time_base) < 1.4]
    for packet in packets:
        if (packet.pos, packet.size) in lost:
            position = data.index(bytes(packet))
            data[position : position + packet.size] = bytes(packet.size)
    source.write_bytes(data)
    writer = flashes.slow_down(tmp_path / "out.mkv", source, 2)
    expected = [time * 2 for time in flashes.moments()]
    assert flashes.click_times(flashes.decoded(tmp_path / "out.mkv")) == pytest.approx(expected, abs=SYNC)
    (warning,) = [w for w in writer.warnings if "damaged" in w]
    assert f"{len(lost)} damaged packets of stream 1 (audio ac3) could not be decoded" in warning


# -------------------------------------------------------------------------------------------------- other streams


@pytest.mark.parametrize(("source_ending", "ending"), [("mkv", "mkv"), ("mp4", "mp4"), ("mkv", "mp4"), ("mp4", "webm")])
def test_subtitles_are_stretched(tmp_path: Path, source_ending: str, ending: str) -> None:
    source = media.subtitled(tmp_path / f"source.{source_ending}")
    target = tmp_path / f"out.{ending}"
    write(target, source, steps(source, 20), OutputConfig(audio="none"), stretch=4)
    assert media.ffmpeg("-i", str(target), "-map", "0:s:0", "-f", "srt", "-").split("\n\n")[:2] == [
        "1\n00:00:00,400 --> 00:00:01,600\nfirst line",
        "2\n00:00:02,000 --> 00:00:02,800\nsecond line",
    ]


def test_chapters_and_subtitles_of_a_trimmed_part(tmp_path: Path) -> None:
    trim = InputConfig(start=Fraction(1, 5), end=Fraction(3, 5))
    source = media.with_chapters(tmp_path / "source.mp4")
    base = Fraction(1, 12_800)
    write(tmp_path / "out.mkv", source, [int(4 * n / (25 * base)) for n in range(5, 15)], None, trim, stretch=4)
    assert [line.split(": ", 1)[1] for line in media.ffmpeg_listing(tmp_path / "out.mkv") if "Chapter #" in line] == [
        "start 0.000000, end 0.800000",
        "start 0.800000, end 1.600000",
    ]
    source = media.subtitled(tmp_path / "source.mkv")
    write(tmp_path / "cut.mkv", source, [n * 160 for n in range(5, 15)], None, trim, stretch=4)
    texts = media.ffmpeg("-i", str(tmp_path / "cut.mkv"), "-map", "0:s:0", "-f", "srt", "-")
    assert texts.split("\n\n")[:2] == [
        "1\n00:00:00,000 --> 00:00:00,800\nfirst line",
        "2\n00:00:01,200 --> 00:00:02,000\nsecond line",
    ]


def test_attachments_covers_and_rotation_are_kept(tmp_path: Path) -> None:
    source = media.with_attachment(tmp_path / "note.mkv")
    assert write(tmp_path / "note_out.mkv", source, steps(source, 20), stretch=2).warnings == []
    source = media.with_cover(tmp_path / "cover.mp4")
    assert write(tmp_path / "cover_out.mp4", source, steps(source, 20), stretch=2).warnings == []
    assert sum("(attached pic)" in line for line in media.ffmpeg_listing(tmp_path / "cover_out.mp4")) == 1
    source = media.rotated(tmp_path / "turned.mp4")
    write(tmp_path / "turned_out.mp4", source, steps(source, 20), stretch=2)
    assert any("rotation of 90" in line for line in media.ffmpeg_listing(tmp_path / "turned_out.mp4"))


@pytest.mark.parametrize("factor", [1, 2])
def test_time_code_is_kept(tmp_path: Path, factor: int) -> None:
    plain = media.clip(tmp_path / "plain.mp4")
    source = tmp_path / "source.mov"
    media.ffmpeg("-i", str(plain), "-c", "copy", "-timecode", "01:00:00:00", str(source))
    assert write(tmp_path / "out.mov", source, steps(source, 20), stretch=factor).warnings == []
    listing = media.ffmpeg_listing(tmp_path / "out.mov")
    assert sum("tmcd" in line for line in listing) == 1 and any("01:00:00:00" in line for line in listing)


def dvd_subpicture(dates: list[int]) -> bytes:
    """A DVD subpicture with empty control sequences at these dates."""
    head = 6
    sequences = b""
    for number, date in enumerate(dates):
        begin = head + 6 * number
        following = begin if number == len(dates) - 1 else begin + 6
        sequences += date.to_bytes(2, "big") + following.to_bytes(2, "big") + b"\x01\xff"
    return (head + len(sequences)).to_bytes(2, "big") + head.to_bytes(2, "big") + b"\0\0" + sequences


def test_times_inside_packets() -> None:
    assert stretch_inner_timestamps("subtitle", "dvd_subtitle", dvd_subpicture([0, 300, 20_000]), 4) == (
        dvd_subpicture([0, 1200, 65_535]),
        False,
    )
    assert stretch_inner_timestamps("subtitle", "dvd_subtitle", b"\0\x08", 2) == (b"\0\x08", False)
    for kind, codec, data, has_inner_times in (
        ("subtitle", "subrip", b"\\k50", False),
        ("subtitle", "ass", rb"0,,0,,{\b1}plain", False),
        ("subtitle", "ass", rb"0,,0,,{\k20}ka{\k30}ra", True),
        ("subtitle", "webvtt", b"one <00:00:01.500> two", True),
        ("subtitle", "dvb_subtitle", b"any", True),
        ("data", "unknown", b"any", True),
        ("cover", "png", b"any", False),
    ):
        assert stretch_inner_timestamps(kind, codec, data, 2) == (data, has_inner_times)
        assert stretch_inner_timestamps(kind, codec, data, 1) == (data, False)


def test_warns_about_karaoke_times(tmp_path: Path) -> None:
    plain = media.subtitled(tmp_path / "plain.mkv")
    styled = tmp_path / "styled.ass"
    media.ffmpeg("-i", str(plain), "-map", "0:s", str(styled))
    styled.write_text(styled.read_text().replace("first line", r"{\k20}first {\k30}line"))
    source = tmp_path / "source.mkv"
    media.ffmpeg("-i", str(plain), "-i", str(styled), "-map", "0:v", "-map", "1", "-c:v", "copy", str(source))
    writer = write(tmp_path / "out.mkv", source, steps(source, 20), stretch=2)
    assert any("times inside its packets stay" in warning for warning in writer.warnings)


# ------------------------------------------------------------------------------------------------------------ limits


def test_a_stretch_by_one_is_a_copy(tmp_path: Path) -> None:
    source = media.clip_with_audio(tmp_path / "source.mp4")
    write(tmp_path / "out.mp4", source, steps(source, 20), OutputConfig(audio="stretch"))
    before, after = (media.ffmpeg_packetmd5(path, "a:0") for path in (source, tmp_path / "out.mp4"))
    assert [frame.md5 for frame in before.frames] == [frame.md5 for frame in after.frames]


def test_audio_is_interleaved_with_video(tmp_path: Path) -> None:
    source = flashes.video(tmp_path / "source.mp4")
    flashes.slow_down(tmp_path / "out.mkv", source, 8)
    with av.open(str(tmp_path / "out.mkv")) as container:
        times = [float(p.pts * p.time_base) for p in container.demux() if p.pts is not None]
    assert all(later > earlier - 1 for earlier, later in pairwise(times))


def test_audio_that_no_filter_takes_is_left_out(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "many.wav"), "wb") as file:
        file.setnchannels(257)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(257 * 2 * 800))
    sound = ("-i", f"file:{tmp_path / 'many.wav'}", "-map", "0:v", "-map", "1:a", "-c:a", "copy")
    source = media.encode(tmp_path / "a.mov", media.numbered_images(3), (*sound, *media.X264))
    writer = write(tmp_path / "b.mkv", source, steps(source, 3), stretch=2)
    assert any("FFmpeg's filters do not take 257 channels at 8000 Hz" in warning for warning in writer.warnings)
    assert not audio_lines(tmp_path / "b.mkv")


def test_audio_that_begins_after_the_end_is_no_fault(tmp_path: Path) -> None:
    """The second track begins between the end and the next packet of the first one, which is still read."""
    plain, source = media.recording(tmp_path / "one.mkv", Fraction(0)), tmp_path / "a.mkv"
    late = ("-itsoffset", "0.441", "-i", f"file:{plain}", "-map", "0", "-map", "1:a", "-c", "copy")
    media.ffmpeg("-i", f"file:{plain}", *late, f"file:{source}")
    write(tmp_path / "b.mkv", source, steps(source, 22), trim=InputConfig(end=Fraction(44, 100)), stretch=2)
    first, second = (media.ffmpeg_packetmd5(tmp_path / "b.mkv", f"a:{n}").frames for n in range(2))
    assert first and not second
