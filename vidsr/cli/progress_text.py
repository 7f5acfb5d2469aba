"""What is shown of a run while it goes on, as lines of text: pure functions of its progress and the width.

A line is a list of pieces, each with the name of a style; `console.py` puts them on the terminal.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

from vidsr.cli.terminal import visible

if TYPE_CHECKING:
    from vidsr.pipeline.batch_progress import Totals
    from vidsr.pipeline.run import Progress

Style = Literal["plain", "name", "done", "cut", "coming", "quiet"]
LEAST_COLUMNS = 20
# Names of stages (`RunReport.stage_seconds`) for people; those that belong together are added up.
_STAGES = {
    "decode": "reading", "scenes": "scenes", "dust": "dust", "find_faces": "faces", "smooth_landmarks": "faces",
    "note_tracks": "faces", "restore_faces": "faces", "blend_faces": "faces", "duplicates": "repeated frames",
    "network": "network", "new_frames": "new frames", "resize": "resizing", "encode": "encoding", "save": "keeping",
}  # fmt: skip
STAGES_SHOWN = 4


class Piece(NamedTuple):
    """Text of one style."""

    text: str
    style: Style = "plain"


Line = list[Piece]


class Letters(NamedTuple):
    """The letters of a strip: done, where a scene begins, still to come, and what stands for text that is left out."""

    done: str
    cut: str
    coming: str
    left_out: str


UNICODE = Letters("━", "╋", "─", "…")
ASCII = Letters("=", "|", "-", "~")


class Now(NamedTuple):
    """What is shown of one video: its name, its progress (None before the first frame), and figures of the moment."""

    name: str
    device: str
    progress: Progress | None
    frames_per_second: float | None
    seconds_left: float | None
    memory_bytes: int


def columns(text: str) -> int:
    """How many columns of a terminal text takes: two for wide letters, none for those that combine."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def shortened(text: str, width: int, letters: Letters = UNICODE) -> str:
    """Text in at most `width` columns; the middle is left out, because the ends of file names tell them apart."""
    if columns(text) <= width:
        return text
    head, tail = "", ""
    for number in range(len(text)):
        take_tail = number % 2 == 0
        letter = text[-1 - number // 2] if take_tail else text[number // 2]
        if columns(head + tail + letter) > width - 1:
            break
        head, tail = (head, letter + tail) if take_tail else (head + letter, tail)
    return head + letters.left_out + tail if width > 0 else ""


def time_text(seconds: float | None) -> str:
    """Seconds as H:MM:SS."""
    if seconds is None:
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def strip(progress: Progress | None, width: int, letters: Letters = UNICODE) -> Line:
    """A line of `width` columns for the whole video: what is done, and where scenes begin as far as they are known."""
    expected = progress.frames_expected if progress else None
    if progress is None or not expected:
        return [Piece(letters.coming * width, "coming")]
    done = min(width, width * progress.frames_done // expected)
    cuts = {min(width - 1, width * start // expected) for start in progress.scene_starts if 0 < start < expected}
    line: Line = []
    for column in range(width):
        is_cut, is_done = column in cuts, column < done
        piece = Piece(
            letters.cut if is_cut else letters.done if is_done else letters.coming,
            "cut" if is_cut else "done" if is_done else "coming",
        )
        if line and line[-1].style == piece.style:
            line[-1] = Piece(line[-1].text + piece.text, piece.style)
        else:
            line.append(piece)
    return line


def video_lines(now: Now, width: int, letters: Letters = UNICODE) -> list[Line]:
    """The lines of the only video that runs: name and frames, scene strip, speed and findings, and its stages."""
    width = max(LEAST_COLUMNS, width)
    lines = [
        _both_ends(now.name, _frames(now.progress), width, letters),
        strip(now.progress, width, letters),
        [Piece(shortened(", ".join(_figures(now)), width, letters))],
    ]
    if now.progress is not None and (shares := stage_shares(now.progress.stage_seconds)):
        parts = [f"{name} {share:.0%}" for name, share in shares[:STAGES_SHOWN]]
        lines.append([Piece(shortened(f"stages: {', '.join(parts)}", width, letters), "quiet")])
    return lines


def brief_lines(now: Now, width: int, letters: Letters = UNICODE) -> list[Line]:
    """The lines of one of several videos: name and figures, and the scene strip."""
    width = max(LEAST_COLUMNS, width)
    rate = "" if now.frames_per_second is None else f", {now.frames_per_second:.1f} frames/s"
    left = f"{time_text(now.seconds_left)} left, {_memory(now.memory_bytes)}, {now.device}"
    return [
        _both_ends(now.name, f"{_count(now.progress)}{rate}, {left}", width, letters),
        strip(now.progress, width, letters),
    ]


def totals_line(totals: Totals, width: int, letters: Letters = UNICODE) -> Line:
    """The line of a whole batch."""
    files, figures = totals_text(totals).split("; ")
    return _both_ends(files, figures, max(LEAST_COLUMNS, width), letters)


def totals_text(totals: Totals) -> str:
    """How far a batch is: its files; its frames and the time left."""
    over = totals.done + totals.failed + totals.skipped
    failed = f", {totals.failed} failed" if totals.failed else ""
    expected = "?" if totals.frames_expected is None else totals.frames_expected
    left = f"{time_text(totals.seconds_left)} left"
    return f"{over}/{totals.files} files{failed}; {totals.frames_done}/{expected} frames, {left}"


def plain_line(now: Now) -> str:
    """One line for a log."""
    return f"{now.name}: {_frames(now.progress)}; {', '.join(_figures(now))}"


def stage_shares(seconds: Mapping[str, float]) -> list[tuple[str, float]]:
    """The parts of the time that stages were busy, the largest first; those below 1 % are left out."""
    added: dict[str, float] = {}
    for stage, taken in seconds.items():
        if (name := _STAGES.get(stage)) is not None:
            added[name] = added.get(name, 0.0) + taken
    total = sum(added.values())
    return sorted(
        ((name, taken / total) for name, taken in added.items() if total and taken >= total / 100),
        key=lambda pair: -pair[1],
    )


def _figures(now: Now) -> list[str]:
    """Speed, time left, findings, memory and device."""
    progress = now.progress
    if progress is None:
        return ["starting", now.device]
    if progress.is_finishing:
        figures = ["completing and checking the output"]
    else:
        rate = "" if now.frames_per_second is None else f"{now.frames_per_second:.1f} frames/s"
        left = "" if progress.frames_expected is None else f"{time_text(now.seconds_left)} left"
        figures = [text for text in (rate, left) if text]
    if progress.scene_starts:
        figures.append(counted(len(progress.scene_starts), "scene"))
    if progress.faces is not None:
        figures.append(counted(progress.faces, "face"))
    return [*figures, _memory(now.memory_bytes), now.device]


def counted(count: int, noun: str) -> str:
    """A number of things in words, such as "1 scene" and "2 scenes"."""
    return f"{count} {noun}{'s' * (count != 1)}"


def _memory(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _count(progress: Progress | None) -> str:
    if progress is None:
        return "0/?"
    return f"{progress.frames_done}/{'?' if progress.frames_expected is None else progress.frames_expected}"


def _frames(progress: Progress | None) -> str:
    """Frames done and expected, and the part in percent."""
    if progress is None or not progress.frames_expected:
        return f"{_count(progress)} frames"
    return f"{_count(progress)} frames, {min(100, 100 * progress.frames_done // progress.frames_expected)}%"


def _both_ends(left: str, right: str, width: int, letters: Letters) -> Line:
    """A line with text at both ends; the left one, which may hold control characters, gets the room that is there."""
    right = shortened(right, width, letters)
    left = shortened(visible(left), max(0, width - columns(right) - 2), letters)
    return [Piece(left, "name"), Piece(" " * (width - columns(left) - columns(right))), Piece(right)]


def lines_of(
    running: Sequence[Now], totals: Totals | None, width: int, height: int, letters: Letters = UNICODE
) -> list[Line]:
    """All that is shown: the batch if there is one, then the running videos as far as they fit into `height` lines."""
    lines = [] if totals is None else [totals_line(totals, width, letters)]
    for now in running:
        more = video_lines(now, width, letters) if len(running) == 1 else brief_lines(now, width, letters)
        if len(lines) + len(more) > max(1, height):
            break
        lines += more
    return lines
