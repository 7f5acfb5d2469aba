"""`vidsr faces`: detects and tracks faces; writes them as JSON, as an annotated video and as a contact sheet."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from vidsr import __version__
from vidsr.config import ComputeConfig, FindFacesConfig, RestoreConfig
from vidsr.engines.select import Selection
from vidsr.errors import UsageError
from vidsr.faces.detections import Detections, rotate_points
from vidsr.faces.detector import View
from vidsr.faces.drawing import ContactSheet, draw_faces, shown_boxes
from vidsr.faces.embedding import AUTO, OFF, EmbeddingChoice, choose_embedding, load_embedding
from vidsr.faces.engine import build_face_engine, require_boxes, select_face_engine
from vidsr.faces.persons import TrackEmbeddings
from vidsr.faces.pipeline import FaceSearch
from vidsr.faces.restorer import FaceRestorer
from vidsr.faces.yunet import Yunet
from vidsr.files import atomic_write, check_target, stale_warnings
from vidsr.models.cards import DETECTOR, model_files
from vidsr.runtime.device import choose_device
from vidsr.runtime.threads import use_threads
from vidsr.stages.base import chain
from vidsr.stages.scenes import SceneMarker
from vidsr.types import Face, FaceTrack, Frame, Person, Point, VideoInfo
from vidsr.video.hardware import choose_decoder
from vidsr.video.probe import Source
from vidsr.video.sources import (
    AnyOutputPlan,
    check_result,
    open_reader,
    open_writer,
    plan_result,
    source_files,
    source_of,
)


@dataclass(frozen=True, slots=True)
class FaceTargets:
    """Files to write: a video with the faces drawn in, a contact sheet of the tracks (PNG), and a JSON file."""

    video: Path | None = None
    sheet: Path | None = None
    listing: Path | None = None


@dataclass(frozen=True, slots=True)
class FaceReport:
    """The number of frames, the tracks found, warnings, and the persons; None if nothing tells people apart."""

    frames: int
    tracks: tuple[FaceTrack, ...]
    warnings: tuple[str, ...]
    persons: tuple[Person, ...] | None = None


@dataclass(frozen=True, slots=True)
class ListingPlan:
    """All decisions of `vidsr faces` about a video.

    `output` is that of the annotated video; `embedding` tells people apart, None if nothing does. `boxes` is the face
    model whose boxes are listed, None without.
    """

    source: Source
    targets: FaceTargets
    options: FindFacesConfig
    info: VideoInfo
    device: str
    output: AnyOutputPlan | None
    embedding: EmbeddingChoice | None = None
    boxes: Selection | None = None


def plan_listing(source: Path, targets: FaceTargets, options: FindFacesConfig) -> ListingPlan:
    """Plans the run; raises the errors of vidsr.errors for all problems that can be detected beforehand."""
    device = choose_device(options.device)
    video = source_of(source, options.input, targets.video)
    _check(targets, video, options)
    info = video.with_clock(video.probe(), options.input.end)
    video = video.decoded_by(choose_decoder(options.input.decoder, video, info))
    size = info.width, info.height
    output = None
    if targets.video is not None:
        output = plan_result(targets.video, video, info, size, options.output, options.input)
    embedding = choose_embedding(options.faces.embedding)
    boxes = None
    if options.model != OFF:
        compute = ComputeConfig(device=options.device, threads=options.threads)
        boxes = select_face_engine(compute, info.height, info.width, options.model)
        require_boxes(boxes)
    elif options.boxes is not None:
        raise UsageError("--face-boxes needs a face model that chooses boxes: add --face-model")
    return ListingPlan(video, targets, options, info, str(device), output, embedding, boxes)


@dataclass(frozen=True, slots=True)
class ListedFace:
    """One face in one frame, in pixels of the video as displayed.

    `box` is left, top, width, height; `landmarks` are the two eyes, the tip of the nose and the corners of the mouth,
    the person's right one of each pair first; `smoothed` are the landmarks after temporal smoothing. `track` numbers
    the person's track from 1; `score` is 0..1. If `found` is false, the position comes from the frames around this one.
    `boxes` are where the face model works, in order; None without one, or where it leaves the face alone.
    """

    track: int
    box: tuple[float, ...]
    landmarks: tuple[Point, ...]
    smoothed: tuple[Point, ...]
    score: float
    found: bool
    boxes: tuple[tuple[float, ...], ...] | None = None


@dataclass(frozen=True, slots=True)
class ListedFrame:
    """The faces of one frame; `pts` counts ticks of the time base in the file, past jumps of its clock."""

    pts: int
    seconds: float
    starts_scene: bool
    faces: tuple[ListedFace, ...]


@dataclass(frozen=True, slots=True)
class VideoFaces:
    """All faces of a video by frame, and the tracks, each one face through time. Sides of tracks are in pixels.

    `width` and `height` are those of the video as displayed. `persons` are the tracks of each person, None if nothing
    tells people apart.
    """

    width: int
    height: int
    frames: tuple[ListedFrame, ...]
    tracks: tuple[FaceTrack, ...]
    warnings: tuple[str, ...]
    persons: tuple[Person, ...] | None = None


def read_listing(file: IO[bytes], report: FaceReport) -> VideoFaces:
    """Parses the JSON that `describe_faces` wrote to this file."""
    file.seek(0)
    content = json.load(file)
    frames = tuple(ListedFrame(**entry | {"faces": _listed(entry["faces"])}) for entry in content["frames"])
    size = content["width"], content["height"]
    return VideoFaces(*size, frames, report.tracks, report.warnings, report.persons)


def _listed(entries: list[dict[str, Any]]) -> tuple[ListedFace, ...]:
    return tuple(
        ListedFace(
            track=entry["track"],
            box=tuple(entry["box"]),
            landmarks=tuple(map(tuple, entry["landmarks"])),
            smoothed=tuple(map(tuple, entry["steadied"])),
            score=entry["score"],
            found=entry["found"],
            boxes=None if entry.get("boxes") is None else tuple(map(tuple, entry["boxes"])),
        )
        for entry in entries
    )


def describe_faces(
    plan: ListingPlan,
    listing: IO[bytes],
    on_progress: Callable[[int, int | None, float], None] = lambda _done, _expected, _seconds: None,
) -> FaceReport:
    """Detects and tracks the faces of a video and writes the planned files.

    The JSON text is also written to `listing`, a temporary file. The target files appear only once they are complete.
    `on_progress` receives frames done, frames expected or None, and seconds. Raises the errors of vidsr.errors.
    """
    started = time.monotonic()
    options, targets, info = plan.options, plan.targets, plan.info
    source, view, device = plan.source.path, View.of(info), torch.device(plan.device)
    use_threads(options.threads)
    search = FaceSearch(options.faces, info, device, torch.get_num_threads())
    known = None
    if plan.embedding is not None:
        known = TrackEmbeddings(load_embedding(plan.embedding, device, torch.get_num_threads()), view)
    chooser = None
    if plan.boxes is not None:
        engine = build_face_engine(plan.boxes, view.quarters, boxes=options.boxes)
        chooser = FaceRestorer(engine, RestoreConfig(min_face=options.faces.min_face))
    stages = [
        SceneMarker(options.scenes), *search.stages, *([known] if known else ()), *([chooser] if chooser else ()),
    ]  # fmt: skip
    with ExitStack() as stack:
        reader = stack.enter_context(open_reader(plan.source, options.input, device, info))
        writer = None if plan.output is None else stack.enter_context(open_writer(plan.output))
        sheet = ContactSheet(view) if targets.sheet else None
        text = _Listing(listing, source, info, search.network, plan.embedding, plan.boxes)
        expected = info.header_frame_count if options.input.start is options.input.end else None
        for frame in chain(stages, reader.frames()):
            text.add(frame)
            if sheet is not None:
                sheet.add(frame)
            if writer is not None:
                for drawn in draw_faces([frame], view):
                    writer.write(drawn)
            on_progress(text.frames, expected, time.monotonic() - started)
        folders = {target.absolute().parent for target in (targets.sheet, targets.listing) if target is not None}
        warnings = [warning for folder in sorted(folders) for warning in stale_warnings(folder)]
        warnings += [*reader.warnings, *([search.warning] if search.warning else [])]
        warnings += [f"{source} is damaged {damage.place}: {damage.reason}" for damage in reader.damages]
        if writer is not None:
            writer.commit(side_data=reader.side_data)
            warnings += [warning for warning in writer.warnings if warning not in warnings]
        persons = None if known is None else known.persons()
        text.finish(search.tracks, warnings, persons)
        if targets.sheet is not None and sheet is not None:
            png = sheet.draw(search.tracks, persons)
            _save(targets.sheet, options.output.overwrite, lambda file: _put(file, png))
        if targets.listing is not None:
            listing.seek(0)
            _save(targets.listing, options.output.overwrite, lambda file: shutil.copyfileobj(listing, file))
    return FaceReport(text.frames, search.tracks, tuple(warnings), persons)


class _Listing:
    """Writes the JSON text while the video is read, so that memory does not grow with its length.

    Positions are in pixels of the video as displayed, times are those of the file.
    """

    def __init__(
        self, file: IO[bytes], source: Path, info: VideoInfo, network: Yunet, embedding: EmbeddingChoice | None,
        boxes: Selection | None,
    ) -> None:  # fmt: skip
        self.frames = 0
        self._file, self._info, self._view, self._has_boxes = file, info, View.of(info), boxes is not None
        is_turned = self._view.quarters % 2
        head = {
            "vidsr": __version__,
            "input": str(source),
            "width": info.height if is_turned else info.width,
            "height": info.width if is_turned else info.height,
            "rotation_degrees": info.rotation_degrees,
            "time_base": str(info.time_base),
            "detector": {"file": str(network.path), "sha256": hashlib.sha256(network.path.read_bytes()).hexdigest()},
            "embedding": None if embedding is None else {"file": str(embedding.path), "sha256": embedding.sha256},
        }
        if boxes is not None:
            head["face_model"] = {"name": boxes.model, "sha256": boxes.sha256}
        self._write(_json(head).removesuffix("}") + ', "frames": [')

    def add(self, frame: Frame) -> None:
        """Writes the next frame."""
        entry = {
            "pts": frame.pts,
            "seconds": round(float(frame.pts * frame.time_base), 6),
            "starts_scene": frame.starts_scene,
            "faces": [self._entry(face) for face in frame.faces],
        }
        self._write(("," if self.frames else "") + "\n" + _json(entry))
        self.frames += 1

    def finish(
        self, tracks: Sequence[FaceTrack], warnings: Sequence[str], persons: Sequence[Person] | None
    ) -> None:  # fmt: skip
        """Writes the tracks, the persons and the warnings, which end the text."""
        person_of = {track: person.number for person in persons or () for track in person.tracks}
        entries = (
            _json(asdict(track) | {"time_base": str(track.time_base), "person": person_of.get(track.track)})
            for track in tracks
        )
        people = None if persons is None else [{"person": each.number, "tracks": each.tracks} for each in persons]
        self._write('\n], "tracks": [\n' + ",\n".join(entries) + '\n], "persons": ' + _json(people))
        self._write(', "warnings": ' + _json(list(warnings)) + "}\n")

    def _entry(self, face: Face) -> dict[str, Any]:
        size = self._info.width, self._info.height
        found = Detections(np.array([face.box]), np.array([face.landmarks]), np.array([face.score]))
        shown = found.turned(self._view.quarters, *size)
        smoothed = face.smoothed or face.landmarks
        entry = {
            "track": face.track,
            "box": _rounded(shown.boxes[0]),
            "landmarks": [_rounded(point) for point in shown.landmarks[0]],
            # A public key, older than the term "smoothed".
            "steadied": [_rounded(rotate_points(np.array(point), self._view.quarters, *size)) for point in smoothed],
            "score": round(face.score, 4),
            "found": face.is_found,
        }
        if self._has_boxes:
            turned = shown_boxes(face, self._view, *size)
            entry["boxes"] = None if turned is None else [_rounded(box) for box in turned]
        return entry

    def _write(self, text: str) -> None:
        # A file name that is not UTF-8 contains lone surrogates; backslash escapes make them valid JSON.
        self._file.write(text.encode("utf-8", "backslashreplace"))


def _check(targets: FaceTargets, source: Source, options: FindFacesConfig) -> None:
    """Raises UsageError or OutputError for target files that cannot be written."""
    if targets.sheet is not None and targets.sheet.suffix.lower() != ".png":
        raise UsageError(f"--sheet {targets.sheet} is not a .png file: choose a name that ends in .png")
    paths = [path for path in (targets.video, targets.sheet, targets.listing) if path is not None]
    reads, overwrite = model_files(DETECTOR, options.faces.detector), options.output.overwrite
    if options.faces.embedding not in (AUTO, OFF):
        reads.append(Path(options.faces.embedding))
    if targets.video is not None:
        check_result(targets.video, source, overwrite, reads)
    for path in (targets.sheet, targets.listing):
        if path is not None:
            check_target(path, source.path, overwrite, [*reads, *source_files(source)])
    if len({path.absolute() for path in paths}) < len(paths):
        raise UsageError("--annotate, --sheet and --json name the same file: give each its own")


def _save(target: Path, may_overwrite: bool, write: Callable[[IO[bytes]], None]) -> None:
    """Writes a file that appears only once it is complete. Raises OutputError."""
    with atomic_write(target, overwrite=may_overwrite) as hidden, hidden.open("wb") as file:
        write(file)


def _put(file: IO[bytes], data: bytes) -> None:
    file.write(data)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 2) for value in values]
