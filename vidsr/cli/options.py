"""Options shared by several commands: their names, types and help texts.

Defaults stay in the commands, which take them from vidsr.config. Imports nothing heavy.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vidsr import config as c
from vidsr.cli.presets import PRESETS, Footage
from vidsr.errors import KEPT, VidsrError
from vidsr.runtime.threads import check_threads
from vidsr.signals import stopping

if TYPE_CHECKING:
    from vidsr.cli.console import Screen

_FILES, _COMPUTE, FACES, ENCODING = "Input and output", "Model and device", "Faces", "Encoding"
CLEANING = "Cleaning"

# readable=False: an unreadable file is an input error (exit code 3), not a usage error, so Typer must not check it.
Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="INPUT... [OUTPUT]",
        readable=False,
        help="A video, an image, images such as frames/%06d.png, a folder, or several of these; then the file to "
        "write, or the folder if INPUT is not one video. Without OUTPUT, the result gets a name beside the input, such "
        "as a_x4.mp4.",
        show_default=False,
    ),
]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Output size in pixels, as displayed.")]
Height = Annotated[int | None, typer.Option(help="Output height in pixels, as displayed; keeps the aspect ratio.")]

Model = Annotated[
    str,
    typer.Option(
        help="A name from `vidsr models list`, the path of a model card (.toml), or auto.", rich_help_panel=_COMPUTE
    ),
]
Device = Annotated[str, typer.Option(help="Device: auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_COMPUTE)]
Precision = Annotated[
    c.Precision, typer.Option(help="Numeric precision of the network's convolutions.", rich_help_panel=_COMPUTE)
]
Backend = Annotated[
    c.Backend,
    typer.Option(help="Run the network with torch or with ONNX Runtime (fp32 only).", rich_help_panel=_COMPUTE),
]
Threads = Annotated[int, typer.Option(help="CPU threads, 0 to 256; 0 lets torch choose.", rich_help_panel=_COMPUTE)]
Tile = Annotated[
    str,
    typer.Option(
        help="Process frames in tiles to save memory: auto, off, or the tile side in input pixels, 64 or more.",
        rich_help_panel=_COMPUTE,
    ),
]
Scenes = Annotated[
    c.SceneMode,
    typer.Option(help="Detect scene cuts and reset the network there, or ignore cuts.", rich_help_panel=_COMPUTE),
]
SceneThreshold = Annotated[
    float, typer.Option(help="Difference between frames that counts as a cut, 0 to 255.", rich_help_panel=_COMPUTE)
]

Deblur = Annotated[
    str,
    typer.Option(
        metavar="LEVEL",
        help="How blurred the input is: 0 to 1, or auto to estimate it. For models with an estimator.",
        rich_help_panel=CLEANING,
    ),
]
Denoise = Annotated[
    str, typer.Option(metavar="LEVEL", help="How noisy the input is: 0 to 1, or auto.", rich_help_panel=CLEANING)
]
Deblock = Annotated[
    str,
    typer.Option(
        metavar="LEVEL", help="How strongly the input was compressed: 0 to 1, or auto.", rich_help_panel=CLEANING
    ),
]

Clean = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="A model of scale 1 that cleans every frame before anything else: name, card (.toml) or imported file.",
        rich_help_panel=CLEANING,
    ),
]
Dust = Annotated[
    c.DustMode,
    typer.Option(
        help="Dust, dirt, hairs and scratches of film: ignore them, count them in the report, or repair them.",
        rich_help_panel=CLEANING,
    ),
]

FaceDetector = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        readable=False,
        help="YuNet model (.onnx) to use instead of the built-in one.",
        rich_help_panel=FACES,
    ),
]
FaceEmbedding = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="What tells people apart: a file with SFace's interface (.onnx), auto for that of the extra `identity`, "
        "or off.",
        rich_help_panel=FACES,
    ),
]
MinFace = Annotated[
    float,
    typer.Option(
        metavar="PIXELS", help="Smallest face to detect: side in input pixels, 8 or more.", rich_help_panel=FACES
    ),
]
FaceBoxes = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of boxes of a face, with a face model that chooses them, such as attention-fh-fast.",
        show_default="the model's own",
        rich_help_panel=FACES,
    ),
]

Codec = Annotated[
    str, typer.Option(help="auto, or the name of an FFmpeg encoder, such as libx265.", rich_help_panel=ENCODING)
]
Crf = Annotated[
    float | None, typer.Option(help="Quality on the encoder's own scale; lower is better.", rich_help_panel=ENCODING)
]
Preset = Annotated[
    str | None, typer.Option(help="The encoder's speed preset, such as medium.", rich_help_panel=ENCODING)
]
PixFmt = Annotated[str, typer.Option(help="auto, or the name of an FFmpeg pixel format.", rich_help_panel=ENCODING)]
EncoderOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE", help="A private option of the encoder; may be repeated.", rich_help_panel=ENCODING
    ),
]
Subtitles = Annotated[c.CopyMode, typer.Option(help="Copy the subtitles or drop them.", rich_help_panel=ENCODING)]

Start = Annotated[
    str | None, typer.Option(metavar="T", help="Start time: seconds or H:MM:SS.mmm.", rich_help_panel=_FILES)
]
End = Annotated[
    str | None, typer.Option(metavar="T", help="End time (exclusive): seconds or H:MM:SS.mmm.", rich_help_panel=_FILES)
]
Rate = Annotated[
    str | None,
    typer.Option(
        metavar="FPS",
        help="Frames per second of images and raw video: 25, 29.97 or 30000/1001. Makes a folder of images one video.",
        show_default="25",
        rich_help_panel=_FILES,
    ),
]
InputFormat = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Format of the input: y4m, rawvideo, mkv, ts or FFmpeg's name.",
        show_default="found out",
        rich_help_panel=_FILES,
    ),
]
InputSize = Annotated[
    str | None, typer.Option(metavar="WxH", help="Size of the frames of raw video.", rich_help_panel=_FILES)
]
InputPixFmt = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Pixel format of raw video, such as yuv420p or rgb24.", rich_help_panel=_FILES),
]
Decoder = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="What decodes the input: software, cuda, vaapi, videotoolbox, d3d11va, or auto for the first that works.",
        rich_help_panel=_FILES,
    ),
]
OutputFormat = Annotated[
    c.PipeFormat, typer.Option(help="Format of an output that is a pipe.", rich_help_panel=ENCODING)
]
Quality = Annotated[
    int | None,
    typer.Option(help="Quality of JPEG and WebP images, 1 to 100.", show_default="95", rich_help_panel=ENCODING),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", "-y", help="Overwrite existing output files.", rich_help_panel=_FILES)
]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing",
        help="Skip videos whose output already exists; with --overwrite, only if the same input, options, model and "
        "version made it.",
        rich_help_panel=_FILES,
    ),
]
ListFile = Annotated[
    Path | None,
    typer.Option(
        "--list",
        metavar="FILE",
        readable=False,
        help="Read the inputs from a text file, one path a line, relative to it; - is standard input.",
        rich_help_panel=_FILES,
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Process every N-th video only, from number I on.", rich_help_panel=_FILES),
]
Jobs = Annotated[
    int, typer.Option(metavar="N", help="Process N videos at once, each in its own process.", rich_help_panel=_FILES)
]
Devices = Annotated[
    str | None,
    typer.Option(
        metavar="LIST",
        help="Use several devices at once, each with a process of its own, such as cuda:0,cuda:1: for segments of one "
        "video, or for several videos.",
        rich_help_panel=_COMPUTE,
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Use the machines of a Ray cluster: auto, or the address of its head, such as 10.0.0.1:6379.",
        rich_help_panel=_COMPUTE,
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", help="Also process subfolders of the input folder.", rich_help_panel=_FILES)
]
Suffix = Annotated[
    str,
    typer.Option(
        help="Text added to each output name, such as _x4; for folders, lists and outputs beside their inputs.",
        rich_help_panel=_FILES,
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict", help="Treat damaged input and lost data as an error (exit code 7).", rich_help_panel=_FILES
    ),
]

Resume = Annotated[
    bool | None,
    typer.Option(
        "--resume/--no-resume",
        help="Keep finished work beside the output, so that the same command goes on after an interruption.",
        show_default="for jobs of more than about 10 minutes",
        rich_help_panel=_FILES,
    ),
]
SegmentFrames = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Input frames of a piece of kept work, 1 or more: what an interruption costs at the most.",
        rich_help_panel=_FILES,
    ),
]

For = Annotated[
    Footage | None,
    typer.Option(
        "--for",
        help="Options for a kind of footage: "
        + "; ".join(f"{name} ({preset.footage})" for name, preset in PRESETS.items())
        + ". Options of the command line come before them.",
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print all options as a settings file (vidsr.toml), and stop.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")]
Preview = Annotated[
    str | None,
    typer.Option(
        metavar="SECONDS",
        help="Write only a page, OUTPUT_preview.html, with so many seconds from the middle and from the busiest place.",
    ),
]
Report = Annotated[Path | None, typer.Option(metavar="FILE", readable=False, help="Write a JSON report of the run.")]
Progress = Annotated[
    Literal["auto", "json", "none"], typer.Option(help="Progress on stderr: a bar on a terminal, JSON lines, or none.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show more details.")]


@contextmanager
def reporting(screen: Screen) -> Iterator[None]:
    """Reports every error as one line on stderr and exits with its code; SIGTERM and SIGHUP act like Ctrl-C."""
    with stopping() as stop:
        try:
            check_threads()
            yield
        except (Exception, KeyboardInterrupt) as error:
            # Asked first, because a library that is interrupted while it is loaded raises errors of its own.
            if stop.number is not None or isinstance(error, KeyboardInterrupt):
                screen.fail("interrupted: no unfinished output was kept")
                _say_notes(screen, error)
                raise typer.Exit(stop.exit_code) from error
            raise typer.Exit(_exit_code(screen, error)) from error


def _say_notes(screen: Screen, error: BaseException) -> None:
    """Says what else is to be known about an error: which work is kept."""
    for note in getattr(error, "__notes__", ()):
        if KEPT in note:
            screen.say(note)


def _exit_code(screen: Screen, error: Exception) -> int:
    """Reports an error, unless that has been done, and returns the exit code for it."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        return 141
    if isinstance(error, VidsrError):
        screen.fail(str(error))
        _say_notes(screen, error)
        return error.exit_code
    from vidsr.runtime.memory import shortage

    if lack := shortage(error):
        screen.fail(str(lack))
        return lack.exit_code
    screen.details("".join(traceback.format_exception(error)))
    screen.fail(f"internal error, please report it: {type(error).__name__}: {' '.join(str(error).split())}")
    return 1
