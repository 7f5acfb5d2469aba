"""The table of an evaluation, PSNR by frame number, and its plot."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from vidsr.errors import OutputError, UsageError
from vidsr.evaluation import presentation as present
from vidsr.evaluation.evaluate import Evaluation, score_clip, summarize


def evaluation_of(*clips: tuple[str, int], temporal: bool = False) -> Evaluation:
    """An evaluation of clips with these names and lengths, each of moving noise with additional noise."""
    noise = torch.Generator().manual_seed(0)
    scores = []
    for name, frames in clips:
        truth = torch.randint(20, 230, (frames, 3, 14, 18), generator=noise, dtype=torch.uint8)
        worse = truth + torch.randint(0, 20, truth.shape, generator=noise, dtype=torch.uint8)
        scores.append(score_clip(name, truth, worse, temporal=temporal))
    return summarize(scores)


def test_psnr_by_frame_number_is_the_mean_of_the_clips_that_reach_it() -> None:
    evaluation = evaluation_of(("a", 5), ("b", 2), ("c", 3))
    curves = [clip.frame_psnr for clip in evaluation.clips]
    lumas = [clip.frame_psnr_y for clip in evaluation.clips]
    assert [mean.clips for mean in evaluation.psnr_by_frame] == [3, 3, 2, 1, 1]
    for index, mean in enumerate(evaluation.psnr_by_frame):
        assert mean.psnr == pytest.approx(np.mean([curve[index] for curve in curves if len(curve) > index]))
        assert mean.psnr_y == pytest.approx(np.mean([curve[index] for curve in lumas if len(curve) > index]))


def test_table_shows_what_could_not_be_measured() -> None:
    plain = present.table(evaluation_of(("a", 6))).splitlines()
    assert "warp" not in plain[0]
    lines = present.table(evaluation_of(("one", 1), ("more", 6), temporal=True)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[-4:] == ["warp", "warp", "ref", "flicker"]
    assert lines[1].endswith("no match  no match  nothing still")
    marked = present.table(evaluation_of(("one", 1), temporal=True), markdown=True).splitlines()
    assert {line.count("|") for line in marked} == {12}


def test_plot_is_a_complete_png_of_the_documented_size(tmp_path: Path) -> None:
    target = tmp_path / "p.png"
    for clips in ([("a", 1)], [("a", 9), ("b", 4)], [(f"clip {index}", 3 + index) for index in range(12)]):
        target.unlink(missing_ok=True)
        present.write_plot(evaluation_of(*clips), target, False)
        image = cv2.imread(str(target))
        assert image is not None and image.shape == (present.PLOT_SIZE[1], present.PLOT_SIZE[0], 3)
        assert len(np.unique(image.reshape(-1, 3), axis=0)) > 20
        assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.parametrize("name", ["$a$b", "_hidden", "日本 é", "two\nlines", "\udcff", "x" * 300, "{\\frac", ""])
def test_any_clip_name_can_be_drawn(tmp_path: Path, name: str) -> None:
    present.write_plot(evaluation_of((name, 2), ("b", 3)), tmp_path / "p.png", False)
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_plot_shows_each_clip_thin_and_the_mean_bold() -> None:
    evaluation = evaluation_of(("a", 5), ("b", 3))
    figure = Figure()
    axes = figure.add_subplot()
    present._draw_curves(figure, axes, evaluation)
    first, second, whole, rest = axes.get_lines()
    for line, clip in zip((first, second), evaluation.clips, strict=True):
        assert list(line.get_xdata()) == list(range(1, clip.frames + 1))
        assert list(line.get_ydata()) == list(clip.frame_psnr)
        assert line.get_linewidth() < whole.get_linewidth()
    means = [mean.psnr for mean in evaluation.psnr_by_frame]
    assert (list(whole.get_xdata()), list(whole.get_ydata())) == ([1, 2, 3], means[:3])
    assert (list(rest.get_xdata()), list(rest.get_ydata())) == ([3, 4, 5], means[2:])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "mean", "mean of the longer clips"]


def test_many_clips_share_one_line_of_the_legend() -> None:
    figure = Figure()
    present._draw_curves(figure, figure.add_subplot(), evaluation_of(*((str(index), 2) for index in range(9))))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["each of 9 clips", "mean"]


def test_plot_replaces_files_only_on_request(tmp_path: Path) -> None:
    target, evaluation = tmp_path / "p.png", evaluation_of(("a", 2))
    target.write_bytes(b"precious")
    with pytest.raises(OutputError, match="already exists"):
        present.check_plot(target, [tmp_path / "a.mp4"], False)
    with pytest.raises(OutputError, match="has appeared since"):  # while the videos were compared
        present.write_plot(evaluation, target, False)
    assert target.read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
    present.write_plot(evaluation, present.check_plot(target, [tmp_path / "a.mp4"], True), True)
    assert cv2.imread(str(target)) is not None


def test_invalid_plot_options_are_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = tmp_path / "film.png"
    video.touch()
    with pytest.raises(UsageError, match=r"ends in \.png"):
        present.check_plot(tmp_path / "p.svg", [video], False)
    with pytest.raises(UsageError, match="name of one of the videos"):
        present.check_plot(video, [tmp_path / "a.mp4", video], True)
    with pytest.raises(OutputError, match="does not exist"):
        present.check_plot(tmp_path / "none" / "p.png", [video], False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match="needs matplotlib: pip install"):
        present.check_plot(tmp_path / "p.png", [video], False)


def test_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="cannot be written"):
        present.write_plot(evaluation_of(("a", 2)), tmp_path / "p.png", False)
    assert list(tmp_path.iterdir()) == []
