"""Pipes: what goes through named pipes and standard streams, read and written by the ffmpeg program."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest

import vidsr
from tests.support import media
from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import CheckError, InputError, OutputError, UsageError
from vidsr.runtime.queues import background, prefetch
from vidsr.types import RunReport
from vidsr.video.pipe_source import PipeSource
from vidsr.video.pipes import PipeInput, PipeOutput, is_pipe_input, is_pipe_output
from vidsr.video.sources import open_reader, plan_result, source_of

ROOT = Path(__file__).parents[2]
PLAIN = ("--model", "bicubic", "--scale", "1", "--codec", "ffv1", "--pix-fmt", "bgr0")
PATIENCE = 120  # seconds, for a machine that is busy; nothing takes this long


@contextmanager
def fed(path: Path, content: bytes) -> Iterator[Path]:
    """A named pipe into which a thread writes."""
    os.mkfifo(path)

    def write() -> None:
        try:
            with path.open("wb") as pipe:
                pipe.write(content)
        except BrokenPipeError:
            pass

    thread = threading.Thread(target=write)
    thread.start()
    yield path
    thread.join(PATIENCE)
    assert not thread.is_alive()


@contextmanager
def drained(path: Path) -> Iterator[Callable[[], bytes]]:
    """A named pipe that a thread reads to its end; yields a function that returns what was read."""
    os.mkfifo(path)
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(path.read_bytes()))
    thread.start()

    def content() -> bytes:
        thread.join(PATIENCE)
        return found[0]

    yield content
    thread.join(PATIENCE)


def upscale(source: Path, target: Path, **options: Any) -> RunReport:
    report = vidsr.upscale(source, target, **{"model": "bicubic", "scale": 1} | options)
    assert isinstance(report, RunReport)
    return report


def made(*arguments: str) -> bytes:
    """What the ffmpeg program writes to its stdout."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", *arguments, "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def frames_of(content: bytes) -> list[np.ndarray[Any, Any]]:
    with av.open(io.BytesIO(content)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def numbers_of(content: bytes) -> list[int]:
    return [media.read_number(frame) for frame in frames_of(content)]


def packets(file: Path | io.BytesIO, kind: str) -> list[tuple[Fraction, bytes]]:
    with av.open(str(file) if isinstance(file, Path) else file) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(stream) if p.size and p.pts is not None]


def test_a_pipe_gives_what_a_file_gives_with_its_sound(tmp_path: Path) -> None:
    clip = media.clip_with_audio(tmp_path / "a.mkv")
    upscale(clip, tmp_path / "file.mkv", scale=2)
    with fed(tmp_path / "in", clip.read_bytes()) as source, drained(tmp_path / "out") as content:
        report = upscale(source, tmp_path / "out", scale=2)
    assert "could not be read back and checked" in report.notes[-1] and report.warnings == []
    streamed = io.BytesIO(content())
    assert packets(streamed, "audio") == packets(tmp_path / "file.mkv", "audio")
    streamed.seek(0)
    assert packets(streamed, "video") == packets(tmp_path / "file.mkv", "video")


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv444p", "gray", "yuv422p10le"])
def test_y4m_in_and_out_is_exact(tmp_path: Path, pixel_format: str) -> None:
    strict = ("-strict", "-1") if "10" in pixel_format else ()
    clip = media.clip(tmp_path / "a.mkv", 5)
    content = made("-i", str(clip), "-pix_fmt", pixel_format, *strict, "-f", "yuv4mpegpipe")
    with fed(tmp_path / "in", content) as source, drained(tmp_path / "out.y4m") as result:
        report = upscale(source, tmp_path / "out.y4m")
    assert report.warnings == []
    before, after = (
        subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", "-", *strict, "-f", "framemd5", "-"],
            input=each, capture_output=True, check=True,
        ).stdout
        for each in (content, result())
    )  # fmt: skip
    if pixel_format == "gray":
        assert before == after
    elif "444" in pixel_format:  # through RGB and back, rounded once each way
        planes = [
            np.stack([f.to_ndarray() for f in av.open(io.BytesIO(each)).decode(video=0)]).astype(int)
            for each in (content, result())
        ]
        assert np.abs(planes[0] - planes[1]).max() <= 1
    tables = [each.decode().splitlines() for each in (before, after)]
    heads = [[line for line in lines if line.startswith(("#tb", "#dim"))] for lines in tables]
    assert heads[0] == heads[1]
    assert numbers_of(result()) == list(range(5))


def test_raw_video_needs_a_description(tmp_path: Path) -> None:
    images = media.numbered_images(4)
    raw = b"".join(image.tobytes() for image in images)
    description = {"input_format": "rawvideo", "input_size": (media.WIDTH, media.HEIGHT), "input_pix_fmt": "rgb24"}
    exact = {"codec": "ffv1", "pix_fmt": "bgr0"}
    with fed(tmp_path / "in", raw) as source:
        upscale(source, tmp_path / "b.mkv", **description, **exact, rate="30000/1001")
    (tmp_path / "in.rgb").write_bytes(raw)  # a file works too
    upscale(tmp_path / "in.rgb", tmp_path / "c.mkv", **description, **exact, rate="30000/1001")
    for name in ("b.mkv", "c.mkv"):
        assert all(map(np.array_equal, frames_of((tmp_path / name).read_bytes()), images))
        with av.open(str(tmp_path / name)) as container:
            assert container.streams.video[0].average_rate == Fraction(30000, 1001)
    for wrong, words in (
        ({"input_format": "rawvideo"}, "give --input-size and --input-pix-fmt"),
        ({"input_size": (64, 48)}, "give --input-format rawvideo too"),
        (description | {"input_pix_fmt": "rgb99"}, "is no pixel format of FFmpeg"),
        ({"input_format": "hls"}, "is no format that vidsr reads"),
        ({"rate": 25}, "has its own"),
    ):
        with pytest.raises(UsageError, match=words):
            upscale(tmp_path / "in.rgb", tmp_path / "d.mkv", **wrong)
    assert not (tmp_path / "d.mkv").exists()


def test_a_part_of_a_pipe(tmp_path: Path) -> None:
    clip = media.clip_with_audio(tmp_path / "a.mkv")
    upscale(clip, tmp_path / "file.mkv", start="0.2", end="0.52")
    with fed(tmp_path / "in", clip.read_bytes()) as source:
        upscale(source, tmp_path / "b.mkv", start="0.2", end="0.52")
    assert numbers_of((tmp_path / "b.mkv").read_bytes()) == list(range(5, 13))
    assert packets(tmp_path / "b.mkv", "audio") == packets(tmp_path / "file.mkv", "audio")


def test_images_out_of_a_pipe_and_slow_motion_into_one(tmp_path: Path) -> None:
    clip = media.clip(tmp_path / "a.mkv", 3)
    with fed(tmp_path / "in", clip.read_bytes()) as source:
        upscale(source, tmp_path / "out" / "%d.png")
    assert len(list((tmp_path / "out").iterdir())) == 3
    clip = media.clip_with_audio(tmp_path / "b.mkv", 4)
    with drained(tmp_path / "o.y4m") as content:
        report = vidsr.slow_motion(clip, tmp_path / "o.y4m")
    assert isinstance(report, RunReport) and any("audio" in warning for warning in report.warnings)
    assert len(frames_of(content())) == 7


def test_what_y4m_does_not_hold_is_named(tmp_path: Path) -> None:
    for clip, options, words in (
        (media.clip_with_audio(tmp_path / "a.mkv"), {}, "stream 1"),
        (media.rotated(tmp_path / "b.mp4"), {}, "no rotation"),
        (media.variable_rate(tmp_path / "c.mkv"), {}, "even times"),
        (media.with_chapters(tmp_path / "d.mkv"), {}, "no tags"),
    ):
        pipe = tmp_path / f"{clip.stem}.y4m"
        with drained(pipe):
            assert any(words in warning for warning in upscale(clip, pipe, **options).warnings), words
        pipe.unlink()
        with drained(pipe), pytest.raises(CheckError, match="--strict allows no loss"):
            upscale(clip, pipe, strict=True)


def test_what_no_pipe_can_give(tmp_path: Path) -> None:
    with fed(tmp_path / "empty", b"") as source, pytest.raises(InputError, match="is empty: the program that writes"):
        upscale(source, tmp_path / "b.mkv")
    # So long that its beginning is not in a buffer any more when the index comes.
    media.ffmpeg("-f", "lavfi", "-i", "testsrc2=s=640x480:d=1", "-c:v", "mjpeg", "-q:v", "1", str(tmp_path / "a.mp4"))
    late = (tmp_path / "a.mp4").read_bytes()
    with fed(tmp_path / "late", late) as source, pytest.raises(InputError, match="its index is at the end"):
        upscale(source, tmp_path / "b.mkv")
    other = b"ffconcat version 1.0\nfile /etc/passwd\n"
    with fed(tmp_path / "list", other) as source, pytest.raises(InputError, match="is a list of other files"):
        upscale(source, tmp_path / "b.mkv")
    clip = media.clip(tmp_path / "a.mkv", 2)
    with pytest.raises(UsageError, match="--output-format is for pipes"):
        upscale(clip, tmp_path / "b.mkv", output_format="y4m")
    with pytest.raises(OutputError, match="vidsr writes"):
        upscale(clip, tmp_path / "b.y4m")
    with pytest.raises(UsageError, match="--quality is for images"), drained(tmp_path / "o"):
        try:
            upscale(clip, tmp_path / "o", quality=90)
        finally:
            os.close(os.open(tmp_path / "o", os.O_WRONLY))  # ends the thread that waits for a writer
    assert not (tmp_path / "b.mkv").exists()


def test_a_writer_that_ends_early_is_damage_where_the_format_shows_it(tmp_path: Path) -> None:
    content = made("-i", str(media.clip(tmp_path / "a.mkv", 8)), "-c:v", "ffv1", "-f", "matroska")
    with fed(tmp_path / "in", content[: len(content) * 2 // 3]) as source:
        report = upscale(source, tmp_path / "b.mkv")
    assert 2 <= report.frames_out < 8 and report.damages


def test_bytes_are_dropped_when_all_have_read_them(tmp_path: Path) -> None:
    content = made("-i", str(media.clip(tmp_path / "a.mkv")), "-vf", "scale=320:240", "-f", "yuv4mpegpipe")
    with fed(tmp_path / "in", content) as path:
        source = source_of(path, InputConfig())
        assert isinstance(source, PipeSource)
        info = source.probe()
        plan_result(tmp_path / "b.mkv", source, info, (320, 240), OutputConfig(), InputConfig())
        copies = source.open_copies("replace")
        source.release_copies()
        import torch

        with open_reader(source, InputConfig(), torch.device("cpu"), info) as reader:
            kept = [source.pipe.stored for _ in reader.frames()]
        copies.close()
    assert source.pipe.size == len(content) and kept[-1] <= 1 << 17 < kept[0] + (1 << 17)
    assert max(kept[-5:]) < len(content) // 4


def test_a_read_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "in")
    keeper = os.open(tmp_path / "in", os.O_RDWR)  # a writer that never writes
    pipe = PipeInput(tmp_path / "in")
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(pipe.view("frames").read(10)))
    thread.start()
    pipe.cancel()
    thread.join(PATIENCE)
    os.close(keeper)
    assert found == [b""] and pipe.view("copies").read(10) == b""


def test_a_write_that_waits_can_be_cancelled(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "out")
    keeper = os.open(tmp_path / "out", os.O_RDWR)  # a reader that never reads
    pipe = PipeOutput(tmp_path / "out")
    thread = threading.Thread(target=lambda: pipe.write(bytes(1 << 20)))  # more than a pipe holds
    thread.start()
    pipe.cancel()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    pipe.close()
    os.close(keeper)


def test_a_block_that_fails_cancels_what_waits() -> None:
    waiting = threading.Event()

    def forever() -> Iterator[int]:
        waiting.wait()
        yield from ()

    with pytest.raises(ValueError, match="stop"), prefetch(forever(), 1, cancel=waiting.set):
        raise ValueError("stop")
    waiting.clear()
    written = background(lambda _: bool(waiting.wait()) and None, 1, cancel=waiting.set)
    with pytest.raises(ValueError, match="stop"), written as put:
        put(1)
        raise ValueError("stop")


def test_what_is_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.png")
    (tmp_path / "file").touch()
    assert is_pipe_input(tmp_path / "p.png") and is_pipe_output(tmp_path / "p.png")
    for path in (tmp_path / "file", tmp_path, tmp_path / "none", Path("/dev/null")):
        assert not is_pipe_input(path) and not is_pipe_output(path)
    assert is_pipe_output(Path("-")) and is_pipe_output(Path("/dev/stdout"))


# ------------------------------------------------------------------------------------------------ standard streams


def started(*arguments: str, cwd: Path, **streams: Any) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "vidsr", *arguments], cwd=cwd, env=environment, **streams)


def test_between_two_programs(tmp_path: Path) -> None:
    clip = media.clip_with_audio(tmp_path / "a.mkv")
    ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
    first = subprocess.Popen(
        [ffmpeg, "-v", "error", "-i", str(clip), "-c", "copy", "-f", "matroska", "-"], stdout=subprocess.PIPE
    )
    middle = started(
        "upscale", "-", "-", *PLAIN, cwd=tmp_path, stdin=first.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    last = subprocess.Popen(
        [ffmpeg, "-v", "error", "-i", "-", "-c", "copy", str(tmp_path / "b.mkv")], stdin=middle.stdout
    )
    for pipe in (first.stdout, middle.stdout):
        assert pipe is not None
        pipe.close()
    assert middle.stderr is not None
    said = middle.stderr.read().decode()
    middle.stderr.close()
    assert [each.wait(PATIENCE) for each in (first, middle, last)] == [0, 0, 0]
    assert said.startswith("done: ") and "warning" not in said and "error" not in said
    assert numbers_of((tmp_path / "b.mkv").read_bytes()) == list(range(media.COUNT))
    assert len(packets(tmp_path / "b.mkv", "audio")) == len(packets(clip, "audio"))


def test_a_reader_that_ends_early_ends_the_run_quietly(tmp_path: Path) -> None:
    clip = media.clip(tmp_path / "a.mkv")
    run = started(
        "upscale", str(clip), "-", *PLAIN, "--scale", "4", cwd=tmp_path, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert run.stdout is not None and run.stderr is not None
    assert len(run.stdout.read(100)) == 100
    run.stdout.close()
    said = run.stderr.read()
    run.stderr.close()
    assert (run.wait(PATIENCE), said) == (141, b"")


@pytest.mark.parametrize("sent", ["nothing", "the beginning"])
def test_ctrl_c_ends_a_run_that_waits_for_a_stalled_writer(tmp_path: Path, sent: str) -> None:
    content = made("-i", str(media.clip(tmp_path / "a.mkv")), "-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe")
    os.mkfifo(tmp_path / "in")
    run = started("upscale", "in", "b.mkv", *PLAIN, "--progress", "json", cwd=tmp_path, stderr=subprocess.PIPE)
    assert run.stderr is not None
    with (tmp_path / "in").open("wb", buffering=0) as pipe:  # opened when the run waits for its contents
        if sent == "the beginning":
            pipe.write(content[: len(content) * 3 // 4])
            run.stderr.readline()  # the first frame is done
        run.send_signal(signal.SIGINT)
        said = run.stderr.read().decode()
        assert run.wait(PATIENCE) == 130 and "interrupted" in said and "Traceback" not in said
    run.stderr.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "in"]


def test_an_encrypted_stream_is_refused_in_a_pipe_too(tmp_path: Path) -> None:
    content = media.scrambled(tmp_path / "a.ts").read_bytes()
    with fed(tmp_path / "in", content) as source, pytest.raises(InputError, match="is encrypted"):
        upscale(source, tmp_path / "b.mkv")
