"""The command line: parses options, calls the library, shows results.

Heavy modules are imported inside the commands, so that --help is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from vidsr import __version__
from vidsr.cli.bench import bench
from vidsr.cli.evaluate import evaluate
from vidsr.cli.faces import faces
from vidsr.cli.info import info
from vidsr.cli.models import models
from vidsr.cli.slowmo import slowmo
from vidsr.cli.train import train
from vidsr.cli.upscale import upscale
from vidsr.errors import EXIT_CODES

_EPILOG = "Exit codes: " + " · ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items())

app = typer.Typer(
    name="vidsr",
    help="Video super-resolution, slow motion and face restoration.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=_EPILOG)(upscale)
app.command(epilog=_EPILOG)(slowmo)
app.command()(faces)
app.command()(info)
app.command("eval")(evaluate)
app.command()(bench)
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


def main() -> None:
    """The console script."""
    app()
