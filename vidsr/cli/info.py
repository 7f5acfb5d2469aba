"""`vidsr info`: shows the properties of a video and what `vidsr upscale` would do with it."""

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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    """Shows the properties of a video and what `vidsr upscale` would do with it."""
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.config import UpscaleConfig
        from vidsr.pipeline.plan import plan

        planned = plan(source, None, UpscaleConfig())
        width, height = planned.expected.size
        upscale = {
            "model": planned.model,
            "device": planned.device,
            "precision": planned.precision,
            "output_width": width,
            "output_height": height,
            "faces": f"restored by {planned.face_model}",
            "codec": planned.options.output.codec,
        }
        values = dataclasses.asdict(planned.info)
        guess = planned.info.colour.guess
        if as_json:
            text = json.dumps(
                values | {"upscale": upscale, "notes": [guess] if guess else []},
                indent=2,
                default=_plain,
                ensure_ascii=False,
            )
            typer.echo(text.encode("utf-8", "backslashreplace"))  # valid JSON whatever the terminal's encoding
            return
        streams = values.pop("streams")
        color = values.pop("colour")
        screen.fields(str(source), {name: str(value) for name, value in values.items() if name != "path"})
        screen.fields("color", {name: str(value) for name, value in color.items()})
        if guess:
            screen.say(f"note: {guess}")
        columns = list(streams[0]) if streams else []
        rows = [["" if value is None else str(value) for value in stream.values()] for stream in streams]
        screen.table("streams", columns, rows)
        screen.fields("vidsr upscale would", {name: str(value) for name, value in upscale.items()})


def _plain(value: Any) -> Any:
    assert isinstance(value, Fraction), f"cannot write {value!r} as JSON"
    return str(value)
