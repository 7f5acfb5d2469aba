"""The command line: parses options, calls the library, shows results.

Heavy modules are imported inside the commands, so that --help is quick.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vidsr import __version__
from vidsr.cli.bench import bench
from vidsr.cli.command import ConfiguredCommand
from vidsr.cli.compare import compare
from vidsr.cli.defects import defects
from vidsr.cli.doctor import doctor
from vidsr.cli.evaluate import evaluate
from vidsr.cli.faces import faces
from vidsr.cli.info import info
from vidsr.cli.jobs import jobs
from vidsr.cli.models import models
from vidsr.cli.slowmo import slowmo
from vidsr.cli.terminal import visible
from vidsr.cli.train import train
from vidsr.cli.tune import tune
from vidsr.cli.upscale import upscale
from vidsr.errors import EXIT_CODES

_EPILOG = "Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())


class _Commands(TyperGroup):
    """The commands; usage errors, which quote arguments such as file names, show no control characters."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the options before the command."""
        with _visible_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Parses the options of a command and runs it."""
        with _visible_errors():
            return super().invoke(ctx)


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
app.command(epilog=_EPILOG, cls=ConfiguredCommand)(upscale)
app.command(epilog=_EPILOG, cls=ConfiguredCommand)(slowmo)
app.command()(faces)
app.command()(defects)
app.command()(info)
app.command()(tune)
app.command()(compare)
app.command("eval")(evaluate)
app.command()(bench)
app.command()(doctor)
app.command()(jobs)
app.add_typer(models, name="models")
app.command()(train)


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
