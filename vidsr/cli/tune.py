"""`vidsr tune`: tries a few settings on a short part of a video, and prints the command that it would use."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vidsr import config as c
from vidsr.cli import options as o
from vidsr.cli.terminal import print_text
from vidsr.pipeline.options import compute_config, size_config

if TYPE_CHECKING:
    from vidsr.cli.console import Screen
    from vidsr.comparison.tuning import Tuning

_COMPUTE = c.ComputeConfig()


def tune(
    source: Annotated[Path, typer.Argument(metavar="INPUT", readable=False, help="A video.", show_default=False)],
    seconds: Annotated[str, typer.Option(metavar="T", help="Length of the part that is tried, at most 10.")] = "2",
    sheet: Annotated[
        Path | None,
        typer.Option(
            metavar="OUT.png", readable=False, help="The contact sheet.", show_default="INPUT_tune.png beside INPUT"
        ),
    ] = None,
    scale: Annotated[float | None, typer.Option(help="Enlargement factor of each side, 1 to 8.")] = None,
    size: o.Size = None,
    height: o.Height = None,
    device: o.Device = _COMPUTE.device,
    precision: o.Precision = _COMPUTE.precision,
    threads: o.Threads = _COMPUTE.threads,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
) -> None:
    """Tries a few settings on a short part of a video, and prints the command that it would use.

    Measures how degraded the part is and how fast each setting runs here. A contact sheet (PNG) shows the same part of
    up to three frames with every setting, and with bicubic interpolation in the first column.
    """
    from vidsr.cli.console import Screen

    screen = Screen(is_quiet=quiet)
    with o.reporting(screen):
        from vidsr.comparison.tuning import draw_sheet, tune, write_sheet
        from vidsr.errors import UsageError
        from vidsr.files import check_target

        target = sheet or source.with_name(f"{source.stem}_tune.png")
        if target.suffix.lower() != ".png":
            raise UsageError(f"--sheet {target}: the contact sheet is a PNG file; use a name that ends in .png")
        check_target(target, source, overwrite)
        wanted = c.parse_time(seconds)
        assert wanted is not None
        compute = compute_config("auto", device, precision, "torch", threads, _COMPUTE.tile)
        wanted_size = size_config(scale, size, height)
        found = tune(source, wanted_size, compute, wanted, lambda choice: screen.say(f"trying {choice.label}"))
        write_sheet(draw_sheet(found), target, overwrite)
        if not quiet:
            _show(screen, found)
        screen.say(f"contact sheet: {target}")
        given = {"--device": device, "--precision": precision, "--threads": str(threads)}
        usual = {"--device": _COMPUTE.device, "--precision": _COMPUTE.precision, "--threads": str(_COMPUTE.threads)}
        options = [part for name, value in given.items() if value != usual[name] for part in (name, value)]
        options = [*found.chosen.choice.options, *found.size_options, *options]
        print_text(shlex.join(["vidsr", "upscale", *options, *(["--"] if str(source)[:1] == "-" else []), str(source)]))


def _show(screen: Screen, found: Tuning) -> None:
    plan = found.chosen.plan
    screen.say(f"degradation: {found.levels}")
    width, height = plan.expected.size
    name = f"{plan.info.width}x{plan.info.height} to {width}x{height} on {plan.device} ({plan.precision})"
    rows = [
        [
            trial.label,
            f"{trial.seconds_per_frame:.3f} s",
            _duration(trial.seconds),
            "chosen" if trial is found.chosen else "",
        ]
        for trial in found.trials
    ]
    screen.table(name, ["setting", "per frame", "whole video", ""], rows)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown length"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 3600:.1f} h"
