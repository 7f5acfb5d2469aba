"""Options that several commands share: how they are written and explained.

Defaults stay with the commands, beside the fields that own them. Loads nothing heavy.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vidsr import config as c
from vidsr.errors import VidsrError

if TYPE_CHECKING:
    from vidsr.cli.console import Screen

_FILES, _COMPUTE, FACES, ENCODING = "Input and output", "Model and device", "Faces", "Encoding"

# readable=False: whether a file can be read is found out by reading, and is no matter of usage.
Source = Annotated[
    Path, typer.Argument(metavar="INPUT", readable=False, help="A video, or a folder of videos.", show_default=False)
]
Target = Annotated[
    Path,
    typer.Argument(
        metavar="OUTPUT", readable=False, help="The file to make; a folder if INPUT is one.", show_default=False
    ),
]
Size = Annotated[str | None, typer.Option(metavar="WxH", help="Size of the output as displayed.")]
Height = Annotated[int | None, typer.Option(help="Height of the output as displayed.")]

Model = Annotated[
    str, typer.Option(help="A name from `vidsr models list`, a card file, or auto.", rich_help_panel=_COMPUTE)
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_COMPUTE)]
Precision = Annotated[
    c.Precision, typer.Option(help="Precision of the network's convolutions.", rich_help_panel=_COMPUTE)
]
Backend = Annotated[
    c.Backend, typer.Option(help="What runs the network: torch, or ONNX Runtime (fp32).", rich_help_panel=_COMPUTE)
]
Threads = Annotated[
    int, typer.Option(help="Threads on the CPU, up to 256; 0 lets torch choose.", rich_help_panel=_COMPUTE)
]
Tile = Annotated[str, typer.Option(help="auto, off or N input pixels: less memory.", rich_help_panel=_COMPUTE)]
Scenes = Annotated[c.SceneMode, typer.Option(help="Start afresh at scene cuts, or never.", rich_help_panel=_COMPUTE)]
SceneThreshold = Annotated[
    float, typer.Option(help="How different two frames must be, 0..255.", rich_help_panel=_COMPUTE)
]

FaceDetector = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", readable=False, help="A YuNet file (.onnx) instead of the shipped one.", rich_help_panel=FACES
    ),
]
MinFace = Annotated[
    float,
    typer.Option(metavar="PIXELS", help="Side of the smallest face in input pixels, from 8.", rich_help_panel=FACES),
]

Codec = Annotated[
    str, typer.Option(help="auto or an encoder's name in FFmpeg, such as libx265.", rich_help_panel=ENCODING)
]
Crf = Annotated[
    float | None, typer.Option(help="Quality on the encoder's own scale; lower is better.", rich_help_panel=ENCODING)
]
Preset = Annotated[str | None, typer.Option(help="The encoder's preset.", rich_help_panel=ENCODING)]
PixFmt = Annotated[str, typer.Option(help="auto or a pixel format's name in FFmpeg.", rich_help_panel=ENCODING)]
EncoderOption = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="An encoder's own option.", rich_help_panel=ENCODING)
]
Subtitles = Annotated[c.CopyMode, typer.Option(help="Copy the subtitles or leave them out.", rich_help_panel=ENCODING)]

Start = Annotated[str | None, typer.Option(metavar="T", help="Seconds or H:MM:SS.mmm.", rich_help_panel=_FILES)]
End = Annotated[str | None, typer.Option(metavar="T", help="Where to stop, exclusive.", rich_help_panel=_FILES)]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", "-y", help="Replace an existing output.", rich_help_panel=_FILES)
]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Leave out what is there already.", rich_help_panel=_FILES)
]
Recursive = Annotated[bool, typer.Option("--recursive", help="Folders inside the folder too.", rich_help_panel=_FILES)]
Suffix = Annotated[str, typer.Option(help="Put behind each name in a folder run, such as _x4.", rich_help_panel=_FILES)]
Strict = Annotated[bool, typer.Option("--strict", help="Damage or loss is an error (7).", rich_help_panel=_FILES)]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Report = Annotated[Path | None, typer.Option(metavar="FILE", readable=False, help="Write a JSON report.")]
Progress = Annotated[Literal["auto", "json", "none"], typer.Option(help="What stderr shows.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more.")]


@contextmanager
def reporting(screen: Screen) -> Iterator[None]:
    """Turns the errors of vidsr.errors into one line on stderr and their exit code; SIGTERM acts like Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature that signal wants
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except VidsrError as error:
        screen.fail(str(error))
        raise typer.Exit(error.exit_code) from error
    except KeyboardInterrupt as error:
        screen.fail("interrupted; nothing is left under the output's name")
        raise typer.Exit(130) from error
    except BrokenPipeError as error:
        sys.stderr.close()
        raise typer.Exit(141) from error
    finally:
        signal.signal(signal.SIGTERM, before)
