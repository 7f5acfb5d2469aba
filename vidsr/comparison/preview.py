"""Previews of a run: its result for a few seconds from the middle and from the busiest place, as a page."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

from vidsr.comparison.compare import MAX_PAGE_SECONDS, Passage, page_beside, write_page
from vidsr.comparison.figures import figures_of
from vidsr.comparison.inputs import CPU, Input, Part, open_inputs, sources_of
from vidsr.config import CompareConfig, InputConfig, OutputConfig, RunConfig
from vidsr.errors import UsageError
from vidsr.files import check_target, stale_warnings
from vidsr.pipeline.plan import Plan, plan
from vidsr.pipeline.run import Progress, enhance
from vidsr.stages.reduction import reduce_image
from vidsr.types import RunReport
from vidsr.video.probe import Source
from vidsr.video.sources import open_reader, writes_images

MIN_SECONDS = Fraction(1, 2)
# Places of a video where its motion is measured, frames compared at each, and the longest side of their small copies.
PLACES, FRAMES, PIXELS = 24, 4, 160


@dataclass(frozen=True, slots=True)
class Preview:
    """A preview that was written; `seconds` is how long the whole run would take, None if that is unknown."""

    page: Path
    seconds: float | None
    reports: tuple[RunReport, ...]
    warnings: tuple[str, ...]


def preview_page(target: Path) -> Path:
    """The page's name for a run with this output."""
    return page_beside(target, "_preview")


def check_seconds(seconds: Fraction) -> Fraction:
    """Returns the length of a preview's part. Raises UsageError if a page cannot hold it."""
    if not MIN_SECONDS <= seconds <= MAX_PAGE_SECONDS:
        raise UsageError(
            f"--preview must be from {float(MIN_SECONDS):g} to {MAX_PAGE_SECONDS} seconds, not {float(seconds):g}"
        )
    return seconds


def preview(
    source: Path,
    target: Path,
    config: RunConfig,
    seconds: Fraction,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Preview:
    """Runs a part of `seconds` from the middle and one from the busiest place, and shows both beside the input.

    The page appears beside `target`, which is not written; results of the parts are temporary files. Recurrent networks
    start anew at each part. `on_progress` receives the output frames of the runs. Raises the errors of a run.
    """
    page = check_target(preview_page(target), source, config.output.overwrite)
    planned = plan(source, target, config)
    before = replace(open_inputs(sources_of([source], config.input.rate))[0], label="input")
    if before.is_still:
        raise UsageError(f"{source} holds one image: --preview is for videos")
    parts = choose_parts(before, config.input, seconds)
    is_images = writes_images(target, before.source)
    counter = _Counter(on_progress)
    passages, reports = [], []
    with tempfile.TemporaryDirectory(prefix="vidsr-preview-") as folder:
        for number, part in enumerate(parts):
            result = Path(folder, str(number), f"{number}.mp4" if is_images else target.name)  # warnings name it
            result.parent.mkdir()
            report = enhance(source, result, _config_of(part, config, is_images), counter.next())
            reports.append(report)
            passages.append(Passage((before, _result(part, result, planned)), part))
        figures = [replace(figures_of(report), name=part.label) for report, part in zip(reports, parts, strict=True)]
        notes = ["Networks that look back start anew at each part, so its first frames may be a little softer"]
        options = CompareConfig(overwrite=config.output.overwrite)
        notes += write_page(passages, page, options, figures, notes)
    warnings = [*planned.warnings, *planned.written.warnings, *stale_warnings(page.parent)]
    return Preview(page, _expected_seconds(planned, reports), tuple(reports), tuple(warnings))


def choose_parts(before: Input, trim: InputConfig, seconds: Fraction) -> list[Part]:
    """The parts to show: from the middle, and from where most moves; one part if there is no room for two.

    Every part starts at a frame, and lies within the trim range.
    """
    low = trim.start or Fraction(0)
    length = before.seconds if trim.end is None else float(trim.end)
    if length is None:
        return [_part(before, "beginning", low, seconds)]
    high = Fraction(length).limit_denominator(1000)
    if high - low <= 2 * seconds:
        return [_part(before, "middle", max(low, (low + high - seconds) / 2), seconds)]
    middle = (low + high - seconds) / 2
    places = [low + (high - low - seconds) * number / (PLACES - 1) for number in range(PLACES)]
    apart = [place for place in places if abs(place - middle) >= seconds]
    # Motion is measured in the middle of what would be shown.
    busiest = max(apart, key=lambda place: _motion(before, place + seconds / 2), default=low)
    return [_part(before, "middle", middle, seconds), _part(before, "busiest", busiest, seconds)]


def _motion(before: Input, start: Fraction) -> float:
    """The median change between consecutive frames, 0..1; the median, so that a cut does not count as motion."""
    with open_reader(before.source, InputConfig(start=start or None), CPU) as reader:
        try:
            images = [reduce_image(frame.image, PIXELS) for frame in islice(reader.frames(), FRAMES)]
        except UsageError:  # the header announces more than there is
            return 0.0
    changes = sorted(float((second - first).abs().mean()) for first, second in pairwise(images))
    return changes[len(changes) // 2] if changes else 0.0


def _part(before: Input, name: str, start: Fraction, seconds: Fraction) -> Part:
    """The part from the first frame at or after `start`."""
    with open_reader(before.source, InputConfig(start=start or None), CPU) as reader:
        frame = next(reader.frames())
    begin = frame.pts * frame.time_base - before.first
    return Part(f"{name}, from {float(begin):.1f} s", begin, begin + seconds, begin + seconds / 2)


def _config_of(part: Part, config: RunConfig, is_images: bool) -> RunConfig:
    """The options for a part; results that would be images are shown as a video with its default settings."""
    output = OutputConfig() if is_images else config.output
    return replace(
        config,
        input=replace(config.input, start=part.start or None, end=part.end),
        output=replace(output, audio="none", subtitles="none", overwrite=True),
    )


def _result(part: Part, path: Path, planned: Plan) -> Input:
    """The result of a part, placed at its time in the input."""
    result = open_inputs([Source(path)])[0]
    stretch = planned.expected.stretch
    label = f"{planned.model}, {result.size[0]}×{result.size[1]}"
    return replace(
        result, label=label, name=label, stretch=stretch, first=result.first - part.start * stretch, is_excerpt=True,
    )  # fmt: skip


def _expected_seconds(planned: Plan, reports: list[RunReport]) -> float | None:
    done = sum(report.frames_out for report in reports)
    if planned.expected.frames is None or not done:
        return None
    return planned.expected.frames * sum(report.wall_seconds for report in reports) / done


class _Counter:
    """Adds up the progress of several runs."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self._call, self._before, self._now = on_progress, (0, 0.0), (0, 0.0)

    def next(self) -> Callable[[Progress], None]:
        """The function to call after each frame of the next run."""
        self._before = self._now

        def show(progress: Progress) -> None:
            self._now = self._before[0] + progress.frames_done, self._before[1] + progress.seconds
            self._call(Progress(self._now[0], None, self._now[1]))

        return show
