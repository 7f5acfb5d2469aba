"""The table of reference photographs: who is tried with whose photographs, targets, and what is said without weights.

The people are one face of `samples/`, in other colors and mirrored, so that the shipped detector finds them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.faces import persons, reference_cost, reference_restoration, reference_sheet, references
from benchmarks.faces.reference_restoration import (
    BOTH,
    NONE,
    ONE,
    STRANGER,
    THREE,
    WHAT_CONTROL,
    figures_of,
    measure,
    missing,
)
from benchmarks.faces.reference_samples import (
    AWAY,
    CLIP,
    DAYS,
    FRAMES,
    PICTURES,
    SHOT,
    HoldOut,
    Sample,
    held_out,
    photograph,
    samples,
    shown,
)
from benchmarks.faces.references import load_branch
from benchmarks.faces.scores import Figure
from benchmarks.quality.ledger import Figures, Ledger
from tests.golden.test_secnet_references import BRANCH, secnet
from tests.support.sface_files import write_sface
from tests.support.tiny_training_data import Pixels, write_clip, write_still
from vidsr.errors import ModelError
from vidsr.faces.alignment import similarity_between, transformed
from vidsr.faces.embedding import SFace
from vidsr.nets.secnet.network import SECNet
from vidsr.train.dataset import find_training_files, read_clip
from vidsr.train.people import Person, find_faces, find_people, split_people
from vidsr.train.recipe import load_recipe

ROOT = Path(__file__).parents[2]
PATTERN = r"/(p\d)_"
HELD = HoldOut(PATTERN, 2, ("A", "B"))
# Path, split, kind, source, class, person; the number of the person makes the color.
ENTRIES = (
    *((f"identities/anna/{k}.png", "eval", "face_still", f"days/anna{k}", "B", "anna") for k in range(4)),
    *((f"identities/bert/{k}.png", "eval", "face_still", f"days/bert{k}", "B", "bert") for k in range(2)),
    *((f"stills/p{p}_{k}.png", "train", "face_still", f"studio/{p}{k}", "A", "") for p in range(3) for k in range(2)),
    *((f"identities/rosa/{k}.png", "train", "face_still", "films/rosa", "B", "rosa") for k in range(3)),
    ("eval/faces/cleo.avi", "eval", "face", "films/cleo", "A", ""),
    ("eval/faces/dora.avi", "eval", "face", "films/dora", "A", ""),
)


def colored(frames: Pixels, name: str) -> Pixels:
    """Another person: mirrored or not, and with the channels weighed otherwise."""
    seed = sum(map(ord, name))
    weights = 0.7 + 0.3 * np.random.default_rng(seed).random(3)
    return np.asarray(frames[:, :, :: 1 - 2 * (seed % 2)] * weights, np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    face = read_clip(ROOT / "samples" / "portrait_448x336_truth.mp4")[:, :, 80:400]
    for number, (path, *_) in enumerate(ENTRIES):
        file, name = folder / path, Path(path).parent.name if "identities" in path else Path(path).stem.split("_")[0]
        if path.endswith(".avi"):
            write_clip(file, colored(face, name))
        else:
            write_still(file, colored(face[3 * number % 50][None], name)[0])
    keys = ("path", "split", "kind", "source", "licence_class", "identity")
    index = [dict(zip(keys, entry, strict=True)) | {"licence": "CC0", "bytes": 1} for entry in ENTRIES]
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def found(folder: Path, cache: Path) -> list[Sample]:
    return samples(folder, HELD, cache)


def test_the_people_held_out_are_those_of_the_training(folder: Path, cache: Path) -> None:
    people = find_people(find_training_files(folder, HELD.licence_classes, True), PATTERN, cache, find_faces)
    for count in (1, 2, 3):
        held = [person.name for person in held_out(folder, replace(HELD, count=count), cache)]
        assert held == [person.name for person in split_people(people, count)[1]] and len(held) == count


def test_photographs_are_those_of_the_person_and_not_of_the_moment(found: list[Sample]) -> None:
    assert {sample.group for sample in found} <= {DAYS, PICTURES, SHOT, CLIP} and {DAYS, CLIP} < {
        s.group for s in found
    }
    for sample in found:
        assert sample.own and all(each.person is sample.person for each in sample.own)
        assert sample.strangers and all(each.person.name != sample.person.name for each in sample.strangers)
        target = sample.person.items[sample.file]
        for each in sample.own:
            if sample.group == CLIP:
                assert each.item == sample.file and each.frame >= FRAMES + AWAY
            else:
                assert each.item != sample.file
                assert (sample.person.items[each.item].source == target.source) == (sample.group == SHOT)
    assert {len(sample.own) for sample in found if sample.person.name == "anna"} == {3}
    assert len({sample.name for sample in found}) == len(found)


def test_a_sample_shows_the_face_at_its_side_in_its_box(found: list[Sample], cache: Path) -> None:
    for sample in (found[0], next(each for each in found if each.group == CLIP)):
        clip = shown(sample, cache)
        assert clip is not None and len(clip.truth) == len(clip.boxes) == FRAMES
        sides = np.sqrt(np.prod(clip.boxes[:, 2:], axis=1)) / 4
        np.testing.assert_allclose(sides, sample.side, rtol=0.1)
        seen = find_faces((255 * clip.truth[3]).byte().permute(1, 2, 0).numpy())
        assert np.abs(seen.boxes[0] - clip.boxes[3]).max() < 0.15 * 4 * sample.side


def test_photographs_change_what_is_restored_and_a_resumed_run_measures_nothing(
    found: list[Sample], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = [next(each for each in found if each.group == group) for group in (DAYS, CLIP)]
    network, file = secnet(BRANCH, strength=0.5), tmp_path / "figures.json"
    first = list(measure(some, network, "toy", cache, Ledger(file, resume=False)))
    kept: dict[str, Figures] = json.loads(file.read_text())
    assert len(kept) == 4 and {each["is_tracked"] for each in kept.values()} == {1.0}
    for figures in kept.values():
        values = [figures[f"{name} psnr"] for name in (NONE, ONE, THREE, STRANGER)]
        assert len(set(values)) == 4
        assert {name for name in figures if name.startswith(f"{BOTH} weight")} == {
            f"{BOTH} weight 1",
            f"{BOTH} weight 2",
        }
        weights = [figures[f"{THREE} weight {k}"] for k in (1, 2, 3)]
        assert all(weight is not None and 0 < weight < 1 for weight in weights)
    monkeypatch.setattr(reference_restoration, "measured", None)
    again = list(measure(some, network, "toy", cache, Ledger(file, resume=True)))
    assert [each.row() for each in again] == [each.row() for each in first]
    with pytest.raises(TypeError):  # other weights are measured
        list(measure(some, network, "other", cache, Ledger(file, resume=True)))


def test_a_branch_without_gain_gains_and_costs_nothing(found: list[Sample], cache: Path) -> None:
    figures = list(measure(found[:1], secnet(BRANCH, strength=0.0), "toy", cache, Ledger(None, False)))
    barred = [figure for figure in figures if figure.bar and not figure.what.startswith("weight")]
    assert len(barred) == 14 and [figure.value for figure in barred] == [0.0] * 14
    assert [figure.is_met for figure in barred] == [False, False, False, False, True, True, True] * 2


def made_up(group: str, values: dict[str, float], name: str = "anna") -> tuple[Sample, Figures]:
    person = Person(name, (), ())
    figures: Figures = {f"{kind} {what}": 0.5 for kind in (NONE, ONE) for what in ("psnr", "ssim_vt", "flicker")}
    figures |= {f"{STRANGER} psnr": 0.5, f"{BOTH} weight 1": 0.6, f"{BOTH} weight 2": 0.2, f"{ONE} weight 1": 0.7}
    return Sample(f"{group} {name}", group, 0, person, 0, 24.0, (), ()), figures | dict(values)


def test_targets_are_met_where_they_are_met() -> None:
    """Gains count for all kinds of photographs, by person, and for other days and other pictures; the rest for all."""
    rows = [
        made_up(DAYS, {"none psnr": 30, "one psnr": 30.4, "three psnr": 30.3, "stranger psnr": 29.9,
                       "three flicker": 0.4, "three ssim_vt": 0.4}),
        made_up(PICTURES, {"none psnr": 28, "one psnr": 28.2, "stranger psnr": 28.04, "one flicker": 0.5}, "bert"),
        made_up(CLIP, {"none psnr": 25, "one psnr": 35, "three psnr": 35, "stranger psnr": 25}, "cleo"),
        made_up(CLIP, {"none psnr": 25, "one psnr": 35.2, "stranger psnr": 25}, "cleo"),
    ]  # fmt: skip
    figures = {(each.what, each.on.split(":")[0]): each for each in figures_of(rows, "clean", 2)}
    by_bar = [figure for figure in figures.values() if figure.bar]
    assert [figure.value for figure in by_bar] == pytest.approx(
        [(0.4 + 0.2 + 10.1) / 3, 0.3, (0.3 + 10) / 2, 0.3, 0.015, 3.0, -0.025, -0.02], abs=1e-6
    )
    assert [figure.is_met for figure in by_bar] == [True, True, True, False, True, True, False, True]
    assert by_bar[0].on.endswith("4 samples of 3 people") and "+5.20 over samples; more in 4" in by_bar[0].text
    assert by_bar[1].on.endswith("2 samples of 2 people") and "more in 2" in by_bar[1].text
    assert figures[by_bar[0].what, f"clean, {CLIP}"].value == pytest.approx(10.1)
    assert figures[by_bar[0].what, f"clean, {CLIP}"].is_met is None
    control = figures[WHAT_CONTROL, "clean"]
    assert (
        control.value == pytest.approx((0.4 + 0.16 + 10 + 10.2) / 4)
        and control.is_met is None
        and "more in 4" in control.text
    )
    assert figures["samples whose face is not tracked", "clean"].text == "2 of 6"
    nothing = list(figures_of([], "clean", 0))
    assert all(np.isnan(each.value) and each.is_met is None for each in nothing)


def test_without_weights_the_rows_say_so_and_the_cost_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(reference_cost, "ROUNDS", 1)
    recipe = replace(references.shipped_recipe(), network=BRANCH)
    monkeypatch.setattr(references, "shipped_recipe", lambda: recipe)
    arguments = [
        "references",
        "--data",
        str(tmp_path),
        "--model",
        str(tmp_path / "none.toml"),
        "--face-embedding",
        "off",
    ]
    monkeypatch.setattr("sys.argv", [*arguments, "--markdown", str(tmp_path / "table.md")])
    references.main()
    text = capsys.readouterr().out
    assert text == (tmp_path / "table.md").read_text() and "24.35 (+0.51)" in text
    rows = text.splitlines()
    assert sum("not measured: " in row and "none.toml" in row for row in rows) == len(list(missing(""))) == 16
    assert sum("not measured: there is no face embedding" in row for row in rows) == 2
    assert sum("added by 3 photographs" in row and "not measured" not in row for row in rows) == 2
    assert not any(row.endswith("| met |") for row in rows if "not measured" in row)


def test_persons_are_measured_with_the_embedding_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, ...]] = []

    def measured(*given: object) -> list[Figure]:
        seen.append(given)
        return [Figure("persons", "halves", 1.0, "1")]

    monkeypatch.setattr(persons, "measure", measured)
    write_sface(tmp_path / "sface.onnx")
    figures = list(references.person_figures(tmp_path, str(tmp_path / "sface.onnx"), None))
    assert [each.what for each in figures] == ["persons"] and seen[0][0] == tmp_path and seen[0][2] is None
    assert isinstance(seen[0][1], SFace)


def test_three_photographs_cost_what_their_convolutions_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_cost, "ROUNDS", 1)
    network = secnet(BRANCH, strength=0.5)
    time, work = reference_cost.measure(network)
    assert work.value > 0 and np.isfinite(time.value)
    frames, images = reference_cost.clip(), reference_cost.images()
    one, three = (reference_cost.run(network, frames, images[:count])[1] for count in (1, 3))
    assert three > one > reference_cost.run(network, frames, ())[1] > 0


def checkpoint(path: Path, network: SECNet) -> Path:
    """A checkpoint of a training with these weights."""
    recipe = asdict(references.shipped_recipe())
    recipe["network"] = {name: getattr(network.config, name) for name in BRANCH}
    recipe["references"] = recipe["references"] | {"person_pattern": PATTERN, "holdout_people": 2}
    torch.save({"recipe": recipe, "average": network.state_dict()}, path)
    return path


def test_a_checkpoint_says_who_was_held_out(tmp_path: Path) -> None:
    branch = load_branch(str(checkpoint(tmp_path / "last.pt", secnet(BRANCH, strength=0.5))))
    assert branch.held == HELD and branch.network.references is not None
    recipe = load_recipe(ROOT / "models" / "recipes" / "secnet-fast-face-references.toml")
    assert references.shipped_recipe() == recipe
    with pytest.raises(ModelError, match="no branch of references"):
        load_branch("secnet-fast-face")


def test_the_sheet_shows_people_of_an_open_licence_and_names_their_files(
    folder: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = [person.name for person in held_out(folder, replace(HELD, count=3), cache) if person.name != "rosa"][:2]
    monkeypatch.setattr(reference_sheet, "load_branch", lambda _: references.Branch(
        secnet(BRANCH, strength=0.5), "toy", replace(HELD, count=4)))  # fmt: skip
    arguments = ["sheet", "--data", str(folder), "--output", str(tmp_path / "sheet.png"), "--cache", str(cache)]
    monkeypatch.setattr(
        "sys.argv", [*arguments, "--side", "16", "--people", *held, "--sequences", str(tmp_path / "ten")]
    )
    reference_sheet.main()
    image = cv2.imread(str(tmp_path / "sheet.png"))
    assert image is not None and image.shape[1] % 5 == 0
    assert sorted(path.name for path in (tmp_path / "ten").iterdir()) == ["cleo.png", "dora.png"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * len(held) + 2 and all(line.endswith("CC0") for line in lines)
    assert not any("anna" in line or "rosa" in line for line in lines)
    monkeypatch.setattr("sys.argv", [*arguments, "--people", "anna"])
    with pytest.raises(SystemExit):
        reference_sheet.main()
    assert "nobody of licence class A is called anna" in capsys.readouterr().err


def test_the_shown_part_of_a_photograph_has_the_face_in_its_middle(found: list[Sample], cache: Path) -> None:
    given = photograph(found[0].own[0], cache)
    image: Tensor = reference_sheet.cropped(given, 96)
    seen = find_faces(image.permute(1, 2, 0).numpy())
    assert len(seen) == 1
    pose = similarity_between(given.points, seen.landmarks[0])
    assert np.abs(transformed(pose, given.points) - seen.landmarks[0]).max() < 6
    assert np.abs(seen.landmarks[0].mean(0) - 48).max() < 8
