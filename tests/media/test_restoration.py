"""`vidsr upscale` with faces, from file to file: what is restored and reported; everything else is unchanged."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner, Result

from tests.support import media
from tests.support.yunet_files import blob_finder, write_yunet
from vidsr.cli import app
from vidsr.cli.console import Screen
from vidsr.cli.videos import _say_faces
from vidsr.config import InputConfig
from vidsr.engines.select import DEFAULT_MODELS, Selection
from vidsr.faces.engine import build_face_engine
from vidsr.types import FaceTrack, RunReport, TrackReport
from vidsr.video.reader import Reader

WIDTH, HEIGHT, SIDE = 96, 64, 16
# Numbers of frames of the two scenes, and the upper left corners of the faces in each frame, at positions where no cell
# of 16 pixels is completely blue.
FIRST, SECOND = 6, 5
PLACES = [[(14 + 2 * n, 30)] for n in range(FIRST)] + [[(8, 30), (70, 30)]] * SECOND
FACE_MODEL = DEFAULT_MODELS["restore_face"]
# Largest distance of a restored pixel from the center of a face: half a box of 20.5 pixels, 1.5 times, and an error of
# the toy detector of 6.
REACH = 22
COMMON = ("--model", "secnet-fast", "--device", "cpu", "--threads", "1", "--precision", "fp32", "--codec", "ffv1")
Array = np.ndarray[Any, Any]


def draw_faces_at(places: list[tuple[int, int]], scene: int) -> Array:
    """Blue blobs with texture in red and green, on dark or bright noise that is never blue."""
    chance = np.random.default_rng(scene)
    image = chance.integers(0, 90, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    image[..., :2] += np.uint8(150 * scene)
    for x, y in places:
        blob = np.random.default_rng(7).integers(0, 200, (SIDE, SIDE, 3)).astype(np.uint8)
        blob[..., 2] = 255
        image[y : y + SIDE, x : x + SIDE] = blob
    return image


IMAGES = [draw_faces_at(places, int(n >= FIRST)) for n, places in enumerate(PLACES)]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the video, the detector, and the video enlarged without and with faces."""
    folder = tmp_path_factory.mktemp("faces")
    media.encode(folder / "video.mkv", IMAGES, media.LOSSLESS)
    write_yunet(folder / "blobs.onnx", blob_finder())
    upscale(folder, "video.mkv", "plain.mkv", "--no-faces")
    result = upscale(folder, "video.mkv", "faces.mkv", "--faces", "--report", folder / "faces.json")
    (folder / "said.txt").write_text(result.stderr)
    return folder


def upscale(room: Path, source: Path | str, target: Path | str, *options: str | Path, code: int = 0) -> Result:
    """Runs vidsr with the detector in `room`; relative paths are relative to `room`."""
    given = ("upscale", room / source, room / target, "--face-detector", room / "blobs.onnx", *COMMON, *options)
    result = CliRunner().invoke(app, [str(each) for each in given])
    assert result.exit_code == code, result.stderr
    return result


def images_of(path: Path) -> list[Tensor]:
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        return [frame.image for frame in reader.frames()]


def run_of(report: Path) -> dict[str, Any]:
    (run,) = json.loads(report.read_text())["runs"]
    return dict(run)


def changes(room: Path, one: Path | str, other: Path | str) -> list[Tensor]:
    """The largest difference of each pixel in 8-bit levels, H x W per frame."""
    pairs = zip(images_of(room / one), images_of(room / other), strict=True)
    return [255 * (a - b).abs().amax(0) for a, b in pairs]


def near(x: int, y: int, scale: int, reach: float = REACH, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Mask of the enlarged pixels around the face with this upper left corner."""
    rows, columns = ((torch.arange(scale * side) + 0.5) / scale for side in (height, width))
    middle_x, middle_y = x + SIDE / 2, y + SIDE / 2
    return ((rows - middle_y).abs() < reach)[:, None] & ((columns - middle_x).abs() < reach)[None]


def assert_only_faces_differ(change: list[Tensor], places: list[list[tuple[int, int]]], scale: int = 4) -> None:
    for levels, here in zip(change, places, strict=True):
        elsewhere = torch.ones_like(levels, dtype=torch.bool)
        for x, y in here:
            elsewhere &= ~near(x, y, scale)
            assert levels[near(x, y, scale, 8)].max() > 8, "this face is as without"
        assert elsewhere.any() and (levels[elsewhere] == 0).all()


# ----------------------------------------------------------------------------------------------- with and without faces


def test_faces_are_restored_and_nothing_else_is_changed(room: Path) -> None:
    assert_only_faces_differ(changes(room, "plain.mkv", "faces.mkv"), PLACES)


def test_the_report_and_the_closing_line_tell_the_tracks_of_both_scenes(room: Path) -> None:
    run = run_of(room / "faces.json")
    assert (run["face_model"], run["scenes"], run["frames_out"]) == (FACE_MODEL, 2, len(PLACES))
    seen = [each["seen"] for each in run["faces"]]
    assert [(each["track"], each["first_pts"], each["last_pts"], each["frames"]) for each in seen] == [
        (1, 0, 40 * (FIRST - 1), FIRST),
        (2, 40 * FIRST, 40 * (FIRST + SECOND - 1), SECOND),
        (3, 40 * FIRST, 40 * (FIRST + SECOND - 1), SECOND),
    ]
    assert [each["restored"] for each in run["faces"]] == [FIRST, SECOND, SECOND]
    assert all(each["skipped"] == {} for each in run["faces"])
    assert f"faces: 3 of 3 restored by {FACE_MODEL}\n" in (room / "said.txt").read_text()


@pytest.mark.parametrize(
    ("options", "is_looked_for"), [(("--min-face", "40"), True), (("--face-strength", "0"), False)], ids=str
)
def test_without_faces_or_strength_the_result_is_bit_identical(
    room: Path, tmp_path: Path, options: tuple[str, ...], is_looked_for: bool
) -> None:
    """At the scale where faces of 40 pixels have 20, the toy detector finds none."""
    result = upscale(room, "video.mkv", tmp_path / "a.mkv", "--faces", *options, "--report", tmp_path / "a.json")
    assert all((change == 0).all() for change in changes(room, "plain.mkv", tmp_path / "a.mkv"))
    run = run_of(tmp_path / "a.json")
    assert (run["faces"], run["face_model"]) == ([], FACE_MODEL if is_looked_for else None)
    assert ("faces: none found" in result.stderr) == is_looked_for


def test_half_the_strength_is_half_the_change(room: Path, tmp_path: Path) -> None:
    upscale(room, "video.mkv", tmp_path / "a.mkv", "--faces", "--face-strength", "0.5")
    half, without, full = (images_of(path) for path in (tmp_path / "a.mkv", room / "plain.mkv", room / "faces.mkv"))
    for image, none, all_of_it in zip(half, without, full, strict=True):
        assert (image - none).abs().max() > 0.05
        torch.testing.assert_close(image, (none + all_of_it) / 2, atol=0.02, rtol=0)  # each rounded to 8 bits


def test_the_number_of_faces_is_limited(room: Path, tmp_path: Path) -> None:
    options = ("--faces", "--max-faces", "1", "--report", tmp_path / "a.json")
    result = upscale(room, "video.mkv", tmp_path / "a.mkv", *options)
    run = run_of(tmp_path / "a.json")
    assert sorted(each["restored"] for each in run["faces"]) == [0, SECOND, FIRST]
    assert [each["skipped"] for each in run["faces"] if not each["restored"]] == [{"too many faces": SECOND}]
    closing = f"faces: 2 of 3 restored by {FACE_MODEL}; not restored: 1 too many faces"
    assert closing in " ".join(result.stderr.split())
    change = changes(room, "plain.mkv", tmp_path / "a.mkv")
    changed = [[place for place in here if levels[near(*place, 4, 8)].any()]
               for levels, here in zip(change, PLACES, strict=True)]  # fmt: skip
    assert [len(here) for here in changed] == [1] * len(PLACES)
    assert_only_faces_differ(change, changed)


def test_the_most_frequent_of_several_reasons_is_reported() -> None:
    def track(number: int, restored: int, **skipped: int) -> TrackReport:
        seen = FaceTrack(number, 0, 9, Fraction(1, 25), 10, 10, 20, 20, 1.0)
        return TrackReport(seen, restored, {reason.replace("_", " "): count for reason, count in skipped.items()})

    tracks = [track(1, 1, too_small=9), track(2, 0, too_small=4, too_many_faces=6), track(3, 0, too_small=10),
              track(4, 0, too_many_faces=2), track(5, 0, large_enough=10)]  # fmt: skip
    said: list[str] = []
    report = RunReport("a", "b", "m", None, "cpu", "fp32", face_model="some-model", faces=tracks)
    _say_faces(cast(Screen, SimpleNamespace(say=said.append)), report)
    assert said == ["faces: 1 of 5 restored by some-model; not restored: 1 large enough, 2 too many faces, 1 too small"]


def test_faces_do_not_depend_on_tiles_or_scale(room: Path, tmp_path: Path) -> None:
    options = ("--scale", "2", "--tile", "64", "--start", "0.24")
    upscale(room, "video.mkv", tmp_path / "a.mkv", *options, "--no-faces")
    upscale(room, "video.mkv", tmp_path / "b.mkv", *options, "--faces")
    assert_only_faces_differ(changes(room, tmp_path / "a.mkv", tmp_path / "b.mkv"), PLACES[FIRST:], scale=2)


def test_a_video_on_its_side(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coded sideways with rotation metadata: faces are found, restored upright, and put back as coded."""
    lying, turned = tmp_path / "lying.mp4", tmp_path / "turned.mp4"
    coded = [np.rot90(image).copy() for image in IMAGES[FIRST:]]
    media.encode(lying, coded, ("-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv444p"))
    media.ffmpeg("-display_rotation:v:0", "-90", "-i", f"file:{lying}", "-c", "copy", f"file:{turned}")
    quarters = []

    def noted(selection: Selection, turns: int, *rest: Any) -> Any:
        quarters.append(turns)
        return build_face_engine(selection, turns, *rest)

    monkeypatch.setattr("vidsr.faces.pipeline.build_face_engine", noted)
    upscale(room, turned, tmp_path / "a.mkv", "--no-faces")
    upscale(room, turned, tmp_path / "b.mkv", "--faces", "--report", tmp_path / "b.json")
    assert quarters == [3, 3]  # of the model for faces and of the one for tiny faces
    assert [each["restored"] for each in run_of(tmp_path / "b.json")["faces"]] == [SECOND] * 2
    change = [torch.rot90(levels, -1) for levels in changes(room, tmp_path / "a.mkv", tmp_path / "b.mkv")]
    assert_only_faces_differ(change, PLACES[FIRST:])


# ------------------------------------------------------------------------------------------------------------- messages


def test_a_dry_run_names_the_face_model(room: Path, tmp_path: Path) -> None:
    for option, words in (("--faces", f"faces restored by {FACE_MODEL}"), ("--no-faces", "faces not restored")):
        result = upscale(room, "video.mkv", tmp_path / "a.mkv", option, "--dry-run", "--end", "0.12")
        assert words in " ".join(result.stderr.split()) and result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_detector_for_one_size_says_what_it_may_miss(room: Path, tmp_path: Path) -> None:
    fixed = write_yunet(tmp_path / "fixed.onnx", blob_finder(), (HEIGHT, WIDTH))
    options = ("--faces", "--start", "0.24", "--face-detector", fixed, "--report", tmp_path / "a.json")
    result = upscale(room, "video.mkv", tmp_path / "a.mkv", *options)
    warning = "fixed.onnx takes only images of 96x64: faces smaller than 20 pixels may be missed"
    assert warning in " ".join(result.stderr.split())
    assert any(warning in text for text in run_of(tmp_path / "a.json")["warnings"])


def test_bicubic_restores_no_faces(room: Path, tmp_path: Path) -> None:
    options = ("--model", "bicubic", "--end", "0.12")
    upscale(room, "video.mkv", tmp_path / "a.mkv", *options, "--report", tmp_path / "a.json")
    upscale(room, "video.mkv", tmp_path / "b.mkv", *options, "--no-faces")
    assert run_of(tmp_path / "a.json")["face_model"] is None
    assert all((change == 0).all() for change in changes(room, tmp_path / "a.mkv", tmp_path / "b.mkv"))


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--model", "bicubic", "--faces"), 2, "faces cannot be restored with bicubic, which is not a network"),
        (("--faces", "--face-detector", "none.onnx"), 5, "none.onnx does not exist"),
        (("--faces", "--face-detector", "video.mkv"), 5, "video.mkv"),
        (("--faces", "--precision", "fp16"), 2, "fp16 is not supported on the CPU"),
        (("--faces", "--face-strength", "1.5"), 2, "face-strength"),
        (("--faces", "--max-faces", "0"), 2, "max-faces"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_refusals(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], code: int, sentence: str
) -> None:
    (tmp_path / "video.mkv").write_bytes((room / "video.mkv").read_bytes())
    monkeypatch.chdir(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = upscale(room, tmp_path / "video.mkv", tmp_path / "result.mkv", *options, code=code)
    assert sentence in " ".join(result.stderr.split()) and result.stdout == ""
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
