"""`vidsr doctor`: what works on this machine, and what to install."""

from __future__ import annotations

import dataclasses
import json
from itertools import groupby
from typing import Annotated

import typer

from vidsr import __version__
from vidsr.cli import options as o
from vidsr.cli.terminal import print_json


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False) -> None:
    """Shows what works on this machine, and what to install.

    Examines the installation, versions, devices, encoders, decoders, models, disks and optional packages. Writes
    nothing. The exit code is 0 if nothing is broken, else that of the first broken check.
    """
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.doctor import examine, exit_code

        checks = list(examine())
        code = exit_code(checks)
        if as_json:
            values = {"vidsr": __version__, "exit_code": code, "checks": [dataclasses.asdict(each) for each in checks]}
            print_json(json.dumps(values, indent=2, ensure_ascii=False))
        else:
            for area, found in groupby(checks, key=lambda check: check.area):
                rows = [
                    [check.name, check.state, "; ".join(filter(None, (check.detail, check.remedy)))] for check in found
                ]
                screen.table(area, ["name", "state", "what was found"], rows)
        broken = [f"{check.area}: {check.name}" for check in checks if check.state == "broken"]
        if broken:
            screen.fail(f"{len(broken)} of {len(checks)} checks are broken: {', '.join(broken)}")
            raise typer.Exit(code)
        screen.say("vidsr can work here: nothing is broken")
