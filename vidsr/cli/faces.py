"""`vidsr faces`: detects and tracks the faces of a video."""

from __future__ import annotations

from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, Annotated, cast

import typer

from vidsr import config as c
from vidsr.cli import options as o
from vidsr.cli.progress_text import counted
from vidsr.cli.terminal import print_json_file, print_path
from vidsr.pipeline.options import box_model, face_config, input_config
from vidsr.video.pipes import is_pipe_output

if TYPE_CHECKING:
    from vidsr.cli.console import Screen
    from vidsr.faces.listing import FaceReport, FaceTargets

_ALL = c.FindFacesConfig()
# JSON text up to this size is kept in memory, a larger one in a temporary file.
_SPOOL_BYTES = 16 << 20


def faces(
    source: Annotated[Path, typer.Argument(metavar="INPUT", readable=False, help="A video.", show_default=False)],
    as_json: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", readable=False, help="Write the faces as JSON to this file; - for stdout."
        ),
    ] = None,
    annotate: Annotated[
        Path | None,
        typer.Option(metavar="OUT", readable=False, help="Write a copy of the video with the faces drawn in."),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(metavar="OUT.png", readable=False, help="Write a contact sheet of all face tracks (PNG)."),
    ] = None,
    face_detector: o.FaceDetector = _ALL.faces.detector,
    face_embedding: o.FaceEmbedding = _ALL.faces.embedding,
    min_face: o.MinFace = _ALL.faces.min_face,
    face_model: Annotated[
        str,
        typer.Option(
            help="Also list and draw in which boxes of a face this face model works, such as attention-fh-fast; off: "
            "none.",
            rich_help_panel=o.FACES,
        ),
    ] = _ALL.model,
    face_boxes: o.FaceBoxes = _ALL.boxes,
    device: o.Device = _ALL.device,
    threads: o.Threads = _ALL.threads,
    scenes: o.Scenes = _ALL.scenes.mode,
    scene_threshold: o.SceneThreshold = _ALL.scenes.threshold,
    start: o.Start = None,
    end: o.End = None,
    rate: o.Rate = None,
    input_format: o.InputFormat = None,
    input_size: o.InputSize = None,
    input_pix_fmt: o.InputPixFmt = None,
    decoder: o.Decoder = _ALL.input.decoder,
    overwrite: o.Overwrite = _ALL.output.overwrite,
    progress: o.Progress = "auto",
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
) -> None:
    """Detects the faces of a video and tracks each one through time.

    Without --json, --annotate and --sheet, JSON is printed to stdout. It lists the time and the faces of each frame
    (track, box and five landmarks in pixels of the video as displayed, score, and whether the face was detected in
    that frame), then the tracks, and which of them show one person, if an embedding tells people apart.
    """
    from vidsr.cli.console import Screen

    screen = Screen(progress, quiet, verbose)
    with o.reporting(screen), SpooledTemporaryFile(_SPOOL_BYTES) as spool:
        from vidsr.faces.listing import FaceTargets

        is_printed = as_json == Path("-") or not (as_json or annotate or sheet)
        targets = FaceTargets(annotate, sheet, None if is_printed else as_json)
        config = c.FindFacesConfig(
            input=input_config(start, end, rate, input_format, input_size, input_pix_fmt, decoder),
            output=c.OutputConfig(overwrite=overwrite),
            scenes=c.SceneConfig(mode=scenes, threshold=scene_threshold),
            faces=face_config(face_detector, min_face, face_embedding),
            model=box_model(face_model),
            boxes=face_boxes,
            device=device,
            threads=threads,
        )
        listing = cast(IO[bytes], spool)
        report = _run(screen, source, targets, listing, config)
        for warning in report.warnings:
            screen.warn(warning)
        found = f"{counted(len(report.tracks), 'face track')} in {counted(report.frames, 'frame')}"
        screen.say(f"done: {found}{_persons(report)}")
        for path in (targets.video, targets.sheet, targets.listing):
            if path is not None and not is_printed and not is_pipe_output(path):
                print_path(path)
        if is_printed:
            listing.seek(0)
            print_json_file(listing)


def _persons(report: FaceReport) -> str:
    """Whose the tracks are, for the closing message."""
    if report.persons is None:
        return "; nothing tells people apart: pip install 'vidsr-video[identity]', or give --face-embedding FILE"
    return f", of {counted(len(report.persons), 'person')}"


def _run(
    screen: Screen, source: Path, targets: FaceTargets, listing: IO[bytes], config: c.FindFacesConfig
) -> FaceReport:
    from vidsr.faces.listing import describe_faces, plan_listing
    from vidsr.pipeline.run import Progress
    from vidsr.runtime.memory import peak_memory_bytes

    plan = plan_listing(source, targets, config)
    with screen.progress(source.name, plan.device, lambda: peak_memory_bytes(plan.device)) as on_progress:

        def show(done: int, expected: int | None, seconds: float) -> None:
            on_progress(Progress(done, expected, seconds))

        return describe_faces(plan, listing, show)
