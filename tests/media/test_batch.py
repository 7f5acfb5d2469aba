"""Batches: which videos of folders and lists are processed, in which shard, and the names of their outputs."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vidsr.pipeline.batch_progress
from tests.support import media
from vidsr.config import InputConfig, SizeConfig, SlowmoConfig, UpscaleConfig
from vidsr.errors import InputError, OutputError, UsageError
from vidsr.files import VIDEO_SUFFIXES
from vidsr.pipeline.batch import Outcome, Shard, default_suffix, find_jobs, pair_videos, read_list, result_folder
from vidsr.pipeline.batch_progress import BatchProgress
from vidsr.pipeline.run import Progress
from vidsr.types import RunReport
from vidsr.video.header import HeaderLength, header_length

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


# ------------------------------------------------------------------------------------- several inputs, lists, no OUTPUT


def outputs(source: Path | list[Path], target: Path | None, **options: object) -> list[str]:
    return [str(result) for _, result in find_jobs(source, target, beside="_x4", **options).pairs]  # type: ignore[arg-type]


def test_without_an_output_the_result_lies_beside_its_input_under_another_name(videos: Path) -> None:
    assert outputs(videos / "b.mp4", None) == [str(videos / "b_x4.mp4")]
    assert outputs(videos / "b.mp4", None, suffix="_big") == [str(videos / "b_big.mp4")]
    assert outputs(videos, None, recursive=True) == [
        str(videos / name) for name in ("a_x4.MKV", "b_x4.mp4", "inner/c_x4.mov", "inner/deep/d_x4.webm")
    ]
    jobs = find_jobs([videos / "b.mp4", videos / "inner/old.avi"], None, beside="_x4")
    assert [result.name for _, result in jobs.pairs] == ["b_x4.mp4", "old_x4.mkv"]
    assert jobs.is_batch and not find_jobs(videos / "b.mp4", None, beside="_x4").is_batch


def test_the_name_beside_the_input_tells_what_was_done() -> None:
    assert default_suffix(UpscaleConfig()) == "_x4"
    assert default_suffix(UpscaleConfig(size=SizeConfig(scale=2.5))) == "_x2.5"
    assert default_suffix(UpscaleConfig(size=SizeConfig(scale=1))) == "_x1"
    assert default_suffix(UpscaleConfig(size=SizeConfig(size=(640, 480)))) == "_640x480"
    assert default_suffix(SlowmoConfig(interp=4)) == "_slow4"
    assert default_suffix(SlowmoConfig(keep_duration=True)) == "_smooth2"
    assert default_suffix(SlowmoConfig(size=SizeConfig(height=720))) == "_slow2_720p"


def test_several_files_and_folders_become_one_folder(videos: Path, tmp_path: Path) -> None:
    given = [videos / "b.mp4", videos / "inner", videos / "b.mp4"]  # one of them twice
    out = tmp_path / "out"
    assert outputs(given, out, recursive=True) == [str(out / name) for name in ("b.mp4", "c.mov", "deep/d.webm")]
    with pytest.raises(OutputError, match="both become"):
        find_jobs([videos / "b.mp4", videos / "inner" / "b.mp4"], out)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="is a file"):
        find_jobs(given, tmp_path / "file")


def test_a_list_has_comments_and_paths_relative_to_itself(videos: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    listed.write_bytes(
        b"\xef\xbb\xbf# two videos\r\n\r\nvideos/b.mp4\r\n  # not this\n videos/ a.mp4 \n"
        + os.fsencode(videos / "inner/c.mov")
        + b"\n../up.mp4\nvideos/inner/\xff.mp4\n"
    )
    paths, base = read_list(listed)
    names = ["videos/b.mp4", " videos/ a.mp4 ", "videos/inner/c.mov", "../up.mp4", "videos/inner/\udcff.mp4"]
    assert (paths, base) == ([tmp_path / name for name in names], tmp_path)
    paths.pop(1)
    kept = ["videos/b.mp4", "videos/inner/c.mov", "up.mp4", "videos/inner/\udcff.mp4"]
    assert outputs(paths, tmp_path / "out", base=base) == [str(tmp_path / "out" / name) for name in kept]


def test_a_list_that_names_nothing_or_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").write_text("# nothing\n\n")
    for name, words in (("empty", "names no video"), ("missing", "cannot be read")):
        with pytest.raises(InputError, match=words):
            read_list(tmp_path / name)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"a b.mp4\n")))
    assert read_list(Path("-")) == ([Path("a b.mp4")], Path())


# -------------------------------------------------------------------------------------------------------------- shards


@given(names=st.sets(st.text("abc0 _", min_size=1, max_size=4), max_size=40), count=st.integers(1, 12))
def test_shards_partition_the_list_evenly_whatever_its_order(names: set[str], count: int) -> None:
    pairs = [(Path(name), Path("out") / name) for name in names]
    shards = [Shard(index, count).of(pairs) for index in range(1, count + 1)]
    assert sorted(pair for shard in shards for pair in shard) == sorted(pairs)
    sizes = [len(shard) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert [Shard(index, count).of(reversed(pairs)) for index in range(1, count + 1)] == shards


def test_the_shards_of_a_folder_write_different_outputs(videos: Path, tmp_path: Path) -> None:
    (videos / "b.mkv").touch()
    out = tmp_path / "out"
    parts = [outputs(videos, out, recursive=True, shard=Shard(index, 3)) for index in (1, 2, 3)]
    assert parts == [
        [str(out / name) for name in names]
        for names in (["a.MKV", "inner/c.mov"], ["b.mkv", "inner/deep/d.webm"], ["b.mp4"])
    ]
    assert find_jobs(videos, out, shard=Shard(9, 9)).pairs == ()
    (videos / "b.avi").touch()  # becomes b.mkv, in another shard than b.mkv
    with pytest.raises(OutputError, match="both become"):
        find_jobs(videos, out, shard=Shard(1, 3))


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/0", "-1/2", "1/2/3", "a/b", "1/²", "", "1/9999999"])
def test_what_is_no_shard(text: str) -> None:
    with pytest.raises(UsageError, match="I/N"):
        Shard.parse(text)


def test_a_shard() -> None:
    assert Shard.parse("2/8") == Shard(2, 8)


# ------------------------------------------------------------------------------------------------------------ progress


def report_of(frames: int) -> RunReport:
    return RunReport("", "", "none", None, "cpu", "fp32", frames_out=frames)


def test_the_time_left_follows_frames_and_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four files of 100 frames, the second one four times as large, the last one of unknown length."""
    lengths = {"a": 1000, "b": 4000, "c": 1000}
    known = {Path(name): HeaderLength(100, None, pixels) for name, pixels in lengths.items()}
    monkeypatch.setattr(vidsr.pipeline.batch_progress, "header_length", known.get)
    now = 50.0
    batch = BatchProgress([(Path(name), Path(name)) for name in "abcde"], UpscaleConfig(), lambda: now)
    assert (batch.totals.frames_expected, batch.totals.seconds_left) == (500, None)
    batch.ended(Outcome(Path("e"), Path("e"), skipped="it exists"))
    batch.progressed(Path("a"), Progress(10, 100, 0))
    assert batch.totals.seconds_left is None  # nothing is known of the speed yet
    now = 60.0
    batch.progressed(Path("a"), Progress(60, 100, 10))  # 5 frames of 1000 pixels in a second
    totals = batch.totals
    assert (totals.files, totals.skipped, totals.frames_done, totals.frames_expected) == (5, 1, 60, 400)
    assert totals.seconds_left == pytest.approx((40 + 400 + 100 + 200) / 5)  # the last one as large as the mean
    batch.ended(Outcome(Path("a"), Path("a"), report_of(90)))
    batch.ended(Outcome(Path("b"), Path("b"), error=InputError("bad")))
    totals = batch.totals
    assert (totals.done, totals.failed, totals.frames_done) == (1, 1, 90)
    mean = (90 + 100 + 100) / 3
    assert totals.seconds_left == pytest.approx((100 + 2 * mean) * 10 / 80)


def test_a_header_tells_frames_without_decoding(tmp_path: Path) -> None:
    video = media.clip(tmp_path / "a.mp4", 5)
    assert header_length(video) == HeaderLength(5, 25, media.WIDTH * media.HEIGHT)
    (tmp_path / "b.mp4").write_text("no video")
    assert header_length(tmp_path / "b.mp4") is None
    assert header_length(tmp_path / "none.mp4") is None
    trimmed = SlowmoConfig(interp=4, input=InputConfig(start=None, end=None))
    assert BatchProgress([(video, video)], trimmed).totals.frames_expected == 17
