"""All exceptions that vidsr raises on purpose, each with its exit code."""

from __future__ import annotations

from typing import ClassVar


class VidsrError(Exception):
    """Base class of errors caused by input, options or environment. The message is one line: cause, then remedy."""

    exit_code: ClassVar[int] = 1


class UsageError(VidsrError):
    """Invalid options or configuration."""

    exit_code = 2


class InputError(VidsrError):
    """The input is missing, unreadable or not a video."""

    exit_code = 3


class OutputError(VidsrError):
    """The output cannot be written."""

    exit_code = 4


class ModelError(VidsrError):
    """A model is unknown, has no weights on this machine, or its file does not match its card."""

    exit_code = 5


class DeviceError(VidsrError):
    """The device does not exist or ran out of memory."""

    exit_code = 6


class CheckError(VidsrError):
    """The output failed verification, or data was lost under --strict."""

    exit_code = 7


EXIT_CODES: dict[int, str] = {
    0: "success",
    1: "internal error",
    2: "invalid usage or configuration",
    3: "input",
    4: "output",
    5: "model",
    6: "device or memory",
    7: "output failed verification, or data was lost under --strict",
    129: "interrupted by SIGHUP",
    130: "interrupted by Ctrl-C",
    141: "the reader of stdout ended early",
    143: "interrupted by SIGTERM",
}

NO_THREADS = (
    "the system allows no more threads: raise the limit on processes and threads (ulimit -u, or --pids-limit of a "
    "container), or lower --threads"
)
# In the note that an error carries if the run that it ended can be resumed.
KEPT = "finished frames are kept in"
