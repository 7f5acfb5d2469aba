"""Segments: joined without encoding again, they decode to the frames of each segment, at the times of the whole."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import media
from tests.support.writing import frames, steps
from vidsr.config import InputConfig, OutputConfig
from vidsr.errors import CheckError, OutputError
from vidsr.video.encoder import Codec
from vidsr.video.output import OutputPlan, plan_output
from vidsr.video.probe import probe
from vidsr.video.segments import JOINED_ENCODERS, Segment, SegmentWriter, decoding_times
from vidsr.video.writer import Writer

CODECS = {
    "libx264": ("mp4", "mkv"),
    "libx264rgb": ("mkv",),
    "libsvtav1": ("mp4", "webm"),
    "libvpx-vp9": ("webm", "mp4"),
    "libvpx": ("webm",),
    "ffv1": ("mkv",),
    "prores_ks": ("mov",),
    "mpeg4": ("mp4",),
}
# Below about 100 pixels x264's output depends on what the memory held before, unless its assembly is switched off.
SIZE = (128, 96)
BORDERS = (12, 13, 15)  # a segment of one frame, and one of two
COUNT = 22


def planned(target: Path, source: Path, **options: object) -> OutputPlan:
    info = probe(source)
    config = OutputConfig(**options)  # type: ignore[arg-type]
    return plan_output(target, source, info, SIZE, config, InputConfig())


def write_in_segments(plan: OutputPlan, times: list[int], folder: Path, borders: tuple[int, ...]) -> list[Segment]:
    folder.mkdir()
    found = []
    with SegmentWriter(plan, folder) as writer:
        for number, frame in enumerate(frames(times, plan.info.time_base, *plan.size)):
            if number in borders:
                found.append(writer.cut())
            writer.write(frame)
        writer.join(is_strict=True)
    return [segment for segment in found if segment is not None]


def md5s(path: Path) -> list[str]:
    return [frame.md5 for frame in media.ffmpeg_framemd5(path).frames]


def test_every_joined_encoder_is_tried() -> None:
    assert {name for name in JOINED_ENCODERS if "nvenc" not in name} == set(CODECS)


@pytest.mark.parametrize(("codec", "ending"), [(codec, ending) for codec in CODECS for ending in CODECS[codec]])
def test_joined_segments_decode_to_their_frames(tmp_path: Path, codec: str, ending: str) -> None:
    assert Codec(codec, "w")
    source = media.clip_with_audio(tmp_path / "in.mkv", COUNT, "libopus")
    audio = "none" if ending == "mov" else "copy"
    plan = planned(tmp_path / f"out.{ending}", source, codec=codec, audio=audio)
    times = steps(source, COUNT)
    write_in_segments(plan, times, tmp_path / "job", BORDERS)
    apart = []
    for first, last in pairwise((0, *BORDERS, COUNT)):
        alone = replace(plan, target=tmp_path / f"{first}.{ending}")
        with Writer(alone) as writer:
            for frame in list(frames(times, plan.info.time_base, *plan.size))[first:last]:
                writer.write(frame)
            writer.commit()
        apart += md5s(alone.target)
    listing = media.ffmpeg_framemd5(plan.target)
    assert [frame.md5 for frame in listing.frames] == apart and len(apart) == COUNT
    assert listing.times == [Fraction(n, 25) for n in range(COUNT)]
    with av.open(str(plan.target)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
        stamps = [(packet.dts, packet.pts or 0) for packet in packets if packet.dts is not None]
        assert all(a < b for (a, _), (b, _) in pairwise(stamps)) and all(dts <= pts for dts, pts in stamps)
        assert len(stamps) >= COUNT - 4  # FFmpeg leaves out the first ones of Matroska
        keys = {packet.pts * packet.time_base for packet in packets if packet.is_keyframe and packet.pts is not None}
        assert {Fraction(number, 25) for number in (0, *BORDERS)} <= keys
        # A player that jumps to a border shows its frame.
        container.seek(round(Fraction(BORDERS[1], 25) * av.time_base))
        shown = next(frame for frame in container.decode(video=0) if frame.time >= BORDERS[1] / 25 - 0.001)
        assert media.read_number(shown.to_ndarray(format="rgb24")) == BORDERS[1]
    if ending != "mov":
        copied, original = (media.ffmpeg_packetmd5(path, "a:0") for path in (plan.target, source))
        assert [frame.md5 for frame in copied.frames] == [frame.md5 for frame in original.frames]


def test_one_segment_is_the_file_of_the_plain_writer(tmp_path: Path) -> None:
    """Also of a variable frame rate, where x264 chooses decoding times of its own."""
    source = media.variable_rate(tmp_path / "in.mkv")
    times = [int(time / probe(source).time_base) for time in media.ffmpeg_framemd5(source).times]
    write_in_segments(planned(tmp_path / "one.mp4", source), times, tmp_path / "job", ())
    write_in_segments(planned(tmp_path / "many.mp4", source), times, tmp_path / "jobs", (3, 7, 8))
    with Writer(planned(tmp_path / "plain.mp4", source)) as writer:
        for frame in frames(times, probe(source).time_base, *SIZE):
            writer.write(frame)
        writer.commit()
    one, plain, many = (media.ffmpeg_framemd5(tmp_path / f"{name}.mp4") for name in ("one", "plain", "many"))
    # MP4 stores durations as distances of decoding times, which x264 chooses differently.
    assert [frame.md5 for frame in one.frames] == [frame.md5 for frame in plain.frames]
    assert one.times == many.times == plain.times


def test_a_writer_goes_on_after_the_finished_segments(tmp_path: Path) -> None:
    source = media.clip_with_audio(tmp_path / "in.mkv", COUNT)
    times, base = steps(source, COUNT), probe(source).time_base
    write_in_segments(planned(tmp_path / "whole.mkv", source), times, tmp_path / "whole", (9,))
    plan, folder = planned(tmp_path / "out.mkv", source), tmp_path / "job"
    folder.mkdir()
    pictures = list(frames(times, base, *SIZE))
    with SegmentWriter(plan, folder) as writer:
        for frame in pictures[:9]:
            writer.write(frame)
        segment = writer.cut()
        state = writer.state
        assert writer.cut() is None and segment is not None and segment.is_intact(folder) and writer.frames == 9
        writer.write(pictures[9])
    assert [path.name for path in folder.iterdir()] == [segment.name] and not plan.target.exists()
    with SegmentWriter(plan, folder, state) as writer:
        for frame in pictures[9:]:
            writer.write(frame)
        writer.join()
    for stream in ("v:0", "a:0"):
        assert media.ffmpeg_packetmd5(plan.target, stream) == media.ffmpeg_packetmd5(tmp_path / "whole.mkv", stream)


@pytest.mark.parametrize("place", [0, 20, 60, -1])
def test_a_flipped_bit_in_a_segment_is_noticed(tmp_path: Path, place: int) -> None:
    source = media.clip(tmp_path / "in.mkv", 6)
    plan, folder = planned(tmp_path / "out.mkv", source, codec="ffv1"), tmp_path / "job"
    folder.mkdir()
    with SegmentWriter(plan, folder) as writer:
        for frame in frames(steps(source, 6), plan.info.time_base, *SIZE):
            writer.write(frame)
        segment = writer.cut()
        assert segment is not None
        data = bytearray((folder / segment.name).read_bytes())
        data[place] ^= 4
        (folder / segment.name).write_bytes(data)
        assert not segment.is_intact(folder)
        with pytest.raises((CheckError, OutputError)):
            writer.join()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mkv", "job"]


def test_there_has_to_be_a_frame(tmp_path: Path) -> None:
    source = media.clip(tmp_path / "in.mkv", 6)
    with SegmentWriter(planned(tmp_path / "out.mkv", source), tmp_path) as writer, pytest.raises(OutputError):
        writer.join()


@given(st.lists(st.permutations(range(4)), min_size=1, max_size=6), st.integers(1, 5))
def test_decoding_times_increase_and_come_first(groups: list[list[int]], step: int) -> None:
    shown = [10 * step * (4 * number + place) + place * place for number, group in enumerate(groups) for place in group]
    decoded = list(decoding_times(shown, step))
    assert all(a < b for a, b in pairwise(decoded)) and all(a <= b for a, b in zip(decoded, shown, strict=True))
    assert any(a == b for a, b in zip(decoded, shown, strict=True))
