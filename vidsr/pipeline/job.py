"""Jobs: what a run has finished, kept in a folder beside its output, so that the same command can go on with it.

The folder of `film.mp4` is `.film.mp4.vidsr-job`. It holds finished segments, the states of the stages at the last two
borders, and a journal, to which one line is added for each of them once they are on the disk. A line is a CRC-32 in
hexadecimal and a JSON object; the first one describes the run. What is not in the journal, or is not what it says, does
not count.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
import re
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, cast

import torch

from vidsr import __version__
from vidsr.errors import KEPT, InputError, OutputError
from vidsr.files import lock, sync_file, sync_folder
from vidsr.models.cards import sha256_of
from vidsr.pipeline.plan import Plan
from vidsr.stages.base import Border
from vidsr.stages.saving import freeze, thaw
from vidsr.video.codecs import library_versions
from vidsr.video.errors import writing
from vidsr.video.segments import Segment, WriterState, segment_name

if TYPE_CHECKING:
    from vidsr.faces.pipeline import FacePlan

ENDING = ".vidsr-job"
FORMAT = 3
# Bytes at either end of the input that are compared, beside its size and its time.
COMPARED_BYTES = 1 << 20
# Largest part of the time that saving states may take; at some borders none is saved.
SAVING_SHARE = 0.02
STATES_KEPT = 2
_OWN_NAME = re.compile(r"(segment-\d{6,}|state-\d{9,})(\.part)?")
# Options that change nothing of what is in segments and states.
_FREE_OPTIONS = ("--overwrite", "--resume", "--strict")


def folder_of(target: Path) -> Path:
    """The folder of the job that makes `target`; it may not exist."""
    target = target.absolute()
    name = f".{target.name}{ENDING}"
    if len(os.fsencode(name)) > 255:
        name = f".{target.name[:20]}.{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}{ENDING}"
    return target.with_name(name)


@dataclass(frozen=True, slots=True)
class SavedState:
    """A state in the journal: its file, and how many frames and segments lie before it.

    `writer` is the writer's part, frozen: its `OutputTimes` and its warnings.
    """

    name: str
    size: int
    sha256: str
    frames_in: int
    frames_out: int
    segments: int
    writer: Any


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a run goes on: the frames before it, the states of the stages, and the writer's."""

    frames_in: int
    frames_out: int
    warnings: tuple[str, ...]
    stages: list[Any]
    writer: WriterState


@dataclass(frozen=True, slots=True)
class Mark:
    """A border on its way to the writer, with the state that was saved there, if any."""

    border: Border
    state: SavedState | None = None


@dataclass(slots=True)
class Journal:
    """What a journal says. `damage` tells from which line on it is not readable, None if all of it is.

    Segments that were made each on its own are in `results`, with what is to be known of them.
    """

    run: dict[str, Any] | None = None
    segments: dict[int, Segment] = field(default_factory=dict)
    states: list[SavedState] = field(default_factory=list)
    results: dict[int, Any] = field(default_factory=dict)
    length: int = 0
    damage: str | None = None

    @classmethod
    def read(cls, path: Path) -> Journal:
        """Reads a journal up to the first line that is not what was written. Raises OSError."""
        found = cls()
        data = path.read_bytes()
        for number, line in enumerate(data.splitlines(keepends=True), start=1):
            entry = _parsed(line)
            if entry is None or not found._add(entry):
                # A line without an end was being written when the run was stopped.
                found.damage = f"line {number} is damaged" if line.endswith(b"\n") else None
                break
            found.length += len(line)
        return found

    def _add(self, entry: dict[str, Any]) -> bool:
        kind = entry.pop("kind", None)
        try:
            if kind == "run":
                self.run = entry
            elif self.run is None:
                return False
            elif kind == "segment":
                number = entry.pop("number")
                segment = Segment(**entry)
                if segment.name != segment_name(number):
                    return False
                self.segments[number] = segment
            elif kind == "state":
                state = SavedState(**entry)
                if state.name != _state_name(state.frames_in):
                    return False
                self.states.append(state)
            elif kind == "result":
                name = segment_name(entry["number"])
                if Segment(**entry["segment"]).name != name:
                    return False
                self.results[entry["number"]] = entry
            else:
                return False
        except (TypeError, KeyError, ValueError):
            return False
        return True


def _state_name(frames_in: int) -> str:
    return f"state-{frames_in:09}"


def _own_files(folder: Path) -> Iterator[Path]:
    """The files of a job in its folder, without the journal; what else lies there is not ours to remove."""
    for path in folder.iterdir():
        if _OWN_NAME.fullmatch(path.name):
            yield path


def _parsed(line: bytes) -> dict[str, Any] | None:
    crc, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or crc != b"%08x" % zlib.crc32(text):
        return None
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _line(entry: Mapping[str, Any]) -> bytes:
    text = json.dumps(entry).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


class Job:
    """The job of a plan, begun or continued. Use it as a context manager; only one process has it at a time.

    `plan` is the given one with what the interrupted run had chosen by the free memory. `point` is where to go on, None
    for the beginning. `warnings` say what of an earlier run cannot be used. An exception leaves the folder as it is if
    it holds anything finished, and gets a note that says so; otherwise the folder is removed.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.folder = folder_of(plan.written_video.target)
        self.point: ResumePoint | None = None
        self.warnings: list[str] = []
        self._journal: Journal = Journal()
        self._file: int | None = None
        self._saved_at, self._saving_seconds = time.monotonic(), 0.0
        self._states: list[SavedState] = []
        self._is_discarded = False

    def __enter__(self) -> Self:
        """Raises OutputError if another process has the job, or it is that of another run."""
        path = self.folder / "journal"
        if self.folder.is_symlink() or path.is_symlink():
            raise OutputError(f"{self.folder} is a link, and not what vidsr keeps there: remove it")
        with writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            if not lock(self._file):
                name = self.plan.written_video.target.name
                raise OutputError(f"another vidsr is writing {name}: wait for it, or stop it")
            with writing(self.folder):
                self._journal = Journal.read(path)
                self._begin()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_discarded:
            self._close()
            return
        done = self._frames_kept()
        if error is not None and done is None:
            with suppress(OSError):
                self._remove_files()
        elif error is not None:
            error.add_note(
                f"{done} {KEPT} {self.folder}: the same command goes on after them, and "
                f"`vidsr jobs --clean {self.folder.parent}` throws them away"
            )
        self._close()

    def _frames_kept(self) -> int | None:
        """The number of finished frames of the output; None if nothing is worth keeping."""
        if self._states:
            return self._states[-1].frames_out
        return None if self.point is None else self.point.frames_out

    def _description(self) -> dict[str, Any]:
        """What a run has to have in common with the one that it continues."""
        return describe(self.plan)

    def wants_state(self) -> bool:
        """Whether saving a state now keeps to the share of the time that saving may take."""
        return SAVING_SHARE * (time.monotonic() - self._saved_at) >= self._saving_seconds

    def save_state(self, border: Border, frames_out: int) -> Mark:
        """Writes the states at a border to the disk, if it is time to; they count only after `record`."""
        if not self.wants_state():
            return Mark(border)
        started = time.monotonic()
        name = _state_name(border.frames_in)
        content = {"warnings": list(border.warnings), "stages": border.states}
        with writing(self.plan.written_video.target), (self.folder / f"{name}.part").open("wb") as file:
            hashed = _HashedFile(file)
            try:
                torch.save(content, cast(IO[bytes], hashed))
            except RuntimeError:
                if hashed.error is None:
                    raise
                raise hashed.error from None  # torch hides why the file cannot be written
        self._saving_seconds = time.monotonic() - started
        self._saved_at = time.monotonic()
        return Mark(border, SavedState(name, hashed.size, hashed.digest(), border.frames_in, frames_out, 0, None))

    def record(self, mark: Mark, segment: Segment | None, writer: WriterState) -> None:
        """Notes a finished segment and the state after it; from then on a run can go on there."""
        with writing(self.plan.written_video.target):
            if segment is not None:
                self._note("segment", {"number": len(writer.segments) - 1, **dataclasses.asdict(segment)})
            if mark.state is None:
                return
            part = self.folder / f"{mark.state.name}.part"
            sync_file(part)
            part.replace(self.folder / mark.state.name)
            sync_folder(self.folder)
            parts = freeze([writer.placing, writer.messages, writer.warnings])
            state = dataclasses.replace(mark.state, segments=len(writer.segments), writer=parts)
            self._note("state", dataclasses.asdict(state))
            self._states.append(state)
            while len(self._states) > STATES_KEPT:
                (self.folder / self._states.pop(0).name).unlink(missing_ok=True)

    def discard(self) -> None:
        """Removes the folder: the output is complete."""
        self._is_discarded = True
        with suppress(OSError):
            self._remove_files()

    def _begin(self) -> None:
        journal = self._journal
        if journal.run is None:
            if journal.damage is not None:
                raise OutputError(
                    f"the journal in {self.folder} does not say any more what it is of ({journal.damage}): throw the "
                    f"unfinished work away with `vidsr jobs --clean {self.folder.parent}`"
                )
            os.ftruncate(cast(int, self._file), 0)
            shown = {"target": self.plan.written_video.target.name, "expected": self.plan.expected.frames}
            self._note("run", {"format": FORMAT, **self._description(), **shown})
            sync_folder(self.folder)
            sync_folder(self.folder.parent)
            return
        self._adopt_tile(journal.run)
        self._check(journal.run)
        if journal.damage is not None:
            self.warnings.append(
                f"the journal in {self.folder} is damaged: what follows {journal.damage} does not count"
            )
        os.ftruncate(cast(int, self._file), journal.length)
        kept = self._take_up(journal)
        for path in _own_files(self.folder):
            if path.name not in kept:
                path.unlink()

    def _take_up(self, journal: Journal) -> set[str]:  # noqa: ARG002 - for jobs whose segments count by themselves
        """Finds out what of the interrupted run can be used; returns the names of its files."""
        self.point = self._resume_point()
        if self.point is None:
            return set()
        return {segment.name for segment in self.point.writer.segments} | {state.name for state in self._states}

    def _adopt_tile(self, run: dict[str, Any]) -> None:
        """Takes over the tile that the interrupted run chose by the memory that was free then."""
        before = run.get("decided", {}).get("tile", 0)
        if self.plan.options.compute.tile == "auto" and (before is None or (isinstance(before, int) and before > 0)):
            self.plan = dataclasses.replace(self.plan, engine=dataclasses.replace(self.plan.engine, tile=before))

    def _check(self, run: dict[str, Any]) -> None:
        now = json.loads(json.dumps({"format": FORMAT, **self._description()}))
        difference = next(
            (
                _difference(run.get(group), now[group], group)
                for group in ("format", "version", "input")
                if run.get(group) != now[group]
            ),
            _changed_option(run.get("options"), now["options"], _options(type(self.plan.options)())),
        )
        if difference is not None:
            raise OutputError(
                f"the unfinished work in {self.folder} is of another run ({difference}): give the same command to go "
                f"on, name another output, or throw it away with `vidsr jobs --clean {self.folder.parent}`"
            )
        if run.get("decided") != now["decided"]:
            difference = _difference(run.get("decided"), now["decided"], "choice")
            raise OutputError(
                f"the unfinished work in {self.folder} was made elsewhere ({difference}): go on there, or throw it "
                f"away with `vidsr jobs --clean {self.folder.parent}`"
            )

    def _resume_point(self) -> ResumePoint | None:
        """The last state before which everything is what was written."""
        journal, damaged = self._journal, None
        checked: dict[int, bool] = {}
        for state in reversed(journal.states):
            names = range(state.segments)
            for number in names:
                if number not in checked:
                    segment = journal.segments.get(number)
                    checked[number] = segment is not None and segment.is_intact(self.folder)
            bad = next((number for number in names if not checked[number]), None)
            content = self._read_state(state) if bad is None else None
            if content is not None:
                self._states = [state]
                if damaged:
                    self.warnings.append(f"{damaged}; it goes on after frame {state.frames_out}")
                segments = [journal.segments[number] for number in names]
                try:
                    placing, messages, warnings = thaw(state.writer)
                    return ResumePoint(
                        state.frames_in,
                        state.frames_out,
                        tuple(content["warnings"]),
                        content["stages"],
                        WriterState(placing, messages, segments, warnings),
                    )
                except (InputError, TypeError, ValueError, KeyError):
                    self._states = []
            damaged = damaged or (
                f"the segment {bad} in {self.folder} is missing or damaged and is made again"
                if bad is not None
                else f"the state {state.name} in {self.folder} is missing or damaged"
            )
        if damaged:
            self.warnings.append(f"{damaged}; nothing before it can be used, and the run begins anew")
        return None

    def _read_state(self, state: SavedState) -> dict[str, Any] | None:
        path = self.folder / state.name
        if not _is_intact(path, state.size, state.sha256):
            return None
        try:
            content = torch.load(path, weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError):
            return None
        return content if isinstance(content, dict) else None

    def _note(self, kind: str, entry: Mapping[str, Any]) -> None:
        assert self._file is not None
        line = _line({"kind": kind, **entry})
        while line:
            line = line[os.write(self._file, line) :]
        os.fsync(self._file)

    def _remove_files(self) -> None:
        for path in _own_files(self.folder):
            path.unlink()
        (self.folder / "journal").unlink(missing_ok=True)
        self.folder.rmdir()

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)  # which also unlocks it
            self._file = None


class _HashedFile:
    """A file to write, with the SHA-256 and the number of the bytes so far, and the error that ended it, if any."""

    def __init__(self, file: Any) -> None:
        self._file, self._hash, self.size = file, hashlib.sha256(), 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            count: int = self._file.write(data)
        except OSError as error:
            self.error = error
            raise
        self._hash.update(data)
        self.size += count
        return count

    def flush(self) -> None:
        try:
            self._file.flush()
        except OSError as error:
            self.error = error
            raise

    def digest(self) -> str:
        return self._hash.hexdigest()


def _is_intact(path: Path, size: int, sha256: str) -> bool:
    try:
        return path.stat().st_size == size and sha256_of(path) == sha256
    except OSError:
        return False


def _difference(before: Any, now: Any, what: str) -> str:
    """The first difference of two values, or of two tables, in words."""
    if not isinstance(before, dict) or not isinstance(now, dict):
        return f"its {what} is {before}, not {now}"
    name = _first_different(before, now)
    if what == "input":
        return f"the {name} of its input differs"
    if before.get(name) is None:
        return f"without {name}, now with {_shown(now[name])}"
    if now.get(name) is None:
        return f"with {name} {_shown(before[name])}, now without it"
    return f"with {name} {_shown(before[name])}, not {_shown(now[name])}"


def _changed_option(before: Any, now: dict[str, Any], usual: Mapping[str, Any]) -> str | None:
    """The first option that differs, in the words of the command line; None if all are equal.

    `usual` are the options' defaults, by which a reader knows what was not written.
    """
    if before == now:
        return None
    before = before if isinstance(before, dict) else {}
    name = _first_different(before, now)

    def said(value: Any, verb: str) -> str:
        if value is None:
            return f"{name} {verb} not given"
        if isinstance(value, bool):
            return f"{name if value else name.replace('--', '--no-')} {verb} given"
        return (
            f"{name} {verb} {_shown(value)}{' (the default)' if name != 'command' and value == usual.get(name) else ''}"
        )

    return f"{said(before.get(name), 'was')} then, and {said(now.get(name), 'is').removeprefix(f'{name} ')} now"


def _first_different(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return next(name for name in (*now, *before) if before.get(name) != now.get(name))


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def describe(plan: Plan, threads: int | None = None, processor: str | None = None) -> dict[str, Any]:
    """What a run has to have in common with the one that it continues, as plain values.

    `threads` and `processor` are those that compute; None: of this process. Reads the beginning and the end of the
    input. Raises InputError.
    """
    engine, encoding = plan.engine, plan.written_video.encoding
    faces = plan.faces
    return {
        "version": {"vidsr": __version__, "torch": torch.__version__, **library_versions()},
        "input": _describe_file(cast(Any, plan.source).path),
        "options": _options(plan.options),
        "decided": {
            "decoder": plan.decoder,
            "model": engine.model,
            "model SHA-256": engine.sha256,
            "device": engine.device,
            "processor": processor_name(engine.device) if processor is None else processor,
            "threads": torch.get_num_threads() if threads is None else threads,
            "precision": engine.precision,
            "tile": engine.tile,
            "cleaning model SHA-256": None if plan.cleaner is None else plan.cleaner.sha256,
            "tile for cleaning": None if plan.cleaner is None else plan.cleaner.tile,
            "face model SHA-256": None if faces is None else faces.selection.sha256,
            **({} if faces is None or faces.tiny is None else {"tiny face model SHA-256": faces.tiny.sha256}),
            "face detector SHA-256": None
            if faces is None or faces.options.detector is None
            else sha256_of(faces.options.detector),
            "encoder": encoding.codec,
            "pixel format": encoding.pixel_format,
            "encoder options": [list(pair) for pair in encoding.options],
            "size": list(plan.written_video.size),
            **({} if faces is None or not faces.references else {"references": _references(faces)}),
        },
    }


def _references(faces: FacePlan) -> list[list[Any]]:
    return [[each.name, each.photograph.sha256, list(each.tracks)] for each in faces.references]


def _describe_file(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            head = file.read(COMPARED_BYTES)
            file.seek(max(0, status.st_size - COMPARED_BYTES))
            tail = file.read(COMPARED_BYTES)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return {
        "size": status.st_size,
        "time": status.st_mtime_ns,
        "contents": hashlib.sha256(head + tail).hexdigest(),
    }


def _options(config: Any) -> dict[str, str | bool | None]:
    """Every option of a configuration that changes frames or files, as on the command line: its name and its text.

    A flag is true or false; an option that is not given and has no default is None.
    """
    found: dict[str, str | bool | None] = {"command": type(config).__name__.removesuffix("Config").lower()}
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if dataclasses.is_dataclass(value):
            found |= {name: text for name, text in _options(value).items() if name != "command"}
        elif (name := each.metadata.get("option", each.name)) not in _FREE_OPTIONS:
            found[name] = None if value is False and each.default is False else _written(value)
    return found


def _written(value: Any) -> str | bool | None:
    """The value of an option as a user writes it; None if there is nothing to write."""
    match value:
        case None | ():
            return None
        case bool():
            return value
        case float() | Fraction():
            exact = float(value)
            return str(value) if exact != value else str(int(exact)) if exact.is_integer() else repr(exact)
        case (int(width), int(height)):
            return f"{width}x{height}"
        case tuple():
            return ", ".join(f"{name}={text}" for name, text in value)
        case _:
            return str(value)


def processor_name(device: str) -> str:
    """The kind of processor or card that a device is, as far as it decides the last bits of results."""
    if device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


# Bits per pixel that the output has at the least, and as a rule, by encoder; for the others the last row.
_BITS = {"ffv1": (2.0, 8.0), "prores_ks": (1.5, 4.0), "libx264rgb": (0.05, 0.5), "mpeg4": (0.1, 0.6)}
_OTHER_BITS = (0.01, 0.1)
# Bytes per input pixel of a saved state, without and with faces; measured with secnet-fast: 480, and 1300 with a large
# face.
_STATE_BYTES = (500, 1300)


def check_space(plan: Plan, folder: Path) -> str | None:
    """Compares the free space with what segments, states and the joined file need; returns a warning if it may lack.

    Raises OutputError if even the least that the run can need is not free.
    """
    frames, (width, height) = plan.expected.frames, plan.expected.size
    if not frames:
        return None
    state = _STATE_BYTES[plan.faces is not None] * plan.info.width * plan.info.height
    least, usual = (
        2 * bits * width * height * frames / 8 + (STATES_KEPT + 1) * state
        for bits in _BITS.get(plan.written_video.encoding.codec, _OTHER_BITS)
    )
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    if free < least:
        raise OutputError(
            f"{folder} has {_size(free)} of free space, and this job needs {_size(least)} at the least: free some, or "
            "name an output on another disk"
        )
    if free < usual:
        return f"this job may need about {_size(usual)} in {folder}, where {_size(free)} are free"
    return None


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An unfinished job in a folder: what it is to become, how far it is, and its size in bytes.

    `frames` are the finished frames of the output, `expected` all of them according to the input's header. `changed` is
    the time of the last addition. `is_running`: another process has it. `damage` says why it cannot be continued.
    """

    folder: Path
    target: str
    frames: int
    expected: int | None
    size: int
    changed: float
    is_running: bool
    damage: str | None = None


def find_unfinished(folder: Path) -> Iterator[Unfinished]:
    """The unfinished jobs in a folder, by name. Raises InputError if it cannot be read."""
    try:
        found = sorted(path for path in folder.iterdir() if path.name.startswith(".") and path.name.endswith(ENDING))
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror}") from error
    for path in found:
        if path.is_dir() and not path.is_symlink():
            yield _examine(path)


def remove_unfinished(job: Unfinished) -> bool:
    """Removes a job's folder; False if a process has it. Raises OutputError."""
    with writing(job.folder):
        try:
            descriptor = os.open(job.folder / "journal", os.O_RDWR)
        except FileNotFoundError:
            shutil.rmtree(job.folder)
            return True
        try:
            if not lock(descriptor):
                return False
            shutil.rmtree(job.folder)
        finally:
            os.close(descriptor)
    return True


def _frames_in(journal: Journal) -> int:
    """The finished frames of the output according to a journal."""
    results = sum(Segment(**each["segment"]).frames for each in journal.results.values())
    return journal.states[-1].frames_out if journal.states else results


def _examine(path: Path) -> Unfinished:
    journal, damage, is_running, changed = Journal(), None, False, 0.0
    try:
        descriptor = os.open(path / "journal", os.O_RDWR)
        try:
            is_running = not lock(descriptor)
            changed = os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
        journal = Journal.read(path / "journal")
        damage = "its journal is damaged" if journal.run is None and journal.damage else None
    except OSError:
        damage = "its journal cannot be read"
    size = 0
    for file in path.iterdir():
        with suppress(OSError):
            size += file.stat().st_size
    run = journal.run or {}
    expected = run.get("expected")
    return Unfinished(
        path,
        str(path.with_name(run.get("target") or path.name.removeprefix(".").removesuffix(ENDING))),
        _frames_in(journal),
        expected if isinstance(expected, int) else None,
        size,
        changed,
        is_running,
        damage,
    )
