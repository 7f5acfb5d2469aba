"""Encoders in hardware: how options reach them, and what a user is told where they do not work.

The hardware itself is not needed: a software encoder stands in where the path of options or pixels is judged.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vidsr.config import OutputConfig
from vidsr.errors import OutputError
from vidsr.types import Color, VideoInfo
from vidsr.video import encoder
from vidsr.video.codecs import encoder_problem
from vidsr.video.encoder import HARDWARE_ENCODERS, TRAITS, Traits, choose
from vidsr.video.probe import SideData

INFO = VideoInfo(
    path="", container="", video_stream=0, codec="", width=64, height=48, pixel_format="yuv420p", bit_depth=8,
    time_base=Fraction(1, 25), color=Color(matrix_used="bt709"), header_rate=Fraction(25),
)  # fmt: skip


def encode(config: OutputConfig, frames: int = 3) -> list[np.ndarray]:
    """The decoded frames of a short noisy clip as yuv420p."""
    encoding = choose("matroska", INFO, (64, 48), config, SideData())
    context = av.CodecContext.create(encoding.codec, "w", encoder.acceleration(encoding.codec))
    assert isinstance(context, av.VideoCodecContext)
    encoding.configure(context)
    target = encoder.Encoder(context, encoding, (64, 48))
    images = torch.rand((frames, 3, 48, 64), generator=torch.Generator().manual_seed(3))
    packets = [packet for index, image in enumerate(images) for packet in target.encode(image, index, 1)]
    packets += target.flush()
    decoder = av.CodecContext.create({"libx264": "h264"}.get(encoding.codec, encoding.codec), "r")
    assert isinstance(decoder, av.VideoCodecContext)
    decoder.extradata = context.extradata
    shown = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    return [frame.to_ndarray(format="yuv420p") for frame in shown]


@pytest.mark.parametrize("name", HARDWARE_ENCODERS)
def test_where_it_does_not_work_one_sentence_says_why(name: str) -> None:
    problem = encoder_problem(name)
    if problem is None:
        pytest.skip(f"{name} works here")
    assert name in problem and "use libx264" in problem and "\n" not in problem and not problem.endswith(".")


def test_a_device_that_cannot_be_opened_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """libx264 takes no frames of a device, whichever the machine has."""
    monkeypatch.setitem(TRAITS, "h264_nvenc", replace(TRAITS["h264_nvenc"], device="cuda"))
    if torch.cuda.is_available():
        pytest.skip("has a CUDA device")
    with pytest.raises(OutputError, match=r"h264_nvenc does not work here .*: it needs its hardware and driver"):
        choose("matroska", INFO, (64, 48), OutputConfig(codec="h264_nvenc"), SideData())


def test_frames_for_a_device_are_semi_planar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "_trial", lambda _: None)
    monkeypatch.setattr(encoder, "encoder_refusal", lambda *_: None)
    monkeypatch.setattr(encoder, "_find", lambda _: av.Codec("libx264", "w"))
    monkeypatch.setattr(encoder, "_check_options", lambda *_: None)
    for depth, name in ((8, "nv12"), (10, "p010le")):
        info = replace(INFO, bit_depth=depth, pixel_format="yuv420p" if depth == 8 else "yuv420p10le")
        assert choose("matroska", info, (64, 48), OutputConfig(codec="h264_vaapi"), SideData()).pixel_format == name
    with pytest.raises(OutputError, match="it takes: nv12, p010le"):
        config = OutputConfig(codec="h264_vaapi", pix_fmt="yuv444p")
        choose("matroska", INFO, (64, 48), config, SideData())


def test_nv12_holds_the_samples_of_yuv420p() -> None:
    """In a lossless encoding, both give the same frames."""
    planar, semi_planar = (encode(OutputConfig(codec="libx264", crf=0, pix_fmt=name)) for name in ("yuv420p", "nv12"))
    assert len(planar) == 3
    for one, other in zip(planar, semi_planar, strict=True):
        np.testing.assert_array_equal(one, other)


def test_qscale_arrives_at_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPEG-4 in the place of VideoToolbox: FFmpeg accepts the flag and the value, in its unit of 1/118."""
    monkeypatch.setitem(TRAITS, "mpeg4", Traits("qscale", (1, 100), 65))
    encoding = choose("matroska", INFO, (64, 48), OutputConfig(codec="mpeg4", crf=50), SideData())
    assert dict(encoding.options)["global_quality"] == str(50 * 118)
    context = av.CodecContext.create("mpeg4", "w")
    assert isinstance(context, av.VideoCodecContext)
    encoding.configure(context)
    context.open()
    assert context.flags & 2  # AV_CODEC_FLAG_QSCALE


def test_the_range_of_a_scale_names_its_best_end() -> None:
    monkey = {"h264_nvenc": "0 (best) to 51", "libx264": "0 (best) to 51"}
    for name, words in monkey.items():
        with pytest.raises(OutputError) as error:
            choose("matroska", INFO, (64, 48), OutputConfig(codec=name, crf=200), SideData())
        assert words in str(error.value)
    with pytest.raises(OutputError, match=r"1 to 100 \(best\)"):
        encoder._quality(av.Codec("mpeg4", "w"), TRAITS["h264_videotoolbox"], OutputConfig(crf=200))


def test_a_name_that_no_ffmpeg_has_lists_others(tmp_path: Path) -> None:
    problem = encoder_problem("h265")
    assert problem is not None and "among those it has: libx264" in problem
