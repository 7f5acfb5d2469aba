"""Builds configurations from what a user writes on the command line or in Python. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from vidsr import config as c
from vidsr.errors import UsageError

StrPath = str | os.PathLike[str]
Time = str | float | Fraction | None
Rate = str | float | Fraction | None
Size = str | Sequence[int] | None
EncoderOptions = Mapping[str, object] | Iterable[str | tuple[str, str]]
SEVERAL_VIDEOS = "and there may be several"
References = Mapping[str | int, Any] | Iterable[str | tuple[str | int, Any]]


def input_config(
    start: Time, end: Time, rate: Rate = None, input_format: str | None = None, input_size: Size = None,
    input_pix_fmt: str | None = None, decoder: str = c.SOFTWARE,
) -> c.InputConfig:  # fmt: skip
    """The trim range, how an input without times is read, and what decodes. Raises UsageError."""
    return c.InputConfig(
        start=c.parse_time(start), end=c.parse_time(end), rate=c.parse_rate(rate), format=input_format,
        frame_size=c.parse_size(input_size), pixel_format=input_pix_fmt, decoder=decoder,
    )  # fmt: skip


def output_config(
    codec: str, crf: float | None, preset: str | None, pix_fmt: str,
    encoder_options: EncoderOptions | None, audio: c.AudioMode | None, subtitles: c.CopyMode, overwrite: bool,
    quality: int | None = None, output_format: c.PipeFormat = "auto",
) -> c.OutputConfig:  # fmt: skip
    """Encoding of the output and the streams to copy. Raises UsageError."""
    return c.OutputConfig(
        codec=codec, crf=crf, preset=preset, pix_fmt=pix_fmt,
        encoder_options=c.parse_encoder_options(encoder_options or ()),
        audio=audio, subtitles=subtitles, overwrite=overwrite, quality=quality,
        format=output_format,
    )  # fmt: skip


def size_config(scale: float | None, size: Size, height: int | None) -> c.SizeConfig:
    """The output size. Raises UsageError."""
    return c.SizeConfig(scale=scale, size=c.parse_size(size), height=height)


def cleaning_config(deblur: str | float, denoise: str | float, deblock: str | float) -> c.CleaningConfig:
    """How degraded the input is taken to be. Raises UsageError."""
    return c.CleaningConfig(
        deblur=c.parse_level(deblur), denoise=c.parse_level(denoise), deblock=c.parse_level(deblock)
    )


def clean_model(model: StrPath | None) -> str | None:
    """The model that cleans frames first, as `compute_config` has that of the run. Raises ModelError."""
    from vidsr.models.cards import resolve_model

    return None if model is None else resolve_model(os.fspath(model))


def compute_config(
    model: StrPath, device: str, precision: c.Precision, backend: c.Backend, threads: int, tile: str | int
) -> c.ComputeConfig:
    """Model, device, precision and backend; the model may be one of the user's own. Raises UsageError."""
    return c.ComputeConfig(
        model=_resolved(model), device=device, precision=precision,
        threads=threads, tile=c.parse_tile(tile), backend=backend,
    )  # fmt: skip


def restore_config(
    use: bool | None, strength: float, min_face: float, max_faces: int, detector: StrPath | None, embedding: StrPath,
    model: StrPath, references: References | None, reference_strength: float, boxes: int | None,
) -> c.RestoreConfig:  # fmt: skip
    """Detection and restoration of faces; the model may be one of the user's own. Raises UsageError."""
    return c.RestoreConfig(
        use=use, strength=strength, min_face=min_face, max_faces=max_faces, detector=c.parse_path(detector),
        embedding=_text(embedding), model=_resolved(model), references=c.parse_references(references or ()),
        reference_strength=reference_strength, boxes=boxes,
    )  # fmt: skip


def face_config(detector: StrPath | None, min_face: float, embedding: StrPath) -> c.FaceConfig:
    """Detection of faces, and who is who. Raises UsageError."""
    return c.FaceConfig(detector=c.parse_path(detector), min_face=min_face, embedding=_text(embedding))


def box_model(model: StrPath) -> str:
    """The face model whose boxes are listed, or "off"; it may be one of the user's own. Raises ModelError."""
    return _resolved(model)


def refuse_track_numbers(options: c.RunConfig, why: str) -> None:
    """Raises UsageError, with `why`, if a reference goes by the number of a track."""
    for name, _ in options.faces.photographs if isinstance(options, c.UpscaleConfig) else ():
        if c.is_track_number(name):
            raise UsageError(f"--reference {name} names a track of one video, {why}: give a name instead of the number")


def files_read(options: c.RunConfig) -> list[Path]:
    """The files that a run may read beside its input."""
    from vidsr.models.cards import model_files  # not needed to show the help of a command

    cleaner = [] if options.clean is None else model_files(options.clean)
    if not isinstance(options, c.UpscaleConfig):
        return [*model_files(options.compute.model), *cleaner]
    faces = options.faces
    photographs = [path for _, path in faces.references]
    embedding = [] if faces.embedding in ("auto", "off") else [Path(faces.embedding)]
    own = model_files(faces.model) if faces.model.endswith(".toml") else []
    return [*model_files(options.compute.model, faces.detector), *cleaner, *own, *embedding, *photographs]


def _resolved(model: StrPath) -> str:
    """The name of a model, or the path of a card."""
    from vidsr.models.cards import resolve_model  # not needed to show the help of a command

    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    return resolve_model(model) if isinstance(model, str) else model


def _text(path: StrPath) -> str:
    return os.fspath(path) if isinstance(path, os.PathLike) else path
