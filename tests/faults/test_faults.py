"""Faults on the command line: documented exit code, one-line error, no leftovers, existing files unchanged."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from typer.testing import CliRunner, Result

from tests.support import media
from vidsr.cli import app
from vidsr.config import ComputeConfig, SizeConfig, UpscaleConfig
from vidsr.engines.bicubic import BicubicEngine
from vidsr.errors import CheckError, DeviceError, OutputError
from vidsr.faces.yunet import Yunet
from vidsr.models.cards import models_folder, read_card
from vidsr.pipeline.run import Progress, enhance
from vidsr.runtime import memory
from vidsr.stages.scenes import SceneMarker
from vidsr.types import Frame
from vidsr.video.errors import input_error, output_error
from vidsr.video.writer import Writer

ROOT = Path(__file__).parents[2]
FAST = ("--model", "bicubic", "--scale", "1")


def vidsr_cli(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(result: Result, code: int) -> str:
    """The one-line error message of a run that failed with this code."""
    assert result.exit_code == code, (result.stderr, result.exception)
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("error: ") and "Traceback" not in sentence
    assert result.stdout == ""
    return sentence


@pytest.fixture
def video(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    return media.clip(folder / "video.mp4", 3)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


@contextmanager
def program(*arguments: str | Path, largest_file: int | None = None) -> Iterator[subprocess.Popen[str]]:
    """Runs vidsr in its own process, which is killed at the end of the block."""

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    process = subprocess.Popen(
        [sys.executable, "-m", "vidsr", *map(str, arguments)],
        # Bytecode written under the limit would be cut short, and every later run of the checkout would fail on it.
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


# -------------------------------------------------------------------------------------------------------------- input


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "random", "audio", "cover", "long name", "not a video"])
def test_input_that_is_no_video_is_3(tmp_path: Path, out: Path, kind: str) -> None:
    path = tmp_path / f"bad {kind}.mp4"
    contents = {"empty": b"", "text": b"This is not a video.\n" * 50, "random": os.urandom(20_000)}
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "audio":
        media.audio_only(path)
    elif kind == "cover":
        media.cover_only(path)
    elif kind == "long name":
        path = tmp_path / ("x" * 300 + ".mp4")
    elif kind == "not a video":
        path.mkdir()
    sentence = refused(vidsr_cli("upscale", path, out / "b.mp4", *FAST), 3)
    assert str(path) in sentence
    assert names(out) == []
    if kind != "not a video":
        assert refused(vidsr_cli("info", path), 3)


def test_folder_that_cannot_be_listed_is_3(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulates a permission error, because root ignores permissions."""

    def denied(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    folder = tmp_path / "closed"
    folder.mkdir()
    monkeypatch.setattr(Path, "iterdir", denied)
    result = vidsr_cli("upscale", folder, out, *FAST)
    assert "Permission denied" in refused(result, 3)


def test_file_that_cannot_be_read_is_3(video: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != video and allowed(path, mode))
    assert "permission denied" in refused(vidsr_cli("upscale", video, out / "b.mp4", *FAST), 3)
    assert names(out) == []


# ------------------------------------------------------------------------------------------------------------- output


def test_existing_output_is_4_and_untouched(video: Path, out: Path) -> None:
    (out / "b.mp4").write_bytes(b"precious")
    assert "--overwrite" in refused(vidsr_cli("upscale", video, out / "b.mp4", *FAST), 4)
    assert (out / "b.mp4").read_bytes() == b"precious" and names(out) == ["b.mp4"]


@pytest.mark.parametrize("place", ["missing/b.mp4", "file/b.mp4", "", "b.unknown", "x" * 300 + ".mp4"])
def test_places_where_no_video_can_be_are_4(video: Path, out: Path, place: str) -> None:
    (out / "file").write_bytes(b"precious")
    refused(vidsr_cli("upscale", video, out / place, *FAST), 4)
    assert names(out) == ["file"] and (out / "file").read_bytes() == b"precious"


def test_folder_that_takes_no_file_is_4(video: Path) -> None:
    """/proc accepts no files, not even from root."""
    refused(vidsr_cli("upscale", video, "/proc/b.mp4", *FAST), 4)


def test_existing_report_is_4_and_untouched(video: Path, out: Path) -> None:
    """Before any work; with -y it is replaced."""
    (out / "r.json").write_bytes(b"precious")
    arguments = ("upscale", video, out / "b.mp4", *FAST, "--report", out / "r.json")
    assert "--overwrite" in refused(vidsr_cli(*arguments), 4)
    assert (out / "r.json").read_bytes() == b"precious" and names(out) == ["r.json"]
    assert vidsr_cli(*arguments, "-y").exit_code == 0
    assert len(json.loads((out / "r.json").read_text())["runs"]) == 1


@pytest.mark.parametrize("read", ["card", "weights", "detector", "input", "link"])
def test_nothing_that_a_run_reads_is_replaced(video: Path, out: Path, card: Path, read: str) -> None:
    """Neither by the output nor by the report nor by the files of `faces`, even with -y."""
    detector = card.with_name("face-detector.onnx")
    path = {"card": card, "weights": read_card(card).weights_path, "detector": detector}.get(read, video)
    if read == "link":
        path = out / "link.json"
        path.hardlink_to(card)
    before = path.read_bytes()
    options = ("-y", "--model", card, "--face-detector", detector)
    refused(vidsr_cli("upscale", video, out / "b.mp4", *options, "--report", path), 4)
    refused(vidsr_cli("upscale", video, path, *options), 4)
    if read in ("detector", "input"):
        refused(vidsr_cli("faces", video, "--json", path, "-y", "--face-detector", detector), 4)
    assert path.read_bytes() == before
    assert not (out / "b.mp4").exists()


def test_an_input_of_a_folder_run_is_not_replaced_by_another_output(video: Path) -> None:
    other = media.clip(video.with_name("video_x.mp4"), 4)
    before = other.read_bytes()
    result = vidsr_cli("upscale", video.parent, video.parent, *FAST, "--suffix", "_x", "-y")
    assert result.exit_code == 4 and "an input of this run too" in result.stderr
    assert other.read_bytes() == before
    assert names(video.parent) == ["video.mp4", "video_x.mp4", "video_x_x.mp4"]


def test_video_and_result_the_same_is_4(video: Path) -> None:
    before = video.read_bytes()
    assert "the input itself" in refused(vidsr_cli("upscale", video, video, *FAST, "-y"), 4)
    assert video.read_bytes() == before and names(video.parent) == [video.name]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--codec", "nosuch"],
        ["--codec", "aac"],
        ["--pix-fmt", "nosuch"],
        ["--preset", "nosuch"],
        ["--crf", "99"],
        ["--encoder-option", "nosuch=1"],
        ["--codec", "ffv1", "--crf", "10"],
        ["--codec", "libvpx-vp9", "--preset", "slow"],
    ],
    ids=" ".join,
)
def test_what_no_encoder_takes_is_4(video: Path, out: Path, arguments: list[str]) -> None:
    (out / "b.mp4").write_bytes(b"precious")
    refused(vidsr_cli("upscale", video, out / "b.mp4", *FAST, "-y", *arguments), 4)
    assert (out / "b.mp4").read_bytes() == b"precious" and names(out) == ["b.mp4"]


def test_codec_that_the_container_cannot_hold_is_4(video: Path, out: Path) -> None:
    refused(vidsr_cli("upscale", video, out / "b.webm", *FAST, "--codec", "libx264"), 4)
    assert names(out) == []


@pytest.mark.parametrize("limit", [16, 6_000])
def test_full_disk_is_4(video: Path, out: Path, limit: int) -> None:
    """Disk full at the first byte, and in the middle of the video."""
    (out / "b.mkv").write_bytes(b"precious")
    arguments = ("upscale", video, out / "b.mkv", "--model", "bicubic", "--codec", "ffv1", "-y", "-q")
    with program(*arguments, largest_file=limit) as process:
        stdout, stderr = process.communicate()
    assert process.returncode == 4 and stdout == ""
    assert stderr.count("\n") == 1 and stderr.startswith("error: ")
    assert (out / "b.mkv").read_bytes() == b"precious" and names(out) == ["b.mkv"]


# -------------------------------------------------------------------------------------------------------------- model


@pytest.fixture
def card(tmp_path: Path) -> Path:
    shutil.copytree(models_folder(), tmp_path / "models")
    return tmp_path / "models" / "secnet-fast.toml"


def test_unknown_model_is_5(video: Path, out: Path, tmp_path: Path) -> None:
    for model in ("nosuch", tmp_path / "none.toml"):
        refused(vidsr_cli("upscale", video, out / "b.mp4", "--model", model), 5)
    assert names(out) == []


@pytest.mark.parametrize("fault", ["tampered", "truncated", "missing", "card"])
def test_model_that_is_not_whole_is_5(video: Path, out: Path, card: Path, fault: str) -> None:
    path = read_card(card).weights_path
    data = bytearray(path.read_bytes())
    if fault == "tampered":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    elif fault == "truncated":
        path.write_bytes(data[:-100])
    elif fault == "missing":
        path.unlink()
    else:
        card.write_text(card.read_text().replace("licence", "license", 1))
    (out / "b.mp4").write_bytes(b"precious")
    refused(vidsr_cli("upscale", video, out / "b.mp4", "-y", "--model", card), 5)
    assert (out / "b.mp4").read_bytes() == b"precious" and names(out) == ["b.mp4"]
    refused(vidsr_cli("models", "verify", card), 5)


# ------------------------------------------------------------------------------------------------- device and memory


def test_device_that_is_not_here_is_6(video: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for device in ("cuda", "cuda:0", "cuda:7"):
        assert "--device cpu" in refused(vidsr_cli("upscale", video, out / "b.mp4", *FAST, "--device", device), 6)
    assert names(out) == []


def starve(monkeypatch: pytest.MonkeyPatch, is_too_large: Callable[[Frame], bool]) -> None:
    """Makes the engine run out of memory on frames for which `is_too_large` is true."""
    step = BicubicEngine.step

    def hungry_step(engine: BicubicEngine, frame: Frame, state: object) -> object:
        if is_too_large(frame):
            raise torch.OutOfMemoryError("out of memory")
        return step(engine, frame, state)  # type: ignore[arg-type]

    monkeypatch.setattr(BicubicEngine, "step", hungry_step)


def test_memory_that_is_too_small_for_any_tile_is_6(tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starve(monkeypatch, lambda frame: True)
    source = media.clip(tmp_path / "a.mp4", 3, 256, 96)
    assert "not enough memory for this" in refused(vidsr_cli("upscale", source, out / "b.mp4", *FAST), 6)
    assert names(out) == []


@pytest.mark.parametrize("message", ["could not create a primitive", "std::bad_alloc"])
def test_a_library_that_lacks_memory_is_6_wherever_it_runs(
    video: Path, out: Path, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    """oneDNN in the network, where tiles are tried first; and anything else, such as the conversion of colors."""

    def lack(*_: object, **__: object) -> None:
        raise RuntimeError(message)

    for place, name in ((BicubicEngine, "step"), (Writer, "write"), (SceneMarker, "step")):
        with monkeypatch.context() as context:
            context.setattr(place, name, lack)
            assert "not enough memory" in refused(vidsr_cli("upscale", video, out / "b.mp4", *FAST), 6)
            result = vidsr_cli("upscale", video.parent, out, *FAST)  # in a folder, too
            assert result.exit_code == 6 and "not enough memory" in result.stderr
        assert names(out) == []


def test_a_detector_that_lacks_memory_is_6(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lack(*_: object, **__: object) -> None:
        raise RuntimeError("Failed to allocate memory for requested buffer of size 1")

    monkeypatch.setattr(Yunet, "run", lack)
    assert "not enough memory" in refused(vidsr_cli("faces", video), 6)


@pytest.mark.parametrize("allowed", range(3))
def test_a_system_without_more_threads_is_6(
    video: Path, out: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    """Wherever a run starts a thread; a limit on processes cannot be tried as root."""
    monkeypatch.setattr("vidsr.cli.options.check_threads", lambda: None)
    start, started = threading.Thread.start, 0

    def limited(thread: threading.Thread) -> None:
        nonlocal started
        started += 1
        if started > allowed:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    assert "--pids-limit" in refused(vidsr_cli("upscale", video, out / "b.mp4", *FAST), 6)
    assert names(out) == []


def test_too_few_threads_are_6_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy and torch crash where they cannot start their threads."""
    started = list[threading.Thread]()
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    assert "--pids-limit" in refused(vidsr_cli("info", "none.mp4"), 6)
    assert len(started) == 3 and not any(thread.is_alive() for thread in started)


def test_an_encoder_that_lacks_memory_or_threads_is_6(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """x264 calls both an unknown error and says the cause in its log; pthread_create fails with EAGAIN."""

    def external(log: str) -> Exception:
        return av.error.ExternalError(542398533, "Generic error in an external library", "", (16, "libx264", log))

    assert isinstance(output_error(external("malloc of size 9 failed"), tmp_path), DeviceError)
    assert isinstance(output_error(external("invalid preset"), tmp_path), OutputError)
    silent = av.error.ExternalError(542398533, "Generic error in an external library")
    assert isinstance(output_error(silent, tmp_path), OutputError)
    with monkeypatch.context() as context:
        context.setattr(memory, "SMALL_ALLOCATION", 1 << 62)
        assert isinstance(output_error(silent, tmp_path), DeviceError)
    for error in (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), MemoryError()):
        assert isinstance(output_error(error, tmp_path), DeviceError)
        assert isinstance(input_error(error, tmp_path), DeviceError)


@pytest.mark.parametrize("command", ["info", "upscale", "slowmo", "faces"])
def test_a_header_that_demands_absurd_memory_is_damage(tmp_path: Path, out: Path, command: str) -> None:
    """FFmpeg's error is then a lack of memory, whatever the machine has."""
    source = tmp_path / "a.mp4"
    data = media.clip(source, 3).read_bytes()
    count = data.index(b"stts") + 8  # the number of entries of the table of times
    source.write_bytes(data[:count] + (0x7FFFFFFF).to_bytes(4, "big") + data[count + 4 :])
    target = (out / "b.mp4",) if command in ("upscale", "slowmo") else ()
    assert "demands more memory than a video needs" in refused(vidsr_cli(command, source, *target), 3)
    assert names(out) == []


def test_memory_that_runs_out_while_frames_are_decoded_is_no_damage(
    video: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the frames would be missing in a result that is called complete."""

    class Starved:
        def __init__(self, stream: av.VideoStream) -> None:
            self._own, self._packets = stream.codec_context, 0

        def __getattr__(self, name: str) -> object:
            return getattr(self._own, name)

        def decode(self, packet: av.Packet[av.VideoStream] | None) -> list[av.VideoFrame]:
            self._packets += 1
            if self._packets == 3:
                raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")
            return self._own.decode(packet)

    monkeypatch.setattr("vidsr.video.decoding.decoder_of", Starved)
    monkeypatch.setattr("vidsr.video.errors.is_memory_short", lambda: True)
    assert "no memory left to read it" in refused(vidsr_cli("upscale", video, out / "b.mp4", *FAST), 6)
    assert names(out) == []


def test_memory_that_is_enough_for_small_tiles_loses_no_frame(
    tmp_path: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = media.clip(tmp_path / "a.mp4", 5, 256, 96)
    assert vidsr_cli("upscale", source, out / "whole.mkv", *FAST, "--codec", "ffv1").exit_code == 0
    starve(monkeypatch, lambda frame: frame.image.shape[-1] > 64 and frame.pts * frame.time_base > Fraction(1, 25))
    arguments = ("--codec", "ffv1", "--report", out / "r.json")
    result = vidsr_cli("upscale", source, out / "tiles.mkv", *FAST, *arguments)
    assert result.exit_code == 0 and "after 2 frames; from here on the tile is 64 pixels" in result.stderr
    (run,) = json.loads((out / "r.json").read_text())["runs"]
    words = ["fewer frames wait in queues", "the tile is 128 pixels", "the tile is 64 pixels"]
    assert run["tile"] == 64 and [step["what"] for step in run["memory_steps"]] == words
    assert len(run["warnings"]) == 3
    whole, tiles = (media.ffmpeg_framemd5(out / name) for name in ("whole.mkv", "tiles.mkv"))
    assert len(whole.frames) == len(tiles.frames) == 5 and whole.times == tiles.times


# ------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("command", ["info", "upscale", "faces"])
def test_url_is_named_as_one_and_is_3(out: Path, command: str) -> None:
    target = (out / "b.mp4", *FAST) if command == "upscale" else ()
    sentence = refused(vidsr_cli(command, "https://example.com/a/b.mp4", *target), 3)
    assert "https://example.com/a/b.mp4 is a URL" in sentence


def test_url_as_output_is_4(video: Path) -> None:
    sentence = refused(vidsr_cli("upscale", video, "rtmp://example.com/live/x.mp4", *FAST), 4)
    assert "rtmp://example.com/live/x.mp4 is a URL" in sentence


def test_tags_of_the_program_that_wrote_an_avi_are_no_loss(tmp_path: Path, out: Path) -> None:
    source = media.clip(tmp_path / "a.avi", 3, options=("-c:v", "mpeg4", "-metadata", "software=Editor 1.0"))
    assert vidsr_cli("upscale", source, out / "b.mp4", *FAST, "--strict").exit_code == 0


@pytest.fixture(params=["truncated.mkv", "truncated.mp4", "smashed.mp4"])
def damaged(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """An intact video and a damaged copy of it."""
    kind, _, ending = request.param.partition(".")
    front = ("-movflags", "+faststart") if ending == "mp4" else ()
    whole = media.clip(tmp_path / f"whole.{ending}", 40, 128, 96, (*media.X264, *front))
    path = tmp_path / f"bad.{ending}"
    if kind == "truncated":
        return whole, media.truncated(whole, path)
    return whole, media.damaged_payload(whole, path, range(15, 20))


def test_damaged_video_is_written_as_far_as_it_can_be_read_and_told(damaged: tuple[Path, Path], out: Path) -> None:
    whole, bad = damaged
    target = out / f"b{bad.suffix}"
    result = vidsr_cli("upscale", bad, target, *FAST, "--report", out / "r.json")
    assert result.exit_code == 0, result.stderr
    run = json.loads((out / "r.json").read_text())["runs"][0]
    assert run["damages"] and all(damage["reason"] for damage in run["damages"])
    assert result.stderr.count(f"warning: {bad} is damaged ") == len(run["damages"])
    written = media.ffmpeg_framemd5(target).times
    assert run["frames_out"] == len(written) > 10
    assert set(written) <= set(media.ffmpeg_framemd5(whole).times)


def test_strict_allows_no_damage_and_leaves_nothing(damaged: tuple[Path, Path], out: Path) -> None:
    (out / "b.mkv").write_bytes(b"precious")
    sentence = refused(vidsr_cli("upscale", damaged[1], out / "b.mkv", *FAST, "-y", "--strict"), 7)
    assert "damaged" in sentence
    assert (out / "b.mkv").read_bytes() == b"precious" and names(out) == ["b.mkv"]


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(path.read_bytes())


def _garble(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(500))


@pytest.mark.parametrize("ending", ["ts", "mp4", "mkv", "avi", "mpg"])
@pytest.mark.parametrize(("change", "words"), [(_halve, "shrank"), (_append, "grew"), (_garble, "was written to")])
def test_input_that_changes_during_the_run_is_told_and_with_strict_7(
    tmp_path: Path, ending: str, change: Callable[[Path], None], words: str
) -> None:
    codec = ("-c:v", "mpeg2video", "-q:v", "2") if ending in ("avi", "mpg") else media.X264
    source = media.clip(tmp_path / f"a.{ending}", 30, options=codec)
    config = UpscaleConfig(compute=ComputeConfig(model="bicubic"), size=SizeConfig(scale=1))

    def changing() -> Callable[[Progress], None]:
        todo = [change]
        return lambda _: todo.pop()(source) if todo else None

    whole = source.read_bytes()
    report = enhance(source, tmp_path / "b.mkv", config, changing())
    assert [damage.reason for damage in report.damages if f"the file {words}" in damage.reason]
    source.write_bytes(whole)
    with pytest.raises(CheckError, match="damaged"):
        enhance(source, tmp_path / "c.mkv", replace(config, strict=True), changing())
    assert not (tmp_path / "c.mkv").exists()


def test_input_that_is_replaced_or_deleted_during_the_run_is_whole(tmp_path: Path) -> None:
    source = media.clip_with_audio(tmp_path / "a.mp4")
    config = UpscaleConfig(compute=ComputeConfig(model="bicubic"), size=SizeConfig(scale=1))
    report = enhance(source, tmp_path / "b.mp4", config, lambda _: source.unlink(missing_ok=True))
    assert report.damages == []
    assert report.frames_out == media.COUNT


def test_strict_allows_no_stream_to_be_left_out(tmp_path: Path, out: Path) -> None:
    source = media.with_attachment(tmp_path / "a.mkv")
    assert vidsr_cli("upscale", source, out / "a.mp4", *FAST).exit_code == 0
    refused(vidsr_cli("upscale", source, out / "b.mp4", *FAST, "--strict"), 7)
    assert vidsr_cli("upscale", source, out / "c.mkv", *FAST, "--strict").exit_code == 0
    assert names(out) == ["a.mp4", "c.mkv"]


def test_strict_is_content_with_a_whole_video(tmp_path: Path, out: Path) -> None:
    source = media.clip_with_audio(tmp_path / "a.mp4")
    assert vidsr_cli("upscale", source, out / "b.mp4", *FAST, "--strict").exit_code == 0


# -------------------------------------------------------------------------------------------------------- interruption


@pytest.fixture
def long_video(tmp_path: Path) -> Path:
    """A video that takes a minute to enlarge by 8."""
    path = tmp_path / "long.mp4"
    media.ffmpeg("-f", "lavfi", "-i", "testsrc=size=160x120:rate=25:duration=60", *media.X264, f"file:{path}")
    return path


@pytest.mark.parametrize(
    "sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda sent: sent.name
)
def test_stopped_in_the_middle(long_video: Path, out: Path, sent: signal.Signals) -> None:
    (out / "old.mp4").write_bytes(b"precious")
    arguments = ("--model", "bicubic", "--scale", "8", "--progress", "json", "-y")
    with program("upscale", long_video, out / "old.mp4", *arguments) as process:
        assert process.stderr is not None
        assert '"progress"' in process.stderr.readline()
        process.send_signal(sent)
        _, stderr = process.communicate()
    assert (out / "old.mp4").read_bytes() == b"precious"
    if sent == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        assert len(names(out)) == 2
        short = media.clip(out.parent / "short.mp4", 3)
        result = vidsr_cli("upscale", short, out / "new.mp4", *FAST)
        assert result.exit_code == 0 and "the unfinished output of a run that was killed" in result.stderr
        assert names(out) == ["new.mp4", "old.mp4"]
        return
    assert process.returncode == 128 + sent
    assert json.loads(stderr.splitlines()[-1]) == {
        "event": "error",
        "text": "interrupted: no unfinished output was kept",
    }
    assert "Traceback" not in stderr and names(out) == ["old.mp4"]
