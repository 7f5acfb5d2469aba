"""`--preview` of `upscale` and `slowmo`: a page with a few seconds of the result, before a long run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vidsr.cli.terminal import print_path
from vidsr.config import parse_time
from vidsr.errors import UsageError
from vidsr.pipeline.options import refuse_track_numbers

if TYPE_CHECKING:
    from vidsr.cli.console import Screen
    from vidsr.cli.videos import Videos
    from vidsr.config import RunConfig


def write_preview(screen: Screen, videos: Videos, config: RunConfig, seconds: str) -> None:
    """Writes the preview of a single video. Raises UsageError for a batch, and the errors of a run."""
    if videos.dry_run or videos.report is not None:
        raise UsageError("--preview makes no run: leave out --dry-run and --report")
    found = videos.find(config)
    if found.is_batch:
        raise UsageError("--preview is for a single video: name one, and the output beside which the page is to lie")
    refuse_track_numbers(config, "and in the parts that --preview shows tracks have other numbers")
    length = parse_time(seconds)
    assert length is not None, "parse_time returns None for None only"
    from vidsr.comparison.preview import check_seconds, preview
    from vidsr.runtime.memory import peak_memory_bytes

    (source, target), *_ = found.pairs
    check_seconds(length)
    with screen.progress(source.name, config.compute.device, lambda: peak_memory_bytes("cpu")) as on_progress:
        done = preview(source, target, config, length, on_progress)
    for warning in dict.fromkeys([*done.warnings, *(each for report in done.reports for each in report.warnings)]):
        screen.warn(warning)
    if done.seconds is not None:
        screen.say(f"the whole video would take about {_duration(done.seconds)}")
    screen.say(f"done: {done.page}")
    print_path(done.page)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
