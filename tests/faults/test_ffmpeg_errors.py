"""Every error that PyAV can raise becomes a one-line vidsr error, for input and for output."""

from __future__ import annotations

import errno
import inspect
import logging
from pathlib import Path

import av
import pytest

from vidsr.errors import DeviceError, InputError, OutputError, VidsrError
from vidsr.video.errors import input_error, log_switched_on, output_error, reading, writing

PATH = Path("a video.mp4")
KINDS = sorted(
    {kind for _, kind in inspect.getmembers(av.error, inspect.isclass) if issubclass(kind, av.error.FFmpegError)},
    key=lambda kind: kind.__name__,
)


def make_error(kind: type[Exception]) -> Exception:
    return kind(1, "what FFmpeg says")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_pyav_error_class_is_translated(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    if issubclass(kind, MemoryError):
        monkeypatch.setattr("vidsr.video.errors.is_memory_short", lambda: True)
    for translate, expected in ((input_error, InputError), (output_error, OutputError)):
        error = translate(make_error(kind), PATH)
        assert isinstance(error, DeviceError if issubclass(kind, MemoryError) else expected)
        assert str(PATH) in str(error)
        assert "\n" not in str(error)
        assert "Errno" not in str(error)


def test_there_are_classes_to_translate() -> None:
    assert len(KINDS) > 40


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_errno_is_translated(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if number == errno.ENOMEM:
        monkeypatch.setattr("vidsr.video.errors.is_memory_short", lambda: True)
    for guard, expected in ((reading, InputError), (writing, OutputError)):
        with pytest.raises(VidsrError) as caught, guard(PATH):
            av.error.err_check(-number)
        assert type(caught.value) is (DeviceError if number in (errno.ENOMEM, errno.EAGAIN) else expected)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EFBIG, "exceed the size limit"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.ENOENT, "its folder does not exist"),
    ],
)
def test_ffmpeg_and_python_errors_have_the_same_message(number: int, words: str) -> None:
    with pytest.raises(OutputError, match=words), writing(PATH):
        raise OSError(number, "text")
    with pytest.raises(OutputError, match=words), writing(PATH):
        av.error.err_check(-number)


def test_vidsr_errors_and_internal_errors_pass_through() -> None:
    with pytest.raises(InputError, match=r"^mine$"), writing(PATH):
        raise InputError("mine")
    with pytest.raises(KeyError), reading(PATH):
        raise KeyError("a defect")


def test_log_is_part_of_the_message_and_not_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2" + b"\0\0\1\0mdat" + bytes(248))
    with pytest.raises(InputError, match="moov atom not found"), reading(broken), log_switched_on():
        av.open(str(broken))
    assert av.logging.get_level() is None
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("libav").level == logging.WARNING


def test_an_invalid_argument_is_explained_by_the_log(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as silent, writing(tmp_path / "a.mkv"):
        raise av.error.ArgumentError(22, "Invalid argument", "a.mkv", None)
    assert "does not say which" in str(silent.value)
    with pytest.raises(OutputError) as logged, writing(tmp_path / "a.mkv"):
        raise av.error.ArgumentError(22, "Invalid argument", "a.mkv", (16, "mp4", "Tag xyz is too long"))
    assert str(logged.value) == f"{tmp_path / 'a.mkv'} cannot be written: Tag xyz is too long"
