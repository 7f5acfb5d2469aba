"""--deblur, --denoise and --deblock, and the estimated degradation, from the command line to the report.

The model is tiny and has random weights, but its files are those of any model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import vidsr
from tests.support import media
from tests.unit.test_conditioning import conditioned_network
from vidsr.cli import app
from vidsr.config import CleaningConfig, ComputeConfig, UpscaleConfig
from vidsr.engines.select import select
from vidsr.errors import UsageError
from vidsr.models.writing import write_model
from vidsr.types import DegradationLevels, SceneDegradation

FACTS = {"licence": "none", "date": "2026-01-01", "origin": "random", "origin_sha256": "none"}
WITHOUT_FACES = ("--no-faces", "--precision", "fp32", "--threads", "1")


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    head = {"name": "tiny", "summary": "a test", "architecture": "secnet"}
    network = conditioned_network()
    return write_model(tmp_path_factory.mktemp("models"), head, network, torch.float32, np.float32, FACTS)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return media.clip(tmp_path_factory.mktemp("video") / "a.mp4", 5)


def upscale(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["upscale", *map(str, arguments), *WITHOUT_FACES])


def levels_of(path: Path) -> list[dict[str, float]]:
    return [scene["levels"] for scene in json.loads(path.read_text())["runs"][0]["degradation"]]


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_given_levels_reach_the_network_and_the_report(card: Path, video: Path, tmp_path: Path, backend: str) -> None:
    common = (video, "--model", card, "--backend", backend, "--codec", "ffv1")
    found = {}
    for name, options in {
        "estimated": (),
        "given": ("--deblur", "0.25", "--denoise", "0", "--deblock", "1"),
        "one": ("--denoise", "1"),
    }.items():
        report = tmp_path / f"{name}.json"
        result = upscale(*common, tmp_path / f"{name}.mkv", "--report", report, *options)
        assert result.exit_code == 0, result.stderr
        found[name] = levels_of(report)
        assert len(found[name]) == 1 and "degradation: blur " in result.stderr
    assert found["given"] == [{"blur": 0.25, "noise": 0.0, "compression": 1.0}]
    [estimated], [one] = found["estimated"], found["one"]
    assert one == estimated | {"noise": 1.0} and 0 < estimated["noise"] < 1
    frames = {name: media.ffmpeg_framemd5(tmp_path / f"{name}.mkv").frames for name in found}
    assert frames["estimated"] != frames["given"] != frames["one"] != frames["estimated"]


def test_library_and_command_line_agree(card: Path, video: Path, tmp_path: Path) -> None:
    report = vidsr.upscale(
        video, tmp_path / "a.mkv", model=card, deblur=0.25, denoise=0, deblock="auto", codec="ffv1", faces=False,
        precision="fp32", threads=1,
    )  # fmt: skip
    assert isinstance(report, vidsr.RunReport) and isinstance(report.degradation[0], SceneDegradation)
    assert (report.degradation[0].levels.blur, report.degradation[0].levels.noise) == (0.25, 0)
    result = upscale(
        video, tmp_path / "b.mkv", "--model", card, "--deblur", ".25", "--denoise", "0.0", "--codec", "ffv1"
    )
    assert result.exit_code == 0, result.stderr
    assert media.ffmpeg_framemd5(tmp_path / "a.mkv").frames == media.ffmpeg_framemd5(tmp_path / "b.mkv").frames


def test_frames_in_memory_take_levels_too(card: Path) -> None:
    frames = list(np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8))
    options: dict[str, Any] = {"model": card, "precision": "fp32"}
    strong, weak = (list(vidsr.enhance(frames, denoise=level, **options)) for level in (1.0, 0.0))
    assert any(np.any(a != b) for a, b in zip(strong, weak, strict=True))
    with pytest.raises(UsageError, match="no effect with interp"):
        vidsr.enhance(frames, interp=2, denoise=0.5)


def test_every_scene_has_its_own_levels(card: Path, tmp_path: Path) -> None:
    source = media.hard_cut(tmp_path / "cut.mp4")
    report = vidsr.upscale(source, tmp_path / "a.mkv", model=card, scale=1, faces=False, precision="fp32", threads=1)
    assert isinstance(report, vidsr.RunReport)
    starts = [scene.start_seconds for scene in report.degradation]
    assert len(starts) == report.scenes >= 2 and starts == sorted(starts) and starts[0] == 0
    assert len({scene.levels for scene in report.degradation}) > 1


def test_a_dry_run_shows_the_estimate(card: Path, video: Path, tmp_path: Path) -> None:
    result = upscale(video, tmp_path / "a.mkv", "--model", card, "--deblock", "0.5", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "degradation of the first frames: blur " in result.stderr and "compression moderate (0.50)" in result.stderr


def test_tiles_report_the_mean(card: Path, tmp_path: Path) -> None:
    source = media.clip(tmp_path / "large.mp4", 2, width=160, height=64)
    report = vidsr.upscale(
        source, tmp_path / "a.mkv", model=card, scale=1, faces=False, tile=64, precision="fp32", threads=1
    )
    assert isinstance(report, vidsr.RunReport)
    [scene] = report.degradation
    assert all(0 < level < 1 for level in (scene.levels.blur, scene.levels.noise, scene.levels.compression))


@pytest.mark.parametrize("model", ["bicubic", "secnet-fast"])
def test_other_models_refuse_levels(model: str, video: Path, tmp_path: Path) -> None:
    result = upscale(video, tmp_path / "a.mkv", "--model", model, "--denoise", "0.5")
    assert result.exit_code == 2
    assert f"the model '{model}' cannot be told how degraded the input is" in " ".join(result.stderr.split())
    assert list(tmp_path.iterdir()) == []


def test_without_an_estimator_no_levels_are_reported(video: Path, tmp_path: Path) -> None:
    report = vidsr.upscale(video, tmp_path / "a.mkv", model="bicubic", scale=1)
    assert isinstance(report, vidsr.RunReport) and report.degradation == []


@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan", "strong", "1e-1", ""])
def test_a_wrong_level_is_refused(value: str, video: Path, tmp_path: Path) -> None:
    result = upscale(video, tmp_path / "a.mkv", "--deblock", value)
    assert result.exit_code == 2 and "--deblock must be auto or a number from 0 to 1" in " ".join(result.stderr.split())


def test_levels_are_part_of_the_selection(card: Path) -> None:
    compute = ComputeConfig(model=str(card))
    options = UpscaleConfig(cleaning=CleaningConfig(deblock=1), compute=compute)
    assert options.cleaning.levels == (None, None, 1.0)
    assert select(compute, "upscale", 24, 32, levels=options.cleaning.levels).levels == (None, None, 1.0)


def test_levels_in_words() -> None:
    levels = DegradationLevels(blur=0.02, noise=0.2, compression=0.91)
    assert str(levels) == "blur none (0.02), noise slight (0.20), compression strong (0.91)"
