"""The signature of an output: which input, model, options and version made it.

It is the `encoder` tag of the output's video stream, for example `vidsr 0.1.0 k3Xw9Yq0TzB1mNc`, which .mp4, .m4v, .mov,
.mkv and .webm keep. The 15 characters are three hashes of 30 bits each: of the input, the model and the options.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vidsr import __version__
from vidsr.config import RestoreConfig, RunConfig, UpscaleConfig
from vidsr.engines.select import Selection, default_scale, levels_of, select_card, task_of
from vidsr.errors import InputError, OutputError
from vidsr.faces.handover import BodyModel, tiny_card, wants_faces
from vidsr.files import sample_digest
from vidsr.models.cards import find_card, shipped_detector
from vidsr.pipeline.degradation import choices, goes_by_input
from vidsr.video.header import encoder_tag
from vidsr.video.image_names import is_image, result_exists

if TYPE_CHECKING:
    from vidsr.faces.pipeline import FacePlan

_HASH = 5  # characters of a hash
_VERSION = 10  # characters of the version: MP4 keeps 31 in all
_FORM = re.compile(rf"vidsr (\S{{1,{_VERSION}}}) ([\w-]{{{3 * _HASH}}})", re.ASCII)
# Options that change no frame by more than rounding, or that stand for a file, whose content is hashed instead.
_NO_CONTENT = frozenset(
    {"--device", "--threads", "--tile", "--overwrite", "--model", "--clean", "--resume", "--segment-frames",
     "--face-detector", "--face-model", "--face-embedding", "--reference", "--reference-strength"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights of a run: the SHA-256 of its models, None for bicubic or without one, and the face detector.

    `references` tell the photographs of people apart.
    """

    model: str | None
    face_model: str | None = None
    detector: Path | None = None
    tiny_model: str | None = None
    clean_model: str | None = None
    references: tuple[str, ...] = ()

    def digests(self) -> str:
        """The SHA-256 of all weights, in one text."""
        found = [self.model or "bicubic"]
        if self.clean_model is not None:
            found += ["after", self.clean_model]
        if self.face_model is not None:
            # A missing detector is refused where it is loaded.
            detector = self.detector
            found += [self.face_model, sample_digest(detector) if detector and detector.is_file() else "none"]
            found += [] if self.tiny_model is None else [self.tiny_model]
            found += self.references
        return " ".join(found)


@dataclass(frozen=True, slots=True)
class Signature:
    """What made an output: the version of vidsr, and hashes of the input file, the model and the options."""

    version: str
    input: str
    model: str
    options: str

    def __str__(self) -> str:
        """The tag: at most 31 characters."""
        return f"vidsr {self.version} {self.input}{self.model}{self.options}"

    @classmethod
    def parse(cls, tag: str | None) -> Signature | None:
        """The signature in an encoder tag; None for any other text."""
        match = _FORM.fullmatch(tag or "")
        if match is None:
            return None
        version, hashes = match.groups()
        return cls(version, hashes[:_HASH], hashes[_HASH : 2 * _HASH], hashes[2 * _HASH :])

    def difference(self, wanted: Signature) -> str | None:
        """How this signature differs from the `wanted` one, in words; None if at most the version does."""
        found = [
            words
            for words, one, other in (
                ("from another input, or the input has changed", self.input, wanted.input),
                ("with another model", self.model, wanted.model),
                ("with other options", self.options, wanted.options),
            )
            if one != other
        ]
        return " and ".join(found) or None


def sign(source: Path, options: RunConfig, weights: Weights) -> Signature:
    """The signature of the output that these options make of an input with these weights. Raises InputError."""
    try:
        content = sample_digest(source)
    except OSError as error:
        raise InputError(f"{source} cannot be read: {error.strerror}") from error
    return Signature(__version__[:_VERSION], _short(content), _short(weights.digests()), _short(_options(options)))


def signature_of(output: Path) -> Signature | None:
    """The signature of a file; None if vidsr did not make it, or it was written anew by another program."""
    return Signature.parse(encoder_tag(output))


def reason_to_skip(source: Path, target: Path, options: RunConfig) -> str | None:
    """Decides about an output that may exist already: why its input is skipped, or None if the output is to be made.

    Raises OutputError if the output is vidsr's, but was made otherwise, and may not be replaced.
    """
    if is_image(target) or target.is_dir():  # images have no signature
        return f"{target} already exists" if result_exists(target) and not options.output.overwrite else None
    if not target.is_file():
        return None
    found, may_replace = signature_of(target), options.output.overwrite
    if found is None:
        return None if may_replace else f"{target} already exists; it does not say that vidsr made it"
    candidates = [sign(source, each, chosen_weights(each)) for each in _choices(options)]
    if found in candidates:
        return f"{target} already exists"
    if may_replace:
        return None
    differences = [found.difference(wanted) for wanted in candidates]
    if None not in differences and (how := differences[0]):
        raise OutputError(
            f"{target} already exists, but vidsr made it {how}: "
            "give --overwrite to make it again, or choose another name"
        )
    return f"{target} already exists; vidsr {found.version} made it with the same options"


def _choices(options: RunConfig) -> list[RunConfig]:
    """The options with each model that `--model auto` may be for an input, without a look at it; else as they are."""
    if not goes_by_input(options):
        return [options]
    return [replace(options, compute=replace(options.compute, model=model)) for model in choices(options)]


def _short(content: str) -> str:
    digest = hashlib.blake2b(content.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return base64.urlsafe_b64encode(digest).decode()[:_HASH]


def chosen_weights(options: RunConfig) -> Weights:
    """The weights of a run with these options that has no plan yet. Raises ModelError or UsageError."""
    card = select_card(options.compute.model, task_of(options), levels_of(options))
    body, model = BodyModel.of(card), None if card is None else card.sha256
    cleaner = None if options.clean is None else select_card(options.clean, "upscale")
    clean_model = None if cleaner is None else cleaner.sha256
    if not isinstance(options, UpscaleConfig) or not wants_faces(options, body):
        return Weights(model, clean_model=clean_model)
    from vidsr.faces.engine import face_model_name, is_for_all_sizes

    faces = options.faces
    face_card = find_card(face_model_name(faces.model, bool(faces.photographs), body))
    tiny = None if is_for_all_sizes(face_card) else tiny_card(faces.min_face, face_card.name)
    detector, tiny_model = faces.detector or shipped_detector(), None if tiny is None else tiny.sha256
    return Weights(model, face_card.sha256, detector, tiny_model, clean_model, tuple(_references(faces)))


def planned_weights(engine: Selection, cleaner: Selection | None, faces: FacePlan | None) -> Weights:
    """The weights of a run, as its plan has chosen them."""
    clean_model = None if cleaner is None else cleaner.sha256
    if faces is None:
        return Weights(engine.sha256, clean_model=clean_model)
    references = tuple(_references(faces.options))
    tiny = None if faces.tiny is None else faces.tiny.sha256
    return Weights(engine.sha256, faces.selection.sha256, faces.options.detector, tiny, clean_model, references)


def _references(faces: RestoreConfig) -> Iterator[str]:
    """What the reference photographs of a run are, and whom they are for; nothing without any."""
    if not faces.photographs:
        return
    from vidsr.faces.embedding import choose_embedding

    choice = choose_embedding(faces.embedding)
    yield f"{float(faces.reference_strength)} {choice.sha256 if choice else 'by number'}"
    for name, path in faces.photographs:
        # A photograph that cannot be read is refused where it is looked at.
        yield f"{name}={sample_digest(path) if path.is_file() else 'none'}"


def _options(options: RunConfig) -> str:
    """The options that differ from their defaults and change the output, as JSON.

    Only those that differ, so that an option that comes with a later version leaves older signatures as they are.
    """
    given, usual = dict(_values(options)), dict(_values(type(options)()))
    changed = {name: value for name, value in given.items() if value != usual[name] and name not in _NO_CONTENT}
    if changed.get("--scale") == default_scale(options):
        del changed["--scale"]
    return json.dumps([type(options).__name__, changed], sort_keys=True, default=str)


def _values(config: Any) -> Iterator[tuple[str, Any]]:
    """Every option of a configuration by its name, with its value; whole numbers are equal in all types."""
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            yield from _values(value)
        else:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            yield each.metadata["option"], float(value) if number else value
