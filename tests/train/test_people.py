"""Samples with reference photographs: who is who, from which moment references come, and where the faces lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.tiny_training_data import Pixels, tiny_recipe, write_clip, write_still
from vidsr.errors import InputError
from vidsr.faces.detections import Detections
from vidsr.train.data import Batch
from vidsr.train.dataset import Item, find_training_files
from vidsr.train.degrade import degrade_bi
from vidsr.train.people import Person, Reference, ReferenceBatches, find_people, split_people
from vidsr.train.recipe import DataConfig, DegradationConfig, RealConfig, Recipe, ReferencesConfig

BI = DegradationConfig(weight_blur=0, weight_area=0, noise_share=0, jpeg_share=0, h264_share=0)
DATA = DataConfig(crop=32, frames=1, batch=4, share_faces=0.5, share_face_stills=0.5, burn_in_share=0)
REFERENCES = ReferencesConfig(count=2, holdout_people=1, face_side=(16.0, 24.0), point_noise=0.0)
RECIPE = replace(tiny_recipe(DATA, BI), architecture="hime", network={}, references=REFERENCES)
# Eyes, nose and corners of the mouth, relative to the box.
POINTS = np.array([[0.3, 0.4], [0.7, 0.4], [0.5, 0.6], [0.35, 0.8], [0.65, 0.8]])
SKIN = {"anna": (250, 90, 20), "bert": (20, 250, 90), "cleo": (90, 20, 250), "dora": (250, 250, 20)}


def portrait(name: str, left: int, top: int, side: int, size: int = 64) -> Pixels:
    """A square face in a color that only this person has, on black, with a bright left half of the mouth."""
    image = np.zeros((size, size, 3), np.uint8)
    image[top : top + side, left : left + side] = SKIN[name]
    image[top + side * 3 // 4 : top + side, left : left + side // 2] = 255
    return image


def find(image: Pixels) -> Detections:
    """The face that `portrait` drew, also after lossy coding."""
    is_face = image.max(-1) > 128
    if not is_face.any():
        return Detections.none()
    rows, columns = np.flatnonzero(is_face.any(1)), np.flatnonzero(is_face.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]], np.float64)
    return Detections(box[None], (box[:2] + POINTS * box[2:])[None], np.ones(1))


def person_of(image: Any) -> str:
    """Whose color most of the face has."""
    pixels = np.asarray(image).reshape(-1, 3).astype(int)
    pixels = pixels[(pixels.max(1) > 128) & (pixels.min(1) < 128)]
    distances = {name: np.abs(pixels - color).sum(1).mean() for name, color in SKIN.items()}
    return min(distances, key=lambda name: distances[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Per person a folder: two photographs, for Anna also three clips; without an index."""
    folder = tmp_path_factory.mktemp("people")
    for name, side in zip(SKIN, (24, 28, 32, 36), strict=True):
        write_still(folder / name / "a.png", portrait(name, 20, 14, side))
        write_still(folder / name / "b.png", portrait(name, 8, 22, side + 4, size=72))
    for number in range(3):
        frames = np.stack([portrait("anna", 10 + t + number, 12, 30) for t in range(8)])
        write_clip(folder / "anna" / f"{number}.avi", frames)
    return folder


@pytest.fixture(scope="module")
def people(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Person]:
    cache = tmp_path_factory.mktemp("cache")
    return find_people(find_training_files(folder, (), of_people=True), "", cache, find)


def batches(people: list[Person], tmp_path: Path, recipe: Recipe = RECIPE, **changes: Any) -> ReferenceBatches:
    return ReferenceBatches(replace(recipe, references=replace(REFERENCES, **changes)), people, tmp_path, None)


def images_of(batch: Batch) -> list[tuple[Pixels, list[Pixels]]]:
    """Each sample's image and its references, H x W x 3 in 0..255."""
    assert batch.references is not None and batch.present is not None

    def shown(image: torch.Tensor) -> Pixels:
        return (image.permute(1, 2, 0) * 255).round().byte().numpy()

    return [
        (shown(truth[0]), [shown(image) for image in images[present]])
        for truth, images, present in zip(batch.truth, batch.references, batch.present, strict=True)
    ]


# ----------------------------------------------------------------------------------------------------------- who is who


def test_without_an_index_a_folder_is_a_person(people: list[Person]) -> None:
    assert [(person.name, len(person.items)) for person in people] == [
        ("anna", 5),
        ("bert", 2),
        ("cleo", 2),
        ("dora", 2),
    ]
    assert [item.path.name for item in people[0].items] == ["0.avi", "1.avi", "2.avi", "a.png", "b.png"]
    np.testing.assert_allclose(people[1].places[0][0, :4], [20, 14, 28, 28])


def item(name: str, kind: Any, source: str, identity: str = "") -> Item:
    return Item(Path(name), kind, source, "A", identity)


def test_pattern_then_index_then_source_name_a_person(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clip that was cut from the same video as a named still belongs to its person."""
    places = np.ones((1, 14))
    monkeypatch.setattr("vidsr.train.people.cached_places", lambda item, cache, find: places)
    items = [
        item("set/neutral_007_a.png", "face_still", "x"),
        item("set/smiling_007_b.png", "face_still", "y"),
        item("people/eve/0.png", "face_still", "film", "eve"),
        item("clips/film_0.avi", "faces", "film"),
        item("clips/other_0.avi", "faces", "other"),
        item("people/sign_yes/0.png", "face_still", "z", "sign_yes"),
        item("clips/sign_no.avi", "faces", "v"),
        item("general/road.avi", "general", "film"),
    ]
    found = find_people(items, r"_(\d+)_|/(sign)_", tmp_path, find)
    assert {person.name: sorted(each.path.name for each in person.items) for person in found} == {
        "007": ["neutral_007_a.png", "smiling_007_b.png"],
        "eve": ["0.png", "film_0.avi"],
        "other": ["other_0.avi"],
        "sign": ["0.png", "sign_no.avi"],
    }


def test_a_file_without_a_face_is_left_out_and_faces_are_found_once(folder: Path, tmp_path: Path) -> None:
    calls = []

    def blind_to_bert(image: Pixels) -> Detections:
        calls.append(1)
        return Detections.none() if person_of(image) == "bert" else find(image)

    items = find_training_files(folder, (), of_people=True)
    for _ in range(2):
        names = [person.name for person in find_people(items, "", tmp_path, blind_to_bert)]
        assert names == ["anna", "cleo", "dora"] and len(calls) == 3 * 8 + 8


def test_whole_people_are_held_out(people: list[Person]) -> None:
    train, held = split_people(people, 2)
    assert len(held) == 2 and {p.name for p in train} | {p.name for p in held} == set(SKIN)
    assert not {p.name for p in train} & {p.name for p in held}
    assert [p.name for p in split_people(people[::-1], 2)[1]] == [p.name for p in held]


# ------------------------------------------------------------------------------------------------------------- samples


def test_references_show_the_person_in_the_same_place(people: list[Person], tmp_path: Path) -> None:
    """The bright half of the mouth too: both are flipped, or neither. Lossy clips differ at edges."""
    made = batches(people, tmp_path, stranger_share=0.0, none_share=0.0)
    counts, flipped = set(), set()
    for index in range(8):
        batch = made[index]
        torch.testing.assert_close(batch.low[:, 0], degrade_bi(batch.truth[:, 0]), atol=0, rtol=0)
        for image, references in images_of(batch):
            counts.add(len(references))
            bright = np.flatnonzero((image.min(-1) > 200).any(0))
            flipped.add(bool(bright.mean() > np.flatnonzero((image.max(-1) > 128).any(0)).mean()))
            for reference in references:
                assert person_of(reference) == person_of(image)
                straight, mirrored = (np.abs(r.astype(int) - image).mean() for r in (reference, reference[:, ::-1]))
                assert straight < 12 and mirrored > 1.5 * straight
    assert counts == {1, 2} and flipped == {False, True}


def test_shares_of_strangers_and_of_none(people: list[Person], tmp_path: Path) -> None:
    def found(**changes: Any) -> list[tuple[str, list[str]]]:
        made = batches(people, tmp_path, **changes)
        images = [pair for index in range(10) for pair in images_of(made[index])]
        return [(person_of(image), [person_of(reference) for reference in references]) for image, references in images]

    assert all(references == [] for _, references in found(none_share=1.0, stranger_share=0.0))
    strangers = found(none_share=0.0, stranger_share=1.0)
    assert all(set(references) - {own} for own, references in strangers)
    assert any(own in references for own, references in strangers), "a stranger is sometimes beside the person"
    mixed = found(none_share=0.3, stranger_share=0.3)
    kinds = [bool(references) + bool(set(references) - {own}) for own, references in mixed]
    assert all(4 <= kinds.count(kind) <= 28 for kind in range(3))  # of 40; 12, 16 and 12 are expected


def test_strangers_are_marked(people: list[Person], tmp_path: Path) -> None:
    made, marks = batches(people, tmp_path, stranger_share=0.6, none_share=0.1), set()
    for index in range(6):
        batch = made[index]
        assert batch.strangers is not None
        for (image, references), strangers in zip(images_of(batch), batch.strangers.tolist(), strict=True):
            found = [person_of(reference) != person_of(image) for reference in references]
            assert strangers == [*found, *[False] * (2 - len(found))]
            marks.update(found)
    assert marks == {False, True}


def test_a_share_of_the_samples_is_its_own_reference(people: list[Person], tmp_path: Path) -> None:
    """Exactly, without noise; with it, moved."""
    shares = {"none_share": 0.0, "stranger_share": 0.0, "moment_share": 1.0}
    for noise, bounds in ((0.0, (0, 8)), (0.3, (8, 80))):
        batch = batches(people, tmp_path, moment_noise=noise, **shares)[1]
        assert batch.present is not None and batch.present.tolist() == [[True, False]] * 4
        apart = np.mean([np.abs(r[0].astype(int) - image).mean() for image, r in images_of(batch)])
        assert bounds[0] <= apart < bounds[1]


def test_noise_moves_references_but_not_the_sample(people: list[Person], tmp_path: Path) -> None:
    exact, noisy = (
        batches(people, tmp_path, point_noise=noise, stranger_share=0.0, none_share=0.0)[0] for noise in (0.0, 0.2)
    )
    assert exact.references is not None and noisy.references is not None
    assert torch.equal(exact.truth[0], noisy.truth[0]) and not torch.equal(exact.references[0], noisy.references[0])


def candidates(items: list[Item], file: int, frames: int = 8) -> dict[str, set[int]]:
    """The frames that may serve as references, by file, over many draws."""
    places = tuple(np.ones((frames if item.kind == "faces" else 1, 14)) for item in items)
    person = Person("p", tuple(items), places)
    made = ReferenceBatches(RECIPE, [person, Person("q", tuple(items[:1]), places[:1])], Path(), None)
    found: dict[str, set[int]] = {}
    for seed in range(60):
        for each in made._candidates(Reference(person, file, 0), np.random.default_rng(seed)):
            found.setdefault(items[each.item].path.name, set()).add(each.frame)
    return found


def test_references_never_come_from_the_same_moment() -> None:
    clips = [item(f"film_{number}.avi", "faces", "film") for number in range(4)]
    photo, frame = item("photo.png", "face_still", "photo"), item("frame.png", "face_still", "film")
    every = set(range(8))
    assert candidates([*clips, photo, frame], 0) == {
        "film_2.avi": every, "film_3.avi": every, "photo.png": {0}
    }  # fmt: skip
    assert candidates(clips[:2], 0) == {"film_1.avi": {4, 5, 6, 7}}
    assert candidates(clips[:2], 1) == {"film_0.avi": {0, 1, 2, 3}}
    assert candidates([*clips[:1], frame], 0) == {} and candidates([frame, photo], 0) == {"photo.png": {0}}
    assert candidates([*clips, frame], 4) == {}


def test_batches_are_independent_and_have_clips(people: list[Person], tmp_path: Path) -> None:
    recipe = replace(RECIPE, data=replace(DATA, frames=3, burn_in_share=1.0, burn_in_frames=2))
    one, other = (batches(people, tmp_path, recipe)[3] for _ in range(2))
    assert one.low.shape == (4, 5, 3, 8, 8) and one.truth.shape == (4, 3, 3, 32, 32) and one.burn_in == 2
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True) if isinstance(a, torch.Tensor))
    real = replace(RECIPE, real=RealConfig(encode_share=0.0, lead_frames=2))
    made = ReferenceBatches(real, people, tmp_path, None, lambda frames, *_: frames)
    assert made[0].low.shape == (4, 1, 3, 8, 8)


def test_validation_is_fixed_and_has_right_and_wrong_references(people: list[Person], tmp_path: Path) -> None:
    train, held = split_people(people, 3)
    made = ReferenceBatches(RECIPE, [*train, *people[:2]], tmp_path, None)
    first, again = made.validation(held), made.validation(held)
    assert len(first) == 3
    for person, one, other in zip(held, first, again, strict=True):
        assert torch.equal(one.truth, other.truth) and torch.equal(one.strangers, other.strangers)

        def names(images: torch.Tensor) -> set[str]:
            return {person_of((image.permute(1, 2, 0) * 255).numpy()) for image in images}

        assert names(one.truth) == names(one.references) == {person.name}
        assert person.name not in names(one.strangers) and len(one.strangers) == 2


def test_one_person_is_not_enough(people: list[Person], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="beside 1 held-out people, two more"):
        ReferenceBatches(RECIPE, people[:1], tmp_path, None)
    with pytest.raises(InputError, match="no clip or photograph of a person found below"):
        find_training_files(tmp_path, (), of_people=True)
