"""`vidsr compare` from files to files: what is on the page, image and video, in step, and its errors."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import vidsr
from tests.support import media
from vidsr.cli import app
from vidsr.comparison import compare as comparing
from vidsr.comparison.compare import choose_part
from vidsr.comparison.inputs import in_step, open_inputs, sources_of
from vidsr.config import InputConfig
from vidsr.pipeline.report import write_reports
from vidsr.types import RunReport
from vidsr.video.probe import probe

Array = np.ndarray[Any, Any]


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["compare", *map(str, arguments)])


def shown(page: Path) -> dict[str, Any]:
    """The data for the script."""
    text = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert text is not None
    found: dict[str, Any] = json.loads(text[1])
    return found


def clips(page: Path) -> list[bytes]:
    return [base64.b64decode(text) for text in re.findall(r'id="media-\d+">([^<]*)<', page.read_text("utf-8"))]


def decoded(clip: bytes) -> tuple[list[Array], list[Fraction], Any]:
    """Frames, times and codec of a clip."""
    with av.open(io.BytesIO(clip)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        about = stream.codec_context.name, stream.codec_context.pix_fmt, stream.codec_context.colorspace
        assert "mp4" in container.format.name
    return (
        [frame.to_ndarray(format="rgb24") for frame in frames],
        [frame.pts * frame.time_base for frame in frames],
        about,
    )


def test_a_page_of_two_videos_is_playable_and_in_step(tmp_path: Path) -> None:
    small = media.clip(tmp_path / "small.mp4")
    large = media.clip(tmp_path / "large.mkv", width=255, height=191, options=media.LOSSLESS)
    result = run(small, large, "--no-faces")
    page = tmp_path / "large_compare.html"
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{page}\n" and page.stat().st_size < 30_000_000
    data = shown(page)
    assert (data["kind"], data["size"]) == ("clip", [255, 191])
    assert [each["size"] for each in data["inputs"]] == [[64, 48], [255, 191]]
    for clip, (width, height) in zip(clips(page), [(64, 48), (256, 192)], strict=True):
        images, times, about = decoded(clip)
        assert about == ("h264", "yuv420p", 1)  # BT.709
        assert [media.read_number(image) for image in images] == list(range(media.COUNT))
        assert {image.shape for image in images} == {(height, width, 3)}
        assert [time * 90_000 for time in times] == data["times"][:-1]
    seen = decoded(clips(page)[1])[0][3][:191, :255].astype(int)
    assert np.abs(seen - media.numbered_image(3, 255, 191)).mean() < 8
    assert data["times"] == [3600 * number for number in range(media.COUNT + 1)]
    assert data["seconds"] == pytest.approx([number / 25 for number in range(media.COUNT)])
    again = run(small, large, "--no-faces")
    assert again.exit_code == 4 and "already exists" in again.stderr
    assert run(small, large, "--no-faces", "-y", "-q").exit_code == 0


def numbers_in_step(before: Path, after: Path, start: str | None = None, end: str | None = None) -> list[list[int]]:
    inputs = open_inputs(sources_of([before, after], None))
    trim = InputConfig(start=None if start is None else Fraction(start), end=None if end is None else Fraction(end))
    with in_step(inputs, choose_part(inputs, trim)) as moments:
        return [[media.read_number(image) for image in moment.images] for moment in moments]


def test_slow_motion_is_played_in_step_with_its_original(tmp_path: Path) -> None:
    before = media.clip(tmp_path / "a.mp4", 30)
    slow = media.clip(tmp_path / "slow.mp4", 59)  # (30 - 1) * 2 + 1 frames at the same rate
    faster = media.clip(tmp_path / "faster.mp4", 59, rate="50")
    for after in (slow, faster):
        pairs = numbers_in_step(before, after)
        assert pairs == [[number // 2, number] for number in range(59)]
    assert numbers_in_step(before, slow, "0.4", "0.6") == [[number // 2, number] for number in range(20, 30)]
    result = run(before, slow, "--no-faces", "--html", tmp_path / "b.html")
    assert result.exit_code == 0 and "slow.mp4 is 2 times as long as a.mp4" in result.stderr


def test_frames_without_a_constant_rate_keep_their_times(tmp_path: Path) -> None:
    variable, copy = media.variable_rate(tmp_path / "a.mkv"), media.variable_rate(tmp_path / "b.mp4")
    report = vidsr.compare(variable, copy, html=tmp_path / "c.html", faces=False)
    assert report.written == (tmp_path / "c.html",) and report.notes == ()
    data = shown(tmp_path / "c.html")
    assert data["times"][:-1] == [90 * ticks for ticks in media.VARIABLE_TICKS]
    for clip in clips(tmp_path / "c.html"):
        assert [media.read_number(image) for image in decoded(clip)[0]] == list(range(len(media.VARIABLE_TICKS)))


def test_the_shorter_video_ends_the_comparison(tmp_path: Path) -> None:
    before, after = media.clip(tmp_path / "a.mp4", 30), media.clip(tmp_path / "b.mp4", 10)
    assert numbers_in_step(before, after) == [[number, number] for number in range(10)]
    assert numbers_in_step(after, before) == [[number, number] for number in range(10)]
    result = run(before, after, "--no-faces")
    assert result.exit_code == 0 and "to the end of the shorter one" in result.stderr


def test_rotated_and_non_square_videos_are_shown_as_displayed(tmp_path: Path) -> None:
    turned = media.rotated(tmp_path / "a.mp4")
    wide = media.non_square(tmp_path / "b.mp4")
    assert [each.size for each in open_inputs(sources_of([turned, wide], None))] == [(48, 64), (93, 48)]
    result = run(turned, wide, "--no-faces", "--html", tmp_path / "c.html")
    assert result.exit_code == 0 and "different proportions" in result.stderr
    image = decoded(clips(tmp_path / "c.html")[0])[0][2]
    assert media.read_number(np.rot90(image, -1)) == 2  # counterclockwise by 90 degrees


def test_still_images_become_a_page_without_loss(tmp_path: Path) -> None:
    paths = []
    for name, size in (("a.png", (64, 48)), ("b.png", (128, 96))):
        paths.append(media.encode(tmp_path / name, [media.numbered_image(9, *size)], ("-frames:v", "1")))
    assert run(*paths, "--no-faces").exit_code == 0
    page = (tmp_path / "b_compare.html").read_text("utf-8")
    stored = [base64.b64decode(text) for text in re.findall(r'id="still-\d" src="data:image/png;base64,([^"]*)"', page)]
    for data, size in zip(stored, ((64, 48), (128, 96)), strict=True):
        assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), 1)[..., ::-1], media.numbered_image(9, *size))
    video = media.clip(tmp_path / "v.mp4")
    mixed = run(paths[0], video)
    assert mixed.exit_code == 2 and "is a still image" in mixed.stderr
    moving = run(*paths, "--video", tmp_path / "c.mp4")
    assert moving.exit_code == 2 and "--video needs videos" in moving.stderr


def test_an_image_side_by_side_and_with_a_wipe(tmp_path: Path) -> None:
    before = media.clip(tmp_path / "a.mkv", options=media.LOSSLESS)
    images = [255 - media.numbered_image(number, 128, 96) for number in range(media.COUNT)]
    after = media.encode(tmp_path / "b.mkv", images, media.LOSSLESS)
    side, wipe = tmp_path / "side.png", tmp_path / "wipe.png"
    assert run(before, after, "--png", side, "--start", "0.4").exit_code == 0
    assert run(before, after, "--png", wipe, "--layout", "wipe", "--start", "0.4").exit_code == 0
    seen = cv2.imread(str(side))[..., ::-1]
    assert seen.shape == (96, 258, 3)
    assert media.read_number(seen[:, :128]) == 10
    assert np.array_equal(seen[:60, 130:], images[10][:60])
    both = cv2.imread(str(wipe))[..., ::-1]
    assert both.shape == (96, 128, 3) and np.array_equal(both[:60, 66:], images[10][:60, 66:])
    assert np.array_equal(both[:60, :62], seen[:60, :62])


@pytest.mark.parametrize("layout", ["side", "wipe"])
def test_a_video_holds_all_frames_and_the_audio_of_before(tmp_path: Path, layout: str) -> None:
    before = media.clip_with_audio(tmp_path / "a.mp4")
    after = media.clip(tmp_path / "b.mp4", width=256, height=192)
    target = tmp_path / "c.mp4"
    result = run(before, after, "--video", target, "--layout", layout)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{target}\n"
    info = probe(target)
    assert (info.width, info.height) == ((514, 192) if layout == "side" else (256, 192))
    assert media.ffmpeg_packetmd5(target, "a:0").frames == media.ffmpeg_packetmd5(before, "a:0").frames
    with av.open(str(target)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(frames) == media.COUNT
    for number, frame in enumerate(frames):
        sides = (frame[:, :256], frame[:, 258:]) if layout == "side" else (frame,)
        assert [media.read_number(side) for side in sides] == [number] * len(sides)


def test_faces_are_shown_from_all_inputs(tmp_path: Path) -> None:
    samples = Path(__file__).parents[2] / "samples"
    for name, source in (("a.mp4", "portrait_112x84.mp4"), ("b.mp4", "portrait_448x336_truth.mp4")):
        media.ffmpeg("-i", str(samples / source), "-frames:v", "7", "-an", str(tmp_path / name))
    media.ffmpeg("-i", str(tmp_path / "b.mp4"), "-frames:v", "1", str(tmp_path / "still.png"))
    vidsr.compare(tmp_path / "a.mp4", tmp_path / "b.mp4", html=tmp_path / "c.html")
    vidsr.compare(tmp_path / "still.png", tmp_path / "still.png", html=tmp_path / "d.html")
    places = [shown(tmp_path / name)["faces"] for name in ("c.html", "d.html")]
    for found in places:
        assert len(found) == 1
        # Eileen Collins' face is a little left of the middle of the upper half, and about a quarter as wide.
        assert 0.3 < found[0]["x"] < 0.55 and 0.2 < found[0]["y"] < 0.5 and 0.15 < found[0]["side"] < 0.35
    assert 0 <= places[0][0]["frame"] < 7
    assert (tmp_path / "c.html").read_text("utf-8").count('<img src="data:image/jpeg') == 2


def test_clips_that_are_too_large_are_compressed_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (6, 96, 128, 3), np.uint8)
    before = media.encode(tmp_path / "a.mkv", list(noise), media.LOSSLESS)
    after = media.encode(tmp_path / "b.mkv", list(noise), media.LOSSLESS)
    vidsr.compare(before, after, html=tmp_path / "c.html", faces=False)
    full = sum(map(len, clips(tmp_path / "c.html")))
    monkeypatch.setattr(comparing, "MEDIA_BYTES", full * 2 // 3)
    report = vidsr.compare(before, after, html=tmp_path / "d.html", faces=False)
    assert len(report.notes) == 1 and "compressed more than usual" in report.notes[0]
    assert sum(map(len, clips(tmp_path / "d.html"))) < full * 2 // 3
    monkeypatch.setattr(comparing, "MEDIA_BYTES", 1000)
    with pytest.raises(vidsr.VidsrError, match="too large for a page"):
        vidsr.compare(before, after, html=tmp_path / "e.html", faces=False)
    monkeypatch.setattr(comparing, "MEDIA_BYTES", full)
    monkeypatch.setattr(comparing, "MAX_PAGE_BYTES", full)
    with pytest.raises(vidsr.VidsrError, match="choose a shorter part"):
        vidsr.compare(before, after, html=tmp_path / "e.html", faces=False)
    assert not (tmp_path / "e.html").exists()


def test_labels_and_the_report_are_on_the_page(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    videos = [media.clip(folder / "<i>same.mp4", 5) for folder in folders]
    report = RunReport("in", str(videos[1]), "secnet-fast", None, "cpu", "fp32", stage_seconds={"network": 2.5})
    write_reports(tmp_path / "r.json", [report], [])
    page = tmp_path / "c.html"
    assert run(*videos, "--html", page, "--report", tmp_path / "r.json", "--no-faces").exit_code == 0
    text = page.read_text("utf-8")
    assert [each["label"] for each in shown(page)["inputs"]] == ["one/<i>same.mp4", "two/<i>same.mp4"]
    assert "<i>" not in text and "2.5 s, 100 %" in text and "Report of the run" in text
    assert run(*videos, "--html", page, "-y", "--no-faces", "--label", "a", "--label", "b").exit_code == 0
    assert [each["label"] for each in shown(page)["inputs"]] == ["a", "b"]
    named = run(*videos, "--html", page, "-y", *["--label", "a"] * 3)
    assert named.exit_code == 2 and "--label is given 3 times for 2 inputs" in named.stderr


def test_what_cannot_be_compared_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    video = media.clip(tmp_path / "a.mp4")
    page = tmp_path / "c.html"
    cases: list[tuple[tuple[str | Path, ...], int, str]] = [
        ((tmp_path / "none.mp4", video), 3, "does not exist"),
        ((video, media.audio_only(tmp_path / "s.mp4")), 3, "s.mp4"),
        ((video, video, "--start", "5"), 2, "--start"),
        ((video, video, "--end", "11", "--start", "0"), 2, "a page holds 10 s at most"),
        ((video, video, "--start", "soon"), 2, "invalid time"),
        ((video, video, "--report", video), 3, "is not a JSON file"),
    ]
    for arguments, code, words in cases:
        result = run(*arguments, "--html", page, "--no-faces")
        assert (result.exit_code, words in result.stderr) == (code, True), (arguments, result.stderr)
        assert not page.exists()
    own = run(video, video, "--video", video, "-y")
    assert own.exit_code == 4 and "is the input itself" in own.stderr
    missing = CliRunner().invoke(app, ["compare", str(video)])
    assert missing.exit_code == 2 and "AFTER" in missing.stderr
    assert dataclasses.is_dataclass(vidsr.CompareReport)


def test_numbered_images_and_folders_are_videos(tmp_path: Path) -> None:
    video = media.clip(tmp_path / "a.mp4", 10)
    folder = tmp_path / "frames"
    folder.mkdir()
    for number in range(10):
        image = media.numbered_image(number, 128, 96)[..., ::-1]
        assert cv2.imwrite(str(folder / f"{number:04d}.png"), np.ascontiguousarray(image))
    for name in (folder, folder / "%04d.png"):
        result = run(video, name, "--no-faces", "-y")
        assert result.exit_code == 0, result.stderr
        page = tmp_path / "frames_compare.html"
        assert result.stdout == f"{page}\n"
        for clip in clips(page):
            assert [media.read_number(image) for image in decoded(clip)[0]] == list(range(10))
    assert shown(page)["inputs"][1]["label"] == "frames/%04d.png"
    slow = run(video, folder, "--no-faces", "-y", "--rate", "12.5")
    assert slow.exit_code == 0 and "frames is 2 times as long" in slow.stderr
    assert run(video, video, "--rate", "25").exit_code == 2
    own = run(video, folder, "--png", folder / "0003.png", "-y")
    assert own.exit_code == 4 and "is a file that this run reads" in own.stderr


def test_a_photograph_is_turned_as_its_camera_says(tmp_path: Path) -> None:
    plain = media.encode(tmp_path / "a.png", [media.numbered_image(9, 128, 96)], ("-frames:v", "1"))
    turned = media.with_exif(tmp_path / "b.jpg", orientation=6, count=1)
    sizes = [each.size for each in open_inputs(sources_of([plain, turned], None))]
    assert sizes == [(128, 96), (48, 64)]


def test_damage_and_warnings_are_notes(tmp_path: Path) -> None:
    before = media.clip(tmp_path / "a.mkv", 40)
    after = media.truncated(media.clip(tmp_path / "whole.mkv", 40), tmp_path / "b.mkv")
    result = run(before, after, "--no-faces")
    assert result.exit_code == 0 and "b.mkv: damaged" in result.stderr
