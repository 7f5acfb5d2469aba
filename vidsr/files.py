"""Files: video extensions, checks of output paths, and atomic writes."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from vidsr.errors import DeviceError, OutputError, VidsrError

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts"}
    | {".mxf", ".ogv", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
)

IMAGE_SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# FFmpeg's muxer for each supported output extension. FFmpeg's own muxer for .m4v supports neither HEVC nor AV1; the
# file format is that of .mp4.
MUXERS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}

# Those of pipes only: y4m keeps neither times nor other streams.
PIPE_MUXERS = {".y4m": "yuv4mpegpipe"}

MAX_NAME_BYTES = 255
_SAMPLE_BYTES = 1 << 20

# The name of a HiddenFile: the beginning of the target's name, a random number, and the target's extension.
_HIDDEN_NAME = re.compile(r"\..{0,40}\.[0-9a-f]{12}\.part(\..*)?", re.DOTALL)
# An empty hidden file that is younger may have been created but not locked yet, where these are two steps.
_SECONDS_TO_LOCK = 60.0

_SYSTEM_REASONS: tuple[tuple[type[OSError], str], ...] = (
    (FileNotFoundError, "its folder does not exist"),
    (FileExistsError, "it already exists"),
    (IsADirectoryError, "it is a folder"),
    (NotADirectoryError, "a part of its path is not a folder"),
    (PermissionError, "permission denied"),
)

_NUMBERED_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the size limit",
    errno.EROFS: "the file system is read-only",
    errno.EIO: "the disk reports an error",
}


def system_reason(error: Exception) -> str | None:
    """Why the system refuses to write a file, in a few words; None for an unknown error."""
    for kind, reason in _SYSTEM_REASONS:
        if isinstance(error, kind):
            return reason
    return _NUMBERED_REASONS.get(getattr(error, "errno", None) or 0)


def output_error(error: Exception, path: Path) -> VidsrError:
    """The user error for a failure to write `path`: OutputError, or DeviceError if memory ran out."""
    if isinstance(error, MemoryError):
        return DeviceError(f"not enough memory to write {path}: close other programs")
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return OutputError(f"{path} cannot be written: {system_reason(error) or ' '.join(said.split())}")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError or MemoryError raised in the block into the error of `output_error`."""
    try:
        yield
    except (OSError, MemoryError) as error:
        raise output_error(error, path) from error


def url_of(path: Path) -> str | None:
    """The URL from which a path was made, with both of its slashes; None if the path is none."""
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.+)", str(path), re.DOTALL)
    return None if match is None else f"{match[1]}://{match[2]}"


def check_target(target: Path, source: Path | None, may_overwrite: bool, also_read: Iterable[Path] = ()) -> Path:
    """Checks that an output may be written and returns its absolute path; creates nothing.

    Raises OutputError if it exists (unless `may_overwrite`), is the input `source` or another file that the run reads
    (`also_read`), or its folder cannot be written to.
    """
    if (url := url_of(target)) and not target.parent.is_dir():
        raise OutputError(f"{url} is a URL, and results are local files: name a file")
    target = target.absolute()
    folder = target.parent
    if len(os.fsencode(target.name)) > MAX_NAME_BYTES:
        raise OutputError(f"the file name {target.name[:40]}… is too long: choose a shorter one")
    with writing(target):
        if target.is_dir():
            raise OutputError(f"{target} is a folder: name a file")
        if not folder.is_dir():
            raise OutputError(f"the folder {folder} does not exist: create it or choose another")
        if target.exists():
            if source is not None and source.exists() and target.samefile(source):
                raise OutputError(f"{target} is the input itself: choose another name for the output")
            if any(path.exists() and target.samefile(path) for path in also_read):
                raise OutputError(f"{target} is a file that this run reads: choose another name for the output")
            if not may_overwrite:
                raise OutputError(f"{target} already exists: choose another name or give --overwrite")
            if not target.is_file():
                raise OutputError(f"{target} is not a regular file and cannot be replaced: choose another name")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"the folder {folder} is not writable: choose another or change its permissions")
    return target


def sample_digest(path: Path) -> str:
    """A hash of a file's size, its first and its last MiB, as hexadecimal digits: quick for files of any size.

    Raises OSError.
    """
    import hashlib  # here, so that commands without a video begin sooner

    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest = hashlib.blake2b(str(size).encode(), digest_size=16)
        for begin in (0, max(0, size - _SAMPLE_BYTES)):
            file.seek(begin)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


class WatchedFile:
    """An input file that is held open from the start, to find out at the end whether it was changed in between.

    A file that was replaced or deleted is the same: whoever has it open goes on reading the old one.
    """

    def __init__(self, path: Path) -> None:
        self.file = path.open("rb")
        self._before = os.fstat(self.file.fileno())

    @property
    def change(self) -> str | None:
        """How the size or the time of the last change differs from the start, in words; None if neither does."""
        before, now = self._before, os.fstat(self.file.fileno())
        if now.st_size != before.st_size:
            how = "grew" if now.st_size > before.st_size else "shrank"
            return f"the file {how} from {before.st_size} to {now.st_size} bytes while it was read"
        return "the file was written to while it was read" if now.st_mtime_ns != before.st_mtime_ns else None

    def close(self) -> None:
        """Closes the file."""
        self.file.close()


def lock(descriptor: int) -> bool:
    """Locks an open file for this process until it is closed; False if another process has locked it.

    True also where there are no locks: on Windows, and on file systems without them.
    """
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def sync_file(path: Path) -> None:
    """Waits until a file's contents are on the disk. Raises OSError."""
    _sync(path, os.O_RDWR)


def sync_folder(path: Path) -> None:
    """Waits until the names in a folder are on the disk, where the system can do that."""
    if os.name == "posix":
        # Names are right in any case, so a file system that cannot sync folders must not fail the run.
        with suppress(OSError):
            _sync(path, os.O_RDONLY)


class HiddenFile:
    """A hidden file next to `target` that `publish` renames to it; removed at the end of the `with` block otherwise.

    `path` is its path, with the target's extension; the file is created on entering the block. It is locked until the
    end of the block, so that `remove_stale_files` knows it is in use; write into this file, do not replace it. Raises
    OSError; `publish` raises OutputError if the target has appeared in the meantime and `overwrite` is off.
    """

    def __init__(self, target: Path, *, overwrite: bool) -> None:
        self.target = target.absolute()
        suffix = target.suffix[:32]
        self.path = self.target.with_name(f".{target.stem[:40]}.{os.urandom(6).hex()}.part{suffix}")
        self._overwrite = overwrite
        self._lock: int | None = None
        self.is_published = False

    def __enter__(self) -> Self:
        self._lock = _create_locked(self.path)
        if fcntl is None:
            os.close(self._lock)  # Windows does not rename an open file
            self._lock = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.path.unlink(missing_ok=True)
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def publish(self, sync: bool = True) -> None:
        """Renames the finished file to its target; with `sync` it is first flushed to disk."""
        if sync:
            sync_file(self.path)
        if self.target.exists() and not self._overwrite:
            raise OutputError(
                f"{self.target} has appeared since the start: it was not replaced, and the output was discarded"
            )
        self.path.replace(self.target)
        self.is_published = True
        if sync:
            sync_folder(self.target.parent)


class HiddenFolder:
    """A hidden folder inside `folder`, whose files `publish` moves into `folder` under their own names.

    `path` is its path; it is created on entering the `with` block, and removed with what is still in it at the end.
    `folder` is created as needed, and removed again if it stays empty. It is locked as a HiddenFile is. Raises OSError.
    """

    def __init__(self, folder: Path, name: str, *, overwrite: bool) -> None:
        """`name` is that of the result, for the name of the hidden folder."""
        self.folder = folder.absolute()
        self.path = self.folder / f".{name[:40]}.{os.urandom(6).hex()}.part"
        self._overwrite = overwrite
        self._made: list[Path] = []
        self._lock: int | None = None

    def __enter__(self) -> Self:
        self._made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.path.mkdir()
            if fcntl is not None:
                self._lock = os.open(self.path, os.O_RDONLY)
                with suppress(OSError):  # a file system without locks: nobody removes the folder
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            with suppress(OSError):  # stops at the first one that is not empty
                for path in self._made:
                    path.rmdir()
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def publish(self, sync: bool = True) -> None:
        """Moves the finished files to their folder; with `sync` they are first flushed to disk.

        Raises OutputError if one of them has appeared there in the meantime and `overwrite` is off. If it fails in the
        middle, the files that were moved and replaced nothing are removed again.
        """
        names = sorted(entry.name for entry in os.scandir(self.path))
        for name in names:
            if sync:
                _sync(self.path / name, os.O_RDWR)
            self._refuse_new(self.folder / name)
        moved: list[Path] = []
        try:
            for name in names:
                target = self.folder / name
                is_new = not target.exists()
                self._refuse_new(target)
                if is_new:
                    moved.append(target)
                (self.path / name).replace(target)
        except BaseException:
            for path in moved:
                if not (self.path / path.name).exists():
                    path.unlink(missing_ok=True)
            raise
        if sync and os.name == "posix":
            with suppress(OSError):  # a file system that cannot sync folders must not fail the run
                _sync(self.folder, os.O_RDONLY)

    def _refuse_new(self, target: Path) -> None:
        if target.exists() and not self._overwrite:
            raise OutputError(
                f"{target} has appeared since the start: it was not replaced, and the output was discarded"
            )


@contextmanager
def atomic_write(target: Path, *, overwrite: bool, sync: bool = True) -> Iterator[Path]:
    """Yields the path of a hidden file to write in the block; it is renamed to `target` when the block ends.

    If the block raises, nothing is left behind and an existing target is unchanged. A system error, also in the block,
    becomes an OutputError, or a DeviceError if memory ran out. Also raises OutputError if the target appeared in the
    meantime without `overwrite`. `sync` False is for files that can be regenerated, such as caches.
    """
    with writing(target), HiddenFile(target, overwrite=overwrite) as hidden:
        yield hidden.path
        hidden.publish(sync)


def _create_locked(path: Path) -> int:
    """Creates a file, locked if there are locks, and returns its descriptor; in one step where the system has a way."""
    descriptor = _nameless_file(path.parent)
    if descriptor is not None:
        try:
            os.link(f"/proc/self/fd/{descriptor}", path, follow_symlinks=True)
            return descriptor
        except FileExistsError:
            os.close(descriptor)
            raise
        except OSError:  # without /proc, or on a file system without links
            os.close(descriptor)
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks: nobody removes the file
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _nameless_file(folder: Path) -> int | None:
    """The descriptor of a new, locked file in a folder that has no name yet; None where there is no such thing."""
    if fcntl is None or not hasattr(os, "O_TMPFILE"):
        return None
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_locked_from_the_start(folder: Path) -> bool:
    """Whether a HiddenFile in this folder has its name only after it is locked."""
    descriptor = _nameless_file(folder)
    if descriptor is None:
        return False
    os.close(descriptor)
    return Path("/proc/self/fd").exists()


def remove_stale_files(folder: Path, dead: Path | None = None) -> list[Path]:
    """Removes hidden files that killed runs have left in a folder, and returns their paths; never raises OSError.

    A file that a living process holds is locked (see HiddenFile) and stays; so does every file on a system or file
    system without such locks. A new, empty file stays too where it may be about to be locked (see `_create_locked`),
    unless it is for the output `dead`, whose run is known to have ended.
    """
    ended = None if dead is None else f".{dead.stem[:40]}."
    removed: list[Path] = []
    if fcntl is None:
        return removed
    with suppress(OSError):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if not _HIDDEN_NAME.fullmatch(entry.name):
                continue
            has_ended = ended is not None and entry.name.startswith(ended)
            with suppress(OSError):
                if entry.is_file(follow_symlinks=False):
                    removed += _removed_if_stale(Path(entry.path), has_ended)
                elif entry.is_dir(follow_symlinks=False):
                    removed += _removed_folder_if_stale(Path(entry.path), has_ended)
    return removed


def stale_warnings(folder: Path) -> list[str]:
    """Does what `remove_stale_files` does, and returns a sentence about each file."""
    return [f"removed {path}, the unfinished output of a run that was killed" for path in remove_stale_files(folder)]


def _removed_if_stale(path: Path, has_ended: bool) -> list[Path]:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status = os.fstat(descriptor)
        is_new = status.st_size == 0 and time.time() - status.st_mtime < _SECONDS_TO_LOCK
        if is_new and not has_ended and not _is_locked_from_the_start(path.parent):
            return []
        path.unlink()
        return [path]
    finally:
        os.close(descriptor)


def _removed_folder_if_stale(path: Path, has_ended: bool) -> list[Path]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        entries = list(os.scandir(path))
        if not has_ended and not entries and time.time() - os.fstat(descriptor).st_mtime < _SECONDS_TO_LOCK:
            return []
        if not all(entry.is_file(follow_symlinks=False) for entry in entries):
            return []  # a HiddenFolder holds nothing but files
        shutil.rmtree(path)
        return [path]
    finally:
        os.close(descriptor)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
