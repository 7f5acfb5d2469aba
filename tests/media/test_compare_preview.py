"""`--preview` of `upscale` and `slowmo`: the parts that are shown, the page, and its errors."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from tests.media.test_compare_command import clips, decoded, shown
from tests.support import media
from vidsr.cli import app
from vidsr.comparison.inputs import open_inputs, sources_of
from vidsr.comparison.preview import choose_parts
from vidsr.config import InputConfig

COUNT, BUSY = 240, range(160, 200)  # frames; 6.4 to 8 s


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbered frames, in the lower half of which something moves in one place only."""
    noise = np.random.default_rng(0).integers(0, 256, (len(BUSY), 24, 64, 3), np.uint8)
    images = []
    for number in range(COUNT):
        image = media.numbered_image(number)
        image[24:] = noise[number - BUSY.start] if number in BUSY else 128
        images.append(image)
    return media.encode(tmp_path_factory.mktemp("preview") / "in.mp4", images, media.X264)


def run(command: str, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [command, *map(str, arguments), "--model", "bicubic"])


def numbers(page: Path) -> list[list[int]]:
    """The numbers of the frames of each clip."""
    return [[media.read_number(image) for image in decoded(clip)[0]] for clip in clips(page)]


def test_the_parts_are_the_middle_and_the_busiest_place(video: Path) -> None:
    before = open_inputs(sources_of([video], None))[0]
    middle, busiest = choose_parts(before, InputConfig(), Fraction(1))
    assert (middle.start, middle.end) == (Fraction(43, 10) + Fraction(1, 50), Fraction(53, 10) + Fraction(1, 50))
    assert BUSY.start - 12 <= busiest.start * 25 <= BUSY.stop - 12
    assert abs(busiest.start - middle.start) >= 1
    # Within a trim range, and a single part where there is no room for two.
    trimmed = choose_parts(before, InputConfig(start=Fraction(1), end=Fraction(5)), Fraction(1))
    assert trimmed[0].start == Fraction(63, 25), "the first frame at or after 2.5 s"
    assert len(trimmed) == 2 and all(1 <= part.start <= 4 for part in trimmed)
    assert [part.label[:6] for part in choose_parts(before, InputConfig(), Fraction(6))] == ["middle"]


def test_a_preview_of_upscale(video: Path, tmp_path: Path) -> None:
    result = run("upscale", video, tmp_path / "out.mp4", "--preview", "0.8", "--no-faces", "--scale", "2")
    assert result.exit_code == 0, result.stderr
    page = tmp_path / "out_preview.html"
    assert result.stdout == f"{page}\n" and "the whole video would take about" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["out_preview.html"]
    data: dict[str, Any] = shown(page)
    assert data["size"] == [128, 96]
    assert [each["label"] for each in data["inputs"]] == ["input", "bicubic, 128×96"]
    before, after = numbers(page)
    assert before == after
    middle, busiest = data["parts"]
    assert (middle["count"], busiest["count"]) == (20, 20) and busiest["first"] == 20
    assert before[:20] == list(range(110, 130))
    assert before[20:] == list(range(before[20], before[20] + 20)) and BUSY.start - 12 <= before[20] <= BUSY.stop
    assert data["seconds"][0] == pytest.approx(4.4) and data["seconds"][20] == pytest.approx(before[20] / 25)
    text = page.read_text("utf-8")
    assert text.count("Report of the run") == 2
    again = run("upscale", video, tmp_path / "out.mp4", "--preview", "0.8", "--scale", "2")
    assert again.exit_code == 4 and "out_preview.html already exists" in again.stderr


def test_what_the_output_cannot_hold_is_said_once_of_the_output(tmp_path: Path) -> None:
    source = media.with_attachment(tmp_path / "in.mkv", 60)
    result = run("upscale", source, tmp_path / "out.mp4", "--preview", "0.5", "--scale", "1")
    assert result.exit_code == 0, result.stderr
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    assert len([line for line in warnings if "attachment" in line]) == 1 and len(set(warnings)) == len(warnings)
    assert not [line for line in warnings if "0.mp4" in line or "1.mp4" in line]


@pytest.mark.parametrize("kept", [0.2, 0.7])
def test_a_header_may_announce_more_than_there_is(video: Path, tmp_path: Path, kept: float) -> None:
    """As in a download that broke off: the parts are chosen from what is there."""
    whole = tmp_path / "whole.mkv"
    media.ffmpeg("-i", str(video), "-c", "copy", str(whole))
    short = media.truncated(whole, tmp_path / "short.mkv", kept)
    before, intact = open_inputs(sources_of([short, whole], None))
    assert intact.seconds == pytest.approx(COUNT / 25, abs=0.05)
    assert before.seconds is not None and 0.4 < before.seconds < 0.9 * COUNT / 25
    result = run("upscale", short, tmp_path / "out.mp4", "--preview", "0.5", "--scale", "1")
    assert result.exit_code == 0, result.stderr
    assert all(len(part) > 2 for part in numbers(tmp_path / "out_preview.html"))


def test_a_preview_of_slow_motion_is_in_step(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "in.mp4", 40, 32, 32)
    arguments = ("slowmo", str(source), str(tmp_path / "slow.mp4"), "--preview", "0.5", "--duplicates", "off")
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.stderr
    data = shown(tmp_path / "slow_preview.html")
    before, after = numbers(tmp_path / "slow_preview.html")
    assert len(before) == len(after) == data["parts"][0]["count"] + data["parts"][1]["count"]
    first = data["parts"][0]
    for clip in (before, after):
        assert clip[0 : first["count"] : 2] == list(range(clip[0], clip[0] + (first["count"] + 1) // 2))
    assert before[0] == after[0]
    seconds = data["seconds"]
    assert seconds[1] - seconds[0] == pytest.approx(0.02, abs=1e-3)


REFUSED = [
    (("--preview", "20"), 2, "--preview must be from 0.5 to 10"),
    (("--preview", "soon"), 2, "invalid time"),
    (("--preview", "1", "--dry-run"), 2, "--preview makes no run"),
]


@pytest.mark.parametrize(("options", "code", "words"), REFUSED)
def test_what_is_refused(video: Path, tmp_path: Path, options: tuple[str, ...], code: int, words: str) -> None:
    result = run("upscale", video, tmp_path / "out.mp4", *options)
    assert result.exit_code == code and words in result.stderr
    folder = run("upscale", video.parent, tmp_path / "out", "--preview", "1")
    assert folder.exit_code == 2 and "--preview is for a single video" in folder.stderr
    still = media.encode(tmp_path / "a.png", [media.numbered_image(1)], ("-frames:v", "1"))
    image = run("upscale", still, tmp_path / "b.mp4", "--preview", "1", "--no-faces")
    assert image.exit_code == 2 and "--preview is for videos" in image.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]
