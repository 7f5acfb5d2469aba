"""`vidsr info`: shows the properties of a video and what `vidsr upscale` would do with it."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from vidsr.cli import options as o
from vidsr.cli.terminal import print_json


def info(
    source: Annotated[Path, typer.Argument(metavar="INPUT", readable=False, help="A video.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")] = False,
) -> None:
    """Shows the properties of a video and what `vidsr upscale` would do with it."""
    from vidsr.cli.console import Screen

    screen = Screen()
    with o.reporting(screen):
        from vidsr.config import InputConfig, UpscaleConfig
        from vidsr.pipeline.degradation import estimate_degradation
        from vidsr.pipeline.plan import plan
        from vidsr.video.sources import source_of

        opened = source_of(source, InputConfig())
        planned = plan(opened, None, UpscaleConfig())
        levels = estimate_degradation(opened) if planned.choice is None else planned.choice.levels
        width, height = planned.expected.size
        upscale = {
            "model": planned.model,
            "device": planned.device,
            "precision": planned.precision,
            "output_width": width,
            "output_height": height,
            "faces": f"restored by {planned.face_model}" if planned.face_model else "not restored",
            "codec": planned.options.output.codec,
        }
        values = dataclasses.asdict(planned.info)
        guess = planned.info.color.guess
        if as_json:
            # The keys are a public contract; "colour" is older than the field's name.
            public = {"colour" if name == "color" else name: value for name, value in values.items()}
            public |= {"degradation": dataclasses.asdict(levels), "upscale": upscale}
            public |= {"notes": [guess] if guess else []}
            print_json(json.dumps(public, indent=2, default=_plain, ensure_ascii=False))
            return
        streams = values.pop("streams")
        color = values.pop("color")
        screen.fields(str(source), {name: str(value) for name, value in values.items() if name != "path"})
        screen.fields("color", {name: str(value) for name, value in color.items()})
        if guess:
            screen.say(f"note: {guess}")
        columns = list(streams[0]) if streams else []
        rows = [["" if value is None else str(value) for value in stream.values()] for stream in streams]
        screen.table("streams", columns, rows)
        screen.fields("a few frames", {"degradation": str(levels)})
        screen.fields("vidsr upscale would", {name: str(value) for name, value in upscale.items()})


def _plain(value: Any) -> Any:
    assert isinstance(value, Fraction), f"cannot write {value!r} as JSON"
    return str(value)
