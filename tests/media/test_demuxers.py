"""Only single media files are read: never a list of other files, whatever its name, and never a pipe."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from av.format import ContainerFormat, formats_available
from typer.testing import CliRunner

from tests.support import media
from vidsr.cli import app
from vidsr.errors import InputError
from vidsr.train.dataset import read_clip
from vidsr.video.demuxers import _LISTS, ALLOWED

NO_FILE = 1  # AVFMT_NOFILE: the demuxer opens files itself
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\nother.ts\n#EXT-X-ENDLIST\n"
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
DASH = (
    '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S">'
    '<Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1000"><BaseURL>other.ts</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>\n"
)
VOBSUB = "# VobSub index file, v7\nsize: 720x576\nid: en, index: 0\ntimestamp: 00:00:01:000, filepos: 000000000\n"
# Name, contents, and a part of the sentence.
LISTS = {
    "concat": ("x.mp4", "ffconcat version 1.0\nfile other.ts\n", "a list of other files (concat)"),
    "hls": ("x.m3u8", HLS, "a playlist (hls)"),
    "dash": ("x.mpd", DASH, "x.mpd is"),
    "sdp": ("x.mp4", SDP, "the address of a stream (sdp)"),
    "vobsub": ("x.idx", VOBSUB, "subtitles in another file (vobsub)"),
    "tty": ("x.nfo", "a text\n" * 50, "not a video that vidsr reads (FFmpeg takes it for tty)"),
}


@pytest.fixture(params=LISTS)
def listing(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A file that names `other.ts`, which lies beside it, and a part of the sentence that refuses it."""
    name, text, words = LISTS[request.param]
    media.clip(tmp_path / "other.ts", 3)
    (tmp_path / "x.sub").write_bytes(bytes(4096))
    (tmp_path / name).write_text(text)
    return tmp_path / name, words


def refused(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 3, (result.stderr, result.exception)
    return result.stderr


def test_a_list_of_other_files_is_refused_by_every_command(listing: tuple[Path, str]) -> None:
    path, words = listing
    target = path.with_name("out.mkv")
    for command in (
        ("info", path),
        ("upscale", path, target, "--model", "bicubic"),
        ("slowmo", path, target),
        ("faces", path),
    ):
        sentence = refused(*command)
        assert words in sentence and sentence.count("\n") == 1
    assert not target.exists()


def test_training_follows_no_list(listing: tuple[Path, str]) -> None:
    with pytest.raises(InputError, match="is a text, not a video"):
        read_clip(listing[0])


def test_a_pattern_of_images_is_refused_even_if_a_file_has_that_name(tmp_path: Path) -> None:
    for name in ("f1.png", "f2.png", "f%d.png"):
        media.encode(tmp_path / name, [media.numbered_image(1)], ("-frames:v", "1", "-update", "1"))
    assert "series of images (image2)" in refused("info", tmp_path / "f%d.png")
    assert media.read_number(read_clip(media.animated_gif(tmp_path / "50%d.gif"))[3]) == 3  # no name of an image


def test_a_folder_run_reads_only_its_own_files(tmp_path: Path) -> None:
    folder, elsewhere, out = tmp_path / "in", tmp_path / "elsewhere", tmp_path / "out"
    folder.mkdir()
    elsewhere.mkdir()
    media.clip(folder / "good.mp4", 3)
    secret = media.clip(elsewhere / "secret.ts", 3)
    (folder / "bad.mp4").write_text(f"ffconcat version 1.0\nfile {secret}\n")
    said = refused("upscale", folder, out, "--model", "bicubic", "--scale", "1")
    assert "bad.mp4 is a list of other files" in said and "1 of 2 failed" in said
    assert [path.name for path in out.iterdir()] == ["good.mp4"]


def test_devices_are_refused_and_pipes_where_they_would_be_read_twice(tmp_path: Path) -> None:
    for command in (("info", "/dev/null"), ("upscale", "/dev/null", tmp_path / "out.mkv"), ("faces", "/dev/null")):
        assert "write the video to a file first" in refused(*command)
    os.mkfifo(tmp_path / "pipe.mp4")  # without a writer, opening it would wait for ever
    assert "write the video to a file first" in refused("eval", tmp_path / "pipe.mp4", tmp_path / "pipe.mp4")


def test_a_pipe_of_a_shell_is_read(tmp_path: Path) -> None:
    content = media.clip(tmp_path / "a.mkv", 2).read_bytes()
    read, write = os.pipe()
    try:
        os.write(write, content)  # less than a pipe holds
        os.close(write)
        done = CliRunner().invoke(app, ["info", f"/dev/fd/{read}", "--json"])  # as a shell's <(...) names it
    finally:
        os.close(read)
    assert done.exit_code == 0 and '"width": 64' in done.stdout and len(content) < 65536


def test_allowed_demuxers_exist_and_open_no_other_files() -> None:
    inputs = {}
    for name in formats_available:
        try:
            inputs[name] = ContainerFormat(name, "r").flags
        except ValueError:
            continue  # a muxer only
    assert set(ALLOWED) <= set(inputs) and len(ALLOWED) == len(set(ALLOWED))
    assert not [name for name in ALLOWED if inputs[name] & NO_FILE]
    assert not set(ALLOWED) & set(_LISTS)
