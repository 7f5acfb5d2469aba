"""`vidsr faces` from file to files: JSON, annotated video and contact sheet, and its errors."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import vidsr
from tests.support import media
from tests.support.sface_files import write_sface
from tests.support.yunet_files import blob_finder, write_yunet
from vidsr.cli import app
from vidsr.config import FaceConfig, InputConfig
from vidsr.faces.detector import View
from vidsr.faces.drawing import COLUMNS, GAP, LABEL, SIDE, track_color
from vidsr.models.cards import detector_card, models_folder
from vidsr.video.probe import probe
from vidsr.video.reader import Reader

WIDTH, HEIGHT, COUNT = 128, 80, 14
SEARCHED = {*range(0, COUNT, FaceConfig().every), COUNT - 1}
Array = np.ndarray[Any, Any]


def draw_image(number: int) -> Array:
    """Two blue blobs of 16 pixels on black: one moves to the right by 3 pixels per frame, one is static."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[20:36, 8 + 3 * number : 24 + 3 * number] = (0, 0, 255)
    image[52:68, 96:112] = (0, 0, 255)
    return image


def video(path: Path, images: Sequence[Array] | None = None) -> Path:
    return media.encode(path, images or [draw_image(number) for number in range(COUNT)], media.LOSSLESS)


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return write_yunet(tmp_path / "blobs.onnx", blob_finder())


def faces(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["faces", *(str(argument) for argument in arguments)])


def images_of(path: Path) -> list[torch.Tensor]:
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        return [frame.image for frame in reader.frames()]


def test_json_says_who_is_where(tmp_path: Path, detector: Path) -> None:
    result = faces(video(tmp_path / "a.mkv"), "--face-detector", detector)
    assert result.exit_code == 0, result.stderr
    listing = json.loads(result.stdout)
    assert (listing["width"], listing["height"], listing["time_base"]) == (WIDTH, HEIGHT, "1/1000")
    assert [frame["pts"] for frame in listing["frames"]] == [40 * number for number in range(COUNT)]
    for number, frame in enumerate(listing["frames"]):
        assert [face["track"] for face in frame["faces"]] == [1, 2]
        assert frame["starts_scene"] == (number == 0)
        places = sorted((face["box"] for face in frame["faces"]), key=lambda box: box[1])
        for box, (x, y) in zip(places, [(16 + 3 * number, 28), (104, 60)], strict=True):
            # The toy detector locates to half a cell, 4 pixels at a scale of 20/16.
            assert abs(box[0] + box[2] / 2 - x) < 8 and abs(box[1] + box[3] / 2 - y) < 8
        for face in frame["faces"]:
            assert face["found"] == (number in SEARCHED) and 0.6 <= face["score"] <= 1
            assert len(face["landmarks"]) == len(face["steadied"]) == 5
    assert [(track["track"], track["frames"]) for track in listing["tracks"]] == [(1, COUNT), (2, COUNT)]
    assert all(track["found"] == len(SEARCHED) and track["time_base"] == "1/1000" for track in listing["tracks"])
    assert "done: 2 face tracks in 14 frames" in result.stderr


def test_all_three_files_and_their_names_on_stdout(tmp_path: Path, detector: Path) -> None:
    source, drawn, sheet, listing = (tmp_path / name for name in ("a.mkv", "drawn.mkv", "sheet.png", "faces.json"))
    options = ("--annotate", drawn, "--sheet", sheet, "--json", listing, "--face-detector", detector)
    result = faces(video(source), *options)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [str(drawn), str(sheet), str(listing)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.mkv", "blobs.onnx", "drawn.mkv", "faces.json", "sheet.png",
    ]  # fmt: skip
    assert len(json.loads(listing.read_text())["frames"]) == COUNT
    before, after = images_of(source), images_of(drawn)
    assert len(before) == len(after) == COUNT
    for one, other in zip(before, after, strict=True):
        assert one.shape == other.shape
        for track in (1, 2):
            color = torch.tensor(track_color(track)) / 255
            assert ((other - color[:, None, None]).abs().amax(0) < 0.25).sum() > 20, f"track {track} is not drawn"
        assert (one - other)[:, :10, :].abs().max() < 0.1  # far from all faces
    shown = cv2.imread(str(sheet))
    assert shown is not None
    assert shown.shape == (2 * (GAP + LABEL + SIDE) + GAP, GAP + COLUMNS * (SIDE + GAP), 3)
    cells = [shown[GAP + LABEL :, GAP + i * (SIDE + GAP) :][:SIDE, :SIDE] for i in range(COLUMNS)]
    middles = [cell[SIDE // 2 - 9 : SIDE // 2 + 9, SIDE // 2 - 9 : SIDE // 2 + 9].mean((0, 1)) for cell in cells]
    assert all(middle[0] > 150 and middle[2] < 60 for middle in middles)


def test_persons_are_listed_and_stand_together_on_the_sheet(tmp_path: Path, detector: Path) -> None:
    """Two faces that look the same, before and after a cut: two persons with two tracks each."""
    dark, bright = draw_image(0), draw_image(0)
    bright[bright[..., 2] == 0] = (170, 170, 0)
    images = [dark] * 6 + [bright] * 6
    source, sheet = video(tmp_path / "a.mkv", images), tmp_path / "a.png"
    options = ("--face-detector", detector, "--json", tmp_path / "a.json", "--sheet", sheet)
    result = faces(source, *options, "--face-embedding", write_sface(tmp_path / "sface.onnx"))
    assert result.exit_code == 0, result.stderr
    assert "done: 4 face tracks in 12 frames, of 2 persons" in result.stderr
    listing = json.loads((tmp_path / "a.json").read_text())
    persons = {each["person"]: each["tracks"] for each in listing["persons"]}
    assert sorted(persons) == [1, 2] and sorted(chain(*persons.values())) == [1, 2, 3, 4]
    assert all(len(tracks) == 2 and number == tracks[0] for number, tracks in persons.items())
    assert all(entry["track"] in persons[entry["person"]] for entry in listing["tracks"])
    assert listing["embedding"]["file"] == str(tmp_path / "sface.onnx")
    shown = cv2.imread(str(sheet))
    assert shown is not None
    rows = [shown[k * (GAP + LABEL + SIDE) :][: GAP + LABEL] for k in range(4)]
    colors = [row.reshape(-1, 3)[row.reshape(-1, 3).sum(1).argmax()] for row in rows]
    assert (colors[0] == colors[1]).all() and (colors[2] == colors[3]).all() and (colors[0] != colors[2]).any()
    found = vidsr.find_faces(source, face_detector=detector, face_embedding=tmp_path / "sface.onnx")
    assert found.persons is not None and {each.number: list(each.tracks) for each in found.persons} == persons
    result = faces(source, *options, "--face-embedding", "off", "-y")
    assert "4 face tracks in 12 frames; nothing tells people apart: pip install" in result.stderr
    listing = json.loads((tmp_path / "a.json").read_text())
    assert listing["persons"] is None and listing["embedding"] is None and listing["tracks"][0]["person"] is None


def test_a_video_on_its_side_is_listed_as_shown(tmp_path: Path, detector: Path) -> None:
    plain, turned = (
        video(tmp_path / "plain.mkv", [np.rot90(draw_image(n)).copy() for n in range(COUNT)]),
        tmp_path / "a.mp4",
    )
    options = ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv444p")
    media.ffmpeg("-i", f"file:{plain}", *options, f"file:{tmp_path / 'x.mp4'}")
    media.ffmpeg("-display_rotation:v:0", "-90", "-i", f"file:{tmp_path / 'x.mp4'}", "-c", "copy", f"file:{turned}")
    listings = [
        json.loads(faces(path, "--face-detector", detector).stdout) for path in (video(tmp_path / "b.mkv"), turned)
    ]
    assert (listings[1]["width"], listings[1]["height"], listings[1]["rotation_degrees"]) == (WIDTH, HEIGHT, -90)
    for upright, shown in zip(*(listing["frames"] for listing in listings), strict=True):
        boxes = [sorted(face["box"] for face in frame["faces"]) for frame in (upright, shown)]
        assert np.allclose(*boxes, atol=0.1)


def test_a_part_of_the_video_and_large_faces_only(tmp_path: Path, detector: Path) -> None:
    source = video(tmp_path / "a.mkv")
    result = faces(source, "--face-detector", detector, "--start", "0.2", "--end", "0.4", "--json", "-")
    assert [frame["pts"] for frame in json.loads(result.stdout)["frames"]] == [200, 240, 280, 320, 360]
    result = faces(source, "--face-detector", detector, "--end", "0.04", "--json", "-")
    assert re.search(r"done: \d face tracks? in 1 frame\b", result.stderr)
    # At the scale where faces of 40 pixels have 20, no cell is completely blue.
    result = faces(source, "--face-detector", detector, "--min-face", "40", "-q")
    assert json.loads(result.stdout)["tracks"] == [] and result.stderr == ""


def test_a_video_without_faces_still_gives_all_files(tmp_path: Path, detector: Path) -> None:
    source = video(tmp_path / "a.mkv", [np.full((48, 64, 3), n, np.uint8) for n in range(5)])
    targets = ("--annotate", tmp_path / "b.mkv", "--sheet", tmp_path / "b.png")
    assert faces(source, *targets, "--face-detector", detector).exit_code == 0
    assert len(images_of(tmp_path / "b.mkv")) == 5
    assert cv2.imread(str(tmp_path / "b.png")) is not None


def test_without_the_option_the_shipped_detector_is_used(tmp_path: Path) -> None:
    result = faces(video(tmp_path / "a.mkv", [draw_image(0)] * 3), "--json", "-")
    assert result.exit_code == 0, result.stderr
    card = detector_card()
    listed = json.loads(result.stdout)["detector"]
    assert listed == {"file": str(card.weights_path), "sha256": card.sha256}


def test_a_shipped_detector_that_is_not_whole_is_5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for path in models_folder().glob("face-detector.*"):
        (folder / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("vidsr.models.cards.models_folder", lambda: folder)
    source, file = video(tmp_path / "a.mkv", [draw_image(0)]), folder / "face-detector.onnx"
    content = file.read_bytes()
    for change, sentence in (
        (lambda: file.write_bytes(content[:-1] + b"!"), "not the one its card describes"),
        (file.unlink, "is missing"),
        ((folder / "face-detector.toml").unlink, "cannot read the model card"),
    ):
        change()
        result = faces(source)
        assert (result.exit_code, result.stdout) == (5, "")
        assert sentence in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--face-detector", "none.onnx"), 5, "does not exist"),
        (("--face-detector", "blobs.onnx", "--sheet", "b.jpg"), 2, "is not a .png file"),
        (
            ("--face-detector", "blobs.onnx", "--sheet", "b.png", "--json", "b.png"),
            2,
            "name the same file: give each its own",
        ),
        (("--face-detector", "blobs.onnx", "--json", "there.json"), 4, "already exists"),
        (("--face-detector", "blobs.onnx", "--annotate", "no/b.mkv"), 4, "does not exist"),
        (("--face-detector", "blobs.onnx", "--annotate", "b.txt"), 4, "b.txt"),
        (("--face-detector", "blobs.onnx", "--device", "tpu"), 2, "--device must be auto, cpu, cuda, cuda:N or mps"),
        (("--face-detector", "blobs.onnx", "--start", "9", "--sheet", "b.png"), 2, "after the last frame"),
        (("--face-detector", "blobs.onnx", "--min-face", "3"), 2, "min-face"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_refusals(
    tmp_path: Path, detector: Path, monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...], code: int, sentence: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    video(tmp_path / "a.mkv")
    (tmp_path / "there.json").write_text("precious")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = faces("a.mkv", *options)
    assert (result.exit_code, result.stdout) == (code, "")
    assert sentence in " ".join(result.stderr.split())
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_missing_video_and_replacing_with_y(tmp_path: Path, detector: Path) -> None:
    assert faces(tmp_path / "none.mkv", "--face-detector", detector).exit_code == 3
    listing = tmp_path / "faces.json"
    listing.write_text("old")
    source = video(tmp_path / "a.mkv")
    assert faces(source, "--json", listing, "-y", "--face-detector", detector).exit_code == 0
    assert json.loads(listing.read_text())["input"] == str(source)


def test_a_disk_that_fills_leaves_nothing(tmp_path: Path, detector: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = video(tmp_path / "a.mkv")

    def full(file: Any, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vidsr.faces.listing._put", full)
    result = faces(source, "--sheet", tmp_path / "b.png", "--face-detector", detector)
    assert result.exit_code == 4 and "the disk is full" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "blobs.onnx"]


@pytest.mark.parametrize(("aspect", "used"), [("16/11", 16 / 11), ("2", 2.0), ("1/3", 1 / 3), ("3/4194307", 1.0)])
def test_an_absurd_pixel_aspect_does_not_enlarge_the_searched_image(tmp_path: Path, aspect: str, used: float) -> None:
    info = replace(probe(media.clip(tmp_path / "a.mp4", 2)), pixel_aspect=Fraction(aspect))
    assert View.of(info).aspect == pytest.approx(used)
