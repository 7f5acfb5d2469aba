"""`vidsr upscale` and `vidsr faces` with a face model that chooses boxes: who is restored, what is listed and drawn.

The model is tiny and has random weights, but its files are those of any model.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import vidsr
from tests.media.test_restoration import (  # noqa: F401 - room is a fixture
    HEIGHT,
    PLACES,
    SIDE,
    WIDTH,
    assert_only_faces_differ,
    changes,
    images_of,
    room,
    run_of,
    upscale,
)
from tests.support.face_models import attention_model
from vidsr.cli import app

SENTENCE = "such a face is plausible, not evidence"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return attention_model(tmp_path_factory.mktemp("models")).path


def faces(room: Path, *options: str | Path, code: int = 0) -> Result:  # noqa: F811
    given = ("faces", room / "video.mkv", "--face-detector", room / "blobs.onnx", "--device", "cpu", "--threads", "1")
    result = CliRunner().invoke(app, [str(each) for each in (*given, "--face-embedding", "off", *options)])
    assert result.exit_code == code, result.stderr
    return result


def test_the_report_has_the_boxes_of_every_track(room: Path, model: Path, tmp_path: Path) -> None:  # noqa: F811
    """Only faces change; a box lies around its face; the number of boxes can be given."""
    for options, count in (((), 2), (("--face-boxes", "5"), 5)):
        target, report = tmp_path / f"{count}.mkv", tmp_path / f"{count}.json"
        result = upscale(room, "video.mkv", target, "--face-model", model, *options, "--report", report)
        run = run_of(report)
        assert run["face_model"] == "attention-fh-fast"
        assert SENTENCE in " ".join(result.stderr.split()) and "restored by attention-fh-fast" in result.stderr
        corners = {1: PLACES[0], 2: PLACES[-1], 3: PLACES[-1]}
        for track in run["faces"]:
            assert len(track["boxes"]) == count and track["restored"] == track["seen"]["frames"]
            for left, top, wide, tall in track["boxes"]:
                assert left >= 0 and left + wide <= WIDTH and top >= 0 and top + tall <= HEIGHT
                near = [(left + wide / 2 - x - SIDE / 2, top + tall / 2 - y - SIDE / 2)
                        for x, y in corners[track["seen"]["track"]]]  # fmt: skip
                assert min(max(abs(across), abs(down)) for across, down in near) < 1.5 * SIDE
    assert_only_faces_differ(changes(room, "plain.mkv", tmp_path / "5.mkv"), PLACES)
    assert any(change.max() > 0 for change in changes(room, tmp_path / "2.mkv", tmp_path / "5.mkv"))
    assert all(track["boxes"] == [] for track in run_of(room / "faces.json")["faces"])


def test_two_runs_are_equal(room: Path, model: Path, tmp_path: Path) -> None:  # noqa: F811
    """Nothing is drawn at random, also where a run goes on after it was interrupted in the middle of a track."""
    for name, options in (("a", ()), ("b", ("--resume", "--segment-frames", "4"))):
        report = ("--report", tmp_path / f"{name}.json")
        upscale(room, "video.mkv", tmp_path / f"{name}.mkv", "--face-model", model, *options, *report)
    assert all((change == 0).all() for change in changes(room, tmp_path / "a.mkv", tmp_path / "b.mkv"))
    one, other = (run_of(tmp_path / f"{name}.json")["faces"] for name in "ab")
    assert one == other


def test_a_run_of_several_processes_says_what_such_faces_are(
    room: Path,  # noqa: F811
    model: Path,
    tmp_path: Path,
) -> None:
    options = ("--face-model", model, "--jobs", "2", "--report", tmp_path / "a.json")
    upscale(room, "video.mkv", tmp_path / "a.mkv", *options)
    assert any(SENTENCE in warning for warning in run_of(tmp_path / "a.json")["warnings"])


def test_boxes_are_listed_and_drawn(room: Path, model: Path, tmp_path: Path) -> None:  # noqa: F811
    """The same boxes as in the report of `upscale`; without the model the listing has none."""
    listing, drawn, plain = (tmp_path / name for name in ("a.json", "a.mkv", "b.mkv"))
    faces(room, "--face-model", model, "--json", listing, "--annotate", drawn)
    faces(room, "--annotate", plain)
    content = json.loads(listing.read_text())
    assert content["face_model"]["name"] == "attention-fh-fast"
    upscale(room, "video.mkv", tmp_path / "c.mkv", "--face-model", model, "--report", tmp_path / "c.json")
    reported = {each["seen"]["track"]: each["boxes"] for each in run_of(tmp_path / "c.json")["faces"]}
    listed: dict[int, list[list[float]]] = {}
    for frame in content["frames"]:
        for face in frame["faces"]:
            listed.setdefault(face["track"], face["boxes"])
            assert len(face["boxes"]) == 2
    assert listed.keys() == reported.keys()
    for track, boxes in listed.items():
        np.testing.assert_allclose(boxes, reported[track], atol=0.006)
    for frame, one, other in zip(content["frames"], images_of(drawn), images_of(plain), strict=True):
        for face in frame["faces"]:
            left, top, wide, tall = (round(value) for value in face["boxes"][-1])
            rim = slice(max(0, top - 1), top + tall + 2), slice(max(0, left - 1), left + wide + 2)
            assert (one[:, *rim] - other[:, *rim]).abs().max() > 0.3
    result = json.loads(faces(room, "--json", "-").stdout)
    assert "face_model" not in result and all(
        "boxes" not in each for frame in result["frames"] for each in frame["faces"]
    )


def test_the_library_lists_boxes_too(room: Path, model: Path) -> None:  # noqa: F811
    found = vidsr.find_faces(
        room / "video.mkv", face_detector=room / "blobs.onnx", face_model=model, face_boxes=3, device="cpu", threads=1
    )
    assert all(face.boxes is not None and len(face.boxes) == 3 for frame in found.frames for face in frame.faces)


def test_other_models_choose_no_boxes(room: Path, model: Path, tmp_path: Path) -> None:  # noqa: F811
    said = upscale(room, "video.mkv", tmp_path / "a.mkv", "--face-boxes", "4", code=2).stderr
    assert "'secnet-fast-face' chooses no boxes: give --face-model" in " ".join(said.split())
    said = faces(room, "--face-model", "secnet-fast-face", code=2).stderr
    assert "'secnet-fast-face' chooses no boxes" in " ".join(said.split())
    said = faces(room, "--face-boxes", "4", code=2).stderr
    assert "--face-boxes needs a face model that chooses boxes: add --face-model" in " ".join(said.split())
    assert list(tmp_path.iterdir()) == []
