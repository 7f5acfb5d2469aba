"""Encoding and muxing apart: packets of an encoder without a container, and a muxer that is given them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
import torch
from av.video.codeccontext import VideoCodecContext

from tests.support import media
from tests.support.writing import frames, steps, write
from vidsr.config import InputConfig, OutputConfig
from vidsr.video.encoder import Encoder
from vidsr.video.muxer import Muxer
from vidsr.video.output import plan_output
from vidsr.video.probe import probe


@pytest.mark.parametrize(("codec", "kind"), [("libx264", "h264"), ("mpeg4", "mpeg4")])
def test_an_encoder_needs_no_container(tmp_path: Path, codec: str, kind: str) -> None:
    source = media.clip(tmp_path / "a.mkv")
    info = probe(source)
    options = OutputConfig(codec=codec)
    encoding = plan_output(tmp_path / "b.mkv", source, info, (64, 48), options, InputConfig()).encoding
    context = cast(VideoCodecContext, av.CodecContext.create(codec, "w"))
    encoding.configure(context)
    encoder = Encoder(context, encoding, (64, 48))
    images = [frame.image for frame in frames(steps(source, 6), info.time_base, 64, 48)]
    times = steps(source, 6, start=100)
    packets = [packet for time, image in zip(times, images, strict=True) for packet in encoder.encode(image, time, 0)]
    packets += encoder.flush()
    assert sorted(packet.pts for packet in packets if packet.pts is not None) == times
    assert encoder.end == times[-1] + times[1] - times[0]
    decoder = av.CodecContext.create(kind, "r")
    decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
    assert [frame.pts for frame in decoded] == times
    for frame, image in zip(decoded, images, strict=True):
        shown = frame.to_ndarray(format="rgb24").astype(float) / 255
        assert np.abs(shown - image.permute(1, 2, 0).numpy()).mean() < 0.05


def test_a_muxer_takes_packets_and_copies_the_rest(tmp_path: Path) -> None:
    source, by_parts, by_writer = media.clip_with_audio(tmp_path / "a.mp4"), tmp_path / "b.mkv", tmp_path / "c.mkv"
    plan = plan_output(by_parts, source, probe(source), (64, 48), OutputConfig(codec="ffv1"), InputConfig())
    muxer = Muxer(by_parts, plan)
    assert not by_parts.exists(), "nothing is on the disk before the header"
    encoder = Encoder(muxer.context, plan.encoding, plan.size)
    muxer.begin()
    for frame in frames(steps(source, 20), plan.info.time_base, 64, 48):
        muxer.write(encoder.encode(frame.image, frame.pts, frame.duration))
    muxer.write(encoder.flush())
    muxer.finish(None)
    muxer.close()
    write(by_writer, source, steps(source, 20), OutputConfig(codec="ffv1"), size=(64, 48))
    for stream in ("v:0", "a:0"):
        one, two = media.ffmpeg_packetmd5(by_parts, stream), media.ffmpeg_packetmd5(by_writer, stream)
        assert [frame.md5 for frame in one.frames] == [frame.md5 for frame in two.frames] and one.times == two.times


def test_a_frame_of_another_size_is_a_defect(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "a.mkv")
    encoding = plan_output(tmp_path / "b.mkv", source, probe(source), (64, 48), OutputConfig(), InputConfig()).encoding
    context = cast(VideoCodecContext, av.CodecContext.create(encoding.codec, "w"))
    encoding.configure(context)
    with pytest.raises(ValueError, match="given to an encoder"):
        Encoder(context, encoding, (64, 48)).encode(torch.zeros(3, 48, 66), 0, int(Fraction(1)))
