"""What a muxer accepts is tried before any frame is computed; the rest is left out and named, with its cause."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import pytest
from typer.testing import CliRunner, Result

from tests.support import media
from tests.support.writing import frames, steps, write
from vidsr.cli import app
from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import OutputError
from vidsr.video import mux_trial
from vidsr.video.output import OutputPlan, plan_output
from vidsr.video.probe import probe
from vidsr.video.writer import Writer

PLAIN = ("-c:v", "mpeg4", "-q:v", "3")


def packets(path: Path, stream: str) -> list[str]:
    return [frame.md5 for frame in media.ffmpeg_packetmd5(path, stream).frames]


def losses(target: Path, source: Path, **options: str) -> list[str]:
    writer = write(target, source, steps(source, 3), OutputConfig(**options))
    return [warning for warning in writer.warnings if "left out" in warning]


def with_audio(path: Path, codec: str, rate: int = 22050) -> Path:
    tone = ("-f", "lavfi", "-i", f"sine=440:duration=0.4:sample_rate={rate}", "-map", "0:v", "-map", "1:a")
    return media.encode(path, media.numbered_images(3), (*tone, "-c:a", codec, "-ac", "1", *PLAIN))


def plan_of(source: Path, target: Path) -> OutputPlan:
    return plan_output(target, source, probe(source), (media.WIDTH, media.HEIGHT), OutputConfig(), InputConfig())


# ------------------------------------------------------------------------------------------------------- whole streams


@pytest.mark.parametrize(
    "codec", ["adpcm_ms", "adpcm_ima_wav", "adpcm_yamaha", "pcm_mulaw", "pcm_alaw", "wmav1", "wmav2"]
)
def test_matroska_keeps_the_audio_of_avi_and_asf(tmp_path: Path, codec: str) -> None:
    """PyAV does not list these codecs for Matroska, which holds them."""
    source = with_audio(tmp_path / ("a.asf" if codec.startswith("wma") else "a.avi"), codec)
    assert losses(tmp_path / "b.mkv", source) == []
    original, copy = packets(source, "a:0"), packets(tmp_path / "b.mkv", "a:0")
    assert copy == original and len(copy) > 1
    assert any(f"Audio: {codec}" in line for line in media.ffmpeg_listing(tmp_path / "b.mkv"))


@pytest.mark.parametrize(
    ("name", "codec", "ending", "advice"),
    [
        ("a.avi", "pcm_alaw", "mp4", "; write .mkv or .mov to keep it"),
        ("a.avi", "adpcm_ms", "mp4", "; write .mkv to keep it"),  # MOV takes the header, but no packet
        ("a.avi", "adpcm_ms", "mov", "; write .mkv to keep it"),
        ("a.asf", "wmav2", "mov", "(it cannot be decoded again there); write .mkv to keep it"),
        ("a.mkv", "aac", "webm", "; write .mkv or .mov to keep it"),
    ],
)
def test_advice_names_only_containers_that_work(
    tmp_path: Path, name: str, codec: str, ending: str, advice: str
) -> None:
    source = with_audio(tmp_path / name, codec)
    (loss,) = losses(tmp_path / f"b.{ending}", source)
    assert f"(audio {codec}) is left out: {ending} cannot hold it (" in loss and loss.endswith(advice)


def test_advice_depends_on_the_encoder(tmp_path: Path) -> None:
    """MOV holds the audio, but no VP9, although FFmpeg lists VP9 for it."""
    (loss,) = losses(tmp_path / "b.webm", with_audio(tmp_path / "a.mkv", "aac"), codec="libvpx-vp9")
    assert loss.endswith("; write .mkv or .mp4 to keep it")


def test_no_container_is_named_for_a_data_stream_that_none_keeps(tmp_path: Path) -> None:
    """Like the data streams of phones: a known text stream with its type changed to one without a codec."""
    source = media.subtitled(tmp_path / "a.mov")
    for old in (b"text", b"sbtl", b"tx3g"):
        if old in source.read_bytes():
            media.replaced(source, old, b"meta")
    for ending in ("mp4", "mkv", "mov"):
        (loss,) = losses(tmp_path / f"b.{ending}", source)
        assert "stream 1 (data unknown, fra) is left out" in loss and "write" not in loss


def test_data_of_phones_is_not_copied_without_its_description(tmp_path: Path) -> None:
    """FFmpeg copies the samples into MOV, but not the entry that says what they are, and calls that a success."""
    source = media.subtitled(tmp_path / "a.mov")
    for old in (b"text", b"sbtl", b"tx3g"):
        if old in source.read_bytes():
            media.replaced(source, old, b"meta")
    (loss,) = losses(tmp_path / "b.mov", source)
    assert "what describes its samples in the header cannot be copied" in loss
    with av.open(str(tmp_path / "b.mov")) as container:
        assert not container.streams.data


def test_a_time_code_track_is_kept(tmp_path: Path) -> None:
    plain, source = media.clip(tmp_path / "plain.mov", 5), tmp_path / "a.mov"
    media.ffmpeg("-i", f"file:{plain}", "-c", "copy", "-timecode", "01:02:03:04", f"file:{source}")
    with av.open(str(source)) as container:
        assert container.streams.data
    assert losses(tmp_path / "b.mov", source) == []
    with av.open(str(tmp_path / "b.mov")) as container:
        assert container.streams.video[0].metadata["timecode"] == "01:02:03:04"


# ---------------------------------------------------------------------------------------------------- unknown codecs


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(params=["avi", "mkv"])
def unknown_audio(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "mkv":
        return media.replaced(with_audio(tmp_path / "a.mkv", "aac"), b"A_AAC", b"A_QQQ")
    source = with_audio(tmp_path / "a.avi", "adpcm_ms")
    data = source.read_bytes()
    at = data.index(b"strf", data.index(b"auds")) + 8
    source.write_bytes(data[:at] + b"\xcd\xab" + data[at + 2 :])
    return source


def test_audio_of_an_unknown_codec_is_left_out(tmp_path: Path, unknown_audio: Path) -> None:
    for ending in ("mkv", "mp4"):
        (loss,) = losses(tmp_path / f"b.{ending}", unknown_audio)
        assert loss == "stream 1 (audio unknown) is left out: FFmpeg does not know its codec"
    assert invoke("info", unknown_audio).exit_code == 0
    slow = invoke("upscale", unknown_audio, tmp_path / "c.mkv", "--model", "bicubic", "--scale", "1", "--strict")
    assert slow.exit_code == 7 and "FFmpeg does not know its codec" in slow.stderr


@pytest.mark.parametrize("unknown", [0, 1])
def test_of_two_videos_the_one_that_can_be_decoded_is_enlarged(tmp_path: Path, unknown: int) -> None:
    first = media.clip(tmp_path / "first.avi", 3, options=PLAIN)
    source = tmp_path / "a.avi"
    media.ffmpeg("-i", f"file:{first}", "-i", f"file:{first}", "-map", "0", "-map", "1", "-c", "copy", f"file:{source}")
    parts = source.read_bytes().split(b"FMP4")
    assert len(parts) == 5  # the names of two streams in two tables each
    names = [b"QQZZ" if stream == unknown else b"FMP4" for stream in (0, 0, 1, 1)]
    source.write_bytes(b"".join(part + name for part, name in zip(parts, [*names, b""], strict=True)))
    assert probe(source).video_stream == 1 - unknown
    writer = write(tmp_path / "b.mkv", source, steps(source, 3))
    assert f"stream {unknown} (video unknown) is not copied: only one video stream is enlarged" in writer.warnings


# ----------------------------------------------------------------------------------------------- tags and whole outputs


@pytest.fixture
def fast(tmp_path: Path) -> Path:
    """Too fast for the time code that its tag asks for, which MP4 notices only when the file is closed."""
    options = (*PLAIN, "-metadata", "timecode=00:00:00:00", "-metadata", "title=kept")
    return media.encode(tmp_path / "fast.avi", media.numbered_images(3), options, rate="600")


@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_a_tag_that_is_refused_at_the_end_is_left_out_from_the_start(tmp_path: Path, fast: Path, ending: str) -> None:
    target = tmp_path / f"b.{ending}"
    (part,) = plan_of(fast, target).refused
    assert (part.kind, part.key) == ("tag", "timecode") and part.reason == f"{ending} refuses it (fps 600 is too large)"
    result = invoke("upscale", fast, target, "--model", "bicubic", "--scale", "1")
    assert result.exit_code == 0
    assert f"the tag 'timecode' of the input is left out: {ending} refuses it (fps 600 is too large)" in result.stderr
    assert any("title" in line and "kept" in line for line in media.ffmpeg_listing(target))
    strict = invoke("upscale", fast, tmp_path / f"c.{ending}", "--model", "bicubic", "--scale", "1", "--strict")
    assert strict.exit_code == 7 and "timecode" in strict.stderr


def test_a_time_code_that_fits_is_kept_and_not_called_lost(tmp_path: Path) -> None:
    options = (*PLAIN, "-metadata", "timecode=01:00:00:00")
    source = media.encode(tmp_path / "a.avi", media.numbered_images(3), options)
    for ending in ("mp4", "mov"):
        writer = write(tmp_path / f"b.{ending}", source, steps(source, 3))
        assert any(
            "timecode" in line and "01:00:00:00" in line for line in media.ffmpeg_listing(tmp_path / f"b.{ending}")
        )
        assert not [warning for warning in writer.warnings if "timecode" in warning]


def test_the_search_names_exactly_the_refused_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A muxer that refuses two of many parts, and the second only together with another."""
    source = media.two_audio_tracks(tmp_path / "a.mkv")
    bad = {("tag", "one"), ("stream", "2")}
    parts = [mux_trial.Part("tag", name) for name in ("zero", "one", "two")]
    parts += [mux_trial.Part("stream", name) for name in ("1", "2")]

    def refusal(plan: OutputPlan, packets: object) -> str | None:
        left_out = {(part.kind, part.key) for part in plan.refused}
        return "no" if bad - left_out else None

    monkeypatch.setattr(mux_trial, "_refusal", refusal)
    monkeypatch.setattr(mux_trial, "_parts", lambda plan: parts)
    found = plan_of(source, tmp_path / "b.mkv").refused
    assert {(part.kind, part.key) for part in found} == bad
    assert {part.reason for part in found} == {"matroska refuses it (no)"}


def test_a_refused_stream_and_refused_chapters_are_left_out_and_named(tmp_path: Path) -> None:
    source = media.two_audio_tracks(tmp_path / "a.mkv")
    plan = plan_of(source, tmp_path / "b.mkv")
    assert plan.refused == ()
    plan = dataclasses.replace(
        plan, refused=(mux_trial.Part("stream", "1", "because"), mux_trial.Part("chapters", "", "of this"))
    )
    with Writer(plan) as writer:
        for frame in frames(steps(source, 3), plan.info.time_base):
            writer.write(frame)
        writer.commit()
    assert "stream 1 (audio aac, eng) is left out: because" in writer.warnings
    assert "the chapters are left out: of this" in writer.warnings
    assert [line for line in media.ffmpeg_listing(tmp_path / "b.mkv") if "Audio" in line and "(deu)" in line]


def test_a_video_that_is_refused_alone_is_an_error_with_its_cause(tmp_path: Path) -> None:
    """FFmpeg lists VP9 for MOV, and refuses it when the header is written."""
    source, target = media.clip(tmp_path / "a.mkv", 3), tmp_path / "b.mov"
    with pytest.raises(OutputError) as error:
        plan_output(target, source, probe(source), (64, 48), OutputConfig(codec="libvpx-vp9"), InputConfig())
    assert str(error.value) == (
        f"{target} cannot be written: mov refuses the output of libvpx-vp9 (vp9 only supported in MP4); choose another "
        "--codec or write .mkv or .mp4 or .webm"
    )


def test_a_refusal_without_a_part_to_leave_out_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = media.clip(tmp_path / "a.mkv", 3)
    monkeypatch.setattr(mux_trial, "_refusal", lambda plan, packets: "no room")
    with pytest.raises(OutputError, match="cannot be written: no room; choose another container"):
        plan_of(source, tmp_path / "b.mp4")


def test_raw_dv_keeps_its_rate_and_its_time_code(tmp_path: Path) -> None:
    """FFmpeg gives 60000 frames/s as the average rate of raw DV."""
    source = tmp_path / "a.dv"
    media.ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=size=720x576:rate=25:duration=0.12", "-target", "pal-dv", f"file:{source}"
    )
    assert probe(source).header_rate == 25
    for ending in ("mp4", "mov", "mkv"):
        result = invoke("upscale", source, tmp_path / f"b.{ending}", "--model", "bicubic", "--scale", "1")
        assert result.exit_code == 0 and "the video is interlaced" in result.stderr and "tags" not in result.stderr
        assert len(media.ffmpeg_framemd5(tmp_path / f"b.{ending}").frames) == 3


# ----------------------------------------------------------------------------------------------- text that is not UTF-8


@pytest.fixture
def latin(tmp_path: Path) -> Path:
    """A Matroska file whose title, language, attachment and chapter are in Latin-1: placeholders replaced by bytes."""
    chapters, note = tmp_path / "chapters.txt", tmp_path / "note.txt"
    chapters.write_text(";FFMETADATA1\ntitle=caf??\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=100\ntitle=un??\n")
    note.write_text("attached")
    tags = (
        "-metadata:s:a:0",
        "title=s??d",
        "-metadata:s:t:0",
        "filename=n??.txt",
        "-metadata:s:t:0",
        "mimetype=text/plain",
    )
    tone = ("-f", "lavfi", "-i", "sine=440:duration=0.4", "-i", f"file:{chapters}", "-map", "0:v", "-map", "1:a")
    options = (*tone, "-map_metadata", "2", "-map_chapters", "2", "-attach", str(note), *tags, "-c:a", "aac", *PLAIN)
    source = media.encode(tmp_path / "a.mkv", media.numbered_images(3), options)
    return media.replaced(source, b"??", b"\xe9 ")


def test_text_that_is_not_utf8_is_copied_byte_for_byte_and_said(tmp_path: Path, latin: Path) -> None:
    for ending, kept in (
        ("mkv", (b"caf\xe9 ", b"s\xe9 d", b"n\xe9 .txt", b"un\xe9 ")),
        ("mp4", (b"caf\xe9 ", b"un\xe9 ")),
    ):
        target = tmp_path / f"b.{ending}"
        result = invoke("upscale", latin, target, "--model", "bicubic", "--scale", "1", "--progress", "json")
        assert result.exit_code == 0, result.exception
        for owner in ("the input", "the chapters"):
            assert (
                f"these tags of {owner} are not UTF-8, and their bytes are copied as they are: title" in result.stderr
            )
        assert all(text in target.read_bytes() for text in kept)


def test_text_that_is_not_utf8_stops_no_other_command(tmp_path: Path, latin: Path) -> None:
    for command in (("info", latin), ("info", "--json", latin), ("faces", latin)):
        assert invoke(*command).exit_code == 0
    slow = invoke("slowmo", latin, tmp_path / "b.mkv", "--report", tmp_path / "r.json")
    assert slow.exit_code == 0 and (tmp_path / "r.json").is_file()


@pytest.mark.parametrize("late", [False, True])
def test_converted_subtitles_become_utf8(tmp_path: Path, late: bool) -> None:
    """Also where the text in question is not among the packets that are tried before the run."""
    lines = [(f"line {n}" if n != late * 10 else "caf??") for n in range(12)]
    text = tmp_path / "a.srt"
    text.write_text(
        "\n".join(f"{n + 1}\n00:00:00,{n:02}0 --> 00:00:00,{n + 1:02}0\n{line}\n" for n, line in enumerate(lines))
    )
    video = ("-i", f"file:{text}", "-map", "0:v", "-map", "1:s", "-c:s", "srt", *PLAIN)
    source = media.replaced(media.encode(tmp_path / "a.mkv", media.numbered_images(5), video), b"??", b"\xe9 ")
    writer = write(tmp_path / "b.mp4", source, steps(source, 5))
    assert [w for w in writer.warnings if "Windows-1252" in w and "1 packets" in w]
    shown = media.ffmpeg("-i", str(tmp_path / "b.mp4"), "-map", "0:s:0", "-f", "srt", "-")
    assert "caf\u00e9" in shown and "line 11" in shown


def test_audio_that_a_container_swallows_is_kept_or_named(tmp_path: Path) -> None:
    """Samples of FLAC a tick apart and without durations: MP4 takes the packets, but may not give them back."""
    whole, source = with_audio(tmp_path / "whole.mkv", "flac"), tmp_path / "a.nut"
    with av.open(str(whole)) as given, av.open(str(source), "w") as made:
        streams = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        number = 0
        for packet in given.demux():
            if packet.size:
                if packet.stream.type == "audio":
                    packet.pts = packet.dts = number
                    packet.duration, packet.time_base = 0, Fraction(1, 22050)
                    number += 1
                packet.stream = streams[packet.stream.index]
                made.mux_one(packet)
                if number == 2:
                    break
    target = tmp_path / "b.mp4"
    is_named = any("stream 1 (audio flac) is left out" in warning for warning in losses(target, source))
    given, kept = audio_bytes(source), audio_bytes(target)
    assert given and (kept == given or (is_named and not kept))


def audio_bytes(path: Path) -> bytes:
    """The bytes of all audio packets."""
    with av.open(str(path)) as container:
        return b"".join(bytes(packet) for packet in container.demux() if packet.stream.type == "audio")
