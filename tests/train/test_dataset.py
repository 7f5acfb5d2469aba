"""Selection of training files, held-out videos, decoding and its cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.tiny_training_data import ENTRIES, moving, noise, training_folder, write_clip, write_still
from vidsr.errors import InputError, OutputError
from vidsr.train import dataset
from vidsr.train.dataset import Item, Kind, cached_frames, find_training_files, read_clip, read_still, split_holdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return training_folder(tmp_path_factory.mktemp("data"))


def names(items: list[Item]) -> set[str]:
    return {item.path.name for item in items}


# ------------------------------------------------------------------------------------------------------ choosing


@pytest.mark.parametrize("classes", [("A", "B"), ("A",), ("B",), ("A", "B", "C")])
def test_only_training_files_of_the_license_classes_are_used(folder: Path, classes: tuple[str, ...]) -> None:
    items = find_training_files(folder, classes)
    expected = {Path(name).name for name, split, _, _, licence in ENTRIES if split == "train" and licence in classes}
    assert names(items) == expected
    assert {item.licence_class for item in items} <= set(classes)
    assert not any("eval" in item.path.parts or "reference" in item.path.parts for item in items)


def test_kinds_and_sources_come_from_the_index(folder: Path) -> None:
    by_name = {item.path.name: item for item in find_training_files(folder, ("A", "B"))}
    assert by_name["anna_1.avi"] == Item(folder / "train/faces/anna_1.avi", "faces", "films/anna", "A")
    assert {name: by_name[name].kind for name in ("road_0.avi", "tree.png", "eve.png")} == {
        "road_0.avi": "general",
        "tree.png": "still",
        "eve.png": "face_still",
    }


def test_the_order_does_not_depend_on_the_index(folder: Path, tmp_path: Path) -> None:
    items = find_training_files(folder, ("A", "B"))
    assert items == sorted(items, key=lambda item: item.path)
    copy = training_folder(tmp_path)
    entries = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps(entries[::-1]))
    assert [i.path.name for i in find_training_files(copy, ("A", "B"))] == [i.path.name for i in items]


def test_a_folder_without_index_gives_every_video_and_image(tmp_path: Path) -> None:
    write_clip(tmp_path / "deep" / "down" / "one.AVI", moving(2, 32, 32, 0))
    write_clip(tmp_path / "two.avi", moving(2, 32, 32, 1))
    write_still(tmp_path / "photo.png", noise(1, 32, 32, 2)[0])
    (tmp_path / "notes.txt").write_text("not a clip")
    (tmp_path / "a folder.mp4").mkdir()
    items = find_training_files(tmp_path, ("A",))
    assert [(item.path.name, item.kind) for item in items] == [
        ("one.AVI", "general"),
        ("photo.png", "still"),
        ("two.avi", "general"),
    ]
    assert len({item.source for item in items}) == 3


def test_folders_without_clips_are_refused(tmp_path: Path, folder: Path) -> None:
    write_still(tmp_path / "photo.png", noise(1, 32, 32, 2)[0])
    for place, classes in ((tmp_path, ("A",)), (tmp_path / "missing", ("A",)), (folder, ("Z",))):
        with pytest.raises(InputError, match="no training clip found below"):
            find_training_files(place, classes)


@pytest.mark.parametrize("content", ["{", '[{"path": "a.mp4"}]', "[3]", "3", "\xff"])
def test_a_damaged_index_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "index.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"cannot use the index .*index\.json"):
        find_training_files(tmp_path, ("A",))


def test_files_in_the_index_must_exist(tmp_path: Path) -> None:
    folder = training_folder(tmp_path)
    (folder / "eval/faces/finn_0.avi").unlink()  # not a training file, so not required
    (folder / "train/general/hill_0.avi").unlink()
    assert find_training_files(folder, ("A", "B"))
    (folder / "train/general/sea_0.avi").unlink()
    with pytest.raises(InputError, match=r"names 1 missing files, first .*sea_0\.avi"):
        find_training_files(folder, ("A", "B"))


# ----------------------------------------------------------------------------------------------------- holding out


@pytest.mark.parametrize("count", [0, 2, 4, 6, 20])
def test_videos_held_out_are_never_trained_on(folder: Path, count: int) -> None:
    items = find_training_files(folder, ("A", "B"))
    rest, held = split_holdout(items, count)
    assert not {item.source for item in held} & {item.source for item in rest}
    faces = [item for item in held if item.kind == "faces"]
    general = [item for item in held if item.kind == "general"]
    assert len(faces) == min(count // 2, 3) and len(general) == min(count // 2, 3)  # three videos of each kind
    assert len(faces) + len(general) == len(held) and not any("still" in item.kind for item in held)
    for group in (faces, general):
        assert len({item.source for item in group}) == len(group)
    lost = [item for item in items if item not in rest]
    assert all(item.source in {h.source for h in held} for item in lost)
    assert split_holdout(items, count) == (rest, held)


@pytest.mark.parametrize("kind", ["faces", "general"])
@pytest.mark.parametrize("count", [1, 2, 20])
def test_only_clips_of_the_validated_kinds_are_held_out(folder: Path, kind: Kind, count: int) -> None:
    items = find_training_files(folder, ("A", "B"))
    rest, held = split_holdout(items, count, [kind])
    assert [item.kind for item in held] == [kind] * min(count, 3)
    assert not {item.source for item in held} & {item.source for item in rest}  # films/dora has clips of both kinds
    assert {item.source for item in items} == {item.source for item in (*held, *rest)}


def test_the_held_out_videos_do_not_depend_on_the_others(folder: Path) -> None:
    items = find_training_files(folder, ("A", "B"))
    rest, held = split_holdout(items, 2)
    for gone in rest:
        assert split_holdout([item for item in items if item.source != gone.source], 2)[1] == held


# ------------------------------------------------------------------------------------------------------- decoding


def test_clips_and_stills_are_rgb(tmp_path: Path) -> None:
    frames = moving(5, 32, 48, 3)
    frames[..., 0] = 220
    frames[..., 2] = 30
    decoded = read_clip(write_clip(tmp_path / "red.avi", frames))
    assert decoded.shape == (5, 32, 48, 3) and decoded.dtype == np.uint8
    assert np.abs(decoded[..., 0].astype(int) - 220).mean() < 25 and decoded[..., 2].mean() < 60
    image = noise(1, 7, 9, 4)[0]
    assert np.array_equal(read_still(write_still(tmp_path / "still.png", image)), image)


def test_frames_come_in_order(tmp_path: Path) -> None:
    frames = np.stack([np.full((16, 16, 3), 20 * t, np.uint8) for t in range(12)])
    levels = read_clip(write_clip(tmp_path / "steps.avi", frames)).mean((1, 2, 3))
    assert np.abs(levels - 20 * np.arange(12)).max() < 3


def test_unreadable_files_are_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "text.avi").write_text("not a video")
    with pytest.raises(InputError, match=r"text\.avi is a text, not a video"):
        read_clip(tmp_path / "text.avi")
    (tmp_path / "text.png").write_text("not an image")
    with pytest.raises(InputError, match=r"cannot read the training image .*text\.png"):
        read_still(tmp_path / "text.png")


def test_a_clip_too_long_for_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(tmp_path / "long.avi", moving(6, 32, 32, 0))
    monkeypatch.setattr(dataset, "MAX_CLIP_BYTES", 6 * 32 * 32 * 3)
    assert len(read_clip(path)) == 6
    monkeypatch.setattr(dataset, "MAX_CLIP_BYTES", 6 * 32 * 32 * 3 - 1)
    with pytest.raises(InputError, match=r"long\.avi is too long: cut it into pieces of at most 5 frames"):
        read_clip(path)


def test_a_file_is_decoded_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip, still = (
        next(i for i in find_training_files(folder, ("A",)) if i.kind == kind) for kind in ("general", "still")
    )
    first = cached_frames(clip, tmp_path)
    assert np.array_equal(first, read_clip(clip.path))
    assert cached_frames(still, tmp_path).shape == (1, 64, 80, 3)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".npy", ".npy"]
    monkeypatch.delattr(dataset, "read_clip")
    assert np.array_equal(cached_frames(clip, tmp_path), first)
    face = next(item for item in find_training_files(folder, ("B",)) if item.kind == "face_still")
    assert np.array_equal(cached_frames(face, tmp_path)[0], read_still(face.path))
    with pytest.raises(ValueError, match="read-only"):
        cached_frames(clip, tmp_path)[0, 0, 0, 0] = 1


def test_a_changed_file_is_decoded_again(tmp_path: Path) -> None:
    item = Item(write_still(tmp_path / "a.png", noise(1, 8, 8, 0)[0]), "still", "a", "user")
    before = np.array(cached_frames(item, tmp_path / "frames"))
    write_still(item.path, noise(1, 8, 8, 1)[0])
    os.utime(item.path, ns=(1, 1))
    assert not np.array_equal(cached_frames(item, tmp_path / "frames"), before)


def test_a_cache_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    item = Item(write_still(tmp_path / "a.png", noise(1, 8, 8, 0)[0]), "still", "a", "user")
    (tmp_path / "frames").write_text("a file where the folder should be")
    with pytest.raises(OutputError, match=r"cannot store decoded frames in .*frames"):
        cached_frames(item, tmp_path / "frames")


def test_a_failed_write_leaves_nothing_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = Item(write_still(tmp_path / "a.png", noise(1, 8, 8, 0)[0]), "still", "a", "user")

    def fill_disk(path: Path, _: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fill_disk)
    with pytest.raises(OutputError, match="the disk is full"):
        cached_frames(item, tmp_path / "frames")
    assert list((tmp_path / "frames").iterdir()) == []
