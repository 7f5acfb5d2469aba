"""Builds configurations from what a user writes on the command line or in Python. Imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction

from vidsr import config as c

StrPath = str | os.PathLike[str]
Time = str | float | Fraction | None
Rate = str | float | Fraction | None
Size = str | Sequence[int] | None
EncoderOptions = Mapping[str, object] | Iterable[str | tuple[str, str]]


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
    from vidsr.models.cards import resolve_model  # not needed to show the help of a command

    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    return c.ComputeConfig(
        model=resolve_model(model) if isinstance(model, str) else model, device=device, precision=precision,
        threads=threads, tile=c.parse_tile(tile), backend=backend,
    )  # fmt: skip
