"""The report of a run (`--report`) on a page: its numbers, and plots as SVG."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from vidsr.errors import InputError, UsageError
from vidsr.types import RunReport

MAX_REPORT_BYTES = 64 << 20
MAX_BARS = 14
_WIDTH, _ROW, _NAMES, _VALUES = 460, 25, 136, 92
LEVELS = ("blur", "noise", "compression")
# Control characters, and those that reverse the direction of text, with which a file name could alter the page's words.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def visible_text(text: str) -> str:
    """Text with control characters as visible escapes, such as \\x1b."""
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape", "backslashreplace").decode(), text)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a page shows of one run: the name of its output, rows of names and values, plots and warnings."""

    name: str
    rows: tuple[tuple[str, str], ...]
    plots: tuple[str, ...]
    warnings: tuple[str, ...]


def read_report(path: Path, outputs: Sequence[Path]) -> Figures:
    """The run of a report file that made one of `outputs`, by its file name; the only run, if there is just one.

    Raises InputError for a file that is not a report of vidsr, UsageError if it holds several runs, none of them of an
    output.
    """
    runs = _runs(path)
    names = {output.name for output in outputs}
    matching = [run for run in runs if Path(str(run["output"])).name in names]
    if not matching and len(runs) > 1:
        raise UsageError(f"--report {path} has {len(runs)} runs, none of them of {', '.join(sorted(names))}")
    try:
        return _figures((matching or runs)[0])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(f"{path} is not a report that this version of vidsr reads: make it again with --report") from (
            error
        )


def figures_of(report: RunReport) -> Figures:
    """The figures of a run that has just ended."""
    return _figures(dataclasses.asdict(report))


def _runs(path: Path) -> list[dict[str, Any]]:
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise InputError(f"{path} is too large for a report: name the file of --report")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON file: name the file of --report") from error
    runs = content.get("runs") if isinstance(content, dict) else None
    if not isinstance(runs, list) or not runs or not all(isinstance(run, dict) and "output" in run for run in runs):
        raise InputError(f"{path} holds no run of vidsr: name the file that --report wrote for a finished run")
    return runs


def _figures(run: dict[str, Any]) -> Figures:
    plots = [_stages(run["stage_seconds"]), _degradation(run["degradation"], run["duration_seconds"])]
    plots.append(_faces(run["faces"]))
    damages = [f"damaged after {damage['after_seconds']} s: {damage['reason']}" for damage in run["damages"]]
    return Figures(
        name=Path(str(run["output"])).name,
        rows=tuple(_rows(run)),
        plots=tuple(plot for plot in plots if plot),
        warnings=tuple(map(str, [*damages, *run["warnings"]])),
    )


def _rows(run: dict[str, Any]) -> list[tuple[str, str]]:
    wall, frames = float(run["wall_seconds"]), int(run["frames_out"])
    (wide, tall), (width, height) = run["input_size"], run["output_size"]
    rows = [
        ("model", str(run["model"])),
        ("device", f"{run['device']}, {run['precision']}"),
        ("size", f"{wide}×{tall} → {width}×{height}"),
        ("frames", f"{run['frames_in']} → {frames}"),
        ("duration", f"{float(run['duration_seconds']):.2f} s" + _rate(run["rate"])),
        ("time", f"{wall:.1f} s, {frames / max(wall, 1e-9):.2f} frames/s"),
        ("memory", f"{int(run['peak_memory_bytes']) / 2**20:.0f} MiB at most"),
        ("scenes", str(run["scenes"])),
    ]
    if run["face_model"] is not None:
        restored = sum(track["restored"] > 0 for track in run["faces"])
        rows.append(("faces", f"{restored} of {len(run['faces'])} restored by {run['face_model']}"))
    if run["duplicates_replaced"]:
        rows.append(("repeated frames", f"{run['duplicates_replaced']} replaced"))
    if len(run["degradation"]) == 1:
        found = run["degradation"][0]["levels"]
        rows.append(("degradation", ", ".join(f"{name} {float(found[name]):.2f}" for name in LEVELS)))
    return rows


def _rate(rate: float | None) -> str:
    return "" if rate is None else f" at {float(rate):.4g} frames/s"


def _stages(seconds: dict[str, float]) -> str:
    """Bars of the time of each stage."""
    total = sum(seconds.values()) or 1.0
    bars = [
        (name.replace("_", " "), float(value), f"{value:.1f} s, {100 * value / total:.0f} %")
        for name, value in sorted(seconds.items(), key=lambda item: -item[1])
        if value > 0
    ]
    return _bars("Busy time of each stage", bars[:MAX_BARS])


def _faces(tracks: list[dict[str, Any]]) -> str:
    """Bars of the frames in which each track was restored; the longest tracks."""
    longest = sorted(tracks, key=lambda track: -track["seen"]["frames"])[:MAX_BARS]
    bars = []
    for track in longest:
        seen = track["seen"]
        name = f"face {seen['track']} ({seen['smallest_side']:.0f}–{seen['largest_side']:.0f} px)"
        share = track["restored"] / max(seen["frames"], 1)
        bars.append((name, float(share), f"{track['restored']} of {seen['frames']}"))
    return _bars("Restored frames of each face", bars, highest=1.0)


def _bars(title: str, bars: Sequence[tuple[str, float, str]], highest: float | None = None) -> str:
    """A figure with a horizontal bar for each (name, value, text); empty without any."""
    if not bars:
        return ""
    top = highest or max(value for _, value, _ in bars) or 1.0
    room = _WIDTH - _NAMES - _VALUES
    parts = []
    for index, (name, value, text) in enumerate(bars):
        y = index * _ROW
        length = max(1.0, room * value / top)
        parts.append(
            f'<text class="name" x="{_NAMES - 10}" y="{y + 17}" text-anchor="end">{escape(visible_text(name))}</text>'
            f'<rect class="track" x="{_NAMES}" y="{y + 6}" width="{room}" height="14" rx="3"/>'
            f'<rect class="bar" x="{_NAMES}" y="{y + 6}" width="{length:.1f}" height="14" rx="3"/>'
            f'<text class="value" x="{_WIDTH - _VALUES + 8}" y="{y + 17}">{escape(visible_text(text))}</text>'
        )
    return _figure(title, len(bars) * _ROW + 4, "".join(parts))


def _degradation(scenes: list[dict[str, Any]], duration: float) -> str:
    """The degradation levels over time, with a step at each scene; empty for a single scene."""
    if len(scenes) < 2:
        return ""
    left, right, top, bottom = 40, _WIDTH - 10, 12, 150
    starts = [float(scene["start_seconds"]) for scene in scenes]
    end = max(float(duration), starts[-1], 1e-9)

    def x(seconds: float) -> float:
        return left + (right - left) * seconds / end

    def y(level: float) -> float:
        return bottom - (bottom - top) * level

    parts = []
    for level in (0.0, 0.5, 1.0):
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(level):.1f}" y2="{y(level):.1f}"/>')
        parts.append(f'<text class="value" x="{left - 8}" y="{y(level) + 4:.1f}" text-anchor="end">{level:g}</text>')
    for number, name in enumerate(LEVELS):
        values = [float(scene["levels"][name]) for scene in scenes]
        path = f"M{x(starts[0]):.1f} {y(values[0]):.1f}"
        for start, value in zip(starts[1:], values[1:], strict=True):
            path += f"H{x(start):.1f}V{y(value):.1f}"
        parts.append(f'<path class="line line-{number}" d="{path}H{x(end):.1f}"/>')
        place = left + 120 * number
        parts.append(f'<rect class="key key-{number}" x="{place}" y="176" width="12" height="12" rx="3"/>')
        parts.append(f'<text class="name" x="{place + 18}" y="187">{name}</text>')
    parts.append(f'<text class="value" x="{left}" y="{bottom + 16}">0 s</text>')
    parts.append(f'<text class="value" x="{right}" y="{bottom + 16}" text-anchor="end">{end:.1f} s</text>')
    return _figure(f"Degradation of the {len(scenes)} scenes", 196, "".join(parts))


def _figure(title: str, height: int, content: str) -> str:
    return (
        f'<figure class="plot"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">{content}</svg></figure>'
    )
