"""Clocks that begin at hours or jump: results begin at 0 and run on, with audio beside video."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support import media
from vidsr.config import ComputeConfig, InputConfig, OutputConfig, SizeConfig, UpscaleConfig
from vidsr.pipeline.run import enhance
from vidsr.types import ClockShift
from vidsr.video.clock import Clock, find_jumps
from vidsr.video.probe import Source, probe

BICUBIC = UpscaleConfig(
    compute=ComputeConfig(model="bicubic"), size=SizeConfig(scale=1), output=OutputConfig(preset="ultrafast")
)


@dataclass(frozen=True)
class Heard:
    """Times of the frames, their numbers, and where the audio begins, ends, and changes its tone; seconds."""

    times: list[Fraction]
    numbers: list[int]
    begin: Fraction
    end: Fraction
    tones: list[tuple[Fraction, int]]


def play(path: Path) -> Heard:
    """What the file shows and plays, with the times of its packets; tones are measured in windows of 20 ms."""
    with av.open(str(path)) as container:
        frames = [
            (frame.pts * frame.time_base, frame.to_ndarray(format="rgb24")) for frame in container.decode(video=0)
        ]
    pieces: list[tuple[Fraction, np.ndarray[Any, Any]]] = []
    with av.open(str(path)) as container:
        rate = container.streams.audio[0].rate
        for frame in container.decode(audio=0):
            pieces.append((frame.pts * frame.time_base, frame.to_ndarray()[0]))
    window, tones = rate // 50, []
    for time, samples in pieces:
        for start in range(0, len(samples) - window + 1, window):
            part = samples[start : start + window]
            if np.abs(part).max() < 0.05:
                continue
            tone = (
                round(float(np.fft.rfft(part * np.hanning(window), 4800).__abs__().argmax()) * rate / 4800 / 220) * 220
            )
            if not tones or tones[-1][1] != tone:
                tones.append((time + Fraction(start, rate), tone))
    end = pieces[-1][0] + Fraction(len(pieces[-1][1]), rate)
    return Heard([t for t, _ in frames], [media.read_number(i) for _, i in frames], pieces[0][0], end, tones)


# ------------------------------------------------------------------------------------------ clocks at a start


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    clock=st.fractions(Fraction(1), Fraction(90_000), max_denominator=90_000),
    delay=st.sampled_from([Fraction(n, 1000) for n in (-900, -250, -40, 0, 30, 400, 2500)]),
    ending=st.sampled_from(["mp4", "mkv"]),
)
def test_the_first_stream_begins_at_0_and_delays_stay(
    tmp_path: Path, clock: Fraction, delay: Fraction, ending: str
) -> None:
    source = media.recording(tmp_path / "source.ts", clock, delay)
    before = play(source)
    target = tmp_path / f"out.{ending}"
    enhance(source, target, replace(BICUBIC, output=replace(BICUBIC.output, overwrite=True)))
    after = play(target)
    assert after.numbers == list(range(20))
    assert 0 <= min(after.times[0], after.begin) <= Fraction(1, 900)
    found, wanted = after.begin - after.times[0], before.begin - before.times[0]
    assert abs(found - wanted) <= Fraction(2, 1000)
    assert abs(wanted - delay) < Fraction(1, 30)  # the source is as it was asked for, up to the delay of the encoder


@pytest.mark.parametrize("ending", ["ts", "mpg", "mkv", "flv"])
def test_a_clock_at_hours_in_any_container(tmp_path: Path, ending: str) -> None:
    plain = media.clip_with_audio(tmp_path / "plain.mp4")
    source = tmp_path / f"source.{ending}"
    codecs = ("-c:v", "mpeg2video", "-c:a", "mp2") if ending == "mpg" else ("-c", "copy")
    media.ffmpeg("-i", f"file:{plain}", *codecs, "-output_ts_offset", "7200", "-muxdelay", "0", f"file:{source}")
    report = enhance(source, tmp_path / "out.mp4", BICUBIC)
    after = play(tmp_path / "out.mp4")
    assert min(after.times[0], after.begin) < Fraction(1, 100)
    assert after.times[-1] < 1
    assert after.end < Fraction(11, 10)
    assert report.duration_seconds == pytest.approx(0.8)
    given, copied = (media.ffmpeg_packetmd5(path, "a:0").frames for path in (source, tmp_path / "out.mp4"))
    assert len(copied) == len(given)  # also the first one, which holds the delay of the encoder and begins before 0


def test_audio_that_is_left_out_does_not_delay_the_video(tmp_path: Path) -> None:
    source = media.recording(tmp_path / "source.ts", Fraction(1000), Fraction(-1, 2))
    enhance(source, tmp_path / "out.mp4", replace(BICUBIC, output=replace(BICUBIC.output, audio="none")))
    assert media.ffmpeg_framemd5(tmp_path / "out.mp4").times[0] == 0


def test_subtitles_and_chapters_move_with_the_clock(tmp_path: Path) -> None:
    plain, source = media.subtitled(tmp_path / "plain.mkv"), tmp_path / "source.mkv"
    chapters = tmp_path / "chapters.txt"
    times = "TIMEBASE=1/1000\nSTART={}\nEND={}\n"  # the option of FFmpeg below leaves chapters where they are
    text = ";FFMETADATA1\n" + "".join("[CHAPTER]\n" + times.format(n, n + 400) for n in (100_000, 100_400))
    chapters.write_text(text)
    inputs = ("-i", f"file:{plain}", "-i", f"file:{chapters}", "-map", "0", "-map_chapters", "1", "-c", "copy")
    media.ffmpeg(*inputs, "-output_ts_offset", "100", f"file:{source}")
    enhance(source, tmp_path / "out.mkv", BICUBIC)
    assert media.ffmpeg_packetmd5(tmp_path / "out.mkv", "s:0").times == [Fraction(1, 10), Fraction(1, 2)]
    with av.open(str(source)) as before, av.open(str(tmp_path / "out.mkv")) as after:
        assert before.streams.video[0].start_time == 100_000
        assert [float(c["start"] * c["time_base"]) for c in before.chapters()] == [100, 100.4]
        assert [float(c["start"] * c["time_base"]) for c in after.chapters()] == [0, 0.4]


# ------------------------------------------------------------------------------------------ clocks that jump


@pytest.mark.parametrize("clocks", [(100, 10), (10, 100), (95_400, 3), (5, 5), (50, 20, 7000), (60, 30, 10)])
@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_joined_recordings_run_on_with_audio_in_sync(tmp_path: Path, clocks: tuple[int, ...], ending: str) -> None:
    parts = [
        media.recording(tmp_path / f"{n}.ts", Fraction(clock), tone=440 * (n + 1)) for n, clock in enumerate(clocks)
    ]
    source = media.joined(tmp_path / "source.ts", parts)
    report = enhance(source, tmp_path / f"out.{ending}", BICUBIC)
    after = play(tmp_path / f"out.{ending}")
    count = len(clocks)
    assert after.numbers == list(range(20)) * count
    steps = np.diff([float(time) for time in after.times])
    assert steps.min() > 0.03
    assert steps.max() < 0.12
    assert float(after.times[-1]) == pytest.approx(0.8 * count, abs=0.05 * count)
    tones = [(time, tone) for time, tone in after.tones if tone in {440 * (n + 1) for n in range(count)}]
    for number in range(count):
        begin = next(time for time, tone in tones if tone == 440 * (number + 1))
        assert abs(begin - after.times[20 * number]) < Fraction(1, 20)
    said = [warning for warning in report.warnings if "clock of the file jumps" in warning]
    assert len(said) == 1
    assert f"{count - 1} places" in said[0] or count == 2


@pytest.mark.parametrize("ending", ["mpg", "mkv", "ogg"])
def test_other_joined_containers_run_on(tmp_path: Path, ending: str) -> None:
    plain, part = media.clip_with_audio(tmp_path / "plain.mp4"), tmp_path / f"part.{ending}"
    codecs = {"mpg": ("mpeg2video", "mp2"), "mkv": ("copy", "copy"), "ogg": ("libtheora", "libvorbis")}[ending]
    media.ffmpeg("-i", f"file:{plain}", "-c:v", codecs[0], "-c:a", codecs[1], f"file:{part}")
    source = media.joined(tmp_path / f"source.{ending}", [part, part])
    enhance(source, tmp_path / "out.mp4", BICUBIC)
    after = play(tmp_path / "out.mp4")
    assert len(after.times) == 40
    assert float(after.times[-1]) == pytest.approx(1.6, abs=0.1)
    assert float(after.end) == pytest.approx(1.6, abs=0.15)


def test_trimming_past_a_jump(tmp_path: Path) -> None:
    parts = [
        media.recording(tmp_path / "a.ts", Fraction(100)),
        media.recording(tmp_path / "b.ts", Fraction(10), tone=880),
    ]
    source = media.joined(tmp_path / "source.ts", parts)
    trim = InputConfig(start=Fraction(12, 10), end=Fraction(14, 10))
    enhance(source, tmp_path / "out.mp4", replace(BICUBIC, input=trim))
    after = play(tmp_path / "out.mp4")
    assert after.times[0] == 0
    assert after.numbers[0] in (9, 10)
    assert len(after.numbers) == 5
    assert {tone for _, tone in after.tones} == {880}


def test_gaps_of_one_stream_are_no_jumps(tmp_path: Path) -> None:
    """Video that pauses for 15 s while the audio goes on stays where it is."""
    plain, source = media.clip_with_audio(tmp_path / "plain.mp4", count=20), tmp_path / "source.ts"
    sound = ("-f", "lavfi", "-i", "sine=440:duration=17", "-map", "0:v", "-map", "1:a", "-c:a", "aac", *media.X264)
    pause = ("-vf", "setpts=PTS+gte(N\\,10)*15/TB", "-fps_mode", "passthrough", "-bf", "0")
    media.ffmpeg("-i", f"file:{plain}", *sound, *pause, f"file:{source}")
    assert Source(source).with_clock(probe(source)).clock == ()
    enhance(source, tmp_path / "out.mp4", BICUBIC)
    times = media.ffmpeg_framemd5(tmp_path / "out.mp4").times
    assert times[10] - times[9] == pytest.approx(15.04, abs=0.01)


# ------------------------------------------------------------------------------------------ the parts


def test_stray_packets_do_not_move_the_rest(tmp_path: Path) -> None:
    source = media.recording(tmp_path / "source.ts", Fraction(100), count=40)
    with av.open(str(source)) as container:
        packets = [packet for packet in container.demux() if packet.size]
        strays = [n for n, packet in enumerate(packets) if packet.stream_index == 1][5]
        packets[strays].dts -= 30 * 90_000
        packets[strays].pts -= 30 * 90_000
        shifts, _ = find_jumps(_Packets(container, packets), 0)
    amounts = [shift.seconds for shift in shifts]
    assert [shift.stream for shift in shifts] == [1, 1]
    assert float(amounts[0]) == pytest.approx(30, abs=0.05)
    assert amounts[1] == 0


def test_shifts_are_counted_in_packets_of_their_stream() -> None:
    clock = Clock([ClockShift(0, 2, Fraction(10), 0.0), ClockShift(0, 3, Fraction(20), 0.0)])
    stamps = []
    for number in range(4):
        packet = _Numbered(0, number)
        clock.correct(packet)  # type: ignore[arg-type]
        stamps.append(packet.pts)
        clock.correct(_Numbered(1, number))  # type: ignore[arg-type]
    assert stamps == [0, 1, 1002, 2003]


class _Packets:
    """An open file with other packets."""

    def __init__(self, container: Any, packets: list[Any]) -> None:
        self.streams, self._packets = container.streams, packets

    def demux(self) -> Iterable[Any]:
        return iter(self._packets)


class _Numbered:
    time_base = Fraction(1, 100)

    def __init__(self, stream: int, number: int) -> None:
        self.stream_index, self.pts, self.dts = stream, number, number


def test_absurd_times_are_damage(tmp_path: Path) -> None:
    """A time that does not fit in the output's ticks must neither end the run nor make a video of centuries."""
    vp8 = ("-c:v", "libvpx", "-b:v", "400k", "-cpu-used", "8")
    path = media.clip(tmp_path / "a.ivf", 4, options=vp8)
    data = bytearray(path.read_bytes())
    second = 32 + 12 + int.from_bytes(data[32:36], "little")
    data[second + 4 : second + 12] = (-0x1F00000000000000).to_bytes(8, "little", signed=True)
    path.write_bytes(data)
    for ending in ("mp4", "mkv"):
        report = enhance(path, tmp_path / f"b.{ending}", BICUBIC)
        assert report.frames_out == 4
        assert any("is more than" in damage.reason for damage in report.damages)
        times = media.ffmpeg_framemd5(tmp_path / f"b.{ending}").times
        assert [round(time * 25) for time in times] == [0, 1, 2, 3]
