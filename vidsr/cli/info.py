"""`vidsr info`: what is in a file, and what vidsr would do with it."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from vidsr.cli import options as o


def info(
    source: Annotated[Path, typer.Argument(metavar="INPUT", readable=False, help="A video.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
) -> None:
    """Shows what is in a file and what vidsr would do with it."""
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.config import ComputeConfig, OutputConfig, UpscaleConfig
        from vidsr.engines.select import DEFAULT_MODELS
        from vidsr.pipeline.plan import forecast
        from vidsr.runtime.device import choose_device, choose_precision
        from vidsr.video.probe import probe

        film = probe(source)
        width, height = forecast(film, UpscaleConfig()).size
        device = choose_device(ComputeConfig().device)
        plan = {
            "model": DEFAULT_MODELS["upscale"],
            "device": str(device),
            "precision": choose_precision(ComputeConfig().precision, device),
            "output_width": width,
            "output_height": height,
            "faces": f"restored by {DEFAULT_MODELS['restore_face']}",
            "codec": OutputConfig().codec,
        }
        values = dataclasses.asdict(film)
        if as_json:
            text = json.dumps(values | {"upscale": plan}, indent=2, default=_plain, ensure_ascii=False)
            typer.echo(text.encode("utf-8", "backslashreplace"))  # valid JSON whatever the terminal's encoding
            return
        streams = values.pop("streams")
        colour = values.pop("colour")
        screen.fields(str(source), {name: str(value) for name, value in values.items() if name != "path"})
        screen.fields("colour", {name: str(value) for name, value in colour.items()})
        columns = list(streams[0]) if streams else []
        rows = [["" if value is None else str(value) for value in stream.values()] for stream in streams]
        screen.table("streams", columns, rows)
        screen.fields("vidsr upscale would", {name: str(value) for name, value in plan.items()})


def _plain(value: Any) -> Any:
    assert isinstance(value, Fraction), f"no JSON for {value!r}"
    return str(value)
