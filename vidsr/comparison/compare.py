"""Comparisons: a page for a browser, an image, or a video of two or more videos or still images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import cv2
from torch import Tensor

from vidsr.comparison.faces import FacePlace, cut_out, find_faces
from vidsr.comparison.figures import Figures, read_report
from vidsr.comparison.inputs import Input, Moment, Part, enlarged, in_step, levels, open_inputs, same_size, sources_of
from vidsr.comparison.page import MAX_PAGE_BYTES, PageContent, PageFace, PageInput, PagePart, build_page
from vidsr.comparison.sheet import Sheet
from vidsr.config import CompareConfig, InputConfig, OutputConfig
from vidsr.errors import OutputError, UsageError
from vidsr.files import atomic_write, check_target, stale_warnings
from vidsr.pipeline.run import Progress
from vidsr.types import Frame
from vidsr.video.clip import TICKS_PER_SECOND, ClipEncoder
from vidsr.video.image_names import numbered
from vidsr.video.output import plan_output
from vidsr.video.probe import Source
from vidsr.video.sources import source_files
from vidsr.video.writer import Writer

# Seconds of a clip on a page: of a longer video by default, and at most.
PAGE_SECONDS = Fraction(6)
MAX_PAGE_SECONDS = Fraction(10)
# Bytes of all clips and images of a page; base64 adds a third, and MAX_PAGE_BYTES are for the whole page.
MEDIA_BYTES = 20_000_000
# The quality of a page's clips (x264's crf), and the worst one that is tried to stay within MEDIA_BYTES.
BEST_CRF, WORST_CRF = 16, 38
# What all browsers decode as H.264 (level 5.2), and the largest image that all of them draw.
MAX_CLIP_PIXELS = 4096 * 2304
MAX_STILL_PIXELS = 32_000_000
JPEG_QUALITY = 92
# A face belongs to the first frame that is at most this much earlier: containers round times.
ROUNDING = Fraction(1, 200)
# The wipe of a video goes to and fro in this time.
WIPE_SECONDS = 6
# Proportions that differ by more than this are stretched visibly.
ASPECT_TOLERANCE = 0.02
# Seconds by which durations may differ without a note.
LENGTH_TOLERANCE = 0.5
CLIP_COLUMNS = ("input", "size", "frames/s", "duration", "codec")
STILL_COLUMNS = ("input", "size", "codec")
HDR = ("smpte2084", "arib-std-b67")
OnProgress = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class CompareTargets:
    """Files to write: a page (.html), an image (.png) and a video; at least one of them."""

    page: Path | None = None
    image: Path | None = None
    video: Path | None = None


@dataclass(frozen=True, slots=True)
class CompareReport:
    """The files written, and notes on what differs from what one may expect."""

    written: tuple[Path, ...]
    notes: tuple[str, ...]


def default_page(after: Path) -> Path:
    """The page's name if none is given: beside the second input."""
    return page_beside(after, "_compare")


def page_beside(path: Path, ending: str) -> Path:
    """The name of a page beside a file or folder; that of numbered images is beside their folder."""
    named = path if numbered(path) is None else path.absolute().parent
    return named.with_name(f"{named.name if named.is_dir() else named.stem}{ending}.html")


def compare(
    paths: Sequence[Path],
    targets: CompareTargets,
    config: CompareConfig,
    reports: Sequence[Path] = (),
    on_progress: OnProgress = lambda _: None,
) -> CompareReport:
    """Compares videos or still images, the first of which is BEFORE, and writes the targets.

    `reports` are files of `--report` whose figures the page shows. `on_progress` is called after each moment. Each file
    appears only once it is complete. Raises the errors of vidsr.errors.
    """
    sources = sources_of(paths, config.input.rate)
    _check(sources, targets, config, reports)
    figures = [read_report(report, paths[1:]) for report in reports]
    inputs = open_inputs(sources, config.labels)
    if targets.video is not None and inputs[0].is_still:
        raise UsageError("--video needs videos, but the inputs are still images: use --png")
    notes = _notes(inputs)
    progress = _Progress(on_progress)
    part = choose_part(inputs, config.input)
    written = []
    if targets.page is not None:
        notes += write_page([Passage(tuple(inputs), part)], targets.page, config, figures, notes, progress)
        written.append(targets.page)
    if targets.image is not None:
        _write_image(inputs, part, targets.image, config)
        written.append(targets.image)
    if targets.video is not None:
        notes += _write_video(inputs, targets.video, config, progress)
        written.append(targets.video)
    folders = {path.absolute().parent for path in written}
    notes += [each for folder in folders for each in stale_warnings(folder)]
    return CompareReport(tuple(written), tuple(dict.fromkeys(notes)))


def choose_part(inputs: Sequence[Input], trim: InputConfig) -> Part:
    """The part that a page shows: the requested one, all of a short video, or PAGE_SECONDS from the middle."""
    if inputs[0].is_still:
        return Part("image", Fraction(0), None, Fraction(0))
    length = _common_seconds(inputs)
    start, end = trim.start, trim.end
    if start is None and end is None and length is not None:
        if length <= MAX_PAGE_SECONDS:
            return Part("0 s", Fraction(0), None, length / 2)
        start = (length - PAGE_SECONDS) / 2
    if start is None:
        start = Fraction(0) if end is None else max(Fraction(0), end - PAGE_SECONDS)
    if end is None:
        end = start + PAGE_SECONDS
    last = end if length is None else min(end, length)
    return Part(f"{float(start):.3g} s", start, end, start + max(Fraction(0), last - start) / 2)


def _common_seconds(inputs: Sequence[Input]) -> Fraction | None:
    """Duration of the shortest input, in the time of BEFORE; None if unknown."""
    known = [each.seconds for each in inputs if each.seconds is not None]
    return Fraction(min(known)).limit_denominator(1000) if known else None


@dataclass(frozen=True, slots=True)
class Passage:
    """A part of a page with the files that show it. The files of all passages of a page have the same sizes."""

    inputs: tuple[Input, ...]
    part: Part


def write_page(
    passages: Sequence[Passage],
    target: Path,
    config: CompareConfig,
    figures: Sequence[Figures],
    notes: Sequence[str],
    progress: _Progress | None = None,
) -> list[str]:
    """Writes a page of these passages and returns further notes. Raises UsageError for parts that are too long."""
    parts, inputs = [each.part for each in passages], passages[0].inputs
    longest = max((part.end - part.start for part in parts if part.end is not None), default=Fraction(0))
    if longest > MAX_PAGE_SECONDS:
        raise UsageError(
            f"a page holds {MAX_PAGE_SECONDS} s at most, not {float(longest):g} s: choose a part with --start and "
            "--end, or write a video with --video"
        )
    added: list[str] = []
    faces = [find_faces(each.inputs[0], each.part) if config.faces else [] for each in passages]
    size = _page_size(inputs, added)
    record = _record_stills if inputs[0].is_still else _record_clips
    recording = record(passages, faces, size, target, progress or _Progress(lambda _: None), added)
    content = PageContent(
        inputs=tuple(
            PageInput(each.label, each.name, shown, _facts(each), still, clip)
            for each, shown, still, clip in zip(
                inputs, recording.sizes, recording.stills, recording.clips, strict=True
            )
        ),
        size=size, ticks=TICKS_PER_SECOND, times=tuple(recording.times), seconds=tuple(recording.seconds),
        parts=tuple(recording.parts), faces=tuple(recording.faces), figures=tuple(figures), notes=(*notes, *added),
        columns=STILL_COLUMNS if inputs[0].is_still else CLIP_COLUMNS,
    )  # fmt: skip
    page = build_page(content)
    if len(page) > MAX_PAGE_BYTES:
        raise OutputError(
            f"{target} would have {len(page) / 1e6:.0f} MB, more than {MAX_PAGE_BYTES / 1e6:.0f}: choose a shorter "
            "part with --start and --end, fewer inputs, or --no-faces"
        )
    with atomic_write(target, overwrite=config.overwrite) as hidden:
        hidden.write_bytes(page)
    return added


@dataclass(slots=True)
class _Recording:
    """What a page shows of the inputs, in their order; see PageContent."""

    sizes: list[tuple[int, int]]
    stills: list[bytes]
    clips: list[bytes | None]
    times: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    parts: list[PagePart] = field(default_factory=list)
    faces: list[PageFace] = field(default_factory=list)


class _Progress:
    """Calls `on_progress` with the number of moments so far."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._call, self._started, self._done = on_progress, time.monotonic(), 0
        self.expected: int | None = None

    def count(self) -> None:
        """Another moment is done."""
        self._done += 1
        self._call(Progress(self._done, self.expected, time.monotonic() - self._started))


def _page_size(inputs: Sequence[Input], notes: list[str]) -> tuple[int, int]:
    """The size of the comparison on a page: that of the largest input, reduced if browsers cannot show it."""
    width, height = same_size(inputs)
    limit = MAX_STILL_PIXELS if inputs[0].is_still else MAX_CLIP_PIXELS
    if width * height <= limit:
        return width, height
    factor = math.sqrt(limit / (width * height))
    size = round(width * factor), round(height * factor)
    notes.append(f"{width}x{height} is more than browsers can show, so the images are reduced to {size[0]}x{size[1]}")
    return size


def _shown_size(each: Input, size: tuple[int, int]) -> tuple[int, int]:
    """The size in which an input is stored in a page: its own one, unless it has more pixels than the comparison."""
    return size if each.size[0] * each.size[1] > size[0] * size[1] else each.size


def _record_stills(
    passages: Sequence[Passage], faces: Sequence[list[FacePlace]], size: tuple[int, int], target: Path,
    progress: _Progress, notes: list[str],
) -> _Recording:  # fmt: skip
    """Still images as PNG, or as JPEG if they would be too large. `target` and its like are for clips."""
    inputs = passages[0].inputs
    sizes = [_shown_size(each, size) for each in inputs]
    with in_step(inputs, passages[0].part, notes) as moments:
        moment = next(iter(moments))
        progress.count()
    images = [enlarged(image, shown) for image, shown in zip(moment.images, sizes, strict=True)]
    stills = [_png(image) for image in images]
    for quality in (98, JPEG_QUALITY, 85):
        if sum(map(len, stills)) <= MEDIA_BYTES:
            break
        stills = [_jpeg(image, quality) for image in images]
    else:
        if sum(map(len, stills)) > MEDIA_BYTES:
            raise OutputError(f"the images are too large for a page ({target}): give smaller ones, or use --png")
    if stills[0].startswith(b"\xff\xd8"):
        notes.append("the images are stored as JPEG, because the page would be too large otherwise")
    found = [_page_face(moment, place, 0, size) for place in faces[0]]
    return _Recording(sizes, stills, [None] * len(inputs), parts=[PagePart("image", 0, 1)], faces=found)


def _record_clips(
    passages: Sequence[Passage], faces: Sequence[list[FacePlace]], size: tuple[int, int], target: Path,
    progress: _Progress, notes: list[str],
) -> _Recording:  # fmt: skip
    """Clips of the parts, again with a lower quality until they fit into a page."""
    crf = BEST_CRF
    while True:
        recording = _encode(passages, faces, size, target, crf, progress, notes)
        total = sum(len(clip or b"") for clip in recording.clips) + sum(map(len, recording.stills))
        if total <= MEDIA_BYTES:
            break
        if crf == WORST_CRF:
            raise OutputError(f"the clips are too large for a page ({target}): choose a shorter part (--start, --end)")
        # Six steps of crf halve the size, roughly.
        crf = min(WORST_CRF, crf + max(2, math.ceil(6 * math.log2(total / MEDIA_BYTES))))
    if crf > BEST_CRF:
        notes.append(
            f"to keep the page small, the clips are compressed more than usual (crf {crf}, not {BEST_CRF}): choose a "
            "shorter part for more detail"
        )
    return recording


def _encode(
    passages: Sequence[Passage], faces: Sequence[list[FacePlace]], size: tuple[int, int], target: Path,
    crf: int, progress: _Progress, notes: list[str],
) -> _Recording:  # fmt: skip
    """The parts of all inputs, one after the other in one clip each, with the same frame times in all clips."""
    sizes = [_shown_size(each, size) for each in passages[0].inputs]
    recording = _Recording(sizes, [], [])
    rate = max(each.rate for each in passages[0].inputs) or Fraction(25)
    with ExitStack() as stack:
        encoders = [stack.enter_context(ClipEncoder(target, shown, rate, crf)) for shown in sizes]
        ticks = 0
        for passage, places in zip(passages, faces, strict=True):
            part, first, waiting, poster = passage.part, len(recording.seconds), list(places), list[Tensor]()
            with in_step(passage.inputs, part, notes) as moments:
                for moment, duration in _with_durations(moments, 1 / rate):
                    images = [enlarged(image, shown) for image, shown in zip(moment.images, sizes, strict=True)]
                    for encoder, image in zip(encoders, images, strict=True):
                        encoder.write(image, ticks, duration)
                    if not poster or moment.seconds <= part.middle:
                        poster = images
                    for place in [each for each in waiting if each.seconds <= moment.seconds + ROUNDING]:
                        recording.faces.append(_page_face(moment, place, len(recording.seconds), size))
                        waiting.remove(place)
                    recording.times.append(ticks)
                    recording.seconds.append(round(float(moment.seconds), 4))
                    ticks += duration
                    progress.count()
            if not poster:
                raise UsageError(
                    f"{passage.inputs[1].path} has no frame in the part from {part.label}: choose another --start"
                )
            recording.stills = recording.stills or [_jpeg(image, JPEG_QUALITY) for image in poster]
            recording.parts.append(PagePart(part.label, first, len(recording.seconds) - first))
        recording.times.append(ticks)
        recording.clips = [encoder.finish() for encoder in encoders]
    return recording


def _with_durations(moments: Iterable[Moment], last: Fraction) -> Iterator[tuple[Moment, int]]:
    """Each moment with the ticks until the next one; after the last one `last` seconds."""
    before: Moment | None = None
    for moment in moments:
        if before is not None:
            yield before, max(1, round((moment.seconds - before.seconds) * TICKS_PER_SECOND))
        before = moment
    if before is not None:
        yield before, max(1, round(last * TICKS_PER_SECOND))


def _page_face(moment: Moment, place: FacePlace, frame: int, size: tuple[int, int]) -> PageFace:
    images = tuple(_jpeg(image, JPEG_QUALITY) for image in cut_out(moment, place, size))
    return PageFace(frame, round(place.x, 5), round(place.y, 5), round(place.side, 5), images)


def _write_image(inputs: Sequence[Input], part: Part, target: Path, config: CompareConfig) -> None:
    """Writes a PNG file of one moment: the start if it was requested, else the middle of the part."""
    size = same_size(inputs)
    start = part.start if config.input.start is not None else part.middle
    with in_step(inputs, replace(part, start=start, end=None)) as moments:
        moment = next(iter(moments), None)
    if moment is None:
        raise UsageError(f"the inputs have no common frame at {float(start):g} s: choose another --start")
    sheet = Sheet([each.label for each in inputs], size, config.layout)
    png = _png(sheet.arrange([enlarged(image, size) for image in moment.images]))
    with atomic_write(target, overwrite=config.overwrite) as hidden:
        hidden.write_bytes(png)


def _write_video(inputs: Sequence[Input], target: Path, config: CompareConfig, progress: _Progress) -> list[str]:
    """Writes a video of the requested part, by default all, with the audio of BEFORE; returns warnings."""
    before, size = inputs[0], same_size(inputs)
    sheet = Sheet([each.label for each in inputs], size, config.layout)
    rate = max(each.rate for each in inputs) or Fraction(25)
    part = Part("video", config.input.start or Fraction(0), config.input.end, Fraction(0))
    info = replace(
        before.info, width=sheet.size[0], height=sheet.size[1], pixel_aspect=Fraction(1), rotation_degrees=0,
        header_rate=rate, time_base=Fraction(1, TICKS_PER_SECOND), pixel_format="yuv420p", bit_depth=8,
        has_alpha=False, is_interlaced=False,
    )  # fmt: skip
    options = OutputConfig(overwrite=config.overwrite)
    plan = replace(plan_output(target, before.source, info, sheet.size, options, config.input), matrix=None)
    notes: list[str] = []
    with Writer(plan) as writer, in_step(inputs, part, notes) as moments:
        for moment, duration in _with_durations(moments, 1 / rate):
            wipe = 0.5 - 0.5 * math.cos(2 * math.pi * float(moment.seconds - part.start) / WIPE_SECONDS)
            image = sheet.arrange([enlarged(image, size) for image in moment.images], wipe)
            pts = round((moment.seconds + before.first) * TICKS_PER_SECOND)
            writer.write(Frame(image, pts, info.time_base, duration))
            progress.count()
        writer.commit()
    return [*notes, *plan.warnings, *writer.warnings]


def _check(sources: Sequence[Source], targets: CompareTargets, config: CompareConfig, reports: Sequence[Path]) -> None:
    """Raises UsageError or OutputError for what cannot work, before any input is opened."""
    if len(sources) < 2:
        raise UsageError("give at least two files to compare: BEFORE and AFTER")
    if config.layout == "wipe" and len(sources) > 2 and (targets.image or targets.video):
        raise UsageError("--layout wipe is for two files: leave out the others, or use --layout side")
    endings = ((targets.page, ".html", "--html"), (targets.image, ".png", "--png"))
    for target, ending, option in endings:
        if target is not None and target.suffix.lower() != ending:
            raise UsageError(f"{option} {target} is not a {ending} file: choose a name that ends in {ending}")
    wanted = [target for target in (targets.page, targets.image, targets.video) if target is not None]
    read = [*(file for source in sources for file in source_files(source)), *reports]
    checked = {check_target(target, sources[0].path, config.overwrite, read) for target in wanted}
    if len(checked) < len(wanted):
        raise UsageError("--html, --png and --video name the same file: give each its own")


def _notes(inputs: Sequence[Input]) -> list[str]:
    """What differs between the inputs, or is shown in another way than one may expect."""
    before, notes = inputs[0], []
    for each in inputs[1:]:
        if each.stretch > 1:
            notes.append(
                f"{each.label} is {each.stretch} times as long as {before.label}: it is taken for slow motion and "
                "played at its original speed"
            )
        elif each.seconds and before.seconds and abs(each.seconds - before.seconds) > LENGTH_TOLERANCE:
            notes.append(
                f"{each.label} lasts {each.seconds:.1f} s and {before.label} {before.seconds:.1f} s: they are compared "
                "from the beginning to the end of the shorter one"
            )
        ratio = each.size[0] * before.size[1] / (each.size[1] * before.size[0])
        if abs(ratio - 1) > ASPECT_TOLERANCE:
            notes.append(f"{each.label} and {before.label} have different proportions: the smaller one is stretched")
    if any(each.info.color.transfer in HDR for each in inputs):
        notes.append("HDR is shown as coded, without tone mapping: colors look pale")
    return notes


def _facts(each: Input) -> tuple[str, ...]:
    """The row of an input in the page's table, as CLIP_COLUMNS or STILL_COLUMNS."""
    size = f"{each.size[0]} × {each.size[1]}"
    if each.is_still:
        return size, each.info.codec
    rate, seconds = each.info.header_rate, each.info.header_duration_seconds
    return (
        size,
        "?" if rate is None else f"{float(rate):.4g}",
        "?" if seconds is None else f"{seconds:.2f} s",
        each.info.codec,
    )


def _png(image: Tensor) -> bytes:
    return _coded(image, ".png", [])


def _jpeg(image: Tensor, quality: int) -> bytes:
    # Without chroma subsampling, which would blur colors at their edges.
    factor = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _coded(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality, *factor])


def _coded(image: Tensor, kind: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(kind, levels(image)[..., ::-1], options)
    assert done, "OpenCV always writes PNG and JPEG"
    return bytes(data)
