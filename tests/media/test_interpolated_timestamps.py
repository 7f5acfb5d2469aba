"""More frames in the same time, and the same rate over a longer time, through the Writer: times, rates, B-frames."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch

from tests.support import media
from tests.support.writing import write
from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import OutputError
from vidsr.types import Frame
from vidsr.video.output import plan_output
from vidsr.video.probe import probe
from vidsr.video.timestamps import to_ticks
from vidsr.video.writer import Writer


def between(times: list[Fraction], interp: int) -> list[Fraction]:
    """These times and `interp` - 1 between each two."""
    new = [a + (b - a) * n / interp for a, b in itertools.pairwise(times) for n in range(interp)]
    return [*new, times[-1]]


def rates(path: Path) -> tuple[Fraction | None, Fraction | None]:
    """Average and usual rate."""
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        return video.average_rate, video.guessed_rate


def write_between(
    target: Path, source: Path, times: list[Fraction], interp: int, stretch: int, **changes: object
) -> Writer:
    """As the pipeline does: frames in ticks `interp` times as fine, the last one as long as its like in the source."""
    info = probe(source)
    base = info.time_base * stretch / interp
    ticks = [time * stretch / base for time in between(times, interp)]
    assert all(tick.denominator == 1 for tick in ticks)
    last = to_ticks(Fraction(stretch, 25), base)
    rate = (info.header_rate or Fraction(25)) * interp / stretch
    config = OutputConfig(**changes)  # type: ignore[arg-type]
    return write(
        target, source, [int(t) for t in ticks], config, last=last, stretch=stretch, time_base=base, header_rate=rate
    )


ENDINGS = ["mp4", "mov", "mkv", "webm"]


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("interp", [2, 4, 8])
@pytest.mark.parametrize("stretched", [False, True])
def test_constant_rate(tmp_path: Path, ending: str, interp: int, stretched: bool) -> None:
    source = media.clip(tmp_path / "source.mp4")
    target = tmp_path / f"out.{ending}"
    stretch = interp if stretched else 1
    times = [Fraction(n, 25) for n in range(20)]
    writer = write_between(target, source, times, interp, stretch)
    wanted = [time * stretch for time in between(times, interp)]
    assert media.ffmpeg_framemd5(target).times == wanted
    assert writer.warnings == []
    average, usual = rates(target)
    rate = Fraction(25 * interp, stretch)
    assert usual == rate
    # The last frame is shown as long as a whole step of the source, so the average is a little below the rate.
    count = 19 * interp + 1
    assert average is not None and Fraction(count, 20 * interp) * rate * Fraction(99, 100) <= average <= rate
    listed = next(line for line in media.ffmpeg_listing(target) if "Video:" in line)
    assert f"{rate} tbr" in listed
    with av.open(str(target)) as container:
        assert container.duration is not None
        seconds = Fraction(container.duration, av.time_base)
        assert seconds == Fraction(4 * stretch, 5) or seconds == wanted[-1] + 1 / rate


@pytest.mark.parametrize("ending", ENDINGS)
def test_variable_rate(tmp_path: Path, ending: str) -> None:
    """Halves of odd milliseconds are exact in MP4 and MOV; Matroska's ticks are whole milliseconds."""
    source = media.variable_rate(tmp_path / "source.mkv")
    times = [Fraction(tick, 1000) for tick in media.VARIABLE_TICKS]
    target = tmp_path / f"out.{ending}"
    writer = write_between(target, source, times, 2, 1)
    wanted, found = between(times, 2), media.ffmpeg_framemd5(target).times
    if ending in ("mp4", "mov"):
        assert found == wanted and writer.warnings == []
    else:
        assert found == [Fraction(to_ticks(time, Fraction(1, 1000)), 1000) for time in wanted]
        halves = sum((2000 * time) % 2 == 1 for time in map(Fraction, wanted))
        assert halves == 2
        assert [w for w in writer.warnings if "rounded" in w] == [
            f"{halves} of {len(wanted)} frame times are rounded to 1 ms, the unit of .{ending} files"
        ]
    write_between(target, source, times, 2, 2, overwrite=True)
    assert media.ffmpeg_framemd5(target).times == [2 * time for time in wanted]


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_ntsc_rates(tmp_path: Path, ending: str) -> None:
    source = media.clip(tmp_path / "source.mp4", rate="30000/1001")
    target = tmp_path / f"out.{ending}"
    times = [Fraction(1001 * n, 30_000) for n in range(20)]
    write_between(target, source, times, 2, 1)
    wanted = between(times, 2)
    found = media.ffmpeg_framemd5(target).times
    assert found == (wanted if ending == "mp4" else [Fraction(to_ticks(t, Fraction(1, 1000)), 1000) for t in wanted])
    assert float(rates(target)[1] or 0) == pytest.approx(60_000 / 1001, rel=1e-5)


def test_b_frames_are_used_and_in_order(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "source.mp4")
    target = tmp_path / "out.mp4"
    options = (("x264-params", "bframes=3:b-adapt=0"),)
    times = [Fraction(n, 25) for n in range(20)]
    write_between(target, source, times, 4, 1, encoder_options=options)
    with av.open(str(target)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        decoded = [media.read_number(f.to_ndarray(format="rgb24")) for f in av.open(str(target)).decode(video=0)]
    assert any(a.pts > b.pts for a, b in itertools.pairwise(packets) if a.pts and b.pts)
    assert decoded == list(range(77))


@pytest.mark.parametrize("codec", ["libx265", "libvpx-vp9", "libsvtav1", "prores_ks", "ffv1"])
def test_other_encoders_at_high_rates(tmp_path: Path, codec: str) -> None:
    source = media.clip(tmp_path / "source.mp4")
    ending = {"prores_ks": "mov", "ffv1": "mkv"}.get(codec, "mp4")
    times = [Fraction(n, 25) for n in range(10)]
    write_between(tmp_path / f"out.{ending}", source, times, 8, 1, codec=codec)
    assert media.ffmpeg_framemd5(tmp_path / f"out.{ending}").times == between(times, 8)


def test_large_pictures_at_high_rates_get_a_level(tmp_path: Path) -> None:
    """1920 x 1080 at 480 frames a second is beyond level 5.2, whose limit is on macroblocks a second."""
    source = media.clip(tmp_path / "source.mp4", 2, 1920, 1080, rate="60")
    target = tmp_path / "out.mp4"
    info = probe(source)
    step = int(Fraction(1, 60) / info.time_base)
    from dataclasses import replace

    described = replace(info, time_base=info.time_base / 8, header_rate=Fraction(480))
    with Writer(
        plan_output(target, source, described, (1920, 1080), OutputConfig(preset="ultrafast"), InputConfig())
    ) as writer:
        for n in range(3):
            writer.write(Frame(torch.zeros(3, 1080, 1920), n * step, described.time_base, step))
        writer.commit()
    assert rates(target)[1] == 480 and writer.warnings == []
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.level >= 60


def test_rates_beyond_matroska_are_refused(tmp_path: Path) -> None:
    """Frames within a millisecond are moved to the next one, until they would be 20 ms late."""
    source = media.clip(tmp_path / "source.mp4", rate="240")
    times = [Fraction(n, 240) for n in range(12)]
    with pytest.raises(OutputError, match=r"write \.mp4"):
        write_between(tmp_path / "out.mkv", source, times, 8, 1)
    write_between(tmp_path / "out.mp4", source, times, 8, 1)
    assert media.ffmpeg_framemd5(tmp_path / "out.mp4").times == between(times, 8)
    assert rates(tmp_path / "out.mp4")[1] == 1920
