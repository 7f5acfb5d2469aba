"""Encoder settings: what cannot be encoded is refused first, and options reach the encoder."""

from __future__ import annotations

from pathlib import Path

import av
import pytest
import torch
from av.video.codeccontext import VideoCodecContext

from tests.support import media
from tests.support.writing import steps, write
from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import OutputError
from vidsr.video.encoder import Encoder, repeatable_options
from vidsr.video.output import plan_output
from vidsr.video.probe import probe


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "film.mp4")


@pytest.mark.parametrize(
    ("config", "ending", "words"),
    [
        (OutputConfig(codec="libx999"), "mp4", "no video encoder called 'libx999'.*libx264"),
        (OutputConfig(codec="aac"), "mp4", "no video encoder called 'aac'"),
        (OutputConfig(codec="libx264"), "webm", "webm files cannot hold.*libvpx-vp9"),
        (OutputConfig(codec="prores_ks"), "mp4", r"the output of prores_ks; .* or write \.mov or \.mkv$"),
        (OutputConfig(codec="huffyuv"), "mkv", r"the output of huffyuv; use another --codec \([^)]*\)$"),
        (OutputConfig(crf=52), "mp4", "outside the range of libx264: 0 .* 51"),
        (OutputConfig(codec="libsvtav1", crf=64), "mp4", "outside the range of libsvtav1"),
        (OutputConfig(codec="ffv1", crf=3), "mkv", "ffv1 is lossless"),
        (OutputConfig(preset="warp"), "mp4", "no preset 'warp'.*veryslow"),
        (OutputConfig(codec="libsvtav1", preset="fast"), "mp4", "no preset 'fast'"),
        (OutputConfig(codec="ffv1", preset="fast"), "mkv", "ffv1 has no presets"),
        (OutputConfig(pix_fmt="yuv411p"), "mp4", "pixel format 'yuv411p'.*yuv420p"),
        (OutputConfig(pix_fmt="rgb24"), "mp4", "'rgb24'.*yuv444p.*; for lossless RGB use --codec ffv1 --pix-fmt bgr0"),
        (OutputConfig(codec="ffv1", pix_fmt="bgra"), "mkv", "'bgra'.*bgr0"),
        (OutputConfig(pix_fmt="nonsense"), "mp4", "pixel format 'nonsense'"),
        (OutputConfig(encoder_options=(("cfr", "1"),)), "mp4", "no option 'cfr'"),
        (OutputConfig(encoder_options=(("x264-params", "nonsense=1"),)), "mp4", "nonsense"),
        (OutputConfig(codec="libx265", encoder_options=(("x265-params", "nonsense=1"),)), "mp4", "nonsense"),
        (OutputConfig(encoder_options=(("tune", "nonsense"),)), "mp4", "takes no tune 'nonsense'"),
        (OutputConfig(), "avi", r"vidsr writes \.mp4"),
        (OutputConfig(), "gif", r"vidsr writes \.mp4"),
        (OutputConfig(), "xyz", r"vidsr writes \.mp4"),
    ],
)
def test_what_cannot_be_encoded_is_refused_first(
    video: Path, tmp_path: Path, config: OutputConfig, ending: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(OutputError, match=words) as caught:
        plan_output(tmp_path / f"out.{ending}", video, probe(video), (64, 48), config, InputConfig())
    assert "\n" not in str(caught.value) and caught.value.exit_code == 4
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4"}
    assert capfd.readouterr() == ("", "")


def test_missing_hardware_is_one_sentence(video: Path, tmp_path: Path) -> None:
    """Whichever of the two this machine is, the hardware encoder works or says that it does not."""
    try:
        writer = write(tmp_path / "out.mp4", video, steps(video, 3), OutputConfig(codec="h264_nvenc"), size=(256, 192))
    except OutputError as error:
        assert "needs its hardware" in str(error) and "libx264" in str(error)
    else:
        assert writer.plan.encoding.codec == "h264_nvenc"


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1", "libvpx-vp9", "mpeg4"])
def test_crf_reaches_the_encoder(video: Path, tmp_path: Path, codec: str, capfd: pytest.CaptureFixture[str]) -> None:
    sizes = []
    for crf in (2, 30):
        target = tmp_path / f"{crf}.mkv"
        write(target, video, steps(video, 10), OutputConfig(codec=codec, crf=crf), size=(128, 96))
        sizes.append(sum(frame.size for frame in media.ffmpeg_packetmd5(target, "v:0").frames))
    assert sizes[0] > 1.3 * sizes[1]
    assert capfd.readouterr() == ("", "")


def test_encoder_options_reach_the_encoder(video: Path, tmp_path: Path) -> None:
    options = (("x264-params", "keyint=2"),)
    write(tmp_path / "out.mp4", video, steps(video, 8), OutputConfig(encoder_options=options))
    with av.open(str(tmp_path / "out.mp4")) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert sum(keys) >= 4


@pytest.mark.parametrize(
    ("codec", "pix_fmt", "written"),
    [
        ("ffv1", "bgr0", "bgr0"),
        ("ffv1", "auto", "bgr0"),
        ("libx264rgb", "bgr0", "gbrp"),
        ("libx264rgb", "rgb24", "gbrp"),
        ("libx264rgb", "auto", "gbrp"),
    ],
)
def test_rgb_is_written_without_loss(tmp_path: Path, codec: str, pix_fmt: str, written: str) -> None:
    source = media.clip(tmp_path / "rgb.mkv", 3, options=("-c:v", "ffv1", "-pix_fmt", "bgr0"))
    config = OutputConfig(codec=codec, pix_fmt=pix_fmt, crf=0 if codec == "libx264rgb" else None)
    writer = write(tmp_path / "out.mkv", source, steps(source, 3), config)
    with av.open(str(tmp_path / "out.mkv")) as container:
        frames = list(container.decode(video=0))
    assert writer.warnings == [] and {frame.format.name for frame in frames} == {written}
    for number, frame in enumerate(frames):
        assert (frame.to_ndarray(format="rgb24") == media.numbered_image(number)).all()


def test_an_encoder_of_rgb_only_takes_other_video(video: Path, tmp_path: Path) -> None:
    writer = write(tmp_path / "out.mp4", video, steps(video, 3), OutputConfig(codec="libx264rgb"))
    assert writer.plan.encoding.pixel_format == "bgr0"
    assert len(media.ffmpeg_framemd5(tmp_path / "out.mp4").frames) == 3


def test_x264_makes_the_same_packets_each_time(video: Path, tmp_path: Path) -> None:
    """Small frames of soft shapes that move: its AVX-512 code then depends on what the memory held before."""
    wide = torch.rand(1, 3, 10, 16, generator=torch.Generator().manual_seed(0))
    wide = torch.nn.functional.interpolate(wide, (160, 256), mode="bicubic")[0].clamp(0, 1)
    target, size = tmp_path / "out.mkv", (208, 160)
    encoding = plan_output(target, video, probe(video), size, OutputConfig(), InputConfig()).encoding
    assert encoding.codec == "libx264"

    def encoded() -> list[bytes]:
        context = av.CodecContext.create(encoding.codec, "w")
        assert isinstance(context, VideoCodecContext)
        encoding.configure(context)
        encoder = Encoder(context, encoding, size)
        packets = [p for n in range(24) for p in encoder.encode(wide[:, :, 2 * n : 2 * n + 208], 40 * n, 40)]
        return [bytes(packet) for packet in [*packets, *encoder.flush()]]

    first = encoded()
    assert all(encoded() == first for _ in range(20))


def test_the_options_of_x264_that_are_given_come_last() -> None:
    options = repeatable_options("libx264", {"x264-params": "asm=sse2:keyint=3", "crf": "20"})
    assert options["x264-params"].endswith("asm=sse2:keyint=3") and options["crf"] == "20"
    assert repeatable_options("libx265", {"x265-params": "log-level=none"}) == {"x265-params": "log-level=none"}
