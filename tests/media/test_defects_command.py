"""`vidsr defects` and --dust from file to files: JSON, annotated copy, contact sheet, report, and their errors."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner, Result

import vidsr
from tests.support import media
from tests.unit.test_defects import HEIGHT, SPOTS, SPOTS_OF_PAGE, WIDTH, film, tint
from vidsr.cli import app
from vidsr.types import RunReport

pytestmark = pytest.mark.usefixtures("two_threads")
COUNT = 8


@pytest.fixture
def source(tmp_path: Path) -> Path:
    images = [(255 * frame.image.permute(1, 2, 0)).round().byte().numpy() for frame in film(COUNT, SPOTS)]
    return media.encode(tmp_path / "film.mkv", images, media.LOSSLESS)


def defects(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["defects", *(str(argument) for argument in arguments)])


def pixels(path: Path) -> np.ndarray[Any, Any]:
    raw = path.with_suffix(".raw")
    media.ffmpeg("-i", f"file:{path}", "-map", "0:v:0", "-pix_fmt", "rgb24", "-f", "rawvideo", f"file:{raw}")
    data = np.fromfile(raw, np.uint8)
    raw.unlink()
    return data.reshape(COUNT, HEIGHT, -1, 3) if data.size == COUNT * HEIGHT * WIDTH * 3 else data


def test_json_says_what_is_where(source: Path) -> None:
    result = defects(source)
    assert result.exit_code == 0, result.stderr
    listing = json.loads(result.stdout)
    assert (listing["width"], listing["height"], listing["warnings"]) == (WIDTH, HEIGHT, [])
    assert [frame["pts"] for frame in listing["frames"]] == [40 * index for index in range(COUNT)]
    for index, frame in enumerate(listing["frames"]):
        assert len(frame["defects"]) == (index in SPOTS)
        for defect in frame["defects"]:
            x, y, _, level = SPOTS[index]
            assert abs(defect["x"] - x) < 1.5 and abs(defect["y"] - y) < 1.5 and defect["light"] == (level > 128)
            assert defect["kind"] == "speck" and defect["repairable"]
    assert listing["counts"]["specks"] == listing["counts"]["frames"] == 3
    assert "done: 8 frames; film defects: 3 specks" in result.stderr


def test_all_files_and_their_names_on_stdout(source: Path, tmp_path: Path) -> None:
    drawn, sheet, listing = tmp_path / "drawn.mkv", tmp_path / "sheet.png", tmp_path / "list.json"
    result = defects(source, "--annotate", drawn, "--sheet", sheet, "--json", listing)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.split() == [str(drawn), str(sheet), str(listing)]
    assert json.loads(listing.read_text())["counts"]["specks"] == 3
    assert len(media.ffmpeg_framemd5(drawn).frames) == COUNT
    image = cv2.imread(str(sheet))
    assert image is not None and image.shape[1] > 3 * 2 * 144  # three pairs


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--sheet", "a.jpg"), 2, "not a .png file"),
        (("--json", "a.png", "--sheet", "a.png"), 2, "same file"),
        (("--dpi", "20"), 2, "--dpi must be a number from 50 to 4800"),
    ],
)
def test_errors_come_before_any_work(
    source: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(source.parent)
    result = defects(source, *arguments)
    assert result.exit_code == code and message in result.stderr
    assert [path.name for path in source.parent.iterdir()] == ["film.mkv"]


def upscale(source: Path, target: Path, **options: Any) -> RunReport:
    report = vidsr.upscale(source, target, model="bicubic", scale=1, codec="ffv1", **options)
    assert isinstance(report, RunReport)
    return report


def test_report_is_bit_identical_to_no_option_and_repair_is_not(source: Path, tmp_path: Path) -> None:
    plain, told, mended = (tmp_path / name for name in ("a.mkv", "b.mkv", "c.mkv"))
    assert upscale(source, plain).defects is None
    report = upscale(source, told, dust="report")
    assert report.defects is not None and (report.defects.specks, report.defects.repaired) == (3, 0)
    assert media.ffmpeg_framemd5(plain).frames == media.ffmpeg_framemd5(told).frames
    report = upscale(source, mended, dust="repair")
    assert report.defects is not None and report.defects.repaired == 3
    before, after = media.ffmpeg_framemd5(plain), media.ffmpeg_framemd5(mended)
    assert before.times == after.times
    changed = [index for index in range(COUNT) if before.frames[index].md5 != after.frames[index].md5]
    assert changed == sorted(SPOTS)


def test_the_report_of_a_trimmed_run_counts_by_frame(source: Path, tmp_path: Path) -> None:
    target, told = tmp_path / "out.mkv", tmp_path / "report.json"
    arguments = ["upscale", source, target, "--model", "bicubic", "--scale", "1", "--dust", "repair", "--start", "0.08"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--report", str(told)])
    assert result.exit_code == 0, result.stderr
    (run,) = json.loads(told.read_text())["runs"]
    # The first frame of the part has only one neighbor.
    assert [round(frame["seconds"], 2) for frame in run["defects"]["frames"]] == [0.08, 0.12]
    assert "film defects: 2 specks and 0 hairs" in result.stderr and run["stage_seconds"]["dust"] > 0


def png(path: Path, image: np.ndarray[Any, Any], dpi: int | None) -> Path:
    """A PNG file with a pHYs chunk."""
    done, data = cv2.imencode(".png", image[..., ::-1])
    assert done
    content = bytes(data)
    if dpi is not None:
        each = round(dpi / 0.0254)
        body = b"pHYs" + struct.pack(">IIB", each, each, 1)
        chunk = struct.pack(">I", 9) + body + struct.pack(">I", zlib.crc32(body))
        content = content[:33] + chunk + content[33:]
    path.write_bytes(content)
    return path


def test_a_page(tmp_path: Path) -> None:
    scan = png(tmp_path / "page.png", tint(spots=SPOTS_OF_PAGE), 600)
    drawn, listing = tmp_path / "drawn.png", tmp_path / "list.json"
    result = defects(scan, "--json", listing, "--annotate", drawn)
    assert result.exit_code == 0, result.stderr
    told = json.loads(listing.read_text())
    assert told["dpi"] == 600 and len(told["defects"]) == told["page"]["defects"] == 3 and told["warnings"] == []
    assert told["page"]["gray_spots"] == 2 and "3 defects, 2 gray spots and 1 solid spots" in result.stderr
    image = cv2.imread(str(drawn))
    assert image is not None and image.shape == (450, 450, 3)


def test_a_page_without_resolution_is_said(tmp_path: Path) -> None:
    result = defects(png(tmp_path / "page.png", tint(160), None))
    assert result.exit_code == 0 and "600 dpi are assumed" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("name", "arguments", "code", "message"),
    [
        ("broken.png", (), 3, "is not an image that can be read"),
        ("missing.png", (), 3, "cannot be read"),
        ("page.png", ("--sheet", "a.png"), 2, "--sheet is for videos"),
        ("page.png", ("--start", "1"), 2, "a page has no time"),
        ("page.png", ("--annotate", "a.mp4"), 2, "a page becomes a PNG file"),
    ],
)
def test_errors_of_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    png(tmp_path / "page.png", tint(160), 600)
    result = defects(name, *arguments)
    assert result.exit_code == code and message in " ".join(result.stderr.split()), result.stderr
