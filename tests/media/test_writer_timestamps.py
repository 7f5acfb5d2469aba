"""Timestamps of written files: variable rates, rounding, order, negative starts and last durations."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import media
from tests.support.writing import steps, write
from vidsr.config import OutputConfig
from vidsr.errors import OutputError
from vidsr.video.probe import probe
from vidsr.video.timestamps import to_ticks


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return media.clip(tmp_path / "film.mp4")


@pytest.mark.parametrize("codec", ["libx264", "libx265", "ffv1", "libsvtav1", "libvpx-vp9"])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_variable_rate_is_kept(tmp_path: Path, codec: str, ending: str) -> None:
    source = media.variable_rate(tmp_path / "source.mkv")
    target = tmp_path / f"out.{ending}"
    write(target, source, media.VARIABLE_TICKS, OutputConfig(codec=codec))
    listing = media.ffmpeg_framemd5(target)
    assert listing.times == [Fraction(tick, 1000) for tick in media.VARIABLE_TICKS]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, 200_000),
    gaps=st.lists(st.integers(1, 90_000), min_size=1, max_size=12),
    base=st.sampled_from([Fraction(1, 90_000), Fraction(1, 12_800), Fraction(1001, 30_000), Fraction(1, 1000)]),
)
def test_any_times_are_kept_in_mp4(tmp_path: Path, start: int, gaps: list[int], base: Fraction) -> None:
    source = media.clip_with_audio(tmp_path / "film.mp4")  # its audio begins at 0
    times = [start]
    for gap in gaps:
        times.append(times[-1] + gap)
    target = tmp_path / "out.mp4"
    write(target, source, times, OutputConfig(preset="ultrafast", overwrite=True), time_base=base)
    with av.open(str(target)) as container:
        stamps = sorted(p.pts * p.time_base for p in container.demux(video=0) if p.pts is not None)
    assert stamps == [tick * base for tick in times]


def test_matroska_rounds_to_milliseconds_and_says_so(clip: Path, tmp_path: Path) -> None:
    base = Fraction(1001, 30_000)
    writer = write(tmp_path / "out.mkv", clip, range(10), time_base=base)
    times = media.ffmpeg_framemd5(tmp_path / "out.mkv").times
    assert times == [Fraction(to_ticks(n * base, Fraction(1, 1000)), 1000) for n in range(10)]
    assert all(abs(time - n * base) <= Fraction(1, 2000) for n, time in enumerate(times))
    assert any("rounded to 1 ms" in warning for warning in writer.warnings)


@pytest.mark.parametrize("ending", ["mkv", "webm"])
def test_frames_within_one_unit_of_the_file_are_moved_and_said(clip: Path, tmp_path: Path, ending: str) -> None:
    ticks = [0, 3600, 3610, 7200, 7220, 7240, 10_800]
    codec = "libvpx-vp9" if ending == "webm" else "libx264"
    writer = write(tmp_path / f"out.{ending}", clip, ticks, OutputConfig(codec=codec), time_base=Fraction(1, 90_000))
    times = media.ffmpeg_framemd5(tmp_path / f"out.{ending}").times
    assert times == [Fraction(n, 1000) for n in (0, 40, 41, 80, 81, 82, 120)]
    assert any(warning.startswith("3 frames come less than 1 ms") for warning in writer.warnings)


def test_frames_much_faster_than_the_container_counts_are_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"write \.mp4"):
        write(tmp_path / "out.mkv", clip, range(60), time_base=Fraction(1, 90_000))
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4"}


def test_times_that_do_not_increase_are_refused(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not come after"):
        write(tmp_path / "out.mp4", clip, [0, 512, 512])


def test_late_start_is_kept(tmp_path: Path) -> None:
    source = media.late_start(tmp_path / "source.mp4")
    start = int(Fraction(3, 2) / probe(source).time_base)
    write(tmp_path / "out.mp4", source, steps(source, 20, start))
    assert media.ffmpeg_framemd5(tmp_path / "out.mp4").times[0] == Fraction(3, 2)
    assert media.ffmpeg_packetmd5(tmp_path / "out.mp4", "a:0").times[0] <= 0


def test_negative_start_moves_everything(clip: Path, tmp_path: Path) -> None:
    writer = write(tmp_path / "out.mp4", clip, steps(clip, 5, -512))
    assert media.ffmpeg_framemd5(tmp_path / "out.mp4").times == [Fraction(n, 25) for n in range(5)]
    assert any("before zero" in warning for warning in writer.warnings)


def test_last_duration_is_kept(clip: Path, tmp_path: Path) -> None:
    write(tmp_path / "out.mp4", clip, steps(clip, 5), last=512 * 3)
    assert media.ffmpeg_packetmd5(tmp_path / "out.mp4", "v:0").frames[-1].duration > 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        video = container.streams.video[0]
        assert video.duration is not None and video.time_base is not None
        assert video.duration * video.time_base == Fraction(4 + 3, 25)


@given(st.fractions(-1000, 1000), st.fractions(Fraction(1, 100_000), 1))
def test_ticks_are_the_nearest(seconds: Fraction, base: Fraction) -> None:
    assert abs(to_ticks(seconds, base) * base - seconds) <= base / 2
    assert to_ticks(-seconds, base) == -to_ticks(seconds, base)
