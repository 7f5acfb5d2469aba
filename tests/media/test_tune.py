"""`vidsr tune`: what it measures, which setting it chooses, the contact sheet, and the command that it prints."""

from __future__ import annotations

import re
import shlex
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.support import media
from vidsr.cli import app
from vidsr.comparison import tuning
from vidsr.comparison.tuning import Crop, candidates, middle, tune
from vidsr.config import ComputeConfig, InputConfig, SizeConfig, UpscaleConfig
from vidsr.errors import UsageError
from vidsr.pipeline.degradation import estimate_degradation
from vidsr.types import Color, DegradationLevels, VideoInfo
from vidsr.video.probe import Source

ROOT = Path(__file__).parents[2]

CLEAN, POOR = DegradationLevels(0.1, 0.0, 0.1), DegradationLevels(0.1, 0.9, 0.3)


def write_video(path: Path, frames: int = 8, size: tuple[int, int] = (48, 32)) -> Path:
    """A textured image that moves, 25 frames/s."""
    rng = np.random.default_rng(5)
    texture = cv2.resize(rng.integers(0, 256, (24, 40, 3), np.uint8), (size[0] + frames, size[1]))
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for index in range(frames):
            image = np.ascontiguousarray(texture[:, index : index + size[0]])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


def info(seconds: float | None, width: int = 640, height: int = 360, rotation: int = 0) -> VideoInfo:
    return VideoInfo(
        path="", container="", video_stream=0, codec="", width=width, height=height, pixel_format="yuv420p",
        bit_depth=8, time_base=Fraction(1, 25), color=Color(), header_duration_seconds=seconds,
        rotation_degrees=rotation,
    )  # fmt: skip


def test_the_part_is_the_middle() -> None:
    assert middle(info(10.0), Fraction(2)) == InputConfig(start=Fraction(4), end=Fraction(6))
    assert middle(info(1.0), Fraction(2)) == InputConfig(end=Fraction(2))
    assert middle(info(None), Fraction(2)) == InputConfig(end=Fraction(2))


def test_the_settings_to_try() -> None:
    plain, clean, degraded, stronger = candidates(DegradationLevels(0.9, 0.25, 0.5), UpscaleConfig())
    assert [each.config.compute.model for each in (plain, clean)] == ["bicubic", "secnet-fast"]
    assert degraded.config.cleaning.levels == (None, None, None)
    assert stronger.config.cleaning.levels == (1.0, 0.55, None)  # higher than measured by 0.3, and at most 1
    assert stronger.options[2:] == ("--deblur", "1", "--denoise", "0.55")
    assert degraded.config.compute.model == stronger.config.compute.model == "secnet-fast-real"


@pytest.mark.parametrize(
    ("video", "size", "options"),
    [
        (info(1.0, 640, 360), SizeConfig(), ()),
        (info(1.0, 960, 540), SizeConfig(), ()),  # 2160 lines
        (info(1.0, 1280, 720), SizeConfig(), ("--height", "2160")),
        (info(1.0, 1280, 720, 90), SizeConfig(), ("--height", "2160")),
        (info(1.0, 360, 640, 90), SizeConfig(), ()),  # 360 lines as displayed
        (info(1.0, 3840, 2160), SizeConfig(), ("--scale", "1")),
        (info(1.0, 1280, 720), SizeConfig(scale=2.5), ("--scale", "2.5")),
        (info(1.0, 1280, 720), SizeConfig(size=(1920, 1080)), ("--size", "1920x1080")),
        (info(1.0, 1280, 720), SizeConfig(height=1080), ("--height", "1080")),
    ],
)
def test_the_size(video: VideoInfo, size: SizeConfig, options: tuple[str, ...]) -> None:
    found, config = tuning._size(video, size)
    assert found == options
    assert config == size if size != SizeConfig() else config.height in (None, 2160)


def test_the_crop_is_where_the_detail_is() -> None:
    image = torch.zeros(3, 700, 1100)
    image[:, 500:600, 800:900] = torch.rand(3, 100, 100, generator=torch.Generator().manual_seed(1))
    crop = Crop.of(image)
    assert (crop.width, crop.height) == tuning.CELL
    assert crop.top <= 500 and crop.top + crop.height >= 600 and crop.left <= 800 and crop.left + crop.width >= 900
    pixels = crop.cut(image)
    part = image[:, crop.top : crop.top + crop.height, crop.left : crop.left + crop.width]
    np.testing.assert_array_equal(pixels, (part * 255).round().byte().permute(1, 2, 0).numpy())
    small = Crop.of(torch.rand(3, 20, 30))
    assert (small.top, small.left, small.height, small.width) == (0, 0, 20, 30)


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        (DegradationLevels(0.22, 0.02, 0.32), False),  # high for clean videos in 4:2:0
        (DegradationLevels(0.34, 0.0, 0.0), True),
        (DegradationLevels(0.0, 0.1, 0.0), True),
        (DegradationLevels(0.0, 0.0, 0.34), True),
    ],
)
def test_each_level_has_its_own_limit(levels: DegradationLevels, expected: bool) -> None:
    assert tuning.is_degraded(levels) == expected


def test_clean_videos_are_told_from_degraded_ones(tmp_path: Path) -> None:
    """By the shipped estimator, with a sample as it is, as MPEG-2, with noise and out of focus."""
    with av.open(str(ROOT / "samples" / "portrait_112x84.mp4")) as container:
        images = [frame.to_ndarray(format="rgb24") for frame in islice(container.decode(video=0), 5)]
    noise = np.random.default_rng(0).normal(0, 15, images[0].shape)
    lossless, mpeg2 = ("-c:v", "ffv1", "-pix_fmt", "bgr0"), ("-c:v", "mpeg2video", "-qscale:v", "24")
    versions = {
        "clean": (images, lossless),
        "mpeg2": (images, mpeg2),
        "noise": ([np.clip(image + noise, 0, 255).astype(np.uint8) for image in images], lossless),
        "blur": ([cv2.GaussianBlur(image, (0, 0), 1.5) for image in images], lossless),
    }
    found = {
        name: tuning.is_degraded(estimate_degradation(Source.of(media.encode(tmp_path / f"{name}.mkv", *version))))
        for name, version in versions.items()
    }
    assert found == {"clean": False, "mpeg2": True, "noise": True, "blur": True}


def test_a_video_that_ends_before_its_middle(tmp_path: Path) -> None:
    """Its header announces more than there is, as in a download that broke off."""
    short = media.truncated(write_video(tmp_path / "whole.mkv", 80), tmp_path / "short.mkv", 0.35)
    found = tune(short, SizeConfig(scale=1), ComputeConfig(threads=1), Fraction(1, 5))
    assert len(found.trials) == 4 and all(trial.images for trial in found.trials)


@pytest.mark.parametrize(("levels", "model"), [(CLEAN, "secnet-fast"), (POOR, "secnet-fast-real")])
def test_the_command_and_the_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, levels: DegradationLevels, model: str
) -> None:
    """The printed command is complete, parses, and names the model for the measured levels."""
    monkeypatch.setattr(tuning, "estimate_degradation", lambda *_: levels)
    video = write_video(tmp_path / "my video.mkv")
    result = CliRunner().invoke(app, ["tune", str(video), "--seconds", "0.2", "--threads", "1", "--scale", "2"])
    assert result.exit_code == 0, result.stderr
    words = shlex.split(result.stdout)
    assert words == ["vidsr", "upscale", "--model", model, "--scale", "2", "--threads", "1", str(video)]
    tried = [line for line in result.stderr.splitlines() if line.startswith("trying ")]
    assert tried[:3] == ["trying bicubic", "trying secnet-fast", "trying secnet-fast-real"] and len(tried) == 4
    assert re.fullmatch(r"trying secnet-fast-real( --de(blur|noise|block) [0-9.]+)+", tried[3])
    dry = CliRunner().invoke(app, [*words[1:], "--dry-run"])
    assert dry.exit_code == 0 and f"48x32 to 96x64, {model} on cpu" in dry.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my video.mkv", "my video_tune.png"]
    sheet = cv2.imread(str(tmp_path / "my video_tune.png"))
    assert sheet.shape == (3 * 64 + 2 * 2, 4 * 96 + 3 * 2, 3)
    columns = [sheet[:48, index * 98 : index * 98 + 96].astype(int) for index in range(4)]  # above the labels
    assert all(np.abs(columns[0] - other).mean() > 0.3 for other in columns[1:])  # each is another setting
    assert np.abs(columns[0] - columns[1]).mean() < 20  # of the same frame
    again = CliRunner().invoke(app, ["tune", str(video)])
    assert again.exit_code == 4 and "already exists" in again.stderr


def test_it_measures_by_itself(tmp_path: Path) -> None:
    found = tune(write_video(tmp_path / "in.mkv"), SizeConfig(), ComputeConfig(threads=1), Fraction(1, 5))
    assert [len(trial.images) for trial in found.trials] == [5, 5, 5, 5]
    assert all(trial.seconds_per_frame > 0 and trial.seconds is not None for trial in found.trials)
    assert found.chosen in found.trials[1:3]
    assert found.chosen is found.trials[1 + tuning.is_degraded(found.levels)]


def test_a_slow_setting_ends_early_and_the_others_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "BUDGET", 0.0)
    found = tune(write_video(tmp_path / "in.mkv"), SizeConfig(), ComputeConfig(threads=1), Fraction(1))
    assert [len(trial.images) for trial in found.trials] == [tuning.MIN_FRAMES] * 4


@pytest.mark.parametrize("seconds", ["0", "11"])
def test_a_length_out_of_range(tmp_path: Path, seconds: str) -> None:
    with pytest.raises(UsageError, match="--seconds must be"):
        tune(tmp_path / "in.mkv", SizeConfig(), ComputeConfig(), Fraction(seconds))


def test_a_sheet_of_another_kind(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tune", str(tmp_path / "in.mkv"), "--sheet", str(tmp_path / "out.jpg")])
    assert result.exit_code == 2 and "ends in .png" in " ".join(result.stderr.split())
