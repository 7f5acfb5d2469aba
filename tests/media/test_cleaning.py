"""--deblur, --denoise and --deblock, and the estimated degradation, from the command line to the report.

The model is tiny and has random weights, but its files are those of any model.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from typer.testing import CliRunner

import vidsr
from tests.support import media
from tests.support.tiny_networks import slowmo_network
from tests.unit.test_conditioning import conditioned_network
from vidsr.cli import app
from vidsr.config import CleaningConfig, ComputeConfig, InputConfig, RestoreConfig, UpscaleConfig
from vidsr.engines.recurrent import RecurrentEngine
from vidsr.engines.select import DEGRADED_MODELS, select
from vidsr.engines.slowmo import SlowmoEngine
from vidsr.faces.handover import BodyModel, fitting_face_model
from vidsr.models.cards import find_card
from vidsr.models.loading import load_network
from vidsr.models.writing import write_model
from vidsr.nets.layers.resize import resize
from vidsr.nets.zsm.network import ZoomingSlowMo
from vidsr.pipeline.degradation import estimate_degradation
from vidsr.pipeline.plan import plan
from vidsr.train.degrade import from_bytes, jpeg_roundtrip, to_bytes
from vidsr.types import DegradationLevels, Frame, SceneDegradation
from vidsr.video.probe import Source
from vidsr.video.reader import Reader

FACTS = {"licence": "none", "date": "2026-01-01", "origin": "random", "origin_sha256": "none"}
WITHOUT_FACES = ("--no-faces", "--precision", "fp32", "--threads", "1")


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    head = {"name": "tiny", "summary": "a test", "architecture": "secnet"}
    network = conditioned_network()
    return write_model(tmp_path_factory.mktemp("models"), head, network, torch.float32, np.float32, FACTS)


@pytest.fixture(scope="module")
def slow_card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    head = {"name": "slow", "summary": "a test", "architecture": "zsm"}
    network = slowmo_network("conditioned")
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


def test_slow_motion_takes_levels_and_reports_them(slow_card: Path, video: Path, tmp_path: Path) -> None:
    found = {}
    for name, options in {"estimated": (), "given": ("--deblur", "0.25", "--denoise", "0", "--deblock", "1")}.items():
        report = tmp_path / f"{name}.json"
        arguments = (video, tmp_path / f"{name}.mkv", "--model", slow_card, "--codec", "ffv1", "--scale", "4")
        words = ["slowmo", *arguments, "--report", report, *options, "--precision", "fp32", "--threads", "1"]
        result = CliRunner().invoke(app, [str(word) for word in words])
        assert result.exit_code == 0, result.stderr
        [found[name]] = levels_of(report)
        assert "degradation: blur " in result.stderr
        dry = CliRunner().invoke(app, [str(word) for word in (*words, "--dry-run", "-y")])
        assert dry.exit_code == 0 and "degradation of the first frames: blur " in dry.stderr
    assert found["given"] == {"blur": 0.25, "noise": 0.0, "compression": 1.0} != found["estimated"]
    frames = {name: media.ffmpeg_framemd5(tmp_path / f"{name}.mkv").frames for name in found}
    assert frames["estimated"] != frames["given"]
    images = list(np.random.default_rng(0).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8))
    for interp in (2, 4):
        strong, weak = (
            list(vidsr.enhance(images, interp=interp, scale=4, denoise=level, model=slow_card, precision="fp32"))
            for level in (1.0, 0.0)
        )
        assert any(np.any(a != b) for a, b in zip(strong, weak, strict=True))


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


# ------------------------------------------------------------------------------------------------- the shipped model


SAMPLE = Path(__file__).parents[2] / "samples" / "portrait_112x84.mp4"


def soft_shapes(noise: float) -> Tensor:
    """Four equal frames, 4 x 3 x 64 x 64, with noise of this standard deviation in 8-bit levels."""
    generator = torch.Generator().manual_seed(0)
    soft = interpolate(torch.rand(1, 3, 6, 6, generator=generator), (64, 64), mode="bicubic").clamp(0, 1)
    frames = soft.expand(4, -1, -1, -1)
    return (frames + noise / 255 * torch.randn(frames.shape, generator=generator)).clamp(0, 1)


def portrait(noise: float = 0, quality: int = 0) -> Tensor:
    """The first four frames of a sample, with noise or after JPEG compression of this quality."""
    with Reader(SAMPLE, InputConfig(), torch.device("cpu")) as reader:
        frames = torch.stack([frame.image for frame in islice(reader.frames(), 4)])
    if quality:
        return from_bytes(jpeg_roundtrip(to_bytes(frames), quality))
    return (frames + noise / 255 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


REAL_MODELS = tuple(DEGRADED_MODELS.values())
of_each_model = pytest.mark.parametrize("model", REAL_MODELS)


def enhanced(frames: Tensor, levels: tuple[float | None, ...], model: str = REAL_MODELS[0]) -> tuple[Tensor, Tensor]:
    """The last result, which shows the last frame, and the levels that the network worked with."""
    network: Any = load_network(find_card(model))
    engine: Any
    if isinstance(network, ZoomingSlowMo):
        arguments = torch.device("cpu"), "fp32"
        engine = SlowmoEngine.of_network(network, model, *arguments, is_overlapped=False, overrides=levels)
    else:
        engine = RecurrentEngine(network, model, torch.device("cpu"), "fp32", False, levels)  # type: ignore[arg-type]
    state, results = engine.init_state(*frames.shape[-2:]), list[Frame]()
    for index, image in enumerate(frames):
        ready, state = engine.step(Frame(image, index, Fraction(1, 25), 1, index == 0), state)
        results += ready
    last = (results + engine.flush(state))[-1]
    assert last.levels is not None
    return last.image, last.levels


def by_level(frames: Tensor, option: int, model: str) -> list[Tensor]:
    """The last results as one option of blur, noise and compression rises, the others being 0."""
    steps = (0.0, 0.3, 0.6, 1.0)
    return [enhanced(frames, tuple(v if index == option else 0.0 for index in range(3)), model)[0] for v in steps]


def distances(results: list[Tensor], wanted: Tensor) -> list[float]:
    return [float((result - wanted).square().mean().sqrt()) for result in results]


@pytest.mark.numeric
@of_each_model
def test_more_denoising_removes_more_noise(model: str) -> None:
    found = distances(by_level(soft_shapes(15), 1, model), resize(soft_shapes(0)[0], (256, 256)))
    assert found == sorted(found, reverse=True) and found[-1] < 0.85 * found[0]


@pytest.mark.numeric
@of_each_model
def test_more_deblocking_removes_more_of_the_compression(model: str) -> None:
    """The steps across the borders of JPEG's blocks, beside those elsewhere; and what is far from the clean image's."""
    results = by_level(portrait(quality=10), 2, model)
    found = []
    for result in results:
        steps = result.diff(dim=-1).abs().mean((0, 1))
        at_border = torch.arange(len(steps)) % 32 == 31  # blocks of 8 pixels, enlarged by 4
        found.append(float(steps[at_border].mean() / steps[~at_border].mean()))
    assert found == sorted(found, reverse=True) and found[-1] < 0.8 * found[0]
    errors = distances(results, enhanced(portrait(), (0.0, 0.0, 0.0), model)[0])
    assert min(errors[1:]) < 0.95 * errors[0]


@pytest.mark.numeric
@of_each_model
def test_more_deblurring_sharpens_more(model: str) -> None:
    found = [float(result.diff(dim=-1).abs().mean()) for result in by_level(portrait(), 0, model)]
    assert found == sorted(found) and found[-1] > 1.1 * found[0]


@pytest.mark.numeric
def test_the_estimate_rises_with_the_degradation() -> None:
    noisy = [portrait(noise=level) for level in (0, 8, 20)]
    for index, series in ((1, noisy), (2, [portrait(), portrait(quality=30), portrait(quality=10)])):
        found = [float(enhanced(frames, (None, None, None))[1][index]) for frames in series]
        assert found == sorted(found) and found[-1] > found[0] + 0.15


def test_auto_with_a_level_is_the_model_for_degraded_videos(video: Path, tmp_path: Path) -> None:
    options = UpscaleConfig(cleaning=CleaningConfig(deblock=0.5))
    planned = plan(video, tmp_path / "b.mp4", options)
    assert planned.model == "secnet-fast-real"
    assert planned.face_model == fitting_face_model(BodyModel.of(planned.engine.card))
    wanted = replace(options, faces=RestoreConfig(use=True))
    assert plan(video, tmp_path / "b.mp4", wanted).faces is not None


def test_info_shows_the_degradation_of_the_first_frames(video: Path) -> None:
    found = json.loads(CliRunner().invoke(app, ["info", str(video), "--json"]).stdout)["degradation"]
    levels = estimate_degradation(Source(video))
    assert found == {"blur": levels.blur, "noise": levels.noise, "compression": levels.compression}
    assert all(0 <= level <= 1 for level in found.values())
    assert f"{levels.compression:.2f}" in CliRunner().invoke(app, ["info", str(video)]).stderr


def test_levels_are_part_of_the_selection(card: Path) -> None:
    compute = ComputeConfig(model=str(card))
    options = UpscaleConfig(cleaning=CleaningConfig(deblock=1), compute=compute)
    assert options.cleaning.levels == (None, None, 1.0)
    assert select(compute, "upscale", 24, 32, levels=options.cleaning.levels).levels == (None, None, 1.0)


def test_levels_in_words() -> None:
    levels = DegradationLevels(blur=0.02, noise=0.2, compression=0.91)
    assert str(levels) == "blur none (0.02), noise slight (0.20), compression strong (0.91)"
