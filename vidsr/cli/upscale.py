"""`vidsr upscale`: enlarges and sharpens videos."""

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
    restore_config,
    size_config,
)

_ALL = c.UpscaleConfig()


def upscale(
    paths: o.Paths = None,
    scale: Annotated[
        float | None, typer.Option(help="Enlargement factor of each side, 1 to 8.", show_default="4")
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
    faces: Annotated[
        bool | None,
        typer.Option(
            "--faces/--no-faces",
            help="Restore faces.",
            show_default="on with a network",
            rich_help_panel=o.FACES,
        ),
    ] = _ALL.faces.use,
    face_strength: Annotated[
        float, typer.Option(help="Opacity of restored faces, 0 to 1.", rich_help_panel=o.FACES)
    ] = _ALL.faces.strength,
    min_face: o.MinFace = _ALL.faces.min_face,
    max_faces: Annotated[
        int, typer.Option(help="Maximum number of faces restored per frame.", rich_help_panel=o.FACES)
    ] = _ALL.faces.max_faces,
    face_detector: o.FaceDetector = _ALL.faces.detector,
    face_embedding: o.FaceEmbedding = _ALL.faces.embedding,
    face_model: Annotated[
        str,
        typer.Option(
            help="Model that restores faces: a name, the path of a model card (.toml), or auto.",
            rich_help_panel=o.FACES,
        ),
    ] = _ALL.faces.model,
    reference: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PHOTO",
            help="Photograph of a person in the video, whose face it helps to restore; may be repeated. NAME is any "
            "name, or the number of a track in `vidsr faces`.",
            rich_help_panel=o.FACES,
        ),
    ] = None,
    reference_strength: Annotated[
        float, typer.Option(help="How much reference photographs add, 0 to 1.", rich_help_panel=o.FACES)
    ] = _ALL.faces.reference_strength,
    face_boxes: o.FaceBoxes = _ALL.faces.boxes,
    scenes: o.Scenes = _ALL.scenes.mode,
    scene_threshold: o.SceneThreshold = _ALL.scenes.threshold,
    codec: o.Codec = _ALL.output.codec,
    crf: o.Crf = _ALL.output.crf,
    preset: o.Preset = _ALL.output.preset,
    pix_fmt: o.PixFmt = _ALL.output.pix_fmt,
    encoder_option: o.EncoderOption = None,
    audio: Annotated[
        c.CopyMode | None,
        typer.Option(help="Copy the audio or drop it.", show_default="copy", rich_help_panel=o.ENCODING),
    ] = None,
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
    footage: o.For = None,  # noqa: ARG001 - ConfiguredCommand reads it, and the next one
    print_config: o.PrintConfig = False,  # noqa: ARG001
    dry_run: o.DryRun = False,
    preview: o.Preview = None,
    report: o.Report = None,
    progress: o.Progress = "auto",
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Enlarges and sharpens a video."""
    from vidsr.cli.console import Screen
    from vidsr.cli.videos import Videos, run_videos

    screen = Screen(progress, quiet, verbose)
    with o.reporting(screen):
        config = c.UpscaleConfig(
            input=input_config(start, end, rate, input_format, input_size, input_pix_fmt, decoder),
            output=output_config(
                codec, crf, preset, pix_fmt, encoder_option, audio, subtitles, overwrite, quality, output_format
            ),
            size=size_config(scale, size, height),
            compute=compute_config(model, device, precision, backend, threads, tile),
            scenes=c.SceneConfig(mode=scenes, threshold=scene_threshold),
            clean=clean_model(clean),
            dust=dust,
            strict=strict,
            resume=resume,
            segment_frames=segment_frames,
            cleaning=cleaning_config(deblur, denoise, deblock),
            faces=restore_config(
                faces,
                face_strength,
                min_face,
                max_faces,
                face_detector,
                face_embedding,
                face_model,
                reference,
                reference_strength,
                face_boxes,
            ),
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
