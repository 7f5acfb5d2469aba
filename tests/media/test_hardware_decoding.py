"""--decoder: what is refused, what is planned and what is reported, on machines with and without such hardware."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
from typer.testing import CliRunner

import vidsr.video.hardware
from tests.support import media
from vidsr.cli import app
from vidsr.config import InputConfig, UpscaleConfig
from vidsr.errors import DeviceError, UsageError
from vidsr.pipeline.plan import plan
from vidsr.video.decoding import acceleration_of
from vidsr.video.hardware import DEVICES, choose_decoder, device_problem, kinds_for, missing
from vidsr.video.probe import Source
from vidsr.video.sources import source_of

# No machine has so many cards, so this fails everywhere: without CUDA, without a card, and with a few of them.
NO_SUCH_CARD = "cuda:9999"


@pytest.mark.parametrize("value", ["software", "auto", *DEVICES, "cuda:1", "vaapi:/dev/dri/renderD129", "d3d11va:0"])
def test_what_the_option_takes(value: str) -> None:
    assert InputConfig(decoder=value).decoder == value


@pytest.mark.parametrize("value", ["", "nvdec", "qsv", "cuda:", "cuda:x", "vaapi:0", "videotoolbox:1", "software:1"])
def test_what_the_option_refuses(value: str) -> None:
    with pytest.raises(UsageError, match="--decoder must be software, auto, cuda"):
        InputConfig(decoder=value)


def test_software_is_the_default_and_is_reported(tmp_path: Path) -> None:
    planned = plan(media.clip(tmp_path / "a.mp4", 3), tmp_path / "b.mp4", UpscaleConfig())
    assert planned.decoder == "software" and planned.options.input.decoder == "software"
    assert acceleration_of("software") is None


def test_a_device_that_is_missing_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    video, target = media.clip(tmp_path / "a.mp4", 3), tmp_path / "b.mp4"
    result = CliRunner().invoke(app, ["upscale", str(video), str(target), "--decoder", NO_SUCH_CARD])
    assert result.exit_code == DeviceError.exit_code
    assert result.stderr.startswith(f"error: --decoder {NO_SUCH_CARD} cannot decode {video}: ")
    assert result.stderr.endswith("; use --decoder software, or auto to have what works\n")
    assert result.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == [video]


def test_face_search_has_the_option_too(tmp_path: Path) -> None:
    video = media.clip(tmp_path / "a.mp4", 3)
    result = CliRunner().invoke(app, ["faces", str(video), "--decoder", NO_SUCH_CARD])
    assert (result.exit_code, result.stdout) == (DeviceError.exit_code, "")
    assert result.stderr.startswith(f"error: --decoder {NO_SUCH_CARD} cannot decode {video}: ")


def test_nothing_falls_back_to_software(tmp_path: Path) -> None:
    source = Source(media.clip(tmp_path / "a.mp4", 3)).decoded_by(NO_SUCH_CARD)
    with pytest.raises(DeviceError, match=f"{NO_SUCH_CARD} does not work here|no stream is compatible"):
        source.open_frames().close()
    with source.open() as container:  # probing and copying do not need it
        assert container.streams.video


def test_a_kind_that_ffmpeg_lacks_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vidsr.video.hardware, "hwdevices_available", lambda: ["drm"])
    assert missing("vaapi:/dev/dri/renderD128", "h264") == "this FFmpeg is built without vaapi"
    source = Source(media.clip(tmp_path / "a.mp4", 3))
    with pytest.raises(DeviceError, match=r"--decoder vaapi cannot decode .*: this FFmpeg is built without vaapi; use"):
        choose_decoder("vaapi", source, source.probe())
    assert all(device_problem(kind) == f"this FFmpeg is built without {kind}" for kind in DEVICES)


def test_a_codec_that_no_device_decodes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidsr.video.hardware, "hwdevices_available", lambda: list(DEVICES))
    assert kinds_for("ffv1") in ([], ["vulkan"]) and kinds_for("no such codec") == []
    assert missing("cuda", "prores") == "this FFmpeg does not decode prores with cuda"
    if "cuda" in kinds_for("h264"):
        assert missing("cuda:1", "h264") is None


def test_auto_takes_the_first_device_that_works_else_software(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = Source(media.clip(tmp_path / "a.mp4", 3))
    info, working = source.probe(), {"vaapi", "d3d11va"}
    monkeypatch.setattr(vidsr.video.hardware, "problem", lambda name, *_: None if name in working else "broken")
    assert choose_decoder("auto", source, info) == "d3d11va"
    planned = plan(source, tmp_path / "b.mp4", UpscaleConfig(input=InputConfig(decoder="auto")))
    assert planned.decoder == "d3d11va" and planned.source is not None and planned.source.decoder == "d3d11va"
    working.clear()
    assert choose_decoder("auto", source, info) == "software"


def test_auto_says_what_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vidsr.video.hardware, "problem", lambda *_: "broken")
    video, target = media.clip(tmp_path / "a.mp4", 3), tmp_path / "b.mp4"
    result = CliRunner().invoke(app, ["upscale", str(video), str(target), "--model", "bicubic", "--decoder", "auto"])
    assert result.exit_code == 0 and f"{video}: decoded by software" in result.stderr


def test_images_are_decoded_by_software(tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    av.VideoFrame(64, 48, "rgb24").to_image().save(image)
    source = source_of(image, InputConfig(), tmp_path / "b.png")
    with pytest.raises(DeviceError, match="images and pipes are decoded by software"):
        choose_decoder("cuda", source, source.probe())
    assert choose_decoder("auto", source, source.probe()) == "software"
