"""What is shown of a run while it goes on, as text of a given width."""

from __future__ import annotations

import pytest

from vidsr.cli.console import _PlainBoard
from vidsr.cli.progress_text import (
    ASCII,
    UNICODE,
    Letters,
    Line,
    Now,
    columns,
    counted,
    lines_of,
    plain_line,
    shortened,
    stage_shares,
    strip,
    time_text,
)
from vidsr.cli.videos import defects_found
from vidsr.pipeline.batch_progress import Totals
from vidsr.pipeline.run import Progress
from vidsr.types import DefectReport, FrameDefects

STAGES = {"decode": 1.0, "find_faces": 4.0, "restore_faces": 16.0, "network": 59.0, "encode": 20.0, "commit": 9.0}
HALF = Progress(150, 300, 60.0, scene_starts=(0, 75, 225), faces=2, stage_seconds=STAGES)
NAMES = [
    "in.mp4",
    "/home/user/videos/a long name of a video that does not fit into a line at all, part 3.mkv",
    "映画.mkv",
]


def shown(lines: list[Line]) -> list[str]:
    return ["".join(piece.text for piece in line) for line in lines]


def now(progress: Progress | None = HALF, name: str = "in.mp4") -> Now:
    return Now(name, "cpu", progress, 2.5, 60.4, 3 << 29)


def test_one_video_has_name_strip_figures_and_stages() -> None:
    assert shown(lines_of([now()], None, 80, 24)) == [
        "in.mp4" + " " * 55 + "150/300 frames, 50%",
        "━" * 20 + "╋" + "━" * 19 + "─" * 20 + "╋" + "─" * 19,
        "2.5 frames/s, 0:01:00 left, 3 scenes, 2 faces, 1.5 GiB, cpu",
        "stages: network 59%, faces 20%, encoding 20%, reading 1%",
    ]


def test_the_strip_shows_where_scenes_begin_and_where_the_run_is() -> None:
    pieces = strip(HALF, 8, ASCII)
    assert [(piece.text, piece.style) for piece in pieces] == [
        ("==", "done"), ("|", "cut"), ("=", "done"), ("--", "coming"), ("|", "cut"), ("-", "coming"),
    ]  # fmt: skip
    assert shown([strip(None, 8, ASCII), strip(Progress(3, None, 1.0), 8, ASCII)]) == ["--------"] * 2
    beyond = Progress(400, 300, 1.0, scene_starts=(0, 299, 300, 350))  # more frames than the header says
    assert shown([strip(beyond, 8, ASCII)]) == ["=======|"]


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("letters", [UNICODE, ASCII])
def test_no_line_is_wider_than_the_terminal(width: int, letters: Letters) -> None:
    states = [None, HALF, Progress(1, None, 0.1), Progress(10**7, 10**7, 1e6, faces=10**4, is_finishing=True)]
    totals = Totals(12, 2, 1, 3, 40, 900, 3725.4)
    for progress in states:
        for name in NAMES:
            for count in (1, 2):
                lines = shown(lines_of([now(progress, name)] * count, totals, width, 24, letters))
                assert len(lines) > count and all(columns(line) <= width for line in lines)


def test_what_does_not_fit_into_the_height_is_left_out() -> None:
    totals = Totals(12, 2, 1, 3, 40, 900, None)
    assert len(lines_of([now()] * 8, totals, 80, 24)) == 17
    assert len(lines_of([now()] * 8, totals, 80, 6)) == 5
    assert len(lines_of([now()], None, 80, 2)) == 0


def test_the_end_of_a_run_says_what_happens() -> None:
    finishing = now(Progress(300, 300, 60.0, is_finishing=True))
    assert "completing and checking the output" in plain_line(finishing) and "left" not in plain_line(finishing)
    assert plain_line(now(None)) == "in.mp4: 0/? frames; starting, cpu"


def test_names_lose_their_middle_and_control_characters() -> None:
    assert shortened("abcdefghij", 10) == "abcdefghij"
    assert shortened("abcdefghij", 7) == "abc…hij"
    assert shortened("映画映画.mkv", 10) == "映画映…mkv" and columns("映画映…mkv") == 10
    assert shortened("abc", 0) == ""
    name, *_ = shown(lines_of([now(name="a\x1b[2Jb")], None, 80, 24))
    assert name.startswith("a\\x1b[2Jb ")


def test_times_for_people() -> None:
    assert [time_text(seconds) for seconds in (None, 0.4, 59.6, 3725.4)] == ["-:--:--", "0:00:00", "0:01:00", "1:02:05"]


def test_stages_that_belong_together_are_added_up() -> None:
    assert stage_shares(STAGES) == [("network", 0.59), ("faces", 0.2), ("encoding", 0.2), ("reading", 0.01)]
    assert stage_shares({}) == [] and stage_shares({"decode": 0.0}) == []


def test_a_log_gets_lines_at_growing_distances() -> None:
    lines: list[str] = []
    board = _PlainBoard(lines.append, lambda: None)
    running = board.start("in.mp4", "cpu")
    for second in range(7200):
        board.update(running, Progress(second + 1, 7200, float(second)), 1 << 30)
    board.update(running, Progress(7200, 7200, 7200.0, is_finishing=True), 1 << 30)
    board.finish(running)
    assert lines[0] == "in.mp4: 31/7200 frames, 0%; 1.0 frames/s, 1:59:29 left, 1.0 GiB, cpu"
    assert 30 < len(lines) < 60


def test_counts_are_words_in_the_right_number() -> None:
    assert [counted(number, "face track") for number in range(3)] == ["0 face tracks", "1 face track", "2 face tracks"]
    one = DefectReport(specks=1, scratches=1, frames=[FrameDefects(0.0, 1, 0, 1, 9, 0, None)])
    assert defects_found(one) == "film defects: 1 speck and 0 hairs, 1 part of scratches, in 1 frame"
