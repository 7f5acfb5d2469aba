"""The command line: parses options, calls the library, shows results.

A command's module is imported when the command, its help or its completion is asked for, and heavy modules inside the
commands, so that --help is quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from vidsr import __version__
from vidsr.cli.terminal import visible
from vidsr.errors import EXIT_CODES
from vidsr.runtime.heap import uncollected_imports

_EPILOG = "Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())


class CommandEntry(NamedTuple):
    """A command: its first line in the help; its module, whose function or Typer application has the same name; and
    whether its options may come from settings files."""

    summary: str
    module: str
    has_settings: bool = False


COMMANDS = {
    "upscale": CommandEntry("Enlarges and sharpens a video.", "upscale", has_settings=True),
    "slowmo": CommandEntry(
        "Slows a video down, or raises its frame rate with --keep-duration, by interpolating frames.",
        "slowmo",
        has_settings=True,
    ),
    "faces": CommandEntry("Detects the faces of a video and tracks each one through time.", "faces"),
    "defects": CommandEntry(
        "Finds dust, dirt, hairs and scratches of a film, or spots on a scanned page of constant tints.", "defects"
    ),
    "info": CommandEntry("Shows the properties of a video and what `vidsr upscale` would do with it.", "info"),
    "tune": CommandEntry(
        "Tries a few settings on a short part of a video, and prints the command that it would use.", "tune"
    ),
    "compare": CommandEntry(
        "Compares videos or images: a page with a wipe, zoom, difference and playback in step, in one file.", "compare"
    ),
    "eval": CommandEntry("Measures PSNR, SSIM and temporal stability of a result against its reference.", "evaluate"),
    "bench": CommandEntry("Measures speed and memory of a model on this machine.", "bench"),
    "doctor": CommandEntry("Shows what works on this machine, and what to install.", "doctor"),
    "jobs": CommandEntry("Lists the unfinished work of interrupted runs in a folder, or removes it.", "jobs"),
    "train": CommandEntry("Trains a model by a recipe; run it again with the same --output to resume.", "train"),
    "models": CommandEntry("Lists, checks, imports and exports models.", "models"),
}


@cache
def load_command(name: str) -> Any:
    """The command or the group of commands of this name, as Typer runs it. Imports its module."""
    entry = COMMANDS[name]
    with uncollected_imports():
        found = getattr(import_module(f"vidsr.cli.{entry.module}"), entry.module)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    if entry.has_settings:
        from vidsr.cli.command import ConfiguredCommand

        command.command(name, cls=ConfiguredCommand, epilog=_EPILOG)(found)
    else:
        command.command(name)(found)
    return typer.main.get_command(command)


class _Commands(TyperGroup):
    """The commands, each of which is loaded when it is needed; usage errors show no control characters of file names.

    Until then a command that has its name and summary, and nothing else, stands for it.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the options before the command."""
        with _visible_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Parses the options of a command and runs it."""
        with _visible_errors():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command of these arguments, loaded, to run it, show its help or complete its options."""
        name, stand_in, rest = super().resolve_command(ctx, args)
        return name, stand_in and load_command(str(name)), rest


@contextmanager
def _visible_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            error.message = "\n".join(map(visible, message.split("\n")))  # type: ignore[attr-defined]
        raise


app = typer.Typer(
    cls=_Commands,
    name="vidsr",
    help="Video super-resolution, slow motion and face restoration.",
    epilog=_EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _entry in COMMANDS.items():
    app.command(_name, help=_entry.summary)(lambda: None)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vidsr {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Video super-resolution, slow motion and face restoration."""
