"""The writer: frames, tags and times of the output, as the ffmpeg program reads them."""

from __future__ import annotations

import subprocess
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from tests.support import media
from tests.support.writing import frames, steps, write
from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import OutputError
from vidsr.types import Frame
from vidsr.video.output import plan_output
from vidsr.video.probe import Source, probe
from vidsr.video.writer import Writer

ACCURATE = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
FFV1 = OutputConfig(codec="ffv1")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "film.mp4")


def decoded(path: Path, pixel_format: str = "rgb24") -> list[Any]:
    """Pictures as the ffmpeg binary decodes them."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        width, height = video.width, video.height
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-noautorotate", "-i", str(path), "-map", "0:v:0"]
    command += ["-f", "rawvideo", "-pix_fmt", pixel_format, "-sws_flags", ACCURATE, "-fps_mode", "passthrough", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    return list(np.frombuffer(data, np.uint8).reshape(-1, height, width, 3))


def video_line(path: Path) -> str:
    return next(line for line in media.ffmpeg_listing(path) if "Video:" in line)


# ------------------------------------------------------------------------------------------------- the finished file


@pytest.mark.parametrize("ending", ["mp4", "m4v", "mov", "mkv", "webm"])
def test_writes_every_frame_in_order(clip: Path, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"out.{ending}"
    writer = write(target, clip, steps(clip, 20), size=(128, 96))
    assert [media.read_number(image) for image in decoded(target)] == list(range(20))
    assert media.ffmpeg_framemd5(target).times == [Fraction(n, 25) for n in range(20)]
    assert (writer.plan.encoding.codec, writer.plan.encoding.pixel_format) == (
        "libvpx-vp9" if ending == "webm" else "libx264",
        "yuv420p",
    )
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4", target.name}


def test_hidden_until_commit(clip: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    info = probe(clip)
    with Writer(plan_output(target, clip, info, (64, 48), OutputConfig(), InputConfig())) as writer:
        for frame in frames(steps(clip, 5), info.time_base):
            writer.write(frame)
        hidden = [path for path in tmp_path.iterdir() if path.name.startswith(".")]
        assert len(hidden) == 1 and hidden[0].suffix == ".mp4"
        assert not target.exists()
        writer.commit()
        assert target.exists() and not hidden[0].exists()


def test_written_from_a_worker_thread(clip: Path, tmp_path: Path) -> None:
    """The images are encoded in another thread than the one that opens and commits, one at a time."""
    with Writer(
        plan_output(tmp_path / "out.mp4", clip, probe(clip), (64, 48), OutputConfig(), InputConfig())
    ) as writer:
        inputs = frames(steps(clip, 20), probe(clip).time_base)
        with ThreadPoolExecutor(1) as pool:
            list(pool.map(writer.write, inputs))
        writer.commit()
    assert len(media.ffmpeg_framemd5(tmp_path / "out.mp4").frames) == 20


def test_file_mode_follows_umask(clip: Path, tmp_path: Path) -> None:
    reference = tmp_path / "plain"
    reference.touch()
    write(tmp_path / "out.mp4", clip, steps(clip, 2))
    assert (tmp_path / "out.mp4").stat().st_mode == reference.stat().st_mode


def test_single_frame(clip: Path, tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", clip, [0])
    assert len(media.ffmpeg_framemd5(tmp_path / "out.mp4").frames) == 1


def test_no_frame_is_an_error(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="no frame"):
        write(tmp_path / "out.mp4", clip, [])
    assert not (tmp_path / "out.mp4").exists()


def test_frame_of_another_size_is_our_defect(clip: Path, tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="given to an encoder"),
        Writer(plan_output(tmp_path / "out.mp4", clip, probe(clip), (64, 48), OutputConfig(), InputConfig())) as writer,
    ):
        writer.write(Frame(torch.zeros(3, 48, 66), 0, Fraction(1, 25)))
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4"}


# ------------------------------------------------------------------------------------------------- images and tags


@pytest.mark.parametrize(("codec", "ending"), [("libx264", "mp4"), ("libx265", "mkv"), ("libx264", "webm")])
def test_odd_sizes(tmp_path: Path, codec: str, ending: str) -> None:
    source = media.odd_size(tmp_path / "source.mkv")
    config = OutputConfig(codec="auto" if ending == "webm" else codec, crf=1)
    writer = write(tmp_path / f"out.{ending}", source, steps(source, 3), config)
    images = decoded(tmp_path / f"out.{ending}")
    expected = media.numbered_image(1, 63, 47).astype(int)
    padded = any("last column or row repeated" in warning for warning in writer.warnings)
    assert padded == (ending != "webm")
    assert images[1].shape == ((48, 64, 3) if padded else (47, 63, 3))
    difference = images[1][:47, :63].astype(int) - expected
    assert abs(difference.mean()) < 1 and np.abs(difference[:24]).mean() < 4
    if padded:
        assert np.abs(images[1][47, :63].astype(int) - images[1][46, :63]).mean() < 4


def test_odd_size_lossless_keeps_size(tmp_path: Path) -> None:
    source = media.odd_size(tmp_path / "source.mkv")
    write(tmp_path / "out.mkv", source, steps(source, 3), FFV1)
    assert "63x47" in video_line(tmp_path / "out.mkv")


@pytest.mark.parametrize(("ending", "codec"), [("mp4", "libx265"), ("mkv", "libx265"), ("webm", "libsvtav1")])
def test_ten_bit_and_hdr_tags(tmp_path: Path, ending: str, codec: str) -> None:
    source = media.hdr(tmp_path / "source.mkv")
    target = tmp_path / f"out.{ending}"
    writer = write(target, source, steps(source, 5))
    assert (writer.plan.encoding.codec, writer.plan.encoding.pixel_format) == (codec, "yuv420p10le")
    assert "yuv420p10le(tv, bt2020nc/bt2020/smpte2084" in video_line(target)


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libsvtav1"])
def test_hdr_light_levels_are_kept(tmp_path: Path, codec: str) -> None:
    params = (
        "log-level=none:pools=none:master-display=G(13250,34500)B(7500,3000)R(34000,16000)WP(15635,16450)"
        "L(10000000,50):max-cll=1000,400"
    )
    options = ("-c:v", "libx265", "-x265-params", params, "-pix_fmt", "yuv420p10le", "-color_trc", "smpte2084")
    source = media.clip(tmp_path / "source.mkv", 4, options=options)
    target = tmp_path / "out.mkv"
    writer = write(target, source, steps(source, 4), OutputConfig(codec=codec, pix_fmt="yuv420p10le"))
    found, wanted = Source(target).side_data(0), Source(source).side_data(0)
    assert wanted.light == (1000, 400) and wanted.mastering is not None
    assert found.light == wanted.light and found.mastering is not None
    assert all(abs(a - b) < Fraction(1, 1000) for a, b in zip(found.mastering, wanted.mastering, strict=True))
    assert not any("light levels" in warning for warning in writer.warnings)


def test_hdr_light_levels_that_cannot_be_kept_are_named(tmp_path: Path) -> None:
    params = "log-level=none:pools=none:max-cll=1000,400"
    options = ("-c:v", "libx265", "-x265-params", params, "-pix_fmt", "yuv420p10le")
    source = media.clip(tmp_path / "source.mkv", 3, options=options)
    writer = write(tmp_path / "out.mkv", source, steps(source, 3), FFV1)
    assert any("HDR light levels" in warning for warning in writer.warnings)


def test_full_range_tag(tmp_path: Path) -> None:
    source = media.full_range(tmp_path / "source.mp4")
    write(tmp_path / "out.mp4", source, steps(source, 3))
    assert "(pc, bt709" in video_line(tmp_path / "out.mp4")


def test_untagged_source_is_tagged_with_what_was_used(clip: Path, tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", clip, steps(clip, 2), size=(1280, 720))
    assert "(tv, smpte170m" in video_line(tmp_path / "out.mp4")


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_rotation_is_kept(tmp_path: Path, ending: str, degrees: int) -> None:
    source = media.rotated(tmp_path / "source.mp4", degrees)
    target = tmp_path / f"out.{ending}"
    write(target, source, steps(source, 20))
    angle = next(line for line in media.ffmpeg_listing(target) if "Display Matrix" in line)
    assert abs(float(angle.split("rotation of ")[1].split(" ")[0])) == abs(degrees)
    assert probe(target).rotation_degrees % 360 == degrees % 360


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_pixel_aspect_is_kept(tmp_path: Path, ending: str) -> None:
    source = media.non_square(tmp_path / "source.mp4")
    write(tmp_path / f"out.{ending}", source, steps(source, 3), size=(128, 96))
    assert "SAR 16:11" in video_line(tmp_path / f"out.{ending}")


def test_other_proportions_keep_the_shape_of_things(clip: Path, tmp_path: Path) -> None:
    writer = write(tmp_path / "out.mp4", clip, steps(clip, 2), size=(128, 48))
    assert "SAR 1:2" in video_line(tmp_path / "out.mp4")
    assert any("1:2" in warning for warning in writer.warnings)


def test_lossless_keeps_the_sources_chroma(tmp_path: Path) -> None:
    source = media.odd_size(tmp_path / "source.mkv", "yuv444p")
    assert write(tmp_path / "a.mkv", source, steps(source, 2), FFV1).plan.encoding.pixel_format == "yuv444p"
    writer = write(tmp_path / "b.mkv", source, steps(source, 2), size=(64, 48))
    assert writer.plan.encoding.pixel_format == "yuv420p" and any("lower resolution" in w for w in writer.warnings)
    writer = write(tmp_path / "c.mkv", source, steps(source, 2), size=(126, 94))
    assert not any("lower resolution" in warning for warning in writer.warnings)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shortest_videos_in_hevc(clip: Path, tmp_path: Path, count: int) -> None:
    """x265 gives random decoding times for one or two frames; several tries, because memory is often zero."""
    for _ in range(5):
        write(tmp_path / "out.mp4", clip, steps(clip, count), OutputConfig(codec="libx265", overwrite=True))
        assert media.ffmpeg_framemd5(tmp_path / "out.mp4").times == [Fraction(n, 25) for n in range(count)]
    assert "hvc1" in video_line(tmp_path / "out.mp4")  # the tag that Apple's players want
