"""Presets of `--for`: options for kinds of footage that people have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Footage = Literal["webcam", "phone", "film", "anime", "dvd", "vhs"]
Value = str | int | float | bool
DEGRADED = "secnet-fast-real"


@dataclass(frozen=True, slots=True)
class Preset:
    """What a kind of footage is, and the options of `vidsr upscale` that suit it, by their names without dashes."""

    footage: str
    options: Mapping[str, Value]


PRESETS: dict[Footage, Preset] = {
    "webcam": Preset("one noisy, compressed shot", {"model": DEGRADED, "scale": 2.0, "scenes": "off"}),
    "phone": Preset("soft and compressed, already large", {"model": DEGRADED, "scale": 2.0}),
    "film": Preset("clean; grain stays", {"model": "secnet-fast", "faces": True, "scale": 2.0, "crf": 14.0}),
    "anime": Preset("drawn and compressed; drawn faces are left alone", {"model": DEGRADED, "faces": False}),
    "dvd": Preset("MPEG-2 of 480 or 576 lines", {"model": DEGRADED, "height": 1080}),
    "vhs": Preset(
        "a digitized tape: soft and noisy", {"model": DEGRADED, "deblur": 0.5, "denoise": 0.5, "height": 1080}
    ),
}
