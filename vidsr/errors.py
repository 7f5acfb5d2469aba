"""The one error tree. Each class owns its exit code; the command line shows the message as one line."""

from __future__ import annotations

from typing import ClassVar


class VidsrError(Exception):
    """Anything a user can cause. The message says what, where and what to do, in one line."""

    exit_code: ClassVar[int] = 1


class UsageError(VidsrError):
    """Options or a configuration that make no sense."""

    exit_code = 2


class InputError(VidsrError):
    """The input is missing, unreadable or not a video."""

    exit_code = 3


class OutputError(VidsrError):
    """The output cannot be written."""

    exit_code = 4


class ModelError(VidsrError):
    """A model is unknown, has no weights here, or its file is not what its card says."""

    exit_code = 5


class DeviceError(VidsrError):
    """The device does not exist or its memory is too small."""

    exit_code = 6


class CheckError(VidsrError):
    """The finished file failed its check, or something was lost under --strict."""

    exit_code = 7


EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "a defect of vidsr",
    2: "usage or configuration",
    3: "input",
    4: "output",
    5: "model",
    6: "device or memory",
    7: "the finished file failed its check, or something was lost under --strict",
    130: "interrupted",
}
