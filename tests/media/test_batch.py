"""Batches: which videos of a folder are processed, and the names of their outputs."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidsr.errors import InputError, OutputError
from vidsr.files import VIDEO_SUFFIXES
from vidsr.pipeline.batch import pair_videos, result_folder

pytestmark = pytest.mark.leaves_hidden_files  # the fixture puts a hidden video into the folder


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    """A folder with videos, other files, a hidden video, and subfolders with videos."""
    folder = tmp_path / "videos"
    for name in ["b.mp4", "a.MKV", "notes.txt", ".hidden.mp4", "inner/c.mov", "inner/deep/d.webm", "inner/e.jpg"]:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "folder.mp4").mkdir()
    return folder


def pairs(source: Path, target: Path, recursive: bool = False, suffix: str = "") -> list[tuple[str, str]]:
    return [
        (str(video.relative_to(source)), str(result.relative_to(target)))
        for video, result in pair_videos(source, target, recursive, suffix)
    ]


def test_only_videos_directly_in_the_folder_are_processed(videos: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert pairs(videos, target) == [("a.MKV", "a.MKV"), ("b.mp4", "b.mp4")]
    assert not target.exists()


def test_recursive_keeps_the_folders(videos: Path, tmp_path: Path) -> None:
    names = ["a.MKV", "b.mp4", "inner/c.mov", "inner/deep/d.webm"]
    assert pairs(videos, tmp_path / "out", recursive=True) == [(name, name) for name in names]


def test_suffix_goes_before_the_extension(videos: Path, tmp_path: Path) -> None:
    assert pairs(videos, tmp_path / "out", suffix="_x4") == [("a.MKV", "a_x4.MKV"), ("b.mp4", "b_x4.mp4")]
    (videos / "two.parts.mp4").touch()
    assert ("two.parts.mp4", "two.parts_x4.mp4") in pairs(videos, tmp_path / "out", suffix="_x4")


def test_outputs_inside_the_folder_are_not_inputs(videos: Path) -> None:
    target = videos / "inner"
    assert pairs(videos, target, recursive=True) == [("a.MKV", "a.MKV"), ("b.mp4", "b.mp4")]


def test_the_folder_itself_may_be_the_output_folder(videos: Path) -> None:
    assert pairs(videos, videos, suffix="_x4") == [("a.MKV", "a_x4.MKV"), ("b.mp4", "b_x4.mp4")]


def test_formats_that_cannot_be_written_become_matroska(videos: Path, tmp_path: Path) -> None:
    (videos / "old.avi").touch()
    (videos / "moving.gif").touch()
    assert dict(pairs(videos, tmp_path / "out", suffix="_x4"))["old.avi"] == "old_x4.mkv"
    assert dict(pairs(videos, tmp_path / "out"))["moving.gif"] == "moving.mkv"


def test_two_videos_with_the_same_output_are_refused(videos: Path, tmp_path: Path) -> None:
    (videos / "b.avi").touch()
    (videos / "b.mkv").touch()
    with pytest.raises(OutputError, match=r"b\.avi.*b\.mkv|b\.mkv.*b\.avi"):
        pair_videos(videos, tmp_path / "out", False, "")


def test_a_folder_without_videos_is_an_input_error_that_tells_of_inner_ones(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "a.mp4").touch()
    with pytest.raises(InputError, match="--recursive"):
        pair_videos(source, tmp_path / "out", False, "")
    (source / "inner" / "a.mp4").unlink()
    with pytest.raises(InputError) as caught:
        pair_videos(source, tmp_path / "out", True, "")
    assert "--recursive" not in str(caught.value)


def test_a_file_as_target_is_an_output_error(videos: Path, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.touch()
    with pytest.raises(OutputError, match="is a file"):
        pair_videos(videos, target, False, "")


def test_known_endings_are_lower_case_with_a_dot() -> None:
    assert all(ending.startswith(".") and ending == ending.lower() for ending in VIDEO_SUFFIXES)


def test_a_result_folder_stays_only_if_something_is_in_it(tmp_path: Path) -> None:
    wanted = tmp_path / "new" / "inner"
    with pytest.raises(RuntimeError), result_folder(wanted):
        assert wanted.is_dir()
        raise RuntimeError
    assert not (tmp_path / "new").exists()
    with result_folder(wanted):
        (wanted / "video").touch()
    assert (wanted / "video").exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    with result_folder(empty):
        pass
    assert empty.is_dir()


def test_a_result_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot create the folder"), result_folder(tmp_path / "file" / "inner"):
        pass
