"""Video that must not be used as it decodes is refused in one sentence: encrypted, or Dolby Vision in IPT."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from typer.testing import CliRunner

from tests.support import media
from vidsr.cli import app
from vidsr.config import ComputeConfig, SizeConfig, UpscaleConfig
from vidsr.errors import InputError
from vidsr.pipeline.run import enhance
from vidsr.video.probe import probe
from vidsr.video.unreadable import is_protected_movie, protected_streams, refuse_unmapped

BICUBIC = UpscaleConfig(compute=ComputeConfig(model="bicubic"), size=SizeConfig(scale=1))
X265 = ("-c:v", "libx265", "-x265-params", "log-level=none:pools=none", "-pix_fmt", "yuv420p")


def refused(source: Path) -> str:
    """The sentence with which every command refuses a video."""
    target = source.with_name("out.mkv")
    sentences = set()
    for command in (
        ("info", source),
        ("upscale", source, target, "--model", "bicubic", "--scale", "1"),
        ("slowmo", source, target),
        ("faces", source),
    ):
        result = CliRunner().invoke(app, [str(argument) for argument in command])
        assert result.exit_code == 3, (result.stderr, result.exception)
        sentences.add(result.stderr)
    assert not target.exists()
    (text,) = sentences
    (sentence,) = text.splitlines()
    return sentence


@pytest.mark.parametrize("ending", ["mp4", "mov"])
def test_dolby_vision_without_a_base_layer_that_others_can_show_is_refused(tmp_path: Path, ending: str) -> None:
    sentence = refused(media.dolby_vision(tmp_path / f"a.{ending}", 5, 0))
    assert "is Dolby Vision of profile 5" in sentence and "convert it to HDR10 or SDR first" in sentence


@pytest.mark.parametrize(("profile", "compatibility"), [(8, 1), (8, 4), (8, 2), (7, 6), (4, 2)])
def test_dolby_vision_with_a_base_layer_goes_on_and_its_metadata_is_named(
    tmp_path: Path, profile: int, compatibility: int
) -> None:
    source = media.dolby_vision(tmp_path / "a.mp4", profile, compatibility)
    report = enhance(source, tmp_path / "b.mkv", BICUBIC)
    assert report.frames_out == 3
    assert "the result lacks the Dolby Vision metadata of the input" in report.warnings


@pytest.mark.parametrize(
    ("profile", "compatibility", "is_refused"),
    [(5, 0, True), (10, 0, True), (20, 0, True), (10, 1, False), (10, 4, False), (20, 4, False), (7, 0, False)],
)
def test_profiles_of_dolby_vision(profile: int, compatibility: int, is_refused: bool) -> None:
    text = (
        "  Stream #0:0: Video: hevc\n    Side data:\n"
        f"      DOVI configuration record: version: 1.0, profile: {profile}, level: 5, rpu flag: 1, el flag: 0, "
        f"bl flag: 1, compatibility id: {compatibility}, compression: 0\n  Stream #0:1: Video: hevc\n"
    )
    refuse_unmapped(text, 1, Path("a.mp4"))
    if is_refused:
        with pytest.raises(InputError, match=f"profile {profile},"):
            refuse_unmapped(text, 0, Path("a.mp4"))
    else:
        refuse_unmapped(text, 0, Path("a.mp4"))


def test_raw_dolby_vision_is_judged_by_the_metadata_of_its_frames(tmp_path: Path) -> None:
    """Raw HEVC has no header that states the profile."""
    source = media.raw_dolby_vision(tmp_path / "a.hevc", profile=0, is_full_range=True)
    with av.open(str(source)) as container:
        frame = next(container.decode(video=0))
        assert "DOVI_METADATA" in [side.type.name for side in frame.side_data]
    assert "is Dolby Vision of profile 5" in refused(source)


@pytest.mark.parametrize(("profile", "is_full_range"), [(1, False), (1, True), (0, False)])
def test_raw_dolby_vision_with_a_base_layer_goes_on(tmp_path: Path, profile: int, is_full_range: bool) -> None:
    report = enhance(media.raw_dolby_vision(tmp_path / "a.hevc", profile, is_full_range), tmp_path / "b.mkv", BICUBIC)
    assert report.frames_out == 3
    assert "the result lacks the Dolby Vision metadata of the input" in report.warnings


@pytest.mark.parametrize("options", [media.X264, X265], ids=["h264", "hevc"])
def test_encrypted_video_is_called_encrypted(tmp_path: Path, options: tuple[str, ...]) -> None:
    sentence = refused(media.encrypted(tmp_path / "a.mp4", options))
    assert "a.mp4 is encrypted, and vidsr does not decrypt: give a copy" in sentence


def test_encrypted_video_that_ffmpeg_cannot_open_is_called_encrypted(tmp_path: Path) -> None:
    source = media.encrypted(tmp_path / "a.mp4")
    data = bytearray(source.read_bytes())
    count = data.index(b"senc") + 8
    data[count : count + 4] = (1 << 20).to_bytes(4, "big")
    source.write_bytes(data)
    with pytest.raises(av.InvalidDataError):
        av.open(str(source))
    assert "a.mp4 is encrypted" in refused(source)


def test_boxes_of_damaged_files_end_the_search(tmp_path: Path) -> None:
    source = media.encrypted(tmp_path / "a.mp4")
    data = source.read_bytes()
    moov = data[data.index(b"moov") - 4 :]
    known = moov.index(b"encv") + 4
    for end in (*range(0, known, 7), known):
        source.write_bytes(moov[:end])
        assert is_protected_movie(source) == (end == known)
        for size in (b"\0\0\0\3", b"\xff\xff\xff\xff", b"\0\0\0\0"):
            source.write_bytes(moov[:end] + size + moov[end:])
            is_protected_movie(source)
    source.write_bytes(b"\0\0\0\x08free" * 100_000 + moov)
    assert not is_protected_movie(source)


def test_video_that_becomes_encrypted_later_is_called_encrypted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Purchased videos often begin with clear frames."""
    source = media.encrypted(tmp_path / "a.mp4")
    clear = probe(media.clip(tmp_path / "clear.mp4", 5))
    monkeypatch.setattr("vidsr.video.probe.Source.probe", lambda _: clear)
    with pytest.raises(InputError, match="is encrypted"):
        enhance(source, tmp_path / "b.mkv", BICUBIC)
    assert not (tmp_path / "b.mkv").exists()


def test_encrypted_audio_beside_clear_video_is_left_out_and_named(tmp_path: Path) -> None:
    source = media.encrypted_audio(tmp_path / "a.mp4")
    report = enhance(source, tmp_path / "b.mkv", BICUBIC)
    assert any("it is encrypted" in warning for warning in report.warnings)
    with av.open(str(tmp_path / "b.mkv")) as container:
        assert not container.streams.audio


def test_encrypted_matroska_is_called_encrypted(tmp_path: Path) -> None:
    assert "a.mkv is encrypted" in refused(media.encrypted_matroska(tmp_path / "a.mkv"))


def test_encrypted_audio_in_matroska_is_left_out_and_named(tmp_path: Path) -> None:
    report = enhance(media.encrypted_matroska(tmp_path / "a.mkv", 1), tmp_path / "b.mkv", BICUBIC)
    assert any("stream 1 (audio aac) is left out: it is encrypted" in warning for warning in report.warnings)


@pytest.mark.parametrize("extended", [False, True])
def test_windows_media_with_drm_is_called_encrypted(tmp_path: Path, extended: bool) -> None:
    assert "a.wmv is encrypted" in refused(media.protected_asf(tmp_path / "a.wmv", extended))


def test_a_dvd_with_css_is_called_encrypted(tmp_path: Path) -> None:
    """Its frames seem to decode, because the decoder conceals what is scrambled."""
    assert "a.vob is encrypted" in refused(media.scrambled_dvd(tmp_path / "a.vob"))


@pytest.mark.parametrize("name", ["a.mkv", "a.wmv", "a.vob", "a.webm", "a.mp4"])
def test_clear_files_are_not_called_encrypted(tmp_path: Path, name: str) -> None:
    codec = {"a.wmv": "wmv2", "a.vob": "mpeg2video", "a.mkv": "mpeg4", "a.webm": "libvpx", "a.mp4": "mpeg4"}[name]
    source = media.clip(tmp_path / name, 5, options=("-c:v", codec, "-b:v", "1M"))
    assert protected_streams(probe(source).container, source) == frozenset()
    assert not is_protected_movie(source)


def test_scrambled_television_is_called_encrypted(tmp_path: Path) -> None:
    assert "a.ts is encrypted" in refused(media.scrambled(tmp_path / "a.ts"))


def test_a_damaged_recording_is_not_called_encrypted(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.ts", 5)
    data = bytearray(media.scrambled(tmp_path / "b.ts").read_bytes())
    for at in range(0, len(data), 188):
        data[at + 3] &= 0x3F
    source.write_bytes(data)
    assert "holds no frame that can be decoded" in refused(source)
