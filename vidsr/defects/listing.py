"""`vidsr defects` for films: lists defects as JSON, draws them into a copy of the video and onto a contact sheet."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import torch

from vidsr import __version__
from vidsr.config import FindDefectsConfig
from vidsr.defects.drawing import DefectSheet, draw_defects
from vidsr.defects.dust import DustStage
from vidsr.errors import UsageError
from vidsr.files import atomic_write, check_target, stale_warnings
from vidsr.stages.base import chain
from vidsr.stages.scenes import SceneMarker
from vidsr.types import DefectReport, Frame, VideoInfo
from vidsr.video.output import OutputPlan, plan_output
from vidsr.video.probe import Source
from vidsr.video.reader import Reader
from vidsr.video.writer import Writer


@dataclass(frozen=True, slots=True)
class DefectTargets:
    """Files to write: a copy with the defects drawn in, a contact sheet (PNG), and a JSON file."""

    annotated: Path | None = None
    sheet: Path | None = None
    listing: Path | None = None


@dataclass(frozen=True, slots=True)
class FilmDefects:
    """The number of frames, the counts of defects, and warnings."""

    frames: int
    report: DefectReport
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DefectPlan:
    """All decisions of `vidsr defects` about a film; `output` is that of the annotated video."""

    source: Source
    targets: DefectTargets
    options: FindDefectsConfig
    info: VideoInfo
    output: OutputPlan | None


def plan_film(source: Path, targets: DefectTargets, options: FindDefectsConfig) -> DefectPlan:
    """Plans the run; raises the errors of vidsr.errors for all problems that can be detected beforehand."""
    check_targets(targets, source, options.output.overwrite)
    video = Source(source)
    info = video.with_clock(video.probe(), options.input.end)
    output = None
    if targets.annotated is not None:
        output = plan_output(targets.annotated, video, info, (info.width, info.height), options.output, options.input)
    return DefectPlan(video, targets, options, info, output)


def check_targets(targets: DefectTargets, source: Path, may_overwrite: bool) -> None:
    """Raises UsageError or OutputError for target files that cannot be written."""
    if targets.sheet is not None and targets.sheet.suffix.lower() != ".png":
        raise UsageError(f"--sheet {targets.sheet} is not a .png file: choose a name that ends in .png")
    paths = [path for path in (targets.annotated, targets.sheet, targets.listing) if path is not None]
    if len({check_target(path, source, may_overwrite) for path in paths}) < len(paths):
        raise UsageError("--annotate, --sheet and --json name the same file: give each its own")


def describe_film(
    plan: DefectPlan,
    listing: IO[bytes],
    on_progress: Callable[[int, int | None, float], None] = lambda _done, _expected, _seconds: None,
) -> FilmDefects:
    """Finds the defects of a film and writes the planned files.

    The JSON text is also written to `listing`, a temporary file. The target files appear only once they are complete.
    `on_progress` receives frames done, frames expected or None, and seconds. Raises the errors of vidsr.errors.
    """
    started = time.monotonic()
    options, targets, info = plan.options, plan.targets, plan.info
    if options.threads:
        torch.set_num_threads(options.threads)
    stage = DustStage("repair")
    with ExitStack() as stack:
        reader = stack.enter_context(Reader(plan.source, options.input, torch.device("cpu"), info))
        writer = None if plan.output is None else stack.enter_context(Writer(plan.output))
        sheet = DefectSheet() if targets.sheet else None
        text = _Listing(listing, plan.source.path, info)
        expected = info.header_frame_count if options.input.start is options.input.end else None
        kept: dict[int, Frame] = {}
        marked = chain([SceneMarker(options.scenes)], reader.frames())
        for repaired in chain([stage], _keeping(marked, kept)):
            original = kept.pop(repaired.pts)
            text.add(repaired)
            if sheet is not None:
                sheet.add(original, repaired)
            if writer is not None:
                writer.write(draw_defects(original, repaired.defects))
            on_progress(text.frames, expected, time.monotonic() - started)
        warnings = folder_warnings(targets) + list(reader.warnings)
        warnings += [f"{plan.source.path} is damaged {damage.place}: {damage.reason}" for damage in reader.damages]
        if writer is not None:
            writer.commit(side_data=reader.side_data)
            warnings += [warning for warning in writer.warnings if warning not in warnings]
        text.finish(stage.report, warnings)
        if targets.sheet is not None and sheet is not None:
            save(targets.sheet, sheet.draw(), options.output.overwrite)
        save_listing(targets.listing, listing, options.output.overwrite)
    return FilmDefects(text.frames, stage.report, tuple(warnings))


def folder_warnings(targets: DefectTargets) -> list[str]:
    """Removes the unfinished files of killed runs beside the targets; a sentence about each."""
    folders = {target.absolute().parent for target in (targets.sheet, targets.listing) if target is not None}
    return [warning for folder in sorted(folders) for warning in stale_warnings(folder)]


def save(target: Path, data: bytes, may_overwrite: bool) -> None:
    """Writes a file that appears only once it is complete. Raises OutputError."""
    with atomic_write(target, overwrite=may_overwrite) as hidden:
        hidden.write_bytes(data)


def save_listing(target: Path | None, listing: IO[bytes], may_overwrite: bool) -> None:
    """Copies the JSON text to its file, if there is one. Raises OutputError."""
    if target is not None:
        listing.seek(0)
        with atomic_write(target, overwrite=may_overwrite) as hidden, hidden.open("wb") as file:
            shutil.copyfileobj(listing, file)


def to_json(value: Any) -> bytes:
    """JSON on one line. A file name that is not UTF-8 has lone surrogates, which become backslash escapes."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def _keeping(frames: Iterable[Frame], kept: dict[int, Frame]) -> Iterator[Frame]:
    """Passes frames through and remembers them by their time."""
    for frame in frames:
        kept[frame.pts] = frame
        yield frame


class _Listing:
    """Writes the JSON text while the film is read, so that memory does not grow with its length."""

    def __init__(self, file: IO[bytes], source: Path, info: VideoInfo) -> None:
        self.frames = 0
        self._file = file
        head = {
            "vidsr": __version__,
            "input": str(source),
            "width": info.width,
            "height": info.height,
            "rotation_degrees": info.rotation_degrees,
            "time_base": str(info.time_base),
        }
        self._file.write(to_json(head).removesuffix(b"}") + b', "frames": [')

    def add(self, frame: Frame) -> None:
        """Writes the next frame."""
        entry = {
            "pts": frame.pts,
            "seconds": round(float(frame.pts * frame.time_base), 6),
            "starts_scene": frame.starts_scene,
            "defects": [listed(asdict(defect)) for defect in frame.defects],
        }
        self._file.write((b"," if self.frames else b"") + b"\n" + to_json(entry))
        self.frames += 1

    def finish(self, report: DefectReport, warnings: list[str]) -> None:
        """Writes the counts and warnings, which end the text."""
        counts = {name: value for name, value in asdict(report).items() if name != "frames"}
        counts["frames"] = len(report.frames)
        self._file.write(b'\n], "counts": ' + to_json(counts) + b', "warnings": ' + to_json(warnings) + b"}\n")


def listed(entry: dict[str, Any]) -> dict[str, Any]:
    """The fields of a defect under their public names, rounded to two decimals."""
    named = {{"is_light": "light", "is_repaired": "repairable"}.get(key, key): value for key, value in entry.items()}
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in named.items()}
