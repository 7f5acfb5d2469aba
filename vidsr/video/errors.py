"""Translation of FFmpeg's errors to vidsr's, and access to FFmpeg's log.

The log is off by default. It is switched on only where its text is needed, and under a lock: the switch is global, and
a decoder thread that logs while another thread waits for it has caused deadlocks.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.codec.codec import UnknownCodecError

from vidsr.errors import NO_THREADS, DeviceError, InputError, OutputError, VidsrError
from vidsr.files import system_reason
from vidsr.runtime.memory import is_memory_short, is_out_of_memory, is_out_of_threads

_LOG_SWITCH = threading.RLock()
_FFMPEG_DEFAULT_LEVEL = av.logging.INFO

_INPUT_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (av.error.FileNotFoundError, "does not exist"),
    (av.error.IsADirectoryError, "is a folder, not a video"),
    (av.error.NotADirectoryError, "does not exist, because a part of its path is not a folder"),
    (av.error.PermissionError, "cannot be read: permission denied"),
    (av.error.InvalidDataError, "is not a video, or is too damaged to be opened"),
    (av.error.EOFError, "ends before the first frame"),
    (av.error.DecoderNotFoundError, "uses a codec that this FFmpeg cannot decode"),
    (av.error.DemuxerNotFoundError, "has a format that this FFmpeg cannot read"),
    (av.error.ProtocolNotFoundError, "is not a local file"),
    (av.error.PatchWelcomeError, "uses a feature that FFmpeg does not support"),
    (UnknownCodecError, "uses a codec that this FFmpeg does not know"),
)

_OUTPUT_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (av.error.EncoderNotFoundError, "this FFmpeg lacks the encoder; choose another with --codec"),
    (av.error.MuxerNotFoundError, "no container is known for its name; use .mkv or .mp4"),
    (av.error.OptionNotFoundError, "the encoder does not know an option; see --encoder-option"),
    (av.error.ExperimentalError, "the encoder is experimental; choose another with --codec"),
    (av.error.BSFNotFoundError, "this FFmpeg lacks a filter that the container needs"),
    (
        av.error.PatchWelcomeError,
        "the container cannot hold it, for instance a time far from the one before; write .mkv",
    ),
    (UnknownCodecError, "this FFmpeg does not know the encoder; choose another with --codec"),
)


_NO_MEMORY_TO_ENCODE = "no memory left to encode it; lower --threads or choose another --preset"
_SYSTEM_ERRORS = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


def file_url(path: Path) -> str:
    """The URL with which FFmpeg opens any path as a file, whatever colons, dashes and spaces it contains."""
    return f"file:{path}"


def is_excessive(error: Exception) -> bool:
    """Whether FFmpeg lacks memory although there is some: a damaged header demands more than it ever allocates."""
    return isinstance(error, av.error.MemoryError) and not is_memory_short()


def raise_shortage(error: Exception) -> None:
    """Raises an error again if it means that memory ran out, which is no damage of the input."""
    if isinstance(error, MemoryError) and not is_excessive(error):
        raise error


def input_error(error: Exception, path: Path) -> VidsrError:
    """The error to raise for a failure while reading `path`: InputError, or DeviceError if memory ran out."""
    if is_excessive(error):
        return InputError(
            f"{path} demands more memory than a video needs: it is damaged, or its frames are far too large"
        )
    if isinstance(error, MemoryError) or _says_memory(error):
        return DeviceError(f"{path}: no memory left to read it")
    if is_out_of_threads(error):
        return DeviceError(f"{path}: {NO_THREADS}")
    reason = _reason(error, _INPUT_REASONS) or f"cannot be read: {plain_text(error)}"
    detail = _log_text(error)
    return InputError(f"{path} {reason}" + (f" ({detail})" if detail else ""))


def output_error(error: Exception, path: Path) -> VidsrError:
    """The error to raise for a failure while writing `path`: OutputError, or DeviceError if memory ran out."""
    if isinstance(error, MemoryError) or _says_memory(error):
        return DeviceError(f"{path}: {_NO_MEMORY_TO_ENCODE}")
    if is_out_of_threads(error):
        return DeviceError(f"{path}: {NO_THREADS}")
    reason = _reason(error, _OUTPUT_REASONS) or system_reason(error)
    if reason is None and is_memory_short():  # x264 calls it an unknown error, other encoders invalid settings
        return DeviceError(f"{path}: {_NO_MEMORY_TO_ENCODE}")
    detail = _log_text(error)
    if reason is None and getattr(error, "errno", None) == errno.EINVAL:
        # What FFmpeg logged is the cause; its error only says that some argument is invalid.
        reason = detail or "FFmpeg finds an argument invalid and does not say which; try .mkv, or another --codec"
        detail = ""
    reason = reason or plain_text(error)
    return OutputError(f"{path} cannot be written: {reason}" + (f" ({detail})" if detail else ""))


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Translates errors of FFmpeg and of the system, raised inside while reading `path`, with `input_error`."""
    try:
        yield
    except (av.error.FFmpegError, UnknownCodecError, OSError, MemoryError) as error:
        raise input_error(error, path) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translates errors of FFmpeg and of the system, raised inside while writing `path`, with `output_error`."""
    try:
        yield
    except (av.error.FFmpegError, UnknownCodecError, OSError, MemoryError) as error:
        raise output_error(error, path) from error


@contextmanager
def log_switched_on(level: int = av.logging.ERROR) -> Iterator[None]:
    """Captures FFmpeg's log up to `level` in the text of errors (and of `dumps_format`), but not on the terminal."""
    logger = logging.getLogger("libav")
    with _LOG_SWITCH:
        before = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        av.logging.set_libav_level(level)
        av.logging.set_level(level)
        try:
            yield
        finally:
            av.logging.set_level(None)
            av.logging.set_libav_level(_FFMPEG_DEFAULT_LEVEL)
            logger.setLevel(before)


def plain_text(error: Exception) -> str:
    """FFmpeg's or the system's description of an error, without its number and file names."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).strip().replace("\n", " ")


def printable(text: str) -> str:
    """Text of a file for a message: bytes that are not UTF-8 (kept as surrogates) become escapes such as \\xe9."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def error_detail(error: Exception) -> str:
    """What FFmpeg logged about an error, else its description; without line breaks and a full stop at the end."""
    return (_log_text(error) or plain_text(error)).rstrip(".")


def _reason(error: Exception, table: tuple[tuple[type[Exception], str], ...]) -> str | None:
    """The reason of the first class in `table` that matches; FFmpeg classes also stand for their built-in bases."""
    for kind, reason in table:
        system = next((base for base in kind.__mro__ if base in _SYSTEM_ERRORS), kind)
        if isinstance(error, (kind, system)):
            return reason
    return None


def _says_memory(error: Exception) -> bool:
    """Whether FFmpeg's log gives memory as the cause; encoders such as x264 report it as an unknown error."""
    return is_out_of_memory(RuntimeError(_log_text(error)))


def _log_text(error: Exception) -> str:
    log = getattr(error, "log", None)
    return " ".join(str(log[2]).split()) if log else ""
