"""Decides which photographs of `--reference` serve which face tracks of a video.

A name is found by its face: the video is read once before the run, its tracks are grouped into persons, and each person
belongs to the name whose photographs are most similar. A number stands for a track of `vidsr faces`, and with an
embedding for all tracks of the same person.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vidsr.config import RestoreConfig, UpscaleConfig, is_track_number
from vidsr.errors import UsageError
from vidsr.faces.detections import Array
from vidsr.faces.detector import View, load_detector
from vidsr.faces.embedding import EXTRA, EmbeddingChoice, FaceEmbedding, choose_embedding, load_embedding
from vidsr.faces.persons import TrackEmbeddings, similarity
from vidsr.faces.photographs import FoundPhotograph, find_photograph
from vidsr.faces.pipeline import FacePlan, FaceSearch, PlannedReference
from vidsr.faces.references import FacePhotograph
from vidsr.stages.base import Stage, chain
from vidsr.stages.scenes import SceneMarker
from vidsr.types import Person, VideoInfo
from vidsr.video.pipe_source import PipeSource
from vidsr.video.probe import Source
from vidsr.video.sources import open_reader

HOW_TO_TELL = f"{EXTRA}, or give --face-embedding FILE"


@dataclass(frozen=True, slots=True)
class _Photograph:
    """A photograph of `--reference`, found and in memory."""

    name: str
    found: FoundPhotograph
    face: FacePhotograph


def plan_references(source: Source, info: VideoInfo, options: UpscaleConfig, faces: FacePlan) -> FacePlan:
    """The plan with its references; unchanged without any. Reads the photographs, and for names the whole video.

    Raises UsageError for a photograph without exactly one face, and for a name that cannot be looked for; ModelError,
    InputError or DeviceError.
    """
    if not options.faces.photographs:
        return faces
    choice = _choose(source, options.faces)
    photographs = list(_find(options.faces))
    if choice is None:
        planned = [PlannedReference(each.name, each.found, (int(each.name),), None) for each in photographs]
        return replace(faces, references=tuple(planned))
    embedding = load_embedding(choice, torch.device("cpu"), 1)
    tracks = _embed_tracks(source, info, options, faces, embedding)
    planned, warnings = _Matching(tracks, embedding, info.path).match(photographs)
    return replace(faces, references=tuple(planned), embedding=choice, warnings=tuple(warnings))


def _choose(source: Source, options: RestoreConfig) -> EmbeddingChoice | None:
    """The embedding for the names and numbers; None if only numbers are given, and there is none, or none can help."""
    choice = choose_embedding(options.embedding)
    name = next((name for name, _ in options.photographs if not is_track_number(name)), None)
    if name is not None and choice is None:
        raise UsageError(
            f"{name} cannot be looked for without a face embedding: {HOW_TO_TELL}; or give the number that "
            "`vidsr faces` shows, as in --reference 3=photo.jpg"
        )
    if isinstance(source, PipeSource):
        if name is not None:
            raise UsageError(
                f"to look for {name} the video is read twice, which a pipe cannot be: save it to a file, or give the "
                "number of a track, as in --reference 3=photo.jpg"
            )
        return None
    return choice


def _find(options: RestoreConfig) -> Iterator[_Photograph]:
    network = load_detector(options, torch.device("cpu"), 1)
    for name, path in options.photographs:
        yield _Photograph(name, *find_photograph(path, network, f"--reference {name}={path}"))


def _embed_tracks(
    source: Source, info: VideoInfo, options: UpscaleConfig, faces: FacePlan, embedding: FaceEmbedding
) -> TrackEmbeddings:
    """Reads the video and embeds its tracks, which get the numbers that they will have in the run."""
    dust: list[Stage] = []
    if options.dust != "off":
        from vidsr.defects.dust import DustStage

        dust.append(DustStage(options.dust))
    device = torch.device(faces.selection.device)
    search = FaceSearch(faces.options, info, device, 1)
    found = TrackEmbeddings(embedding, View.of(info))
    with open_reader(source, options.input, device, info) as reader:
        for _ in chain([SceneMarker(options.scenes), *dust, *search.stages, found], reader.frames()):
            pass
    return found


class _Matching:
    """The persons of a video, and the photographs that show them."""

    def __init__(self, tracks: TrackEmbeddings, embedding: FaceEmbedding, video: str) -> None:
        self._embedding, self._head, self._video = embedding, embedding.head, video
        self._persons = tracks.persons()
        self._combined = {track: self._head.combined(vectors) for track, vectors in tracks.vectors.items()}

    def match(self, photographs: Sequence[_Photograph]) -> tuple[list[PlannedReference], list[str]]:
        """The references with their tracks, in the order given, and a warning for each name or number without any."""
        names = list(dict.fromkeys(each.name for each in photographs))
        vectors = {name: self._vector([each for each in photographs if each.name == name]) for name in names}
        persons = {name: self._numbered(int(name)) for name in names if is_track_number(name)}
        persons |= self._named({name: vector for name, vector in vectors.items() if name not in persons})
        planned = []
        for each in photographs:
            mine = persons[each.name]
            tracks = tuple(sorted(track for person in mine for track in person.tracks))
            alike = [similarity(self._combined, person, vectors[each.name]) for person in mine]
            planned.append(PlannedReference(each.name, each.found, tracks, max(alike) if alike else None))
        return planned, [self._warning(name, vectors[name]) for name in names if not persons[name]]

    def _vector(self, photographs: Sequence[_Photograph]) -> Array:
        rows = [self._embedding.embed(each.face.image, each.face.points) for each in photographs]
        return self._head.combined(np.stack(rows))

    def _numbered(self, track: int) -> list[Person]:
        return [person for person in self._persons if track in person.tracks]

    def _named(self, vectors: dict[str, Array]) -> dict[str, list[Person]]:
        """The persons of each name: those whose most similar name it is, if they are similar enough."""
        found: dict[str, list[Person]] = {name: [] for name in vectors}
        for person in self._persons if vectors else ():
            alike = {name: similarity(self._combined, person, vector) for name, vector in vectors.items()}
            best = max(alike, key=lambda name: alike[name])
            if alike[best] >= self._head.threshold:
                found[best].append(person)
        return found

    def _warning(self, name: str, vector: Array) -> str:
        if is_track_number(name):
            return f"{self._video} has no face track {name}: its photographs are not used"
        if not self._persons:
            return f"no face was found in {self._video}: the photographs of {name} are not used"
        most = max(similarity(self._combined, person, vector) for person in self._persons)
        return (
            f"nobody in {self._video} looks like {name}: the photographs are not used (similarity {most:.2f}, and "
            f"{self._head.threshold:.2f} is needed)"
        )
