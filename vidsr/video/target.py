"""The output's place on the disk: may we write there, the hidden file, and its final name. Knows nothing of video."""

from __future__ import annotations

import os
from pathlib import Path

from vidsr.errors import OutputError
from vidsr.video.errors import writing

LONGEST_NAME = 255


def check_target(target: Path, source: Path, may_overwrite: bool) -> Path:
    """The absolute path of an output that may be made; its folder is not created.

    Raises OutputError if it exists (unless `may_overwrite`), is the input, or cannot be written where it is.
    """
    target = target.absolute()
    folder = target.parent
    if len(os.fsencode(target.name)) > LONGEST_NAME:
        raise OutputError(f"The name {target.name[:40]}… is too long for a file; choose a shorter one")
    with writing(target):
        if target.is_dir():
            raise OutputError(f"{target} is a folder; name a file")
        if not folder.is_dir():
            raise OutputError(f"The folder {folder} does not exist; create it or choose another")
        if target.exists():
            if source.exists() and target.samefile(source):
                raise OutputError(f"{target} is the input itself; choose another name for the output")
            if not may_overwrite:
                raise OutputError(f"{target} already exists; choose another name or give --overwrite")
            if not target.is_file():
                raise OutputError(f"{target} is not an ordinary file and cannot be replaced; choose another name")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"The folder {folder} is not writable; choose another or change its permissions")
    return target


def reserve(hidden: Path) -> None:
    """Creates the hidden file, which must not exist. Raises OSError."""
    os.close(os.open(hidden, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def publish(hidden: Path, target: Path, may_overwrite: bool) -> None:
    """Gives a finished file its name once it is on the disk. Raises OutputError or OSError."""
    descriptor = os.open(hidden, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if target.exists() and not may_overwrite:
        raise OutputError(f"{target} has appeared since the start; it was left as it is, and the result was not kept")
    hidden.replace(target)
