"""`vidsr slowmo`: slow motion or a higher frame rate by interpolated frames."""

from __future__ import annotations

from typing import Annotated

import typer

from vidsr import config as c
from vidsr.cli import options as o
from vidsr.cli.preview import write_preview
from vidsr.pipeline.options import (
    clean_model,
    cleaning_config,
    compute_config,
    input_config,
    output_config,
    size_config,
)

_ALL = c.SlowmoConfig()


def slowmo(
    paths: o.Paths = None,
    interp: Annotated[c.Interp, typer.Option(help="Factor by which the number of frames grows.")] = _ALL.interp,
    keep_duration: Annotated[
        bool, typer.Option("--keep-duration", help="Raise the frame rate instead of slowing the video down.")
    ] = _ALL.keep_duration,
    duplicates: Annotated[
        c.DuplicateMode,
        typer.Option(help="Replace repeated frames, as in telecine, with interpolated ones, or keep them."),
    ] = _ALL.duplicates,
    scale: Annotated[
        float | None, typer.Option(help="Enlargement factor of each side, 1 to 8.", show_default="1")
    ] = None,
    size: o.Size = None,
    height: o.Height = None,
    model: o.Model = _ALL.compute.model,
    device: o.Device = _ALL.compute.device,
    precision: o.Precision = _ALL.compute.precision,
    backend: o.Backend = _ALL.compute.backend,
    threads: o.Threads = _ALL.compute.threads,
    tile: o.Tile = str(_ALL.compute.tile),
    deblur: o.Deblur = str(_ALL.cleaning.deblur),
    denoise: o.Denoise = str(_ALL.cleaning.denoise),
    deblock: o.Deblock = str(_ALL.cleaning.deblock),
    clean: o.Clean = _ALL.clean,
    dust: o.Dust = _ALL.dust,
    scenes: o.Scenes = _ALL.scenes.mode,
    scene_threshold: o.SceneThreshold = _ALL.scenes.threshold,
    codec: o.Codec = _ALL.output.codec,
    crf: o.Crf = _ALL.output.crf,
    preset: o.Preset = _ALL.output.preset,
    pix_fmt: o.PixFmt = _ALL.output.pix_fmt,
    encoder_option: o.EncoderOption = None,
    audio: Annotated[
        c.AudioMode | None,
        typer.Option(
            help="Stretch the audio at the same pitch, copy it (with --keep-duration only), or drop it.",
            show_default="stretch",
            rich_help_panel=o.ENCODING,
        ),
    ] = _ALL.output.audio,
    subtitles: o.Subtitles = _ALL.output.subtitles,
    quality: o.Quality = _ALL.output.quality,
    output_format: o.OutputFormat = _ALL.output.format,
    start: o.Start = None,
    end: o.End = None,
    rate: o.Rate = None,
    input_format: o.InputFormat = None,
    input_size: o.InputSize = None,
    input_pix_fmt: o.InputPixFmt = None,
    decoder: o.Decoder = _ALL.input.decoder,
    overwrite: o.Overwrite = _ALL.output.overwrite,
    skip_existing: o.SkipExisting = False,
    recursive: o.Recursive = False,
    suffix: o.Suffix = "",
    list_file: o.ListFile = None,
    shard: o.Shard = None,
    jobs: o.Jobs = 1,
    devices: o.Devices = None,
    cluster: o.Cluster = None,
    strict: o.Strict = _ALL.strict,
    resume: o.Resume = _ALL.resume,
    segment_frames: o.SegmentFrames = _ALL.segment_frames,
    print_config: o.PrintConfig = False,  # noqa: ARG001 - ConfiguredCommand reads it
    dry_run: o.DryRun = False,
    preview: o.Preview = None,
    report: o.Report = None,
    progress: o.Progress = "auto",
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Slows a video down, or raises its frame rate with --keep-duration, by interpolating frames.

    N frames become (N - 1) x interp + 1: the input frames are kept, and interpolated ones are spaced evenly between
    them. The last frame is shown longer, so that video and audio end together.
    """
    from vidsr.cli.console import Screen
    from vidsr.cli.videos import Videos, run_videos

    screen = Screen(progress, quiet, verbose)
    with o.reporting(screen):
        config = c.SlowmoConfig(
            input=input_config(start, end, rate, input_format, input_size, input_pix_fmt, decoder),
            output=output_config(
                codec, crf, preset, pix_fmt, encoder_option, audio, subtitles, overwrite, quality, output_format
            ),
            size=size_config(scale, size, height),
            compute=compute_config(model, device, precision, backend, threads, tile),
            scenes=c.SceneConfig(mode=scenes, threshold=scene_threshold),
            clean=clean_model(clean),
            cleaning=cleaning_config(deblur, denoise, deblock),
            dust=dust,
            strict=strict,
            resume=resume,
            segment_frames=segment_frames,
            interp=interp,
            keep_duration=keep_duration,
            duplicates=duplicates,
        )
        videos = Videos(
            paths or [],
            list_file,
            recursive,
            suffix,
            skip_existing,
            shard=shard,
            jobs=jobs,
            devices=devices,
            cluster=cluster,
            dry_run=dry_run,
            report=report,
        )
        if preview is not None:
            write_preview(screen, videos, config, preview)
        else:
            run_videos(screen, videos, config)
