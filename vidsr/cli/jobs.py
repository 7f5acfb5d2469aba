"""`vidsr jobs`: unfinished work that can be continued."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Annotated

import typer

from vidsr.cli import options as o
from vidsr.cli.terminal import print_json


def jobs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", readable=False, help="The folder of the outputs.")],
    clean: Annotated[bool, typer.Option("--clean", help="Remove the unfinished work that no process uses.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    """Lists the unfinished work of interrupted runs in a folder, or removes it.

    The command that began it goes on with it.
    """
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.pipeline.job import find_unfinished, remove_unfinished

        found = list(find_unfinished(folder))
        removed = [job.folder for job in found if clean and not job.is_running and remove_unfinished(job)]
        if as_json:
            entries = [dataclasses.asdict(job) | {"is_removed": job.folder in removed} for job in found]
            print_json(json.dumps({"jobs": entries}, indent=2, ensure_ascii=False, default=str))
            return
        if not found:
            screen.say(f"there is no unfinished work in {folder}")
        elif clean:
            for job in found:
                screen.say(f"{'removed' if job.folder in removed else 'in use, not removed:'} {job.folder}")
        else:
            rows = []
            for job in found:
                of = "" if job.expected is None else f" of {job.expected}"
                state = job.damage or ("running" if job.is_running else "interrupted")
                when = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.changed)) if job.changed else "unknown"
                rows.append([Path(job.target).name, f"{job.frames}{of}", f"{job.size / 1e6:.1f} MB", when, state])
            screen.table(f"unfinished work in {folder}", ["output", "frames", "size", "last change", "state"], rows)
