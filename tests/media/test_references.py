"""`--reference`, from files to file: photographs reach the tracks of their person, and nothing else is changed.

No trained weights are needed: the branch of the face model has random ones that change what they restore.
"""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner, Result

import vidsr
from tests.golden.test_secnet_references import BRANCH, SIZES, secnet
from tests.media.test_restoration import FIRST, HEIGHT, PLACES, SECOND, SIDE, WIDTH, near
from tests.support import media
from tests.support.face_models import ship
from tests.support.sface_files import write_sface
from tests.support.yunet_files import blob_finder, write_yunet
from vidsr.cli import app
from vidsr.config import ComputeConfig, InputConfig, RestoreConfig, UpscaleConfig
from vidsr.errors import OutputError, UsageError
from vidsr.models.writing import write_model
from vidsr.pipeline.divided import check_divisible
from vidsr.pipeline.plan import plan
from vidsr.pipeline.signature import signature_of
from vidsr.types import RunReport
from vidsr.video.reader import Reader

FACTS = {"licence": "none", "date": "2026-01-01", "origin": "random", "origin_sha256": "none"}
# Red and green of a person's face, from .. to; blue is full, because the toy detector looks for blue.
ANNA, BERT = ((100, 255), (0, 60)), ((0, 60), (100, 255))
PHOTOGRAPH, FACE, CORNER = 64, 22, 24  # sides in pixels; here no cell of 16 pixels is completely blue
END_OF_SCENE = 0.24
# Largest distance of a changed pixel from the center of a face, as in test_restoration.
Array = np.ndarray[Any, Any]


def face(person: Any, side: int, seed: int) -> Array:
    random = np.random.default_rng(seed)
    bands = [random.integers(low, high, (side, side)) for low, high in person]
    return np.stack([*bands, np.full((side, side), 255)], axis=2).astype(np.uint8)


def image(number: int) -> Array:
    """Anna alone; after a cut Anna on the left and Bert on the right."""
    scene = int(number >= FIRST)
    shown = np.random.default_rng(scene).integers(0, 90, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    shown[..., :2] += np.uint8(60 * scene)
    for (x, y), person in zip(PLACES[number], (ANNA, BERT), strict=False):
        shown[y : y + SIDE, x : x + SIDE] = face(person, SIDE, 7)
    return shown


def photograph(path: Path, *people: Any) -> Path:
    """People side by side; none: gray."""
    shown = np.full((PHOTOGRAPH, PHOTOGRAPH * max(1, len(people)), 3), 128, np.uint8)
    for number, person in enumerate(people):
        left = CORNER + PHOTOGRAPH * number
        shown[CORNER : CORNER + FACE, left : left + FACE] = face(person, FACE, 8)
    assert cv2.imwrite(str(path), shown[..., ::-1])
    return path


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The video, photographs, toy models, and the video enlarged without photographs and with one of Anna."""
    folder = tmp_path_factory.mktemp("references")
    media.encode(folder / "video.mkv", [image(n) for n in range(len(PLACES))], media.LOSSLESS)
    for name, people in {"anna": [ANNA], "bert": [BERT], "both": [ANNA, BERT], "nobody": []}.items():
        photograph(folder / f"{name}.png", *people)
    write_yunet(folder / "blobs.onnx", blob_finder())
    write_sface(folder / "sface.onnx")
    for name, network in {"main": secnet(SIZES), "faces": secnet(BRANCH, strength=0.5)}.items():
        head = {"name": name, "summary": "a test", "architecture": "secnet"}
        write_model(folder, head, network, torch.float32, np.float32, FACTS)
    upscale(folder, "plain.mkv")
    upscale(folder, "anna.mkv", "--reference", f"ANNA={folder / 'anna.png'}", "--report", folder / "anna.json")
    return folder


def arguments(room: Path, target: Path | str, *options: str | Path) -> list[str]:
    common = ("--model", room / "main.toml", "--face-model", room / "faces.toml", "--device", "cpu", "--threads", "1",
              "--precision", "fp32", "--codec", "ffv1")  # fmt: skip
    given = ("upscale", room / "video.mkv", room / target, "--face-detector", room / "blobs.onnx",
             "--face-embedding", room / "sface.onnx", *common, *options)  # fmt: skip
    return [str(each) for each in given]


def upscale(room: Path, target: Path | str, *options: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, arguments(room, target, *options))
    assert result.exit_code == code, result.stderr
    return result


def images_of(path: Path) -> list[Tensor]:
    with Reader(path, InputConfig(), torch.device("cpu")) as reader:
        return [frame.image for frame in reader.frames()]


def tracks_of(report: Path) -> dict[int, dict[str, Any]]:
    (run,) = json.loads(report.read_text())["runs"]
    return {track["seen"]["track"]: track for track in run["faces"]}


def assert_changed(room: Path, other: Path, *, anna: tuple[bool, bool], bert: bool) -> None:
    """Which faces differ from the result without photographs, Anna's by scene; all else is the same bit for bit."""
    pairs = zip(images_of(room / "plain.mkv"), images_of(other), strict=True)
    for number, (one, two) in enumerate(pairs):
        change = (one - two).abs().amax(0)
        elsewhere = torch.ones_like(change, dtype=torch.bool)
        wanted = (anna[int(number >= FIRST)], bert)
        for (x, y), is_changed in zip(PLACES[number], wanted, strict=False):
            assert bool(change[near(x, y, 4, 8)].max() > 1 / 255) == is_changed, number
            if is_changed:
                elsewhere &= ~near(x, y, 4)
        assert elsewhere.any() and (change[elsewhere] == 0).all(), number


def same(one: Path, other: Path) -> bool:
    return all(torch.equal(a, b) for a, b in zip(images_of(one), images_of(other), strict=True))


# ------------------------------------------------------------------------------------------------------ whom they serve


def test_a_name_reaches_all_tracks_of_the_person_and_nobody_else(room: Path) -> None:
    assert_changed(room, room / "anna.mkv", anna=(True, True), bert=False)
    tracks = tracks_of(room / "anna.json")
    served = {number: track["references"] for number, track in tracks.items()}
    assert [len(each) for each in served.values()].count(1) == 2 and len(served) == 3 and len(served[1]) == 1
    for number, uses in served.items():
        for use in uses:
            assert (use["name"], use["file"]) == ("ANNA", str(room / "anna.png"))
            assert 0 < use["mean_weight"] < 1 and 0.363 < use["similarity"] <= 1
            assert tracks[number]["restored"] in (FIRST, SECOND)


def test_the_closing_lines_and_a_dry_run_say_which_photograph_served_which_tracks(room: Path, tmp_path: Path) -> None:
    references = ("--reference", f"ANNA={room / 'anna.png'}", "--reference", f"BERT={room / 'bert.png'}")
    result = upscale(room, tmp_path / "a.mkv", *references, "--report", tmp_path / "a.json")
    assert_changed(room, tmp_path / "a.mkv", anna=(True, True), bert=True)
    by_name: dict[str, list[int]] = {}
    for number, track in tracks_of(tmp_path / "a.json").items():
        (use,) = track["references"]
        by_name.setdefault(use["name"], []).append(number)
    assert len(by_name["ANNA"]) == 2 and len(by_name["BERT"]) == 1
    said = " ".join(result.stderr.split())
    for name, file in (("ANNA", "anna.png"), ("BERT", "bert.png")):
        listed = ", ".join(map(str, by_name[name]))
        plural = "s" * (len(by_name[name]) > 1)
        assert f"reference {name} ({room / file}): track{plural} {listed}, mean weight 0." in said
    dry = upscale(room, tmp_path / "b.mkv", *references, "--dry-run")
    assert f"reference BERT ({room / 'bert.png'}): track {by_name['BERT'][0]}" in " ".join(dry.stderr.split())
    assert not (tmp_path / "b.mkv").exists()


def test_a_number_is_a_track_and_with_an_embedding_its_person(room: Path, tmp_path: Path) -> None:
    reference = ("--reference", f"1={room / 'anna.png'}")
    upscale(room, tmp_path / "a.mkv", *reference)
    assert same(tmp_path / "a.mkv", room / "anna.mkv")
    result = upscale(room, tmp_path / "b.mkv", *reference, "--face-embedding", "off", "--report", tmp_path / "b.json")
    assert_changed(room, tmp_path / "b.mkv", anna=(True, False), bert=False)
    assert "references go by track number, because nothing tells people apart" in result.stderr
    uses = [track["references"] for track in tracks_of(tmp_path / "b.json").values()]
    assert [len(each) for each in uses] == [1, 0, 0] and uses[0][0]["similarity"] is None


def test_several_photographs_share_the_weight(room: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned.jpg"
    shown = Image.open(room / "anna.png")
    exif = Image.Exif()
    exif[274] = 6  # to be shown after a quarter turn clockwise
    shown.rotate(90, expand=True).save(turned, quality=97, subsampling=0, exif=exif)
    references = ("--reference", f"ANNA={room / 'anna.png'}", "--reference", f"ANNA={turned}")
    upscale(room, tmp_path / "a.mkv", *references, "--end", str(END_OF_SCENE), "--report", tmp_path / "a.json")
    first, second = tracks_of(tmp_path / "a.json")[1]["references"]
    alone = tracks_of(room / "anna.json")[1]["references"][0]["mean_weight"]
    assert first["mean_weight"] < alone and first["mean_weight"] + second["mean_weight"] > alone
    # The same upright photograph, but for JPEG and half a pixel of the landmarks.
    assert second["mean_weight"] == pytest.approx(first["mean_weight"], rel=0.2)


def test_without_strength_it_is_as_without_photographs(room: Path, tmp_path: Path) -> None:
    reference = ("--reference", f"ANNA={room / 'anna.png'}")
    upscale(room, tmp_path / "a.mkv", *reference, "--reference-strength", "0")
    assert same(tmp_path / "a.mkv", room / "plain.mkv")
    assert signature_of(tmp_path / "a.mkv") == signature_of(room / "plain.mkv")
    upscale(room, tmp_path / "b.mkv", *reference, "--reference-strength", "0.5")
    rows = zip(*(images_of(path) for path in (room / "plain.mkv", tmp_path / "b.mkv", room / "anna.mkv")), strict=True)
    half, whole = (sum(values) for values in zip(*(
        (float((b - a).abs().sum()), float((c - a).abs().sum())) for a, b, c in rows), strict=True))  # fmt: skip
    assert 0.2 * whole < half < 0.8 * whole


def test_a_person_who_is_not_in_the_video_is_said_and_changes_nothing(room: Path, tmp_path: Path) -> None:
    trim = ("--end", str(END_OF_SCENE))
    result = upscale(room, tmp_path / "a.mkv", "--reference", f"BERT={room / 'bert.png'}", *trim)
    assert "looks like BERT: the photographs are not used (similarity" in " ".join(result.stderr.split())
    upscale(room, tmp_path / "plain.mkv", *trim)
    assert same(tmp_path / "a.mkv", tmp_path / "plain.mkv")
    for embedding in (room / "sface.onnx", "off"):
        given = ("--reference", f"9={room / 'bert.png'}", "--face-embedding", embedding)
        said = " ".join(upscale(room, tmp_path / "b.mkv", *given, *trim, "-y").stderr.split())
        assert "has no face track 9: its photographs" in said


# ---------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (("--reference", "ANNA=nobody.png"), 2, "nobody.png shows no face that can be found"),
        (("--reference", "ANNA=both.png"), 2, "both.png shows 2 faces, and which one is meant is not clear"),
        (("--reference", "ANNA=missing.png"), 2, "missing.png cannot be used"),
        (("--reference", "ANNA=video.mkv"), 2, "video.mkv cannot be used"),
        (("--reference", "ANNA"), 2, "invalid reference 'ANNA': use NAME=photo.jpg"),
        (("--reference", "0=anna.png"), 2, "use NAME=photo.jpg, or the number of a track"),
        (("--reference", "ANNA="), 2, "names no photograph"),
        (("--reference", "ANNA=anna.png", "--face-embedding", "off"), 2, "ANNA cannot be looked for without a face"),
        (("--reference", "ANNA=anna.png", "--no-faces"), 2, "faces, which are not restored with --no-faces"),
        (("--reference", "ANNA=anna.png", "--model", "bicubic"), 2, "not restored with bicubic"),
        (("--reference", "ANNA=anna.png", "--face-model", "main.toml"), 2, "'main' takes no reference photographs"),
        (("--reference", "ANNA=anna.png", "--face-embedding", "anna.png"), 5, "not an ONNX file that can be run"),
    ],
    ids=str,
)
def test_what_cannot_be_used_is_refused(
    room: Path, tmp_path: Path, options: tuple[str, ...], code: int, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(room)
    result = upscale(room, tmp_path / "a.mkv", *options, code=code)
    assert sentence in " ".join(result.stderr.split()) and list(tmp_path.iterdir()) == []


def test_photographs_are_for_the_model_that_was_trained_with_them(room: Path, tmp_path: Path) -> None:
    """It is chosen by itself, and adds something; the face model without the branch is refused."""
    reference = ("--reference", f"1={room / 'anna.png'}")
    upscale(room, tmp_path / "a.mkv", *reference, "--face-model", "auto", "--report", tmp_path / "a.json")
    (run,) = json.loads((tmp_path / "a.json").read_text())["runs"]
    assert run["face_model"] == "secnet-fast-face-references"
    upscale(room, tmp_path / "b.mkv", "--face-model", "auto")
    assert not same(tmp_path / "a.mkv", tmp_path / "b.mkv")
    upscale(room, tmp_path / "c.mkv", *reference, "--reference-strength", "0", "--face-model", "auto")
    assert same(tmp_path / "c.mkv", tmp_path / "b.mkv")
    result = upscale(room, tmp_path / "a.mkv", *reference, "--face-model", "secnet-fast-face", "-y", code=2)
    assert "'secnet-fast-face' takes no reference photographs" in " ".join(result.stderr.split())


def test_without_weights_the_way_to_them_is_said(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ship(monkeypatch, "secnet-fast-face-references", None)
    reference = ("--reference", f"1={room / 'anna.png'}")
    result = upscale(room, tmp_path / "a.mkv", *reference, "--face-model", "auto", code=5)
    said = " ".join(result.stderr.split())
    assert "--reference needs a face model that takes photographs" in said
    assert "secnet-fast-face-references.toml --data DIR" in said and "--face-model FOLDER/" in said


def test_a_pipe_cannot_be_searched_for_a_name(room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vidsr.pipeline import references
    from vidsr.video.probe import Source

    monkeypatch.setattr(references, "PipeSource", Source)
    result = upscale(room, tmp_path / "a.mkv", "--reference", f"ANNA={room / 'anna.png'}", code=2)
    assert "is read twice, which a pipe cannot be" in " ".join(result.stderr.split())
    upscale(room, tmp_path / "b.mkv", "--reference", f"1={room / 'anna.png'}")
    assert_changed(room, tmp_path / "b.mkv", anna=(True, False), bert=False)


def test_a_number_needs_a_single_whole_video(room: Path, tmp_path: Path) -> None:
    reference = ("--reference", f"1={room / 'anna.png'}")
    result = upscale(room, tmp_path / "a.mkv", *reference, "--preview", "1", code=2)
    assert "tracks have other numbers: give a name" in " ".join(result.stderr.split())
    (tmp_path / "list.txt").write_text(f"{room / 'video.mkv'}\n")
    result = CliRunner().invoke(app, ["upscale", "--list", str(tmp_path / "list.txt"), str(tmp_path), *reference])
    assert result.exit_code == 2 and "names a track of one video, and there may be several" in result.stderr
    with pytest.raises(UsageError, match="names a track of one video"):
        vidsr.upscale([room / "video.mkv"], tmp_path, references={1: room / "anna.png"})


def test_a_video_with_photographs_is_not_divided_among_devices(room: Path, tmp_path: Path) -> None:
    faces = RestoreConfig(
        detector=room / "blobs.onnx", model=str(room / "faces.toml"), embedding="off",
        references=(("1", room / "anna.png"),),
    )  # fmt: skip
    config = UpscaleConfig(compute=ComputeConfig(model=str(room / "main.toml"), device="cpu"), faces=faces)
    planned = plan(room / "video.mkv", tmp_path / "a.mkv", config)
    with pytest.raises(UsageError, match="with --reference, whose tracks are numbered through all of it"):
        check_divisible(planned, "--devices")


# -------------------------------------------------------------------------------------- resuming, skipping, the library


def options_of(room: Path, photographs: dict[str | int, Any]) -> dict[str, Any]:
    return {
        "model": room / "main.toml", "face_model": room / "faces.toml", "face_detector": room / "blobs.onnx",
        "face_embedding": room / "sface.onnx", "device": "cpu", "threads": 1, "precision": "fp32", "codec": "ffv1",
        "references": photographs,
    }  # fmt: skip


def test_an_interrupted_run_goes_on_to_the_same_frames_and_weights(
    room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vidsr.pipeline.job.SAVING_SHARE", 1e9)  # a state at every border
    options = options_of(room, {"ANNA": room / "anna.png"}) | {"resume": True, "segment_frames": 3}
    target = tmp_path / "a.mkv"

    def stop(progress: Any) -> None:
        if progress.frames_done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vidsr.upscale(room / "video.mkv", target, **options, on_progress=stop)
    assert list((tmp_path / ".a.mkv.vidsr-job").glob("state-*"))
    others = options_of(room, {"ANNA": room / "bert.png"}) | {"resume": True, "segment_frames": 3}
    with pytest.raises(OutputError, match="of another run"):
        vidsr.upscale(room / "video.mkv", target, **others)
    report = vidsr.upscale(room / "video.mkv", target, **options)
    assert isinstance(report, RunReport)
    assert same(target, room / "anna.mkv")
    weights = [[use.mean_weight for use in track.references] for track in report.faces]
    whole = [[use["mean_weight"] for use in track["references"]] for track in tracks_of(room / "anna.json").values()]
    assert [len(each) for each in weights] == [len(each) for each in whole]
    np.testing.assert_allclose([*chain(*weights)], [*chain(*whole)], rtol=1e-6)


def test_other_photographs_are_noticed_where_outputs_exist(room: Path, tmp_path: Path) -> None:
    photo, target = tmp_path / "photo.png", tmp_path / "a.mkv"
    photo.write_bytes((room / "anna.png").read_bytes())
    given = ("--reference", f"ANNA={photo}", "--end", str(END_OF_SCENE))
    upscale(room, target, *given)
    assert "already exists" in upscale(room, target, *given, "--skip-existing", "-y").stderr
    photograph(photo, ANNA)
    again = cv2.imread(str(photo))
    assert again is not None
    again[0, 0] = 0
    assert cv2.imwrite(str(photo), again)
    assert "made it with another model" in upscale(room, target, *given, "--skip-existing", code=4).stderr
    before = photo.read_bytes()
    upscale(room, tmp_path / "b.mkv", *given, "--report", photo, "-y", code=4)
    assert photo.read_bytes() == before  # never overwritten
