"""The commands of the program: loaded when needed, with the help and completion that they have when loaded."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer.testing

from vidsr.cli import COMMANDS, app, load_command

ROOT = Path(__file__).parents[2]
RUNNER = typer.testing.CliRunner()


def loaded_by(*args: str, **variables: str) -> tuple[set[str], str]:
    """The modules of commands that a process with these arguments has loaded at its end, and what it printed."""
    code = (
        "import atexit, sys\n"
        "loaded = lambda: [name for name in sys.modules if name.startswith('vidsr.cli.')]\n"
        "atexit.register(lambda: print(*loaded(), file=sys.stderr))\n"
        f"sys.argv = ['vidsr', *{list(args)}]\n"
        "from vidsr.__main__ import main\n"
        "main()"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = {name.rpartition(".")[2] for name in done.stderr.split()}
    return names & {entry.module for entry in COMMANDS.values()}, done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_the_line_in_the_help_is_the_first_of_the_command(name: str) -> None:
    assert inspect.cleandoc(load_command(name).help).split("\n\n")[0].replace("\n", " ") == COMMANDS[name].summary


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_shows_its_own_help(name: str) -> None:
    command = load_command(name)
    assert command.name == name
    shown = RUNNER.invoke(app, [name, "-h"])
    assert shown.exit_code == 0
    assert f"Usage: vidsr {name} " in shown.stdout
    assert all(param.opts[0] in shown.stdout for param in command.params if param.opts[0].startswith("--"))


def test_the_help_loads_no_command() -> None:
    modules, text = loaded_by("--help")
    assert modules == set()
    assert all(f"│ {name} " in text for name in COMMANDS)


def test_a_command_loads_no_other_one() -> None:
    assert loaded_by("eval", "--help")[0] == {"evaluate"}


def test_completion_offers_commands_and_the_options_of_one() -> None:
    def completed(words: str, number: int) -> tuple[set[str], list[str]]:
        modules, text = loaded_by(_VIDSR_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(number))
        return modules, text.split()

    assert completed("vidsr ", 1) == (set(), [*COMMANDS])
    assert completed("vidsr upscale --deb", 2) == ({"upscale"}, ["--deblur", "--deblock"])
    assert completed("vidsr models v", 2) == ({"models"}, ["verify"])


def test_a_misspelt_command_is_told_from_the_others() -> None:
    result = RUNNER.invoke(app, ["upsacle"])
    assert result.exit_code == 2
    assert "Did you mean 'upscale'?" in result.stderr
